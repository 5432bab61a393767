"""Plugins for tests: a dataset of 3 classes that is made in memory, a network that trains in milliseconds, and methods good and bad."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness import Budget, Clip, Context, DistilledSet, Item, Split, dataset, evaluator, method


@dataset("tiny")
class Tiny:
    """Three classes of brightness, 4 frames of 8x8."""

    default_shape = (4, 1, 8, 8)
    flip = True

    train: int = 6
    """Training clips of each class."""

    def classes(self) -> tuple[str, ...]:
        return ("dark", "grey", "bright")

    def items(self, split: str) -> list[Item]:
        n = self.train if split == "train" else 4
        return [Item(f"{split}{label}-{i}", label) for label in range(3) for i in range(n)]

    def read(self, item: Item, clip_shape: tuple[int, int, int, int]) -> Clip:
        rng = np.random.default_rng(sum(item.id.encode()) * 7919)
        frames = np.clip(40 + 80 * item.label + rng.normal(0, 20, clip_shape), 0, 255).astype(np.uint8)
        return Clip(frames, native_frames=10)

    def digest(self) -> str:
        return f"tiny-1-{self.train}"


@evaluator("tiny-net")
class TinyNet:
    """Mean brightness of each frame, then a linear layer."""

    width: int = 4
    """Units of the hidden layer."""
    marker: str = ""
    """A file: until it exists, a network takes a minute to build."""

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return "needs at least 2 frames" if clip_shape[0] < 2 else None

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        if self.marker and not Path(self.marker).exists():
            Path(f"{self.marker}.sleeps").touch()
            time.sleep(60)
        return _Net(clip_shape[0], self.width, classes)


class _Net(nn.Module):
    def __init__(self, frames: int, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(frames, width), nn.Tanh())
        self.head = nn.Linear(width, classes)

    def embed(self, clips: torch.Tensor) -> torch.Tensor:
        return self.body(clips.mean((2, 3, 4)))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(clips))


def _first(train: Split, budget: Budget, frames: slice = slice(None)) -> DistilledSet:
    rows = torch.cat([train.indices_of(label)[: budget.ipc] for label in range(budget.classes)])
    return DistilledSet.of_clips(train.clips(rows)[:, frames], train.labels[rows])


@method("first")
class First:
    """The first clips of each class."""

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        return _first(train, budget)


@method("misbehave")
class Misbehave:
    """Does the one thing that ``how`` names."""

    how: str = "raise"
    """raise, nan, shape, frames, labels, nonfinite, none, sleep, stall, slow-once, die, oom, once, child, decline."""
    marker: str = ""
    """A file: with how=once it fails, with how=slow-once it sleeps, until the file exists; with how=child it gets the child's number."""

    def skip(self, info: object, budget: Budget) -> str | None:
        return "declines on principle" if self.how == "decline" else None

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        how = self.how
        good = _first(train, budget)
        if how == "raise":
            raise RuntimeError("a plugin bug")
        if how == "nan":
            return DistilledSet.of_clips(torch.full(good.clips.shape, float("nan")), good.labels)
        if how == "shape":
            return _first(train, budget, slice(0, 2))
        if how == "frames":
            return DistilledSet.of_clips(good.clips.repeat(2, 1, 1, 1, 1), good.labels.repeat(2))
        if how == "labels":
            return DistilledSet.of_clips(good.clips, good.labels + 5)
        if how == "nonfinite":
            context.metrics["loss"] = float("inf")
        if how == "none":
            return None  # type: ignore[return-value]
        if how == "sleep":
            for step in range(600):
                context.progress(step, 600)
                time.sleep(0.1)
        if how == "stall":
            time.sleep(60)
        if how == "die":
            os._exit(9)
        if how == "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(self.marker).write_text(str(child.pid))
        if how == "oom":
            raise torch.OutOfMemoryError("tried to allocate 1 TiB")
        if how == "slow-once" and not Path(self.marker).exists():
            Path(f"{self.marker}.sleeps").touch()
            time.sleep(60)
        if how == "once" and not Path(self.marker).exists():
            raise RuntimeError("not yet")
        return good
