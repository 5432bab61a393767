"""A dataset made of the training split of another: a fitting part to distil from, a held-out part to score on.

Its test split is never listed, opened or read: what is called "test" here are videos of the training split. It has a digest of its own, so
that its clips, assets and sets are never those of the whole split.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from functools import cached_property

from harness.data.base import Clip, Item
from harness.data.info import ClipShape
from harness.errors import UsageError
from harness.plugin import DatasetPlugin
from harness.spec import HeldOut


class HeldOutDataset(DatasetPlugin):
    """``items("train")``: the fitting part; ``items("test")``: a share of each class's training videos, drawn by the seed.

    Clips of one video stay together. Raises UsageError where a class has a single video.
    """

    def __init__(self, whole: DatasetPlugin, held_out: HeldOut) -> None:
        self._whole, self._held_out = whole, held_out
        self.default_shape, self.flip, self.max_lost = whole.default_shape, whole.flip, whole.max_lost

    def classes(self) -> tuple[str, ...]:
        return self._whole.classes()

    def items(self, split: str) -> Sequence[Item]:
        return self._parts[split == "test"]

    def read(self, item: Item, clip_shape: ClipShape) -> Clip:
        return self._whole.read(item, clip_shape)

    def read_parts(self, items: Sequence[Item], clip_shape: ClipShape) -> list[Clip]:
        return self._whole.read_parts(items, clip_shape)

    def recipe(self) -> str | None:
        return self._whole.recipe()

    def digest(self) -> str:
        ids = [[item.id for item in part] for part in self._parts]
        return hashlib.sha256(json.dumps([self._whole.digest(), ids]).encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def _parts(self) -> tuple[list[Item], list[Item]]:
        items = self._whole.items("train")
        held: set[str] = set()
        for label, name in enumerate(self.classes()):
            videos = list(dict.fromkeys(_video(item) for item in items if item.label == label and not item.problem))
            if len(videos) < 2:
                raise UsageError(f"class {name!r} has {len(videos)} training video: nothing can be held out of it")
            count = min(max(round(self._held_out.share * len(videos)), 1), len(videos) - 1)
            held.update(random.Random(f"{self._held_out.seed} {name}").sample(videos, count))
        # Videos that cannot be read count for no part; they stay in the first, whose losses are told.
        return [i for i in items if _video(i) not in held], [i for i in items if _video(i) in held]


def _video(item: Item) -> str:
    return item.source or item.id
