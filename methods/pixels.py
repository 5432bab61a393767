"""What the methods that optimise pixels share: clips in the networks' normalised space, networks drawn anew, and a look at the loss.

Nothing here waits for the device: real clips lie on it where they fit, indices are sent without waiting, and losses are read at about 50
of the steps alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from harness import Budget, Context, Embedding, Split, TaskError, normalise, parts, place

CURVE_POINTS = 50
RUNAWAY = 1e4
RESIDENT_BYTES = 16 << 30
"""A training split of at most so many bytes (uint8) is kept on a GPU: MiniUCF takes 2.8 GB."""
TOGETHER = {"cpu": 2 << 20, "cuda": 128 << 20}
"""Values of clips that pass a network at a time, classes together: 256 small clips of the embedded dataset on a CPU, 220 of 16x3x112x112
on a GPU, whose activations without a graph take about 4 GB. A class that alone has more still passes at once."""


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


class FreshNetwork:
    """A network that is built once, on the device, and drawn anew in place from the device's global generator.

    A draw is what building it would have drawn: where that is true of ``reset_parameters`` of its modules, which is tried once, they do
    it; else the network is built again and its state copied.
    """

    def __init__(self, build: Callable[[], nn.Module], device: torch.device) -> None:
        self._build, self._device = build, device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self._fresh = self._built()
            self._resets = self._resets_as_built()
        self._module = place(copy.deepcopy(self._fresh), device)

    def draw(self) -> nn.Module:
        """The network, always the same object, with other parameters, as if it was just built."""
        if self._resets:
            _reset(self._fresh)
        else:
            self._fresh = self._built()
        self._module.load_state_dict(self._fresh.state_dict())
        return self._module

    def _built(self) -> nn.Module:
        with self._device:  # initialised where it is used: a network an iteration is too much to copy
            return self._build().to(self._device)

    def _resets_as_built(self) -> bool:
        torch.manual_seed(0)
        built = self._built().state_dict()
        torch.manual_seed(0)
        _reset(self._fresh)
        return all(torch.equal(tensor, built[name]) for name, tensor in self._fresh.state_dict().items())


class RandomNetwork(FreshNetwork):
    """A declared network that is drawn anew to embed clips; its parameters need no gradient."""

    def __init__(self, context: Context, name: str) -> None:
        super().__init__(context.networks[name], context.device)
        self._module.requires_grad_(False)
        if not isinstance(self._module, Embedding):
            raise TaskError(f"{type(self._module).__name__} has no embed(clips): distributions cannot be matched in its features")

    def embed(self, clips: Tensor) -> Tensor:
        """Features (N, D) of normalised clips (N, T, C, H, W); a CPU computes them in parts that its caches hold."""
        return torch.cat([self._module.embed(part) for part in clips.chunk(parts(self._module, clips))])  # type: ignore[operator]


@torch.no_grad()
def _reset(module: nn.Module) -> None:
    for part in module.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()


class RealBatches:
    """Random real clips of each class, ``size`` at a time (all of them where there are fewer), without replacement."""

    def __init__(self, train: Split, budget: Budget, size: int, context: Context) -> None:
        self._train, self._context = train, context
        self._rows = [train.indices_of(label) for label in range(budget.classes)]
        self._size = size
        kept = context.device.type == "cuda" and len(train) * math.prod(budget.clip_shape) <= RESIDENT_BYTES
        self._resident = train.clips().to(context.device) if kept else None

    def of(self, classes: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Normalised clips of these classes on the device, class by class, and how many each has."""
        chosen = [self._rows[c][torch.randperm(len(self._rows[c]), generator=self._context.generator)[: self._size]] for c in classes]
        rows, device = torch.cat(chosen), self._context.device
        if self._resident is not None:
            clips = self._resident.index_select(0, rows.to(device, non_blocking=True))
        else:
            clips = self._train.clips(rows).to(device, non_blocking=True)
        return normalise(clips), [len(c) for c in chosen]


def class_groups(budget: Budget, real_batch: int, device: torch.device) -> Iterator[range]:
    """The classes in runs that pass a network together: as many as ``TOGETHER`` allows, at least one."""
    values = max(real_batch, budget.ipc) * math.prod(budget.clip_shape)
    step = max(1, TOGETHER.get(device.type, TOGETHER["cpu"]) // values)
    return (range(start, min(start + step, budget.classes)) for start in range(0, budget.classes, step))


def mean_of_classes(features: Tensor, counts: Sequence[int]) -> Tensor:
    """Mean features (classes, D) of rows (N, D) that stand class by class, ``counts`` of each."""
    return torch.stack([part.mean(0) for part in features.split(list(counts))])


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
