"""The feature reference: real training clips in a teacher's features, which the quality of every distilled set is measured against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.data.base import Clips, Split, read_clips
from harness.data.info import DatasetInfo
from harness.plugin import Asset, Context, asset
from harness.protocol import TrainingProtocol
from harness.training import embed_clips

NEIGHBOURS = 5
DIMENSIONS = 32
SAMPLES = 6000
"""Training clips that are described, evenly spaced; all where there are fewer."""
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
    """Real training clips in a teacher's features: what the quality of distilled sets is measured against."""

    uses_protocol = True  # the teacher's recipe is part of its key

    teacher: str = ""
    """Evaluator network of the teacher, trained on the full training split; empty: the run's teacher."""

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"teacher": Asset("teacher", {"evaluator": self.teacher})}

    def build(self, train: Split, context: Context) -> dict[str, Tensor]:
        """The fields of ``Reference``, ``motion`` as a tensor of one value."""
        if len(train) > SAMPLES:
            train = train.subset(torch.linspace(0, len(train) - 1, SAMPLES).long().unique())
        features = embed_clips(context.assets["teacher"], train, in_small_batches(context.protocol), context.device)
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


def motion_energy(clips: Tensor | Clips) -> float:
    """Mean absolute difference of successive frames, in units of black to white; clips are uint8, or float with white at 1."""
    total, count = 0.0, 0
    for start in range(0, len(clips), BATCH):
        batch = read_clips(clips, slice(start, min(start + BATCH, len(clips))))
        batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
        if batch.shape[1] > 1:
            difference = batch.diff(dim=1).abs()
            total, count = total + float(difference.sum()), count + difference.numel()
    return total / max(count, 1)


def in_small_batches(protocol: TrainingProtocol) -> TrainingProtocol:
    """The protocol with test batches of at most ``BATCH`` clips."""
    return protocol.model_copy(update={"test_batch": min(BATCH, protocol.test_batch)})
