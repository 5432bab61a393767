"""VDSD on FRePo: static-dynamic disentanglement, its memories, hallucinator and labels learned by kernel ridge regression.

Wang et al., "Dancing with Still Images: Video Distillation via Static-Dynamic Disentanglement" (VDSD), CVPR 2024. What the images, memories
and hallucinator are, how they start and what is stored of them stands in methods/static_dynamic.py; the regression, its pool of networks
and the learned labels in methods/frepo.py. In stage 2 the clips that the hallucinator makes are FRePo's distilled clips S.

    python -m harness run --dataset ucf101 --data-root DIR --methods vdsd_frepo,frepo,vdsd_dm,random --ipc 1,5 --labels native,hard

Reported: no figure that is confirmed by a source that could be read.

As released a clip of the budget has one image and one memory here, not two, and the loss is the squared error without its half, minus the
labels' margin. Named deviations, beside those of methods/static_dynamic.py: the last iterate is kept, not the best checkpoint on the test
split; networks are evaluated by the protocol on the learned labels, not by the released regression to them.
"""

from __future__ import annotations

from typing import Annotated

import torch

from harness import Budget, Context, DistilledSet, Log, Split, method, normalise
from methods.frepo import Regresses, as_logits, centred, label_margin, regress
from methods.pixels import follow
from methods.static_dynamic import StaticDynamic


@method("vdsd_frepo")
class VDSDFRePo(StaticDynamic, Regresses):
    """Static-dynamic disentanglement on kernel ridge regression: images, memories, one convolution and learned labels (CVPR 2024)."""

    native_labels = "soft"

    static_per_clip: int = 1
    """Still images that a clip of the budget owns (released with FRePo: 1)."""
    dynamic_per_clip: int = 1
    """Dynamic memories that a clip of the budget owns (released with FRePo: 1)."""
    lr_dynamic: Annotated[float, Log(1e-3, 1e2)] = 100.0
    """Learning rate of Adam on the memories (released: 100)."""
    lr_hallucinator: Annotated[float, Log(1e-5, 1e-1)] = 1e-3
    """Learning rate of Adam on the hallucinator (released: 1e-3). All rates fall along a cosine to a tenth of it (released)."""

    def __post_init__(self) -> None:
        StaticDynamic.__post_init__(self)
        Regresses.__post_init__(self)
        if min(self.lr_dynamic, self.lr_hallucinator) <= 0:
            raise ValueError("vdsd_frepo takes lr_dynamic and lr_hallucinator > 0")

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        device = context.device
        torch.manual_seed(context.seed)
        classes, slots = budget.classes, torch.arange(budget.clips)
        memories = self.begin(train, budget, context)
        scale = (classes / 10) ** 0.5
        labels = torch.arange(classes).repeat_interleave(budget.ipc)
        targets = (centred(labels, classes).to(device) / scale).requires_grad_(self.label_lr > 0)
        groups = memories.learned(self.lr_dynamic, self.lr_hallucinator)
        if self.label_lr > 0:
            groups.append({"params": [targets], "lr": self.label_lr})
        optimizer = torch.optim.Adam(groups)
        lowest = 0.1 * self.lr_hallucinator
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.iterations), eta_min=lowest)
        learned = [p for group in optimizer.param_groups for p in group["params"]]
        pool = self.new_pool(context)

        for iteration in range(self.iterations):
            member = pool[int(torch.randint(self.pool, (1,), generator=context.generator))]
            rows = torch.randperm(len(train), generator=context.generator)[: self.real_batch]
            with torch.no_grad():
                f_t = member.embed(normalise(train.clips(rows).to(device, non_blocking=True)))
            predicted = regress(f_t, member.embed(memories.clips(slots)), targets, self.ridge)
            error = (centred(train.labels[rows], classes).to(device, non_blocking=True) - predicted).square().sum(1).mean()
            loss = error - label_margin(targets) if self.label_lr > 0 else error

            optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=learned)
            optimizer.step()
            schedule.step()

            with torch.no_grad():
                clips = memories.clips(slots)
            member.train_step(clips, targets.detach())
            follow(context, "regression_loss", iteration + 1, self.iterations, error)

        return self.stored(memories, as_logits(targets.detach() * scale).cpu())
