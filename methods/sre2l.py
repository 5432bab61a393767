"""SRe2L for video: squeeze the dataset into a teacher, recover clips from it, relabel them with it.

Yin et al., "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective" (SRe2L), NeurIPS 2023,
arXiv 2306.13092, and its released code, for images. *Squeeze*: a teacher with batch normalisation is trained on the whole split. *Recover*:
clips x with labels y start as noise and lower

    CE(teacher(x~), y) + r_bn sum_l w_l ( || mean_l(x~) - m_l || + || var_l(x~) - v_l || )

by Adam, where mean_l and var_l are those of what enters the l-th normalisation, over clips, time and space, m_l and v_l are its running
statistics, w_l is 10 for the first and 1 for the others, and x~ is a random resized crop of x, flipped and rolled at random. *Relabel*:
labels are the teacher's logits. Only the teacher sees real clips, and no network is trained in the loop, so that a step costs one pass
forward and backward, whatever the size of the dataset.

    python -m harness run --methods sre2l,rded,random --ipc 1,5,10 --labels native,hard

Reported for images (ImageNet-1K, IPC 50): 60.8 % (abstract). For video it is the base of TSGD (arXiv 2505.20694), which adds a mask of
inter-frame differences, and stands in Video-DC's comparison (arXiv 2412.21197); their figures could not be read.

Adaptations and named deviations: crop, flip and roll are the same for all frames of the batch; flips only where a flip keeps the label;
batches hold as many classes as there are, not 100 of 1,000; clips are kept as uint8; one label of each whole clip, where the released code
stores one for each of 300 crops (a protocol with ``relabel`` labels every crop anew, for all methods alike). ``start=real`` begins with
random real clips. The defaults are those of the released script for ImageNet; image priors have weight 0 in it and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from harness import (
    Asset,
    Budget,
    Choice,
    Context,
    DatasetInfo,
    DistilledSet,
    Log,
    Metric,
    Range,
    Split,
    TaskError,
    crop_resized,
    draw_boxes,
    method,
    normalise,
    predict_logits,
)
from methods.pixels import denormalise, follow, real_clips


@method("sre2l")
class SRe2L:
    """Clips recovered from a teacher: its cross-entropy and batch-norm statistics, then its soft labels (SRe2L, NeurIPS 2023)."""

    native_labels = "soft"
    metrics = (
        Metric(
            "bn_distance",
            title="batch-norm distance",
            better="lower",
            doc="Distance of the set's statistics to the teacher's running ones, as a multiple of that of as many random real clips.",
        ),
    )

    teacher: str = "minic3d"
    """Evaluator network with batch normalisation, trained on the full training split; empty: the run's teacher."""
    start: Annotated[Literal["noise", "real"], Choice("noise", "real")] = "noise"
    """Clips start as Gaussian noise (paper), or as random real clips."""
    iterations: int = 4000
    """Steps of each batch (released: 4,000)."""
    lr: Annotated[float, Log(0.01, 1)] = 0.25
    """Learning rate of Adam with betas 0.5 and 0.9 on normalised pixels, a cosine down to 0 (released: 0.25)."""
    r_bn: Annotated[float, Log(0.001, 1)] = 0.01
    """Weight of the batch-norm statistics (released: 0.01; Tiny-ImageNet 1)."""
    first_bn: float = 10.0
    """Weight of the first normalisation among them (released: 10)."""
    smallest_crop: Annotated[float, Range(0.08, 1)] = 0.08
    """Smallest share of the frame that a crop covers (released: 0.08)."""
    jitter: Annotated[float, Range(0, 0.25)] = 0.143
    """Largest roll, as a share of the side (released: 32 of 224 pixels)."""
    batch: int = 100
    """Clips that are recovered together (released: 100)."""

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.lr <= 0 or self.r_bn < 0 or self.first_bn < 0 or self.batch < 1:
            raise ValueError(f"sre2l takes iterations >= 0, lr > 0, r_bn >= 0, first_bn >= 0, batch >= 1, got {self}")
        if not 0 < self.smallest_crop <= 1 or not 0 <= self.jitter < 1:
            raise ValueError(f"sre2l takes smallest_crop in (0, 1] and jitter in [0, 1), got {self}")

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"teacher": Asset("teacher", {"evaluator": self.teacher})}

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        teacher: nn.Module = context.assets["teacher"]
        if self.r_bn and not any(isinstance(module, _BatchNorm) for module in teacher.modules()):
            raise TaskError(f"{type(teacher).__name__} has no batch normalisation to recover clips from: choose another teacher or r_bn=0")
        real, labels = real_clips(train, budget, context)
        clips = real.clone()
        if self.start == "noise":
            clips = torch.randn(real.shape, generator=context.generator).to(context.device)
        # a batch holds an instance of every class before a second one of any
        batches = torch.arange(budget.clips).view(budget.classes, budget.ipc).T.flatten().split(self.batch)
        for number, rows in enumerate(batches):
            clips[rows] = self.recover(clips[rows], labels[rows], teacher, context, number, len(batches))
        if self.r_bn:
            context.metrics["bn_distance"] = self.distance(clips, teacher, batches) / self.distance(real, teacher, batches)
        stored = (denormalise(clips) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        return DistilledSet.of_clips(stored, labels, predict_logits(teacher, stored, context.protocol, context.device))

    def recover(self, start: Tensor, labels: Tensor, teacher: nn.Module, context: Context, number: int, batches: int) -> Tensor:
        """Clips (N, T, C, H, W), normalised, that the teacher sees as their labels (N,); the batch number of so many."""
        clips, labels = start.requires_grad_(), labels.to(start.device)
        black, white = (normalise(torch.full((start.shape[2], 1, 1), value, device=start.device)) for value in (0.0, 1.0))
        optimizer = torch.optim.Adam([clips], lr=self.lr, betas=(0.5, 0.9))
        with batch_norm_distances(teacher) as distances:
            for step in range(self.iterations):
                optimizer.param_groups[0]["lr"] = self.lr * (1 + math.cos(math.pi * step / self.iterations)) / 2
                distances.clear()
                optimizer.zero_grad(set_to_none=True)
                loss = F.cross_entropy(teacher(self.augment(clips, context)), labels)
                if self.r_bn:
                    loss = loss + self.r_bn * self.weighted(distances)
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    clips.copy_(clips.clamp(black, white))
                follow(context, "recover_loss", number * self.iterations + step + 1, batches * self.iterations, loss)
        return clips.detach()

    def augment(self, clips: Tensor, context: Context) -> Tensor:
        """The same random resized crop, flip and roll of all frames of all clips."""
        box = draw_boxes(1, self.smallest_crop, context.generator).expand(len(clips), 4)
        seen = crop_resized(clips, box.to(clips.device, non_blocking=True))
        if context.info.flip and float(torch.rand((), generator=context.generator)) < 0.5:
            seen = seen.flip(-1)
        down, right = (int(torch.randint(int(self.jitter * side) + 1, (), generator=context.generator)) for side in clips.shape[-2:])
        return seen.roll((down, right), (-2, -1))

    def weighted(self, distances: list[Tensor]) -> Tensor:
        """Sum of the distances of all normalisations, the first with its weight."""
        return torch.stack([self.first_bn * distances[0], *distances[1:]]).sum()

    @torch.no_grad()
    def distance(self, clips: Tensor, teacher: nn.Module, batches: tuple[Tensor, ...]) -> float:
        """What ``recover`` lowers beside the cross-entropy, for clips as they are: mean over the batches."""
        total = 0.0
        with batch_norm_distances(teacher) as distances:
            for rows in batches:
                distances.clear()
                teacher(clips[rows])
                total += float(self.weighted(distances))
        return total / len(batches)


@contextmanager
def batch_norm_distances(network: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which a pass through the network adds the distance of every batch normalisation, in the order of use: the norm of the
    difference of its input's variances (biased) to the running ones, plus the norm of that of the means."""
    distances: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
        x = inputs[0]
        var, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        distances.append((module.running_var - var).norm() + (module.running_mean - mean).norm())

    hooks = [m.register_forward_pre_hook(look) for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    try:
        yield distances
    finally:
        for hook in hooks:
            hook.remove()
