"""What trajectory matching shares (methods/mtt.py, datm.py, vdsd_mtt.py): experts, and students that follow their gradient.

Memory. The graph through N steps of n clips is what makes these methods large: about 100 bytes for every value of a clip and step, so that
10 steps of 50 clips of 16x3x112x112 take 30 GB, and IPC 5 five times as much. Above ``KEPT_VALUES`` the derivatives of a step are therefore
computed anew in the backward pass (torch.utils.checkpoint), for 40 to 50 % more time: then the graph of one step is alive on a GPU (128
clips of 16x3x112x112: about 8 GB), on a CPU that of 3 such clips, and a vector of parameters for every step beside it. Measured on a CPU,
3 clips and ConvNet3D: 420 and 633 MiB at 2 and 4 steps where the graph is kept, 472 and 500 where it is not (552 for 4 steps of 6 clips).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from harness import Asset, Budget, Context, DatasetInfo, Metric, Split, TrainingProtocol, asset, normalise, parts, place, predict_logits

KEPT_VALUES = 32 << 20
"""Values of clips, over all steps of a student, whose graph is kept as a whole: about 3 GB."""
ACCURACY_CLIPS = 1000
"""Training clips on which experts are judged."""
AT_CHANCE = 1.5
"""Times chance, below which experts have learned nothing."""


class Experts(NamedTuple):
    """Trajectories (experts, epochs + 1, parameters), and the share of clips of the training split that each recognises at its end,
    (experts,): what does not learn them has learned nothing, and no clip is kept from the experts for it."""

    trajectories: Tensor
    accuracy: Tensor


@asset("expert_trajectories")
class ExpertTrajectories:
    """Networks trained on the full training split, their parameters kept after every epoch."""

    metrics = (Metric("expert_accuracy", unit="fraction", better="higher", doc="Top-1 of the experts on clips that they were trained on."),)

    network: str = "convnet3d"
    """Evaluator that is trained."""
    experts: int = 30
    """Networks, each from its own initialisation (released script: 30)."""
    epochs: int = 11
    """Epochs of each; must reach the last target. The released 50 without a schedule pass through the same first 11."""
    lr: float = 0.01
    """Learning rate of SGD, without weight decay and schedule (released script: 0.01)."""
    momentum: float = 0.0
    """Momentum of SGD (released: none)."""
    batch: int = 256
    """Clips a step (released: 256)."""
    standardise: bool = False
    """Re-standardise every batch by its own mean and standard deviation, as the released code does (an accident of its loop)."""

    def networks(self) -> dict[str, str]:
        return {"theta": self.network}

    def build(self, train: Split, context: Context) -> dict[str, Tensor]:
        """``trajectories`` (experts, epochs + 1, parameters) float32, entry 0 of each its initialisation; ``accuracy`` (experts,)."""
        device = context.device
        torch.manual_seed(context.seed)
        judged = train.subset(torch.randperm(len(train), generator=torch.Generator().manual_seed(context.seed))[:ACCURACY_CLIPS])
        as_trained = TrainingProtocol(standardise_batch=self.standardise)
        size = flatten(context.networks["theta"]()).numel()
        trajectories, accuracy = torch.empty(self.experts, self.epochs + 1, size), torch.empty(self.experts)
        for expert in range(self.experts):
            network = place(context.networks["theta"](), device).train()
            optimizer = torch.optim.SGD(network.parameters(), lr=self.lr, momentum=self.momentum)
            trajectories[expert, 0] = flatten(network)
            for epoch in range(self.epochs):
                for rows in torch.randperm(len(train), generator=context.generator).split(self.batch):
                    clips = normalise(train.clips(rows), device)
                    if context.info.flip:
                        flipped = torch.rand(len(rows), generator=context.generator) < 0.5
                        clips[flipped] = clips[flipped].flip(-1)
                    if self.standardise:
                        clips = (clips - clips.mean()) / clips.std()
                    loss = F.cross_entropy(network(clips), train.labels[rows].to(device))
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                trajectories[expert, epoch + 1] = flatten(network)
                context.progress(expert * self.epochs + epoch + 1, self.experts * self.epochs)
            recognised = predict_logits(network, judged, as_trained, device).argmax(1) == judged.labels
            accuracy[expert] = recognised.float().mean()
        context.metrics["expert_accuracy"] = float(accuracy.mean())
        return {"trajectories": trajectories, "accuracy": accuracy}

    def load(self, tensors: dict[str, Tensor], context: Context) -> Experts:
        return Experts(tensors["trajectories"], tensors["accuracy"])


@dataclass(frozen=True)
class FollowsExperts:
    """The parameters of the experts, for a method that matches their trajectories."""

    metrics = (Metric("synthetic_lr", doc="The learned rate alpha after the last iteration."), *ExpertTrajectories.metrics)

    network: str = "convnet3d"
    """Evaluator whose trajectories are matched."""
    experts: int = 30
    """Expert networks (released script: 30)."""
    expert_lr: float = 0.01
    """Learning rate of the experts (released script: 0.01)."""
    expert_momentum: float = 0.0
    """Momentum of the experts (released: none)."""
    expert_batch: int = 256
    """Clips of a step of the experts (released: 256)."""
    expert_standardise: bool = False
    """Re-standardise the experts' batches, as the released code does."""

    def networks(self) -> dict[str, str]:
        return {"theta": self.network}

    def expert_asset(self, epochs: int) -> Asset:
        """Experts of so many epochs; methods that ask for the same ones share them."""
        params = {
            "network": self.network,
            "experts": self.experts,
            "epochs": epochs,
            "lr": self.expert_lr,
            "momentum": self.expert_momentum,
            "batch": self.expert_batch,
            "standardise": self.expert_standardise,
        }
        return Asset("expert_trajectories", params)


def judge(experts: Experts, classes: int, context: Context) -> None:
    """Put the experts' accuracy into the method's record, and say it where they have learned nothing."""
    accuracy = float(experts.accuracy.mean())
    context.metrics["expert_accuracy"] = accuracy
    if accuracy < AT_CHANCE / classes:
        logging.getLogger(__name__).warning(
            "the experts recognise %.1f %% of the clips that they were trained on, where chance is %.1f %%: trajectories of networks that "
            "have learned nothing are matched; raise expert_lr, expert_momentum or start_epochs",
            100 * accuracy,
            100 / classes,
        )


RELEASED_STUDENT = {1: (10, 0), 5: (5, 128)}
"""IPC -> (N, distilled clips of a step; 0: all)."""


@dataclass(frozen=True)
class MatchesExperts(FollowsExperts):
    """The parameters of MTT's students too."""

    start_epochs: int = 10
    """A student starts after 0 .. start_epochs - 1 expert epochs (released: 10)."""
    target_epochs: int = 1
    """M, expert epochs from start to target (released: 1)."""
    student_steps: int = 0
    """N, steps of a student on the distilled clips; 0: as released, 10, and 5 from IPC 5 on."""
    student_batch: int = 0
    """Distilled clips of one student step, at most all; 0: as released, all, and 128 from IPC 5 on."""

    def __post_init__(self) -> None:
        if min(self.experts, self.start_epochs, self.target_epochs, self.expert_batch) < 1:
            raise ValueError("experts, start_epochs, target_epochs and expert_batch must be at least 1")
        if min(self.student_steps, self.student_batch) < 0:
            raise ValueError("student_steps and student_batch must be at least 0")

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"experts": self.expert_asset(self.start_epochs + self.target_epochs)}

    def student(self, budget: Budget) -> tuple[int, int]:
        """Steps of a student at this budget, and distilled clips of each."""
        steps, batch = RELEASED_STUDENT[max(ipc for ipc in RELEASED_STUDENT if ipc <= budget.ipc)]
        return self.student_steps or steps, min(self.student_batch or batch or budget.clips, budget.clips)


def draw_stretch(experts: Experts, first: int, end: int, epochs: int, context: Context) -> tuple[Tensor, Tensor]:
    """Parameters of a random expert at a random epoch in [first, end), and ``epochs`` later; on the device."""
    expert = int(torch.randint(len(experts.trajectories), (1,), generator=context.generator))
    t = int(torch.randint(first, end, (1,), generator=context.generator))
    start, target = experts.trajectories[expert, t], experts.trajectories[expert, t + epochs]
    return start.to(context.device, non_blocking=True), target.to(context.device, non_blocking=True)


def trajectory_distance(
    network: nn.Module,
    start: Tensor,
    target: Tensor,
    batches: Iterable[tuple[Tensor, Tensor]],
    alpha: Tensor,
    keep: bool,
    through: bool = True,
) -> Tensor:
    """|| theta_N - target ||^2 / || start - target ||^2 of a student that takes a step of rate alpha on each batch of clips and labels.

    Differentiable in alpha, clips and (where they are soft) labels: ``through`` all steps; or with every step taken where the student
    stands, as if that did not depend on the steps before it (TESLA, Cui et al., ICML 2023).
    """
    theta = start.clone().requires_grad_()
    for clips, targets in batches:
        here = theta if through else theta.detach().requires_grad_()
        theta = theta - alpha * student_gradient(network, here, clips, targets, keep)
    return (theta - target).square().sum() / (start - target).square().sum()


def fits(steps: int, clips: int, shape: tuple[int, ...]) -> bool:
    """Whether the graph of so many steps on so many clips is kept as a whole."""
    return steps * clips * math.prod(shape) <= KEPT_VALUES


def student_gradient(network: nn.Module, theta: Tensor, clips: Tensor, targets: Tensor, keep: bool) -> Tensor:
    """Gradient of the mean cross-entropy at theta, differentiable in theta and clips. Unless ``keep``, its graph is made anew, part by
    part, when it is needed; a CPU has several parts."""
    if keep:
        return cross_entropy_gradient(network, theta, clips, targets, len(targets))
    count = parts(network, clips)
    gradients = [
        checkpoint(cross_entropy_gradient, network, theta, own, labels, len(targets), use_reentrant=True)
        for own, labels in zip(clips.chunk(count), targets.chunk(count), strict=True)
    ]
    return torch.stack(gradients).sum(0) if count > 1 else gradients[0]  # type: ignore[no-any-return]


def cross_entropy_gradient(network: nn.Module, theta: Tensor, clips: Tensor, targets: Tensor, n: int) -> Tensor:
    """Gradient in theta of the summed cross-entropy over n; with a graph of its own where the caller records one."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        at = theta if recorded else theta.detach().requires_grad_()
        loss = F.cross_entropy(forward(network, at, clips), targets, reduction="sum") / n
        (gradient,) = torch.autograd.grad(loss, at, create_graph=recorded)
    return gradient


def draw_batches(n: int, steps: int, size: int, context: Context) -> list[Tensor]:
    """Rows of each of the student steps, on the CPU: passes over all n clips in random order, cut into batches of ``size``."""
    batches: list[Tensor] = []
    while len(batches) < steps:
        batches += torch.randperm(n, generator=context.generator).split(size)
    return batches[:steps]


def flatten(network: nn.Module) -> Tensor:
    """All parameters as one vector on the CPU."""
    return torch.cat([p.detach().flatten() for p in network.parameters()]).cpu()


def forward(network: nn.Module, theta: Tensor, clips: Tensor) -> Tensor:
    """Logits of the network with its parameters taken from the vector theta; differentiable in both."""
    names, shapes = zip(*((name, p.shape) for name, p in network.named_parameters()), strict=True)
    parts = theta.split([shape.numel() for shape in shapes])
    values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
    return torch.func.functional_call(network, values, (clips,))  # type: ignore[no-any-return]
