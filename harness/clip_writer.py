"""Room for the clips of a set on disk: a method writes them a few at a time, and an interrupted attempt goes on where it was."""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.data.base import Indices
from harness.errors import DistilledSetError, TaskError


class ClipWriter:
    """Clips (N, T, C, H, W) uint8 in a file, through a memory map, with a note of what is written.

    Only what is written or read at the moment is in memory. The file and the notes survive the process, a ``kill -9`` too: opened at the
    same path again, it knows what is there. parts: how many videos share a clip; what is written is then noted for each video, and
    number s is video s % parts of clip s // parts.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int, int], parts: int = 1) -> None:
        size, notes = math.prod(shape), path.with_suffix(".done")
        if not path.is_file() or path.stat().st_size != size or not notes.is_file() or notes.stat().st_size != shape[0] * parts:
            notes.unlink(missing_ok=True)  # before the clips: what is noted is there
            _reserve(path, size)
            notes.write_bytes(bytes(shape[0] * parts))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._notes = np.memmap(notes, np.bool_, "r+")
        self.clip_shape, self._parts = shape[1:], parts
        self.rows = torch.from_numpy(np.frombuffer(self._map, np.uint8).reshape(shape))
        """The clips as one tensor, to write parts of them in place; ``note`` then says which videos are written."""

    def __len__(self) -> int:
        return len(self.rows)

    def has(self, first: int, count: int) -> bool:
        """Whether the videos number first, first + 1, ... are written, by this attempt or an earlier one."""
        return bool(self._notes[first : first + count].all())

    def write(self, first: int, clips: Tensor) -> None:
        """Write whole clips (B, T, C, H, W) uint8 as number first, first + 1, ... Raises DistilledSetError where they do not fit."""
        if clips.dtype != torch.uint8 or tuple(clips.shape[1:]) != self.clip_shape or not 0 <= first <= len(self) - len(clips):
            raise DistilledSetError(
                f"clips {first} to {first + len(clips) - 1} of {len(self)} must be uint8 of shape (B, T, C, H, W) = "
                f"{('B', *self.clip_shape)}, got {clips.dtype} of shape {tuple(clips.shape)}"
            )
        self.rows[first : first + len(clips)] = clips
        self.note(first * self._parts, len(clips) * self._parts)

    def note(self, first: int, count: int) -> None:
        """Say that the videos number first, first + 1, ... are in ``rows``. What was touched of these leaves this process's memory."""
        self._notes[first : first + count] = True
        self._map.madvise(mmap.MADV_DONTNEED)  # of a shared map: its pages stay in the system's cache, and reach the disk

    def clips(self, indices: Indices = None) -> Tensor:
        """A copy of the clips at these indices, (n, T, C, H, W) uint8; of all without an argument."""
        rows = self.rows[slice(None) if indices is None else indices]
        rows = rows.clone() if isinstance(indices, slice | None) else rows
        self._map.madvise(mmap.MADV_DONTNEED)
        return rows

    def whole(self) -> Tensor:
        """All clips, memory-mapped, (N, T, C, H, W) uint8. Raises DistilledSetError where some were not written."""
        if not self._notes.all():
            missing = np.flatnonzero(~self._notes)
            raise DistilledSetError(f"{len(missing)} of {len(self._notes)} clips were not written, the first is number {missing[0]}")
        return self.rows


def _reserve(path: Path, size: int) -> None:
    """A file of so many zeros. Room that is missing is an error now: a memory map of a full disk would end the process hours later."""
    try:
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise TaskError(f"the clips of this set need {size:,} bytes in {path.parent}: {error.strerror}") from error
