"""What is required of a metric of predictions: finite numbers that it declares, the same each time, also where a class or logits lack."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from harness.conformance.subject import Check, Subject, check, require
from harness.conformance.tiny import CLASSES
from harness.metrics import BY_NAME
from harness.plugin import MetricPlugin
from harness.predictions import Predictions

CHECKS: list[Check] = []


def drawn(seed: int = 0, n: int = 40) -> Predictions:
    """Predictions that are right about half of the time, with logits; no array of them can be written to."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    logits = (rng.normal(size=(n, CLASSES)) + 1.2 * np.eye(CLASSES)[labels]).astype(np.float32)
    predicted = logits.argmax(1)
    for array in (labels, predicted, logits):
        array.setflags(write=False)
    return Predictions(labels, predicted, logits, tuple(f"class-{c}" for c in range(CLASSES)))


@check(CHECKS)
def measures_what_it_declares(subject: Subject) -> None:
    """It gives finite numbers or None, declared in its hook ``metrics`` under names that are free, or a matrix; the same each time."""
    plugin: MetricPlugin = subject.create()
    first, matrix = plugin.measure(drawn()), plugin.matrix(drawn())
    require(first or matrix is not None, "it needs measure(predictions) or matrix(predictions)")
    declared = {metric.name: metric for metric in plugin.metrics}
    for name, value in first.items():
        require(name in declared, f"number {name!r} is not declared: add Metric({name!r}, doc='what it is') to its hook metrics")
        require(value is None or math.isfinite(value), f"{name} is {value}")
    for name, metric in declared.items():
        require(metric.title or metric.doc, f"metric {name!r} needs a title or a doc: a report says what its numbers are")
        require(name not in BY_NAME, f"metric {name!r} has the name of a metric of the harness: choose another")
    require(dict(first) == dict(plugin.measure(drawn())), "the same predictions give different numbers")
    if matrix is not None:
        require(np.shape(matrix) == (CLASSES, CLASSES), f"matrix must have shape (classes, classes), got {np.shape(matrix)}")


@check(CHECKS)
def takes_what_a_record_may_lack(subject: Subject) -> None:
    """Without logits, and where a class has no test clip or is never predicted, it gives numbers or None, and does not fail."""
    plugin, full = subject.create(), drawn()
    some = np.flatnonzero((full.labels != 0) & (full.predicted != 0))
    for less in (replace(full, logits=None), Predictions(full.labels[some], full.predicted[some], None, full.classes)):
        for name, value in plugin.measure(less).items():
            require(value is None or math.isfinite(value), f"{name} is {value} without logits or a class")
        plugin.matrix(less)
