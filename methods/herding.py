"""Herding: greedy selection of real clips whose mean feature follows the mean of their class.

Welling, "Herding dynamical weights to learn", ICML 2009; as a selection baseline of video dataset distillation in Wang et al.,
"Dancing with Still Images: Video Distillation via Static-Dynamic Disentanglement" (VDSD), CVPR 2024. With features f of a network trained
on the full training split and mu their mean over the class, step i = 1, 2, ... chooses the unused clip that minimises

    || i mu - sum(chosen f) - f ||_2

    python -m harness run --methods herding,random --ipc 1,5,10

Reported (PRISM's table, arXiv 2505.22564; ConvNet3D): MiniUCF 13.2 / 26.3 / 33.7 % and HMDB51 3.0 / 9.0 / 10.8 % at IPC 1 / 5 / 10.
At MiniUCF IPC 10 that is above DM (30.0) and PRISM (31.0).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from harness import Asset, Budget, Choice, Context, DatasetInfo, DistilledSet, Split, method
from methods.compose import Composed
from methods.selection import embed_split, select_clips, too_few_clips


@method("herding")
class Herding(Composed):
    """Real clips whose mean feature follows the class mean (Welling 2009)."""

    deterministic = True

    teacher: str = ""
    """Evaluator network whose features are herded, trained on the full training split; empty: the run's teacher."""
    unit_length: Annotated[bool, Choice(False, True)] = False
    """Scale every feature to length 1 first, as DeepCore and iCaRL do; the video baseline does not."""

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"teacher": Asset("teacher", {"evaluator": self.teacher})}

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        return self.unfit(budget) or too_few_clips(info, budget, self.compose)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        features = embed_split(train, context.assets["teacher"], context, self.unit_length)
        videos = budget.ipc * self.compose
        return select_clips(train, budget, lambda rows: rows[herd(features[rows], videos)], context, self)


def herd(features: Tensor, k: int) -> Tensor:
    """Indices (k,) of the herded rows of ``features`` (n, D), in the order in which they are chosen; ties go to the lower index."""
    f = features.double()
    mu = f.mean(0)
    total = torch.zeros_like(mu)
    unused = torch.ones(len(f), dtype=torch.bool)
    chosen = []
    for i in range(1, k + 1):
        distance = (i * mu - total - f).norm(dim=1)
        best = int(distance.masked_fill(~unused, torch.inf).argmin())
        chosen.append(best)
        unused[best] = False
        total += f[best]
    return torch.tensor(chosen)
