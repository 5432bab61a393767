"""k-means, nearest real clip: mode discovery without generation, the ablation that a generative method has to beat.

The clips of each class are clustered by k-means with k = IPC (times the videos of an instance, where it composes), and the real clip
nearest to each centroid is kept. With ``space=latent`` that is the "mode discovery only" row of MGD3 (Chan-Santiago et al., ICML 2025,
arXiv 2505.18963), which clusters a diffusion model's latents, moved to video and to the latents that GVD works in; in a teacher's
features, the default, it is a selection of its own, which sees motion where the teacher does.

    python -m harness run --methods 'k_means_real,k_means_real[space=latent],gvd,random' --ipc 1,5,10

Reported for images (MGD3, ImageNette, IPC 10, ResNetAP-10): nearest real images 57.1 %, with guidance 63.8, with stop guidance 66.4.
For video: nothing confirmed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from harness import Asset, Budget, Context, DatasetInfo, DistilledSet, Split, method
from methods.compose import Composed
from methods.latents import codec_asset, latent_assets, latents_of
from methods.selection import embed_split, select_clips, too_few_clips


@method("k_means_real")
class KMeansReal(Composed):
    """The real clips nearest to each class's k-means centroids."""

    space: Literal["teacher", "pixels", "latent"] = "teacher"
    """Cluster the features of a teacher, the pixels, or GVD's latents (MGD3); of the last two a class at a time is in memory as float32."""
    teacher: str = ""
    """Evaluator network whose features are clustered, trained on the full training split; empty: the run's teacher."""
    codec: Path | str = "patch"
    """The latents: the kind of the asset latent_codec (patch, identity, autoencoder, or a diffusers autoencoder)."""
    size: tuple[int, int, int] = (0, 0, 0)
    """Frames, height and width at which a pretrained autoencoder works; 0: its own."""
    restarts: int = 1
    """k-means++ starts of which the best is kept; 1 is what scikit-learn's n_init="auto", as in MGD3, means."""

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        if self.space == "teacher":
            return {"teacher": Asset("teacher", {"evaluator": self.teacher})}
        if self.space == "latent":
            return {"codec": codec_asset(self.codec, self.size), **latent_assets(self.codec, self.size)}
        return {}

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        return self.unfit(budget) or too_few_clips(info, budget, self.compose)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        points_of = self._points(train, context)

        def choose(rows: Tensor) -> Tensor:
            return rows[nearest_to_centroids(points_of(rows), budget.ipc * self.compose, context.seed, self.restarts)]

        return select_clips(train, budget, choose, context, self)

    def _points(self, train: Split, context: Context) -> Callable[[Tensor], Tensor]:
        """What gives the points (n, D) float32 of these clips."""
        if self.space == "teacher":
            features = embed_split(train, context.assets["teacher"], context, unit_length=False)
            return lambda rows: features[rows]
        if self.space == "latent":
            latents = latents_of(context.assets["codec"], train, context)
            return lambda rows: torch.cat([part.flatten(1) for part in latents.parts(rows)])
        return lambda rows: train.clips(rows).flatten(1).float() / 255


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
