"""Multi-video instance composition (MVIC): one instance of the budget carries several videos of its class. Shared by every method.

The idea is GVD's (arXiv 2507.22360); how its authors lay videos out is not known. Four layouts of our own:

- time: with n videos of F frames, video j gives its frames from j F / n to (j + 1) F / n, in their own places. The instance is trained on
  as it is. The others are taken apart where the set is made into clips, and every video is a training clip of its own:
- grid: n = g x g videos lie side by side, each at 1 / g of its height and width, with all of its frames; resized to the full frame,
  bilinear, as the crops of RDED's mosaics are (Sun et al., CVPR 2024, for images). A side that g does not divide gives tiles that differ
  by a pixel.
- thin: n videos follow one another, each with F / n of its frames at even distances over its whole length; between them, linear.
- gray: n videos lie in the n colour channels, each as its luminance (ITU-R BT.601), which all channels of its clip get. Costs colour, and
  nothing where there is none.

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
"""What a set whose instances are taken apart is stored as: (N, T, C, H, W) uint8."""


@dataclass(frozen=True)
class Composed:
    """The parameters and functions of a method that composes. Videos come in order: s is video s % compose of instance s // compose."""

    compose: int = 1
    """Videos of a class that share one instance of the budget (MVIC); 1: off. A grid takes 4, 9, 16 ..."""
    layout: Literal["time", "grid", "thin", "gray"] = "time"
    """How they share it: time: runs of frames of each in turn. The others are trained on one by one: grid: side by side, small; thin: some
    frames of each, over its whole length; gray: a colour channel each."""

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
        return self.layout != "time" and self.compose > 1

    def unfit(self, budget: Budget) -> str | None:
        """Why so many videos do not fit into an instance, or None."""
        frames, channels, height, width = budget.clip_shape
        if self.layout in ("time", "thin") and self.compose > frames:
            return f"compose={self.compose} videos do not fit into {frames} frames"
        if self.layout == "gray" and self.compose not in (1, channels):
            return f"layout=gray takes as many videos as there are colour channels, {channels}, got compose={self.compose}"
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
            room = self._room(instance, j)
            if self.layout == "time":
                room.copy_(clip[part(len(clip), self.compose, j)])
            elif self.layout == "grid":
                room.copy_(resize(clip, room.shape[-2], room.shape[-1]))
            elif self.layout == "thin":
                room.copy_(clip[((torch.arange(len(room)) + 0.5) * (len(clip) / len(room))).long()])
            else:
                room.copy_(luminance(clip) if self.compose > 1 else clip)
        instances.note(first, len(clips))

    def _room(self, instance: Tensor, j: int) -> Tensor:
        """Where video j lies in an instance (T, C, H, W): a view."""
        if self.layout == "grid":
            height, width = instance.shape[-2:]
            return instance[:, :, part(height, self.side, j // self.side), part(width, self.side, j % self.side)]
        if self.layout == "gray":
            return instance[:, part(instance.shape[1], self.compose, j)]
        return instance[part(len(instance), self.compose, j)]

    def _whole(self, room: Tensor, clip_shape: Sequence[int]) -> Tensor:
        """The clip (T, C, H, W) uint8 that a video in its room stands for."""
        if self.layout == "grid":
            return resize(room, *clip_shape[-2:])
        if self.layout == "thin":
            return stretch(room, clip_shape[0])
        return room.expand(*clip_shape)

    def clips_of(self, instances: ClipWriter) -> Videos:
        """The clips that a network is trained on, of composed instances, made when they are asked for."""
        return Videos(self, instances)

    def stored(self, instances: ClipWriter, labels: Tensor, soft_labels: Tensor | None = None) -> DistilledSet:
        """The set of composed instances with labels (N,); soft_labels of the clips of ``clips_of``, whose number they have."""
        if not self.is_mosaic:
            return DistilledSet.of_clips(instances, labels, soft_labels)
        return DistilledSet({MOSAICS: instances.whole()}, labels.repeat_interleave(self.compose), soft_labels)

    def materialise(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The videos of all mosaics, each as a whole clip: (N * compose, T, C, H, W) uint8."""
        return self.materialise_rows(tensors, torch.arange(len(tensors[MOSAICS]) * self.compose))

    def materialise_rows(self, tensors: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """The videos number rows (n,) alone."""
        mosaics = tensors[MOSAICS]
        clips = mosaics.new_empty((len(rows), *mosaics.shape[1:]))
        for clip, s in zip(clips, rows.tolist(), strict=True):
            clip.copy_(self._whole(self._room(mosaics[s // self.compose], s % self.compose), clip.shape))
        return clips


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


def stretch(clip: Tensor, frames: int) -> Tensor:
    """A clip (t, C, H, W) uint8 with more frames, linear between those that there are, whose places are the middles of equal parts."""
    flat = clip.float().flatten(1).T[None]
    stretched = F.interpolate(flat, size=frames, mode="linear", align_corners=False)
    return stretched[0].T.reshape(frames, *clip.shape[1:]).round().clamp(0, 255).to(torch.uint8)


def luminance(clip: Tensor) -> Tensor:
    """A clip (T, 3, H, W) uint8 as (T, 1, H, W): 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (clip.float() * weights).sum(1, keepdim=True).round().clamp(0, 255).to(torch.uint8)
