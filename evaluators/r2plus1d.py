"""R(2+1)D-50: every 3-D convolution factored into one over space and one over time (Tran et al., CVPR 2018; pytorchvideo's model zoo).

28.11 million parameters for 400 classes.
"""

from __future__ import annotations

from torch import nn

from evaluators.pooled import Pooled, check_size, stem_width
from evaluators.sizes import too_small
from harness import evaluator


@evaluator("r2plus1d")
class R2Plus1D:
    """R(2+1)D-50: convolutions factored into space and time (Tran et al. 2018)."""

    width: int = 0
    """Channels of the stem; 0: 64 as published, 16 for clips below 8x43x43."""
    depth: int = 0
    """Residual stages kept, 1 to 4; 0: all 4, and 2 of one block each for clips below 8x43x43."""

    def __post_init__(self) -> None:
        check_size(self.width, self.depth)

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small("r2plus1d", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        from pytorchvideo.models.r2plus1d import create_r2plus1d

        net = create_r2plus1d(input_channel=clip_shape[1], stem_dim_out=stem_width(self.width, clip_shape), dropout_rate=0.5)
        return Pooled(list(net.blocks[:-1]), clip_shape, classes, self.depth)
