"""Plugins for the tests of tuning: a dataset whose test split must not be touched, and methods with something to tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch

from harness import Budget, Choice, Clip, Context, DistilledSet, Item, Log, Range, Split, dataset, method
from tests.plugins.tiny import Tiny, _first


@dataset("guarded")
class Guarded(Tiny):
    """The tiny dataset; whoever lists or reads its test split fails."""

    train: int = 10
    """Training clips of each class."""

    def items(self, split: str) -> list[Item]:
        if split != "train":
            raise AssertionError("the test split was listed")
        return super().items(split)

    def read(self, item: Item, clip_shape: tuple[int, int, int, int]) -> Clip:
        if not item.id.startswith("train"):
            raise AssertionError("a test clip was read")
        return super().read(item, clip_shape)


@method("fog")
class Fog:
    """The first clips of each class, faded to one grey: the more of it, the less a network can learn."""

    fog: Annotated[float, Range(0, 1)] = 1.0
    """Share of grey."""
    fails_above: float = 2.0
    """With more fog it fails."""
    marker: str = ""
    """A file that gets a line for each set that is made."""

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        if self.marker:
            with Path(self.marker).open("a") as lines:
                lines.write(f"{self.fog}\n")
        if self.fog > self.fails_above:
            raise RuntimeError("lost in the fog")
        stored = _first(train, budget)
        assert stored.clips is not None
        clips = (1 - self.fog) * stored.clips.float() + self.fog * 128.0
        return DistilledSet.of_clips(clips.round().to(torch.uint8), stored.labels)


@method("several")
class Several:
    """The first clips, with parameters of every kind that can be searched."""

    rate: Annotated[float, Log(1e-3, 1e3)] = 1.0
    """A rate."""
    count: Annotated[int, Range(2, 5)] = 3
    """A number."""
    steps: Annotated[int, Log(1, 1000)] = 10
    """Another."""
    kind: Annotated[str, Choice("a", "b", "c")] = "a"
    """A kind."""
    fixed: float = 0.5
    """Not searched."""

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        return _first(train, budget)
