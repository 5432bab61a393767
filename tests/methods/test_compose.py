"""Composition of several videos in one instance: by hand, against torch's resizing, and through every method that shares it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from harness.budget import Budget, audit
from harness.clip_writer import ClipWriter
from harness.errors import BudgetError
from harness.registry import Registry
from harness.tasks.common import materialise
from harness.tasks.distill import stored_clips
from harness.training import train_network
from methods.compose import MOSAICS, Composed, part
from methods.random import Random
from tests.tiny import PROTOCOL, SHAPE, ContextFactory, tiny_split

METHODS = ("random", "k_means_real", "herding", "rded")
SMALL = {"rded": {"pool": 6, "crops": 2}}


def test_parts_cover_an_instance_once() -> None:
    for length, parts in ((8, 1), (8, 2), (8, 3), (16, 5), (4, 4), (32, 3)):
        assert [f for j in range(parts) for f in range(length)[part(length, parts, j)]] == list(range(length))


def room(tmp_path: Path, clips: int, shape: tuple[int, int, int, int], composed: Composed) -> ClipWriter:
    return ClipWriter(tmp_path / "room.uint8", (clips, *shape), composed.compose)


def test_in_time_by_hand(tmp_path: Path) -> None:
    clips = torch.arange(4).view(4, 1, 1, 1, 1).expand(4, 4, 1, 2, 2) * 10 + torch.arange(4).view(1, 4, 1, 1, 1)
    composed = Composed(2)
    storage = room(tmp_path, 2, (4, 1, 2, 2), composed)
    composed.place(storage, clips[:1].to(torch.uint8), 0)  # in two micro-batches that do not end with an instance
    composed.place(storage, clips[1:].to(torch.uint8), 1)
    assert storage.whole()[:, :, 0, 0, 0].tolist() == [[0, 1, 12, 13], [20, 21, 32, 33]]
    assert torch.equal(composed.clips_of(storage).clips(), storage.whole()) and len(composed.clips_of(storage)) == 2


def test_in_space_by_hand(tmp_path: Path) -> None:
    """Four flat videos fill the quarters of a mosaic and come back whole."""
    flat = torch.tensor([10, 20, 30, 40], dtype=torch.uint8).view(4, 1, 1, 1, 1).expand(4, 2, 1, 4, 4)
    composed = Composed(4, "grid")
    storage = room(tmp_path, 1, (2, 1, 4, 4), composed)
    composed.place(storage, flat, 0)
    assert storage.whole()[0, 1, 0].tolist() == [[10, 10, 20, 20], [10, 10, 20, 20], [30, 30, 40, 40], [30, 30, 40, 40]]
    videos = composed.clips_of(storage)
    assert torch.equal(videos.clips(), flat) and torch.equal(videos.clips([3, 1]), flat[[3, 1]]) and len(videos) == 4


def test_some_frames_of_each_by_hand(tmp_path: Path) -> None:
    """Two videos of eight frames keep frames 1, 3, 5, 7, the middles of four parts, and come back with what lies between."""
    ramps = torch.stack([torch.arange(8) * 10, 200 - torch.arange(8) * 10]).to(torch.uint8).view(2, 8, 1, 1, 1).expand(2, 8, 1, 2, 2)
    composed = Composed(2, "thin")
    storage = room(tmp_path, 1, (8, 1, 2, 2), composed)
    composed.place(storage, ramps, 0)
    assert storage.whole()[0, :, 0, 0, 0].tolist() == [10, 30, 50, 70, 190, 170, 150, 130]
    made = composed.clips_of(storage).clips()
    places = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    expected = [np.round(np.interp(places, np.arange(4), kept)).astype(int).tolist() for kept in ([10, 30, 50, 70], [190, 170, 150, 130])]
    assert made[:, :, 0, 0, 0].tolist() == expected and made.shape == ramps.shape


def test_a_colour_channel_each_against_pillow(tmp_path: Path) -> None:
    clips = torch.randint(0, 256, (3, 2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    composed = Composed(3, "gray")
    storage = room(tmp_path, 1, (2, 3, 4, 4), composed)
    composed.place(storage, clips, 0)
    made = composed.clips_of(storage).clips()
    assert made.shape == clips.shape and all(torch.equal(made[:, :, 0], made[:, :, c]) for c in (1, 2))
    for clip, gray in zip(clips, made, strict=True):
        for frame, got in zip(clip, gray[:, 0], strict=True):
            pillow = np.asarray(Image.fromarray(frame.permute(1, 2, 0).numpy()).convert("L")).astype(int)
            assert np.abs(pillow - got.numpy()).max() <= 1  # pillow rounds its weights to 1 / 65,536
    without_colour = clips[:, :, :1].expand(-1, -1, 3, -1, -1)
    composed.place(storage, without_colour, 0)
    assert torch.equal(composed.clips_of(storage).clips(), without_colour), "nothing is lost where there is no colour"
    assert "as many videos as there are colour channels" in str(composed.unfit(Budget(1, (2, 1, 4, 4), 2)))


@pytest.mark.parametrize(("compose", "size"), [(4, 32), (9, 32), (4, 15)])
def test_tiles_are_resized_bilinearly(compose: int, size: int, tmp_path: Path) -> None:
    """Down without aliasing, up as torch does it; a side that is not divided gives tiles of unequal size."""
    clips = torch.randint(0, 256, (compose, 3, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    composed = Composed(compose, "grid")
    storage = room(tmp_path, 1, (3, 1, size, size), composed)
    composed.place(storage, clips, 0)
    made = composed.clips_of(storage).clips()
    assert made.shape == clips.shape and made.dtype == torch.uint8
    n = composed.side
    for j in range(compose):
        rows, columns = (slice(k * size // n, (k + 1) * size // n) for k in (j // n, j % n))
        tile = storage.whole()[0, :, :, rows, columns]
        small = F.interpolate(clips[j].float(), tile.shape[-2:], mode="bilinear", antialias=True)
        assert torch.equal(tile, small.round().to(torch.uint8))
        large = F.interpolate(tile.float(), (size, size), mode="bilinear")
        assert (made[j].float() - large).abs().max() <= 0.51


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"square \(1, 4, 9 \.\.\.\)"):
        Composed(3, "grid")
    with pytest.raises(ValueError, match="at least 1"):
        Composed(0)
    budget = Budget(1, (8, 1, 4, 4), 3)
    assert Composed(9).unfit(budget) == "compose=9 videos do not fit into 8 frames"
    assert Composed(25, "grid").unfit(budget) == "compose=25 videos do not fit into 4x4 pixels"
    assert Composed(8).unfit(budget) is None and Composed(16, "grid").unfit(budget) is None
    info = tiny_split(per_class=6).info
    assert Random(4, "grid").skip(info, Budget(1, SHAPE, 3)) is None
    assert Random(4, "grid").skip(info, Budget(2, SHAPE, 3)) == "class 'class-0' has 6 training clips, IPC 2 needs 8"


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path_factory.mktemp("compose"), small=SMALL)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_that_shares_it(name: str, contexts: ContextFactory) -> None:
    """A grid costs the budget's frames and bytes, has the videos of its class, and a label for each."""
    train, budget = tiny_split(per_class=6), Budget(1, SHAPE, 3)
    plugin: Any = contexts.create("method", f"{name}[layout=grid,compose=4]")
    stored = plugin.distill(train, budget, contexts(plugin, train))
    stored.validate(SHAPE, 3)
    assert audit(stored, budget) == {
        "frames_stored": budget.frames,
        "stored_bytes": budget.bytes // 4,  # uint8
        "label_bytes": 12 * 3 * 4 if name == "rded" else 0,
        "videos_trained_on": 12,
    }
    assert stored.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    clips = materialise(plugin, stored, SHAPE)
    assert len({clip.numpy().tobytes() for clip in clips}) == 12
    assert torch.equal(stored_clips(stored, SHAPE), stored.tensors[MOSAICS]), "what is stored is shown too"  # type: ignore[arg-type]
    if name != "rded":  # which cuts its videos
        real = train.clips().float().flatten(1)
        nearest = torch.cdist(clips.float().flatten(1), real).argmin(1)
        assert torch.equal(train.labels[nearest], stored.labels), "each tile is a video of its class"
        assert len(set(nearest.tolist())) == 12
    in_time: Any = contexts.create("method", f"{name}[compose=2]")
    plain = in_time.distill(train, budget, contexts(in_time, train))
    assert plain.clips is not None and len(plain.clips) == len(plain.labels) == 3


def test_the_same_videos_in_either_layout(contexts: ContextFactory) -> None:
    """Only what is made of them differs: the first and last halves of two videos are the runs of the other layout's videos."""
    train, budget = tiny_split(per_class=6), Budget(1, SHAPE, 3)
    four, in_time = Random(4, "grid"), Random(4)
    large = materialise(four, four.distill(train, budget, contexts(four, train)), SHAPE)
    runs = in_time.distill(train, budget, contexts(in_time, train)).clips
    assert runs is not None
    for j in range(4):
        difference = (runs[0, 2 * j : 2 * j + 2].float() - large[j, 2 * j : 2 * j + 2].float()).abs().mean()
        others = (runs[0, 2 * j : 2 * j + 2].float() - large[4, 2 * j : 2 * j + 2].float()).abs().mean()
        assert difference < others


def test_full_size_clips_under_another_name_are_over_budget() -> None:
    """What passed once: four times the budget's clips as uint8, under a name that the audit does not know."""
    from harness.distilled import DistilledSet

    budget, pixels = Budget(1, SHAPE, 3), torch.zeros(12, *SHAPE, dtype=torch.uint8)
    with pytest.raises(BudgetError, match="stores 96 frames, the budget allows 24"):
        audit(DistilledSet({"pixels": pixels}, torch.arange(3).repeat_interleave(4)), budget)


def test_steps_follow_the_budget_whatever_is_materialised(contexts: ContextFactory, tmp_path: Path) -> None:
    family: Any = contexts.create("evaluator", "convnet3d[width=4]")
    train = tiny_split(per_class=6)
    labels = train.labels
    protocol = PROTOCOL.model_copy(update={"epochs": 3, "batch": 4})

    def steps(**planned: int) -> int:
        return train_network(lambda: family.build(SHAPE, 3), train.clips(), labels, protocol, seed=0, device="cpu", **planned).steps

    assert steps() == 3 * 5, "18 clips by 4"
    assert steps(planned=9) == 3 * 3, "9 clips by 4"
