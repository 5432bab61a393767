"""What the methods that optimise pixels share: clips in the networks' normalised space, the way back, and a look at the loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from harness import Budget, Context, Embedding, Split, TaskError, normalise

CURVE_POINTS = 50
RUNAWAY = 1e4


def real_clips(train: Split, budget: Budget, context: Context) -> tuple[Tensor, Tensor]:
    """IPC random real clips of each class to start from: normalised (classes * IPC, T, C, H, W) on the device, and labels, class by class.

    A class with fewer clips than IPC gives some of them more than once; they part as they are optimised.
    """
    rows = []
    for label in range(budget.classes):
        of_class = train.indices_of(label)
        order = torch.randperm(len(of_class), generator=context.generator)
        rows.append(of_class[order.repeat(-(-budget.ipc // len(order)))[: budget.ipc]])
    index = torch.cat(rows)
    return normalise(train.clips(index), context.device), train.labels[index]


def random_embedding(context: Context, network: str) -> Callable[[Tensor], Tensor]:
    """``embed`` of a declared network, freshly drawn from the device's global generator, whose parameters need no gradient."""
    with context.device:  # initialised where it is used: a network an iteration is too much to copy
        module = context.networks[network]().to(context.device).requires_grad_(False)
    if not isinstance(module, Embedding):
        raise TaskError(f"{type(module).__name__} has no embed(clips): distributions cannot be matched in its features")
    return module.embed


def draw_batch(train: Split, rows: Tensor, size: int, context: Context) -> Tensor:
    """``size`` of these rows (all of them where there are fewer), without replacement: normalised clips on the device."""
    chosen = rows[torch.randperm(len(rows), generator=context.generator)[:size]]
    return normalise(train.clips(chosen).to(context.device, non_blocking=True))


def denormalise(clips: Tensor) -> Tensor:
    """Inverse of ``normalise``: float clips in which [0, 1] is black to white; optimised pixels may lie outside of it."""
    black, white = (normalise(torch.full((clips.shape[-3], 1, 1), value, device=clips.device)) for value in (0.0, 1.0))
    return (clips - black) / (white - black)


def follow(context: Context, name: str, step: int, total: int, loss: Tensor) -> None:
    """Note the loss of a step (1 to total) in the curve ``name`` and report progress, at about 50 of the steps: reading it waits for it.

    Raises TaskError where it is no longer finite or has grown ten thousandfold.
    """
    every = max(1, total // CURVE_POINTS)
    if step % every != 1 % every and step != total:
        return
    value = float(loss.detach())
    curve = context.curves.setdefault(name, [])
    curve.append((step, value))
    if not math.isfinite(value) or value > RUNAWAY * max(curve[0][1], 1e-6):
        raise TaskError(f"{name} ran away: {curve[0][1]:.3g} at first, {value:.3g} at step {step} of {total}; lower the learning rate lr")
    context.progress(step, total)
