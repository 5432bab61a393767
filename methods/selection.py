"""What the selection methods share: a distilled set of real clips, chosen class by class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness import Budget, Context, DatasetInfo, DistilledSet, Split, embed_clips
from methods.compose import Composed

BATCH = 16
"""Clips that are copied at a time."""


def too_few_clips(info: DatasetInfo, budget: Budget, compose: int = 1) -> str | None:
    """Why real clips cannot fill this budget, with so many videos in an instance, or None: no clip may be chosen twice."""
    needed = budget.ipc * compose
    for name, count in zip(info.classes, info.train_per_class, strict=True):
        if count < needed:
            return f"class {name!r} has {count} training clips, IPC {budget.ipc} needs {needed}"
    return None


def select_clips(
    train: Split, budget: Budget, choose: Callable[[Tensor], Tensor], context: Context, composed: Composed | None = None
) -> DistilledSet:
    """The clips at ``choose(rows)`` for every class, as uint8 and with hard labels, composed where the method composes.

    choose: from the rows (n,) of one class in the training split to the rows of its IPC x compose videos. Only chosen clips are read, a few
    at a time.
    """
    composed = composed or Composed()
    instances, first = composed.room(budget, context), 0
    for part in choose_rows(train, budget, choose).split(BATCH):
        composed.place(instances, train.clips(part), first)
        first += len(part)
    return composed.stored(instances, torch.arange(budget.classes).repeat_interleave(budget.ipc))


def choose_rows(train: Split, budget: Budget, choose: Callable[[Tensor], Tensor]) -> Tensor:
    """The rows that ``choose`` takes of every class, class by class."""
    return torch.cat([choose(train.indices_of(label)) for label in range(budget.classes)])


def embed_split(train: Split, teacher: torch.nn.Module, context: Context, unit_length: bool) -> Tensor:
    """Features (N, D) float32 of the training split by the teacher; scaled to unit length on request. Clips are read in batches."""
    features = embed_clips(teacher, train, context.protocol, context.device)
    return torch.nn.functional.normalize(features, dim=1) if unit_length else features
