"""The decoded-clip cache: every clip is decoded once, kept as uint8 on disk, and memory-mapped by all workers.

One folder per (dataset digest, code) under the cache root. The digest covers the lists, the sampling and the clip shape; the code is that
which lists, decodes and samples, so that clips of other code are never served:

    <name>-<hash>/
      train.npy  test.npy    (N, T, C, H, W) uint8, one row for each listed clip
      train.csv  test.csv    one line per row: id, label, native_frames, frames (the native frames taken), bytes (of the source file),
                             checksum, reason (why the clip is left out; its row is then zero)
      meta.json              written last: a folder with it is complete

While it is made the folder is called <name>-<hash>.partial (see harness.data.prepare), by the one that holds its lease (harness.lease).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.data.base import LeftOut, Split, VideoDataset
from harness.data.cache_files import SCHEMA, SPLITS, CachePlace, ClipFile, Entry, checksum, read_index
from harness.data.info import ClipShape, DatasetInfo
from harness.data.prepare import prepare
from harness.errors import DataError, StoreError
from harness.lease import Lease
from harness.plugin import DatasetPlugin, Progress
from harness.store import Store


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
class ClipCache(CachePlace):
    """The decoded clips of one dataset at one clip shape."""

    def is_prepared(self) -> bool:
        """Whether the clips are there."""
        return (self.folder / "meta.json").is_file()

    def open(self, plugin: DatasetPlugin, *, workers: int = 1, progress: Progress | None = None) -> VideoDataset:
        """The dataset, its clips memory-mapped; what is missing is decoded first. Safe to call from several processes at once.

        workers: videos decoded at a time. ``progress(done, total)`` counts clips. ``info.train_per_class`` of the result counts the clips
        that are there. Raises DataError when the data cannot be prepared, or when the cache is damaged.
        """
        lease = Lease(Store(self.root), self.folder.name)

        def guarded(done: int, total: int) -> None:
            if lease.is_lost:
                raise DataError(f"another process prepares {self.folder.name} since this one stood still: run the command again")
            if progress:
                progress(done, total)

        try:
            with lease.held(self.is_prepared) as is_held:
                if is_held:
                    prepare(plugin, self, workers=workers, progress=guarded)
        except StoreError as error:
            raise DataError(f"the cache folder {self.root} cannot be written: {error}") from error
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


def _load_split(folder: Path, split: str, index: Sequence[Entry], info: DatasetInfo) -> Split:
    clips: Any = ClipFile(folder / f"{split}.npy", (len(index), *info.clip_shape))
    labels = torch.tensor([row.label for row in index], dtype=torch.int64)
    native = torch.tensor([row.native_frames for row in index], dtype=torch.int64)
    listed = Split(clips, labels, native, [row.id for row in index], info)
    kept = [number for number, row in enumerate(index) if not row.reason]
    return listed if len(kept) == len(index) else listed.subset(torch.tensor(kept, dtype=torch.int64))
