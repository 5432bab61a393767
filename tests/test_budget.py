"""The audit, against figures worked out by hand."""

from __future__ import annotations

import pytest
import torch

from harness.budget import Budget, audit, charged_frames, charged_values
from harness.distilled import DistilledSet
from harness.errors import BudgetError, DistilledSetError

SHAPE = (8, 1, 32, 32)
BUDGET = Budget(ipc=2, clip_shape=SHAPE, classes=3)


def plain(n: int, dtype: torch.dtype = torch.uint8) -> DistilledSet:
    return DistilledSet.of_clips(torch.zeros(n, *SHAPE, dtype=dtype), torch.arange(n) % 3)


def test_the_budget_of_miniucf_at_ipc_20_is_16000_frames() -> None:
    budget = Budget(20, (16, 3, 112, 112), 50)
    assert budget.frames == 16_000 and round(100 * budget.frames / 806_443, 3) == 1.984
    assert budget.bytes // budget.clips == 2_408_448  # one clip is 2.408 MB of raw float32


def test_a_set_within_its_budget() -> None:
    assert audit(plain(6), BUDGET) == {"frames_stored": 48, "stored_bytes": 6 * 8 * 1024, "label_bytes": 0, "videos_trained_on": 6}
    soft = DistilledSet.of_clips(plain(6).clips, plain(6).labels, torch.zeros(6, 3))
    assert audit(soft, BUDGET)["label_bytes"] == 6 * 3 * 4


def test_over_budget_is_refused_with_the_figures() -> None:
    with pytest.raises(BudgetError, match=r"stores 56 frames, the budget allows 48"):
        audit(plain(7), BUDGET)
    lopsided = DistilledSet.of_clips(plain(6).clips, torch.tensor([0, 0, 0, 1, 1, 2]))
    with pytest.raises(BudgetError, match="class 0 has 3 clips, the budget allows IPC 2"):
        audit(lopsided, BUDGET)
    with pytest.raises(BudgetError, match="bytes"):
        audit(plain(6, torch.float64), BUDGET)


def test_other_forms_are_charged_for_their_bytes() -> None:
    latents = DistilledSet({"latents": torch.zeros(12, 1000)}, torch.arange(12) % 3)
    assert charged_frames(latents, BUDGET) == 12  # 48,000 bytes over 4,096 a frame, rounded up
    assert audit(latents, BUDGET)["videos_trained_on"] == 12
    with pytest.raises(BudgetError):
        audit(DistilledSet({"latents": torch.zeros(49, 1024)}, torch.zeros(49, dtype=torch.int64)), BUDGET)


CLASSES = torch.arange(3).repeat_interleave(8)
"""Labels of 24 clips, four times those of the budget."""


@pytest.mark.parametrize("name", ["pixels", "latents", "mosaics"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_pictures_are_charged_by_their_number_whatever_they_are_called(name: str, dtype: torch.dtype) -> None:
    """Full-size clips cost the same frames in any type; as many as the budget pass, one frame more does not."""
    pictures = torch.zeros(6, *SHAPE, dtype=dtype)
    assert audit(DistilledSet({name: pictures}, CLASSES), BUDGET)["frames_stored"] == 48
    with pytest.raises(BudgetError, match="stores 49 frames, the budget allows 48"):
        audit(DistilledSet({name: pictures, "more": torch.zeros(1, 1, 32, 32, dtype=dtype)}, CLASSES), BUDGET)
    with pytest.raises(BudgetError, match="stores 192 frames"):
        audit(DistilledSet({name: torch.zeros(24, *SHAPE, dtype=dtype)}, CLASSES), BUDGET)


def test_pixels_packed_into_wider_integers_save_nothing() -> None:
    packed = torch.zeros(24, *SHAPE, dtype=torch.uint8).view(torch.int32)
    with pytest.raises(BudgetError, match="stores 192 frames"):
        audit(DistilledSet({"codes": packed}, CLASSES), BUDGET)


def test_plain_clips_are_not_a_place_to_hide() -> None:
    clips = torch.zeros(6, *SHAPE, dtype=torch.uint8)
    stored = DistilledSet({"clips": clips, "extra": clips.clone()}, plain(6).labels)
    with pytest.raises(BudgetError, match="stores 96 frames"):
        audit(stored, BUDGET)


def test_what_is_no_picture_is_charged_by_its_bytes() -> None:
    """A memory of motion in half precision, beside still images: 4 frames of images and 20 of memory, which count half."""
    tensors = {"static": torch.zeros(4, 1, 32, 32).half(), "memory": torch.zeros(20, 1, 32, 32).half(), "weight": torch.zeros(10)}
    stored = DistilledSet(tensors, CLASSES, not_pixels=frozenset({"memory", "weight"}))
    stored.validate(SHAPE, 3)
    assert charged_values(stored) == 4 * 1024 + 10 * 1024 + 10
    assert charged_frames(stored, BUDGET) == 15
    assert charged_frames(DistilledSet(tensors, CLASSES), BUDGET) == 25, "undeclared: one for one"
    for wrong in ("nothing", "codes"):
        made = DistilledSet({**tensors, "codes": torch.zeros(3, dtype=torch.uint8)}, CLASSES, not_pixels=frozenset({wrong}))
        with pytest.raises(DistilledSetError, match=f"not_pixels names '{wrong}'"):
            made.validate(SHAPE, 3)


def test_sets_survive_storage() -> None:
    before = DistilledSet.of_clips(torch.randint(0, 256, (6, *SHAPE), dtype=torch.uint8), torch.arange(6) % 3, torch.randn(6, 3))
    after = DistilledSet.from_bytes(before.to_bytes())
    assert torch.equal(after.clips, before.clips) and torch.equal(after.labels, before.labels)
    assert torch.equal(after.soft_labels, before.soft_labels)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (DistilledSet({}, torch.zeros(1, dtype=torch.int64)), "empty"),
        (DistilledSet.of_clips(torch.zeros(2, *SHAPE), torch.zeros(2)), "int64"),
        (DistilledSet.of_clips(torch.zeros(2, *SHAPE), torch.tensor([0, 3])), r"\[0, 3\)"),
        (DistilledSet.of_clips(torch.zeros(2, 4, 1, 32, 32), torch.tensor([0, 1])), "must have shape"),
        (DistilledSet.of_clips(torch.zeros(2, *SHAPE, dtype=torch.int32), torch.tensor([0, 1])), "uint8 or floating"),
        (DistilledSet.of_clips(torch.full((2, *SHAPE), float("inf")), torch.tensor([0, 1])), "NaN or infinite"),
        (DistilledSet.of_clips(torch.zeros(2, *SHAPE), torch.tensor([0, 1]), torch.zeros(2, 4)), "soft labels must have shape"),
        (DistilledSet({"__labels__": torch.zeros(1)}, torch.zeros(1, dtype=torch.int64)), "may not start with"),
    ],
)
def test_malformed_sets_are_refused(made: DistilledSet, reason: str) -> None:
    with pytest.raises(DistilledSetError, match=reason):
        made.validate(SHAPE, 3)
