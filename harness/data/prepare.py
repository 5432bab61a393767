"""Filling the cache: decode what is missing, several videos side by side, so that it can be interrupted at any moment.

Rows of the clip file are written in any order. Each is followed by a line in journal.jsonl with its checksum; after an interruption the
rows whose line is there and whose checksum agrees are not decoded again. Videos that cannot be read are left out with a reason.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np

from harness.data.base import Clip, Item
from harness.data.cache_files import SCHEMA, SPLITS, CachePlace, Entry, checksum, write_index
from harness.data.info import ClipShape, DatasetInfo
from harness.data.reuse import EarlierClips
from harness.errors import DataError
from harness.plugin import DatasetPlugin, Progress


def prepare(plugin: DatasetPlugin, cache: CachePlace, *, workers: int = 1, progress: Progress | None = None) -> None:
    """Decode a dataset into the cache. The caller holds the lock. ``progress(done, total)`` counts clips.

    Threads decode: libav works without the interpreter's lock. Raises DataError when the disk is too small, when more than the dataset's
    ``max_lost`` of a split cannot be read, or when a class has no training clip left; what was decoded is kept for the next attempt.
    """
    info, folder, partial = cache.info, cache.folder, cache.partial
    items = {split: list(plugin.items(split)) for split in SPLITS}
    for split in SPLITS:
        _check_losses(split, items[split], {n: i.problem for n, i in enumerate(items[split]) if i.problem}, plugin.max_lost)
    _check_space(partial, items, info.clip_shape)
    recipe = plugin.recipe()
    earlier = EarlierClips(cache, recipe)
    total, done = sum(len(rows) for rows in items.values()), 0
    checksums = {}
    for split in SPLITS:
        with _PartialSplit(partial, split, items[split], info.clip_shape) as target:
            target.take_over(earlier)
            done += len(target.rows)
            if progress:
                progress(done, total)
            for count in _decode_missing(plugin, target, workers):
                done += count
                if progress:
                    progress(done, total)
        lost = {n: row.reason for n, row in target.rows.items() if row.reason}
        _check_losses(split, items[split], lost, plugin.max_lost)
        if split == "train":
            _check_classes(items[split], lost, info)
        checksums[f"{split}.csv"] = write_index(partial, split, [target.rows[n] for n in range(len(items[split]))])
    meta = {
        "schema": SCHEMA,
        "dataset": info.name,
        "digest": info.digest,
        "code": info.code,
        "clip_shape": list(info.clip_shape),
        "recipe": recipe,
        "checksums": checksums,
    }
    with open(partial / "meta.json", "w", encoding="utf-8") as handle:
        json.dump(meta, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    for split in SPLITS:
        (partial / f"{split}.journal.jsonl").unlink()
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


class _PartialSplit:
    """The clip file of a split while it is filled, and the journal of the rows that are done. Writing is thread-safe."""

    def __init__(self, folder: Path, split: str, items: Sequence[Item], shape: ClipShape) -> None:
        self.items, self.shape = items, shape
        self.rows: dict[int, Entry] = {}
        self._row_bytes = int(np.prod(shape))
        self._clips, self._journal = folder / f"{split}.npy", folder / f"{split}.journal.jsonl"
        self._lock = threading.Lock()

    def __enter__(self) -> _PartialSplit:
        shape = (len(self.items), *self.shape)
        with open(self._clips, "ab+") as handle:
            if handle.tell() == 0:
                np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
                handle.flush()
            handle.seek(0)
            np.lib.format.read_magic(handle)
            np.lib.format.read_array_header_1_0(handle)
            self._offset = handle.tell()
        self._fd = os.open(self._clips, os.O_RDWR)
        _reserve(self._fd, self._offset + len(self.items) * self._row_bytes, self._clips)
        self._resume()
        self._lines = open(self._journal, "a", encoding="utf-8")
        for number, item in enumerate(self.items):
            if item.problem and number not in self.rows:
                self.leave_out(number, item.problem)
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        os.fsync(self._fd)
        os.close(self._fd)

    def take_over(self, earlier: EarlierClips) -> None:
        """Copy the clips that another cache holds."""
        for number, item in enumerate(self.items):
            if number not in self.rows and not item.problem and (clip := earlier.find(item)) is not None:
                self.keep(number, clip)

    def keep(self, number: int, clip: Clip) -> None:
        """Write a clip to its row."""
        item = self.items[number]
        if clip.frames.shape != self.shape or clip.frames.dtype != np.uint8:
            raise DataError(f"{item.id} was read as {clip.frames.dtype} {clip.frames.shape}, expected uint8 {self.shape}")
        frames = np.ascontiguousarray(clip.frames)
        _write_all(self._fd, frames.data.cast("B"), self._offset + number * self._row_bytes)
        native = clip.native_frames if item.part == 0 else 0
        self._note(number, Entry(item.id, item.label, native, clip.indices, item.bytes, checksum(frames), ""))

    def leave_out(self, number: int, reason: str) -> None:
        """Note that a clip cannot be had."""
        item = self.items[number]
        self._note(number, Entry(item.id, item.label, 0, (), item.bytes, "", reason))

    def _note(self, number: int, row: Entry) -> None:
        line = json.dumps([number, row.native_frames, row.frames, row.checksum, row.reason])
        with self._lock:
            self._lines.write(line + "\n")
            self._lines.flush()
            self.rows[number] = row

    def _resume(self) -> None:
        """Take over the rows that an interrupted attempt finished. Those that could not be read are tried again."""
        if not self._journal.exists():
            return
        for line in self._journal.read_text(encoding="utf-8").splitlines():
            try:
                number, native, frames, crc, reason = json.loads(line)
            except ValueError:
                continue  # the line that was being written
            clip = np.frombuffer(os.pread(self._fd, self._row_bytes, self._offset + number * self._row_bytes), np.uint8)
            if not reason and checksum(clip) == crc:
                item = self.items[number]
                self.rows[number] = Entry(item.id, item.label, native, tuple(frames), item.bytes, crc, "")


def _decode_missing(plugin: DatasetPlugin, target: _PartialSplit, workers: int) -> Iterator[int]:
    """Decode the rows that are not there; yields how many were done, again and again. A video is decoded once for all of its clips."""
    numbers = (n for n in range(len(target.items)) if n not in target.rows)
    videos = (list(group) for _, group in groupby(numbers, key=lambda n: target.items[n].source or n))
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode") as pool:
        waiting: deque[Future[int]] = deque()
        try:
            for rows in videos:
                waiting.append(pool.submit(_decode_video, plugin, target, rows))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode_video(plugin: DatasetPlugin, target: _PartialSplit, rows: Sequence[int]) -> int:
    items = [target.items[n] for n in rows]
    try:
        clips = plugin.read_parts(items, target.shape)
    except DataError as error:
        for number in rows:
            target.leave_out(number, str(error))
    else:
        for number, clip in zip(rows, clips, strict=True):
            target.keep(number, clip)
    return len(rows)


def _check_losses(split: str, items: Sequence[Item], lost: dict[int, str], limit: float) -> None:
    if len(lost) > limit * len(items):
        examples = "; ".join(f"{items[n].id}: {reason}" for n, reason in list(lost.items())[:3])
        raise DataError(
            f"{len(lost)} of {len(items)} {split} clips cannot be had, more than the {limit:.0%} that max_lost allows ({examples}"
            f"{'; ...' if len(lost) > 3 else ''}); `data verify` lists all"
        )


def _check_classes(items: Sequence[Item], lost: dict[int, str], info: DatasetInfo) -> None:
    counts = np.bincount([item.label for n, item in enumerate(items) if n not in lost], minlength=len(info.classes))
    empty = [info.classes[label] for label in np.flatnonzero(counts == 0)]
    if empty:
        raise DataError(f"dataset {info.name!r}: no training clip of {', '.join(empty[:5])}{' ...' if len(empty) > 5 else ''}")


def _check_space(partial: Path, items: dict[str, list[Item]], shape: ClipShape) -> None:
    """Raises DataError before anything is written that would not fit."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the cache folder {partial.parent} cannot be written: {error.strerror}") from error
    needed = sum(len(rows) for rows in items.values()) * int(np.prod(shape))
    there = sum(file.stat().st_blocks * 512 for file in partial.glob("*.npy"))
    free = shutil.disk_usage(partial).free
    if needed - there > free:
        raise DataError(f"the clips need {_size(needed - there)}, but {partial.parent} has {_size(free)} free: choose another cache folder")


def _reserve(fd: int, length: int, path: Path) -> None:
    """Give the file its full length, with its blocks where the system can, so that a full disk shows before the work."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, length)
        os.ftruncate(fd, length)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(f"{path} cannot have {_size(length)}: {error.strerror}") from error
        os.ftruncate(fd, length)  # a file system without reservation


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _size(count: float) -> str:
    """Bytes for people.

    >>> _size(2_809_921_536)
    '2.6 GiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
