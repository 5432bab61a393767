"""I3D on ResNet-50: a residual network whose convolutions are inflated to three dimensions (pytorchvideo's model zoo, from scratch).

The inflation is that of Carreira and Zisserman (CVPR 2017); 28.04 million parameters for 400 classes.
"""

from __future__ import annotations

from torch import nn

from evaluators.pooled import Pooled, check_size, stem_width
from evaluators.sizes import too_small
from harness import evaluator


@evaluator("i3d_r50")
class I3DR50:
    """I3D on ResNet-50: 3-D convolutions inflated from a residual network."""

    width: int = 0
    """Channels of the stem; 0: 64 as published, 16 for clips below 8x43x43."""
    depth: int = 0
    """Residual stages kept, 1 to 4; 0: all 4, and 2 of one block each for clips below 8x43x43."""

    def __post_init__(self) -> None:
        check_size(self.width, self.depth)

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small("i3d_r50", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        from pytorchvideo.models.resnet import create_resnet

        net = create_resnet(
            input_channel=clip_shape[1],
            stem_dim_out=stem_width(self.width, clip_shape),
            stem_conv_kernel_size=(5, 7, 7),
            stage1_pool=nn.MaxPool3d,
            stage_conv_a_kernel_size=(
                ((3, 1, 1),),
                ((3, 1, 1), (1, 1, 1)),
                ((3, 1, 1), (1, 1, 1)),
                ((1, 1, 1), (3, 1, 1)),
            ),
        )
        # Stem, stage 1, a pooling over time, stages 2 to 4, head.
        blocks = list(net.blocks[:-1])
        return Pooled([blocks[0], nn.Sequential(blocks[1], blocks[2]), *blocks[3:]], clip_shape, classes, self.depth)
