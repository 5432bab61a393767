"""The one training loop: evaluators, teachers and feature extractors are all trained, and read, by these few functions.

What makes it fast, and keeps it repeatable:
- clips keep their own type, uint8 mostly, until a batch of them is used: a GPU holds them where they fit, else, and on a CPU, a batch at a
  time is read from the memory map, so that memory does not grow with the set;
- a CPU computes a large batch in parts, whose activations stay in its caches and whose memory is used again;
- batch order and augmentation of an epoch are drawn on the CPU from one generator and moved to the device in one go; nothing in the
  loop waits for the device, losses stay tensors until a progress point;
- initialisation depends on ``seed`` alone, dropout on ``seed`` too; the caller's random state is left as it was.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.base import Clips, read_clips
from harness.errors import TaskError
from harness.protocol import TrainingProtocol

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIDENT_BYTES = 24 << 30
"""Clips of at most so many bytes are held on a GPU: uint8, all of UCF101's training split takes 5.7 GB."""
RESIDENT_BATCH = 64
"""Clips that are moved to a GPU at a time."""
CPU_PART = 2 << 20
"""Values of the clips that a CPU passes through a network at a time: 3 clips of 16x3x112x112, 10 of 16x3x64x64. 50 clips of 16x3x112x112
in parts train ConvNet3D 20 to 25 % faster than at once, and in a fraction of the memory; clips of the embedded preset are never split."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
PROGRESS_POINTS = 40
DROPOUT_SALT = 0x5EED


@dataclass(frozen=True)
class Trained:
    """A trained network in eval mode, its loss curve [(step, mean loss since the last point)], and the optimiser steps and clips it took,
    a clip counting at each of its uses."""

    model: nn.Module
    curve: list[tuple[int, float]]
    steps: int
    clips: int


def normalise(clips: Tensor, device: torch.device | str | None = None) -> Tensor:
    """Clips (..., C, H, W) as the networks take them: float, normalised per channel. Differentiable for floating-point clips.

    uint8 [0, 255] and floating point [0, 1] mean the same. Three channels use ImageNet's mean and standard deviation (VDSD),
    any other number 0.5 and 0.5, so that [0, 1] becomes [-1, 1].
    """
    clips = clips.to(device) if device is not None else clips
    if clips.dtype == torch.uint8:
        clips = clips.float().div_(255)
    elif clips.dtype != torch.float32:
        clips = clips.float()
    if clips.shape[-3] == 3:
        mean, std = _imagenet(clips.device)
        return (clips - mean) / std
    return (clips - 0.5) / 0.5


@functools.lru_cache
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and standard deviation, (3, 1, 1); made once, because a tensor that is made from numbers waits for a GPU."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


def train_network(
    build: Callable[[], nn.Module],
    clips: Tensor | Clips,
    labels: Tensor,
    protocol: TrainingProtocol,
    *,
    seed: int,
    device: torch.device | str,
    soft_labels: Tensor | None = None,
    planned: int | None = None,
    teacher: nn.Module | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train the network that ``build`` returns on clips (N, T, C, H, W) with labels (N,) by the protocol; the last step is what counts.

    soft_labels: (N, classes) logits of a teacher, used by ``protocol.soft_loss``. planned: the number of clips that the optimiser steps
    are planned for, by default N; a set that materialises to more clips than its budget has gets the steps of the budget. teacher: a
    network in eval mode on the device that gives soft labels for every batch anew, as it is augmented (``protocol.relabel``).
    progress(done, total) is called in steps.
    The same seed gives the same initialisation and batch order for any set of the same size, and identical weights on the same CPU.
    Raises TaskError when the loss is no longer finite.
    """
    device = torch.device(device)
    if len(labels) == 0:
        raise TaskError("the training set is empty: at least one clip is needed")
    if len(labels) != len(clips):
        raise TaskError(f"{len(clips)} clips but {len(labels)} labels: every clip needs one")
    total = plan_steps(len(labels) if planned is None else planned, protocol)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = place(build(), device)
        torch.manual_seed(seed ^ DROPOUT_SALT)
        source = _Source(clips, device, protocol)
        return _train(model, source, labels, soft_labels, teacher, protocol, seed, device, total, progress)


def _train(
    model: nn.Module,
    source: _Source,
    labels: Tensor,
    soft_labels: Tensor | None,
    teacher: nn.Module | None,
    protocol: TrainingProtocol,
    seed: int,
    device: torch.device,
    total: int,
    progress: Callable[[int, int], None] | None,
) -> Trained:
    n = len(labels)
    labels = labels.to(device)
    soft_labels = None if soft_labels is None else soft_labels.to(device, torch.float32)
    optimizer = _optimizer(model, protocol, device)
    every = max(1, total // PROGRESS_POINTS)
    curve: list[tuple[int, float]] = []
    pending: list[Tensor] = []
    clips = 0
    autocast = _autocast(protocol, device)
    model.train()
    for step, (rows, augment) in enumerate(_batches(source, n, total, protocol, seed)):
        if protocol.reset_momentum and step == total // 2:
            optimizer = _optimizer(model, protocol, device)
        for group in optimizer.param_groups:
            group["lr"] = protocol.lr * lr_factor(step, total, protocol)
        batch = augment(source.rows(rows))
        if protocol.standardise_batch:
            batch = standardise(batch)
        clips += len(rows)
        optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        count = parts(model, batch)
        for part, own in zip(batch.chunk(count), rows.to(device).chunk(count), strict=True):
            soft = None if soft_labels is None else soft_labels[own]
            with autocast():
                if teacher is not None:
                    with torch.no_grad():
                        soft = teacher(part).float()
                logits = model(part)
            loss = _loss(logits.float(), labels[own], soft, protocol)
            loss = loss * (len(own) / len(rows))  # every loss is a mean over clips
            loss.backward()
            losses.append(loss.detach())
        if protocol.clip_gradient:
            nn.utils.clip_grad_norm_(model.parameters(), protocol.clip_gradient)
        optimizer.step()
        pending.append(torch.stack(losses).sum())
        if (step + 1) % every == 0 or step + 1 == total:
            value = float(torch.stack(pending).mean())
            pending.clear()
            curve.append((step + 1, value))
            if not math.isfinite(value):
                raise TaskError(f"training diverged: the loss is {value} at step {step + 1} of {total} (lr {protocol.lr:g})")
            if progress is not None:
                progress(step + 1, total)
    model.eval()
    return Trained(model, curve, total, clips)


def predict_logits(
    model: nn.Module, clips: Tensor | Clips, protocol: TrainingProtocol, device: torch.device | str, *, frames: Tensor | None = None
) -> Tensor:
    """Logits (N, classes), float32 on the CPU, of clips (N, T, C, H, W) in order, in eval mode and large batches.

    frames: (N, T) indices of the frames that each clip is shown as (repeated, permuted, reversed ...); None shows it as it is.
    """
    return _forward(model, model, clips, protocol, device, frames)


def embed_clips(model: nn.Module, clips: Tensor | Clips, protocol: TrainingProtocol, device: torch.device | str) -> Tensor:
    """Features (N, D), float32 on the CPU, by the network's ``embed`` in eval mode. Raises TaskError when it has none."""
    embed = getattr(model, "embed", None)
    if embed is None:
        raise TaskError(f"{type(model).__name__} has no embed(clips): it cannot serve as a feature extractor")
    return _forward(model, embed, clips, protocol, device, None)


def _forward(
    model: nn.Module,
    call: Callable[[Tensor], Tensor],
    clips: Tensor | Clips,
    protocol: TrainingProtocol,
    device: torch.device | str,
    frames: Tensor | None,
) -> Tensor:
    device = torch.device(device)
    training = model.training
    model.eval()
    autocast = _autocast(protocol, device)
    out: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(clips), protocol.test_batch):
            rows = slice(start, min(start + protocol.test_batch, len(clips)))
            batch = read_clips(clips, rows).to(device, non_blocking=True)
            if frames is not None:
                index = frames[rows].to(device)
                batch = batch[torch.arange(len(batch), device=device)[:, None], index]
            batch = normalise(batch)
            if protocol.standardise_batch:
                batch = standardise(batch)
            with autocast():
                out += [call(part).float() for part in batch.chunk(parts(model, batch))]
    model.train(training)
    return torch.cat(out).cpu()


def place(model: nn.Module, device: torch.device | str) -> nn.Module:
    """The network on the device, its convolutions in channels-last order, which oneDNN and cuDNN compute faster."""
    model = model.to(device)
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        elif isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def parts(model: nn.Module, batch: Tensor) -> int:
    """How many parts a batch is passed through the network in: one on a GPU, and where training batch norm ties its clips together."""
    if batch.device.type != "cpu" or batch.numel() <= CPU_PART:
        return 1
    if any(module.training and isinstance(module, BATCH_NORMS) for module in model.modules()):
        return 1
    return math.ceil(batch.numel() / CPU_PART)


def standardise(batch: Tensor) -> Tensor:
    """VDSD's re-standardisation: one scalar mean and one standard deviation over the whole mini-batch (VDSD)."""
    return (batch - batch.mean()) / batch.std()


def plan_steps(n: int, protocol: TrainingProtocol) -> int:
    """Optimiser steps for a set of n clips: whole epochs, and more of them where ``min_steps`` asks for it.

    >>> plan_steps(100, TrainingProtocol(epochs=3, batch=64)), plan_steps(10, TrainingProtocol(epochs=3, batch=64, min_steps=50))
    (6, 50)
    """
    per_epoch = math.ceil(n / protocol.batch)
    return per_epoch * max(protocol.epochs, math.ceil(protocol.min_steps / per_epoch))


def lr_factor(step: int, total: int, protocol: TrainingProtocol) -> float:
    """What the learning rate is multiplied with at a step in [0, total)."""
    warm = int(protocol.warmup * total)
    if step < warm:
        return (step + 1) / warm
    if protocol.schedule == "half":
        return 1.0 if step < total // 2 else 0.1
    if protocol.schedule == "steps":
        return 0.1 ** sum(step >= drop * total for drop in protocol.drops)  # type: ignore[no-any-return]
    if protocol.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
    if protocol.schedule == "half-cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (2 * (total - warm))))
    return 1.0


class _Source:
    """Training clips by row, normalised when they are used."""

    def __init__(self, clips: Tensor | Clips, device: torch.device, protocol: TrainingProtocol) -> None:
        self._device = device
        self._dtype = torch.bfloat16 if protocol.precision == "bf16" and device.type == "cuda" else torch.float32
        self._clips = clips if device.type == "cpu" else _resident(clips, device)

    def rows(self, rows: Tensor) -> Tensor:
        if isinstance(self._clips, Tensor):
            batch = self._clips.detach().index_select(0, rows.to(self._clips.device))
        else:
            batch = self._clips.clips(rows)
        return normalise(batch.to(self._device, non_blocking=True)).to(self._dtype)


def _resident(clips: Tensor | Clips, device: torch.device) -> Tensor | Clips:
    """All clips on the device, moved there a few at a time, where they fit."""
    first = read_clips(clips, slice(0, 1))
    if len(clips) * first.numel() * first.element_size() > RESIDENT_BYTES:
        return clips
    if isinstance(clips, Tensor):
        return clips.to(device)
    held = torch.empty((len(clips), *first.shape[1:]), dtype=first.dtype, device=device)
    for start in range(0, len(clips), RESIDENT_BATCH):
        rows = slice(start, min(start + RESIDENT_BATCH, len(clips)))
        held[rows] = clips.clips(rows).to(device)
    return held


def _batches(
    source: _Source, n: int, total: int, protocol: TrainingProtocol, seed: int
) -> Iterator[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Rows of each step, with the augmentation of that batch, all drawn from one CPU generator."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < total:
        order = torch.randperm(n, generator=generator)
        augmentation = _Augmentation(n, protocol, generator)
        for start in range(0, n, protocol.batch):
            rows = order[start : start + protocol.batch]
            yield rows, augmentation.of(slice(start, start + len(rows)))
            done += 1
            if done == total:
                return


class _Augmentation:
    """The random numbers of one epoch, one set for each place in its order; applied to batches on their device."""

    def __init__(self, n: int, protocol: TrainingProtocol, generator: torch.Generator) -> None:
        self._flips = torch.rand(n, generator=generator) < 0.5 if protocol.flip else None
        self._shifts = torch.randint(-protocol.crop, protocol.crop + 1, (n, 2), generator=generator) if protocol.crop else None
        self._boxes = draw_boxes(n, protocol.resized_crop, generator) if protocol.resized_crop else None

    def of(self, places: slice) -> Callable[[Tensor], Tensor]:
        def apply(batch: Tensor) -> Tensor:
            if self._boxes is not None:
                batch = crop_resized(batch, self._boxes[places].to(batch.device, non_blocking=True))
            if self._shifts is not None:
                batch = shift(batch, self._shifts[places].to(batch.device, non_blocking=True))
            if self._flips is not None:
                chosen = self._flips[places].to(batch.device, non_blocking=True)
                batch = torch.where(chosen.view(-1, 1, 1, 1, 1), batch.flip(-1), batch)
            return batch

        return apply


def shift(batch: Tensor, offsets: Tensor) -> Tensor:
    """Clips (B, T, C, H, W) moved by whole pixels, offsets (B, 2) as (down, right); borders are replicated, all frames move alike."""
    b, _, _, h, w = batch.shape
    rows = (torch.arange(h, device=batch.device) - offsets[:, :1]).clamp(0, h - 1)
    cols = (torch.arange(w, device=batch.device) - offsets[:, 1:]).clamp(0, w - 1)
    moved = batch.permute(0, 3, 4, 1, 2)[torch.arange(b, device=batch.device)[:, None, None], rows[:, :, None], cols[:, None, :]]
    return moved.permute(0, 3, 4, 1, 2).contiguous()


def draw_boxes(n: int, smallest: float, generator: torch.Generator) -> Tensor:
    """Random boxes (n, 4) as (centre y, centre x, height, width) in fractions of the frame: area in [smallest, 1], aspect 3/4 to 4/3."""
    area = smallest + (1 - smallest) * torch.rand(n, generator=generator)
    aspect = torch.exp((torch.rand(n, generator=generator) * 2 - 1) * math.log(4 / 3))
    height = (area / aspect).sqrt().clamp(max=1)
    width = (area * aspect).sqrt().clamp(max=1)
    place = torch.rand(n, 2, generator=generator)
    return torch.stack([height / 2 + place[:, 0] * (1 - height), width / 2 + place[:, 1] * (1 - width), height, width], 1)


def crop_resized(batch: Tensor, boxes: Tensor) -> Tensor:
    """Each clip (T, C, H, W) cut to its box and resized to the full frame, bilinear, frames alike. Boxes as ``draw_boxes`` gives them."""
    b, t, c, h, w = batch.shape
    theta = torch.zeros(b, 2, 3, device=batch.device)
    theta[:, 0, 0], theta[:, 0, 2] = boxes[:, 3], 2 * boxes[:, 1] - 1
    theta[:, 1, 1], theta[:, 1, 2] = boxes[:, 2], 2 * boxes[:, 0] - 1
    grid = F.affine_grid(theta, [b, t * c, h, w], align_corners=False)
    cut = F.grid_sample(batch.reshape(b, t * c, h, w).float(), grid, padding_mode="border", align_corners=False)
    return cut.view(b, t, c, h, w).to(batch.dtype)


def _loss(logits: Tensor, labels: Tensor, soft: Tensor | None, protocol: TrainingProtocol) -> Tensor:
    """Cross-entropy for hard labels; for soft ones T^2 KL(teacher || student), or MSE of the logits + 0.1 cross-entropy (Video-DC)."""
    if soft is None:
        return F.cross_entropy(logits, labels)
    if protocol.soft_loss == "mse+ce":
        return F.mse_loss(logits, soft) + 0.1 * F.cross_entropy(logits, labels)
    t = protocol.temperature
    return t * t * F.kl_div(F.log_softmax(logits / t, 1), F.log_softmax(soft / t, 1), reduction="batchmean", log_target=True)


def _optimizer(model: nn.Module, protocol: TrainingProtocol, device: torch.device) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if protocol.decay_biases or p.dim() > 1]
    kept = [p for p in model.parameters() if not (protocol.decay_biases or p.dim() > 1)]
    groups = [{"params": decayed, "weight_decay": protocol.weight_decay}]
    if kept:
        groups.append({"params": kept, "weight_decay": 0.0})
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=protocol.lr, fused=True)
    return torch.optim.SGD(groups, lr=protocol.lr, momentum=protocol.momentum, fused=True)


def _autocast(protocol: TrainingProtocol, device: torch.device) -> Callable[[], AbstractContextManager]:
    if protocol.precision == "bf16":
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext
