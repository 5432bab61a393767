"""The tables beside the main one: cost, quality of the sets, what plugins recorded, controls, accuracy by class, and what is missing.

Which metrics stand in which table follows from where they are recorded (harness.metrics), so that a new one needs no edit here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness import metrics, rows, words
from harness.metrics import Metric
from harness.names import natural_key
from harness.report.cells import FULL, MISSING, CellResult, View, find, ipcs, merge_evaluators, methods
from harness.report.main_table import device_words
from harness.report.tables import DASH, Table, TableCell, TableRow

NO_BREAK = "\u00a0"
Notes = Callable[[Metric, CellResult], tuple[str, ...]]


def cost_tables(view: View) -> list[Table]:
    """What it took to make a set, then what a set stores; a row for each set whichever evaluators it served."""

    def notes(metric: Metric, cell: CellResult) -> tuple[str, ...]:
        return _made_elsewhere(cell) if metric.place == "assets" else ()

    where = f"{view.say(view.first.dataset)} ({view.first.shape}), {view.first.labels} labels"
    made = [m for m in metrics.METRICS if (m.place in ("set", "assets", "tuning") and m.unit in ("MiB", "s")) or m.name == "train_steps"]
    stored = [m for m in metrics.METRICS if (m.place == "set" or m.unit == "bytes") and m not in made]
    efficiency = _metric_table(
        f"cost-{view.first.stem}",
        f"Cost: {where}",
        made,
        _sets(view),
        "Peaks are the largest over seeds, seconds the mean, wall time beside the CPU time of all threads. Assets "
        "(teachers, backbones, codecs) "
        "are made once for all cells that use them: all of their cost stands here, not a share of it. A dash is unmeasured, not 0; what "
        f"nothing measured has no column. {device_words(view.cells)}",
        view.columns,
        notes,
        brief=f"Peaks are the largest over seeds, seconds the mean; assets are shared and stand whole. {device_words(view.cells)}",
    )
    storage = _metric_table(
        f"storage-{view.first.stem}",
        f"Stored: {where}",
        stored,
        _sets(view),
        "What a set is charged for, mean over seeds.",
        view.columns,
        brief="What a set is charged for, mean over seeds.",
    )
    return [*efficiency, *storage]


def quality_table(view: View) -> list[Table]:
    """Every set in a teacher's features, whatever method made it."""
    return _metric_table(
        f"quality-{view.first.stem}",
        f"Quality of the sets: {view.say(view.first.dataset)} ({view.first.shape})",
        [m for m in metrics.METRICS if m.place == "quality"],
        _sets(view),
        "Mean over seeds, measured outside the timed phases by a teacher that was trained on the whole training split.",
        view.columns,
    )


def recorded_tables(view: View) -> list[Table]:
    """What plugins recorded beside the harness's own metrics, for each evaluator: methods of their sets, networks of themselves, metrics
    of predictions."""
    return [
        table
        for group, cells in view.groups.items()
        for table in _metric_table(
            f"recorded-{group.name}",
            f"Recorded by plugins: {view.name(group)}",
            list({metric.name: metric for cell in cells for metric in cell.declared}.values()),
            [(_label(view, cell), cell) for cell in cells if cell.declared],
            "As the plugins recorded it and describe it, the seeds put together as they say.",
            view.columns,
        )
    ]


def controls_tables(view: View) -> list[Table]:
    """Do the distilled videos teach motion? The same networks, tested on clips without it; and in a table of its own what training took."""
    of_cell = [m for m in metrics.METRICS if m.place == "cell" and m.unit != "bytes"]
    training = [m for m in of_cell if m.unit in ("MiB", "s", "count")]
    found = []
    for group, cells in view.groups.items():
        labelled = [(_label(view, cell), cell) for cell in cells]
        found += _metric_table(
            f"controls-{group.name}",
            f"Controls: {view.name(group)}",
            [m for m in of_cell if m not in training],
            labelled,
            "Mean over seeds. A network that keeps its accuracy on single, shuffled or reversed frames was not taught motion.",
            view.columns,
            digits=view.digits,
        )
        found += _metric_table(
            f"training-{group.name}",
            f"Training: {view.name(group)}",
            training,
            labelled,
            f"Mean over seeds; of memory the largest. {device_words(cells)}",
            view.columns,
        )
    return found


def per_class_tables(view: View) -> list[Table]:
    """Accuracy of every class at the largest IPC, for each evaluator; none where it was not recorded."""
    found = []
    for group, cells in view.groups.items():
        budgets = ipcs(cells)
        shown = [cell for m in methods(cells) if budgets and (cell := find(cells, m, budgets[-1])) is not None]
        full = find(cells, FULL, None)
        means = [(cell, values) for cell in (*shown, *([full] if shown and full else [])) if (values := _class_means(cell))]
        if not means:
            continue
        write = functools.partial(words.percent, digits=view.digits)
        names = next((row.classes for cell, _ in means for row in cell.done if row.classes), ())
        count = max(len(values) for _, values in means)
        lines = tuple(
            TableRow(
                TableCell(names[i] if i < len(names) else str(i)),
                tuple(_measured(v[i] if i < len(v) else None, write, cell.keys) for cell, v in means),
            )
            for i in range(count)
        )
        found.append(
            Table(
                name=f"classes-{group.name}",
                title=f"By class at IPC {budgets[-1]}: {view.name(group)}",
                corner="class",
                columns=tuple(view.say(cell.method) for cell, _ in means),
                rows=lines,
                caption="Top-1 accuracy on the test clips of each class in %, mean over seeds.",
            )
        )
    return found


def failures_table(cells: Sequence[CellResult], said: Mapping[str, str]) -> Table | None:
    """What is not done, with its reason; cells that fail alike share a row. None where all is done. said: method -> what to call it."""
    alike: dict[tuple[str, ...], list[tuple[str, rows.Row]]] = {}
    for cell in cells:
        for row in cell.missing:
            what = (cell.method, f"{cell.group.dataset} ({cell.group.shape})", "all" if cell.ipc is None else str(cell.ipc))
            reason = row.reason or "no reason recorded"
            alike.setdefault((*what, cell.group.protocol, row.status, reason), []).append((cell.group.evaluator, row))
    lines = []
    for (method, dataset, ipc, protocol, status, reason), found in alike.items():
        logs = sorted({row.log for _, row in found if row.log})
        parts = (
            dataset,
            ipc,
            protocol,
            ", ".join(sorted({evaluator for evaluator, _ in found}, key=natural_key)),
            ", ".join(str(seed) for seed in sorted({row.seed for _, row in found})),
            status,
            reason,
            logs[0] + (f" and {len(logs) - 1} more" if len(logs) > 1 else "") if logs else "",
        )
        keys = tuple(row.key for _, row in found if row.status != MISSING)
        shown = tuple(TableCell(part, data={"value": part}, records=keys) for part in parts)
        lines.append(TableRow(TableCell(said.get(method, method)), shown))
    if not lines:
        return None
    columns = ("dataset", "IPC", "protocol", "evaluators", "seeds", "status", "reason", "log of the first")
    return Table("failures", "Cells that are not done", "method", columns, tuple(lines))


def head(metric: Metric) -> str:
    """A column's header: the metric's title, "%" where its values are shown in it, and an arrow to where it is better; none stands alone.

    >>> head(Metric("coverage", unit="fraction", better="higher")).replace(NO_BREAK, " "), head(Metric("train_steps"))
    ('coverage, % ↑', 'train steps')
    """
    arrow = {"higher": f"{NO_BREAK}↑", "lower": f"{NO_BREAK}↓", "": ""}[metric.better]
    return f"{metric.heading}{f',{NO_BREAK}%' if metric.unit == 'fraction' else ''}{arrow}"


def _sets(view: View) -> list[tuple[str, CellResult]]:
    """Every method and IPC with one row for each set, which is not counted per evaluator."""
    cells = [merge_evaluators(view.cells, method, ipc) for method in methods(view.cells) for ipc in ipcs(view.cells)]
    return [(_label(view, cell), cell) for cell in cells if cell is not None]


def _label(view: View, cell: CellResult) -> str:
    return f"{view.say(cell.method)}{'' if cell.ipc is None else f', IPC {cell.ipc}'}"


def _metric_table(
    name: str,
    title: str,
    shown: Sequence[Metric],
    cells: Sequence[tuple[str, CellResult]],
    caption: str,
    columns: Sequence[str] = (),
    notes: Notes | None = None,
    *,
    brief: str = "",
    digits: int = 1,
) -> list[Table]:
    """Metrics of finished cells, a column each, explained in the caption; without those that nothing measured. cells: with their labels.
    columns: names of the metrics that are wanted, in their order; empty: all. digits: decimals of accuracies."""
    cells = [(label, cell) for label, cell in cells if cell.done]
    if columns:
        shown = sorted((metric for metric in shown if metric.name in columns), key=lambda metric: columns.index(metric.name))
    shown = [metric for metric in shown if any(cell.values(metric.name) for _, cell in cells)]
    if not shown:
        return []
    lines = tuple(
        TableRow(
            TableCell(label),
            tuple(_metric_cell(m, cell, digits, notes(m, cell) if notes is not None else ()) for m in shown),
            reference=cell.method == FULL,
        )
        for label, cell in cells
    )
    said = [f"{metric.heading[0].upper()}{metric.heading[1:]}: {metric.doc}" for metric in shown if metric.doc]
    return [
        Table(
            name,
            title,
            "method",
            tuple(head(metric) for metric in shown),
            lines,
            " ".join([caption, *said]),
            names=tuple(metric.name for metric in shown),
            brief=brief,
        )
    ]


def _metric_cell(metric: Metric, cell: CellResult, digits: int, notes: tuple[str, ...]) -> TableCell:
    precision = digits if metric.name.startswith("accuracy") else None
    return _measured(cell.aggregate(metric.name), lambda value: metric.format(value, precision), cell.keys, notes)


def _made_elsewhere(cell: CellResult) -> tuple[str, ...]:
    """What it took to make the assets that were not made in a task here, one sentence each."""
    costs = {cost.name: cost for row in cell.done for cost in row.assets if cost.elsewhere}
    return tuple(
        f"{cost.name}: {words.seconds(cost.seconds)}{f' on {cost.device}' if cost.device else ''}, {cost.elsewhere}"
        for cost in costs.values()
    )


def _class_means(cell: CellResult) -> list[float | None]:
    """Mean over seeds of the accuracy of each class; None for a class without test clips."""
    means: list[float | None] = []
    for values in zip(*(row.per_class_accuracy for row in cell.done if row.per_class_accuracy), strict=False):
        known = [value for value in values if value is not None]
        means.append(float(np.mean(known)) if known else None)
    return means


def _measured(value: float | None, write: Callable[[float], str], records: tuple[str, ...], notes: tuple[str, ...] = ()) -> TableCell:
    return TableCell(DASH if value is None else write(value), notes=notes, data={"value": value}, records=records)
