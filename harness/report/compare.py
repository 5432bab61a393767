"""Paired comparisons over many cells: against random, of every pair of methods, and by rank.

A block is one (IPC, seed): all evaluators trained on one distilled set belong to one block, because they share that set. Blocks of one
dataset are alike in their data, so a p-value speaks of this dataset alone.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.report.cells import ALPHA, FULL, RANDOM, CellResult, Group, find, ipcs, methods
from harness.report.figures import Picture, rank_figure
from harness.report.statistics import (
    average_ranks,
    critical_difference,
    friedman,
    holm,
    mcnemar,
    sign_flip,
    smallest_sign_flip_p,
)
from harness.report.tables import DASH, Cell, Row, Table
from harness.report.words import p_value, points

MIN_BLOCKS, MIN_METHODS = 6, 3
"""Below these a critical-difference diagram is refused: with fewer blocks hardly any difference could show."""

Groups = Mapping[Group, Sequence[CellResult]]


def block_differences(cells: Sequence[CellResult], method: str, other: str) -> dict[tuple[int, int], float]:
    """(IPC, seed) -> accuracy of ``method`` minus that of ``other``, where both are done."""
    found: dict[tuple[int, int], float] = {}
    for ipc in ipcs(cells):
        a, b = find(cells, method, ipc), find(cells, other, ipc)
        if a is not None and b is not None:
            found |= {(ipc, seed): value - b.accuracy[seed] for seed, value in a.accuracy.items() if seed in b.accuracy}
    return found


def gains_table(groups: Groups, words: Mapping[str, str]) -> Table | None:
    """Every method against random, pooled over IPC and seeds; None where random is missing or alone. Groups differ in the evaluator."""
    names = [m for m in methods([cell for cells in groups.values() for cell in cells]) if m != RANDOM]
    per_group = {group: {m: block_differences(cells, m, RANDOM) for m in names} for group, cells in groups.items()}
    if not any(blocks for by_method in per_group.values() for blocks in by_method.values()):
        return None
    columns = [(group.evaluator, per_group[group]) for group in groups]
    if len(groups) > 1:
        columns.append(("all evaluators", {m: _shared_blocks([by_method[m] for by_method in per_group.values()]) for m in names}))
    rendered = [_gain_column(by_method, names) for _, by_method in columns]
    keys = {m: tuple(key for cells in groups.values() for c in cells if c.method in (m, RANDOM) for key in c.keys) for m in names}
    rows = tuple(Row(Cell(words.get(m, m)), tuple(_with_records(column[i], keys[m]) for column in rendered)) for i, m in enumerate(names))
    first = next(iter(groups))
    return Table(
        name=f"gains-{first.stem}",
        title=f"Against random, all budgets pooled: {first.dataset} ({first.shape}), protocol {first.protocol}, {first.labels} labels",
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


def pairwise_table(group: Group, cells: Sequence[CellResult], words: Mapping[str, str]) -> Table | None:
    """Row minus column for every pair of methods, pooled over IPC and seeds; None for fewer than three methods with results."""
    names = [m for m in methods(cells) if any(cell.n for cell in cells if cell.method == m)]
    if len(names) < MIN_METHODS:
        return None
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    differences = {pair: list(block_differences(cells, *pair).values()) for pair in pairs}
    ps = [sign_flip(d) if smallest_sign_flip_p(len(d)) <= ALPHA else None for d in differences.values()]
    adjusted = dict(zip(pairs, holm(ps), strict=True))
    rows = []
    for a in names:
        shown = []
        for b in names[1:]:
            if (a, b) not in differences:
                shown.append(Cell())
                continue
            shown.append(_pair_cell(differences[a, b], adjusted[a, b], _networks_p(cells, a, b)))
        rows.append(Row(Cell(words.get(a, a)), tuple(shown)))
    keys = tuple(key for cell in cells if cell.ipc is not None for key in cell.keys)
    rows = [Row(row.label, tuple(_with_records(cell, keys) if cell.text else cell for cell in row.cells)) for row in rows[:-1]]
    return Table(
        name=f"pairs-{group.name}",
        title=f"Row minus column, all budgets pooled: {group.title}",
        corner="method",
        columns=tuple(words.get(m, m) for m in names[1:]),
        rows=tuple(rows),
        caption=(
            "Mean difference of accuracy in points over blocks of (IPC, seed); sign-flip permutation test, Holm-corrected over all pairs; "
            f"bold where p ≤ {ALPHA}. Where the seeds are too few, the exact McNemar test over the test clips of single networks is given "
            "instead where there is one pair of them: it speaks of these two networks, not of the methods."
        ),
        across="other",
    )


def rank_table(groups: Groups, words: Mapping[str, str]) -> tuple[Table, Picture] | str | None:
    """Mean ranks with Nemenyi's critical difference over complete blocks of (evaluator, IPC).

    None for fewer than three methods; with too few complete blocks, the sentence that says why it is refused.
    """
    all_cells = [cell for cells in groups.values() for cell in cells if cell.method != FULL]
    names = [m for m in methods(all_cells) if any(cell.mean is not None for cell in all_cells if cell.method == m)]
    blocks: list[list[float]] = []
    for cells in groups.values():
        for ipc in ipcs(cells):
            found = [find(cells, method, ipc) for method in names]
            means = [cell.mean for cell in found if cell is not None and cell.mean is not None]
            if len(means) == len(names):
                blocks.append(means)
    if len(names) < MIN_METHODS:
        return None
    if len(blocks) < MIN_BLOCKS:
        return (
            f"No critical-difference diagram: it needs {MIN_BLOCKS} blocks of (evaluator, IPC) in which every method has a result; "
            f"there {'is' if len(blocks) == 1 else 'are'} {len(blocks)}."
        )
    scores = np.array(blocks)
    ranks = dict(zip(names, average_ranks(scores).tolist(), strict=True))
    difference, p = critical_difference(len(names), len(blocks)), friedman(scores)
    first = next(iter(groups))
    caption = (
        f"Mean rank over {len(blocks)} complete blocks of (evaluator, IPC), accuracy averaged over seeds; Friedman {p_value(p)}; critical "
        f"difference {difference:.2f} (Nemenyi, α = {ALPHA}). Blocks of one dataset are correlated: the ranks hold here, not in general."
    )
    title = f"Ranks: {first.dataset} ({first.shape}), protocol {first.protocol}, {first.labels} labels"
    keys = {m: tuple(key for cell in all_cells if cell.method == m for key in cell.keys) for m in names}
    wins = {m: int(np.sum(scores[:, i] >= scores.max(axis=1))) for i, m in enumerate(names)}
    order = sorted(names, key=lambda m: ranks[m])
    rows = tuple(
        Row(
            Cell(words.get(m, m)),
            (
                Cell(f"{ranks[m]:.2f}", bold=ranks[m] - ranks[order[0]] <= difference, data={"value": ranks[m]}, records=keys[m]),
                Cell(f"{wins[m]} of {len(blocks)}", data={"value": wins[m]}, records=keys[m]),
            ),
        )
        for m in order
    )
    table = Table(f"ranks-{first.stem}", title, "method", ("mean rank", "best in"), rows, caption)
    return table, rank_figure(f"ranks-{first.stem}", title, ranks, difference, caption, words)


def correct_bits(row: Mapping[str, object]) -> np.ndarray | None:
    """Per-clip correctness of one tested network as booleans in test-clip order; None where it was not recorded.

    The record packs eight clips to a byte, so up to seven bits of padding follow the last clip; they are False for every network.
    """
    text = row.get("correct")
    if not isinstance(text, str):
        return None
    try:
        return np.unpackbits(np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)).astype(bool)
    except (binascii.Error, ValueError):
        return None


def _shared_blocks(parts: Sequence[dict[tuple[int, int], float]]) -> dict[tuple[int, int], float]:
    """Mean over the evaluators of each block that all evaluators with any block have."""
    parts = [part for part in parts if part]
    if not parts:
        return {}
    shared = set(parts[0]).intersection(*parts[1:])
    return {block: float(np.mean([part[block] for part in parts])) for block in sorted(shared)}


def _gain_column(by_method: Mapping[str, dict[tuple[int, int], float]], names: Sequence[str]) -> list[Cell]:
    values = [list(by_method[m].values()) for m in names]
    adjusted = holm([sign_flip(d) if smallest_sign_flip_p(len(d)) <= ALPHA else None for d in values])
    return [_pair_cell(d, p, None) for d, p in zip(values, adjusted, strict=True)]


def _pair_cell(differences: Sequence[float], p: float | None, networks: float | None) -> Cell:
    if not differences:
        return Cell(DASH, notes=("no shared block",), data={"difference": None})
    mean = float(np.mean(differences))
    wins = sum(d > 0 for d in differences)
    test = p_value(p) if p is not None else "n too small" if networks is None else f"McNemar {p_value(networks)}"
    return Cell(
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
    rows = [next((r for c in cells if c.method == m and c.ipc == ipc for r in c.done if int(r["seed"]) == seed), {}) for m in (a, b)]
    bits = [correct_bits(row) for row in rows]
    if bits[0] is None or bits[1] is None or bits[0].shape != bits[1].shape:
        return None
    return mcnemar(bits[0], bits[1])


def _with_records(cell: Cell, records: tuple[str, ...]) -> Cell:
    return replace(cell, records=records)
