"""Static: one real frame, repeated. What a video dataset gives to a network that is shown no motion.

The control that single-frame distillation rests on: "a single frame is often sufficient to capture the discriminative semantics of a
video" (Zhao et al., "Distill Video Datasets into Images" (SFVD), arXiv 2512.14621), which repeats one learned frame over the length of a
clip. Here nothing is learned: every instance is one frame of a random real clip. Where ``static`` comes close to ``random``, the dataset's
classes can be told by appearance, and a method that beats it there has not shown that it distills motion.

    python -m harness run --methods 'static,static[clips=8],random' --ipc 1,5,10

An instance of the budget becomes one clip, as for every method, and stores one frame: with T frames in a clip the set is charged for 1/T of
its budget. That is the control: as many instances and steps, no motion. ``clips`` asks a second question: so many static clips for each
instance, T of them for all that the budget may store. It trades motion for variety at equal storage.

Reported: nothing for real frames. For learned ones SFVD gives up to 5.3 points on MiniUCF over earlier methods (abstract).

On moving-digits a frame says nothing of the class by construction, so that ``static`` has to stay at chance there, with any ``clips``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor

from harness import Budget, Choice, Context, DatasetInfo, DistilledSet, Split, method
from methods.selection import too_few_clips


@method("static")
class Static:
    """One frame of a random real clip, repeated: the control for what motion is worth."""

    frame: Annotated[Literal["first", "middle", "last", "random"], Choice("first", "middle", "last", "random")] = "middle"
    """The frame that stands for its clip."""
    clips: int = 1
    """Static clips for each instance of the budget; more than 1 is no control of motion alone, see above."""

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise ValueError(f"clips must be at least 1, got {self.clips}")

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        if self.clips > budget.clip_shape[0]:
            return f"clips={self.clips} frames for each instance are more than the {budget.clip_shape[0]} that the budget allows"
        return too_few_clips(info, budget, self.clips)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        per_class = budget.ipc * self.clips
        frames = []
        for label in range(budget.classes):
            rows = train.indices_of(label)
            clips = train.clips(rows[torch.randperm(len(rows), generator=context.generator)[:per_class]])
            frames.append(clips[torch.arange(per_class), self._places(per_class, budget.clip_shape[0], context)])
        # The shape of an empty tensor says how long clips are: the set stores its frames and nothing else.
        tensors = {"frames": torch.cat(frames), "clip": torch.empty(0, *budget.clip_shape)}
        return DistilledSet(tensors, torch.arange(budget.classes).repeat_interleave(per_class))

    def materialise(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Every frame as often as a clip has frames: (N, T, C, H, W) uint8."""
        frames, length = tensors["frames"], tensors["clip"].shape[1]
        return frames[:, None].repeat(1, length, 1, 1, 1)

    def _places(self, count: int, length: int, context: Context) -> Tensor:
        """Which frame of each clip, (count,)."""
        if self.frame == "random":
            return torch.randint(length, (count,), generator=context.generator)
        return torch.full((count,), {"first": 0, "middle": length // 2, "last": length - 1}[self.frame])
