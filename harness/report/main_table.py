"""The main table: methods x IPC, for one dataset, evaluator, protocol and label mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness import metrics
from harness.metrics import named
from harness.names import natural_key
from harness.report.cells import ALPHA, FULL, RANDOM, CellResult, Verdict, View, find, ipcs, judge, methods
from harness.report.group import Group
from harness.report.published import Published, of_group, published_cell
from harness.report.statistics import paired_t, t_interval
from harness.report.tables import BEATS_RANDOM, DASH, TIED, Table, TableCell, TableRow
from harness.rows import Row
from harness.words import amount, percent, plural, points, seconds


def main_table(view: View, group: Group) -> Table:
    """Accuracy with its spread; on screens also the difference to random and the share of full. What it cost has a table of its own.

    Every (method, IPC) that any row of the group names has a cell: a dash with a footnote where nothing was measured. Published numbers
    of the same dataset, evaluator and IPC follow below a rule, in no test with ours.
    """
    cells = view.groups[group]
    columns = ipcs(cells)
    verdicts = {ipc: judge([cell for cell in cells if cell.ipc == ipc]) for ipc in columns}
    n = usual_seeds(cells)
    rows = []
    for method in methods(cells):
        found = [find(cells, method, ipc) for ipc in columns]
        row = tuple(_cell(cell, view, cells, verdicts[ipc], n) for cell, ipc in zip(found, columns, strict=True))
        rows.append(TableRow(_label(method, [cell for cell in found if cell], group, view), row, reference=method == RANDOM))
    full = find(cells, FULL, None)
    if full is not None:
        label = TableCell(view.names.get(FULL, "full (whole training split)"))
        rows.append(TableRow(label, (full_cell(full, view, max(1, len(columns))),), reference=True))
    rows += published_rows(view, [(group, ipc) for ipc in columns])
    told = told_apart({f"IPC {ipc}": verdict for ipc, verdict in verdicts.items()})
    made = " ".join(part for part in (asset_words(cells, view), device_words(cells)) if part)
    brief = f"Top-1 test accuracy in %, {spread_words(n)}{told} {made}".strip()
    return Table(
        name=group.name,
        title=view.name(group),
        corner="method",
        columns=tuple(f"IPC {ipc}" for ipc in columns) or ("accuracy",),
        rows=tuple(rows),
        caption=" ".join(part for part in (_caption(group, columns, full is not None, n), told.strip(), made) if part),
        across="IPC",
        brief=brief,
        compact=True,
    )


def usual_seeds(cells: Sequence[CellResult]) -> int:
    """The number of seeds that most cells of a budget have; 0 where none is done."""
    counts = Counter(cell.n for cell in cells if cell.ipc is not None and cell.n)
    return max(counts, key=lambda n: (counts[n], n)) if counts else 0


def spread_words(n: int) -> str:
    """How many seeds a number is of, and what stands behind ±."""
    if n < 2:
        return "one seed; (n) where it is another number."
    return f"mean ± sample standard deviation over n = {n} seeds, (n) where it is another number."


def told_apart(verdicts: Mapping[str, Verdict]) -> str:
    """What bold and the signs of these columns mean, and the difference that each column could show."""
    judged = {column: verdict for column, verdict in verdicts.items() if verdict.least is not None}
    said = []
    if judged:
        least = ", ".join(f"{100 * (verdict.least or 0):.1f} ({column})" for column, verdict in judged.items())
        said.append(
            f" Bold: the best of a column where it can be told from others; {TIED} cannot be told from it; "
            f"{BEATS_RANDOM} better than random "
            f"(studentised range over paired seeds, {100 * ALPHA:.0f} % error for all pairs of a column). Differences "
            f"show from {least} points."
        )
        nothing = [column for column, verdict in judged.items() if verdict.best is None]
        if nothing:
            said.append(f" Nothing is told from the best in {', '.join(nothing)}.")
    why: dict[str, list[str]] = {}
    for column, verdict in verdicts.items():
        if verdict.why:
            why.setdefault(f"{verdict.why}, so no method is told from another", []).append(column)
        if verdict.unjudged and not verdict.why:
            why.setdefault(f"too few shared seeds to judge {', '.join(verdict.unjudged)}", []).append(column)
    said += [f" {', '.join(columns)}: {reason}." for reason, columns in why.items()]
    return "".join(said)


def published_rows(view: View, columns: Sequence[tuple[Group, int]]) -> list[TableRow]:
    """A row for each method of a paper that has a number in any of these columns of (group, IPC)."""
    found: dict[str, dict[tuple[Group, int], Published]] = {}
    for group, ipc in columns:
        for number in of_group(view.published, group):
            if number.ipc == ipc:
                found.setdefault(number.method, {})[group, ipc] = number
    rows = []
    for method, numbers in sorted(found.items(), key=lambda item: natural_key(item[0])):
        cells = tuple(
            published_cell(numbers[column], view.digits, column[0].protocol) if column in numbers else TableCell(DASH) for column in columns
        )
        rows.append(TableRow(TableCell(f"{method}, published"), cells, reference=True))
    return rows


def _caption(group: Group, columns: Sequence[int], has_full: bool, n: int) -> str:
    parts = [f"Top-1 accuracy on the test split in % after the last training step, {spread_words(n)}"]
    if columns:
        reference = " and share of the accuracy of full" if has_full else ""
        parts.append(
            "Second line: difference to random in points with its 95 % Student-t interval over paired "
            f"seeds{reference}; an interval is of one "
            "comparison, the signs are of all in a column."
        )
    if group.labels == "native":
        parts.append("Methods train on labels of their own: a difference may be that of the labels.")
    return " ".join(parts)


def device_words(cells: Iterable[CellResult]) -> str:
    """The devices of what is shown."""
    devices = sorted({row.device for cell in cells for row in cell.done if row.device})
    return f"Device: {', '.join(devices)}." if devices else ""


def asset_words(cells: Iterable[CellResult], view: View) -> str:
    """Whether what several seeds rest on (a teacher, a backbone) has a seed for each of them, or one: then ± does not hold its chance."""
    one: set[str] = set()
    each: set[str] = set()
    for cell in cells:
        rows = cell.done if cell.n > 1 and cell.ipc is not None else ()
        found = [_assets(row, view) for row in rows]
        for name in {name for assets in found for name in assets}:
            alike = len({frozenset(assets.get(name, ())) for assets in found}) == 1
            (one if alike else each).add(name.replace("_", " "))
    said = []
    if one:
        said.append(f"One for all seeds: {', '.join(sorted(one))}; ± and tests hold nothing of its chance.")
    if each:
        said.append(f"One for each seed: {', '.join(sorted(each))}.")
    return " ".join(said)


def _assets(row: Row, view: View) -> dict[str, set[str]]:
    """Name -> keys of the assets that a row rests on, with the teacher of its labels."""
    found: dict[str, set[str]] = {}
    for cost in row.assets:
        found.setdefault(cost.name, set()).add(cost.key)
    if row.labels == "soft" and row.key in view.records:
        found.setdefault("teacher", set()).add(view.records[row.key].inputs.get("teacher", ""))
    return found


def _label(method: str, cells: Sequence[CellResult], group: Group, view: View) -> TableCell:
    notes = []
    if method in view.words and method not in view.names:
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


def _cell(cell: CellResult | None, view: View, cells: Sequence[CellResult], verdict: Verdict, n: int) -> TableCell:
    if cell is None:
        return TableCell(DASH, notes=("not run",), data={"status": "absent"})
    shown = accuracy_cell(cell, view, verdict, n)
    if cell.mean is None:
        return shown
    gain, gain_data = _gain(cell, cells)
    relative = named("relative_accuracy").format(cell.aggregate("relative_accuracy"))
    line = " · ".join(part for part in (gain, f"{relative} % of full" if relative else "", _more_videos(cell)) if part)
    return replace(shown, details=(line,) if line else (), data={**shown.data, **gain_data})


def accuracy_cell(cell: CellResult, view: View, verdict: Verdict, n: int) -> TableCell:
    """Mean and spread with the signs of its column; a dash with the reasons where nothing finished. n: seeds that need no mention."""
    if cell.mean is None:
        statuses = "+".join(sorted({row.status for row in cell.missing}))
        return TableCell(DASH, notes=missing_notes(cell), data={"status": statuses}, records=cell.keys)
    bold, tied, above = cell.method == verdict.best, cell.method in verdict.tied, cell.method in verdict.above
    told = {"bold": int(bold), "tied": int(tied), "above_random": int(above), "least_difference": verdict.least}
    return TableCell(
        text=accuracy_text(cell, view.digits, n),
        bold=bold,
        signs=(BEATS_RANDOM if above else "") + (TIED if tied else ""),
        notes=(*missing_notes(cell), *code_notes(cell, view)),
        data={"status": "done", **_numbers(cell), **told},
        records=cell.keys,
    )


def full_cell(full: CellResult, view: View, span: int) -> TableCell:
    """The reference over all budgets of its group."""
    if full.mean is None:
        statuses = "+".join(sorted({row.status for row in full.missing}))
        return TableCell(DASH, notes=missing_notes(full), data={"status": statuses}, records=full.keys, span=span)
    train = named("train_seconds").format(full.aggregate("train_seconds"))
    return TableCell(
        accuracy_text(full, view.digits),
        details=(" · ".join(["100 % of frames", *([f"{train} of training"] if train else [])]),),
        notes=(*missing_notes(full), *code_notes(full, view)),
        data={"status": "done", **_numbers(full)},
        records=full.keys,
        span=span,
    )


def accuracy_text(cell: CellResult, digits: int = 1, n: int = 0) -> str:
    """ "62.3 ± 1.2", and the number of seeds where it is not the n that the caption names; a dash where nothing finished."""
    if cell.mean is None:
        return DASH
    spread = f" ± {percent(cell.std, digits)}" if cell.std is not None else ""
    return f"{percent(cell.mean, digits)}{spread}{'' if cell.n == n else f' ({cell.n})'}"


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


def _more_videos(cell: CellResult) -> str:
    """How many videos a network was trained on, where a set makes more of its budget than its clips."""
    trained_on, classes = cell.aggregate("videos_trained_on"), max((len(row.classes) for row in cell.done), default=0)
    if cell.ipc is None or trained_on is None or trained_on <= cell.ipc * classes or not classes:
        return ""
    return f"{named('videos_trained_on').format(trained_on)} videos"


def _numbers(cell: CellResult) -> dict[str, object]:
    interval = t_interval(list(cell.accuracy.values()))
    spread = {"std": cell.std, "n": cell.n, "low": interval[0] if interval else None, "high": interval[1] if interval else None}
    return {"accuracy": cell.mean, **spread, **{m.name: cell.aggregate(m.name) for m in metrics.METRICS if m.name != "accuracy"}}
