"""The main table: methods x IPC, for one dataset, evaluator, protocol and label mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness import metrics
from harness.metrics import named
from harness.report.cells import ALPHA, FULL, RANDOM, CellResult, Group, View, best_set, find, ipcs, methods
from harness.report.statistics import paired_t, t_interval
from harness.report.tables import DASH, Table, TableCell, TableRow
from harness.words import amount, percent, plural, points, seconds


def main_table(view: View, group: Group) -> Table:
    """Accuracy with its spread and n; under it the difference to random and the share of full, then frames, peak memory and seconds.

    Every (method, IPC) that any row of the group names has a cell: a dash with a footnote where nothing was measured.
    """
    cells = view.groups[group]
    columns = ipcs(cells)
    full = find(cells, FULL, None)
    bold: set[tuple[str, int]] = set()
    remarks: list[str] = []
    for ipc in columns:
        winners, why = best_set([cell for cell in cells if cell.ipc == ipc])
        bold |= {(method, ipc) for method in winners}
        if why:
            remarks.append(f"IPC {ipc}: {why}, so nothing is bold there.")
    rows = []
    for method in methods(cells):
        found = [find(cells, method, ipc) for ipc in columns]
        row = tuple(_cell(cell, view, cells, (method, ipc) in bold) for cell, ipc in zip(found, columns, strict=True))
        rows.append(TableRow(_label(method, [cell for cell in found if cell], group, view), row, reference=method == RANDOM))
    if full is not None:
        label = TableCell(view.words.get(FULL, "full (whole training split)"))
        rows.append(TableRow(label, (_full_cell(full, view, max(1, len(columns))),), reference=True))
    return Table(
        name=group.name,
        title=group.title,
        corner="method",
        columns=tuple(f"IPC {ipc}" for ipc in columns) or ("accuracy",),
        rows=tuple(rows),
        caption=" ".join([_caption(group, columns, full is not None), *remarks, *_device_remarks(cells)]),
        across="IPC",
    )


def _caption(group: Group, columns: Sequence[int], has_full: bool) -> str:
    parts = ["Top-1 accuracy on the test split in %, mean ± sample standard deviation (ddof 1) over (n) seeds, last training step."]
    if columns:
        reference = " and share of the accuracy of full" if has_full else ""
        parts.append(
            f"Second line: difference to random in points with its 95 % Student-t interval over paired seeds{reference}. Third line: "
            "frames stored / native frames of the training split, peak memory of the distillation (the allocator's on a GPU, else the "
            "process's), seconds of the distillation without shared assets."
        )
        parts.append(
            "Bold: the best of a column and every method that a paired t-test (Holm within the column, "
            f"α = {ALPHA}) does not separate from it."
        )
    if group.labels == "native":
        parts.append("Methods train on labels of their own: a difference may be that of the labels.")
    return " ".join(parts)


def _device_remarks(cells: Sequence[CellResult]) -> list[str]:
    devices = sorted({row.device for cell in cells for row in cell.done if row.device})
    if len(devices) > 1:
        return [f"Seconds and memory come from different devices ({', '.join(devices)}) and are not comparable across them."]
    return [f"Device: {devices[0]}."] if devices else []


def _label(method: str, cells: Sequence[CellResult], group: Group, view: View) -> TableCell:
    notes = []
    if method in view.words:
        notes.append(f"{view.words[method]}: {method}")
    label_bytes = max((value for cell in cells for value in cell.values("label_bytes")), default=0.0)
    if group.labels == "native" and label_bytes:
        notes.append(f"trains on soft labels of its own, up to {amount(label_bytes)} of labels beside the clips")
    if any(cell.n > 1 and len({row.distill_key for row in cell.done}) == 1 for cell in cells):
        notes.append("one distilled set for all seeds: the spread is that of training alone")
    return TableCell(view.say(method), notes=(*notes, *_tuning_notes(cells)))


def _tuning_notes(cells: Sequence[CellResult]) -> tuple[str, ...]:
    """How the parameters of a method came about, where there is something to tune."""
    found = {row.tuned.model_dump_json(): row.tuned for cell in cells for row in cell.rows if row.tuned is not None}
    notes = [
        f"parameters chosen among {plural(tuned.trials, 'trial')} at IPC {', '.join(map(str, tuned.ipc))} on held-out training clips of "
        f"{tuned.dataset}, {seconds(tuned.seconds)}: {percent(tuned.score)} % of them right"
        + (f", {percent(tuned.default)} % by the defaults" if tuned.better else "; the defaults were not beaten")
        for tuned in found.values()
    ]
    if any(row.tunable and row.tuned is None for cell in cells for row in cell.rows):
        notes.append("never tuned")
    return tuple(notes)


def _cell(cell: CellResult | None, view: View, cells: Sequence[CellResult], bold: bool) -> TableCell:
    if cell is None:
        return TableCell(DASH, notes=("not run",), data={"status": "absent"})
    notes = missing_notes(cell)
    if cell.mean is None:
        statuses = "+".join(sorted({row.status for row in cell.missing}))
        return TableCell(DASH, notes=notes, data={"status": statuses}, records=cell.keys)
    gain, gain_data = _gain(cell, cells)
    relative = named("relative_accuracy").format(cell.aggregate("relative_accuracy"))
    share = f"{relative} % of full" if relative else ""
    return TableCell(
        text=accuracy_text(cell),
        bold=bold,
        details=tuple(line for line in (" · ".join(part for part in (gain, share) if part), _cost_line(cell)) if line),
        notes=(*notes, *code_notes(cell, view)),
        data={"status": "done", **_numbers(cell), **gain_data, "bold": int(bold)},
        records=cell.keys,
    )


def _full_cell(full: CellResult, view: View, span: int) -> TableCell:
    if full.mean is None:
        statuses = "+".join(sorted({row.status for row in full.missing}))
        return TableCell(DASH, notes=missing_notes(full), data={"status": statuses}, records=full.keys, span=span)
    train = named("train_seconds").format(full.aggregate("train_seconds"))
    return TableCell(
        accuracy_text(full),
        details=(" · ".join(["100 % of frames", *([f"{train} of training"] if train else [])]),),
        notes=(*missing_notes(full), *code_notes(full, view)),
        data={"status": "done", **_numbers(full)},
        records=full.keys,
        span=span,
    )


def accuracy_text(cell: CellResult) -> str:
    """ "62.3 ± 1.2 (5)"; without the spread for one seed; a dash where nothing finished."""
    if cell.mean is None:
        return DASH
    spread = f" ± {percent(cell.std)}" if cell.std is not None else ""
    return f"{percent(cell.mean)}{spread} ({cell.n})"


def missing_notes(cell: CellResult) -> tuple[str, ...]:
    """One footnote per status and reason of the seeds that did not finish.

    Says how many where some of the cell's seeds did: "2 of 5 seeds failed: ...".
    """
    reasons = Counter((row.status, (row.reason or "no reason recorded").strip().splitlines()[0]) for row in cell.missing)
    total = len(cell.rows)
    return tuple(
        f"{status}: {reason}" if count == total else f"{count} of {plural(total, 'seed')} {status}: {reason}"
        for (status, reason), count in sorted(reasons.items())
    )


def code_notes(cell: CellResult, view: View) -> tuple[str, ...]:
    """One footnote per thing to know of the code that made the finished seeds; says how many where it is not all of them."""
    marks = Counter(mark for row in cell.done for mark in view.marks.get(row.key, ()))
    return tuple(
        mark if count == cell.n else f"{count} of {plural(cell.n, 'seed')} {'was' if count == 1 else 'were'} {mark}"
        for mark, count in marks.items()
    )


def _gain(cell: CellResult, cells: Sequence[CellResult]) -> tuple[str, dict[str, object]]:
    random = find(cells, RANDOM, cell.ipc)
    if cell.method == RANDOM or random is None:
        return "", {}
    differences = cell.differences(random)
    if not differences:
        return "", {}
    mean = sum(differences) / len(differences)
    interval = t_interval(differences)
    data: dict[str, object] = {
        "gain_over_random": mean,
        "gain_low": interval[0] if interval else None,
        "gain_high": interval[1] if interval else None,
        "gain_p": paired_t(differences),
        "gain_pairs": len(differences),
    }
    return f"{points(mean)} [{points(interval[0])}, {points(interval[1])}]" if interval else points(mean), data


def _cost_line(cell: CellResult) -> str:
    frames, gpu, cpu, took = (
        named(name).format(cell.aggregate(name)) for name in ("frame_fraction", "peak_gpu_mib", "peak_cpu_mib", "distill_seconds")
    )
    memory = f"{gpu} GPU" if gpu else f"{cpu} CPU" if cpu else ""
    return " · ".join(part for part in (f"{frames} % frames" if frames else "", memory, took) if part)


def _numbers(cell: CellResult) -> dict[str, object]:
    interval = t_interval(list(cell.accuracy.values()))
    spread = {"std": cell.std, "n": cell.n, "low": interval[0] if interval else None, "high": interval[1] if interval else None}
    return {"accuracy": cell.mean, **spread, **{m.name: cell.aggregate(m.name) for m in metrics.METRICS if m.name != "accuracy"}}
