"""MiniC3D of Video-DC: the three convolutions of ConvNet3D with batch normalisation (arXiv 2412.21197; released code).

Each stage is a convolution of kernel (3, 7, 7) and spatial stride 2, batch normalisation, ReLU and max pooling, (1, 2, 2) in the first
stage and 2 in the others, with 64, 128 and 128 channels; then an average over time and space, dropout 0.5 and a linear classifier that
starts from a normal distribution of 0.01. Convolutions start as He et al. (2015) have it. 3,654,885 parameters for 101 classes.

Clips below 8x43x43 get the small form of ConvNet3D: a quarter of the channels, kernels (3, 3, 3) with stride 1 after the first stage,
which has kernel (3, 5, 5), and no pooling of a dimension that has one place left.
"""

from __future__ import annotations

from torch import Tensor, nn

from evaluators.sizes import is_small, too_small
from harness import evaluator


@evaluator("minic3d")
class MiniC3DEvaluator:
    """MiniC3D of Video-DC: ConvNet3D with batch normalisation and a linear head on the average."""

    width: int = 0
    """Channels of the first stage, the others have twice as many; 0: 64 as released, 16 for clips below 8x43x43."""
    dropout: float = 0.5
    """Dropout before the classifier."""

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError(f"width must be 0 or more, got {self.width}")

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small("minic3d", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        return MiniC3D(clip_shape, classes, self.width or (16 if is_small(clip_shape) else 64), self.dropout)


class MiniC3D(nn.Module):
    """Normalised clips (B, T, C, H, W) -> logits (B, classes)."""

    def __init__(self, clip_shape: tuple[int, int, int, int], classes: int, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        t, c, h, w = clip_shape
        size = (t, h, w)
        stages: list[nn.Module] = []
        for i, out in enumerate((width, 2 * width, 2 * width)):
            if not is_small(clip_shape):
                kernel, stride = (3, 7, 7), (1, 2, 2)
            else:
                kernel, stride = ((3, 5, 5), (1, 2, 2)) if i == 0 else ((3, 3, 3), (1, 1, 1))
            padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
            convolution = nn.Conv3d(c, out, kernel, stride, padding)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            size = tuple((n - 1) // s + 1 for n, s in zip(size, stride, strict=True))  # type: ignore[assignment]
            pool = tuple(min(k, n) for k, n in zip((1, 2, 2) if i == 0 else (2, 2, 2), size, strict=True))
            size = tuple(n // k for n, k in zip(size, pool, strict=True))  # type: ignore[assignment]
            # The ReLU of the maximum is the maximum of the ReLUs, at a quarter or an eighth of the places.
            stages += [convolution, nn.BatchNorm3d(out), nn.MaxPool3d(pool, pool), nn.ReLU(inplace=True)]  # type: ignore[arg-type]
            c = out
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(c, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def embed(self, clips: Tensor) -> Tensor:
        """Features averaged over time and space, (B, D): 128 in the released network."""
        return self.stages(clips.transpose(1, 2)).mean(dim=(2, 3, 4))

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(clips)))
