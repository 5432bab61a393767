"""What trained networks said of the test clips, as evaluations keep it, for metrics of the user's own. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from harness.errors import StoreError
from harness.record import Record
from harness.store import Store

FILE = "predictions.safetensors"
_LARGEST = np.finfo(np.float16).max


@dataclass(frozen=True)
class Predictions:
    """One tested network, clip by clip, in test-clip order.

    labels, predicted: (N,) int64, the true and the predicted class (top-1 of the plain pass). logits: (N, classes) float32, rounded to half
    precision, or None where only classes were kept. classes: their names, in label order.
    """

    labels: np.ndarray
    predicted: np.ndarray
    logits: np.ndarray | None
    classes: tuple[str, ...]


def pack(labels: np.ndarray, logits: np.ndarray, with_logits: bool) -> bytes:
    """The file of an evaluation: labels (N,) and the top-1 of logits (N, classes) as uint16, and the logits as float16 where asked for."""
    arrays = {"labels": labels.astype(np.uint16), "predicted": logits.argmax(1).astype(np.uint16)}
    if with_logits:
        arrays["logits"] = np.clip(logits, -_LARGEST, _LARGEST).astype(np.float16)
    return save(arrays)


def read_predictions(store: Store, record: Record, classes: tuple[str, ...]) -> Predictions | None:
    """What an evaluation kept, as arrays that cannot be written to; None where it kept nothing. Raises StoreError where it is damaged."""
    if FILE not in record.artifacts or not store.exists(f"artifacts/{record.key}/{FILE}"):
        return None
    try:
        arrays = load(store.read_artifact(record, FILE))
        labels, predicted, logits = arrays["labels"].astype(np.int64), arrays["predicted"].astype(np.int64), arrays.get("logits")
    except (SafetensorError, KeyError, ValueError) as error:
        raise StoreError(f"{FILE} of {record.key} cannot be read: {error}") from error
    most = len(classes) if classes else np.inf
    if labels.shape != predicted.shape or labels.ndim != 1 or max(labels.max(initial=0), predicted.max(initial=0)) >= most:
        raise StoreError(f"{FILE} of {record.key} does not fit its dataset of {len(classes)} classes")
    if logits is not None:
        logits = logits.astype(np.float32)
        logits.setflags(write=False)
    labels.setflags(write=False)
    predicted.setflags(write=False)
    return Predictions(labels, predicted, logits, classes)
