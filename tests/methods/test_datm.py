from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.budget import Budget
from harness.registry import Registry
from harness.training import normalise
from methods.datm import DATM
from methods.mtt import MTT
from methods.trajectories import Experts, draw_stretch, flatten, forward, trajectory_distance
from tests.tiny import ContextFactory, tiny_split

SHAPE = (4, 1, 16, 16)
NETWORK = "convnet3d[width=4,dropout=0]"
SMALL = {"network": NETWORK, "experts": 2, "window": 1, "grown_window": 1, "target_epochs": 1, "student_steps": 3}


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def test_the_window_grows_to_its_end_and_stays() -> None:
    """As released: 10 + int(10 * it / 1000), at most 20; with a window that is grown from the start it stands still."""
    ends = [DATM().window_end(it) for it in (0, 99, 100, 250, 999, 1000, 9999)]
    assert ends == [10, 10, 11, 12, 19, 20, 20]
    assert {DATM(window=7, grown_window=7).window_end(it) for it in (0, 10, 10_000)} == {7}


def test_starts_lie_in_the_window(contexts: ContextFactory) -> None:
    """The end is not among them; the target is M epochs later, of the same expert."""
    context = contexts(DATM(**SMALL), tiny_split(SHAPE))
    paths = torch.stack([torch.arange(12.0) + 100 * e for e in range(3)]).unsqueeze(2)
    drawn = [draw_stretch(Experts(paths, torch.ones(3)), 2, 5, 4, context) for _ in range(200)]
    assert {float(start) % 100 for start, _ in drawn} == {2, 3, 4}
    assert {float(target - start) for start, target in drawn} == {4}
    assert {float(start) // 100 for start, _ in drawn} == {0, 1, 2}


def test_experts_reach_the_last_target_and_are_shared_with_mtt() -> None:
    info = tiny_split(SHAPE).info
    method = DATM(window=4, grown_window=8, target_epochs=2)
    assert method.assets(info)["experts"].params["epochs"] == 9, "the last start is epoch 7"
    assert method.assets(info) == MTT(start_epochs=8, target_epochs=1).assets(info), "the same asset: built once"


def test_gradients_are_those_of_steps_taken_where_the_student_stands(contexts: ContextFactory) -> None:
    """One iteration against finite differences in double precision: clips, soft labels and the distance, with the student's points held."""
    train, budget = tiny_split(SHAPE, per_class=4), Budget(1, SHAPE, 3)
    method = DATM(**SMALL, iterations=1, lr=1.0, label_lr=1.0, student_lr=0.3, threshold=1e9)  # type: ignore[arg-type]
    context = contexts(method, train)
    start, classes, logits = method.recognised(train, budget, context.assets["experts"], context)
    context = contexts(method, train)
    stored = method.distill(train, budget, context)
    assert stored.clips is not None and stored.soft_labels is not None
    moved = {"clips": start - normalise(stored.clips), "labels": logits - stored.soft_labels}

    again = contexts(method, train)
    method.recognised(train, budget, again.assets["experts"], again)
    theta0, target = (x.double() for x in draw_stretch(again.assets["experts"], 0, 1, 1, again))
    network = again.networks["theta"]().double()

    def gradient(theta: Tensor, clips: Tensor, soft: Tensor) -> Tensor:
        at = theta.detach().requires_grad_()
        loss = -(soft.softmax(1) * F.log_softmax(forward(network, at, clips), 1)).sum() / len(clips)
        return torch.autograd.grad(loss, at)[0]

    points = [theta0]
    for _ in range(3):
        points.append(points[-1] - 0.3 * gradient(points[-1], start.double(), logits.double()))

    def distance(clips: Tensor, soft: Tensor) -> float:
        theta = theta0 - 0.3 * sum(gradient(point, clips, soft) for point in points[:3])
        return float((theta - target).square().sum() / (theta0 - target).square().sum())

    draw = torch.Generator().manual_seed(0)
    for name, shape in (("clips", start.shape), ("labels", logits.shape)):
        along = torch.randn(shape, generator=draw).double()
        ends = []
        for h in (1e-6, -1e-6):
            shifted = {"clips": start.double(), "labels": logits.double()}
            shifted[name] = shifted[name] + h * along
            ends.append(distance(shifted["clips"], shifted["labels"]))
        assert float((moved[name].double() * along).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=5e-3), name
    assert context.curves["matching_loss"][0][1] == pytest.approx(distance(start.double(), logits.double()), rel=1e-4)
    assert classes.tolist() == [0, 1, 2]


def test_recomputation_gives_the_same_gradient(contexts: ContextFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    train, budget, sets = tiny_split(SHAPE, per_class=4), Budget(1, SHAPE, 3), []
    method = DATM(**{**SMALL, "network": "convnet3d[width=4]"}, iterations=2, lr=1.0, student_lr=0.3)  # type: ignore[arg-type]
    for kept in (32 << 20, 0):
        monkeypatch.setattr("methods.trajectories.KEPT_VALUES", kept)
        sets.append(method.distill(train, budget, contexts(method, train)))
    torch.testing.assert_close(sets[0].clips, sets[1].clips, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sets[0].soft_labels, sets[1].soft_labels, atol=1e-5, rtol=1e-4)


def test_one_step_is_the_same_through_and_at_rest(contexts: ContextFactory) -> None:
    """A single step does not depend on steps before it."""
    context = contexts(DATM(**SMALL), tiny_split(SHAPE))
    network = context.networks["theta"]()
    start = flatten(network)
    target = start + 0.01 * torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    gradients = []
    for through in (True, False):
        clips = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)).requires_grad_()
        trajectory_distance(network, start, target, [(clips, torch.arange(3))], torch.tensor(0.1), True, through).backward()
        gradients.append(clips.grad)
    torch.testing.assert_close(*gradients)


def test_what_is_too_far_has_no_gradient(contexts: ContextFactory) -> None:
    train, budget = tiny_split(SHAPE), Budget(1, SHAPE, 3)
    method = DATM(**SMALL, iterations=1, lr=1.0, threshold=1e-9)  # type: ignore[arg-type]
    start, _, logits = method.recognised(train, budget, (context := contexts(method, train)).assets["experts"], context)
    stored = method.distill(train, budget, contexts(method, train))
    assert stored.clips is not None
    torch.testing.assert_close(normalise(stored.clips), start, atol=1e-5, rtol=0)
    assert torch.equal(stored.soft_labels, logits)  # type: ignore[arg-type]


def test_it_starts_from_what_experts_recognise(contexts: ContextFactory) -> None:
    """Labels are the mean logits of the experts that are right; clips that expert 0 recognises go first."""
    train, budget = tiny_split(SHAPE, per_class=8), Budget(2, SHAPE, 3)
    method = DATM(**{**SMALL, "window": 6, "grown_window": 6}, expert_lr=0.1, expert_momentum=0.9, expert_batch=4)  # type: ignore[arg-type]
    context = contexts(method, train)
    experts = context.assets["experts"]
    clips, classes, logits = method.recognised(train, budget, experts, context)
    network = context.networks["theta"]().eval()
    looks = torch.stack([forward(network, path[-1], clips).detach() for path in experts.trajectories])
    everything = forward(network, experts.trajectories[0, -1], normalise(train.clips())).argmax(1) == train.labels
    for c in range(3):
        known = min(2, int(everything[train.labels == c].sum()))
        assert int((looks[0].argmax(1) == classes)[classes == c].sum()) == known
    for n in range(6):
        right = [look[n] for look in looks if int(look[n].argmax()) == int(classes[n])]
        if right:
            torch.testing.assert_close(logits[n], torch.stack(right).mean(0), atol=1e-4, rtol=1e-4)
        assert logits[n].max() == logits[n, classes[n]]


def test_bad_windows_are_refused() -> None:
    for params in ({"first_start": 10}, {"window": 30}, {"first_start": -1}):
        with pytest.raises(ValueError, match="first_start < window <= grown_window"):
            DATM(**params)  # type: ignore[arg-type]
