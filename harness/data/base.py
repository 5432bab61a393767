"""The nouns of data: items and clips as a dataset plugin gives them, and splits as everybody else sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from harness.data.info import DatasetInfo

Indices = Tensor | Sequence[int] | slice | None


class Clips(Protocol):
    """Clips that are read when they are asked for: of a split, or of a set that is too large for memory."""

    def __len__(self) -> int: ...

    def clips(self, indices: Indices = None) -> Tensor:
        """Clips at these indices, (n, T, C, H, W), as a tensor of their own; all of them without an argument."""
        ...


def read_clips(clips: Tensor | Clips, indices: Tensor | Sequence[int] | slice) -> Tensor:
    """Some clips of a tensor (N, T, C, H, W), or of what reads them."""
    return clips[indices] if isinstance(clips, Tensor) else clips.clips(indices)


@dataclass(frozen=True)
class Item:
    """One clip to be: a name that is unique in its split, its class index, and where to read it (a path, or empty if generated).

    part: which clip of the video this is, where several are taken of each. bytes: size of the source (0: unknown), part of its identity.
    problem: why the video cannot be used, where that is known before it is decoded (missing, listed twice); empty: nothing is known.
    """

    id: str
    label: int
    source: str = ""
    part: int = 0
    bytes: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Clip:
    """Decoded frames (T, C, H, W) uint8, and the number of frames that the whole video decodes to.

    indices: the native frames that were taken, (T,), kept beside the clip; empty where there is no video.
    """

    frames: np.ndarray
    native_frames: int
    indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A listed video that is not in its split, and why."""

    split: str
    id: str
    reason: str


class Split:
    """Labelled clips of one split, read from a memory map.

    clips: (N, T, C, H, W) uint8, memory-mapped. labels: (N,) int64. ids: N names.
    native_frames: (N,) int64, frames of the whole video; where a video gives several clips, its first one carries them and the others 0.
    """

    def __init__(self, clips: np.ndarray, labels: Tensor, native_frames: Tensor, ids: Sequence[str], info: DatasetInfo) -> None:
        self._clips = clips
        self.labels = labels
        self.native_frames = native_frames
        self.ids = tuple(ids)
        self.info = info

    def __len__(self) -> int:
        return len(self.ids)

    def clips(self, indices: Indices = None) -> Tensor:
        """Clips at these indices, (n, T, C, H, W) uint8; all of them without an argument. Only these are read."""
        if indices is None:
            indices = slice(None)
        index = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        rows = self._clips[index]
        return torch.from_numpy(rows if rows.flags.owndata else rows.copy())

    def indices_of(self, label: int) -> Tensor:
        """Indices of one class, ascending, (n,) int64."""
        return torch.nonzero(self.labels == label).squeeze(1)

    def subset(self, indices: Tensor) -> Split:
        """The split restricted to these indices. Copies the labels, and the clips of the subset when they are read."""
        index = indices.numpy()
        view = _Rows(self._clips, index)
        return Split(view, self.labels[indices], self.native_frames[indices], [self.ids[i] for i in index], self.info)  # type: ignore[arg-type]


class _Rows:
    """Rows of an array, chosen now and read later."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self._array, self._rows = array, rows

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return self._array[self._rows[index]]


@dataclass(frozen=True)
class VideoDataset:
    """A dataset ready for use. Methods are given ``train`` alone. ``left_out`` are the listed videos that it lacks."""

    info: DatasetInfo
    train: Split
    test: Split
    left_out: tuple[LeftOut, ...] = ()

    @property
    def native_train_frames(self) -> int:
        """Frames of the training split as decoded: the denominator of the frame fraction."""
        return int(self.train.native_frames.sum())
