"""What a sweep and a cell are called in MLflow: names, tags, parameters, metrics, data. Pure, without MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from harness.metrics import METRICS
from harness.record import Record, Sweep
from harness.rows import Row
from harness.spec import EvaluateSpec

KEY, SWEEP, OWNER, CONTENT, DESCRIBED = "harness.key", "harness.sweep", "harness.owner", "harness.content", "harness.metrics"
_TAG_LENGTH = 5000
"""Characters of a tag; what servers of all ages take."""


def run_name(row: Row) -> str:
    """What tells two cells apart first, because lists of runs cut names after some 20 letters: method, IPC, seed; then the rest.

    The parameters that the user gave a method stand behind the evaluator, which a list's other columns show. `full` has no IPC.
    """
    given = row.method_label.removeprefix(row.method).strip("[]")
    ipc = "" if row.ipc is None else f" ipc{row.ipc}"
    return " · ".join((f"{row.method}{ipc} s{row.seed}", *([given] if given else ()), row.evaluator_label, row.labels))


def sweep_name(sweep: Sweep) -> str:
    """What a sweep compared, then its id."""
    methods = dict.fromkeys(cell.method_label for cell in sweep.cells if cell.ipc is not None)
    budgets = sorted({cell.ipc for cell in sweep.cells if cell.ipc is not None})
    told = (", ".join(methods), f"ipc {', '.join(map(str, budgets))}") if methods else ()
    return " · ".join((*told, sweep.id))


def cell_metrics(row: Row) -> dict[str, float]:
    """What was measured of a cell, and its IPC, because MLflow's charts take numbers from metrics alone."""
    measured = {name: value for name, value in row.values.items() if value is not None}
    return measured if row.ipc is None else {**measured, "ipc": float(row.ipc)}


def dataset_input(row: Row) -> dict[str, str]:
    """The fields of MLflow's dataset: what the cell was distilled from. A digest has at most 36 characters there."""
    return {
        "name": row.dataset_label, "digest": row.dataset_digest[:36], "source_type": "harness",
        "source": json.dumps({"dataset": row.dataset_label, "clip": row.shape}),
        "profile": json.dumps({"classes": len(row.classes)}),
    }  # fmt: skip


def sweep_tags(sweep: Sweep) -> dict[str, Any]:
    """Where a sweep ran, and on what."""
    elsewhere = {"id", "status", "cells", "kept", "config", "packages"}
    tags = {**sweep.model_dump(mode="json", exclude=elsewhere), **flat("package", sweep.packages)}
    return {**tags, "mlflow.note.content": f"`{sweep.command}`"} if sweep.command else tags


def cell_tags(row: Row, record: Record) -> dict[str, Any]:
    """How a cell ended, its plugins by their bare names, where it comes from, and what its metrics mean: name -> title, unit, better."""
    tags = {KEY: row.key, "mlflow.runName": run_name(row), "harness.status": row.status, "harness.reason": row.reason}
    tags |= {"method": row.method, "evaluator": row.evaluator}
    tags |= record.provenance.model_dump(mode="json", exclude={"sweep", "started_at", "ended_at", "seconds", "libraries"})
    described = {m.name: (m.heading, m.unit, m.better) for m in (*METRICS, *row.declared) if row.value(m.name) is not None}
    while len(text := json.dumps(described, ensure_ascii=False)) > _TAG_LENGTH:
        described.popitem()  # a plugin with very many numbers: half of a JSON text says nothing
    return {**tags, **flat("library", row.libraries), DESCRIBED: text}


def cell_params(row: Row, record: Record) -> dict[str, object]:
    """The seven axes of a cell, and as ``setting.…`` the resolved parameters of its plugins and its protocol.

    MLflow's comparison page begins with the first three names, in the alphabet's order, that differ: so the axes stand before the settings.
    """
    spec = record.spec
    assert isinstance(spec, EvaluateSpec)
    axes = {
        "dataset": row.dataset, "method": row.method_label, "ipc": "all" if row.ipc is None else row.ipc, "labels": row.labels,
        "evaluator": row.evaluator_label, "protocol": row.protocol, "seed": row.seed,
    }  # fmt: skip
    plugins = {"method": spec.method, "evaluator": spec.evaluator, "dataset": spec.dataset}
    settings = {kind: plugin.params for kind, plugin in plugins.items()}
    return {**axes, **flat("setting", {**settings, "protocol": spec.protocol.recipe.model_dump(mode="json")})}


def cell_curves(record: Record, made: Record | None) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) of a cell's training curves and of its method's. The reference's network was trained as an asset: there
    "loss" is what a cell calls "train_loss"."""
    for source, prefix in ((record, ""), (made, "distill." if record.is_cell else "train_")):
        for name, points in source.curves.items() if source is not None else ():
            for step, value in points:
                yield f"{prefix}{name}", step, value


def flat(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Nested values as dotted names, as text; without what is None.

    >>> flat("method", {"guidance": 0.1, "codec": {"name": "linear"}, "x": None})
    {'method.guidance': '0.1', 'method.codec.name': 'linear'}
    """
    texts: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            texts |= flat(f"{prefix}.{name}", value)
        elif value is not None:
            texts[f"{prefix}.{name}"] = str(value)
    return texts


def clip(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as MLflow takes them: text, not too long, without the empty ones."""
    return {name: str(value)[:_TAG_LENGTH] for name, value in tags.items() if value is not None}
