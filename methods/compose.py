"""Multi-video instance composition (MVIC): one instance of the budget carries several videos of its class. Shared by every method.

The idea is GVD's (arXiv 2507.22360); how its authors lay videos out is not known. Two layouts of our own:

- time: with n videos of F frames, video j gives its frames from j F / n to (j + 1) F / n, in their own places. The instance is trained on
  as it is.
- grid: n = g x g videos lie side by side, each at 1 / g of its height and width, with all of its frames. Where the set is made into clips
  every tile is resized to the full frame, bilinear, and is a training clip of its own, as the crops of RDED's mosaics are (Sun et al.,
  CVPR 2024, for images). A side that g does not divide gives tiles that differ by a pixel.

An instance costs one clip of the budget, whatever it carries, and an evaluator takes the steps of the budget's clips. Whether composition
or the method is what helps is told by the same method beside a simple one that composes too:

    python -m harness run --methods 'gvd[layout=grid,compose=4],random[layout=grid,compose=4],random' --ipc 1,5,10
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Budget, ClipWriter, Context, DistilledSet

MOSAICS = "mosaics"
"""What a set of grids is stored as: (N, T, C, H, W) uint8."""


@dataclass(frozen=True)
class Composed:
    """The parameters and functions of a method that composes. Videos come in order: s is video s % compose of instance s // compose."""

    compose: int = 1
    """Videos of a class that share one instance of the budget (MVIC); 1: off. A grid takes 4, 9, 16 ..."""
    layout: Literal["time", "grid"] = "time"
    """How they share it: runs of frames of each in turn, or all frames of each, small and side by side, to be trained on one by one."""

    def __post_init__(self) -> None:
        if self.compose < 1:
            raise ValueError(f"compose must be at least 1, got {self.compose}")
        if self.layout == "grid" and self.side**2 != self.compose:
            raise ValueError(f"compose must be a square (1, 4, 9 ...) for layout=grid, got {self.compose}")

    @property
    def side(self) -> int:
        """Videos along a side of a grid."""
        return math.isqrt(self.compose)

    @property
    def is_mosaic(self) -> bool:
        """Whether instances must be cut into the clips that a network is trained on."""
        return self.layout == "grid" and self.compose > 1

    def unfit(self, budget: Budget) -> str | None:
        """Why so many videos do not fit into an instance, or None."""
        frames, _, height, width = budget.clip_shape
        if self.layout == "time" and self.compose > frames:
            return f"compose={self.compose} videos do not fit into {frames} frames"
        if self.layout == "grid" and self.side > min(height, width):
            return f"compose={self.compose} videos do not fit into {height}x{width} pixels"
        return None

    def room(self, budget: Budget, context: Context) -> ClipWriter:
        """Room for the instances of the budget, which notes what is written video by video."""
        return context.writer(budget.clips, budget.clip_shape, self.compose)

    def place(self, instances: ClipWriter, clips: Tensor, first: int) -> None:
        """Write clips (B, T, C, H, W) uint8, which are the videos number first, first + 1, ..., into the instances they belong to."""
        for s, clip in enumerate(clips, start=first):
            instance, j = instances.rows[s // self.compose], s % self.compose
            if self.layout == "time":
                run = part(len(instance), self.compose, j)
                instance[run] = clip[run]
            else:
                tile = self._tile(instance, j)
                tile.copy_(resize(clip, tile.shape[-2], tile.shape[-1]))
        instances.note(first, len(clips))

    def clips_of(self, instances: ClipWriter) -> Videos:
        """The clips that a network is trained on, of composed instances, made when they are asked for."""
        return Videos(self, instances)

    def stored(self, instances: ClipWriter, labels: Tensor, soft_labels: Tensor | None = None) -> DistilledSet:
        """The set of composed instances with labels (N,); soft_labels of the clips of ``clips_of``, whose number they have."""
        if not self.is_mosaic:
            return DistilledSet.of_clips(instances, labels, soft_labels)
        return DistilledSet({MOSAICS: instances.whole()}, labels.repeat_interleave(self.compose), soft_labels)

    def materialise(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tiles of all mosaics, each resized to the full frame: (N * compose, T, C, H, W) uint8."""
        return self.materialise_rows(tensors, torch.arange(len(tensors[MOSAICS]) * self.compose))

    def materialise_rows(self, tensors: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """The tiles that are videos number rows (n,) alone."""
        mosaics = tensors[MOSAICS]
        clips = mosaics.new_empty((len(rows), *mosaics.shape[1:]))
        for clip, s in zip(clips, rows.tolist(), strict=True):
            clip.copy_(resize(self._tile(mosaics[s // self.compose], s % self.compose), *mosaics.shape[-2:]))
        return clips

    def _tile(self, mosaic: Tensor, j: int) -> Tensor:
        """Tile j of a mosaic (T, C, H, W)."""
        height, width = mosaic.shape[-2:]
        return mosaic[:, :, part(height, self.side, j // self.side), part(width, self.side, j % self.side)]


@dataclass(frozen=True)
class Videos:
    """The clips that a network is trained on, of composed instances that have been written."""

    composed: Composed
    instances: ClipWriter

    def __len__(self) -> int:
        return len(self.instances) * (self.composed.compose if self.composed.is_mosaic else 1)

    def clips(self, indices: Tensor | Sequence[int] | slice | None = None) -> Tensor:
        """Clips at these indices, (n, T, C, H, W) uint8; only their instances are read."""
        if not self.composed.is_mosaic:
            return self.instances.clips(indices)
        numbers, compose = torch.arange(len(self))[slice(None) if indices is None else indices], self.composed.compose
        rows, place = (numbers // compose).unique(return_inverse=True)
        return self.composed.materialise_rows({MOSAICS: self.instances.clips(rows)}, place * compose + numbers % compose)


def part(length: int, parts: int, j: int) -> slice:
    """Part j of that many of a length of frames or pixels.

    >>> [part(8, 3, j) for j in range(3)]
    [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
    """
    return slice(j * length // parts, (j + 1) * length // parts)


def resize(clip: Tensor, height: int, width: int) -> Tensor:
    """A clip (T, C, h, w) uint8 at another size, bilinear; a smaller one without aliasing."""
    if clip.shape[-2:] == (height, width):
        return clip
    resized = F.interpolate(clip.float(), size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
