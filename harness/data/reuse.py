"""Clips that an earlier cache holds already: after a broken file was replaced, for another split, or for a subset such as MiniUCF."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.data.base import Clip, Item
from harness.data.cache_files import SPLITS, CachePlace, ClipFile, Entry, checksum, read_index
from harness.errors import DataError


class EarlierClips:
    """The clips of all complete caches beside this one that were made by this recipe and the same code at the same shape.

    A clip is the same where its name and the size of its file are; sources without a size are never taken over.
    """

    def __init__(self, cache: CachePlace, recipe: str | None) -> None:
        self._places: dict[tuple[str, int], tuple[ClipFile, int, Entry]] = {}
        if recipe is None:
            return
        for folder in _made_by(cache, recipe):
            for split in SPLITS:
                try:
                    index = read_index(folder, split)
                    file = ClipFile(folder / f"{split}.npy", (len(index), *cache.info.clip_shape))
                except DataError:
                    continue  # damaged: `data verify` tells, and its clips are decoded again
                self._places |= {(row.id, row.bytes): (file, n, row) for n, row in enumerate(index) if row.bytes and not row.reason}

    def find(self, item: Item) -> Clip | None:
        """The clip of this item, or None where it has to be decoded."""
        file, number, row = self._places.get((item.id, item.bytes), (None, 0, None))
        if file is None or row is None:
            return None
        frames = file[np.array([number])]
        return Clip(frames[0], row.native_frames, row.frames) if checksum(frames) == row.checksum else None


def _made_by(cache: CachePlace, recipe: str) -> Iterator[Path]:
    wanted = {"recipe": recipe, "code": cache.info.code, "clip_shape": list(cache.info.clip_shape)}
    for path in sorted(cache.root.glob("*/meta.json")):
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if all(meta.get(key) == value for key, value in wanted.items()) and path.parent.suffix != ".partial":
            yield path.parent
