"""The clips of a dataset, decoded into the cache."""

from __future__ import annotations

from harness.record import Arrays
from harness.tasks.common import Work


def run(work: Work) -> None:
    with work.phases.measure("load"):
        data = work.open_data()
    work.draft.metrics = {
        "native_train_frames": data.native_train_frames,
        "native_test_frames": int(data.test.native_frames.sum()),
        "train_clips": len(data.train),
        "test_clips": len(data.test),
        "clips_left_out": len(data.left_out),
    }
    work.draft.arrays = Arrays(classes=list(data.info.classes))
