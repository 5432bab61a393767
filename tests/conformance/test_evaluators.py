"""Every evaluator network gives logits, passes gradients, repeats itself, and says which clips it cannot take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from harness.protocol import TrainingProtocol
from harness.registry import Registry
from harness.training import predict_logits, train_network
from tests.tiny import SHAPE

CLASSES = 3
SHAPES = [SHAPE, (8, 3, 32, 32), pytest.param((16, 3, 64, 64), marks=pytest.mark.slow)]
IMPOSSIBLE = (1, 1, 1, 1)


def build(family: Any, shape: tuple[int, int, int, int], seed: int = 0) -> nn.Module:
    """The network of a seed; skips where the family declines the clip shape."""
    reason = family.skip(shape) if hasattr(family, "skip") else None
    if reason:
        pytest.skip(reason)
    torch.manual_seed(seed)
    return family.build(shape, CLASSES)  # type: ignore[no-any-return]


@pytest.fixture
def family(evaluator_name: str, registry: Registry) -> Any:
    return registry.resolve("evaluator", evaluator_name).create()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits(family: Any, shape: tuple[int, int, int, int]) -> None:
    model = build(family, shape).eval()
    with torch.inference_mode():
        for batch in (1, 4):
            logits = model(torch.randn(batch, *shape))
            assert logits.shape == (batch, CLASSES)
            assert torch.isfinite(logits).all()


def test_gradients_reach_the_parameters_and_the_clips(family: Any) -> None:
    model = build(family, SHAPE).train()
    clips = torch.randn(4, *SHAPE, requires_grad=True)
    nn.functional.cross_entropy(model(clips), torch.tensor([0, 1, 2, 0])).backward()
    assert clips.grad is not None
    assert clips.grad.abs().sum() > 0
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent, f"parameters without a gradient: {silent}"


def test_the_training_loop_trains_it(family: Any) -> None:
    build(family, SHAPE)  # skips where the family declines
    clips, labels = torch.rand(6, *SHAPE), torch.arange(6) % CLASSES
    protocol = TrainingProtocol(lr=0.01, epochs=2, batch=3)
    trained, again = (
        train_network(lambda: family.build(SHAPE, CLASSES), clips, labels, protocol, seed=0, device="cpu").model for _ in range(2)
    )
    fresh = build(family, SHAPE).state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in trained.state_dict().items())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in trained.state_dict().items())
    assert predict_logits(trained, clips, protocol, "cpu").shape == (6, CLASSES)


def test_features(family: Any) -> None:
    model = build(family, SHAPE).eval()
    if not hasattr(model, "embed"):
        pytest.skip("has no embed")
    clips = torch.randn(4, *SHAPE, requires_grad=True)
    features = model.embed(clips)
    assert features.dim() == 2
    assert len(features) == 4
    features.square().sum().backward()
    assert clips.grad is not None
    assert clips.grad.abs().sum() > 0


def test_clips_are_judged_one_by_one_in_eval_mode(family: Any) -> None:
    model = build(family, SHAPE).eval()
    clips = torch.randn(4, *SHAPE)
    with torch.inference_mode():
        together, alone = model(clips), torch.cat([model(clip[None]) for clip in clips])
        assert torch.equal(model(clips), together)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_the_global_seed_decides_the_initialisation(family: Any) -> None:
    first, again, other = (build(family, SHAPE, seed).state_dict() for seed in (0, 0, 1))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_state_carries_over(family: Any) -> None:
    """A stored teacher is rebuilt and loaded from its state alone."""
    trained, fresh = build(family, SHAPE, 0).eval(), build(family, SHAPE, 1).eval()
    fresh.load_state_dict({k: v.clone() for k, v in trained.state_dict().items()})
    clips = torch.randn(2, *SHAPE)
    with torch.inference_mode():
        assert torch.equal(trained(clips), fresh(clips))


def test_declines_what_it_cannot_take(family: Any) -> None:
    reason = family.skip(IMPOSSIBLE) if hasattr(family, "skip") else None
    if reason is not None:
        assert isinstance(reason, str)
        assert reason.strip()
        return
    with torch.inference_mode():
        assert family.build(IMPOSSIBLE, CLASSES).eval()(torch.randn(1, *IMPOSSIBLE)).shape == (1, CLASSES)
