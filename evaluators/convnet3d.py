"""ConvNet3D ("MiniC3D"): three 3-D convolutions and a 1x1x1 head, the field's default evaluator (VDSD, CVPR 2024).

For clips of at least 8 frames and 43 pixels with the default parameters this is the released network, layer by layer: kernels (3, 7, 7),
spatial stride 2 and max pooling in each of three stages of 64, 128 and 128 channels, no normalisation; average pooling, dropout 0.5, a
1x1x1 convolution to the classes, and the maximum over the time positions that are left. 3,647,666 parameters for 50 classes, 5.5 GMAC for
16x3x112x112, 2,048 features.

Smaller clips would vanish in it (32 pixels are 1 after stage 2). They get the same three stages with kernels (3, 3, 3) and stride 1, and
pooling by 2 in time only where 2 frames or more are left for it: the first stage alone keeps kernel (3, 5, 5) and stride 2. A quarter of
the channels is the default there.
"""

from __future__ import annotations

from torch import Tensor, nn

from evaluators.sizes import is_small, too_small
from harness import evaluator


@evaluator("convnet3d")
class ConvNet3DEvaluator:
    """ConvNet3D / MiniC3D: three 3-D convolutions without normalisation, the field's default."""

    width: int = 0
    """Channels of the first stage, the others have twice as many; 0: 64 as released, 16 for clips below 8x43x43."""
    depth: int = 3
    """Convolution stages, 1 to 4."""
    dropout: float = 0.5
    """Dropout before the head."""

    def __post_init__(self) -> None:
        if self.width < 0 or not 1 <= self.depth <= 4:
            raise ValueError(f"width must be 0 or more and depth 1 to 4, got width={self.width}, depth={self.depth}")

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small("convnet3d", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        width = self.width or (16 if is_small(clip_shape) else 64)
        return ConvNet3D(clip_shape, classes, width, self.depth, self.dropout)


class ConvNet3D(nn.Module):
    """Normalised clips (B, T, C, H, W) -> logits (B, classes)."""

    def __init__(self, clip_shape: tuple[int, int, int, int], classes: int, width: int = 64, depth: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        t, c, h, w = clip_shape
        exact = not is_small(clip_shape) and depth <= 3
        size = (t, h, w)
        stages: list[nn.Module] = []
        for i in range(depth):
            out = width if i == 0 else 2 * width
            if exact:
                kernel, stride = (3, 7, 7), (1, 2, 2)
            else:
                kernel, stride = ((3, 5, 5), (1, 2, 2)) if i == 0 else ((3, 3, 3), (1, 1, 1))
            padding = tuple(k // 2 for k in kernel)
            size = tuple((n - 1) // s + 1 for n, s in zip(size, stride, strict=True))  # type: ignore[assignment]
            # The first pooling leaves time alone; a small clip is never pooled away.
            pool = tuple(min(k, n) for k, n in zip((1, 2, 2) if i == 0 else (2, 2, 2), size, strict=True))
            size = tuple(n // k for n, k in zip(size, pool, strict=True))  # type: ignore[assignment]
            # The ReLU of the maximum is the maximum of the ReLUs, at a quarter or an eighth of the places.
            stages += [nn.Conv3d(c, out, kernel, stride, padding), nn.MaxPool3d(pool, pool), nn.ReLU(inplace=True)]  # type: ignore[arg-type]
            c = out
        self.stages = nn.Sequential(*stages)
        head = (2, 2, 2) if h > 64 else (2, 1, 1)
        self.head_pool = nn.AvgPool3d(tuple(min(k, n) for k, n in zip(head, size, strict=True)), stride=1)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv3d(c, classes, 1)

    def embed(self, clips: Tensor) -> Tensor:
        """Flattened output of the last stage, (B, D): what distribution matching and selection methods use."""
        return self._features(clips).flatten(1)

    def forward(self, clips: Tensor) -> Tensor:
        x = self.head(self.dropout(self.head_pool(self._features(clips))))
        # One place is left where the field uses it; at other sizes space is averaged, then the maximum over time is taken.
        return x.mean(dim=(3, 4)).amax(dim=2)

    def _features(self, clips: Tensor) -> Tensor:
        return self.stages(clips.transpose(1, 2))
