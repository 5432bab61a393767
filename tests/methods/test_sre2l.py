from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.budget import Budget
from harness.errors import TaskError
from harness.plugin import Context
from harness.registry import Registry
from harness.training import normalise, predict_logits
from methods.sre2l import SRe2L, batch_norm_distances
from tests.tiny import SHAPE, ContextFactory, tiny_split

TEACHER = "minic3d[width=4]"
BUDGET = Budget(2, SHAPE, 3)


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def small(**config: object) -> SRe2L:
    return SRe2L(**({"teacher": TEACHER, "iterations": 5} | config))  # type: ignore[arg-type]


class TwoNorms(nn.Module):
    """Clips (B, T, C, H, W) -> logits (B, 3), with a 3-D and a 1-D normalisation of known statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.BatchNorm3d(1), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.first.running_mean, self.first.running_var = torch.tensor([0.2]), torch.tensor([0.5])
        self.second.running_mean, self.second.running_var = torch.arange(8) / 8.0, torch.ones(8)

    def forward(self, clips: Tensor) -> Tensor:
        x = self.first(clips.transpose(1, 2))
        return self.head(self.second(x.mean((1, 3, 4))))


def test_distance_to_the_running_statistics_by_hand() -> None:
    network, clips = TwoNorms().eval(), torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    with batch_norm_distances(network) as distances:
        network(clips)
    x = clips.numpy()
    first = abs(0.2 - x.mean()) + abs(0.5 - x.var())
    y = ((x - 0.2) / np.sqrt(0.5 + 1e-5)).mean((2, 3, 4))
    second = np.linalg.norm(np.arange(8) / 8 - y.mean(0)) + np.linalg.norm(1 - y.var(0))
    assert [float(d) for d in distances] == pytest.approx([first, second], rel=1e-4)
    assert float(small().weighted(distances)) == pytest.approx(10 * first + second, rel=1e-4)
    network(clips)
    assert len(distances) == 2, "hooks are gone after the block"


def test_one_step_is_adam_on_the_written_loss(contexts: ContextFactory) -> None:
    """Whole frames, no roll: Adam's first step is the learning rate along the sign of the gradient, which is that of the formula."""
    train, method = tiny_split(), small(iterations=1, lr=0.03, r_bn=0.5, jitter=0.0)
    context = contexts(method, train)
    teacher = context.assets["teacher"]
    start = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.3
    labels = torch.arange(6) % 3
    method_whole = WholeFrames(**{f: getattr(method, f) for f in method.__dataclass_fields__})  # type: ignore[attr-defined]
    moved = method_whole.recover(start.clone(), labels, teacher, context, 0, 1)

    x = start.double().requires_grad_()
    network = teacher.double()
    mean_and_variance: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.register_forward_hook(lambda m, inputs, _: mean_and_variance.append(statistic(m, inputs[0])))
    logits = network(x)
    loss = -F.log_softmax(logits, 1)[torch.arange(6), labels].mean()
    loss = loss + 0.5 * (10 * mean_and_variance[0] + sum(mean_and_variance[1:]))
    (gradient,) = torch.autograd.grad(loss, x)
    clear = gradient.abs() > 1e-5
    assert clear.float().mean() > 0.9
    step = (moved - start.clamp(-1, 1)).double()
    inside = clear & (start.abs() < 0.95)
    torch.testing.assert_close(step[inside], -0.03 * gradient.sign()[inside], atol=1e-4, rtol=1e-2)
    assert context.curves["recover_loss"] == [(1, pytest.approx(loss.item(), rel=1e-4))]


def statistic(module: nn.BatchNorm3d, x: Tensor) -> Tensor:
    """The distance of one normalisation, channel by channel."""
    total_mean = total_var = torch.zeros((), dtype=torch.float64)
    assert module.running_mean is not None and module.running_var is not None
    for c in range(x.shape[1]):
        values = x[:, c].flatten()
        mean = values.sum() / len(values)
        total_mean = total_mean + (module.running_mean[c] - mean) ** 2
        total_var = total_var + (module.running_var[c] - ((values - mean) ** 2).sum() / len(values)) ** 2
    return total_mean.sqrt() + total_var.sqrt()


class WholeFrames(SRe2L):
    def augment(self, clips: Tensor, context: Context) -> Tensor:
        return clips


def test_augmentation_shows_all_frames_and_clips_alike(contexts: ContextFactory) -> None:
    train = tiny_split()
    method = small(jitter=0.25)
    context = contexts.bare(train)
    clips = torch.randn(1, 1, 1, 32, 32).expand(3, *SHAPE).contiguous()
    seen = [method.augment(clips, context) for _ in range(4)]
    for view in seen:
        assert (view == view[:1, :1]).all()
    assert not torch.equal(seen[0], seen[1])
    ramp = torch.arange(32.0).expand(1, *SHAPE).contiguous()
    still = small(jitter=0.0, smallest_crop=1.0)
    assert all(still.augment(ramp, context)[0, 0, 0, 0].diff().min() >= 0 for _ in range(10)), "flipped where it changes the class"
    context.info = replace(train.info, flip=True)
    assert {bool(still.augment(ramp, context)[0, 0, 0, 0, 0] > 16) for _ in range(20)} == {True, False}


@pytest.mark.parametrize("start", ["noise", "real"])
def test_recovered_clips_are_those_the_teacher_asks_for(contexts: ContextFactory, start: str) -> None:
    train = tiny_split()
    curves, distances = [], []
    for iterations in (0, 60):
        method = small(iterations=iterations, start=start, smallest_crop=0.5, lr=0.1, r_bn=0.1)
        context = contexts(method, train)
        result = method.distill(train, BUDGET, context)
        curves.append(context.curves.get("recover_loss"))
        distances.append(context.metrics["bn_distance"])
    assert curves[0] is None
    assert curves[1][-1][1] < 0.85 * curves[1][0][1]  # type: ignore[index]
    assert distances[1] < distances[0]  # type: ignore[operator]
    if start == "real":
        assert distances[0] == pytest.approx(1), "as many real clips are the unit"
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert result.clips is not None and result.clips.dtype == torch.uint8


def test_labels_are_the_teachers_logits_of_the_stored_clips(contexts: ContextFactory) -> None:
    method, train = small(), tiny_split()
    context = contexts(method, train)
    result = method.distill(train, BUDGET, context)
    assert result.clips is not None and result.soft_labels is not None
    torch.testing.assert_close(result.soft_labels, predict_logits(context.assets["teacher"], result.clips, context.protocol, "cpu"))


def test_batches_mix_classes_and_clips_keep_their_places(contexts: ContextFactory) -> None:
    """Two batches of three: an instance of every class each. Without steps real clips come back in the order of their labels."""
    train, seen = tiny_split(), []

    class Watched(SRe2L):
        def recover(self, start: Tensor, labels: Tensor, *rest: object) -> Tensor:
            seen.append(labels.tolist())
            return start

    method = Watched(teacher=TEACHER, start="real", batch=3)
    result = method.distill(train, BUDGET, contexts(method, train))
    assert seen == [[0, 1, 2], [0, 1, 2]]
    assert result.clips is not None
    rows = [int((train.clips() == clip).flatten(1).all(1).nonzero()) for clip in result.clips]
    assert torch.equal(train.labels[rows], result.labels)


def test_pixels_stay_between_black_and_white(contexts: ContextFactory) -> None:
    train = tiny_split((8, 3, 32, 32))
    method = small(iterations=2, lr=5.0)
    context = contexts(method, train)
    clips = method.recover(torch.randn(3, 8, 3, 32, 32), torch.arange(3), context.assets["teacher"], context, 0, 1)
    for c in range(3):
        low, high = (float(normalise(torch.full((3, 1, 1), v))[c]) for v in (0.0, 1.0))
        assert math.isclose(float(clips[:, :, c].min()), low, abs_tol=1e-5)
        assert math.isclose(float(clips[:, :, c].max()), high, abs_tol=1e-5)


def test_a_teacher_without_batch_norm_is_refused(contexts: ContextFactory) -> None:
    train, method = tiny_split(), small(teacher="convnet3d[width=4]")
    with pytest.raises(TaskError, match="ConvNet3D has no batch normalisation to recover clips from: choose another teacher or r_bn=0"):
        method.distill(train, BUDGET, contexts(method, train))
    without = small(teacher="convnet3d[width=4]", r_bn=0.0)
    context = contexts(without, train)
    without.distill(train, BUDGET, context)
    assert context.metrics == {}
    with pytest.raises(ValueError, match="sre2l takes iterations >= 0"):
        SRe2L(lr=0.0)
