"""SlowFast-R50: two residual pathways at two frame rates (Feichtenhofer et al., ICCV 2019; pytorchvideo's model zoo).

The slow pathway sees every fourth frame, the fast one all frames with an eighth of the channels; the fast one feeds the slow one after
every stage. 34.57 million parameters for 400 classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.pooled import check_size, kept_stages, last_channels, stem_width
from evaluators.sizes import too_small
from harness import evaluator

ALPHA = 4
"""Frames of the fast pathway for one of the slow."""


@evaluator("slowfast")
class SlowFast:
    """SlowFast-R50: a slow pathway of every fourth frame and a narrow one of all frames (Feichtenhofer et al. 2019)."""

    width: int = 0
    """Channels of the slow stem, a multiple of 8; 0: 64 as published, 16 for clips below 8x43x43."""
    depth: int = 0
    """Residual stages kept, 1 to 4; 0: all 4, and 2 of one block each for clips below 8x43x43."""

    def __post_init__(self) -> None:
        check_size(self.width, self.depth)
        if self.width % 8:
            raise ValueError(f"width must be a multiple of 8, got {self.width}")

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small("slowfast", clip_shape, frames=ALPHA + 1)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        from pytorchvideo.models.slowfast import create_slowfast

        width = stem_width(self.width, clip_shape)
        net = create_slowfast(input_channels=(clip_shape[1],) * 2, stem_dim_outs=(width, width // 8))
        # Stem, four stages, pooling, head: the last two are replaced.
        return SlowFastNet(list(net.blocks[:-2]), clip_shape, classes, self.depth)


class SlowFastNet(nn.Module):
    """Two pathways, pooled apart and concatenated; dropout 0.5 and a linear classifier."""

    def __init__(self, blocks: Sequence[nn.Module], clip_shape: tuple[int, int, int, int], classes: int, depth: int) -> None:
        super().__init__()
        self.blocks = kept_stages(blocks, clip_shape, depth)
        last: Any = self.blocks[-1]
        channels = sum(last_channels(path) for path in last.multipathway_blocks)
        # The last stage that is kept hands its pathways to the pooling, without another fusion.
        last.multipathway_fusion = nn.Identity()
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(channels, classes)

    def embed(self, clips: Tensor) -> Tensor:
        """Features of both pathways averaged over time and space, (B, D)."""
        fast = clips.transpose(1, 2)
        x = [fast[:, :, ::ALPHA], fast]
        for block in self.blocks:
            x = block(x)
        return torch.cat([path.mean(dim=(2, 3, 4)) for path in x], 1)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(clips)))
