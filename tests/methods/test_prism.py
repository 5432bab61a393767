from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.budget import Budget, audit
from harness.data.base import Split
from harness.distilled import DistilledSet
from harness.registry import Registry
from harness.training import normalise
from methods.pixels import denormalise, real_clips
from methods.prism import Prism, frames_to_insert, interpolate, interpolation, most_key_frames
from tests.tiny import SHAPE, ContextFactory, tiny_split

NETWORK = "convnet3d[width=4]"
BUDGET = Budget(2, SHAPE, 3)


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def distill(contexts: ContextFactory, train: Split, budget: Budget = BUDGET, seed: int = 0, **config: object) -> DistilledSet:
    method = Prism(network=NETWORK, real_batch=100, **config)  # type: ignore[arg-type]
    return method.distill(train, budget, contexts(method, train, seed))


def by_hand(frames: Tensor, keys: list[int]) -> Tensor:
    """The clip (T, ...) of frames (T, ...) whose key frames are at these places, one frame after the other."""
    clip = []
    for t in range(len(frames)):
        if t in keys:
            clip.append(frames[t])
            continue
        k, after = max(k for k in keys if k < t), min(k for k in keys if k > t)
        a = (after - t) / (after - k)
        clip.append(a * frames[k] + (1 - a) * frames[after])
    return torch.stack(clip)


@pytest.mark.parametrize("keys", [[0, 7], [0, 3, 7], [0, 1, 2, 6, 7], list(range(8))])
def test_frames_between_lie_on_the_straight_line(keys: list[int]) -> None:
    frames = torch.randn(1, 8, 1, 3, 3)
    is_key = torch.zeros(1, 8, dtype=torch.bool)
    is_key[0, keys] = True
    torch.testing.assert_close(interpolate(interpolation(is_key), frames)[0], by_hand(frames[0], keys))


def test_one_step_is_sgd_on_dm_s_loss_in_the_key_frames(contexts: ContextFactory) -> None:
    """The whole class as real batch, so that only the network is drawn. The gradient by autograd of the formula and by differences."""
    train, keys = tiny_split(), [0, 4, 7]  # linspace(0, 7, 3), rounded to even
    method = Prism(network=NETWORK, initial=3, iterations=1, lr=2.0, momentum=0.0, real_batch=100)
    context = contexts(method, train, seed=5)
    torch.manual_seed(5)
    start, _ = real_clips(train, BUDGET, contexts(method, train, seed=5))
    torch.manual_seed(5)
    psi = context.networks["psi"]().double()

    def loss(kept: Tensor) -> Tensor:
        """kept: the key frames (clips, 3, C, H, W)."""
        total = torch.zeros((), dtype=torch.float64)
        for c in range(3):
            made = []
            for clip in kept[2 * c : 2 * c + 2]:
                frames = torch.zeros(8, *SHAPE[1:], dtype=torch.float64)
                frames = frames.index_put((torch.tensor(keys),), clip)
                made.append(by_hand(frames, keys))
            real = psi.embed(normalise(train.clips(train.indices_of(c))).double()).mean(0)  # type: ignore[operator]
            total = total + (real - psi.embed(torch.stack(made)).mean(0)).square().sum()  # type: ignore[operator]
        return total

    kept = start[:, keys].double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(kept), kept)
    stored = method.distill(train, BUDGET, context)
    expected = denormalise((kept - 2.0 * gradient).detach().float()).flatten(0, 1)
    torch.testing.assert_close(stored.tensors["frames"], expected, atol=1e-5, rtol=1e-4)

    # the step itself against central differences of the loss, at its five largest pixels
    moved = (kept.detach() - normalise(stored.tensors["frames"]).double().view_as(kept)) / 2.0
    for place in moved.abs().flatten().topk(5).indices.tolist():
        step = torch.zeros_like(kept).flatten()
        step[place] = 1e-4
        step = step.view_as(kept)
        with torch.no_grad():
            difference = float((loss(kept + step) - loss(kept - step)) / 2e-4)
        assert float(moved.flatten()[place]) == pytest.approx(difference, rel=2e-3)


def test_a_frame_is_added_where_it_is_pulled_away_from_both_neighbours() -> None:
    is_key = torch.tensor([[1, 0, 0, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1]], dtype=torch.bool)
    up, down, side = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]), torch.tensor([0.0, 1.0])
    gradients = torch.stack(
        [
            torch.stack([up, -up + side, down, up]),  # both part from the ends, the third frame more
            torch.stack([up, up, side, up]),  # none parts
            torch.stack([up, down, up, down]),  # each parts from one of its neighbours alone
            torch.stack([up, down, up + 0.2 * side, down]),  # the nearest key frames count: 1 and 3, not 0
        ]
    ).view(4, 4, 1, 1, 2)
    assert frames_to_insert(gradients, is_key, epsilon=0.0).tolist() == [[0, 2], [3, 2]]
    assert frames_to_insert(gradients, is_key, epsilon=-0.99).tolist() == [[0, 2]]
    assert frames_to_insert(gradients, is_key, epsilon=-1.0).tolist() == []


def test_a_new_key_frame_starts_on_the_line_and_nothing_else_changes() -> None:
    frames, is_key = torch.randn(1, 8, 1, 2, 2), torch.zeros(1, 8, dtype=torch.bool)
    is_key[:, [0, 7]] = True
    before = interpolate(interpolation(is_key), frames)
    frames[0, 3] = before[0, 3]
    is_key[0, 3] = True
    torch.testing.assert_close(interpolate(interpolation(is_key), frames), before)


def test_frames_are_added_only_between_the_pauses_and_up_to_the_budget(contexts: ContextFactory) -> None:
    train = tiny_split()
    settings = {"iterations": 10, "tries": 10, "epsilon": 1.0, "lr": 1e-6}  # any frame may become a key frame
    assert distill(contexts, train, **settings, pause=0.5).tensors["is_key"].sum() == 2 * BUDGET.clips
    assert distill(contexts, train, **settings, pause=0.3).tensors["is_key"].sum(1).tolist() == [2 + 4] * BUDGET.clips
    assert distill(contexts, train, **settings | {"tries": 3}, pause=0.2).tensors["is_key"].sum(1).tolist() == [2 + 3] * BUDGET.clips
    assert Prism(iterations=100, tries=3).insertions() == {20, 40, 60}
    assert Prism(iterations=0).insertions() == Prism(tries=0).insertions() == set()
    full = distill(contexts, train, **settings, pause=0.0)
    assert most_key_frames(BUDGET) == BUDGET.frames - 1
    assert int(full.tensors["is_key"].sum()) == most_key_frames(BUDGET)
    assert audit(full, BUDGET)["frames_stored"] == BUDGET.frames


def test_what_is_stored_is_what_is_charged_and_trained_on(contexts: ContextFactory) -> None:
    train = tiny_split()
    method = Prism(network=NETWORK, iterations=3, real_batch=4)
    context = contexts(method, train)
    stored = method.distill(train, BUDGET, context)
    keys = int(stored.tensors["is_key"].sum())
    assert context.metrics["key_frames"] == keys / BUDGET.clips
    assert audit(stored, BUDGET)["frames_stored"] == keys + 1  # a byte for each frame says where key frames are
    clips = method.materialise(dict(stored.tensors))
    assert clips.shape == (BUDGET.clips, *SHAPE)
    torch.testing.assert_close(clips[stored.tensors["is_key"].bool()], stored.tensors["frames"])


def test_starts_from_the_ends_of_real_clips(contexts: ContextFactory) -> None:
    train = tiny_split()
    ends = distill(contexts, train, iterations=0).tensors["frames"].unflatten(0, (-1, 2))
    real = train.clips().float()[:, [0, 7]] / 255
    assert torch.cdist(ends.flatten(1), real.flatten(1)).min(1).values.max() < 1e-3
    noise = normalise(distill(contexts, train, iterations=0, start="noise").tensors["frames"])
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_matching_lowers_the_loss(contexts: ContextFactory) -> None:
    train = tiny_split(per_class=8)
    curves = []
    for lr in (1e-9, 3.0):
        method = Prism(network=NETWORK, iterations=60, lr=lr, real_batch=8)
        context = contexts(method, train)
        method.distill(train, Budget(1, SHAPE, 3), context)
        curves.append([loss for _, loss in context.curves["matching_loss"]])
    assert curves[0][0] == curves[1][0]
    assert sum(curves[1][-20:]) < 0.75 * sum(curves[0][-20:])


def test_unfit_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="prism takes iterations >= 0, lr > 0"):
        Prism(lr=0.0)
    with pytest.raises(ValueError, match="prism takes initial >= 2"):
        Prism(initial=1)
    reason = Prism(initial=8).skip(tiny_split().info, BUDGET)
    assert reason == "initial=8 key frames of 8 and their places are more than the budget holds"
