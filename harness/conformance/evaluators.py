"""What is required of an evaluator: its networks give logits, pass gradients, repeat themselves, and say which clips they cannot take."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.conformance.subject import (
    Check,
    NotApplicable,
    Subject,
    as_text,
    check,
    require,
    require_declared,
    require_reason,
    require_shape,
    same_tensors,
)
from harness.conformance.tiny import CLASSES, SHAPE, tiny_split
from harness.data.info import ClipShape
from harness.plugin import Embedding, EvaluatorPlugin
from harness.protocol import TrainingProtocol
from harness.training import predict_logits, train_network

COLOUR: ClipShape = (8, 3, 32, 32)
LARGE = (16, 3, 64, 64)
IMPOSSIBLE = (1, 1, 1, 1)

CHECKS: list[Check] = []


@check(CHECKS, shape=(SHAPE, COLOUR))
def gives_logits(subject: Subject, shape: ClipShape) -> None:
    """Clips (B, T, C, H, W) become finite logits (B, classes), one clip as well as several."""
    model = subject.network(shape).eval()
    with torch.inference_mode():
        for batch in (1, 4):
            logits = model(torch.randn(batch, *shape))
            require_shape("logits", logits, (batch, CLASSES))
            require(torch.isfinite(logits).all(), "the logits hold NaN or infinite values")


@check(CHECKS, slow=True, shape=(LARGE,))
def gives_logits_of_large_clips(subject: Subject, shape: ClipShape) -> None:
    """Larger clips of colour become logits too."""
    gives_logits(subject, shape)


@check(CHECKS)
def passes_gradients(subject: Subject) -> None:
    """The gradient of the loss reaches every parameter and the clips."""
    model = subject.network().train()
    clips = torch.randn(4, *SHAPE, requires_grad=True)
    nn.functional.cross_entropy(model(clips), torch.tensor([0, 1, 2, 0])).backward()
    require_gradient(clips)
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    require(not silent, f"parameters without a gradient: {', '.join(silent)}")


@check(CHECKS)
def is_trained_by_the_loop(subject: Subject) -> None:
    """The harness's training loop changes it, and gives the same weights for the same seed."""
    fresh = subject.network().state_dict()
    family: EvaluatorPlugin = subject.create()
    clips, labels = torch.rand(6, *SHAPE), torch.arange(6) % CLASSES
    protocol = TrainingProtocol(lr=0.01, epochs=2, batch=3)
    trained, again = (
        train_network(lambda: family.build(SHAPE, CLASSES), clips, labels, protocol, seed=0, device="cpu").model for _ in range(2)
    )
    require(not same_tensors(trained.state_dict(), fresh), "training changes nothing")
    require(same_tensors(trained.state_dict(), again.state_dict()), "two trainings with the same seed give different weights")
    require_shape("logits", predict_logits(trained, clips, protocol, "cpu"), (6, CLASSES))


@check(CHECKS)
def has_features(subject: Subject) -> None:
    """``embed``, where there is one, gives features (B, D) through which gradients reach the clips."""
    model = subject.network().eval()
    if not isinstance(model, Embedding):
        raise NotApplicable("its networks have no embed(clips), so methods that need features cannot use them")
    clips = torch.randn(4, *SHAPE, requires_grad=True)
    features = model.embed(clips)
    require(features.dim() == 2 and len(features) == 4, f"features of 4 clips must have shape (4, D), got {tuple(features.shape)}")
    features.square().sum().backward()
    require_gradient(clips)


@check(CHECKS)
def judges_clips_one_by_one(subject: Subject) -> None:
    """In eval mode the logits of a clip depend neither on its batch nor on chance."""
    model = subject.network().eval()
    clips = torch.randn(4, *SHAPE)
    with torch.inference_mode():
        together, alone = model(clips), torch.cat([model(clip[None]) for clip in clips])
        require(torch.equal(model(clips), together), "in eval mode the same clips give different logits")
    near, apart = torch.allclose(together, alone, atol=1e-4, rtol=1e-4), float((together - alone).abs().max())
    require(near, f"in eval mode the logits of a clip depend on its batch: they differ by up to {apart:.3g}")


@check(CHECKS)
def follows_the_global_seed(subject: Subject) -> None:
    """torch's global seed decides the initialisation, and nothing else does."""
    first, again, other = (subject.network(seed=seed).state_dict() for seed in (0, 0, 1))
    require(same_tensors(first, again), "two networks of the same global seed start differently")
    require(not same_tensors(first, other), "networks of different global seeds start alike")


@check(CHECKS)
def is_rebuilt_from_its_state(subject: Subject) -> None:
    """A stored teacher is rebuilt and loaded from its state alone."""
    trained, fresh = subject.network(seed=0).eval(), subject.network(seed=1).eval()
    fresh.load_state_dict({name: value.clone() for name, value in trained.state_dict().items()})
    clips = torch.randn(2, *SHAPE)
    with torch.inference_mode():
        require(torch.equal(trained(clips), fresh(clips)), "a network that was given the state of another gives other logits")


@check(CHECKS)
def declines_what_it_cannot_take(subject: Subject) -> None:
    """``skip`` gives a reason for a clip of one pixel, or the network takes it."""
    family: EvaluatorPlugin = subject.create()
    reason = family.skip(IMPOSSIBLE)
    require_reason(reason)
    if reason is not None:
        return
    try:
        with torch.inference_mode():
            logits = family.build(IMPOSSIBLE, CLASSES).eval()(torch.randn(1, *IMPOSSIBLE))
    except Exception as error:
        raise AssertionError(f"skip takes clips of {as_text(IMPOSSIBLE)}, but the network does not: {error}") from error
    require_shape("logits", logits, (1, CLASSES))


@check(CHECKS)
def declares_its_metrics(subject: Subject) -> None:
    """What ``measure`` puts into context.metrics is declared in its hook ``metrics``: what it is, under a name of its own."""
    model, family = subject.network().eval(), subject.create()
    context = subject.contexts.bare(tiny_split())
    family.measure(model, context)
    require_declared(subject, context)


def require_gradient(clips: Tensor) -> None:
    reached = clips.grad is not None and bool(clips.grad.abs().sum() > 0)
    require(reached, "no gradient reaches the clips, so methods that optimise them cannot use it")
