"""The quality of sets, in a teacher's features: by hand, at its best on the real clips themselves, and poor where a set is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from harness.assets.feature_reference import FeatureReference, Reference, motion_energy
from harness.errors import TaskError
from harness.quality import frechet_distance, measure_quality
from harness.registry import Registry
from tests.tiny import PROTOCOL, ContextFactory, tiny_split

CPU = torch.device("cpu")
TRAIN = tiny_split((4, 1, 16, 16), classes=3, per_class=8)


class Teacher(torch.nn.Module):
    """A fixed random network with features; it knows the class of the training clips."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4 * 256, 12)
        self.known = self.embed(2 * TRAIN.clips().float() / 255 - 1).detach()

    def embed(self, clips: torch.Tensor) -> torch.Tensor:
        return self.layer(clips.flatten(1)).relu()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(self.embed(clips), self.known).argmin(1)
        return 20 * torch.nn.functional.one_hot(TRAIN.labels[nearest], 3).float()


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher().eval()


@pytest.fixture
def reference(teacher: Teacher, tmp_path: Path) -> Reference:
    context = ContextFactory(Registry(), tmp_path).bare(TRAIN, assets={"teacher": teacher})
    asset = FeatureReference()
    return asset.load(asset.build(TRAIN, context), context)


def test_frechet_distance_by_hand() -> None:
    torch.manual_seed(0)
    a = torch.randn(4000, 3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + torch.tensor([1.0, 0.0, 2.0])) == pytest.approx(5, abs=1e-3)
    assert frechet_distance(a, 2 * a) == pytest.approx(float(a.var(0).sum() + (a.mean(0) ** 2).sum()), rel=1e-3)


def test_real_clips_are_of_perfect_quality(teacher: Teacher, reference: Reference) -> None:
    figures = measure_quality(TRAIN.clips(), TRAIN.labels, teacher, reference, PROTOCOL, CPU)
    assert figures["teacher_accuracy"] == figures["coverage"] == 1
    assert figures["teacher_confidence"] == pytest.approx(1)
    assert figures["diversity"] == pytest.approx(1, rel=1e-4)
    assert figures["frechet"] == pytest.approx(0, abs=1e-3)
    assert figures["motion_ratio"] == pytest.approx(1)


def test_a_single_repeated_clip_is_of_poor_quality(teacher: Teacher, reference: Reference) -> None:
    figures = measure_quality(TRAIN.clips([0] * 6), torch.zeros(6).long(), teacher, reference, PROTOCOL, CPU)
    assert figures["diversity"] == pytest.approx(0, abs=1e-5)
    assert 0 < figures["coverage"] < 0.5


def test_clips_of_another_class_are_not_recognised(teacher: Teacher, reference: Reference) -> None:
    figures = measure_quality(TRAIN.clips(), (TRAIN.labels + 1) % 3, teacher, reference, PROTOCOL, CPU)
    assert figures["teacher_accuracy"] == 0
    assert figures["teacher_confidence"] < 1e-6


def test_floating_point_clips_are_measured_as_bytes_are(teacher: Teacher, reference: Reference) -> None:
    """Sets of optimised pixels are float, with white at 1."""
    rows = [0, 1, 2, 5, 7, 9]
    clips, labels = TRAIN.clips(rows), TRAIN.labels[rows]
    as_bytes, as_floats = (measure_quality(c, labels, teacher, reference, PROTOCOL, CPU) for c in (clips, clips.float() / 255))
    assert as_floats == pytest.approx(as_bytes, rel=1e-4)


def test_one_clip_of_a_class_has_no_diversity(teacher: Teacher, reference: Reference) -> None:
    figures = measure_quality(TRAIN.clips([0, 1, 2]), TRAIN.labels[:3], teacher, reference, PROTOCOL, CPU)
    assert figures["diversity"] is None, "unmeasured is not 0"
    assert all(math.isfinite(value) for name, value in figures.items() if name != "diversity")


def test_a_teacher_without_features_is_refused(reference: Reference) -> None:
    blind = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4 * 256, 3))
    with pytest.raises(TaskError, match=r"has no embed\(clips\)"):
        measure_quality(TRAIN.clips(), TRAIN.labels, blind, reference, PROTOCOL, CPU)


def test_motion_energy_by_hand() -> None:
    clips = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).view(1, 4, 1, 1, 1)
    assert motion_energy(clips) == pytest.approx(2 / 3)
    assert motion_energy(clips.float() / 255) == pytest.approx(2 / 3)
    assert motion_energy(clips[:, :1]) == 0
