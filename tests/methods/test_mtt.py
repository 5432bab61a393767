from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from harness.budget import Budget
from harness.registry import Registry
from harness.training import normalise
from methods.mtt import MTT
from methods.pixels import real_clips
from methods.trajectories import Experts, ExpertTrajectories, draw_batches, flatten, forward, judge, student_gradient
from tests.tiny import ContextFactory, tiny_split

SHAPE = (4, 1, 16, 16)
NETWORK = "convnet3d[width=4,dropout=0]"


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def test_experts_are_plain_sgd_epoch_by_epoch(contexts: ContextFactory) -> None:
    train = tiny_split(SHAPE)
    plugin = ExpertTrajectories(network=NETWORK, experts=2, epochs=3, lr=0.1, batch=100)
    context = contexts(plugin, train)
    paths, accuracy = plugin.load(plugin.build(train, context), context)
    assert accuracy.shape == (2,) and context.metrics["expert_accuracy"] == pytest.approx(float(accuracy.mean()))
    network = context.networks["theta"]()
    assert paths.shape == (2, 4, sum(p.numel() for p in network.parameters()))
    assert not torch.equal(paths[0, 0], paths[1, 0])
    for path in paths:
        for before, after in pairwise(path):
            theta = before.clone().requires_grad_()
            loss = F.cross_entropy(forward(network, theta, normalise(train.clips())), train.labels)
            (gradient,) = torch.autograd.grad(loss, theta)
            torch.testing.assert_close(after, before - 0.1 * gradient, atol=1e-6, rtol=1e-5)


def test_forward_is_the_network_at_theta(contexts: ContextFactory) -> None:
    plugin = MTT(network=NETWORK, experts=1, start_epochs=1)
    network = contexts(plugin, tiny_split(SHAPE)).networks["theta"]().eval()
    clips = torch.randn(2, *SHAPE)
    assert torch.equal(forward(network, flatten(network), clips), network(clips))


def test_the_real_split_matches_its_own_trajectory(contexts: ContextFactory) -> None:
    """Distilled = the whole training split, one full-batch step at the experts' rate: the distance is zero and nothing moves."""
    train = tiny_split(SHAPE, per_class=4)
    method = MTT(network=NETWORK, experts=1, start_epochs=2, student_steps=1, iterations=4, lr=1.0)
    context = contexts(method, train)
    result = method.distill(train, Budget(4, SHAPE, 3), context)
    assert all(value < 1e-6 for _, value in context.curves["matching_loss"])
    assert context.metrics["synthetic_lr"] == pytest.approx(0.01, rel=1e-3)
    assert result.clips is not None
    real = train.clips().flatten(1).float() / 255
    assert torch.cdist(result.clips.flatten(1), real).min(1).values.max() < 1e-3


def test_the_pixel_gradient_goes_through_all_student_steps(contexts: ContextFactory) -> None:
    """One iteration against finite differences of the written loss, in double precision."""
    train = tiny_split(SHAPE, per_class=3)
    method = MTT(NETWORK, experts=1, start_epochs=1, student_steps=3, iterations=1, lr=1.0, student_lr=0.3)
    start, labels = real_clips(train, Budget(1, SHAPE, 3), contexts(method, train))
    context = contexts(method, train)
    moved = method.distill(train, Budget(1, SHAPE, 3), context)
    assert moved.clips is not None
    gradient = (start - normalise(moved.clips)) / 1.0
    network = context.networks["theta"]().double()
    theta0, target = (context.assets["experts"].trajectories[0, t].double() for t in (0, 1))

    def distance(clips: torch.Tensor) -> float:
        theta = theta0
        for _ in range(3):
            theta = theta.detach().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(forward(network, theta, clips), labels), theta)
            theta = theta - 0.3 * g
        return float((theta.detach() - target).square().sum() / (theta0 - target).square().sum())

    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).double()
    ahead, behind = (distance(start.double() + sign * 1e-6 * direction) for sign in (1, -1))
    assert float((gradient.double() * direction).sum()) == pytest.approx((ahead - behind) / 2e-6, rel=2e-3)
    assert context.curves["matching_loss"][0][1] == pytest.approx(distance(start.double()), rel=1e-4)


@pytest.mark.parametrize("network", [NETWORK, "convnet3d[width=4]"])
def test_recomputation_gives_the_same_gradient(contexts: ContextFactory, monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    """Derivatives that are made anew, in one part or several, are those of the graph that is kept; with dropout, its masks come back."""
    train, budget = tiny_split(SHAPE, per_class=3), Budget(2, SHAPE, 3)
    method = MTT(network, experts=1, start_epochs=1, student_steps=3, iterations=3, lr=1.0, student_lr=0.3, student_batch=4)

    def distilled() -> tuple[torch.Tensor, float | None]:
        context = contexts(method, train)
        clips = method.distill(train, budget, context).clips
        assert clips is not None
        return clips, context.metrics["synthetic_lr"]

    kept, alpha = distilled()
    monkeypatch.setattr("methods.trajectories.KEPT_VALUES", 0)
    made_anew, same = distilled()
    torch.testing.assert_close(made_anew, kept, atol=1e-5, rtol=1e-4)
    assert same == pytest.approx(alpha)
    if network == NETWORK:  # parts draw masks of their own
        monkeypatch.setattr("harness.training.CPU_PART", 2 * 4 * 16 * 16)
        torch.testing.assert_close(distilled()[0], kept, atol=1e-5, rtol=1e-4)


def test_the_gradient_of_a_step_in_double_precision() -> None:
    """Against central differences of the loss of a smooth network: the gradient in theta, and its derivatives in theta and in clips."""
    draw = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    theta, labels = flatten(network), torch.tensor([0, 2, 1, 1])
    clips = torch.randn(4, 2, 3, 1, 1, generator=draw, dtype=torch.float64)
    v, u = (torch.randn(theta.shape, generator=draw, dtype=torch.float64) for _ in range(2))
    w = torch.randn(clips.shape, generator=draw, dtype=torch.float64)

    def loss(at: torch.Tensor, shown: torch.Tensor) -> float:
        return float(F.cross_entropy(forward(network, at, shown), labels))

    h = 1e-4
    along = {
        "theta": sum(a * b * loss(theta + a * h * v + b * h * u, clips) for a in (1, -1) for b in (1, -1)) / (4 * h * h),
        "clips": sum(a * b * loss(theta + a * h * v, clips + b * h * w) for a in (1, -1) for b in (1, -1)) / (4 * h * h),
    }
    for keep in (True, False):
        at, shown = theta.clone().requires_grad_(), clips.clone().requires_grad_()
        gradient = student_gradient(network, at, shown, labels, keep)
        assert float(gradient.detach() @ v) == pytest.approx((loss(theta + h * v, clips) - loss(theta - h * v, clips)) / (2 * h), rel=1e-6)
        (gradient @ v).backward()
        assert at.grad is not None and shown.grad is not None
        assert float(at.grad @ u) == pytest.approx(along["theta"], rel=1e-5)
        assert float((shown.grad * w).sum()) == pytest.approx(along["clips"], rel=1e-5)


def test_steps_and_clips_of_a_student_are_the_released_ones() -> None:
    def student(method: MTT, ipc: int) -> tuple[int, int]:
        return method.student(Budget(ipc, SHAPE, 50))

    assert [student(MTT(), ipc) for ipc in (1, 4, 5, 20)] == [(10, 50), (10, 200), (5, 128), (5, 128)]
    assert student(MTT(student_steps=3, student_batch=1000), 5) == (3, 250)


def test_experts_at_chance_are_said_out_loud(contexts: ContextFactory, caplog: pytest.LogCaptureFixture) -> None:
    context = contexts(MTT(NETWORK, experts=1, start_epochs=1), tiny_split(SHAPE))
    judge(Experts(torch.zeros(2, 3, 4), torch.tensor([0.3, 0.34])), 3, context)
    assert context.metrics["expert_accuracy"] == pytest.approx(0.32)
    assert "the experts recognise 32.0 % of the clips that they were trained on, where chance is 33.3 %" in caplog.text
    caplog.clear()
    judge(Experts(torch.zeros(2, 3, 4), torch.tensor([0.9, 0.8])), 3, context)
    assert caplog.text == ""


def test_standardised_batches_are_those_of_the_released_code(contexts: ContextFactory) -> None:
    train = tiny_split(SHAPE)
    plugin = ExpertTrajectories(network=NETWORK, experts=1, epochs=1, lr=0.1, batch=100, standardise=True)
    context = contexts(plugin, train)
    before, after = plugin.load(plugin.build(train, context), context).trajectories[0]
    theta, clips = before.clone().requires_grad_(), normalise(train.clips())
    network = context.networks["theta"]()
    loss = F.cross_entropy(forward(network, theta, (clips - clips.mean()) / clips.std()), train.labels)
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(after, before - 0.1 * gradient, atol=1e-6, rtol=1e-5)


def test_matching_comes_closer_to_the_target(contexts: ContextFactory) -> None:
    train = tiny_split(SHAPE)
    still, moved = (
        MTT(NETWORK, experts=2, start_epochs=1, target_epochs=4, student_steps=4, iterations=60, lr=lr, student_lr_lr=1e-12)
        for lr in (1e-9, 1.0)
    )
    losses = []
    for method in (still, moved):
        context = contexts(method, train)
        method.distill(train, Budget(1, SHAPE, 3), context)
        losses.append([value for _, value in context.curves["matching_loss"]])
    assert losses[0][0] == losses[1][0]
    assert sum(losses[1][-10:]) < 0.6 * sum(losses[0][-10:])


def test_batches_cover_the_set_before_they_repeat(contexts: ContextFactory) -> None:
    batches = draw_batches(10, 5, 4, contexts(MTT(network=NETWORK, experts=1, start_epochs=1), tiny_split(SHAPE)))
    assert [len(b) for b in batches] == [4, 4, 2, 4, 4]
    assert sorted(torch.cat(batches[:3]).tolist()) == list(range(10))
