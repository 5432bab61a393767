"""What a reader must know before trusting a comparison: sentences, worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.names import natural_key
from harness.report.cells import FULL, RANDOM, CellResult, View, find, ipcs, methods
from harness.report.group import Group
from harness.report.load import Results
from harness.words import percent, plural


def store_warnings(results: Results, stale: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Warnings about the results as a whole: what cannot be read, what other code made, code that was not committed.

    stale: key of a row -> what of the code that made it is another now, such as "harness" or "method gvd".
    """
    found = [f"Left out: {line}." for line in results.damaged]
    if results.superseded:
        older = plural(len(results.superseded), "older record")
        found.append(f"{older} of cells that ran again with other code or parameters are superseded by the newest and not shown.")
    if results.other_code:
        count = len(results.other_code)
        found.append(
            f"{plural(count, 'cell')} {'was' if count == 1 else 'were'} made by other code than the newest seed beside "
            f"{'it' if count == 1 else 'them'} and kept because that was asked for: averaged with it, and marked."
        )
    changed = [parts for row in results.rows if (parts := (stale or {}).get(row.key))]
    if changed:
        what = ", ".join(sorted({part for parts in changed for part in parts}, key=natural_key))
        made = f"{plural(len(changed), 'cell')} {'was' if len(changed) == 1 else 'were'} made by other code than the present"
        found.append(f"{made} ({what}); `run` makes {'it' if len(changed) == 1 else 'them'} again.")
    for record in results.records.values():
        left_out = record.metrics.get("clips_left_out") if record.kind == "data" else None
        if left_out:
            found.append(f"{record.spec.dataset.name}: {plural(int(left_out), 'clip')} could not be read and left out of the dataset.")
    shown = [results.records[row.key].provenance for row in results.rows if row.status == "done"]
    dirty = sum(bool(origin.git_dirty) for origin in shown)
    if dirty:
        found.append(
            f"{plural(dirty, 'cell')} of {len(shown)} ran from a checkout with uncommitted changes: their commit does not name their code."
        )
    versions = sorted({origin.harness for origin in shown}, key=natural_key)
    if len(versions) > 1:
        found.append(f"Cells were made by different versions of the harness: {', '.join(versions)}.")
    return found


def view_warnings(view: View) -> list[str]:
    """Warnings about the tables of a section; what holds for several evaluators is said once."""
    where: dict[str, list[str]] = {}
    for group, cells in view.groups.items():
        for text in group_warnings(group, cells):
            where.setdefault(text, []).append(view.say(group.evaluator))
    return [f"{view.title}{'' if len(names) == len(view.groups) > 1 else ', ' + ', '.join(names)}: {text}" for text, names in where.items()]


def group_warnings(group: Group, cells: Sequence[CellResult]) -> list[str]:
    """Warnings about one table, without its name."""
    found = []
    budgets, names = ipcs(cells), methods(cells)
    others = [name for name in names if name != RANDOM]
    if budgets and others:
        absent = [str(ipc) for ipc in budgets if not _has_mean(find(cells, RANDOM, ipc))]
        if absent:
            found.append(f"no result of random at IPC {', '.join(absent)}, so nothing says what a method adds there.")
    found += _full_warnings(group, find(cells, FULL, None))
    found += _seed_warnings(group, cells)
    found += _mixture_warnings(group, cells)
    found += _training_warnings(group, cells)
    if group.labels == "native" and len({_has_labels(cells, name) for name in names}) > 1:
        soft = ", ".join(name for name in names if _has_labels(cells, name))
        found.append(
            f"{soft} trained on soft labels and the others on hard ones, so a difference may be that of the labels; "
            "compare under --labels hard or soft."
        )
    gaps = {m: [str(ipc) for ipc in budgets if not _has_mean(find(cells, m, ipc))] for m in names}
    listed = "; ".join(f"{m} at IPC {', '.join(absent)}" for m, absent in gaps.items() if absent)
    if listed:
        found.append(f"the grid is incomplete ({listed}); pooled comparisons use only what both sides have.")
    return found


def _full_warnings(group: Group, full: CellResult | None) -> list[str]:
    if full is None or full.mean is None:
        return ["no result of full, so relative accuracy is unknown."]
    classes = next((len(row.per_class_accuracy) for row in full.done if row.per_class_accuracy), 0)
    if classes and full.mean < 1.5 / classes:
        return [
            f"full reaches {percent(full.mean)} % where chance is {percent(1 / classes)} %, so this recipe does not train "
            "this network and its accuracies say nothing of the sets."
        ]
    return []


def _seed_warnings(group: Group, cells: Sequence[CellResult]) -> list[str]:
    alive = [cell for cell in cells if cell.ipc is not None and cell.n]
    if alive and all(cell.n == 1 for cell in alive):
        return ["one seed, so there is no spread and no test."]
    if alive and len({cell.n for cell in alive}) > 1:
        low, high = min(cell.n for cell in alive), max(cell.n for cell in alive)
        return [f"cells have {low} to {high} seeds; tests use the seeds that both sides share."]
    return []


def _mixture_warnings(group: Group, cells: Sequence[CellResult]) -> list[str]:
    """Cells under one name that were not made alike: another dataset, evaluator or recipe, other libraries, or another device."""
    found = []
    rows = [row for cell in cells if cell.ipc is not None for row in cell.done]
    for digests, what in (
        ({row.dataset_digest for row in rows}, "different versions of the dataset"),
        ({row.evaluator_digest for row in rows}, "different versions or parameters of the evaluator"),
        ({row.recipe_digest for row in rows}, f"different recipes under the protocol name {group.protocol!r}"),
    ):
        if len(digests) > 1:
            found.append(f"cells were made with {what} and are not comparable; run the older ones again.")
    rows = [row for cell in cells for row in cell.done]
    mixed = []
    for library in sorted({name for row in rows for name in row.libraries}):
        versions = sorted({row.libraries[library] for row in rows if library in row.libraries}, key=natural_key)
        if len(versions) > 1:
            mixed.append(f"{library} ({', '.join(versions)})")
    if mixed:
        found.append(f"cells were made with different versions of {', '.join(mixed)}.")
    devices = sorted({row.device for row in rows if row.device})
    if len(devices) > 1:
        found.append(f"cells ran on different devices ({', '.join(devices)}); seconds and memory do not compare.")
    return found


def _training_warnings(group: Group, cells: Sequence[CellResult]) -> list[str]:
    """Methods whose networks were trained longer than others' of their column, or whose experts have learned nothing."""
    found = []
    for ipc in ipcs(cells):
        steps = {cell.method: max(known) for cell in cells if cell.ipc == ipc and (known := cell.values("train_steps"))}
        if len(set(steps.values())) > 1:
            listed = ", ".join(f"{method} {count:,.0f}" for method, count in sorted(steps.items(), key=lambda item: -item[1]))
            found.append(
                f"{group.title}, IPC {ipc}: methods trained with different numbers of optimiser steps ({listed}), so a difference may be "
                "that of the training."
            )
    for name in methods(cells):
        for cell in (cell for cell in cells if cell.method == name and cell.ipc is not None):
            accuracy, classes = cell.values("expert_accuracy"), max((len(row.per_class_accuracy) for row in cell.done), default=0)
            if accuracy and classes and min(accuracy) < 1.5 / classes:
                found.append(
                    f"{group.title}: the experts of {name} recognise {percent(min(accuracy))} % of the clips that they were trained on, "
                    f"where chance is {percent(1 / classes)} %, so it matched networks that have learned nothing."
                )
                break
    return found


def _has_mean(cell: CellResult | None) -> bool:
    return cell is not None and cell.mean is not None


def _has_labels(cells: Sequence[CellResult], method: str) -> bool:
    return any(value > 0 for cell in cells if cell.method == method for value in cell.values("label_bytes"))
