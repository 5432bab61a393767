"""Every metric once: what it is called, its unit, which direction is better, where it is recorded, and how it is averaged and written.

Records, rows, MLflow, the terminal, tables, figures and the page read this file. A plugin's own metrics are ``Metric``s too, declared by
its hook ``metrics``; they travel in its records, so that a report needs no plugin to show them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness import words

Unit = Literal["fraction", "points", "count", "bytes", "MiB", "s", ""]
Better = Literal["higher", "lower", ""]
Aggregation = Literal["mean", "max"]
Place = Literal["cell", "set", "data", "quality", "assets", "tuning", "derived"]
"""Whose record holds it: the evaluation (or, for ``full``, its trained network), the distillation, the dataset, the set's quality, all
assets that the set rests on, or none: what the tuning of its parameters took is told by presets, and the rest is computed from rows."""


@dataclass(frozen=True)
class Metric:
    """One number of a cell.

    name: its key in records and in MLflow. title: a column's head. unit: "fraction" in [0, 1] is shown in %. better: which direction is
    better, or "". aggregate: how seeds are put together; a peak is not averaged. doc: one sentence for readers. digits: decimals of a
    fraction in %.
    place, phase: where it is recorded; with a phase it is that phase's measurement ``field``, else the record's metric ``field``
    (empty: of the same name).
    """

    name: str
    title: str = ""
    unit: Unit = ""
    better: Better = ""
    aggregate: Aggregation = "mean"
    doc: str = ""
    place: Place = "set"
    phase: str = ""
    field: str = ""
    digits: int = 1

    @property
    def heading(self) -> str:
        """What a column of it is called."""
        return self.title or self.name.replace("_", " ")

    def format(self, value: float | None, digits: int | None = None) -> str:
        """The number with its unit, for people; an empty text for None.

        >>> Metric("accuracy", unit="fraction").format(0.5), Metric("x", unit="MiB").format(20480), Metric("loss").format(0.12345)
        ('50.0', '20.0 GiB', '0.1235')
        """
        if value is None:
            return ""
        match self.unit:
            case "fraction":
                return words.percent(value, self.digits if digits is None else digits)
            case "points":
                return words.points(value)
            case "count":
                return f"{value:,.0f}"
            case "bytes":
                return words.amount(value)
            case "MiB":
                return words.mebibytes(value)
            case "s":
                return words.seconds(value)
        return f"{value:.4g}"


def _cell(name: str, title: str, doc: str, better: Better = "higher", unit: Unit = "fraction") -> Metric:
    return Metric(name, title, unit, better, doc=doc, place="cell")


METRICS: tuple[Metric, ...] = (
    _cell("accuracy", "top-1", "Top-1 accuracy on the test split after the last step."),
    _cell("accuracy_top5", "top-5", "Top-5 accuracy on the test split after the last step."),
    _cell("accuracy_single_frame", "single frame", "Top-1 where every test clip is shown as one of its frames, repeated.", ""),
    _cell("accuracy_shuffled", "shuffled", "Top-1 where the frames of every test clip are permuted.", ""),
    _cell("accuracy_reversed", "reversed", "Top-1 where every test clip runs backwards.", ""),
    _cell("ece", "ECE", "Expected calibration error, 15 bins.", "lower"),
    Metric("relative_accuracy", "of full", "fraction", "higher", doc="Accuracy over the mean accuracy of `full`.", place="derived"),
    Metric("frame_fraction", "frames", "fraction", "lower", doc="Frames stored / native frames of the training split.", digits=2),
    Metric("frames_stored", "frames stored", "count", "lower", doc="Frames that the set is charged for."),
    Metric("videos_trained_on", "videos trained on", "count",
           doc="Clips that the set materialises to, all of which a network is trained on; its steps follow from the budget's clips."),
    Metric("stored_bytes", "set", "bytes", "lower", doc="Bytes of the stored tensors."),
    Metric("label_bytes", "labels", "bytes", "lower", "max", "Bytes of the soft labels that the network was trained on.", "cell"),
    Metric("train_steps", "steps", "count", doc="Optimiser steps of the evaluator.", place="cell"),
    Metric("peak_cpu_mib", "peak CPU", "MiB", "lower", "max", "Largest resident memory of the distillation.", phase="distill"),
    Metric(
        "baseline_cpu_mib", "process before", "MiB", "", "max", "Resident memory as the distillation began.", phase="distill"
    ),
    Metric("peak_gpu_mib", "peak GPU", "MiB", "lower", "max", "The allocator's peak of the distillation.", phase="distill"),
    Metric(
        "train_peak_cpu_mib", "CPU of training", "MiB", "lower", "max", "Largest resident memory of the evaluator's training.",
        "cell", "train", "peak_cpu_mib",
    ),
    Metric(
        "train_peak_gpu_mib", "GPU of training", "MiB", "lower", "max", "The allocator's peak of the evaluator's training.",
        "cell", "train", "peak_gpu_mib",
    ),
    Metric("distill_seconds", "distillation", "s", "lower", doc="Seconds of the distillation, without assets.", phase="distill",
           field="seconds"),
    Metric("distill_cpu_seconds", "CPU time", "s", "lower", doc="CPU seconds of the distillation, all threads.", phase="distill",
           field="cpu_seconds"),
    Metric("train_seconds", "training", "s", "lower", doc="Seconds of the evaluator's training.", place="cell", phase="train",
           field="seconds"),
    Metric("test_seconds", "test", "s", "lower", doc="Seconds of the evaluator's test.", place="cell", phase="test", field="seconds"),
    Metric("asset_seconds", "assets", "s", "lower", doc="Seconds of all assets that the set rests on, as they were made.", place="assets",
           field="seconds"),
    Metric("asset_cpu_seconds", "CPU time of assets", "s", "lower", doc="CPU seconds of these assets, all threads.", place="assets",
           field="cpu_seconds"),
    Metric("tuning_seconds", "tuning", "s", "lower", doc="Seconds of all trials by which the method's parameters were chosen.",
           place="tuning"),
    Metric("teacher_accuracy", "recognised", "fraction", "higher", doc="Share of the clips that a teacher recognises as their class.",
           place="quality"),
    Metric("teacher_confidence", "confidence", "fraction", "higher", doc="Mean probability that the teacher gives to the class of a clip.",
           place="quality"),
    Metric("diversity", "diversity", "", "higher", doc="Mean distance of two clips of a class in a teacher's features; real clips have 1.",
           place="quality"),
    Metric("coverage", "coverage", "fraction", "higher", doc="Share of the real training clips that have a clip of the set near them.",
           place="quality"),
    Metric("frechet", "Frechet distance", "", "lower", doc="Of Gaussians fitted to the set's and to the real clips' features.",
           place="quality"),
    Metric("motion_ratio", "motion", "", "", doc="Mean absolute difference of successive frames; real clips have 1.", place="quality"),
)  # fmt: skip
"""In the order in which they are shown."""

BY_NAME = {metric.name: metric for metric in METRICS}


def named(name: str) -> Metric:
    """The metric of this name. Raises KeyError, which is a fault of the caller's: names come from this file."""
    return BY_NAME[name]
