"""The tables that a run ends with and that --dry-run prints."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.estimate import Estimate
from harness.metrics import Metric, named
from harness.names import natural_key
from harness.plan import Task
from harness.rows import Row, cell_rows
from harness.runner import RunState
from harness.spec import AssetSpec, DataSpec, DistillSpec, EvaluateSpec
from harness.store import Store
from harness.text import printable

_SHOWN_CELLS = 40
_COLUMNS = ("accuracy", "relative_accuracy", "frame_fraction", "peak_cpu_mib", "peak_gpu_mib", "distill_seconds", "train_seconds")


def print_plan(console: Console, state: RunState, estimate: Estimate) -> None:
    """The task graph as counts with the time it will take, then what each cell resolves to."""
    plan = state.plan
    counts = Table(title="tasks", title_justify="left")
    for column in ("kind", "total", "done", "to do"):
        counts.add_column(column, justify="left" if column == "kind" else "right")
    for kind, n in state.counts().items():
        counts.add_row(kind, str(n["total"]), str(n["done"]), str(n["to_do"]))
    console.print(counts)
    _say(console, f"time, from like tasks in the results folder: {estimate}")
    if state.other_code:
        _say(console, f"{len(state.other_code)} of the results were made by other code than the present", "yellow")
    console.print("parameters", style="bold", highlight=False)
    for line in dict.fromkeys(line for task in plan.tasks.values() for line in _parameters(task)):
        _say(console, f"  {line}")
    console.print("cells", style="bold", highlight=False)
    for cell in plan.cells[:_SHOWN_CELLS]:
        task = plan.tasks[cell.key]
        standing = "to do" if cell.key in state.to_do else str(state.status(cell.key))
        standing = f"skipped: {task.skip}" if task.skip else f"{standing}, by other code" if task.kept else standing
        _say(console, f"  {cell.key[:12]}  {task.name}  {standing}")
    if len(plan.cells) > _SHOWN_CELLS:
        console.print(f"  ... and {len(plan.cells) - _SHOWN_CELLS} more", highlight=False)


def print_summary(console: Console, store: Store, state: RunState) -> None:
    """One line per method, IPC, label mode and evaluator: seeds put together; then what failed, and where to look next."""
    plan = state.plan
    missing = [k for k in plan.tasks if k not in state.records]
    records = {**state.records, **(store.read_records(missing)[0] if missing else {})}
    wanted = {c.key for c in plan.cells}
    groups: dict[tuple[str, int | None, str, str], list[Row]] = {}
    for row in cell_rows(records):
        if row.key in wanted:
            groups.setdefault((row.method_label, row.ipc, row.labels, row.evaluator_label), []).append(row)
    what = "mean ± sample std over n seeds; memory is the peak of distillation, the largest of the seeds"
    title = f"{plan.cells[0].dataset}, protocol {plan.cells[0].protocol} ({what})"
    table = Table(title=title, title_justify="left")
    for column in ("method", "IPC", "labels", "evaluator"):
        table.add_column(column, justify="right" if column == "IPC" else "left", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for name in _COLUMNS:
        metric = named(name)
        table.add_column(f"{metric.heading} %" if metric.unit == "fraction" else metric.heading, justify="right", no_wrap=True)
    for key in sorted(groups, key=lambda k: (k[1] or 10**9, natural_key(k[0]), k[2], natural_key(k[3]))):
        group = groups[key]
        done = [r for r in group if r.status == "done"]
        n = str(len(done)) if len(done) == len(group) else f"{len(done)} of {len(group)}"
        numbers = [_together(named(name), done) for name in _COLUMNS]
        table.add_row(printable(key[0]), "all" if key[1] is None else str(key[1]), key[2], printable(key[3]), n, *numbers)
    console.print(table)
    for task in plan.of_kind("data"):
        record = state.records.get(task.key)
        left_out = None if record is None else record.metrics.get("clips_left_out")
        if left_out:
            _say(console, f"warning: {left_out:.0f} listed clips were left out; `python -m harness data verify` says why", "yellow")
    for task in plan.tasks.values():
        record = state.records.get(task.key)
        if record is not None and record.status not in ("done", "skipped"):
            where = f" (log: {store.shown}/{record.log})" if record.log else ""
            _say(console, f"{record.status}: {task.kind} {task.name}: {record.reason}{where}", "red")
    for cell in plan.cells:
        record = state.records.get(cell.key)
        if record is not None and record.status == "skipped":
            _say(console, f"skipped: {record.name}: {record.reason}", "yellow")
    absent = [cell.name for cell in plan.cells if cell.key not in records]
    if absent:
        _say(console, f"missing: {len(absent)} of {len(plan.cells)} cells were planned and not run", "yellow")
    flag = "" if store.is_local and store.root.endswith("/results") else f" --results {store.shown}"
    _say(console, f"records: {store.shown}/records")
    _say(console, f"next: python -m harness report{flag}   (tables and figures)")
    _say(console, f"      python -m harness ui{flag}       (MLflow comparison, http://127.0.0.1:5000)")


def _parameters(task: Task) -> list[str]:
    """What a task resolves to, a line for each of its plugins and its recipe."""
    spec = task.spec
    lines: list[tuple[str, str, Mapping[str, Any]]] = []
    if isinstance(spec, DataSpec):
        lines.append(("dataset", spec.dataset.label, spec.dataset.params))
    if isinstance(spec, AssetSpec):
        lines.append(("asset", spec.asset.label, spec.asset.params))
    if isinstance(spec, DistillSpec):
        lines.append(("method", spec.method.label, spec.method.params))
    if isinstance(spec, EvaluateSpec):
        lines.append(("evaluator", spec.evaluator.label, spec.evaluator.params))
        recipe = "recipe of full" if spec.budget is None else "protocol"
        lines.append((recipe, spec.protocol.name, spec.protocol.recipe.model_dump()))
    return [f"{kind} {name}: {', '.join(f'{k}={v}' for k, v in params.items()) or 'no parameters'}" for kind, name, params in lines]


def _together(metric: Metric, rows: Sequence[Row]) -> str:
    """The seeds of one cell in one number: as the metric says, accuracy with its spread."""
    known = [value for row in rows if (value := row.value(metric.name)) is not None]
    if not known:
        return "—"
    if metric.aggregate == "max":
        return metric.format(max(known))
    digits = 3 if metric.name == "frame_fraction" else None
    mean = metric.format(statistics.fmean(known), digits)
    return f"{mean} ± {metric.format(statistics.stdev(known))}" if metric.name == "accuracy" and len(known) > 1 else mean


def _say(console: Console, text: str, style: str | None = None) -> None:
    """A line as it is: nothing is wrapped."""
    console.print(printable(text), style=style, highlight=False, soft_wrap=True)
