"""The field's layouts: methods x (dataset, IPC), methods x evaluators with the drop, variants of one method in words, and a leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.report.cells import FULL, RANDOM, CellResult, View, find, ipcs, judge, methods
from harness.report.compare import block_differences, pair_cells, shared_blocks
from harness.report.group import Group
from harness.report.main_table import (
    accuracy_cell,
    asset_words,
    device_words,
    full_cell,
    published_rows,
    spread_words,
    told_apart,
    usual_seeds,
)
from harness.report.statistics import average_ranks
from harness.report.tables import DASH, Table, TableCell, TableRow, slug
from harness.words import percent, points


def overview_tables(views: Sequence[View]) -> list[Table]:
    """Several datasets side by side: for each evaluator, protocol and label mode that two or more of them share, a table of
    methods x (dataset, IPC) and the leaderboard."""
    alike: dict[tuple[str, str, str], list[tuple[View, Group]]] = {}
    for view in views:
        for group in view.groups:
            if ipcs(view.groups[group]):
                alike.setdefault((group.evaluator, group.protocol, group.labels), []).append((view, group))
    several = [members for members in alike.values() if len({group.dataset for _, group in members}) > 1]
    return [*leaderboards(views), *(_side_by_side(members) for members in several)]


def _side_by_side(members: Sequence[tuple[View, Group]]) -> Table:
    view, first = members[0]
    every = [cell for v, group in members for cell in v.groups[group]]
    n = usual_seeds(every)
    columns = [(v, group, ipc) for v, group in members for ipc in ipcs(v.groups[group])]
    verdicts = {(g, ipc): judge([c for c in v.groups[g] if c.ipc == ipc]) for v, g, ipc in columns}
    rows = []
    for method in methods(every):
        shown = []
        for v, group, ipc in columns:
            cell = find(v.groups[group], method, ipc)
            absent = TableCell(DASH, data={"status": "absent"})
            shown.append(absent if cell is None else accuracy_cell(cell, v, verdicts[group, ipc], n))
        rows.append(TableRow(TableCell(view.say(method)), tuple(shown), reference=method == RANDOM))
    heads = tuple((f"{view.say(group.dataset)} ({group.shape})", len(ipcs(v.groups[group]))) for v, group in members)
    fulls = [(find(v.groups[group], FULL, None), v, count) for (v, group), (_, count) in zip(members, heads, strict=True)]
    if any(full is not None for full, _, _ in fulls):
        cells = tuple(TableCell(DASH, span=count) if full is None else full_cell(full, v, count) for full, v, count in fulls)
        rows.append(TableRow(TableCell(view.names.get(FULL, "full (whole training split)")), cells, reference=True))
    rows += published_rows(replace(view, published=[n for v, _ in members for n in v.published]), [(g, ipc) for _, g, ipc in columns])
    told = told_apart({f"{view.say(group.dataset)} IPC {ipc}": verdict for (group, ipc), verdict in verdicts.items()})
    made = " ".join(part for part in (asset_words(every, view), device_words(every)) if part)
    said = f"Top-1 test accuracy in %, {spread_words(n)}{told} {made}"
    where = ", ".join(dict.fromkeys(view.say(group.dataset) for _, group in members))
    return Table(
        name=slug(f"datasets-{first.evaluator}-{first.protocol}-{first.labels}"),
        title=f"{where}: {view.say(first.evaluator)}, protocol {first.protocol}, {first.labels} labels",
        corner="method",
        columns=tuple(f"IPC {ipc}" for _, _, ipc in columns),
        rows=tuple(rows),
        caption=said,
        across="dataset, IPC",
        heads=heads,
        compact=True,
    )


def leaderboards(views: Sequence[View]) -> list[Table]:
    """All datasets of one protocol and label mode in one ranking; none where there is one dataset."""
    alike: dict[tuple[str, str], list[View]] = {}
    for view in views:
        alike.setdefault((view.first.protocol, view.first.labels), []).append(view)
    return [_leaderboard(members) for members in alike.values() if len({v.first.dataset for v in members}) > 1]


def _leaderboard(views: Sequence[View]) -> Table:
    """Accuracy per dataset averaged over the (evaluator, IPC) that all its methods finished, and the mean of the ranks."""
    view = views[0]
    names = methods([cell for v in views for cell in v.cells])
    means = [_dataset_means(v) for v in views]
    everywhere = [m for m in names if all(m in found for found in means)]
    ranks: Mapping[str, float] = {}
    if len(everywhere) > 1:
        scores = np.array([[found[m] for m in everywhere] for found in means])
        ranks = dict(zip(everywhere, average_ranks(scores).tolist(), strict=True))
    order = sorted(names, key=lambda m: (ranks.get(m, np.inf), names.index(m)))
    rows = []
    for method in order:
        shown = []
        for v, found in zip(views, means, strict=True):
            value = found.get(method)
            keys = tuple(key for cell in v.cells if cell.method == method for key in cell.keys)
            gain = f"{points(value - found[RANDOM])} to random" if value is not None and method != RANDOM and RANDOM in found else ""
            text = DASH if value is None else percent(value, v.digits)
            shown.append(TableCell(text, details=(gain,) if gain else (), data={"value": value}, records=keys))
        rank = ranks.get(method)
        shown.append(TableCell(DASH if rank is None else f"{rank:.2f}", data={"value": rank}))
        rows.append(TableRow(TableCell(view.say(method)), tuple(shown), reference=method == RANDOM))
    return Table(
        name=slug(f"leaderboard-{view.first.protocol}-{view.first.labels}"),
        title=f"Leaderboard: protocol {view.first.protocol}, {view.first.labels} labels",
        corner="method",
        columns=(*(f"{v.say(v.first.dataset)} ({v.first.shape})" for v in views), "mean rank"),
        rows=tuple(rows),
        caption=(
            "Mean top-1 test accuracy in % over the evaluators and IPC at which every method of a dataset has a "
            "result (a method with none of "
            f"them has a dash); mean rank over the {len(views)} datasets of the methods that are in all of them. "
            "Datasets are few, so no test "
            "separates these ranks."
        ),
        across="dataset",
    )


def _dataset_means(view: View) -> dict[str, float]:
    """Method -> mean accuracy over the (evaluator, IPC) that most methods have, all of them."""
    table: dict[str, dict[tuple[str, int], float]] = {}
    for cell in view.cells:
        if cell.ipc is not None and cell.mean is not None:
            table.setdefault(cell.method, {})[cell.group.evaluator, cell.ipc] = cell.mean
    if not table:
        return {}
    wanted = set.intersection(*(set(found) for found in table.values()))
    if not wanted:
        wanted = set(table[max(table, key=lambda m: len(table[m]))])
    return {m: float(np.mean([found[k] for k in sorted(wanted)])) for m, found in table.items() if wanted <= set(found)}


def cross_tables(view: View) -> list[Table]:
    """Does a set teach other networks too? Methods x evaluators for each IPC, with the drop from the first evaluator to the others."""
    if len(view.groups) < 2:
        return []
    return [table for ipc in ipcs(view.cells) if (table := _cross_table(view, ipc)) is not None]


def _cross_table(view: View, ipc: int) -> Table | None:
    groups = [g for g, cells in view.groups.items() if any(c.ipc == ipc and c.mean is not None for c in cells)]
    if len(groups) < 2:
        return None
    columns = {g: [c for c in view.groups[g] if c.ipc == ipc] for g in groups}
    verdicts = {g: judge(cells) for g, cells in columns.items()}
    every = [cell for cells in columns.values() for cell in cells]
    n, rows = usual_seeds(every), []
    for method in methods(every):
        cells = [find(columns[g], method, ipc) for g in groups]
        shown = [
            TableCell(DASH, notes=("not run",), data={"status": "absent"}) if cell is None else accuracy_cell(cell, view, verdicts[g], n)
            for g, cell in zip(groups, cells, strict=True)
        ]
        rows.append(TableRow(TableCell(view.say(method)), (*shown, _drop(cells)), reference=method == RANDOM))
    fulls = [find(view.groups[g], FULL, None) for g in groups]
    if any(full is not None and full.mean is not None for full in fulls):
        shown = [TableCell(DASH) if full is None else full_cell(full, view, 1) for full in fulls]
        rows.append(TableRow(TableCell(view.names.get(FULL, "full")), (*shown, _drop(fulls)), reference=True))
    told = told_apart({view.say(g.evaluator): verdict for g, verdict in verdicts.items()})
    home = view.say(groups[0].evaluator)
    return Table(
        name=f"cross-{view.first.stem}-ipc{ipc}",
        title=f"Across architectures at IPC {ipc}: {view.title}",
        corner="method",
        columns=(*(view.say(g.evaluator) for g in groups), "drop"),
        rows=tuple(rows),
        caption=(
            f"Top-1 test accuracy in %, {spread_words(n)} Drop: accuracy on {home} minus the mean over the other "
            "networks in points, paired by "
            f"seed. Every network trains on the same sets.{told} {asset_words(every, view)} {device_words(every)}"
        ),
        across="evaluator",
        compact=True,
    )


def _drop(cells: Sequence[CellResult | None]) -> TableCell:
    """First minus the mean of the others, over the seeds that all of them finished."""
    known = [cell for cell in cells if cell is not None and cell.accuracy]
    seeds = set.intersection(*(set(cell.accuracy) for cell in known)) if len(known) == len(cells) else set()
    if not seeds:
        return TableCell(DASH, data={"drop": None})
    home, *others = known
    drops = [home.accuracy[s] - float(np.mean([cell.accuracy[s] for cell in others])) for s in sorted(seeds)]
    spread = f" ± {percent(float(np.std(drops, ddof=1)))}" if len(drops) > 1 else ""
    return TableCell(f"{points(float(np.mean(drops)))}{spread}", data={"drop": float(np.mean(drops))})


def ablation_tables(view: View) -> list[Table]:
    """For every method that ran with other parameters too: what each change did, in words. Evaluators are averaged."""
    names = methods([cell for cell in view.cells if cell.n])
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.partition("[")[0], []).append(name)
    return [_ablation(view, base, members) for base, members in families.items() if base in members and len(members) > 1]


def _ablation(view: View, base: str, members: Sequence[str]) -> Table:
    budgets = ipcs([cell for cell in view.cells if cell.method in members])
    variants = [m for m in members if m != base]
    parts = {m: shared_blocks([block_differences(cells, m, base) for cells in view.groups.values()]) for m in variants}
    tests = dict(zip(variants, pair_cells([list(parts[m].values()) for m in variants]), strict=True))
    rows = []
    for method in (base, *variants):
        shown = [_pooled(view, method, ipc) for ipc in budgets]
        keys = tuple(key for cell in view.cells if cell.method in (method, base) for key in cell.keys)
        last = TableCell("") if method == base else replace(tests[method], records=keys)
        rows.append(TableRow(TableCell(view.say(method)), (*shown, last), reference=method == base))
    return Table(
        name=slug(f"ablation-{base}-{view.first.stem}"),
        title=f"Variants of {view.say(base)}: {view.title}",
        corner="variant",
        columns=(*(f"IPC {ipc}" for ipc in budgets), f"against {view.say(base)}"),
        rows=tuple(rows),
        caption=(
            f"Top-1 test accuracy in %, averaged over {', '.join(view.say(g.evaluator) for g in view.groups)}, ± "
            "sample standard deviation over "
            f"seeds. Against {view.say(base)}: mean difference in points over blocks of (IPC, seed); sign-flip test, "
            "Holm over the variants; "
            f"bold where p ≤ 0.05. {device_words(view.cells)}"
        ),
        across="IPC",
    )


def _pooled(view: View, method: str, ipc: int) -> TableCell:
    """A method at one IPC with its evaluators averaged within each seed."""
    found = [cell for cells in view.groups.values() if (cell := find(cells, method, ipc)) is not None and cell.accuracy]
    seeds = sorted(set.intersection(*(set(cell.accuracy) for cell in found))) if found else []
    if not seeds:
        return TableCell(DASH, data={"accuracy": None})
    values = [float(np.mean([cell.accuracy[s] for cell in found])) for s in seeds]
    spread = f" ± {percent(float(np.std(values, ddof=1)), view.digits)}" if len(values) > 1 else ""
    data = {"accuracy": float(np.mean(values)), "n": len(values)}
    return TableCell(
        f"{percent(float(np.mean(values)), view.digits)}{spread}", data=data, records=tuple(key for cell in found for key in cell.keys)
    )
