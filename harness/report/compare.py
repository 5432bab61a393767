"""Paired comparisons over many cells: against random, of every pair of methods, and by rank.

A block is one (IPC, seed): all evaluators trained on one distilled set belong to one block, because they share that set. Blocks of one
dataset are alike in their data, so a p-value speaks of this dataset alone.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.report.cells import ALPHA, RANDOM, CellResult, View, find, ipcs, methods
from harness.report.figures import Palette, Picture, rank_figure
from harness.report.group import Group
from harness.report.statistics import (
    average_ranks,
    critical_difference,
    friedman,
    holm,
    mcnemar,
    rank_range,
    sign_flips,
    smallest_sign_flip_p,
)
from harness.report.tables import DASH, TIED, Table, TableCell, TableRow
from harness.words import p_value, points

MIN_BLOCKS, MIN_METHODS = 6, 3
"""Below these a critical-difference diagram is refused: with fewer blocks hardly any difference could show."""


RANKS_TOLD = f"Bold: the best mean rank where it is told from another; {TIED}: not told from it."


def block_differences(cells: Sequence[CellResult], method: str, other: str) -> dict[tuple[int, int], float]:
    """(IPC, seed) -> accuracy of ``method`` minus that of ``other``, where both are done."""
    found: dict[tuple[int, int], float] = {}
    for ipc in ipcs(cells):
        a, b = find(cells, method, ipc), find(cells, other, ipc)
        if a is not None and b is not None:
            found |= {(ipc, seed): value - b.accuracy[seed] for seed, value in a.accuracy.items() if seed in b.accuracy}
    return found


def gains_table(view: View) -> list[Table]:
    """Every method against random, pooled over IPC and seeds; none where random is missing or alone."""
    groups = view.groups
    names = [m for m in methods(view.cells) if m != RANDOM]
    per_group = {group: {m: block_differences(cells, m, RANDOM) for m in names} for group, cells in groups.items()}
    if not any(blocks for by_method in per_group.values() for blocks in by_method.values()):
        return []
    columns = [(view.say(group.evaluator), per_group[group]) for group in groups]
    if len(groups) > 1:
        columns.append(("all evaluators", {m: shared_blocks([by_method[m] for by_method in per_group.values()]) for m in names}))
    rendered = [pair_cells([list(by_method[m].values()) for m in names]) for _, by_method in columns]
    keys = {m: tuple(key for c in view.cells if c.method in (m, RANDOM) for key in c.keys) for m in names}
    shown = [tuple(replace(column[i], records=keys[m]) for column in rendered) for i, m in enumerate(names)]
    rows = tuple(TableRow(TableCell(view.say(m)), cells) for m, cells in zip(names, shown, strict=True))
    table = Table(
        name=f"gains-{view.first.stem}",
        title=f"Against random, all budgets pooled: {view.title}",
        corner="method",
        columns=tuple(name for name, _ in columns),
        rows=rows,
        caption=(
            "Mean difference of accuracy to random in points over blocks of (IPC, seed), and the two-sided p of an exact sign-flip "
            f"permutation test, Holm-corrected over the methods of a column; bold where p ≤ {ALPHA}. The last column averages the "
            "evaluators within a block, because they share one distilled set. n too small: no outcome of the test could reach α."
        ),
        across="evaluator",
    )
    return [table]


def pairwise_tables(view: View) -> list[Table]:
    """Row minus column for every pair of methods, pooled over IPC and seeds, for each evaluator; none for fewer than three methods."""
    tables = (_pairwise_table(view, group, cells) for group, cells in view.groups.items())
    return [table for table in tables if table is not None]


def _pairwise_table(view: View, group: Group, cells: Sequence[CellResult]) -> Table | None:
    names = [m for m in methods(cells) if any(cell.n for cell in cells if cell.method == m)]
    if len(names) < MIN_METHODS:
        return None
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    differences = {pair: list(block_differences(cells, *pair).values()) for pair in pairs}
    adjusted = dict(zip(pairs, _corrected(list(differences.values())), strict=True))
    rows = []
    for a in names:
        shown = []
        for b in names[1:]:
            if (a, b) not in differences:
                shown.append(TableCell())
                continue
            shown.append(_pair_cell(differences[a, b], adjusted[a, b], _networks_p(cells, a, b)))
        rows.append(TableRow(TableCell(view.say(a)), tuple(shown)))
    keys = tuple(key for cell in cells if cell.ipc is not None for key in cell.keys)
    rows = [TableRow(row.label, tuple(replace(cell, records=keys) if cell.text else cell for cell in row.cells)) for row in rows[:-1]]
    return Table(
        name=f"pairs-{group.name}",
        title=f"Row minus column, all budgets pooled: {view.name(group)}",
        corner="method",
        columns=tuple(view.say(m) for m in names[1:]),
        rows=tuple(rows),
        caption=(
            "Mean difference of accuracy in points over blocks of (IPC, seed); sign-flip permutation test, Holm-corrected over all pairs; "
            f"bold where p ≤ {ALPHA}. Where the seeds are too few, the exact McNemar test over the test clips of single networks is given "
            "instead where there is one pair of them: it speaks of these two networks, not of the methods."
        ),
        across="other",
    )


@dataclass(frozen=True)
class Ranks:
    """Mean rank of every method over complete blocks of (IPC, seed), best first.

    difference: Nemenyi's or, where it is larger, that of drawn ranks. p: Friedman's.
    """

    mean: Mapping[str, float]
    wins: Mapping[str, int]
    blocks: int
    evaluators: int
    difference: float
    p: float

    @property
    def caption(self) -> str:
        averaged = f", accuracy averaged over {self.evaluators} evaluators within a block" if self.evaluators > 1 else ""
        return (
            f"Mean rank over {self.blocks} complete blocks of (IPC, seed){averaged}; Friedman {p_value(self.p)}; critical difference "
            f"{self.difference:.2f} (Nemenyi, drawn where blocks are few, α = {ALPHA}). Blocks of one dataset are "
            "alike in their data: the ranks hold here, not in general."
        )


def rank_methods(view: View) -> Ranks | str | None:
    """None for fewer than three methods; with too few complete blocks, the sentence that says why there are no ranks.

    Evaluators that share a distilled set are averaged: they are no blocks of their own.
    """
    names = [m for m in methods(view.cells) if any(cell.n for cell in view.cells if cell.method == m)]
    if len(names) < MIN_METHODS:
        return None
    blocks: list[list[float]] = []
    evaluators = 0
    for ipc in ipcs(view.cells):
        columns = [cells for cells in view.groups.values() if any(cell.ipc == ipc and cell.n for cell in cells)]
        found = [[find(cells, m, ipc) for cells in columns] for m in names]
        scores = [[cell.accuracy if cell is not None else {} for cell in row] for row in found]
        seeds = set.intersection(*(set(values) for row in scores for values in row)) if columns else set()
        evaluators = max(evaluators, len(columns))
        blocks += [[float(np.mean([values[seed] for values in row])) for row in scores] for seed in sorted(seeds)]
    if len(blocks) < MIN_BLOCKS:
        return (
            f"No critical-difference diagram: it needs {MIN_BLOCKS} blocks of (IPC, seed) in which every method has a result; "
            f"there {'is' if len(blocks) == 1 else 'are'} {len(blocks)}."
        )
    table = np.array(blocks)
    ranks = dict(zip(names, average_ranks(table).tolist(), strict=True))
    wins = {m: int(np.sum(table[:, i] >= table.max(axis=1))) for i, m in enumerate(names)}
    order = sorted(names, key=lambda m: ranks[m])
    difference = max(critical_difference(len(names), len(blocks)), rank_range(len(names), len(blocks)))
    return Ranks({m: ranks[m] for m in order}, wins, len(blocks), evaluators, difference, friedman(table))


def rank_table(view: View) -> list[Table]:
    """Mean ranks, where there are enough blocks for them."""
    ranks = rank_methods(view)
    if not isinstance(ranks, Ranks):
        return []
    best = min(ranks.mean.values())
    keys = {m: tuple(key for cell in view.cells if cell.method == m for key in cell.keys) for m in ranks.mean}
    rows = tuple(
        TableRow(
            TableCell(view.say(m)),
            (
                TableCell(
                    f"{rank:.2f}",
                    bold=rank == best and max(ranks.mean.values()) - best > ranks.difference,
                    signs=TIED if rank != best and rank - best <= ranks.difference < max(ranks.mean.values()) - best else "",
                    data={"value": rank},
                    records=keys[m],
                ),
                TableCell(f"{ranks.wins[m]} of {ranks.blocks}", data={"value": ranks.wins[m]}, records=keys[m]),
            ),
        )
        for m, rank in ranks.mean.items()
    )
    return [
        Table(f"ranks-{view.first.stem}", f"Ranks: {view.title}", "method", ("mean rank", "best in"), rows, f"{ranks.caption} {RANKS_TOLD}")
    ]


def rank_picture(view: View, palette: Palette) -> Picture | None:
    """The critical-difference diagram of the same ranks; black, as these diagrams are."""
    ranks = rank_methods(view)
    if not isinstance(ranks, Ranks):
        return None
    return rank_figure(
        f"ranks-{view.first.stem}",
        f"Ranks: {view.title}",
        ranks.mean,
        ranks.difference,
        ranks.caption,
        {m: view.say(m) for m in ranks.mean},
    )


def correct_bits(packed: str | None) -> np.ndarray | None:
    """Per-clip correctness of one tested network as booleans in test-clip order; None where it was not recorded.

    packed: base64, eight clips to a byte, so up to seven bits of padding follow the last clip; they are False for every network.
    """
    if packed is None:
        return None
    try:
        return np.unpackbits(np.frombuffer(base64.b64decode(packed, validate=True), dtype=np.uint8)).astype(bool)
    except (binascii.Error, ValueError):
        return None


def shared_blocks(parts: Sequence[dict[tuple[int, int], float]]) -> dict[tuple[int, int], float]:
    """Mean over the evaluators of each block that all evaluators with any block have."""
    parts = [part for part in parts if part]
    if not parts:
        return {}
    shared = set(parts[0]).intersection(*parts[1:])
    return {block: float(np.mean([part[block] for part in parts])) for block in sorted(shared)}


def pair_cells(values: Sequence[Sequence[float]]) -> list[TableCell]:
    """A cell for each list of differences over blocks: mean and sign-flip test, Holm-corrected over all of them."""
    return [_pair_cell(d, p, None) for d, p in zip(values, _corrected(values), strict=True)]


def _corrected(values: Sequence[Sequence[float]]) -> list[float | None]:
    """Holm's p of each list of differences; None where its test could not reach alpha."""
    able = [i for i, d in enumerate(values) if smallest_sign_flip_p(len(d)) <= ALPHA]
    ps: list[float | None] = [None] * len(values)
    for i, p in zip(able, sign_flips([values[i] for i in able]), strict=True):
        ps[i] = p
    return holm(ps)


def _pair_cell(differences: Sequence[float], p: float | None, networks: float | None) -> TableCell:
    if not differences:
        return TableCell(DASH, notes=("no shared block",), data={"difference": None})
    mean = float(np.mean(differences))
    wins = sum(d > 0 for d in differences)
    test = p_value(p) if p is not None else "n too small" if networks is None else f"McNemar {p_value(networks)}"
    return TableCell(
        points(mean),
        bold=p is not None and p <= ALPHA,
        details=(f"{test}, ahead in {wins} of {len(differences)}",),
        data={"difference": mean, "p_holm": p, "blocks": len(differences), "ahead": wins, "p_mcnemar": networks},
    )


def _networks_p(cells: Sequence[CellResult], a: str, b: str) -> float | None:
    """McNemar's p where the two methods share exactly one block, so that one pair of networks is all there is."""
    blocks = list(block_differences(cells, a, b))
    if len(blocks) != 1:
        return None
    ipc, seed = blocks[0]
    packed = [next((r.correct for c in cells if c.method == m and c.ipc == ipc for r in c.done if r.seed == seed), None) for m in (a, b)]
    bits = [correct_bits(text) for text in packed]
    if bits[0] is None or bits[1] is None or bits[0].shape != bits[1].shape:
        return None
    return mcnemar(bits[0], bits[1])
