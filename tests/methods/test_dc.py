from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.budget import Budget
from harness.registry import Registry
from harness.training import normalise
from methods.dc import DC, class_gradient, gradient_distance, train_on
from methods.pixels import FreshNetwork, RealBatches, real_clips
from methods.siamese import draw
from tests.tiny import ContextFactory, tiny_split

SHAPE = (4, 1, 16, 16)
NETWORK = "convnet3d[width=4]"
BUDGET = Budget(2, SHAPE, 3)


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def released_distance(real: list[np.ndarray], made: list[np.ndarray]) -> float:
    """The released formula in numpy: rows of convolutions and linear layers, nothing of vectors."""
    total = 0.0
    for a, b in zip(real, made, strict=True):
        if a.ndim == 1:
            continue
        for row, other in zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True):
            total += 1 - float(row @ other) / (float(np.linalg.norm(row)) * float(np.linalg.norm(other)) + 0.000001)
    return total


def test_gradient_distance_by_hand() -> None:
    real = [torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.ones(2)]
    made = [torch.tensor([[3.0, 0.0], [1.0, 0.0]]), -torch.ones(2)]
    assert gradient_distance(real, made).item() == pytest.approx(1.0), "parallel row 0, orthogonal row 1, the bias left out"


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-8])
def test_gradient_distance_is_the_released_one(size: float) -> None:
    """Of 3-D convolutions, linear layers and biases, also where rows are so short that the smallest number counts."""
    draw = np.random.default_rng(0)
    shapes = [(4, 1, 3, 5, 5), (4,), (3, 8), (3,)]
    real, made = ([size * draw.standard_normal(shape) for shape in shapes] for _ in range(2))
    made[2][1] = 0
    found = gradient_distance(*([torch.from_numpy(a) for a in side] for side in (real, made)))
    assert float(found) == pytest.approx(released_distance(real, made), rel=1e-6)


def test_a_dead_row_has_no_gradient_of_its_own() -> None:
    """A filter that no distilled clip reaches, with a gradient of 0, must not turn the clips into NaN."""
    made = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
    gradient_distance([torch.ones(2, 2)], [made]).backward()
    assert made.grad is not None and torch.isfinite(made.grad).all()


@pytest.mark.parametrize("dsa", [False, True])
def test_the_pixel_gradient_is_that_of_the_written_loss(contexts: ContextFactory, dsa: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step against finite differences in double precision, with the same draws."""
    if dsa:
        monkeypatch.setattr("methods.dc.STRATEGIES", {"crop": None})  # nothing of the class is random but where it is
    train = tiny_split(SHAPE)
    method = DC(NETWORK, iterations=1, lr=1.0, real_batch=4, dsa=dsa)
    start, _ = real_clips(train, BUDGET, contexts(method, train))
    context = contexts(method, train)
    moved = method.distill(train, BUDGET, context).clips
    assert moved is not None

    again = contexts(method, train)  # the same draws: where the clips start, the network, then real clips and augmentations class by class
    real_clips(train, BUDGET, again)
    real = RealBatches(train, BUDGET, 4, again)
    network = FreshNetwork(again.networks["theta"], again.device).draw().double().eval()
    pairs = []
    for c in range(3):
        clips = real.of([c])[0].double()
        if dsa:
            (augmentation,) = draw(1, ["crop"], again.generator)
        pairs.append((augmentation if dsa else (lambda clips: clips), clips))

    def gradients(clips: Tensor, c: int) -> list[np.ndarray]:
        loss = F.cross_entropy(network(clips), torch.full((len(clips),), c))
        return [g.numpy() for g in torch.autograd.grad(loss, list(network.parameters()))]

    def distance(clips: Tensor) -> float:
        return sum(
            released_distance(gradients(augment(batch), c), gradients(augment(clips[2 * c : 2 * c + 2]), c))
            for c, (augment, batch) in enumerate(pairs)
        )

    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).double()
    ahead, behind = (distance(start.double() + sign * 1e-6 * direction) for sign in (1, -1))
    slope = float(((start - normalise(moved)).double() * direction).sum())
    assert slope == pytest.approx((ahead - behind) / 2e-6, rel=1e-2)
    assert context.curves["matching_loss"][0][1] == pytest.approx(distance(start.double()) / 3, rel=1e-3)


def test_gradients_in_parts_are_those_of_the_batch(contexts: ContextFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    train = tiny_split(SHAPE)
    network = contexts(DC(NETWORK), train).networks["theta"]().eval()
    clips = normalise(train.clips())
    whole = class_gradient(network, clips, 1)
    monkeypatch.setattr("harness.training.CPU_PART", 5 * 4 * 256)
    for a, b in zip(whole, class_gradient(network, clips, 1), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_networks_are_trained_between_the_steps_and_are_fresh_after(contexts: ContextFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """outer - 1 trainings of ``inner`` epochs for each network, from parameters of its own."""
    train, seen = tiny_split(SHAPE), []

    def spy(network: torch.nn.Module, *args: object) -> None:
        before = torch.cat([p.detach().flatten() for p in network.parameters()])
        train_on(network, *args)  # type: ignore[arg-type]
        after = torch.cat([p.detach().flatten() for p in network.parameters()])
        seen.append((before, after, args[3]))

    monkeypatch.setattr("methods.dc.train_on", spy)
    method = DC(NETWORK, iterations=2, outer=3, inner=2, real_batch=4)
    method.distill(train, BUDGET, contexts(method, train))
    assert [epochs for _, _, epochs in seen] == [2] * 4
    assert all(not torch.equal(before, after) for before, after, _ in seen)
    assert torch.equal(seen[0][1], seen[1][0]), "the same network goes on"
    assert not torch.equal(seen[1][1], seen[2][0]) and not torch.equal(seen[0][0], seen[2][0]), "and then another begins"


def test_matching_lowers_the_distance(contexts: ContextFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one network that stands still, over 30 steps on the clips; and clips that stand still leave it where it is."""
    train, distances = tiny_split(SHAPE), {}
    for lr in (1e-9, 1.0):
        seen: list[float] = []

        def spy(real: list[Tensor], made: list[Tensor], seen: list[float] = seen) -> Tensor:
            distance = gradient_distance(real, made)
            seen.append(float(distance.detach()))
            return distance

        monkeypatch.setattr("methods.dc.gradient_distance", spy)
        method = DC(NETWORK, iterations=1, outer=30, inner=1, network_lr=1e-12, lr=lr, real_batch=6)
        method.distill(train, Budget(1, SHAPE, 3), contexts(method, train))
        distances[lr] = sum(seen[:3]), sum(seen[-3:])
    assert distances[1e-9][1] == pytest.approx(distances[1e-9][0], rel=1e-3)
    assert distances[1.0][1] < 0.75 * distances[1.0][0]


def test_loops_are_the_released_ones_of_the_budget() -> None:
    assert [DC().loops(ipc) for ipc in (1, 5, 10, 25, 60)] == [(1, 1), (1, 1), (10, 50), (20, 25), (50, 10)]
    assert DC(outer=3, inner=7).loops(10) == (3, 7)


def test_noise_is_a_start_too(contexts: ContextFactory) -> None:
    train = tiny_split(SHAPE)
    method = DC(NETWORK, iterations=0, start="noise")
    made = method.distill(train, BUDGET, contexts(method, train)).clips
    assert made is not None
    clips = normalise(made)
    assert abs(float(clips.mean())) < 0.05 and float(clips.std()) == pytest.approx(1, abs=0.03)
