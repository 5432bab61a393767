"""Quality of a distilled set, in the features of a teacher: recognised, diverse, covering, close in distribution, moving as much.

The set's clips alone are measured, whatever method made them; real clips are described once, by the asset ``feature_reference``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.assets.feature_reference import Reference, in_small_batches, mean_distance, motion_energy
from harness.data.base import Clips
from harness.protocol import TrainingProtocol
from harness.training import embed_clips, predict_logits


def measure_quality(
    clips: Tensor | Clips, labels: Tensor, teacher: nn.Module, reference: Reference, protocol: TrainingProtocol, device: torch.device
) -> dict[str, float | None]:
    """Quality figures of a set: clips (N, T, C, H, W), uint8 or float with white at 1, with labels (N,), at least two clips.

    teacher_accuracy: share of the clips that the teacher recognises as their class. teacher_confidence: mean probability of that class.
    diversity: mean distance between two clips of a class, relative to real clips; None where no class has two. coverage: share of the real
    training clips with a clip of the set of their class no farther than their 5th nearest neighbour. frechet: Frechet distance to the real
    clips. motion_ratio: motion energy relative to real clips. Raises TaskError where the teacher has no ``embed``.
    """
    small = in_small_batches(protocol)
    logits = predict_logits(teacher, clips, small, device)
    points = (embed_clips(teacher, clips, small, device) - reference.mean) @ reference.components
    covered, diversity = torch.zeros(len(reference.points), dtype=torch.bool), []
    for label in labels.unique().tolist():
        mine, real = points[labels == label], reference.labels == label
        covered[real] = torch.cdist(reference.points[real], mine).amin(dim=1) <= reference.radii[real]
        if len(mine) > 1:
            diversity.append(mean_distance(torch.cdist(mine, mine)) / reference.spread[label].clamp(min=1e-12))
    return {
        "teacher_accuracy": float((logits.argmax(1) == labels).float().mean()),
        "teacher_confidence": float(logits.softmax(1).gather(1, labels[:, None]).mean()),
        "diversity": float(torch.stack(diversity).mean()) if diversity else None,
        "coverage": float(covered.float().mean()),
        "frechet": frechet_distance(points, reference.points),
        "motion_ratio": motion_energy(clips) / max(reference.motion, 1e-12),
    }


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
