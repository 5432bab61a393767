"""Records -> one flat row per cell, joined with the records that it rests on. Pure, plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]

_TEST_METRICS = ("accuracy", "accuracy_top5", "accuracy_single_frame", "accuracy_shuffled", "accuracy_reversed", "ece")
_SET_METRICS = ("frame_fraction", "frames_stored", "stored_bytes")


def cell_rows(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """One row per evaluate record, in the order of the records.

    None stands for what was not measured. ``relative_accuracy`` is the accuracy over the mean accuracy of the reference cells (method
    ``full``) with the same dataset, evaluator and training recipe. Memory is that of the distillation phase, training's stands apart.
    """
    rows = [cell_row(record, records) for record in records.values() if record["kind"] == "evaluate"]
    reference: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if row["ipc"] is None and row["accuracy"] is not None:
            reference.setdefault(_reference_key(row), []).append(row["accuracy"])
    for row in rows:
        full = reference.get(_reference_key(row))
        if full and row["accuracy"] is not None and sum(full) > 0:
            row["relative_accuracy"] = row["accuracy"] / (sum(full) / len(full))
    return rows


def cell_row(record: Record, records: Mapping[str, Record]) -> dict[str, Any]:
    """The row of one evaluate record, without its relative accuracy, which needs the reference cells."""
    spec, inputs = record["spec"], record.get("inputs", {})
    budget = spec.get("budget")
    made = records.get(inputs.get("distill" if budget else "teacher", ""), {})
    data = records.get(inputs.get("data", ""), {})
    metrics, set_metrics = record.get("metrics", {}), made.get("metrics", {})
    row: dict[str, Any] = {
        "key": record["key"],
        "status": record["status"],
        "reason": record.get("reason"),
        "log": record.get("log"),
        "dataset": spec["dataset"]["name"],
        "dataset_digest": spec["dataset"]["digest"],
        "clip_shape": tuple(spec["dataset"]["clip_shape"]),
        "method": spec["method"]["name"],
        "method_label": spec["method"]["label"],
        "ipc": budget["ipc"] if budget else None,
        "labels": spec["labels"],
        "evaluator": spec["evaluator"]["name"],
        "evaluator_label": spec["evaluator"]["label"],
        "protocol": spec["protocol"]["name"],
        "seed": spec["seed"],
        "params": dict(spec["method"]["params"]),
    }
    row.update({name: metrics.get(name) for name in _TEST_METRICS})
    row["relative_accuracy"] = None
    row.update({name: set_metrics.get(name) for name in _SET_METRICS})
    row["label_bytes"] = metrics.get("label_bytes", set_metrics.get("label_bytes"))
    if not budget:
        row["frame_fraction"] = 1.0 if data else None
        row["frames_stored"] = data.get("metrics", {}).get("native_train_frames")
    making = _phase(made, "distil") if budget else {}
    training = _phase(record, "train") if budget else _phase(made, "build")
    row["peak_cpu_mib"] = making.get("peak_cpu_mib")
    row["baseline_cpu_mib"] = making.get("baseline_cpu_mib")
    row["peak_gpu_mib"] = making.get("peak_gpu_mib")
    row["train_peak_cpu_mib"] = training.get("peak_cpu_mib")
    row["train_peak_gpu_mib"] = training.get("peak_gpu_mib")
    row["distill_seconds"] = making.get("seconds")
    row["train_seconds"] = training.get("seconds")
    row["test_seconds"] = _phase(record, "test").get("seconds")
    row["asset_seconds"] = _asset_seconds(made, records) if budget else None
    provenance = record.get("provenance") or {}
    row["device"] = provenance.get("device")
    row["ended_at"] = provenance.get("ended_at")
    row["sweep"] = provenance.get("sweep")
    arrays = record.get("arrays", {})
    row["correct"] = arrays.get("correct")
    row["per_class_accuracy"] = arrays.get("per_class_accuracy")
    return row


def _asset_seconds(record: Record, records: Mapping[str, Record]) -> float | None:
    """Seconds of every asset that a distillation rests on, directly or through another asset; shared by all cells that use them."""
    seen: set[str] = set()

    def visit(key: str) -> float:
        upstream = records.get(key)
        if key in seen or upstream is None or upstream["kind"] != "asset":
            return 0.0
        seen.add(key)
        own = sum(p["seconds"] for p in upstream.get("phases", {}).values())
        return own + sum(visit(k) for k in upstream.get("inputs", {}).values())

    if not record:
        return None
    return float(sum(visit(key) for key in record.get("inputs", {}).values()))


def _phase(record: Record, name: str) -> Mapping[str, Any]:
    phase: Mapping[str, Any] = record.get("phases", {}).get(name) or {}
    return phase


def _reference_key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (row["dataset"], row["dataset_digest"], row["evaluator_label"], row["protocol"])
