"""Plugins that do next to nothing, so that what a sweep of them costs is the harness."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from harness import Budget, Clip, Context, DistilledSet, Item, Split, dataset, evaluator, method

SHAPE = (2, 1, 8, 8)


@dataset("nothing")
class Nothing:
    """Two classes of one training and one test clip."""

    default_shape = SHAPE

    def classes(self) -> tuple[str, ...]:
        return ("dark", "bright")

    def items(self, split: str) -> list[Item]:
        return [Item(f"{split}{label}", label) for label in range(2)]

    def read(self, item: Item, clip_shape: tuple[int, int, int, int]) -> Clip:
        return Clip(np.full(clip_shape, 200 * item.label, np.uint8), native_frames=2)

    def digest(self) -> str:
        return "nothing-1"


@method("no-op")
class NoOp:
    """The first clip of each class; one set for each seed."""

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        rows = torch.cat([train.indices_of(label)[:1] for label in range(budget.classes)])
        return DistilledSet.of_clips(train.clips(rows), train.labels[rows])


@method("no-op-shared")
class NoOpShared(NoOp):
    """The same set for all seeds, so that a sweep of seeds is evaluations alone."""

    deterministic = True


@evaluator("one-layer")
class OneLayer:
    """A linear layer on the mean of each frame."""

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        return _OneLayer(clip_shape[0], classes)


class _OneLayer(nn.Module):
    def __init__(self, frames: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(frames, classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(clips.mean((2, 3, 4)))
