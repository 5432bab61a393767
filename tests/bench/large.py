"""Plugins whose clips are as large as real ones and cost next to nothing, so that memory is that of the harness."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from harness import Budget, Clip, Context, DatasetInfo, DistilledSet, Item, Split, dataset, evaluator, method
from methods.compose import Composed

BATCH = 8


@dataset("large")
class Large:
    """Clips that are one shade each, of 16x3x112x112."""

    default_shape = (16, 3, 112, 112)

    classes_: int = 50
    """Classes."""
    per_class: int = 200
    """Training clips of each."""

    def classes(self) -> tuple[str, ...]:
        return tuple(f"shade {number}" for number in range(self.classes_))

    def items(self, split: str) -> list[Item]:
        per_class = self.per_class if split == "train" else 1
        return [Item(f"{split}{n}", n % self.classes_) for n in range(per_class * self.classes_)]

    def read(self, item: Item, clip_shape: tuple[int, int, int, int]) -> Clip:
        return Clip(np.full(clip_shape, 3 * item.label, np.uint8), native_frames=clip_shape[0])

    def digest(self) -> str:
        return f"large-{self.classes_}-{self.per_class}"


@method("drawn")
class Drawn(Composed):
    """A generator that costs nothing: noise from the seed of each video, written a batch at a time."""

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        return self.unfit(budget)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        instances, videos = self.room(budget, context), budget.clips * self.compose
        for first in range(0, videos, BATCH):
            numbers = range(first, min(first + BATCH, videos))
            if not instances.has(first, len(numbers)):
                drawn = [torch.randint(256, budget.clip_shape[-2:], generator=context.generator_of(n)).to(torch.uint8) for n in numbers]
                self.place(instances, torch.stack([frame.expand(budget.clip_shape) for frame in drawn]), first)
        return self.stored(instances, torch.arange(budget.classes).repeat_interleave(budget.ipc))


@evaluator("frame-means")
class FrameMeans:
    """A linear layer on the mean of each frame."""

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        return _FrameMeans(clip_shape[0], classes)


class _FrameMeans(nn.Module):
    def __init__(self, frames: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(frames, classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(clips.mean((2, 3, 4)))
