"""The budget that every method of a column gets, and the audit of a distilled set against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import BudgetError

if TYPE_CHECKING:
    from harness.distilled import DistilledSet


@dataclass(frozen=True)
class Budget:
    """What a method may store for one dataset.

    ipc: instances (clips) per class; clip_shape: (T, C, H, W) of one clip; classes: their number.
    """

    ipc: int
    clip_shape: tuple[int, int, int, int]
    classes: int

    def keyed(self) -> dict[str, object]:
        """Its JSON form."""
        return {"ipc": self.ipc, "clip_shape": list(self.clip_shape), "classes": self.classes}

    @property
    def clips(self) -> int:
        return self.ipc * self.classes

    @property
    def frames(self) -> int:
        """Frames the set may store: classes x IPC x T."""
        return self.clips * self.clip_shape[0]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame as raw float32, the field's storage convention (VDSD, LVDD)."""
        _, c, h, w = self.clip_shape
        return 4 * c * h * w

    @property
    def bytes(self) -> int:
        """Bytes of the whole budget as raw float32 clips."""
        return self.frames * self.frame_bytes


def charged_values(stored: DistilledSet) -> float:
    """Pixels, as raw float32 values, that the stored tensors are charged for.

    What a tensor is called does not matter, and what it holds is not guessed: whatever could hold a picture is charged as one.

    - floating point: one pixel a value, two where a value has eight bytes. Storing pictures in half precision saves nothing.
    - integers: one pixel a byte, since each byte may be one: 8-bit codes and pictures cost one a value.
    - ``stored.not_pixels``: floating-point tensors of which the method declares that they hold no pictures are charged by their
      bytes alone, so that half precision halves them. A memory of motion is as large as a clip and is none.
    """
    charged = 0.0
    for name, tensor in stored.tensors.items():
        width = tensor.element_size()
        if not tensor.is_floating_point():
            charged += tensor.numel() * width
        elif name in stored.not_pixels:
            charged += tensor.numel() * width / 4
        else:
            charged += tensor.numel() * max(1.0, width / 4)
    return charged


def charged_frames(stored: DistilledSet, budget: Budget) -> int:
    """Frames that a set is charged for: its frames where it stores plain clips, else ``charged_values`` in whole frames, rounded up.

    What is kept counts, not what is made from it: a frame that holds four small videos is one frame.
    """
    frames = 0
    if stored.clips is not None:
        frames = int(stored.clips.shape[0] * stored.clips.shape[1])
    return max(frames, math.ceil(charged_values(stored) / math.prod(budget.clip_shape[1:])))


def audit(stored: DistilledSet, budget: Budget) -> dict[str, int]:
    """Check a distilled set against its budget and say what it costs.

    Returns the figures for the record: ``frames_stored``, ``stored_bytes``, ``label_bytes``, ``videos_trained_on``.
    Raises BudgetError with the figures when the set is charged for more frames or, for plain clips, has more clips of one class.
    """
    frames = charged_frames(stored, budget)
    if frames > budget.frames:
        raise BudgetError(
            f"the set stores {frames} frames, the budget allows {budget.frames} "
            f"({budget.classes} classes x IPC {budget.ipc} x {budget.clip_shape[0]} frames); its {stored.stored_bytes} bytes are charged "
            "by what they can hold, as float32 pixels"
        )
    if stored.clips is not None:
        counts = stored.labels.bincount(minlength=budget.classes)
        worst = int(counts.argmax())
        if int(counts[worst]) > budget.ipc:
            raise BudgetError(f"class {worst} has {int(counts[worst])} clips, the budget allows IPC {budget.ipc}")
    return {
        "frames_stored": frames,
        "stored_bytes": stored.stored_bytes,
        "label_bytes": stored.label_bytes,
        "videos_trained_on": int(stored.labels.shape[0]),
    }
