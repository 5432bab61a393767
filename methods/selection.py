"""What the selection methods share: a distilled set of real clips, chosen class by class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness import Budget, Context, DatasetInfo, DistilledSet, Split, embed_clips


def too_few_clips(info: DatasetInfo, budget: Budget) -> str | None:
    """Why real clips cannot fill this budget, or None: no clip may be chosen twice."""
    for name, count in zip(info.classes, info.train_per_class, strict=True):
        if count < budget.ipc:
            return f"class {name!r} has {count} training clips, IPC {budget.ipc} needs {budget.ipc}"
    return None


def select_clips(train: Split, budget: Budget, choose: Callable[[Tensor], Tensor]) -> DistilledSet:
    """The clips at ``choose(rows)`` for every class, as uint8 and with hard labels.

    choose: from the rows (n,) of one class in the training split to the IPC chosen rows. Only chosen clips are read.
    """
    rows = torch.cat([choose(train.indices_of(label)) for label in range(budget.classes)])
    return DistilledSet.of_clips(train.clips(rows), train.labels[rows])


def embed_split(train: Split, teacher: torch.nn.Module, context: Context, unit_length: bool) -> Tensor:
    """Features (N, D) float32 of the training split by the teacher; scaled to unit length on request. Clips are read in batches."""
    features = embed_clips(teacher, train, context.protocol, context.device)
    return torch.nn.functional.normalize(features, dim=1) if unit_length else features
