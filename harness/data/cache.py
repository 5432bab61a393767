"""The decoded-clip cache: every clip is decoded once, kept as uint8 on disk, and memory-mapped by all workers.

One folder per (dataset digest, code) under the cache root. The digest covers the lists, the sampling and the clip shape; the code is that
which lists, decodes and samples, so that clips of other code are never served:

    <name>-<hash>/
      train.npy  test.npy    (N, T, C, H, W) uint8, one row for each listed clip
      train.csv  test.csv    one line per row: id, label, native_frames, frames (the native frames taken), bytes (of the source file),
                             checksum, reason (why the clip is left out; its row is then zero)
      meta.json              written last: a folder with it is complete

While it is made the folder is called <name>-<hash>.partial (see harness.data.prepare).
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.data.base import LeftOut, Split, VideoDataset
from harness.data.info import ClipShape, DatasetInfo
from harness.errors import DataError
from harness.plugin import DatasetPlugin, Progress

SCHEMA = 2
SPLITS = ("train", "test")
COLUMNS = ("id", "label", "native_frames", "frames", "bytes", "checksum", "reason")


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


def describe(plugin: DatasetPlugin, name: str, clip_shape: ClipShape | None = None, code: str = "") -> DatasetInfo:
    """What is known before a clip is decoded. Reads lists only. ``clip_shape`` None: the dataset's own. ``code``: digest of its code."""
    shape = clip_shape or plugin.default_shape
    classes = plugin.classes()
    counts = {}
    for split in SPLITS:
        labels = [item.label for item in plugin.items(split) if not item.problem]
        counts[split] = tuple(int(n) for n in np.bincount(labels, minlength=len(classes)))
    digest = hashlib.sha256(json.dumps([SCHEMA, name, plugin.digest(), list(shape)]).encode()).hexdigest()
    return DatasetInfo(name, classes, shape, counts["train"], counts["test"], plugin.flip, digest, code)


@dataclass(frozen=True)
class ClipCache:
    """The decoded clips of one dataset at one clip shape. ``root``: the folder of all caches."""

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

    def is_prepared(self) -> bool:
        """Whether the clips are there."""
        return (self.folder / "meta.json").is_file()

    def open(self, plugin: DatasetPlugin, *, workers: int = 1, progress: Progress | None = None) -> VideoDataset:
        """The dataset, its clips memory-mapped; what is missing is decoded first. Safe to call from several processes at once.

        workers: videos decoded at a time. ``progress(done, total)`` counts clips. ``info.train_per_class`` of the result counts the clips
        that are there. Raises DataError when the data cannot be prepared, or when the cache is damaged.
        """
        if not self.is_prepared():
            from harness.data.prepare import prepare

            with self._lock():
                if not self.is_prepared():
                    prepare(plugin, self, workers=workers, progress=progress)
        return self.load()

    def load(self) -> VideoDataset:
        """The prepared dataset. Raises DataError when it is not there, or when its files do not fit together."""
        index = {split: read_index(self.folder, split) for split in SPLITS}
        kept = {split: [row.label for row in index[split] if not row.reason] for split in SPLITS}
        counts = {s: tuple(int(n) for n in np.bincount(kept[s], minlength=len(self.info.classes))) for s in SPLITS}
        info = replace(self.info, train_per_class=counts["train"], test_per_class=counts["test"])
        splits = {split: _load_split(self.folder, split, index[split], info) for split in SPLITS}
        left_out = tuple(LeftOut(split, row.id, row.reason) for split in SPLITS for row in index[split] if row.reason)
        return VideoDataset(info, splits["train"], splits["test"], left_out)

    def verify(self, progress: Progress | None = None) -> list[str]:
        """What is damaged, one sentence each; every clip is read and compared with its checksum."""
        folder = self.folder
        problems: list[str] = []
        try:
            index = {split: read_index(folder, split) for split in SPLITS}
            files = {split: ClipFile(folder / f"{split}.npy", (len(index[split]), *self.info.clip_shape)) for split in SPLITS}
        except DataError as error:
            return [str(error)]
        total, done = sum(len(rows) for rows in index.values()), 0
        for split, rows in index.items():
            for number, row in enumerate(rows):
                if not row.reason and checksum(files[split][number : number + 1]) != row.checksum:
                    problems.append(f"{folder / split}.npy: clip {row.id} does not match its checksum; delete {folder} and prepare again")
                done += 1
                if progress:
                    progress(done, total)
        return problems

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Exclusive among processes; released by the kernel when the holder dies."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder.with_name(f"{self.folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise DataError(f"the cache folder {self.root} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


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


def _load_split(folder: Path, split: str, index: Sequence[Entry], info: DatasetInfo) -> Split:
    clips: Any = ClipFile(folder / f"{split}.npy", (len(index), *info.clip_shape))
    labels = torch.tensor([row.label for row in index], dtype=torch.int64)
    native = torch.tensor([row.native_frames for row in index], dtype=torch.int64)
    listed = Split(clips, labels, native, [row.id for row in index], info)
    kept = [number for number, row in enumerate(index) if not row.reason]
    return listed if len(kept) == len(index) else listed.subset(torch.tensor(kept, dtype=torch.int64))
