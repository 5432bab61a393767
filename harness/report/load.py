"""Records -> rows: read, drop what a newer version of the same cell supersedes, join, add what never ran, sort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.names import natural_key
from harness.record import Record, Sweep
from harness.report.cells import MISSING, method_order
from harness.report.versions import made_by_other_code, never_run, superseded
from harness.rows import Row, cell_rows, root_cause
from harness.spec import Cell, Kind
from harness.store import Store

KIND_WORDS: Mapping[Kind, str] = {
    "data": "data",
    "asset": "asset",
    "distill": "distillation",
    "quality": "quality",
    "evaluate": "evaluation",
}


@dataclass(frozen=True)
class Results:
    """All that a report is made from.

    records: everything that is stored, by key. rows: the current cells, and those that were planned and never run (status "missing").
    superseded: keys of evaluate records that a newer version of their cell replaces. damaged: one line for each unreadable file.
    sweeps: oldest first. other_code: keys of rows that other code made than the newest of their cell.
    """

    store: Store
    records: Mapping[str, Record]
    rows: tuple[Row, ...]
    superseded: tuple[str, ...]
    damaged: tuple[str, ...]
    sweeps: tuple[Sweep, ...]
    other_code: frozenset[str] = frozenset()


def load_rows(results: Store | str | Path) -> tuple[Row, ...]:
    """One row per current cell and seed of a results folder (or fsspec URL), in report order; see harness.rows.Row.

    A cell that a command planned and that never ran has the status "missing" and no numbers.
    """
    return load(results).rows


def load(results: Store | str | Path) -> Results:
    """Read a results folder (or fsspec URL). Damaged records are left out and named."""
    store = results if isinstance(results, Store) else Store(results)
    records, damaged = store.read_records()
    sweeps = store.read_sweeps()
    old = superseded(records, sweeps)
    current = {key: record for key, record in records.items() if key not in old}
    rows = [_with_cause(row, records) for row in cell_rows(current)]
    rows += [_missing_row(cell, sweep) for sweep, cell in never_run(records, sweeps)]
    planned = {cell.key: cell for sweep in sweeps for cell in sweep.cells}
    rows = [_with_tuning(row, planned.get(row.key)) for row in rows]
    rows.sort(key=_row_order)
    return Results(store, records, tuple(rows), tuple(sorted(old)), tuple(damaged), tuple(sweeps), made_by_other_code(current))


def _with_cause(row: Row, records: Mapping[str, Record]) -> Row:
    """The row; one that was skipped because of an input tells what became of that input."""
    record = records[row.key]
    cause = root_cause(record, records)
    if cause is record:
        return row
    return replace(row, status=cause.status, reason=f"{KIND_WORDS[cause.kind]}: {cause.reason or 'no reason recorded'}", log=cause.log)


def _with_tuning(row: Row, cell: Cell | None) -> Row:
    """The row; what is known of the tuning of its method is what the newest sweep that planned it says."""
    if cell is None or not cell.tunable:
        return row
    values = row.values if cell.tuned is None else {**row.values, "tuning_seconds": cell.tuned.seconds}
    return replace(row, tunable=cell.tunable, tuned=cell.tuned, values=values)


def _missing_row(cell: Cell, sweep: Sweep) -> Row:
    return Row(
        key=cell.key,
        name=cell.name,
        status=MISSING,
        reason="planned, not run",
        log=None,
        dataset=cell.dataset,
        dataset_label=cell.dataset_label,
        dataset_digest="",
        clip_shape=cell.clip_shape,
        method=cell.method,
        method_label=cell.method_label,
        ipc=cell.ipc,
        labels=cell.labels,
        evaluator=cell.evaluator,
        evaluator_label=cell.evaluator_label,
        protocol=cell.protocol,
        seed=cell.seed,
        params={},
        values={},
        declared=(),
        assets=(),
        distill_key=None,
        evaluator_digest="",
        recipe_digest="",
        classes=(),
        per_class_accuracy=(),
        correct=None,
        device=None,
        ended_at="",
        sweep=sweep.id,
    )


def _row_order(row: Row) -> tuple[Any, ...]:
    group = [natural_key(text) for text in (row.dataset_label, row.shape, row.protocol, row.labels, row.evaluator_label)]
    return (*group, row.ipc or 0, method_order(row.method_label), row.seed)
