from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.budget import Budget, audit
from harness.registry import Registry
from harness.training import normalise
from methods.frepo import as_logits, centred, regress
from methods.static_dynamic import hallucinate
from methods.vdsd_frepo import VDSDFRePo
from tests.tiny import ContextFactory, tiny_split

SHAPE = (4, 3, 16, 16)
NETWORK = "convnet3d[width=4,dropout=0]"
BUDGET = Budget(2, SHAPE, 3)
SMALL = {"network": NETWORK, "pool": 2, "max_age": 4, "static_iterations": 0, "real_batch": 9}


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def test_the_loss_is_the_regression_from_what_the_hallucinator_makes(contexts: ContextFactory) -> None:
    """The first recorded loss, from the stored start: one image and one memory of each clip, in order, squared error without its half."""
    train = tiny_split(SHAPE)
    still = {"lr_dynamic": 1e-12, "lr_hallucinator": 1e-12, "label_lr": 0.0}
    method = VDSDFRePo(**SMALL, **still, iterations=1)  # type: ignore[arg-type]
    context = contexts(method, train)
    stored = method.distill(train, BUDGET, context)

    again = contexts(method, train)
    torch.manual_seed(again.seed)
    method.begin(train, BUDGET, again)
    pool = method.new_pool(again)
    member = pool[int(torch.randint(2, (1,), generator=again.generator))]
    rows = torch.randperm(len(train), generator=again.generator)[:9]

    def embedded(clips: Tensor) -> Tensor:
        return member.embed(clips).detach()

    static, dynamic = (stored.tensors[name].flatten(0, 2) for name in ("static", "dynamic"))
    made = hallucinate(static, dynamic, stored.tensors["hallucinator.weight"], stored.tensors["hallucinator.bias"])
    targets = centred(torch.tensor([0, 0, 1, 1, 2, 2]), 3) / 0.3**0.5
    predicted = regress(embedded(normalise(train.clips(rows))), embedded(made), targets, 1e-6)
    expected = (centred(train.labels[rows], 3) - predicted).square().sum(1).mean()
    assert context.curves["regression_loss"][0][1] == pytest.approx(float(expected), rel=1e-3)
    torch.testing.assert_close(stored.soft_labels, as_logits(targets * 0.3**0.5))


def test_memories_and_labels_are_learned_and_images_stand_still(contexts: ContextFactory) -> None:
    train = tiny_split(SHAPE, per_class=8)
    runs = []
    for rate in (1e-9, 0.03):
        method = VDSDFRePo(**SMALL, iterations=40, lr_dynamic=rate, lr_hallucinator=rate, label_lr=rate)  # type: ignore[arg-type]
        context = contexts(method, train)
        runs.append((method.distill(train, Budget(1, SHAPE, 3), context), [value for _, value in context.curves["regression_loss"]]))
    (still, flat), (moved, losses) = runs
    assert losses[0] == pytest.approx(flat[0])
    assert sum(losses[-10:]) < 0.9 * sum(flat[-10:])
    assert torch.equal(still.tensors["static"], moved.tensors["static"])
    assert moved.soft_labels is not None and moved.soft_labels.argmax(1).tolist() == [0, 1, 2]
    assert not torch.allclose(moved.soft_labels, still.soft_labels)  # type: ignore[arg-type]


def test_pairs_of_a_clip_share_its_label_and_are_charged(contexts: ContextFactory) -> None:
    train = tiny_split(SHAPE)
    method = VDSDFRePo(**SMALL, static_per_clip=2, iterations=1, lr_dynamic=0.01)  # type: ignore[arg-type]
    stored = method.distill(train, BUDGET, contexts(method, train))
    stored.validate(SHAPE, 3)
    assert audit(stored, BUDGET)["label_bytes"] == 12 * 3 * 4 and stored.soft_labels is not None
    assert torch.equal(stored.soft_labels[0::2], stored.soft_labels[1::2])


def test_rates_fall_to_a_tenth_of_the_hallucinators(contexts: ContextFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As released: one floor for all groups, so that the memories' rate falls by five orders."""
    seen = []
    step = torch.optim.Adam.step

    def spy(self: torch.optim.Adam, *args: object) -> None:
        if len(self.param_groups) == 3:
            seen.append([group["lr"] for group in self.param_groups])
        step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    method = VDSDFRePo(**SMALL, iterations=40, lr_dynamic=1.0)  # type: ignore[arg-type]
    method.distill(tiny_split(SHAPE), BUDGET, contexts(method, tiny_split(SHAPE)))
    assert seen[0] == [1.0, 1e-3, 1e-3]
    assert seen[20] == pytest.approx([0.5, 5.5e-4, 5.5e-4], rel=1e-2)
    assert seen[-1][0] < 0.01 and seen[-1][1] == pytest.approx(1e-4, rel=0.05)
