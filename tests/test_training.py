from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness import training
from harness.assets.teacher import Teacher
from harness.data.base import Split
from harness.data.info import DatasetInfo
from harness.errors import TaskError
from harness.plugin import Context
from harness.protocol import TrainingProtocol
from harness.training import embed_clips, normalise, predict_logits, train_network

SHAPE = (4, 1, 6, 6)
CPU = torch.device("cpu")


class TinyNet(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(math.prod(SHAPE), 16)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, classes)

    def embed(self, clips: torch.Tensor) -> torch.Tensor:
        return self.body(clips.flatten(1)).relu()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.embed(clips)))


def make_split(n: int = 24, flip: bool = True) -> Split:
    """Clips whose brightness is their class: easy to learn."""
    labels = torch.arange(n) % 3
    noise = torch.randint(0, 40, (n, *SHAPE), generator=torch.Generator().manual_seed(1))
    clips = (noise + 100 * labels.view(-1, 1, 1, 1, 1)).clamp(max=255).to(torch.uint8)
    per_class = tuple(labels.bincount(minlength=3).tolist())
    info = DatasetInfo("tiny", ("a", "b", "c"), SHAPE, per_class, per_class, flip, "digest")
    return Split(clips.numpy(), labels, torch.full((n,), 4), [str(i) for i in range(n)], info)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_treats_uint8_and_unit_floats_alike(channels: int) -> None:
    clips = torch.randint(0, 256, (2, 4, channels, 6, 6), dtype=torch.uint8)
    torch.testing.assert_close(normalise(clips), normalise(clips.double() / 255))
    assert normalise(clips).dtype == torch.float32


def test_normalise_uses_imagenet_for_colour_and_a_half_otherwise() -> None:
    white = torch.ones(1, 1, 3, 1, 1)
    torch.testing.assert_close(normalise(white).flatten(), torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))
    assert normalise(torch.ones(1, 1, 1, 1, 1)).item() == 1 and normalise(torch.zeros(1, 1, 1, 1, 1)).item() == -1


def test_normalise_passes_gradients_and_leaves_its_argument_alone() -> None:
    clips = torch.rand(1, 2, 3, 4, 4, requires_grad=True)
    before = clips.detach().clone()
    normalise(clips).sum().backward()
    assert clips.grad is not None and bool((clips.grad > 0).all())
    assert torch.equal(clips.detach(), before)
    frames = torch.randint(0, 256, (1, 2, 1, 4, 4), dtype=torch.uint8)
    kept = frames.clone()
    normalise(frames)
    assert torch.equal(frames, kept)


def test_training_learns_and_reports_its_curve() -> None:
    split = make_split()
    calls: list[tuple[int, int]] = []
    protocol = TrainingProtocol(optimizer="adamw", lr=0.01, epochs=30, batch=10)
    trained = train_network(TinyNet, split, split.labels, protocol, seed=0, device=CPU, progress=lambda d, t: calls.append((d, t)))
    assert trained.steps == 90 and trained.curve[-1][0] == 90 and calls[-1] == (90, 90)
    assert trained.curve[-1][1] < trained.curve[0][1]
    assert not trained.model.training
    accuracy = (predict_logits(trained.model, split, protocol, CPU).argmax(1) == split.labels).float().mean()
    assert accuracy > 0.9


def test_same_seed_same_weights_another_seed_others() -> None:
    split = make_split()
    protocol = TrainingProtocol(epochs=3, batch=10, flip=True, crop=1, resized_crop=0.5)
    one, two, other = (weights(train_network(TinyNet, split, split.labels, protocol, seed=s, device=CPU).model) for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_initialisation_depends_on_the_seed_alone_and_random_state_is_untouched() -> None:
    initial: list[torch.Tensor] = []

    def build() -> nn.Module:
        model = TinyNet()
        initial.append(weights(model).clone())
        return model

    split = make_split()
    for state, n in ((1, 24), (2, 9)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        train_network(build, split.clips(slice(n)), split.labels[:n], TrainingProtocol(epochs=1), seed=7, device=CPU)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*initial)


def test_clips_that_are_read_train_as_those_in_memory() -> None:
    """Normalised batch by batch or all at once: the same weights to the digit, of bytes and of floats."""
    split = make_split()
    protocol = TrainingProtocol(epochs=2, batch=10, crop=1)
    read, held, floats = (
        weights(train_network(TinyNet, clips, split.labels, protocol, seed=0, device=CPU).model)
        for clips in (split, split.clips(), split.clips().float() / 255)
    )
    assert torch.equal(read, held) and torch.equal(read, floats)


@pytest.mark.parametrize("soft_loss", [None, "kl", "mse+ce"])
def test_a_cpu_trains_in_parts_what_it_would_train_at_once(monkeypatch: pytest.MonkeyPatch, soft_loss: str | None) -> None:
    split = make_split(23)
    soft = None if soft_loss is None else torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
    protocol = TrainingProtocol(epochs=4, batch=10, lr=0.05, soft_loss=soft_loss or "kl", standardise_batch=True)
    seen: list[int] = []

    def train() -> training.Trained:
        def build() -> nn.Module:
            model = TinyNet()
            model.drop = nn.Identity()  # dropout draws another mask for every part
            model.register_forward_pre_hook(lambda _, clips: seen.append(len(clips[0])))
            return model

        return train_network(build, split, split.labels, protocol, seed=0, device=CPU, soft_labels=soft)

    whole, sizes = train(), tuple(seen)
    assert sizes == (10, 10, 3) * 4
    seen.clear()
    monkeypatch.setattr(training, "CPU_PART", 4 * math.prod(SHAPE))
    parted = train()
    assert seen == [4, 4, 2, 4, 4, 2, 3] * 4
    torch.testing.assert_close(weights(parted.model), weights(whole.model), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.tensor(parted.curve), torch.tensor(whole.curve), rtol=1e-4, atol=1e-6)
    seen.clear()
    logits = predict_logits(parted.model, split, protocol, CPU)
    assert max(seen) == 4
    monkeypatch.setattr(training, "CPU_PART", 1 << 30)
    torch.testing.assert_close(logits, predict_logits(parted.model, split, protocol, CPU))


def test_training_batch_norm_is_never_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CPU_PART", math.prod(SHAPE))
    batch = torch.zeros(6, *SHAPE)
    tied = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(math.prod(SHAPE)))
    assert training.parts(tied, batch) == 1
    assert training.parts(tied.eval(), batch) == 6
    assert training.parts(TinyNet(), batch) == 6
    assert training.parts(TinyNet(), batch.to("meta")) == 1


@pytest.mark.parametrize("given, expected", [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")])
def test_threads_do_not_spin_for_long_unless_asked_to(given: dict[str, str], expected: str) -> None:
    bare = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import sys, os, harness; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", code], env=bare | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_streaming_reads_only_the_rows_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split()
    array = np.memmap(tmp_path / "clips", np.uint8, "w+", shape=(24, *SHAPE))
    array[:] = split.clips().numpy()
    mapped = Split(array, split.labels, split.native_frames, split.ids, split.info)
    read: list[int] = []
    clips = Split.clips
    monkeypatch.setattr(Split, "clips", lambda self, rows=None: read.append(len(rows)) or clips(self, rows))
    train_network(TinyNet, mapped, mapped.labels, TrainingProtocol(epochs=1, batch=10), seed=0, device=CPU)
    assert read == [10, 10, 4]


def test_soft_labels_teach_what_the_hard_ones_do_not_say() -> None:
    split = make_split()
    soft = 8 * torch.nn.functional.one_hot((split.labels + 1) % 3, 3).float()
    for loss in ("kl", "mse+ce"):
        protocol = TrainingProtocol(optimizer="adamw", lr=0.01, epochs=60, batch=10, soft_loss=loss)
        model = train_network(TinyNet, split, split.labels, protocol, seed=0, device=CPU, soft_labels=soft).model
        accuracy = (predict_logits(model, split, protocol, CPU).argmax(1) == (split.labels + 1) % 3).float().mean()
        assert accuracy > 0.8, loss


def test_kl_is_zero_at_the_teacher_and_scales_with_temperature() -> None:
    logits = torch.randn(5, 3)
    labels = torch.zeros(5, dtype=torch.long)
    same = training._loss(logits, labels, logits, TrainingProtocol(temperature=4))
    assert abs(same.item()) < 1e-5
    teacher = torch.randn(5, 3)
    p, q = teacher.softmax(1), logits.softmax(1)
    torch.testing.assert_close(training._loss(logits, labels, teacher, TrainingProtocol()), (p * (p.log() - q.log())).sum(1).mean())


def test_learning_rate_schedules() -> None:
    def factors(**fields: object) -> list[float]:
        return [round(training.lr_factor(s, 10, TrainingProtocol(**fields)), 3) for s in range(10)]  # type: ignore[arg-type]

    assert factors(schedule="none") == [1] * 10
    assert factors(schedule="half") == [1] * 5 + [0.1] * 5
    assert factors(schedule="half", warmup=0.2)[:3] == [0.5, 1, 1]
    cosine = factors(schedule="cosine")
    assert cosine[0] == 1 and cosine[5] == 0.5 and cosine == sorted(cosine, reverse=True) and cosine[-1] < 0.05
    assert 0.5 < factors(schedule="half-cosine")[-1] < 0.6


def test_divergence_is_one_sentence() -> None:
    split = make_split()
    with pytest.raises(TaskError, match=r"training diverged: the loss is (nan|inf) at step \d+ of"):
        train_network(TinyNet, split, split.labels, TrainingProtocol(lr=1e30, epochs=40), seed=0, device=CPU)


def test_empty_and_mismatched_sets_are_refused() -> None:
    split = make_split()
    with pytest.raises(TaskError, match="empty"):
        train_network(TinyNet, split.clips(slice(0)), split.labels[:0], TrainingProtocol(), seed=0, device=CPU)
    with pytest.raises(TaskError, match="24 clips but 3 labels"):
        train_network(TinyNet, split, split.labels[:3], TrainingProtocol(), seed=0, device=CPU)


def test_prediction_is_in_order_whatever_the_batch_and_keeps_the_mode() -> None:
    split, model = make_split(), TinyNet()
    assert model.training
    whole = predict_logits(model, split, TrainingProtocol(test_batch=64), CPU)
    parts = predict_logits(model, split.clips(), TrainingProtocol(test_batch=5), CPU)
    torch.testing.assert_close(whole, parts)
    assert whole.shape == (24, 3) and whole.dtype == torch.float32 and not whole.requires_grad and model.training
    assert embed_clips(model, split, TrainingProtocol(), CPU).shape == (24, 16)


def test_batch_standardisation_reaches_training_and_test() -> None:
    split, model = make_split(), TinyNet()
    named = TrainingProtocol(standardise_batch=True, test_batch=5)
    batch = normalise(split.clips(slice(5)))
    expected = model.eval()((batch - batch.mean()) / batch.std())
    torch.testing.assert_close(predict_logits(model, split, named, CPU)[:5], expected.detach())
    plain = train_network(TinyNet, split, split.labels, TrainingProtocol(epochs=1), seed=0, device=CPU)
    changed = train_network(TinyNet, split, split.labels, TrainingProtocol(epochs=1, standardise_batch=True), seed=0, device=CPU)
    assert not torch.equal(weights(plain.model), weights(changed.model))


def test_a_network_without_embed_is_named() -> None:
    with pytest.raises(TaskError, match=r"Sequential has no embed"):
        embed_clips(nn.Sequential(nn.Flatten()), make_split(), TrainingProtocol(), CPU)


def test_shift_moves_whole_pixels_and_replicates_the_border() -> None:
    clip = torch.arange(9.0).view(1, 1, 1, 3, 3).expand(2, 2, 1, 3, 3)
    moved = training.shift(clip, torch.tensor([[1, 0], [0, -1]]))
    assert moved[0, 0, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert moved[1, 1, 0].tolist() == [[1, 2, 2], [4, 5, 5], [7, 8, 8]]


def test_crop_resized_is_the_identity_for_the_whole_frame_and_zooms_otherwise() -> None:
    clips = torch.rand(1, 2, 3, 8, 8)
    torch.testing.assert_close(training.crop_resized(clips, torch.tensor([[0.5, 0.5, 1, 1]])), clips)
    half = torch.zeros(1, 1, 1, 8, 8)
    half[..., 4:] = 1
    left = training.crop_resized(half, torch.tensor([[0.5, 0.25, 1, 0.25]]))
    assert left.max() == 0
    boxes = training.draw_boxes(200, 0.08, torch.Generator().manual_seed(0))
    edges = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
    assert edges.min() > -1e-6 and edges.max() < 1 + 1e-6


def test_flips_are_off_where_direction_is_the_label() -> None:
    protocol = TrainingProtocol(flip=True)
    assert protocol.on(make_split(flip=True).info).flip
    assert not protocol.on(make_split(flip=False).info).flip


def test_biases_are_spared_from_decay_where_asked() -> None:
    optimizer = training._optimizer(TinyNet(), TrainingProtocol(optimizer="adamw", weight_decay=0.1, decay_biases=False), CPU)
    assert [(g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [(0.1, 2), (0.0, 2)]


def test_teacher_round_trip(tmp_path: Path) -> None:
    split = make_split()
    protocol = TrainingProtocol(optimizer="adamw", epochs=30, batch=10)
    context = Context(CPU, torch.Generator(), 0, split.info, {}, {"network": TinyNet}, protocol, tmp_path, lambda done, total: None)
    teacher = Teacher(seed=3)
    tensors = teacher.build(split, context)
    model = teacher.load(tensors, context)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    expected = train_network(TinyNet, split, split.labels, protocol, seed=3, device=CPU).model
    torch.testing.assert_close(predict_logits(model, split, protocol, CPU), predict_logits(expected, split, protocol, CPU))
    assert context.curves["loss"]


def test_the_rate_drops_where_the_recipe_says() -> None:
    """Video-DC's teacher: 150 epochs, x0.1 at 90 and at 130, after a warm-up over 10."""
    protocol = TrainingProtocol(schedule="steps", drops=(0.6, 0.86667), warmup=10 / 150)
    factors = [training.lr_factor(epoch, 150, protocol) for epoch in range(150)]
    assert factors[:10] == pytest.approx([0.1 * (k + 1) for k in range(10)])
    assert set(factors[10:90]) == {1.0}
    assert set(factors[90:130]) == {0.1}
    assert factors[131:] == pytest.approx([0.01] * 19)


@pytest.mark.parametrize("fields", [{"schedule": "steps"}, {"drops": (0.5,)}, {"schedule": "steps", "drops": (1.5,)}])
def test_drops_without_their_schedule_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="takes drops in"):
        TrainingProtocol(**fields)  # type: ignore[arg-type]


def test_a_gradient_is_cut_to_its_largest_norm() -> None:
    split = make_split()
    one_step = TrainingProtocol(optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, epochs=1, batch=24, schedule="none")
    torch.manual_seed(0)
    start = weights(TinyNet())

    def moved(limit: float) -> float:
        recipe = one_step.model_copy(update={"clip_gradient": limit})
        return float((weights(train_network(TinyNet, split, split.labels, recipe, seed=0, device=CPU).model) - start).norm())

    free = moved(0.0)
    assert moved(free / 4) == pytest.approx(free / 4, rel=1e-3)
    assert moved(free * 4) == pytest.approx(free)


def test_a_teacher_labels_what_the_student_sees() -> None:
    """With crops, labels are those of the crops; without, those that were made once."""
    split = make_split(flip=False)
    torch.manual_seed(7)
    teacher = TinyNet().eval()
    seen: list[torch.Tensor] = []
    teacher.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    recipe = TrainingProtocol(lr=0.01, epochs=3, batch=8, soft_loss="mse+ce", relabel=True)
    online = train_network(TinyNet, split, split.labels, recipe, seed=0, device=CPU, teacher=teacher)
    assert len(seen) == 9 and online.clips == 72 and online.steps == 9
    once = predict_logits(teacher, split, recipe, CPU)
    stored = train_network(TinyNet, split, split.labels, recipe, seed=0, device=CPU, soft_labels=once)
    torch.testing.assert_close(weights(online.model), weights(stored.model), atol=1e-5, rtol=1e-4)

    seen.clear()
    cropped = train_network(TinyNet, split, split.labels, recipe.model_copy(update={"crop": 2}), seed=0, device=CPU, teacher=teacher)
    assert not any(torch.isin(clip.sum(), normalise(split.clips()).flatten(1).sum(1)).all() for clip in seen[0][:1])
    assert not torch.equal(weights(cropped.model), weights(online.model))
    assert all(p.grad is None for p in teacher.parameters())
