from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.budget import Budget
from harness.data.base import Split
from harness.distilled import DistilledSet
from harness.errors import TaskError
from harness.registry import Registry
from harness.training import normalise
from methods.dm import DM
from methods.pixels import RandomNetwork, class_groups, denormalise, real_clips
from tests.tiny import SHAPE, ContextFactory, tiny_split

NETWORK = "convnet3d[width=4]"


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def distill(contexts: ContextFactory, train: Split, ipc: int = 1, seed: int = 0, **config: object) -> tuple[DistilledSet, list[float]]:
    method = DM(network=NETWORK, **config)  # type: ignore[arg-type]
    context = contexts(method, train, seed)
    result = method.distill(train, Budget(ipc, train.info.clip_shape, 3), context)
    return result, [loss for _, loss in context.curves.get("matching_loss", [])]


@pytest.mark.parametrize("channels", [1, 3])
def test_denormalise_inverts_normalise(channels: int) -> None:
    clips = torch.rand(2, 4, channels, 5, 5) * 3 - 1
    torch.testing.assert_close(denormalise(normalise(clips)), clips)


def test_starts_from_distinct_real_clips(contexts: ContextFactory) -> None:
    train = tiny_split()
    result, losses = distill(contexts, train, ipc=3, iterations=0)
    assert losses == []
    assert result.clips is not None
    real = train.clips().float() / 255
    rows = torch.cdist(result.clips.flatten(1), real.flatten(1)).min(1)
    assert rows.values.max() < 1e-3
    assert len(set(rows.indices.tolist())) == 9
    assert torch.equal(train.labels[rows.indices], result.labels)


def test_more_than_a_class_holds_starts_from_repeated_clips(contexts: ContextFactory) -> None:
    train = tiny_split(per_class=2)
    method = DM(network=NETWORK)
    clips, labels = real_clips(train, Budget(5, SHAPE, 3), contexts(method, train))
    assert clips.shape == (15, *SHAPE)
    assert labels.bincount().tolist() == [5, 5, 5]


def test_one_step_is_sgd_on_the_written_loss(contexts: ContextFactory) -> None:
    """The whole class as real batch, so that nothing but the network is drawn: compare with the gradient of the formula."""
    train = tiny_split()
    method = DM(network=NETWORK, iterations=1, lr=2.0, real_batch=100)
    context = contexts(method, train, seed=5)
    torch.manual_seed(5)
    start, _ = real_clips(train, Budget(2, SHAPE, 3), contexts(method, train, seed=5))
    torch.manual_seed(5)
    psi = context.networks["psi"]().embed
    start.requires_grad_()
    loss = sum(
        (psi(normalise(train.clips(train.indices_of(c)))).mean(0) - psi(start[2 * c : 2 * c + 2]).mean(0)).square().sum() for c in range(3)
    )
    (gradient,) = torch.autograd.grad(loss, start)  # type: ignore[arg-type]
    result = method.distill(train, Budget(2, SHAPE, 3), context)
    assert result.clips is not None
    torch.testing.assert_close(result.clips, denormalise((start - 2.0 * gradient).detach()), atol=1e-5, rtol=1e-4)
    assert context.curves["matching_loss"] == [(1, pytest.approx(loss.item(), rel=1e-4))]  # type: ignore[union-attr]


def test_matching_lowers_the_loss_on_networks_not_seen_before(contexts: ContextFactory) -> None:
    """The same seed draws the same networks and batches, so each loss has its counterpart where the pixels stand still."""
    train = tiny_split(per_class=8)
    _, still = distill(contexts, train, iterations=80, lr=1e-9, real_batch=8)
    _, losses = distill(contexts, train, iterations=80, lr=30.0, real_batch=8)
    assert losses[0] == still[0]
    assert sum(losses[-20:]) < 0.75 * sum(still[-20:])


def test_same_seed_same_clips(contexts: ContextFactory) -> None:
    train = tiny_split()
    first, again, other = (distill(contexts, train, seed=s, iterations=3)[0].clips for s in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_divergence_is_one_clear_sentence(contexts: ContextFactory) -> None:
    with pytest.raises(TaskError, match=r"matching_loss ran away: .* at step \d+ of 40; lower the learning rate lr"):
        distill(contexts, tiny_split(), iterations=40, lr=1e4)


def test_unfit_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="dm takes iterations >= 0, lr > 0"):
        DM(lr=0.0)


@pytest.mark.parametrize("network", ["convnet3d[width=4]", "minic3d[width=4]", "c3d[width=4,hidden=16]"])
def test_a_network_is_drawn_in_place_as_if_it_were_built(contexts: ContextFactory, network: str) -> None:
    """c3d and minic3d initialise themselves in their constructors, so that resetting their modules would not do."""
    context = contexts(DM(network), tiny_split())
    clips = torch.randn(2, *SHAPE)
    psi = RandomNetwork(context, "psi")
    storage = [p.data_ptr() for p in psi._module.parameters()]
    for seed in (3, 4, 3):
        torch.manual_seed(seed)
        built = context.networks["psi"]()
        torch.manual_seed(seed)
        psi.draw()
        with torch.no_grad():
            torch.testing.assert_close(psi.embed(clips), built.embed(clips), atol=1e-5, rtol=1e-4)  # type: ignore[operator]
    assert [p.data_ptr() for p in psi._module.parameters()] == storage
    assert psi._resets == network.startswith("convnet3d")


def test_classes_together_are_classes_one_by_one(contexts: ContextFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    train = tiny_split()
    together, losses = distill(contexts, train, ipc=2, iterations=3, real_batch=4)
    monkeypatch.setattr("methods.pixels.TOGETHER", {"cpu": 1})
    apart, same = distill(contexts, train, ipc=2, iterations=3, real_batch=4)
    assert together.clips is not None and apart.clips is not None
    torch.testing.assert_close(together.clips, apart.clips, atol=1e-4, rtol=1e-4)
    assert losses == pytest.approx(same, rel=1e-4)


def test_groups_cover_all_classes() -> None:
    small, large = Budget(5, (8, 1, 32, 32), 12), Budget(1, (16, 3, 112, 112), 50)
    cpu = torch.device("cpu")
    assert [list(g) for g in class_groups(small, 32, cpu)] == [list(range(8)), list(range(8, 12))]
    assert [list(g) for g in class_groups(large, 64, cpu)] == [[c] for c in range(50)]
