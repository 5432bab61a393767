"""The decoded-clip cache: every clip is decoded once, kept as uint8 on disk, and memory-mapped by all workers.

One folder per (dataset digest, clip shape) under the cache root:

    <name>-<digest>/
      train.npy  test.npy    (N, T, C, H, W) uint8
      train.csv  test.csv    one line per clip: id, label, native_frames, checksum
      meta.json              written last: a folder with it is complete
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from harness.data.base import Clip, ClipShape, DatasetPlugin, Item, Split, VideoDataset
from harness.errors import DataError
from harness.plugin import DatasetInfo

SCHEMA = 1
SPLITS = ("train", "test")
Progress = Callable[[int, int], None]


def describe(plugin: DatasetPlugin, name: str, clip_shape: ClipShape | None = None) -> DatasetInfo:
    """What is known before a clip is decoded. Reads lists only. ``clip_shape`` None: the dataset's own."""
    shape = clip_shape or plugin.default_shape
    classes = plugin.classes()
    counts = {}
    for split in SPLITS:
        labels = [item.label for item in plugin.items(split)]
        counts[split] = tuple(int(n) for n in np.bincount(labels, minlength=len(classes)))
    digest = hashlib.sha256(json.dumps([SCHEMA, name, plugin.digest(), list(shape)]).encode()).hexdigest()
    return DatasetInfo(name, classes, shape, counts["train"], counts["test"], plugin.flip, digest)


def is_prepared(info: DatasetInfo, cache_root: Path) -> bool:
    """Whether the clips of this dataset and shape are in the cache."""
    return (_folder(info, cache_root) / "meta.json").is_file()


def open_dataset(
    plugin: DatasetPlugin, info: DatasetInfo, cache_root: Path, *, workers: int = 1, progress: Progress | None = None
) -> VideoDataset:
    """The dataset, its clips memory-mapped; decoded first where they are not in the cache. Safe to call from several processes at once."""
    if not is_prepared(info, cache_root):
        with _lock(info, cache_root):
            if not is_prepared(info, cache_root):
                _prepare(plugin, info, cache_root, workers, progress)
    folder = _folder(info, cache_root)
    return VideoDataset(info, _load(folder, "train", info), _load(folder, "test", info))


def _folder(info: DatasetInfo, cache_root: Path) -> Path:
    return Path(cache_root) / f"{info.name}-{info.digest[:16]}"


@contextmanager
def _lock(info: DatasetInfo, cache_root: Path) -> Iterator[None]:
    """Exclusive among processes; released by the kernel when the holder dies."""
    folder = _folder(info, cache_root)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _prepare(plugin: DatasetPlugin, info: DatasetInfo, cache_root: Path, workers: int, progress: Progress | None) -> None:
    folder = _folder(info, cache_root)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    items = {split: list(plugin.items(split)) for split in SPLITS}
    total = sum(len(rows) for rows in items.values())
    done = 0
    for split in SPLITS:
        array = np.lib.format.open_memmap(partial / f"{split}.npy", "w+", np.uint8, (len(items[split]), *info.clip_shape))
        with open(partial / f"{split}.csv", "w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["id", "label", "native_frames", "checksum"])
            for row, (item, clip) in enumerate(_read_all(plugin, items[split], info.clip_shape, workers)):
                array[row] = clip.frames
                writer.writerow([item.id, item.label, clip.native_frames, f"{zlib.crc32(clip.frames.tobytes()):08x}"])
                done += 1
                if progress:
                    progress(done, total)
        array.flush()
        del array
    (partial / "meta.json").write_text(json.dumps({"schema": SCHEMA, "info": asdict(info)}, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _read_all(plugin: DatasetPlugin, items: Sequence[Item], shape: ClipShape, workers: int) -> Iterator[tuple[Item, Clip]]:
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(items), 256):  # in slices, so that no more than these wait in memory
            part = items[start : start + 256]
            yield from zip(part, pool.map(lambda item: plugin.read(item, shape), part), strict=True)


def _load(folder: Path, split: str, info: DatasetInfo) -> Split:
    with open(folder / f"{split}.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    clips = np.load(folder / f"{split}.npy", mmap_mode="r")
    if clips.shape != (len(rows), *info.clip_shape):
        raise DataError(f"the cache {folder} is damaged: {split}.npy has shape {clips.shape}; delete the folder and prepare again")
    labels = torch.tensor([int(row["label"]) for row in rows], dtype=torch.int64)
    native = torch.tensor([int(row["native_frames"]) for row in rows], dtype=torch.int64)
    return Split(clips, labels, native, [row["id"] for row in rows], info)
