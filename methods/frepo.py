"""FRePo: clips and labels from which a kernel ridge regression, in the features of a pool of networks, predicts the real labels.

Zhou et al., "Dataset Distillation using Neural Feature Regression" (FRePo), NeurIPS 2022; on video as a baseline of Wang et al., "Dancing
with Still Images: Video Distillation via Static-Dynamic Disentanglement" (VDSD), CVPR 2024. At every iteration a network of the pool embeds
the distilled clips S and a real batch T as f_S and f_T, and the clips and their labels Y_S follow the gradient of

    L = || Y_T - f_T f_S' (f_S f_S' + lambda I)^-1 Y_S ||^2 / 2,    lambda = ridge * trace(f_S f_S') / |S|

with Y the one-hot labels minus their mean. The network then takes one step of training on (S, Y_S), and is replaced by a fresh one when it
has taken 100, so that the pool always holds networks of all ages.

    python -m harness run --methods frepo,dm,random --ipc 1,5 --labels native,hard

Reported: no figure of FRePo on video that is confirmed by a source that could be read.

Named deviations: the released video code ships the settings of its combination with VDSD alone, so the pixels' rate is an own choice; the
last iterate is kept. Networks are evaluated by the protocol on the learned labels, not by the released regression to them. The learned
labels are stored as soft labels: their logits are such that the softmax gives the learned label, moved back by its mean and cut to be
positive; with hard labels they are left out and each clip has the class it started from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Budget, Context, DistilledSet, Embedding, Log, Split, TaskError, method, normalise, parts
from methods.pixels import FreshNetwork, denormalise, follow, real_clips

WARM_UP = 500
"""Steps over which the rate of a pool network would rise to its full value, from a hundredth; a network does not live as long."""
SMALLEST_SHARE = 1e-6
"""Least probability of a class in a stored soft label, over the number of classes: a one-hot label loses a millionth at most."""


@dataclass(frozen=True)
class Regresses:
    """The parameters of the pool and of the regression; methods add what the distilled clips are made of."""

    network: str = "convnet3d"
    """Evaluator that the pool is made of."""
    pool: int = 10
    """Networks that are alive at a time (released: 10)."""
    max_age: int = 100
    """Steps of training after which a network is replaced (released: 100)."""
    network_lr: Annotated[float, Log(3e-5, 3e-3)] = 1e-4
    """Learning rate of Adam on the networks (released: 1e-4)."""
    iterations: int = 10_000
    """Steps on the clips (released: 10,000)."""
    label_lr: Annotated[float, Log(1e-4, 0.1)] = 0.001
    """Learning rate of Adam on the labels (released: 1e-3); 0 keeps them as they are."""
    real_batch: int = 512
    """Real clips at every step (released: 512)."""
    ridge: float = 1e-6
    """Ridge, relative to the mean of the kernel's diagonal (released: 1e-6)."""

    def __post_init__(self) -> None:
        counts_fit = min(self.pool, self.max_age, self.real_batch) >= 1 and self.iterations >= 0
        if not counts_fit or self.ridge <= 0 or self.label_lr < 0:
            raise ValueError("pool, max_age and real_batch must be at least 1, iterations and label_lr at least 0, ridge above 0")

    def networks(self) -> dict[str, str]:
        return {"psi": self.network}

    def new_pool(self, context: Context) -> list[PoolNetwork]:
        """The first networks. They count as staggered in age, so that they are not all replaced at once; none is trained before
        (released)."""
        return [PoolNetwork(context, self, i * self.max_age // self.pool) for i in range(self.pool)]


@method("frepo")
class FRePo(Regresses):
    """Kernel ridge regression from distilled to real clips in the features of a pool of networks (NeurIPS 2022)."""

    native_labels = "soft"

    lr: Annotated[float, Log(3e-4, 0.1)] = 0.003
    """Learning rate of Adam on the pixels (own choice), which like the labels' falls to a tenth along a cosine (released)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr <= 0:
            raise ValueError(f"frepo takes lr > 0, got {self.lr}")

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        device = context.device
        torch.manual_seed(context.seed)
        classes = budget.classes

        clips, labels = real_clips(train, budget, context)
        clips.requires_grad_()
        scale = (classes / 10) ** 0.5
        targets = (centred(labels, classes).to(device) / scale).requires_grad_(self.label_lr > 0)
        learned = [clips, targets] if self.label_lr > 0 else [clips]
        optimizer = torch.optim.Adam([{"params": [p], "lr": lr} for p, lr in zip(learned, (self.lr, self.label_lr), strict=False)])
        schedule = to_a_tenth(optimizer, self.iterations)

        pool = self.new_pool(context)

        for iteration in range(self.iterations):
            i = int(torch.randint(self.pool, (1,), generator=context.generator))
            rows = torch.randperm(len(train), generator=context.generator)[: self.real_batch]
            with torch.no_grad():
                f_t = pool[i].embed(normalise(train.clips(rows).to(device, non_blocking=True)))
            f_s = pool[i].embed(clips)
            error = centred(train.labels[rows], classes).to(device) - regress(f_t, f_s, targets, self.ridge)
            loss = 0.5 * error.square().sum(1).mean()
            if self.label_lr > 0:
                loss = loss - label_margin(targets)

            optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=learned)
            optimizer.step()
            schedule.step()

            pool[i].train_step(clips.detach(), targets.detach())
            follow(context, "regression_loss", iteration + 1, self.iterations, 0.5 * error.detach().square().sum(1).mean())

        return DistilledSet.of_clips(denormalise(clips.detach()).cpu(), labels, as_logits(targets.detach() * scale).cpu())


class PoolNetwork:
    """A network with its optimiser and the number of steps that it counts as trained; at ``max_age`` it is drawn anew in place."""

    def __init__(self, context: Context, method: Regresses, age: int = 0) -> None:
        self._fresh, self._method = FreshNetwork(context.networks["psi"], context.device), method
        self._begin(age)
        if not isinstance(self.network, Embedding):
            raise TaskError(f"{type(self.network).__name__} has no embed(clips): nothing can be regressed from its features")

    def _begin(self, age: int) -> None:
        self.network = self._fresh.draw()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self._method.network_lr)
        self.schedule = pool_schedule(self.optimizer, self._method.max_age)
        self.age = age

    def embed(self, clips: Tensor) -> Tensor:
        """Features (N, D) in eval mode, a CPU computes them in parts."""
        self.network.eval()
        return torch.cat([self.network.embed(part) for part in clips.chunk(parts(self.network, clips))])  # type: ignore[operator]

    def train_step(self, clips: Tensor, targets: Tensor) -> None:
        """One step of Adam on the squared error to the (learned) labels, in train mode."""
        self.network.train()
        loss = 0.5 * (self.network(clips) - targets).square().sum(1).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.age += 1
        if self.age >= self._method.max_age:
            self._begin(0)


def pool_schedule(optimizer: torch.optim.Optimizer, max_age: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The rate of a pool network, chained as released: a warm-up from a hundredth over 500 steps, and a cosine over its life, down to a
    hundredth."""
    lr = optimizer.param_groups[0]["lr"]
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=WARM_UP)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max_age, eta_min=0.01 * lr)
    return torch.optim.lr_scheduler.ChainedScheduler([warm_up, cosine])


def to_a_tenth(optimizer: torch.optim.Optimizer, iterations: int) -> torch.optim.lr_scheduler.LRScheduler:
    """All rates fall to a tenth along a cosine."""
    steps = max(1, iterations)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.55 + 0.45 * math.cos(math.pi * step / steps))


def centred(labels: Tensor, classes: int) -> Tensor:
    """One-hot labels (N, classes) minus 1 / classes."""
    return F.one_hot(labels, classes).float() - 1 / classes


def regress(f_t: Tensor, f_s: Tensor, y_s: Tensor, ridge: float) -> Tensor:
    """Kernel ridge regression (N_t, classes): f_t f_s' (f_s f_s' + ridge * trace / N_s * I)^-1 y_s, solved in double precision."""
    k_ss, k_ts = (f_s @ f_s.T).double(), (f_t @ f_s.T).double()
    k_ss = k_ss + ridge * k_ss.trace() / len(k_ss) * torch.eye(len(k_ss), dtype=k_ss.dtype, device=k_ss.device)
    return (k_ts @ torch.linalg.solve(k_ss, y_s.double())).float()


def label_margin(targets: Tensor) -> Tensor:
    """Mean lead of the largest label over the second, counted up to 1 / classes: keeps every label to one class."""
    first, second = targets.topk(2, dim=1).values.unbind(1)
    return (first - second).clamp(max=1 / targets.shape[1]).mean()


def as_logits(targets: Tensor) -> Tensor:
    """Logits whose softmax is the label: targets in the scale of centred one-hot labels, moved back by 1 / classes, cut to be positive."""
    shares = (targets + 1 / targets.shape[1]).clamp(min=SMALLEST_SHARE / targets.shape[1])
    return (shares / shares.sum(1, keepdim=True)).log()
