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


def charged_frames(stored: DistilledSet, budget: Budget) -> int:
    """Frames that a set is charged for.

    A set of plain clips is charged for its frames. Any other set (latents, static images with dynamic memories ...) is charged for
    the frames that its stored bytes would hold as raw float32, rounded up: what is kept counts, not what is made from it.
    """
    if stored.clips is not None:
        return int(stored.clips.shape[0] * stored.clips.shape[1])
    return math.ceil(stored.stored_bytes / budget.frame_bytes)


def audit(stored: DistilledSet, budget: Budget) -> dict[str, int]:
    """Check a distilled set against its budget and say what it costs.

    Returns the figures for the record: ``frames_stored``, ``stored_bytes``, ``label_bytes``, ``clips_stored``.
    Raises BudgetError with the figures when the set stores more frames, more bytes or, for plain clips, more clips of one class.
    """
    frames = charged_frames(stored, budget)
    if frames > budget.frames:
        raise BudgetError(
            f"the set stores {frames} frames, the budget allows {budget.frames} "
            f"({budget.classes} classes x IPC {budget.ipc} x {budget.clip_shape[0]} frames)"
        )
    if stored.stored_bytes > budget.bytes:
        raise BudgetError(f"the set stores {stored.stored_bytes} bytes, the budget allows {budget.bytes} (raw float32 clips)")
    if stored.clips is not None:
        counts = stored.labels.bincount(minlength=budget.classes)
        worst = int(counts.argmax())
        if int(counts[worst]) > budget.ipc:
            raise BudgetError(f"class {worst} has {int(counts[worst])} clips, the budget allows IPC {budget.ipc}")
    return {
        "frames_stored": frames,
        "stored_bytes": stored.stored_bytes,
        "label_bytes": stored.label_bytes,
        "clips_stored": int(stored.labels.shape[0]),
    }
