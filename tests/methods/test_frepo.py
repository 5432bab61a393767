from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from harness.budget import Budget
from harness.registry import Registry
from methods.frepo import FRePo, PoolNetwork, as_logits, centred, label_margin, pool_schedule, regress
from tests.tiny import ContextFactory, tiny_split

SHAPE = (4, 1, 16, 16)
NETWORK = "convnet3d[width=4,dropout=0]"


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def test_regression_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    f_t, f_s, y_s = (torch.randn(n, d, generator=generator) for n, d in ((7, 6), (5, 6), (5, 3)))
    ridge = 0.1
    alpha = ridge * float((f_s @ f_s.T).trace()) / 5
    expected = KernelRidge(alpha=alpha, kernel="linear").fit(f_s.numpy(), y_s.numpy()).predict(f_t.numpy())
    torch.testing.assert_close(regress(f_t, f_s, y_s, ridge), torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-4)


def test_regression_is_the_papers_formula_in_numpy() -> None:
    f_t, f_s, y_s = (np.random.default_rng(n).normal(size=(n, d)) for n, d in ((8, 6), (5, 6), (5, 4)))
    kernel = f_s @ f_s.T
    expected = f_t @ f_s.T @ np.linalg.inv(kernel + 1e-3 * np.trace(kernel) / 5 * np.eye(5)) @ y_s
    made = regress(*(torch.from_numpy(x).float() for x in (f_t, f_s, y_s)), 1e-3)
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-3, rtol=1e-3)


def test_regression_without_a_ridge_reproduces_what_it_was_given() -> None:
    f_s, y_s = torch.randn(4, 9, generator=torch.Generator().manual_seed(1)), torch.eye(4)
    torch.testing.assert_close(regress(f_s, f_s, y_s, 1e-10), y_s, atol=1e-4, rtol=0)


def test_margin_by_hand() -> None:
    assert label_margin(torch.tensor([[0.9, 0.0], [0.3, 0.2]])).item() == pytest.approx((0.5 + 0.1) / 2)


def test_logits_give_back_the_label() -> None:
    labels = torch.tensor([2, 0])
    for classes in (3, 50, 400):
        hard = as_logits(centred(labels, classes)).softmax(1)
        torch.testing.assert_close(hard, torch.nn.functional.one_hot(labels, classes).float(), atol=2e-6, rtol=0)
    soft = torch.tensor([[0.5, 0.3, 0.2]])
    torch.testing.assert_close(as_logits(soft - 1 / 3).softmax(1), soft)


def test_networks_age_at_the_warm_up_rate(contexts: ContextFactory) -> None:
    method = FRePo(NETWORK, network_lr=0.01)
    member = PoolNetwork(contexts(method, tiny_split(SHAPE)), method)
    clips, targets = torch.randn(3, *SHAPE), centred(torch.arange(3), 3)
    before = [p.clone() for p in member.network.parameters()]
    member.train_step(clips, targets)
    # Adam's first step moves every parameter that has a gradient by its learning rate, here a hundredth of 0.01
    moved = max(float((p.detach() - b.detach()).abs().max()) for p, b in zip(member.network.parameters(), before, strict=True))
    assert moved == pytest.approx(1e-4, rel=0.01)
    assert member.age == 1


def test_the_pool_rate_warms_up_on_a_falling_cosine() -> None:
    """Step by step by hand: both factors of the released chain, the cosine's towards a hundredth of the rate."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = pool_schedule(optimizer, 100)
    rate, lowest = 0.01 * 2.0, 0.01 * 2.0
    for k in range(1, 101):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        optimizer.step()
        schedule.step()
        rate *= (0.01 + 0.99 * k / 500) / (0.01 + 0.99 * (k - 1) / 500)
        rate = lowest + (rate - lowest) * (1 + math.cos(math.pi * k / 100)) / (1 + math.cos(math.pi * (k - 1) / 100))


def test_networks_embed_in_eval_mode_and_the_first_only_count_as_aged(contexts: ContextFactory) -> None:
    """With batch norm, features of a clip that do not depend on its batch; untrained networks, whatever their age."""
    method = FRePo("minic3d[width=4]", max_age=10)
    torch.manual_seed(0)
    member = PoolNetwork(contexts(method, tiny_split(SHAPE)), method, age=7)
    clips = torch.randn(4, *SHAPE)
    torch.testing.assert_close(member.embed(clips)[:1], member.embed(clips[:1]))
    assert member.age == 7 and not member.optimizer.state
    member.train_step(clips, centred(torch.tensor([0, 1, 2, 0]), 3))
    assert member.age == 8


def test_regression_improves_and_labels_are_learned(contexts: ContextFactory) -> None:
    train, budget = tiny_split(SHAPE, per_class=8), Budget(1, SHAPE, 3)
    losses = {}
    for lr in (1e-9, 0.02):
        method = FRePo(NETWORK, pool=2, max_age=10, iterations=60, lr=lr, label_lr=lr, real_batch=24)
        context = contexts(method, train)
        stored = method.distill(train, budget, context)
        losses[lr] = [value for _, value in context.curves["regression_loss"]]
    assert sum(losses[0.02][-10:]) < 0.9 * sum(losses[1e-9][-10:])
    assert stored.soft_labels is not None
    assert stored.soft_labels.shape == (3, 3)
    assert stored.soft_labels.argmax(1).tolist() == stored.labels.tolist() == [0, 1, 2]


def test_fixed_labels_stay_one_hot(contexts: ContextFactory) -> None:
    train = tiny_split(SHAPE)
    method = FRePo(NETWORK, pool=1, iterations=2, label_lr=0.0, real_batch=8)
    stored = method.distill(train, Budget(1, SHAPE, 3), contexts(method, train))
    assert stored.soft_labels is not None
    torch.testing.assert_close(stored.soft_labels, as_logits(centred(torch.arange(3), 3)))
