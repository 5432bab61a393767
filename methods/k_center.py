"""K-Center: real clips that leave no clip of their class far away in feature space (greedy k-center).

Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; Sener and Savarese, ICLR 2018, as core-set selection; a
baseline of video dataset distillation in Wang et al. (VDSD), CVPR 2024. With features of a network trained on the full training split:
the first centre is the clip nearest to the class mean; then, again and again, the clip whose distance to its nearest centre is largest.
(The loop released with VDSD collapses the distances to one number from the second centre on; this one follows the definition.)

    python -m harness run --methods k_center,random --ipc 1,5,10

Reported: no figure that is confirmed by a source.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from harness import Asset, Budget, Choice, Context, DatasetInfo, DistilledSet, Split, method
from methods.selection import embed_split, select_clips, too_few_clips


@method("k_center")
class KCenter:
    """Real clips that cover their class in feature space (greedy k-center)."""

    deterministic = True

    teacher: str = ""
    """Evaluator network in whose features distances are taken, trained on the full training split; empty: the run's teacher."""
    unit_length: Annotated[bool, Choice(False, True)] = False
    """Scale every feature to length 1 first; the video baseline does not."""

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"teacher": Asset("teacher", {"evaluator": self.teacher})}

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        return too_few_clips(info, budget)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        features = embed_split(train, context.assets["teacher"], context, self.unit_length)
        return select_clips(train, budget, lambda rows: rows[cover(features[rows], budget.ipc)], context)


def cover(features: Tensor, k: int) -> Tensor:
    """Indices (k,) of the centres among the rows of ``features`` (n, D), in the order of choice; ties go to the lower index."""
    f = features.double()
    centres = [int((f - f.mean(0)).norm(dim=1).argmin())]
    nearest = torch.full((len(f),), torch.inf, dtype=f.dtype)  # distance of each clip to its nearest centre
    for _ in range(1, k):
        nearest = torch.minimum(nearest, (f - f[centres[-1]]).norm(dim=1))
        nearest[centres[-1]] = -1.0  # never a second time, also where clips coincide
        centres.append(int(nearest.argmax()))
    return torch.tensor(centres)
