"""The tables that a run ends with and that --dry-run prints."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.plan import Plan
from harness.registry import natural_key
from harness.rows import cell_rows
from harness.runner import RunState
from harness.store import Store

_SHOWN_CELLS = 40


def print_plan(console: Console, plan: Plan, state: RunState) -> None:
    """The task graph as counts, then what each cell resolves to."""
    counts = Table(title="tasks", title_justify="left")
    for column in ("kind", "total", "done", "to do"):
        counts.add_column(column, justify="left" if column == "kind" else "right")
    for kind, n in state.counts().items():
        counts.add_row(kind, str(n["total"]), str(n["done"]), str(n["to_do"]))
    console.print(counts)
    console.print("parameters", style="bold", highlight=False)
    shown: dict[str, Mapping[str, Any]] = {}
    for task in plan.tasks.values():
        for kind in ("dataset", "asset", "method", "evaluator", "protocol"):
            spec = task.spec.get(kind)
            if spec is None or (kind == "protocol" and task.kind != "evaluate"):
                continue
            recipe = "recipe of full" if task.spec.get("budget") is None and kind == "protocol" else kind
            params = spec["params"] if kind != "protocol" else {k: v for k, v in spec.items() if k != "name"}
            shown.setdefault(f"{recipe} {spec.get('label', spec['name'])} {params}", {"what": recipe, "spec": spec, "params": params})
    for entry in shown.values():
        spec, values = entry["spec"], ", ".join(f"{k}={v}" for k, v in entry["params"].items())
        _say(console, f"  {entry['what']} {spec.get('label', spec['name'])}: {values or 'no parameters'}")
    console.print("cells", style="bold", highlight=False)
    for cell in plan.cells[:_SHOWN_CELLS]:
        task = plan.tasks[cell.key]
        standing = "to do" if cell.key in state.to_do else state.records[cell.key]["status"]
        standing = f"skipped: {task.skip}" if task.skip else standing
        _say(console, f"  {cell.key[:12]}  {task.name}  {standing}")
    if len(plan.cells) > _SHOWN_CELLS:
        console.print(f"  ... and {len(plan.cells) - _SHOWN_CELLS} more", highlight=False)


def print_summary(console: Console, store: Store, plan: Plan, state: RunState) -> None:
    """One line per method, IPC, label mode and evaluator: means over seeds; then what failed, and where to look next."""
    upstream = {k for t in plan.tasks.values() for k in t.inputs.values()}
    missing = [k for k in upstream | set(plan.tasks) if k not in state.records]
    records = {**state.records, **store.read_records(missing)[0]}
    wanted = {c.key for c in plan.cells}
    rows = [r for r in cell_rows(records) if r["key"] in wanted]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method_label"], row["ipc"], row["labels"], row["evaluator_label"]), []).append(row)
    what = "mean ± sample std over n seeds; memory is the peak of distillation"
    title = f"{plan.cells[0].dataset}, protocol {plan.cells[0].protocol} ({what})"
    table = Table(title=title, title_justify="left")
    for column in ("method", "IPC", "labels", "evaluator"):
        table.add_column(column, justify="right" if column == "IPC" else "left", no_wrap=True)
    for column in ("n", "accuracy %", "of full %", "frames %", "CPU MiB", "GPU MiB", "distil s", "train s"):
        table.add_column(column, justify="right", no_wrap=True)
    for key in sorted(groups, key=lambda k: (k[1] or 10**9, natural_key(k[0]), k[2], natural_key(k[3]))):
        group = groups[key]
        done = [r for r in group if r["status"] == "done"]
        n = str(len(done)) if len(done) == len(group) else f"{len(done)} of {len(group)}"
        table.add_row(
            key[0],
            "all" if key[1] is None else str(key[1]),
            key[2],
            key[3],
            n,
            _spread([r["accuracy"] for r in done], 100, 1),
            _mean([r["relative_accuracy"] for r in done], 100, 1),
            _mean([r["frame_fraction"] for r in done], 100, 3),
            _mean([r["peak_cpu_mib"] for r in done], 1, 0),
            _mean([r["peak_gpu_mib"] for r in done], 1, 0),
            _mean([r["distill_seconds"] for r in done], 1, 1),
            _mean([r["train_seconds"] for r in done], 1, 1),
        )
    console.print(table)
    for task in plan.of_kind("data"):
        left_out = state.records.get(task.key, {}).get("metrics", {}).get("clips_left_out")
        if left_out:
            _say(console, f"warning: {left_out:.0f} listed clips were left out; `python -m harness data verify` says why", "yellow")
    bad = [t for t in plan.tasks.values() if state.records.get(t.key, {}).get("status", "done") not in ("done", "skipped")]
    skips = [c for c in plan.cells if state.records.get(c.key, {}).get("status") == "skipped"]
    for task in bad:
        record = state.records[task.key]
        where = f" (log: {store.root}/{record['log']})" if record.get("log") else ""
        _say(console, f"{record['status']}: {task.kind} {task.name}: {record['reason']}{where}", "red")
    for cell in skips:
        record = state.records[cell.key]
        _say(console, f"skipped: {record['name']}: {record['reason']}", "yellow")
    flag = "" if store.root.endswith("/results") else f" --results {store.root}"
    _say(console, f"records: {store.root}/records")
    _say(console, f"next: python -m harness report{flag}   (tables and figures)")
    _say(console, f"      python -m harness ui{flag}       (MLflow comparison, http://127.0.0.1:5000)")


def _say(console: Console, text: str, style: str | None = None) -> None:
    """A line as it is: nothing is wrapped."""
    console.print(text, style=style, highlight=False, soft_wrap=True)


def _spread(values: list[float | None], scale: float, digits: int) -> str:
    known = [v * scale for v in values if v is not None]
    if not known:
        return "—"
    if len(known) == 1:
        return f"{known[0]:.{digits}f}"
    return f"{statistics.fmean(known):.{digits}f} ± {statistics.stdev(known):.{digits}f}"


def _mean(values: list[float | None], scale: float, digits: int) -> str:
    known = [v * scale for v in values if v is not None]
    return f"{statistics.fmean(known):.{digits}f}" if known else "—"
