from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.budget import Budget, audit
from harness.registry import Registry
from methods.static_dynamic import draw_one, hallucinate
from methods.trajectories import draw_batches, draw_stretch, forward
from methods.vdsd_mtt import VDSDMTT
from tests.tiny import ContextFactory, tiny_split

SHAPE = (4, 3, 16, 16)
NETWORK = "convnet3d[width=4,dropout=0]"
BUDGET = Budget(2, SHAPE, 3)
SMALL = {"network": NETWORK, "experts": 1, "start_epochs": 1, "student_steps": 2, "static_iterations": 0, "student_lr": 0.3}


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def test_memories_and_hallucinator_follow_mtts_loss_of_pairs_drawn_at_every_step(contexts: ContextFactory) -> None:
    """One iteration against finite differences of the whole composition, in double precision: the pairs of each step of the student, the
    clips that they make, the student's steps, the distance. The images stand still."""
    train = tiny_split(SHAPE)
    # A first step of SGD with momentum is one without.
    method = VDSDMTT(**SMALL, iterations=1, lr_dynamic=1.0, lr_hallucinator=1.0, student_batch=4)  # type: ignore[arg-type]
    stored = method.distill(train, BUDGET, contexts(method, train))

    context = contexts(method, train)
    network = context.networks["theta"]()
    torch.manual_seed(context.seed)
    context.networks["theta"]()  # drawn before the memories
    memories = method.begin(train, BUDGET, context)
    theta0, target = (x.double() for x in draw_stretch(context.assets["experts"], 0, 1, 1, context))
    pairs = [
        (slots // 2, draw_one(slots, 2, context), draw_one(slots, 2, context))
        for slots in draw_batches(6, 2, 4, context)
    ]  # fmt: skip
    network, static = network.double(), memories.static.flatten(0, 2).double()

    def distance(dynamic: Tensor, weight: Tensor, bias: Tensor) -> float:
        theta = theta0
        for labels, image, memory in pairs:
            clips = hallucinate(static[image], dynamic.flatten(0, 2)[memory], weight, bias)
            at = theta.detach().requires_grad_()
            theta = theta - 0.3 * torch.autograd.grad(F.cross_entropy(forward(network, at, clips), labels), at)[0]
        return float((theta.detach() - target).square().sum() / (theta0 - target).square().sum())

    before = {
        "dynamic": memories.dynamic.detach(),
        "hallucinator.weight": memories.hallucinator.weight.detach(),
        "hallucinator.bias": memories.hallucinator.bias.detach(),  # type: ignore[union-attr]
    }
    draw = torch.Generator().manual_seed(0)
    for name, value in before.items():
        along = torch.randn(value.shape, generator=draw).double()
        ends = []
        for h in (1e-6, -1e-6):
            at = {n: v.double() + (h * along if n == name else 0) for n, v in before.items()}
            ends.append(distance(*at.values()))
        slope = float(((value - stored.tensors[name]).double() * along).sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-2), name
    assert torch.equal(stored.tensors["static"], memories.static)


def test_the_set_is_stored_as_vdsds_others_are(contexts: ContextFactory) -> None:
    train = tiny_split(SHAPE)
    method = VDSDMTT(**{**SMALL, "dynamic_per_clip": 1}, iterations=1, lr_dynamic=1.0)  # type: ignore[arg-type]
    context = contexts(method, train)
    stored = method.distill(train, BUDGET, context)
    assert audit(stored, BUDGET)["videos_trained_on"] == 12 and method.materialise(stored.tensors).shape == (12, *SHAPE)
    assert stored.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and stored.soft_labels is None
    assert context.metrics["synthetic_lr"] is not None and "expert_accuracy" in context.metrics
    assert "the budget allows" in str(VDSDMTT().skip(tiny_split().info, Budget(1, (8, 1, 32, 32), 12)))


@pytest.mark.parametrize("ipc, learned", [(1, True), (4, True), (5, False)])
def test_alpha_is_learned_as_released(contexts: ContextFactory, ipc: int, learned: bool) -> None:
    train = tiny_split(SHAPE)
    method = VDSDMTT(**SMALL, iterations=1, lr_dynamic=1e-6)  # type: ignore[arg-type]
    context = contexts(method, train)
    method.distill(train, Budget(ipc, SHAPE, 3), context)
    alpha = context.metrics["synthetic_lr"]
    assert alpha is not None and (alpha != torch.tensor(0.3).item()) == learned
