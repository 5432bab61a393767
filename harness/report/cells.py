"""Cells of the comparison: rows of one (dataset, clip shape, method, IPC, labels, evaluator, protocol), one row per seed, put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from harness import metrics
from harness.metrics import Metric
from harness.names import natural_key
from harness.record import Record
from harness.report.group import Group
from harness.report.published import Published
from harness.report.statistics import sample_std, separate
from harness.rows import Row

ALPHA = 0.05
RANDOM, FULL = "random", "full"
"""The two rows that belong to every comparison: the floor and the reference (the whole training split)."""

MISSING = "missing"
"""Status of a row that a command planned and that has no record."""


def method_order(label: str) -> tuple[int, list[Any]]:
    """Random first, then by name, the reference ``full`` last.

    >>> sorted(["full", "gvd", "dm", "random"], key=method_order)
    ['random', 'dm', 'gvd', 'full']
    """
    return ({RANDOM: 0, FULL: 2}.get(label, 1), natural_key(label))


@dataclass(frozen=True)
class CellResult:
    """One method at one IPC in one group. rows: one per seed, in seed order, of any status. ipc is None for ``full``.

    place: of the method among all, where the user gave an order; 0 is the order of names.
    """

    group: Group
    method: str
    ipc: int | None
    rows: tuple[Row, ...]
    place: int = 0

    @cached_property
    def done(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if _is_done(row))

    @cached_property
    def missing(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not _is_done(row))

    @cached_property
    def accuracy(self) -> dict[int, float]:
        """Accuracy in [0, 1] by seed."""
        return {row.seed: row.accuracy for row in self.done if row.accuracy is not None}

    @property
    def n(self) -> int:
        return len(self.done)

    @cached_property
    def mean(self) -> float | None:
        return float(np.mean(list(self.accuracy.values()))) if self.accuracy else None

    @cached_property
    def std(self) -> float | None:
        return sample_std(list(self.accuracy.values()))

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the records behind it; what was planned and not run has none."""
        return tuple(row.key for row in self.rows if row.status != MISSING)

    @property
    def declared(self) -> tuple[Metric, ...]:
        """What plugins recorded of the finished seeds, each name once."""
        found: dict[str, Metric] = {}
        for row in self.done:
            for metric in row.declared:
                found.setdefault(metric.name, metric)
        return tuple(found.values())

    def values(self, name: str) -> list[float]:
        """The measured values of a metric over the finished seeds."""
        return [value for row in self.done if (value := row.value(name)) is not None]

    def aggregate(self, name: str) -> float | None:
        """The finished seeds in one number, as the metric says: their mean, or the largest (a peak is not averaged). None: unmeasured."""
        values = self.values(name)
        if not values:
            return None
        metric = metrics.BY_NAME.get(name) or next((m for m in self.declared if m.name == name), Metric(name))
        return max(values) if metric.aggregate == "max" else sum(values) / len(values)

    def differences(self, other: CellResult) -> list[float]:
        """Accuracy of this minus the other's, over the seeds that both finished, in seed order."""
        return [self.accuracy[seed] - other.accuracy[seed] for seed in sorted(self.accuracy) if seed in other.accuracy]


@dataclass(frozen=True)
class View:
    """What one section of a report is made of; every table and figure of it is a function of this.

    groups: differ in the evaluator alone. words: method label -> what to call it. records: all of the store, by key.
    marks: key of a row -> footnotes on the code that made it. published: numbers of papers on this dataset. digits: decimals of accuracies
    in %. columns: names of the metrics that tables of metrics show; empty: all that were measured. names: label -> what the user calls it.
    beside: the cells of this dataset and clip shape under any protocol and labels.
    """

    groups: Mapping[Group, Sequence[CellResult]]
    words: Mapping[str, str] = field(default_factory=dict)
    records: Mapping[str, Record] = field(default_factory=dict)
    marks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    published: Sequence[Published] = ()
    digits: int = 1
    columns: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[CellResult] = ()

    @property
    def first(self) -> Group:
        return next(iter(self.groups))

    @cached_property
    def cells(self) -> list[CellResult]:
        """The cells of all groups."""
        return [cell for cells in self.groups.values() for cell in cells]

    @property
    def title(self) -> str:
        """What all groups share."""
        return f"{self.say(self.first.dataset)} ({self.first.shape}), protocol {self.first.protocol}, {self.first.labels} labels"

    def name(self, group: Group) -> str:
        """The title of a group, in the names that the user gave."""
        return replace(group, dataset=self.say(group.dataset), evaluator=self.say(group.evaluator)).title

    def say(self, label: str) -> str:
        """What a method, dataset or evaluator is called."""
        return self.names.get(label, self.words.get(label, label))


def gather(rows: Iterable[Row], order: Sequence[str] = ()) -> dict[Group, list[CellResult]]:
    """Rows -> cells by group; groups, methods and IPC in natural order. order: methods that come first, as the user wants them.

    ``full`` joins every label mode of its evaluator and protocol. The group of native labels is completed by the hard-label cells of
    methods that have no labels of their own: their own labels are the hard ones.
    """
    found: dict[tuple[Group, str, int | None], list[Row]] = {}
    for row in rows:
        group = Group(row.dataset_label, row.shape, row.evaluator_label, row.protocol, row.labels)
        found.setdefault((group, row.method_label, row.ipc), []).append(row)
    places = {method: i - len(order) for i, method in enumerate(order)}
    cells = [CellResult(g, m, i, tuple(sorted(seeds, key=lambda r: r.seed)), places.get(m, 0)) for (g, m, i), seeds in found.items()]
    groups: dict[Group, list[CellResult]] = {}
    for cell in cells:
        if cell.ipc is not None:
            groups.setdefault(cell.group, []).append(cell)
    for group, members in groups.items():
        if group.labels == "native":
            own = {cell.method for cell in members}
            members += [c for c in groups.get(replace(group, labels="hard"), ()) if c.method not in own]
    for cell in cells:
        if cell.ipc is None:
            for group in [g for g in groups if g.reference == cell.group.reference] or [cell.group]:
                groups.setdefault(group, []).append(cell)
    sequence = sorted(groups, key=lambda g: [natural_key(part) for part in (g.dataset, g.shape, g.protocol, g.labels, g.evaluator)])
    return {g: sorted(groups[g], key=lambda c: (_cell_order(c), c.ipc or 0)) for g in sequence}


def find(cells: Iterable[CellResult], method: str, ipc: int | None) -> CellResult | None:
    """The cell of this method and IPC, or None. ``full`` has IPC None."""
    return next((cell for cell in cells if cell.method == method and cell.ipc == ipc), None)


def merge_evaluators(cells: Iterable[CellResult], method: str, ipc: int) -> CellResult | None:
    """The cells of one method and IPC on several evaluators as one, a row for each distilled set: a set is not counted per evaluator."""
    found = [cell for cell in cells if cell.method == method and cell.ipc == ipc]
    rows = {row.distill_key: row for cell in found for row in (*cell.missing, *cell.done)}
    return replace(found[0], rows=tuple(rows.values())) if found else None


def ipcs(cells: Iterable[CellResult]) -> list[int]:
    return sorted({cell.ipc for cell in cells if cell.ipc is not None})


def methods(cells: Iterable[CellResult]) -> list[str]:
    """Labels of the methods of the budget, without ``full``, in report order."""
    return list(dict.fromkeys(cell.method for cell in sorted(cells, key=_cell_order) if cell.method != FULL))


def _cell_order(cell: CellResult) -> tuple[bool, int, tuple[int, list[Any]]]:
    return (cell.ipc is None, cell.place, method_order(cell.method))


@dataclass(frozen=True)
class Verdict:
    """What one column says about its methods, all of it together with an error of ALPHA.

    best: the highest mean, where it can be told from any other method, else None. tied: what cannot be told from that best. above: what is
    told to be better than random. least: the smallest difference that these seeds could show; None where there is no test, and ``why``.
    seeds: how many all judged methods share. unjudged: methods that share too few.
    """

    best: str | None = None
    tied: frozenset[str] = frozenset()
    above: frozenset[str] = frozenset()
    least: float | None = None
    seeds: int = 0
    unjudged: tuple[str, ...] = ()
    why: str = ""


def judge(column: Sequence[CellResult]) -> Verdict:
    """Judge the cells of one IPC in one group, over the seeds that all its methods share (``statistics.separate``).

    Methods that leave fewer than two shared seeds are left out, those with the fewest seeds first.
    """
    alive = sorted((cell for cell in column if cell.mean is not None), key=lambda cell: -len(cell.accuracy))
    if len(alive) < 2:
        return Verdict()
    judged = list(alive)
    while len(judged) > 1 and len(_shared(judged)) < 2:
        judged.pop()
    left_out = tuple(cell.method for cell in alive if cell not in judged)
    if len(judged) < 2:
        return Verdict(unjudged=left_out, why="fewer than two seeds are shared")
    seeds = _shared(judged)
    found = separate(np.array([[cell.accuracy[seed] for cell in judged] for seed in seeds]), ALPHA)
    if found is None:
        return Verdict(seeds=len(seeds), unjudged=left_out, why="the seeds do not differ")
    names = [cell.method for cell in judged]
    top = int(found.means.argmax())
    random = names.index(RANDOM) if RANDOM in names else None
    above = [] if random is None else [m for i, m in enumerate(names) if found.apart[i, random] and found.means[i] > found.means[random]]
    told = bool(found.apart[top].any())
    return Verdict(
        best=names[top] if told else None,
        tied=frozenset(m for i, m in enumerate(names) if told and i != top and not found.apart[top, i]),
        above=frozenset(above),
        least=found.least,
        seeds=len(seeds),
        unjudged=left_out,
    )


def _shared(cells: Sequence[CellResult]) -> list[int]:
    """The seeds that all of them finished."""
    return sorted(set(cells[0].accuracy).intersection(*(cell.accuracy for cell in cells[1:])))


def _is_done(row: Row) -> bool:
    return row.status == "done" and row.accuracy is not None
