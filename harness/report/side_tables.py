"""The tables beside the main one: cost, controls, quality of the sets, accuracy by class, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.registry import natural_key
from harness.report.cells import FULL, CellResult, Group, RowDict, find, ipcs, merge_evaluators, methods, number
from harness.report.tables import DASH, Cell, Row, Table
from harness.report.words import amount, mebibytes, percent, seconds
from harness.rows import Record

_SET_METRICS = {"frames_stored", "stored_bytes", "label_bytes", "clips_stored", "frame_fraction"}
"""What the harness itself records of a distilled set; all else came from the method."""


def cost_table(group: Group, cells: Sequence[CellResult], words: Mapping[str, str]) -> Table:
    """What a set stores and what it took to make it. cells: of all evaluators of one dataset, protocol and label mode."""
    columns: tuple[tuple[str, Callable[[CellResult], float | None], Callable[[float], str]], ...] = (
        ("frames", lambda c: c.average("frames_stored"), lambda v: f"{v:,.0f}"),
        ("of native", lambda c: c.average("frame_fraction"), lambda v: f"{percent(v, 2)} %"),
        ("set", lambda c: c.average("stored_bytes"), amount),
        ("labels", lambda c: c.peak("label_bytes"), amount),
        ("peak CPU", lambda c: c.peak("peak_cpu_mib"), mebibytes),
        ("process before", lambda c: c.average("baseline_cpu_mib"), mebibytes),
        ("peak GPU", lambda c: c.peak("peak_gpu_mib"), mebibytes),
        ("distillation", lambda c: c.average("distill_seconds"), seconds),
        ("shared assets", lambda c: c.average("asset_seconds"), seconds),
    )
    rows = []
    for method in methods(cells):
        for ipc in ipcs(cells):
            merged = merge_evaluators(cells, method, ipc)
            if merged is None or not merged.done:
                continue
            shown = tuple(_measured(read(merged), write, merged.keys) for _, read, write in columns)
            rows.append(Row(Cell(f"{words.get(method, method)}, IPC {ipc}"), shown))
    return Table(
        name=f"cost-{group.stem}",
        title=f"Cost: {group.dataset} ({group.shape}), {group.labels} labels",
        corner="method",
        columns=tuple(name for name, _, _ in columns),
        rows=tuple(rows),
        caption=(
            "Peaks are the largest over seeds, seconds the mean. Peak GPU is the allocator's; a dash is unmeasured, not 0. Shared assets "
            "(teachers, backbones, codecs) are made once for all cells that use them: their whole cost stands here, not a share of it."
        ),
    )


def controls_table(group: Group, cells: Sequence[CellResult], words: Mapping[str, str]) -> Table:
    """Do the distilled videos teach motion? The same networks, tested on clips without it."""
    columns = (
        ("top-1", "accuracy"),
        ("top-5", "accuracy_top5"),
        ("single frame", "accuracy_single_frame"),
        ("shuffled", "accuracy_shuffled"),
        ("reversed", "accuracy_reversed"),
        ("ECE", "ece"),
    )
    rows = []
    for cell in cells:
        if cell.done:
            label = f"{words.get(cell.method, cell.method)}{f', IPC {cell.ipc}' if cell.ipc is not None else ''}"
            shown = [_measured(cell.average(name), percent, cell.keys) for _, name in columns]
            shown += [_measured(cell.average("train_seconds"), seconds, cell.keys)]
            shown += [_measured(cell.peak("train_peak_gpu_mib") or cell.peak("train_peak_cpu_mib"), mebibytes, cell.keys)]
            rows.append(Row(Cell(label), tuple(shown), reference=cell.method == FULL))
    return Table(
        name=f"controls-{group.name}",
        title=f"Controls: {group.title}",
        corner="method",
        columns=(*(name for name, _ in columns), "training", "peak of training"),
        rows=tuple(rows),
        caption=(
            "Mean over seeds, in %. Single frame: every test clip shown as one of its frames repeated; shuffled: its frames permuted; "
            "reversed: backwards. A network that keeps its accuracy there was not taught motion. ECE: expected "
            "calibration error, 15 bins. Peak of training: the allocator's on a GPU, else the process's."
        ),
    )


def quality_table(group: Group, cells: Sequence[CellResult], records: Mapping[str, Record], words: Mapping[str, str]) -> Table | None:
    """What methods recorded of their own sets, by method and IPC; None where none recorded anything."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    keys: dict[tuple[str, int], list[str]] = {}
    for method in methods(cells):
        for ipc in ipcs(cells):
            rows = [row for cell in cells if cell.method == method and cell.ipc == ipc for row in cell.rows]
            for key in dict.fromkeys(str(row["distill_key"]) for row in rows):
                for name, value in records.get(key, {}).get("metrics", {}).items():
                    if name not in _SET_METRICS and value is not None:
                        found.setdefault((method, ipc), {}).setdefault(name, []).append(value)
                        keys.setdefault((method, ipc), []).append(key)
    names = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
    if not names:
        return None
    rows_ = tuple(
        Row(
            Cell(f"{words.get(method, method)}, IPC {ipc}"),
            tuple(
                _measured(float(np.mean(metrics[n])) if n in metrics else None, lambda v: f"{v:.4g}", tuple(keys[method, ipc]))
                for n in names
            ),
        )
        for (method, ipc), metrics in found.items()
    )
    return Table(
        name=f"quality-{group.stem}",
        title=f"What methods record of their sets: {group.dataset} ({group.shape})",
        corner="method",
        columns=tuple(name.replace("_", " ") for name in names),
        rows=rows_,
        caption="Mean over seeds, as the methods recorded it while they distilled.",
    )


def per_class_table(group: Group, cells: Sequence[CellResult], classes: Sequence[str], words: Mapping[str, str]) -> Table | None:
    """Accuracy of every class at the largest IPC; None where it was not recorded. classes: names, or empty for numbers."""
    budgets = ipcs(cells)
    if not budgets:
        return None
    shown = [cell for cell in (find(cells, m, budgets[-1]) for m in methods(cells)) if cell is not None]
    full = find(cells, FULL, None)
    shown += [full] if full is not None else []
    by_method = {cell.method: _class_means(cell) for cell in shown}
    by_method = {method: means for method, means in by_method.items() if means}
    if not by_method:
        return None
    count = max(len(means) for means in by_method.values())
    keys = {cell.method: cell.keys for cell in shown}
    rows = tuple(
        Row(
            Cell(classes[i] if i < len(classes) else str(i)),
            tuple(_measured(means[i] if i < len(means) else None, percent, keys[m]) for m, means in by_method.items()),
        )
        for i in range(count)
    )
    return Table(
        name=f"classes-{group.name}",
        title=f"By class at IPC {budgets[-1]}: {group.title}",
        corner="class",
        columns=tuple(words.get(method, method) for method in by_method),
        rows=rows,
        caption="Top-1 accuracy on the test clips of each class in %, mean over seeds.",
    )


def failures_table(cells: Sequence[CellResult], words: Mapping[str, str]) -> Table | None:
    """What is not done, with its reason; cells that fail alike share a row. None where all is done."""
    alike: dict[tuple[str, ...], list[tuple[str, RowDict]]] = {}
    for cell in cells:
        for row in cell.missing:
            reason = str(row.get("reason") or "no reason recorded")
            what = (cell.method, f"{cell.group.dataset} ({cell.group.shape})", "all" if cell.ipc is None else str(cell.ipc))
            alike.setdefault((*what, cell.group.protocol, str(row["status"]), reason), []).append((cell.group.evaluator, row))
    rows = []
    for (method, dataset, ipc, protocol, status, reason), found in alike.items():
        logs = sorted({str(row["log"]) for _, row in found if isinstance(row.get("log"), str)})
        parts = (
            dataset,
            ipc,
            protocol,
            ", ".join(sorted({evaluator for evaluator, _ in found}, key=natural_key)),
            ", ".join(str(seed) for seed in sorted({int(row["seed"]) for _, row in found})),
            status,
            reason,
            logs[0] + (f" and {len(logs) - 1} more" if len(logs) > 1 else "") if logs else "",
        )
        keys = tuple(str(row["key"]) for _, row in found)
        shown = tuple(Cell(part, data={"value": part}, records=keys) for part in parts)
        rows.append(Row(Cell(words.get(method, method)), shown))
    if not rows:
        return None
    columns = ("dataset", "IPC", "protocol", "evaluators", "seeds", "status", "reason", "log of the first")
    return Table("failures", "Cells that are not done", "method", columns, tuple(rows))


def _class_means(cell: CellResult) -> list[float | None]:
    """Mean over seeds of the accuracy of each class; None for a class without test clips."""
    arrays = [row["per_class_accuracy"] for row in cell.done if isinstance(row.get("per_class_accuracy"), (list, tuple))]
    means: list[float | None] = []
    for values in zip(*arrays, strict=False):
        known = [v for v in (number({"v": value}, "v") for value in values) if v is not None]
        means.append(float(np.mean(known)) if known else None)
    return means


def _measured(value: float | None, write: Callable[[float], str], records: tuple[str, ...]) -> Cell:
    if value is None:
        return Cell(DASH, data={"value": None}, records=records)
    return Cell(write(value), data={"value": value}, records=records)
