"""Clips that an earlier cache holds already: after a broken file was replaced, for another split, or for a subset such as MiniUCF."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.data.base import Clip, ClipShape, Item
from harness.data.cache import SPLITS, ClipFile, Row, checksum, read_index
from harness.errors import DataError


class EarlierClips:
    """The clips of all complete caches under a root that were made by this recipe at this shape.

    A clip is the same where its name and the size of its file are; sources without a size are never taken over.
    """

    def __init__(self, cache_root: Path, recipe: str | None, clip_shape: ClipShape) -> None:
        self._places: dict[tuple[str, int], tuple[ClipFile, int, Row]] = {}
        if recipe is None:
            return
        for folder in _made_by(cache_root, recipe, clip_shape):
            for split in SPLITS:
                try:
                    index = read_index(folder, split)
                    file = ClipFile(folder / f"{split}.npy", (len(index), *clip_shape))
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


def _made_by(cache_root: Path, recipe: str, clip_shape: ClipShape) -> Iterator[Path]:
    for path in sorted(cache_root.glob("*/meta.json")):
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if meta.get("recipe") == recipe and meta.get("clip_shape") == list(clip_shape) and path.parent.suffix != ".partial":
            yield path.parent
