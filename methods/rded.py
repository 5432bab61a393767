"""RDED for video: real crops that a teacher finds easy, each with the teacher's soft label. Nothing is optimised.

Sun et al., "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm" (RDED), CVPR 2024; for video as
adapted by Video-DC (arXiv 2412.21197): no mosaic. Per class, from a pool of random videos, m random resized crops of each are scored by
the teacher's cross-entropy; the easiest crop of each video stands for it, and the IPC easiest videos are kept. Labels are the teacher's
logits. ``layout=grid`` with ``compose=4`` is the mosaic of RDED's paper, 2x2 crops at half of their size in one stored clip, each with the
label of what it is trained on.

    python -m harness run --methods 'rded,rded[layout=grid,compose=4],random' --ipc 1,5,10 --labels native,hard

Reported: no figure of the table could be read; the abstract of its first version finds that sample selection outperforms distillation in
most cases.

Named deviations: the m crops are cut from the one stored clip of a video, so they differ in place and size but not in time; clips are
kept as uint8 instead of JPEG. Flips only where a flip keeps the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Asset, Budget, Context, DatasetInfo, DistilledSet, Range, Split, crop_resized, draw_boxes, method, predict_logits
from methods.compose import Composed
from methods.selection import too_few_clips


@method("rded")
class RDED(Composed):
    """Real crops that a teacher finds easy, with its soft labels (CVPR 2024, as Video-DC adapts it)."""

    native_labels = "soft"

    teacher: str = ""
    """Evaluator network that scores and labels, trained on the full training split; empty: the run's teacher."""
    pool: int = 70
    """Random videos of each class that are looked at (Video-DC: 70; Kinetics 100); all where a class has fewer."""
    crops: Annotated[int, Range(1, 10)] = 5
    """m, random crops of each video (Video-DC: 5; Kinetics 10)."""
    smallest_crop: Annotated[float, Range(0.05, 1)] = 0.08
    """Smallest share of the frame that a crop covers; the released share is not known, this is the usual one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool < 1 or self.crops < 1 or not 0 < self.smallest_crop <= 1:
            raise ValueError(f"rded takes pool >= 1, crops >= 1 and smallest_crop in (0, 1], got {self}")

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"teacher": Asset("teacher", {"evaluator": self.teacher})}

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        return self.unfit(budget) or too_few_clips(info, budget, self.compose)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        teacher, per_class = context.assets["teacher"], budget.ipc * self.compose
        instances = self.room(budget, context)
        for label in range(budget.classes):
            rows = train.indices_of(label)
            pool = rows[torch.randperm(len(rows), generator=context.generator)[: max(self.pool, per_class)]]
            found = [self.easiest_crop(train.clips([row]), label, teacher, context) for row in pool.tolist()]
            order = torch.stack([crop.loss for crop in found]).argsort(stable=True)[:per_class]
            for number, i in enumerate(order.tolist(), start=label * per_class):
                self.place(instances, found[i].cut(train.clips([int(pool[i])])), number)
            context.progress(label + 1, budget.classes)
        soft = predict_logits(teacher, self.clips_of(instances), context.protocol, context.device)
        return self.stored(instances, torch.arange(budget.classes).repeat_interleave(budget.ipc), soft)

    def easiest_crop(self, clip: Tensor, label: int, teacher: torch.nn.Module, context: Context) -> Crop:
        """Of m random crops of a clip (1, T, C, H, W) uint8, the one with the least cross-entropy."""
        m = self.crops
        boxes = draw_boxes(m, self.smallest_crop, context.generator)
        flipped = torch.rand(m, generator=context.generator) < 0.5 if context.info.flip else torch.zeros(m, dtype=torch.bool)
        crops = cut(clip, boxes, flipped)
        loss = F.cross_entropy(predict_logits(teacher, crops, context.protocol, context.device), torch.full((m,), label), reduction="none")
        best = loss.argmin()
        return Crop(boxes[best], flipped[best], loss[best])


@dataclass(frozen=True)
class Crop:
    """A crop of a clip and its loss. It is cut again when it is kept: the crops of a class would need more memory than its clips."""

    box: Tensor
    flipped: Tensor
    loss: Tensor

    def cut(self, clip: Tensor) -> Tensor:
        """The crop (1, T, C, H, W) uint8 of its clip (1, T, C, H, W)."""
        return cut(clip, self.box[None], self.flipped[None])


def cut(clip: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Crops (m, T, C, H, W) of a clip (1, T, C, H, W), uint8 as they are stored, so that they are scored as they will be seen."""
    crops = crop_resized(clip.float().expand(len(boxes), -1, -1, -1, -1), boxes)
    crops[flipped] = crops[flipped].flip(-1)
    return crops.round().clamp(0, 255).to(torch.uint8)
