"""What the residual networks of pytorchvideo.models share here: which stages are kept, and a head for clips of any size.

Each family is the network of pytorchvideo's model zoo (same blocks, strides and parameter counts), from scratch, with its global pooling
written for any clip size. ``width`` scales all channels and ``depth`` keeps the first stages; where they are 0, clips below 8x43x43 get a
quarter of the channels and two stages of one block each, all others the published network. Only ``pytorchvideo.models`` is imported, and
only when a network is built: the package is unmaintained, and its transforms no longer import on current torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from evaluators.sizes import is_small

STAGES = 4


def check_size(width: int, depth: int) -> None:
    """Raises ValueError where no network has this width or depth."""
    if width < 0 or not 0 <= depth <= STAGES:
        raise ValueError(f"width must be 0 or more and depth 0 to {STAGES}, got width={width}, depth={depth}")


def stem_width(width: int, clip_shape: tuple[int, int, int, int]) -> int:
    """Channels of the stem: ``width``, or where it is 0 the published 64, 16 for small clips."""
    return width or (16 if is_small(clip_shape) else 64)


def kept_stages(blocks: Sequence[nn.Module], clip_shape: tuple[int, int, int, int], depth: int) -> nn.ModuleList:
    """Stem and the first ``depth`` stages; where depth is 0, all of them, or for small clips two of one residual block each."""
    trim = depth == 0 and is_small(clip_shape)
    kept = nn.ModuleList(blocks[: 1 + (2 if trim else depth or STAGES)])
    if trim:
        for module in kept.modules():
            residual = getattr(module, "res_blocks", None)
            if residual is not None:
                module.res_blocks = residual[:1]
    return kept


def last_channels(block: nn.Module) -> int:
    """Channels that a block ends with: those of its last normalisation."""
    return [m.num_features for m in block.modules() if isinstance(m, nn.BatchNorm3d)][-1]


class Pooled(nn.Module):
    """A trunk of 3-D convolutions, global average pooling, dropout 0.5 and a linear classifier."""

    def __init__(self, blocks: Sequence[nn.Module], clip_shape: tuple[int, int, int, int], classes: int, depth: int) -> None:
        super().__init__()
        self.blocks = kept_stages(blocks, clip_shape, depth)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(last_channels(self.blocks[-1]), classes)

    def embed(self, clips: Tensor) -> Tensor:
        """Features averaged over time and space, (B, D)."""
        x = clips.transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x.mean(dim=(2, 3, 4))

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(clips)))
