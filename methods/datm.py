"""DATM: trajectory matching whose difficulty grows, with labels that are learned.

Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching" (DATM), ICLR 2024, for images; a baseline of
Video-DC (arXiv 2412.21197). As MTT (methods/mtt.py), the distilled clips and the rate alpha follow the gradient of

    L = || theta_N - theta*_{t+M} ||^2 / || theta*_t - theta*_{t+M} ||^2

and three things differ. The start t is drawn from a window of expert epochs [first_start, end): its end grows with the iterations, so that
easy patterns, which experts learn early, come first; a larger budget takes later windows. The labels are soft, learned together with the
clips, from the mean logits of the experts that recognise a clip. And the clips that they start from are such that an expert recognises.

    python -m harness run --methods datm,mtt,random --ipc 1,5 --labels native,hard

Reported for video: no figure that is confirmed; Video-DC's table could not be read.

As in the released code the gradient takes the student's points as they are, though they depend on earlier steps (TESLA): memory is that of
the steps' own graphs, made anew in the backward pass where they are large (methods/trajectories.py). The 30 experts of 22 epochs that the
defaults ask for take 10 GB of main memory, with ConvNet3D.

Named deviations: windows, rates and steps are those of CIFAR-100 at IPC 1, the nearest released setting; experts are those of MTT, without
the flat-trajectory regulariser, and nothing is augmented by DSA; where the loss is above ``threshold`` there is no gradient, but the
momentum goes on (released: no step), so that nothing waits for the loss; alpha stays above 0.001, as in MTT; the last iterate is kept, not
the best checkpoint on the test split, and networks are evaluated with the protocol's learning rate.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from harness import (
    Asset,
    Budget,
    Context,
    DatasetInfo,
    DistilledSet,
    Log,
    Split,
    TrainingProtocol,
    method,
    normalise,
    place,
    predict_logits,
)
from methods.pixels import denormalise, follow
from methods.trajectories import (
    Experts,
    FollowsExperts,
    draw_batches,
    draw_stretch,
    fits,
    judge,
    trajectory_distance,
)

CANDIDATES = 64
"""Random clips of a class that an expert looks at, at least; those that it recognises go first."""


@method("datm")
class DATM(FollowsExperts):
    """Trajectory matching from early to late expert epochs, with learned soft labels (ICLR 2024)."""

    native_labels = "soft"

    first_start: int = 0
    """Earliest expert epoch that a student starts at (released: 0 for small budgets, 20 to 40 for large ones)."""
    window: int = 10
    """End of the window of starts at first: starts are below it (released: 10; 30 for CIFAR-100 at IPC 10)."""
    grown_window: int = 20
    """End of the window when it is grown (released: 20; 50 for CIFAR-100 at IPC 10)."""
    growth: int = 1000
    """Iterations in which it grows, linearly (released: 1,000 of 10,000)."""
    target_epochs: int = 3
    """M, expert epochs from start to target (released: 3; 2 beyond IPC 1)."""
    student_steps: int = 40
    """N, steps of a student on the distilled clips (released: 40; 80 beyond IPC 1)."""
    student_batch: int = 1000
    """Distilled clips of one student step, at most all (released: 1,000)."""
    iterations: int = 10_000
    """Optimisation steps (released: 10,000)."""
    lr: Annotated[float, Log(1, 1e5)] = 1000.0
    """Learning rate of the pixels, momentum 0.5 (released: 1,000)."""
    label_lr: Annotated[float, Log(0.01, 100)] = 10.0
    """Learning rate of the labels' logits, momentum 0.9 (released: 10); 0 keeps them as they are."""
    student_lr: Annotated[float, Log(0.002, 0.1)] = 0.01
    """alpha at the start; it is learned, and never below 0.001."""
    student_lr_lr: float = 1e-5
    """Learning rate of alpha, momentum 0.5."""
    threshold: float = 1.0
    """Loss above which an iteration has no gradient (released: 1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.first_start < self.window <= self.grown_window:
            raise ValueError("datm takes 0 <= first_start < window <= grown_window")
        if min(self.experts, self.expert_batch, self.target_epochs, self.student_steps, self.student_batch, self.growth) < 1:
            raise ValueError("datm takes experts, expert_batch, target_epochs, student_steps, student_batch and growth >= 1")
        if min(self.iterations, self.label_lr) < 0:
            raise ValueError("datm takes iterations and label_lr >= 0")

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"experts": self.expert_asset(self.grown_window - 1 + self.target_epochs)}

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        device = context.device
        torch.manual_seed(context.seed)  # dropout of the students
        experts: Experts = context.assets["experts"]
        judge(experts, budget.classes, context)
        clips, classes, logits = self.recognised(train, budget, experts, context)
        clips.requires_grad_()
        logits.requires_grad_()
        alpha = torch.tensor(self.student_lr, device=device, requires_grad=True)
        optimizer = torch.optim.SGD(
            [
                {"params": [clips], "lr": self.lr},
                {"params": [logits], "lr": self.label_lr, "momentum": 0.9},
                {"params": [alpha], "lr": self.student_lr_lr},
            ],
            lr=self.lr,
            momentum=0.5,
        )
        network = context.networks["theta"]().to(device).train()
        size = min(self.student_batch, budget.clips)
        keep = fits(self.student_steps, size, budget.clip_shape)

        for iteration in range(self.iterations):
            start, target = draw_stretch(experts, self.first_start, self.window_end(iteration), self.target_epochs, context)
            rows = (r.to(device, non_blocking=True) for r in draw_batches(budget.clips, self.student_steps, size, context))
            batches = ((clips[r], logits[r].softmax(1)) for r in rows)
            distance = trajectory_distance(network, start, target, batches, alpha, keep, through=False)
            optimizer.zero_grad(set_to_none=True)
            loss = distance * (distance.detach() <= self.threshold)
            loss.backward(inputs=[clips, logits, alpha] if keep else None)  # no need of the students'; recomputation takes no inputs
            optimizer.step()
            with torch.no_grad():
                alpha.clamp_(min=0.001)
            follow(context, "matching_loss", iteration + 1, self.iterations, distance)
        context.metrics["synthetic_lr"] = float(alpha.detach())
        return DistilledSet.of_clips(denormalise(clips.detach()).cpu(), classes, logits.detach().cpu())

    def window_end(self, iteration: int) -> int:
        """End of the window of start epochs at an iteration; starts are below it."""
        grown = self.window + int((self.grown_window - self.window) * iteration / self.growth)
        return min(grown, self.grown_window)

    def recognised(self, train: Split, budget: Budget, experts: Experts, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Where the clips start: normalised clips that an expert recognises, on the device, their classes, and logits (N, classes).

        Where too few are recognised other random ones follow. The logits are the mean of those of the experts that recognise the clip;
        where none does, of all, with its own class raised to the largest.
        """
        network = place(context.networks["theta"](), context.device)
        as_trained = TrainingProtocol(standardise_batch=self.expert_standardise)

        def look(expert: int, rows: Tensor) -> Tensor:
            nn.utils.vector_to_parameters(experts.trajectories[expert, -1].to(context.device), network.parameters())
            return predict_logits(network, train.subset(rows), as_trained, context.device).cpu()

        chosen = []
        for label in range(budget.classes):
            rows = train.indices_of(label)
            rows = rows[torch.randperm(len(rows), generator=context.generator)[: max(CANDIDATES, budget.ipc)]]
            missed = look(0, rows).argmax(1) != label
            order = missed.long().argsort(stable=True)
            chosen.append(rows[order.repeat(-(-budget.ipc // len(order)))[: budget.ipc]])
        index = torch.cat(chosen)
        classes = train.labels[index]
        logits = torch.stack([look(expert, index) for expert in range(len(experts.trajectories))])  # (experts, N, classes)
        right = logits.argmax(2) == classes
        of_right = (logits * right.unsqueeze(2)).sum(0) / right.sum(0).clamp(min=1).unsqueeze(1)
        of_all = logits.mean(0).scatter(1, classes[:, None], logits.mean(0).amax(1, keepdim=True))
        mean = torch.where(right.any(0).unsqueeze(1), of_right, of_all)
        return normalise(train.clips(index), context.device), classes, mean.to(context.device)
