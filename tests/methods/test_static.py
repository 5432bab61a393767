from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.budget import Budget, audit
from harness.data.base import Split
from harness.distilled import DistilledSet
from harness.registry import Registry
from methods.static import Static
from tests.tiny import SHAPE, ContextFactory, tiny_split

T = SHAPE[0]


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def distill(contexts: ContextFactory, train: Split, method: Static, ipc: int = 2, seed: int = 0) -> tuple[DistilledSet, Tensor]:
    stored = method.distill(train, Budget(ipc, SHAPE, 3), contexts(method, train, seed))
    return stored, method.materialise(dict(DistilledSet.from_bytes(stored.to_bytes()).tensors))


@pytest.mark.parametrize(("frame", "place"), [("first", 0), ("middle", T // 2), ("last", T - 1)])
def test_every_frame_of_a_clip_is_that_frame_of_a_real_clip_of_its_class(contexts: ContextFactory, frame: str, place: int) -> None:
    train = tiny_split()
    stored, clips = distill(contexts, train, Static(frame=frame))  # type: ignore[arg-type]
    assert clips.shape == (6, *SHAPE)
    assert clips.dtype == torch.uint8
    real = train.clips()[:, place]
    rows = []
    for clip, label in zip(clips, stored.labels, strict=True):
        assert (clip == clip[0]).all(), "a static clip moves"
        (row,) = (real == clip[0]).flatten(1).all(1).nonzero().flatten().tolist()
        assert train.labels[row] == label
        rows.append(row)
    assert len(set(rows)) == 6


def test_a_random_frame_is_drawn_for_every_clip(contexts: ContextFactory) -> None:
    train = tiny_split()
    places = set()
    for seed in range(5):
        for clip in distill(contexts, train, Static(frame="random"), seed=seed)[1]:
            places.add(int((train.clips() == clip[0]).flatten(2).all(2).nonzero()[0, 1]))
    assert len(places) >= 5


def test_an_instance_is_charged_one_frame(contexts: ContextFactory) -> None:
    budget = Budget(2, SHAPE, 3)
    stored, _ = distill(contexts, tiny_split(), Static())
    assert audit(stored, budget) == {"frames_stored": 6, "stored_bytes": 6 * 32 * 32, "label_bytes": 0, "videos_trained_on": 6}
    assert budget.frames == 6 * T


def test_as_many_static_clips_as_the_budget_holds_and_no_more(contexts: ContextFactory) -> None:
    train, budget = tiny_split(per_class=8), Budget(1, SHAPE, 3)
    stored, clips = distill(contexts, train, Static(clips=T), ipc=1)
    assert audit(stored, budget)["frames_stored"] == budget.frames
    assert clips.shape == (3 * T, *SHAPE)
    assert stored.labels.bincount().tolist() == [T] * 3
    assert Static(clips=9).skip(train.info, budget) == "clips=9 frames for each instance are more than the 8 that the budget allows"
    assert Static(clips=8).skip(train.info, Budget(2, SHAPE, 3)) == "class 'class-0' has 8 training clips, IPC 2 needs 16"
    with pytest.raises(ValueError, match="clips must be at least 1"):
        Static(clips=0)
