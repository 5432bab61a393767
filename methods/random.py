"""Random: real training clips drawn uniformly, the floor that every distillation method has to beat.

Per class, IPC clips are drawn without replacement. No part of it is learned. With ``compose`` (methods/compose.py) it draws as many
clips for every instance, and is the control of methods that compose.

    python -m harness run --methods 'random,random[layout=grid,compose=4]' --ipc 1,5,10

Reported: no figure that is confirmed by a paper. The log of an independent DM run gives 11.5 ± 0.7 % for the real clips it starts from
(MiniUCF, IPC 1, ConvNet3D, five networks on one draw).
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness import Budget, Context, DatasetInfo, DistilledSet, Split, method
from methods.compose import Composed
from methods.selection import select_clips, too_few_clips


@method("random")
class Random(Composed):
    """Real clips drawn uniformly, without replacement, from each class."""

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        return self.unfit(budget) or too_few_clips(info, budget, self.compose)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        def choose(rows: Tensor) -> Tensor:
            return rows[torch.randperm(len(rows), generator=context.generator)[: budget.ipc * self.compose]]

        return select_clips(train, budget, choose, context, self)
