from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from harness.budget import Budget, audit, charged_frames
from harness.registry import Registry
from methods.pixels import denormalise
from methods.static_dynamic import hallucinate
from methods.vdsd_dm import RELEASED_RATES, VDSD
from tests.tiny import ContextFactory, tiny_split

SHAPE = (4, 3, 16, 16)
NETWORK = "convnet3d[width=4]"


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def test_stores_and_is_charged_for_images_memories_and_hallucinator(contexts: ContextFactory) -> None:
    train, budget = tiny_split(SHAPE), Budget(2, SHAPE, 3)
    method = VDSD(network=NETWORK, dynamic_per_clip=1, static_iterations=1, static_width=4, iterations=1, real_batch=4)
    stored = method.distill(train, budget, contexts(method, train))
    assert stored.clips is None
    planes = 6 * (2 * 3 + 1 * 4) * 16 * 16
    assert stored.stored_bytes == 4 * (planes + 327)
    assert audit(stored, budget)["frames_stored"] == charged_frames(stored, budget) == math.ceil(4 * (planes + 327) / (4 * 3 * 16 * 16))
    clips = method.materialise(dict(stored.tensors))
    assert clips.shape == (12, *SHAPE)
    assert stored.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_every_pair_of_a_clip_is_made(contexts: ContextFactory) -> None:
    train, budget = tiny_split((8, 3, 16, 16)), Budget(1, (8, 3, 16, 16), 3)
    method = VDSD(network=NETWORK, static_iterations=0, iterations=0)
    stored = method.distill(train, budget, contexts(method, train))
    clips = method.materialise(dict(stored.tensors))
    weight, bias = stored.tensors["hallucinator.weight"], stored.tensors["hallucinator.bias"]
    expected = [
        denormalise(hallucinate(stored.tensors["static"][c, 0, i][None], stored.tensors["dynamic"][c, 0, j][None], weight, bias))[0]
        for c in range(3)
        for i in range(2)
        for j in range(2)
    ]
    torch.testing.assert_close(clips, torch.stack(expected))


def test_says_why_gray_clips_do_not_fit() -> None:
    gray = Budget(1, (8, 1, 32, 32), 12)
    info = tiny_split().info
    reason = VDSD().skip(info, gray)
    assert reason is not None
    assert str(4 * ((2 + 16) * 12 * 1024 + 55)) in reason
    assert str(gray.bytes) in reason
    assert VDSD(dynamic_per_clip=1, half=True).skip(info, gray) is None
    assert VDSD().skip(info, Budget(1, (16, 3, 112, 112), 50)) is None


def test_gray_clips_fit_with_half_memories_and_every_pixel_of_the_images(contexts: ContextFactory) -> None:
    """What `skip` says fits is what the audit passes: as under the protocol quick, for gray clips and for clips of colour."""
    for shape, charged in (((8, 1, 32, 32), 6), ((8, 3, 32, 32), (6 + 4) / 3)):
        train, budget = tiny_split(shape), Budget(1, shape, 3)
        method = VDSD(dynamic_per_clip=1, half=True, static_iterations=0, iterations=0, network=NETWORK)
        assert method.skip(train.info, budget) is None
        stored = method.distill(train, budget, contexts(method, train))
        hallucinator = 27 * (shape[1] + 1) * shape[1] + shape[1]
        assert audit(stored, budget)["frames_stored"] == math.ceil(3 * charged + hallucinator / (shape[1] * 1024))


def test_memories_lower_the_matching_loss_while_the_images_stand_still(contexts: ContextFactory) -> None:
    """Against the same seed with vanishing rates: the same networks and batches, nothing that moves."""
    train, budget = tiny_split(SHAPE), Budget(1, SHAPE, 3)
    runs = []
    for lr_dynamic, lr_hallucinator in ((1e-12, 1e-12), (1.0, 1e-3)):
        rates = {"lr_dynamic": lr_dynamic, "lr_hallucinator": lr_hallucinator}
        method = VDSD(network=NETWORK, dynamic_per_clip=1, static_iterations=0, iterations=40, real_batch=6, **rates)  # type: ignore[arg-type]
        context = contexts(method, train)
        stored = method.distill(train, budget, context)
        runs.append((stored.tensors, [value for _, value in context.curves["matching_loss"]]))
    (still, flat), (moved, losses) = runs
    assert losses[0] == flat[0]
    assert sum(losses[-10:]) < 0.8 * sum(flat[-10:])
    assert torch.equal(still["static"], moved["static"])
    assert all(not torch.equal(still[name], moved[name]) for name in still if name != "static")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_real_start_is_a_real_clip(contexts: ContextFactory, channels: int) -> None:
    """Of gray clips exactly; of colour, whose memories have one channel, the middle frame."""
    shape = (4, channels, 16, 16)
    train = tiny_split(shape)
    method = VDSD(network=NETWORK, static_per_clip=1, dynamic_per_clip=1, half=True, static_iterations=0, iterations=0, start="real")
    stored = method.distill(train, Budget(2, shape, 3), contexts(method, train))
    clips, real = method.materialise(dict(stored.tensors)), train.clips().float() / 255
    if channels == 3:
        clips, real = clips[:, 2], real[:, 2]
    distance = torch.cdist(clips.flatten(1), real.flatten(1)).min(1)
    assert distance.values.max() < 0.05 and len(set(distance.indices.tolist())) == 6
    assert torch.equal(train.labels[distance.indices], stored.labels)


def test_rates_are_the_released_ones_of_the_budget(contexts: ContextFactory) -> None:
    """One step of SGD from the same start: at IPC 5 the memories move 1e7 times as far for their gradient, the hallucinator a tenth."""
    train = tiny_split(SHAPE, per_class=8)
    moved = {}
    for ipc in (1, 5):
        for rates in ({}, {"lr_dynamic": RELEASED_RATES[ipc][0], "lr_hallucinator": RELEASED_RATES[ipc][1]}):
            method = VDSD(network=NETWORK, static_iterations=0, iterations=1, real_batch=4, **rates)
            moved[ipc, bool(rates)] = method.distill(train, Budget(ipc, SHAPE, 3), contexts(method, train)).tensors
    for ipc in (1, 5):
        assert all(torch.equal(moved[ipc, False][name], moved[ipc, True][name]) for name in moved[ipc, True])
    assert RELEASED_RATES == {1: (1e-4, 1e-5), 5: (1e3, 1e-6)}
