"""k-means, nearest real clip: mode discovery without generation, the ablation that a generative method has to beat.

The clips of each class are clustered by k-means with k = IPC, and the real clip nearest to each centroid is kept. This is the "mode
discovery only" row of MGD3 (Chan-Santiago et al., ICML 2025, arXiv 2505.18963), moved to video.

    python -m harness run --methods k_means_real,gvd,random --ipc 1,5,10

Reported for images (MGD3, ImageNette, IPC 10, ResNetAP-10): nearest real images 57.1 %, with guidance 63.8, with stop guidance 66.4.
For video: nothing confirmed.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from harness import Asset, Budget, Context, DatasetInfo, DistilledSet, Split, method
from methods.selection import embed_split, select_clips, too_few_clips


@method("k_means_real")
class KMeansReal:
    """The real clips nearest to each class's k-means centroids (MGD3's modes, without generation)."""

    space: Literal["teacher", "pixels"] = "teacher"
    """Cluster the features of a teacher, or the pixels (one class at a time in memory as float32)."""
    teacher: str = ""
    """Evaluator network whose features are clustered, trained on the full training split; empty: the run's teacher. Not used on pixels."""
    restarts: int = 1
    """k-means++ starts of which the best is kept; 1 is what scikit-learn's n_init="auto", as in MGD3, means."""

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"teacher": Asset("teacher", {"evaluator": self.teacher})} if self.space == "teacher" else {}

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        return too_few_clips(info, budget)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        if self.space == "teacher":
            features = embed_split(train, context.assets["teacher"], context, unit_length=False)

        def choose(rows: Tensor) -> Tensor:
            points = features[rows] if self.space == "teacher" else train.clips(rows).flatten(1).float() / 255
            return rows[nearest_to_centroids(points, budget.ipc, context.seed, self.restarts)]

        return select_clips(train, budget, choose)


def nearest_to_centroids(points: Tensor, k: int, seed: int, restarts: int = 1) -> Tensor:
    """Indices (k,), all different, of the rows of ``points`` (n, D) nearest to their k-means centroids.

    Where one row is the nearest to two centroids, the assignment with the least total squared distance decides.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # identical clips: fewer than k distinct centroids, still k distinct rows
        k_means = KMeans(k, n_init=restarts, random_state=seed % 2**32).fit(points.numpy())
    to_centroid = k_means.transform(points.numpy())  # (n, k)
    return torch.from_numpy(linear_sum_assignment(to_centroid.T**2)[1])
