"""Modes: what guides the denoising, one latent for every video that is generated.

Per class the latents of the training clips are clustered with k = IPC x (videos per instance), and the centres are the modes
(MGD3's mode discovery). Alternatives are real clips near the centres, random clips, and the means of a Gaussian mixture.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from methods.latents import BATCH, Latents

FIT_BYTES = 256 << 20
"""A class whose latents need more than this as float32 is clustered by mini-batches, so that memory does not grow with the class."""
MIXTURE_DIMENSIONS = 32
PASSES = 4


def find_modes(latents: Latents, rows: Tensor, k: int, source: str, seed: int, features: Tensor | None = None) -> Tensor:
    """k modes of one class, whose clips are these rows (n,) of the training split: (k, F, c, h, w) float32 on the CPU.

    source: "kmeans" centroids; "real" the clips nearest to them, all different; "random" clips; "gmm" means of a Gaussian mixture with
    diagonal covariance. features: (n, d) of the class's clips, in their order, in which they are clustered instead of in their latents;
    a centroid is then the mean latent of its clips. A class with fewer than k clips gives its modes in turn.
    """
    clusters = min(k, len(rows))
    if source == "random":
        chosen = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:clusters]]
        modes = torch.cat(list(latents.parts(chosen)))
    else:
        # One thread: these are small problems, and idle OpenMP threads that spin cost far more on a busy machine than they save.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")  # fewer distinct clips than clusters
            if features is None:
                modes = _cluster(latents, rows, clusters, source, seed % 2**32)
            else:
                modes = _cluster_features(latents, rows, features.numpy(), clusters, source, seed % 2**32)
        modes = modes.view(clusters, *latents.shape)
    return modes[torch.arange(k) % clusters]


def _cluster(latents: Latents, rows: Tensor, k: int, source: str, seed: int) -> Tensor:
    if 4 * len(rows) * int(np.prod(latents.shape)) > FIT_BYTES:
        return _cluster_stream(latents, rows, k, source, seed)
    points = torch.cat([part.flatten(1) for part in latents.parts(rows)]).numpy()
    if source == "gmm":
        weights = _responsibilities(points, k, seed)
        return torch.from_numpy((weights.T @ points) / weights.sum(0)[:, None]).float()
    k_means = KMeans(k, n_init=1, random_state=seed).fit(points)
    if source == "real":
        return torch.from_numpy(points[nearest_rows(k_means.transform(points))])
    return torch.from_numpy(k_means.cluster_centers_).float()


def _cluster_features(latents: Latents, rows: Tensor, points: np.ndarray, k: int, source: str, seed: int) -> Tensor:
    """Clusters of the features ``points``; only latents that make a mode are looked at, a part at a time."""
    if source == "gmm":
        weights = _responsibilities(points, k, seed)
    else:
        k_means = KMeans(k, n_init=1, random_state=seed).fit(points)
        if source == "real":
            chosen = rows[torch.from_numpy(nearest_rows(k_means.transform(points)))]
            return torch.cat(list(latents.parts(chosen)))
        weights = np.eye(k)[k_means.labels_]
    shares = torch.from_numpy(weights / np.maximum(weights.sum(0), 1e-12)).float()
    parts = zip(shares.split(BATCH), latents.parts(rows), strict=True)
    return torch.stack([share.T @ part.flatten(1) for share, part in parts]).sum(0)


def _cluster_stream(latents: Latents, rows: Tensor, k: int, source: str, seed: int) -> Tensor:
    """Mini-batch k-means in a few passes over the class; a mixture would need the whole class and falls back to centroids' nearest form."""
    from sklearn.cluster import MiniBatchKMeans

    if source == "gmm":
        raise ValueError("modes=gmm needs all latents of a class in memory and this class is too large for that; use modes=kmeans")
    k_means = MiniBatchKMeans(k, n_init=1, random_state=seed, batch_size=max(BATCH, k))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(PASSES):
        order = rows[torch.randperm(len(rows), generator=generator)]
        for part in order.split(max(BATCH, k)):
            if len(part) >= k:
                k_means.partial_fit(torch.cat([p.flatten(1) for p in latents.parts(part)]).numpy())
    if source != "real":
        return torch.from_numpy(k_means.cluster_centers_).float()
    distances = [k_means.transform(part.flatten(1).numpy()) for part in latents.parts(rows)]
    chosen = rows[torch.from_numpy(nearest_rows(np.concatenate(distances)))]
    return torch.cat([part.flatten(1) for part in latents.parts(chosen)])


def nearest_rows(distances: np.ndarray) -> np.ndarray:
    """For every centre (column) a row, all different, with the least total squared distance."""
    from scipy.optimize import linear_sum_assignment

    rows: np.ndarray = linear_sum_assignment(distances.T**2)[1]
    return rows


def _responsibilities(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """(n, k) of a Gaussian mixture fitted in the leading principal components: the full space has more dimensions than clips.

    The mean of a component in the full space is the mean of the clips, weighted by these.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    pca = PCA(min(MIXTURE_DIMENSIONS, *points.shape), random_state=seed).fit(points)
    mixture = GaussianMixture(k, covariance_type="diag", reg_covar=1e-3, random_state=seed).fit(pca.transform(points))
    weights: np.ndarray = mixture.predict_proba(pca.transform(points))
    return weights
