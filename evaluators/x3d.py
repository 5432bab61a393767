"""X3D-S/M: a small network expanded along width, depth and time (Feichtenhofer, CVPR 2020; pytorchvideo's model zoo, from scratch).

3.79 million parameters for 400 classes. Clips below 8x43x43 get half of the width and one to four blocks a stage. Only
``pytorchvideo.models`` is imported, and only when a network is built: see ``evaluators/pooled.py``.
"""

from __future__ import annotations

from torch import Tensor, nn

from evaluators.sizes import is_small, too_small
from harness import evaluator


@evaluator("x3d")
class X3D:
    """X3D-S/M: a network expanded along width, depth and time, with few parameters (Feichtenhofer 2020)."""

    width: float = 0
    """Factor on the width; 0: 2 as published, 1 for clips below 8x43x43."""
    depth: float = 0
    """Factor on the depth; 0: 2.2 as published, 0.5 (one to four blocks a stage) for clips below 8x43x43."""

    def __post_init__(self) -> None:
        if self.width < 0 or self.depth < 0:
            raise ValueError(f"width and depth must be 0 or more, got width={self.width}, depth={self.depth}")

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small("x3d", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        small = is_small(clip_shape)
        return X3DNet(clip_shape, classes, self.width or (1.0 if small else 2.0), self.depth or (0.5 if small else 2.2))


class X3DNet(nn.Module):
    """X3D with its own head: expansion to 2.25 times the channels, pooling, 2,048 features."""

    def __init__(self, clip_shape: tuple[int, int, int, int], classes: int, width: float, depth: float) -> None:
        from pytorchvideo.models.x3d import create_x3d

        super().__init__()
        t, c, h, w = clip_shape
        net = create_x3d(
            input_channel=c,
            input_clip_length=t,
            input_crop_size=max(32, min(h, w)),  # decides the pooling alone, which is replaced below
            model_num_class=classes,
            width_factor=width,
            depth_factor=depth,
            inner_act=nn.SiLU,  # its own Swish uses an autograd interface that torch has deprecated
            head_activation=None,
        )
        self.blocks, head = net.blocks[:-1], net.blocks[-1]
        self.pool = head.pool
        self.pool.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(0.5)
        self.head = head.proj

    def embed(self, clips: Tensor) -> Tensor:
        """Output of the head's first layer, (B, 2048)."""
        x = clips.transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.pool(x).flatten(1)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(clips)))
