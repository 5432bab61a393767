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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Budget, DistilledSet

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

    def empty(self, budget: Budget) -> Tensor:
        """Room for the instances of the budget, (clips, T, C, H, W) uint8."""
        return torch.zeros((budget.clips, *budget.clip_shape), dtype=torch.uint8)

    def place(self, storage: Tensor, clips: Tensor, first: int) -> None:
        """Write clips (B, T, C, H, W) uint8, which are the videos number first, first + 1, ..., into the instances they belong to."""
        frames, _, height, width = storage.shape[1:]
        for s, clip in enumerate(clips, start=first):
            instance, j = storage[s // self.compose], s % self.compose
            if self.layout == "time":
                run = part(frames, self.compose, j)
                instance[run] = clip[run]
            else:
                rows, columns = part(height, self.side, j // self.side), part(width, self.side, j % self.side)
                tile = instance[:, :, rows, columns]
                tile.copy_(resize(clip, tile.shape[-2], tile.shape[-1]))

    def clips_of(self, instances: Tensor) -> Tensor:
        """The clips that a network is trained on, of composed instances (N, T, C, H, W)."""
        return self.materialise({MOSAICS: instances}) if self.is_mosaic else instances

    def stored(self, instances: Tensor, labels: Tensor, soft_labels: Tensor | None = None) -> DistilledSet:
        """The set of composed instances with labels (N,); soft_labels of the clips of ``clips_of``, whose number they have."""
        if not self.is_mosaic:
            return DistilledSet.of_clips(instances, labels, soft_labels)
        return DistilledSet({MOSAICS: instances}, labels.repeat_interleave(self.compose), soft_labels)

    def materialise(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tiles of all mosaics, each resized to the full frame: (N * compose, T, C, H, W) uint8."""
        mosaics = tensors[MOSAICS]
        n, _, _, height, width = mosaics.shape
        clips = mosaics.new_empty((n * self.compose, *mosaics.shape[1:]))
        for i, mosaic in enumerate(mosaics):
            for j in range(self.compose):
                tile = mosaic[:, :, part(height, self.side, j // self.side), part(width, self.side, j % self.side)]
                clips[i * self.compose + j] = resize(tile, height, width)
        return clips


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
