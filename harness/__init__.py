"""A benchmarking and comparison harness for video dataset distillation.

The names below are the whole surface that plugins use; each is imported on first access, so that ``import harness`` costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Before anything imports torch, whose OpenMP reads it once. Threads that wait for each other in a busy loop, OpenMP's default, take the
# processor from the thread they wait for as soon as another program runs beside them: training with 2 threads on 2 cores then took
# 22.5 s instead of 2.7. With this many turns before they sleep it takes 2 % longer on an idle machine.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_PUBLIC = {
    "Asset": "harness.plugin",
    "AssetPlugin": "harness.plugin",
    "Budget": "harness.budget",
    "BudgetError": "harness.errors",
    "Choice": "harness.space",
    "Clip": "harness.data.base",
    "ClipWriter": "harness.clip_writer",
    "Context": "harness.plugin",
    "Cost": "harness.record",
    "DataError": "harness.errors",
    "DatasetInfo": "harness.data.info",
    "DatasetPlugin": "harness.plugin",
    "DistilledSet": "harness.distilled",
    "DistilledSetError": "harness.errors",
    "Embedding": "harness.plugin",
    "EvaluatorPlugin": "harness.plugin",
    "Item": "harness.data.base",
    "Log": "harness.space",
    "MethodPlugin": "harness.plugin",
    "Metric": "harness.metrics",
    "MetricPlugin": "harness.plugin",
    "Predictions": "harness.predictions",
    "Range": "harness.space",
    "Session": "harness.session",
    "Split": "harness.data.base",
    "TaskError": "harness.errors",
    "TrainingProtocol": "harness.protocol",
    "asset": "harness.plugin",
    "crop_resized": "harness.training",
    "dataset": "harness.plugin",
    "draw_boxes": "harness.training",
    "embed_clips": "harness.training",
    "evaluator": "harness.plugin",
    "method": "harness.plugin",
    "metric": "harness.plugin",
    "normalise": "harness.training",
    "parts": "harness.training",
    "place": "harness.training",
    "predict_logits": "harness.training",
    "read_video": "harness.data.video_files",
    "train_network": "harness.training",
}
__all__ = [
    "Asset",
    "AssetPlugin",
    "Budget",
    "BudgetError",
    "Choice",
    "Clip",
    "ClipWriter",
    "Context",
    "Cost",
    "DataError",
    "DatasetInfo",
    "DatasetPlugin",
    "DistilledSet",
    "DistilledSetError",
    "Embedding",
    "EvaluatorPlugin",
    "Item",
    "Log",
    "MethodPlugin",
    "Metric",
    "MetricPlugin",
    "Predictions",
    "Range",
    "Session",
    "Split",
    "TaskError",
    "TrainingProtocol",
    "asset",
    "crop_resized",
    "dataset",
    "draw_boxes",
    "embed_clips",
    "evaluator",
    "method",
    "metric",
    "normalise",
    "parts",
    "place",
    "predict_logits",
    "read_video",
    "train_network",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


if TYPE_CHECKING:
    from harness.budget import Budget
    from harness.clip_writer import ClipWriter
    from harness.data.base import Clip, Item, Split
    from harness.data.info import DatasetInfo
    from harness.data.video_files import read_video
    from harness.distilled import DistilledSet
    from harness.errors import BudgetError, DataError, DistilledSetError, TaskError
    from harness.metrics import Metric
    from harness.plugin import (
        Asset,
        AssetPlugin,
        Context,
        DatasetPlugin,
        Embedding,
        EvaluatorPlugin,
        MethodPlugin,
        MetricPlugin,
        asset,
        dataset,
        evaluator,
        method,
        metric,
    )
    from harness.predictions import Predictions
    from harness.protocol import TrainingProtocol
    from harness.record import Cost
    from harness.session import Session
    from harness.space import Choice, Log, Range
    from harness.training import crop_resized, draw_boxes, embed_clips, normalise, parts, place, predict_logits, train_network
