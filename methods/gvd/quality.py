"""Quality of a generated set, in the features of a teacher: recognised, diverse, covering, close in distribution, moving as much.

Real clips are described once, by the asset ``feature_reference``; sets of any method could be measured against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import Asset, Context, DatasetInfo, Split, asset, embed_clips, predict_logits

NEIGHBOURS = 5
DIMENSIONS = 32
SAMPLES = 6000
BATCH = 16
"""Clips that are looked at a time, so that memory does not grow with the set."""


@dataclass(frozen=True)
class Reference:
    """Real training clips in the leading principal components of a teacher's features.

    components (D, d) and mean (D,) project features; points (n, d) and labels (n,) are real clips; radii (n,) their distances to the
    NEIGHBOURS-th nearest clip of their class; spread (classes,) the mean distance between two clips of a class; motion the mean absolute
    difference of successive frames, in [0, 1].
    """

    components: Tensor
    mean: Tensor
    points: Tensor
    labels: Tensor
    radii: Tensor
    spread: Tensor
    motion: float


@asset("feature_reference")
class FeatureReference:
    """Real training clips in a teacher's features: what the quality of generated sets is measured against."""

    uses_protocol = True  # the teacher's recipe is part of its key

    teacher: str = "convnet3d"
    """The teacher's network."""

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"teacher": Asset("teacher", {"evaluator": self.teacher})}

    def build(self, train: Split, context: Context) -> dict[str, Tensor]:
        if len(train) > SAMPLES:
            train = train.subset(torch.linspace(0, len(train) - 1, SAMPLES).long().unique())
        features = embed_clips(context.assets["teacher"], train, in_parts(context), context.device)
        mean = features.mean(0)
        dimensions = min(DIMENSIONS, *features.shape)
        components = torch.linalg.svd(features - mean, full_matrices=False)[2][:dimensions].T.contiguous()
        points = (features - mean) @ components
        radii, spread = torch.zeros(len(points)), torch.zeros(len(train.info.classes))
        for label in train.labels.unique().tolist():
            rows = train.indices_of(label)
            distances = torch.cdist(points[rows], points[rows])
            nearest = distances.sort(dim=1).values
            radii[rows] = nearest[:, min(NEIGHBOURS, len(rows) - 1)]
            spread[label] = mean_distance(distances)
        motion = torch.tensor([motion_energy(train)])
        return {
            "components": components, "mean": mean, "points": points, "labels": train.labels,
            "radii": radii, "spread": spread, "motion": motion,
        }  # fmt: skip

    def load(self, tensors: dict[str, Tensor], context: Context) -> Reference:
        return Reference(**{name: t for name, t in tensors.items() if name != "motion"}, motion=float(tensors["motion"]))


def mean_distance(distances: Tensor) -> Tensor:
    """Mean distance between two different members, from their square matrix; 0 for a single one."""
    n = len(distances)
    return distances.sum() / max(n * (n - 1), 1)


def motion_energy(clips: Tensor | Split) -> float:
    """Mean absolute difference of successive frames, in units of black to white."""
    total, count = 0.0, 0
    for start in range(0, len(clips), BATCH):
        rows = slice(start, min(start + BATCH, len(clips)))
        batch = (clips.clips(rows) if isinstance(clips, Split) else clips[rows]).float() / 255
        if batch.shape[1] > 1:
            difference = batch.diff(dim=1).abs()
            total, count = total + float(difference.sum()), count + difference.numel()
    return total / max(count, 1)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance of Gaussians fitted to two sets of points (n, d) and (m, d), n and m at least 2.

    |mean_a - mean_b|^2 + trace(A + B - 2 (A^1/2 B A^1/2)^1/2), in float64. For small sets it is biased upward: compare sets of one size.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    root = _root(cov_a)
    cross = _root(root @ cov_b @ root)
    return float((a.mean(0) - b.mean(0)).square().sum() + (cov_a + cov_b - 2 * cross).trace())


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def measure_quality(
    clips: Tensor, labels: Tensor, logits: Tensor, teacher: Any, reference: Reference, context: Context
) -> dict[str, float]:
    """Quality figures of a set (N, T, C, H, W) uint8 with labels (N,) and the teacher's logits on it.

    teacher_accuracy: part that the teacher recognises as its class. teacher_confidence: mean probability of that class. diversity: mean
    distance between two clips of a class, relative to real clips (0 at IPC 1). coverage: part of the real training clips with a generated
    clip of their class among their nearest 5 neighbours. frechet: Frechet distance to the real clips. motion_ratio: motion energy relative
    to real clips.
    """
    points = (embed_clips(teacher, clips, in_parts(context), context.device) - reference.mean) @ reference.components
    covered, diversity = torch.zeros(len(reference.points), dtype=torch.bool), []
    for label in labels.unique().tolist():
        mine, real = points[labels == label], reference.labels == label
        covered[real] = torch.cdist(reference.points[real], mine).amin(dim=1) <= reference.radii[real]
        diversity.append(mean_distance(torch.cdist(mine, mine)) / reference.spread[label].clamp(min=1e-12))
    probabilities = logits.softmax(1)
    return {
        "teacher_accuracy": float((logits.argmax(1) == labels).float().mean()),
        "teacher_confidence": float(probabilities.gather(1, labels[:, None]).mean()),
        "diversity": float(torch.stack(diversity).mean()),
        "coverage": float(covered.float().mean()),
        "frechet": frechet_distance(points, reference.points),
        "motion_ratio": motion_energy(clips) / max(reference.motion, 1e-12),
    }


def label_clips(teacher: Any, clips: Tensor | Split, context: Context) -> Tensor:
    """The teacher's logits (N, classes)."""
    return predict_logits(teacher, clips, in_parts(context), context.device)


def in_parts(context: Context) -> Any:
    """The protocol with small test batches."""
    return context.protocol.model_copy(update={"test_batch": min(BATCH, context.protocol.test_batch)})
