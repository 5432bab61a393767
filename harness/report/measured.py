"""Metrics of predictions: computed for the rows of a report from what their evaluations kept. Nothing is trained, nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from harness.errors import StoreError, UsageError
from harness.metrics import BY_NAME
from harness.names import parse_list
from harness.plugin import MetricPlugin
from harness.predictions import Predictions, read_predictions
from harness.record import Record
from harness.registry import Registry
from harness.report.cells import FULL, CellResult, View, find, ipcs, methods
from harness.report.load import Results
from harness.report.tables import DASH, Table, TableCell, TableRow, slug
from harness.rows import Row
from harness.store import Store
from harness.words import plural

LARGEST_MATRIX = 40
"""Classes up to which a matrix is shown; a larger one is no table for people."""


def read_metrics(files: Sequence[str], wanted: str | None) -> dict[str, MetricPlugin]:
    """Label -> metric plugin: those that are wanted, such as ``f1,confusion``, or without a wish all that the plugin files have.

    Raises UsageError on an unknown name, and where two of them claim the name of one number.
    """
    registry = Registry(files)
    if wanted is None:
        specs = [info.name for info in registry.infos("metric") if str(info.path) in registry.plugin_files]
    else:
        specs = registry.expand("metric", parse_list(wanted, "metrics"))
    found: dict[str, MetricPlugin] = {}
    owners = dict.fromkeys(BY_NAME, "the harness")
    for spec in specs:
        resolved = registry.resolve("metric", spec)
        found[resolved.label] = plugin = resolved.create()
        for metric in plugin.metrics:
            if metric.name in owners:
                raise UsageError(f"metric {resolved.label!r} calls a number {metric.name!r}, which is a name of {owners[metric.name]}")
            owners[metric.name] = f"metric {resolved.label!r}"
    return found


@dataclass
class Measurer:
    """Metric plugins, by label, applied to stored predictions. failed: what went wrong -> for how many cells; there they are blank."""

    store: Store
    records: Mapping[str, Record]
    plugins: Mapping[str, MetricPlugin]
    failed: dict[str, int] = field(default_factory=dict)
    without: int = 0
    """Finished cells that keep no predictions."""

    def measure(self, results: Results) -> Results:
        """The results, each finished row with the numbers of its predictions."""
        return replace(results, rows=tuple(map(self._measured, results.rows))) if self.plugins else results

    def _measured(self, row: Row) -> Row:
        predictions = self._read(row) if row.status == "done" else None
        values: dict[str, float | None] = {}
        for label, plugin in self.plugins.items():
            declared = [metric.name for metric in plugin.metrics]
            try:
                found = {} if predictions is None else {n: None if v is None else float(v) for n, v in plugin.measure(predictions).items()}
                if strangers := sorted(set(found) - set(declared)):
                    raise ValueError(f"{strangers[0]!r} is not declared in its hook metrics")
            except Exception as error:
                found = self._fail(label, error)
            values |= {name: found.get(name) for name in declared}
        own = tuple(metric for plugin in self.plugins.values() for metric in plugin.metrics)
        if taken := {metric.name for metric in row.declared} & set(values):
            raise UsageError(f"{min(taken)!r} is the name of a number that {row.method_label} or its network recorded: rename the metric's")
        return replace(row, values={**row.values, **values}, declared=(*row.declared, *own) if row.status == "done" else row.declared)

    def matrix(self, label: str, row: Row) -> np.ndarray | None:
        """The matrix of one network; None where there is none."""
        predictions = self._read(row, counted=True)
        try:
            found = None if predictions is None else self.plugins[label].matrix(predictions)
            if found is not None and np.shape(found) != (len(row.classes),) * 2:
                raise ValueError(f"matrix must have shape (classes, classes), got {np.shape(found)}")
        except Exception as error:
            self._fail(label, error)
            return None
        return None if found is None else np.asarray(found, dtype=float)

    def warnings(self) -> list[str]:
        """What could not be measured."""
        found = [f"{what}, for {plural(count, 'cell')}." for what, count in self.failed.items()]
        if self.without:
            found.append(
                f"{plural(self.without, 'finished cell')} kept no predictions, so metrics of predictions are blank there: they were made "
                "before predictions were kept, or with --predictions none; run them again with --rerun all."
            )
        return found

    def _read(self, row: Row, counted: bool = False) -> Predictions | None:
        try:
            predictions = read_predictions(self.store, self.records[row.key], row.classes)
        except StoreError as error:
            self.failed[f"Left out: {error}"] = 1
            return None
        self.without += predictions is None and not counted
        return predictions

    def _fail(self, label: str, error: Exception) -> dict[str, float | None]:
        what = f"Metric {label} fails with {type(error).__name__}: {error}"
        self.failed[what] = self.failed.get(what, 0) + 1
        return {}


def matrix_tables(view: View, measurer: Measurer) -> list[Table]:
    """For each metric with a matrix, evaluator, and method at its largest IPC: the mean matrix over seeds."""
    found = []
    for group, cells in view.groups.items():
        shown = [cell for m in methods(cells) if (cell := find(cells, m, max(ipcs(cells)))) is not None and cell.done]
        shown += [cell for cell in [find(cells, FULL, None)] if cell is not None and cell.done]
        for label in measurer.plugins:
            for cell in shown:
                name = f"matrix-{slug(label)}-{group.name}-{slug(cell.method)}"
                title = f"{label}: {view.say(cell.method)}{'' if cell.ipc is None else f' at IPC {cell.ipc}'}, {view.name(group)}"
                if (table := _matrix_table(name, title, label, cell, measurer)) is not None:
                    found.append(table)
    return found


def _matrix_table(name: str, title: str, label: str, cell: CellResult, measurer: Measurer) -> Table | None:
    classes = cell.done[0].classes
    if not 0 < len(classes) <= LARGEST_MATRIX:
        return None
    matrices = [matrix for row in cell.done if (matrix := measurer.matrix(label, row)) is not None]
    if not matrices:
        return None
    mean = np.mean(matrices, axis=0)
    rows = tuple(
        TableRow(
            TableCell(classes[i]),
            tuple(
                TableCell(DASH if value is None else f"{value:.3g}", data={"value": value}, records=cell.keys)
                for value in (None if np.isnan(v) else float(v) for v in mean[i])
            ),
        )
        for i in range(len(classes))
    )
    said = (type(measurer.plugins[label]).__doc__ or "").strip().split("\n")[0]
    return Table(name, title, "true class", classes, rows, f"{said} Mean over {plural(len(matrices), 'seed')}.".strip(), across="class")
