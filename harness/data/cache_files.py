"""The files of a cache of clips: where they lie, their index, and their rows through a memory map."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import mmap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.info import DatasetInfo
from harness.errors import DataError

SCHEMA = 2
SPLITS = ("train", "test")
COLUMNS = ("id", "label", "native_frames", "frames", "bytes", "checksum", "reason")


@dataclass(frozen=True)
class CachePlace:
    """Where the clips of one dataset at one clip shape lie. ``root``: the folder of all caches."""

    info: DatasetInfo
    root: Path

    @property
    def folder(self) -> Path:
        """Where the clips lie; it exists once they are all there."""
        info = self.info
        digest = hashlib.sha256(f"{info.digest}{info.code}".encode()).hexdigest() if info.code else info.digest
        return self.root / f"{info.name}-{digest[:16]}"

    @property
    def partial(self) -> Path:
        """Where they lie while they are decoded."""
        return self.folder.with_name(f"{self.folder.name}.partial")


@dataclass(frozen=True)
class Entry:
    """One line of the index of a split; ``reason`` is empty where the clip is there."""

    id: str
    label: int
    native_frames: int
    frames: tuple[int, ...]
    bytes: int
    checksum: str
    reason: str


def checksum(clip: np.ndarray) -> str:
    """CRC-32 of a clip's bytes, 8 hex digits."""
    return f"{zlib.crc32(np.ascontiguousarray(clip).data):08x}"


def write_index(folder: Path, split: str, rows: Sequence[Entry]) -> str:
    """Write the index of a split; returns the CRC-32 of the file."""
    path = folder / f"{split}.csv"
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as handle:  # file names may be any bytes
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for r in rows:
            writer.writerow([r.id, r.label, r.native_frames, " ".join(map(str, r.frames)), r.bytes, r.checksum, r.reason])
    return f"{zlib.crc32(path.read_bytes()):08x}"


def read_index(folder: Path, split: str) -> list[Entry]:
    """The index of a split. Raises DataError when it is missing or is not the one that was written."""
    path = folder / f"{split}.csv"
    try:
        text = path.read_bytes()
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"the cache {folder} is damaged ({error}); delete it and prepare again") from error
    if f"{zlib.crc32(text):08x}" != meta["checksums"][path.name]:
        raise DataError(f"{path} does not match its checksum; delete {folder} and prepare again")
    rows = csv.reader(io.StringIO(text.decode("utf-8", errors="surrogateescape"), newline=""))
    next(rows)
    return [Entry(i, int(label), int(n), tuple(map(int, f.split())), int(b), crc, reason) for i, label, n, f, b, crc, reason in rows]


class ClipFile:
    """The rows of a .npy file of uint8, read through a memory map: ``file[index]`` is a copy of these rows and nothing more.

    The pages are given back after each read, so that a process never holds more than the rows it asked for, however large the file;
    they stay in the system's page cache, which all workers share.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.shape = shape
        try:
            with open(path, "rb") as handle:
                np.lib.format.read_magic(handle)
                found, _, dtype = np.lib.format.read_array_header_1_0(handle)
                offset = handle.tell()
                self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); delete {path.parent} and prepare again") from error
        if found != shape or dtype != np.uint8 or len(self._map) != offset + int(np.prod(shape)):
            raise DataError(f"{path} is damaged: expected uint8 of shape {shape}; delete {path.parent} and prepare again")
        self._array = np.frombuffer(self._map, np.uint8, offset=offset).reshape(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        rows = self._array[index].copy() if isinstance(index, slice) else self._array[index]
        self._map.madvise(mmap.MADV_DONTNEED)
        return rows
