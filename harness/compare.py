"""Two results against each other: two folders, two methods of one, or one folder before and after a moment or a change of code.
Imports no torch.

Differences are B minus A, paired by seed: the training seed of an evaluator does not depend on the method, nor on the folder. A cell is
tested by a paired t-test over its shared seeds; pooled, blocks of (IPC, seed) by a sign-flip test, their evaluators averaged, because they
share one distilled set. All tests of one kind are corrected together (Holm).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from harness.errors import UsageError, did_you_mean
from harness.record import Record
from harness.report.cells import ALPHA
from harness.report.load import Results, load
from harness.report.statistics import holm, paired_t, sign_flip, smallest_sign_flip_p, t_interval
from harness.report.tables import DASH, Table, TableCell, TableRow, to_markdown
from harness.report.versions import Lineage, superseded
from harness.rows import Row, cell_rows
from harness.store import Store
from harness.words import p_value, points


@dataclass(frozen=True)
class Where:
    """One cell of the comparison; method is empty where two methods are compared. ipc is None for ``full`` and for pooled blocks."""

    dataset: str
    shape: str
    protocol: str
    labels: str
    method: str
    ipc: int | None
    evaluator: str

    def say(self, without: Iterable[str] = ()) -> str:
        """For people; without the fields of these names."""
        words = {
            "method": self.method,
            "ipc": "" if self.ipc is None else f"IPC {self.ipc}",
            "evaluator": self.evaluator,
            "labels": f"{self.labels} labels",
            "dataset": f"{self.dataset} {self.shape}",
            "protocol": f"protocol {self.protocol}",
        }
        return ", ".join(text for name, text in words.items() if text and name not in without)

    def __str__(self) -> str:
        return self.say()


@dataclass(frozen=True)
class Difference:
    """B minus A of one cell, or pooled (evaluator empty), in accuracy.

    differences: one for each shared seed, or block. p: as measured; None where n is too small. adjusted: Holm's. notes: what else differs.
    """

    where: Where
    differences: tuple[float, ...]
    a: float
    b: float
    p: float | None
    adjusted: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % Student-t interval of the mean; None for one difference."""
        return t_interval(self.differences)

    @property
    def outcome(self) -> tuple[int, int, int]:
        """How often B is ahead, equal to the digit, behind."""
        return sum(d > 0 for d in self.differences), sum(d == 0 for d in self.differences), sum(d < 0 for d in self.differences)

    @property
    def significant(self) -> bool:
        return self.adjusted is not None and self.adjusted <= ALPHA


@dataclass(frozen=True)
class Comparison:
    """a, b: what the sides are called. missing: (side, cell, seeds) of what the other side has finished and this one has not."""

    a: str
    b: str
    cells: tuple[Difference, ...]
    pooled: tuple[Difference, ...]
    missing: tuple[tuple[str, Where, tuple[int, ...]], ...]

    def regressions(self, limit: float) -> list[Difference]:
        """Where B is significantly worse, by more than ``limit`` points."""
        return [d for d in (*self.pooled, *self.cells) if d.significant and d.mean < -limit / 100]


def compare_folders(a: Store, b: Store) -> Comparison:
    """Every cell of one results folder against the same cell of another."""
    return _compare(_name(a), load(a).rows, _name(b), load(b).rows, _where)


def compare_methods(store: Store, first: str, second: str) -> Comparison:
    """Two methods of one results folder; the second minus the first."""
    rows = load(store).rows
    known = sorted({row.method_label for row in rows})
    for label in (first, second):
        if label not in known:
            raise UsageError(f"no results of method {label!r} in {store.shown}{did_you_mean(label, known)}")
    sides = ([row for row in rows if row.method_label == label] for label in (first, second))
    return _compare(first, next(sides), second, next(sides), lambda row: replace(_where(row), method=""))


def compare_times(store: Store, moment: str) -> Comparison:
    """One results folder before and since a moment (ISO 8601, UTC where it does not say): what a change of code did to its cells."""
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        raise UsageError(f"--since {moment!r} is no date; write 2026-11-25 or 2026-11-25T14:00") from None
    results = load(store)
    cut = parsed.timestamp() if parsed.tzinfo else datetime.fromisoformat(f"{parsed.isoformat()}+00:00").timestamp()

    def since(record: Record) -> bool:
        return datetime.fromisoformat(record.provenance.ended_at).timestamp() >= cut

    before = _rows_where(results, lambda record: not since(record))
    return _compare(f"before {moment}", before, f"since {moment}", _rows_where(results, since), _where)


def compare_codes(store: Store) -> Comparison:
    """What a change of code did to the cells of one results folder: the newest makings against those by the code before."""
    results = load(store)
    done = [r for r in results.records.values() if r.kind == "evaluate" and r.status == "done"]
    newest: dict[str, Record] = {}
    older: dict[str, Record] = {}
    for record in sorted(done, key=lambda r: (r.provenance.ended_at, r.key)):
        if (present := newest.get(record.identity)) is not None:
            older[record.identity] = present
        newest[record.identity] = record
    if not older:
        raise UsageError(f"no cell of {_name(store)} was made by two versions of the code")
    rows = {row.key: row for row in cell_rows(results.records)}
    a, b = [rows[r.key] for r in older.values()], [rows[newest[identity].key] for identity in older]
    lineage = Lineage(results.records)
    changed: dict[Where, set[str]] = {}
    for identity, record in older.items():
        then, now = lineage.codes(record), lineage.codes(newest[identity])
        differ = [(kind, name) for kind, name in then if then[kind, name] != now.get((kind, name))]
        what = {f"the harness for {kind}" if name == "harness" else name for kind, name in differ}
        changed.setdefault(_where(rows[record.key]), set()).update(what)
    found = _compare("older code", a, "newest code", b, _where)
    cells = (replace(d, notes=(*(f"other code of {name}" for name in sorted(changed[d.where])), *d.notes)) for d in found.cells)
    return replace(found, cells=tuple(cells))


def _rows_where(results: Results, chosen: Callable[[Record], bool]) -> list[Row]:
    """Rows of the newest version of each cell among the evaluations that are chosen; what they rest on may be of any age."""
    records: Mapping[str, Record] = {key: r for key, r in results.records.items() if r.kind != "evaluate" or chosen(r)}
    old = superseded(records)
    return cell_rows({key: record for key, record in records.items() if key not in old})


def _name(store: Store) -> str:
    return store.shown.rstrip("/")


def _where(row: Row) -> Where:
    return Where(row.dataset_label, row.shape, row.protocol, row.labels, row.method_label, row.ipc, row.evaluator_label)


def _compare(name_a: str, rows_a: Iterable[Row], name_b: str, rows_b: Iterable[Row], where: Callable[[Row], Where]) -> Comparison:
    a, b = _by_cell(rows_a, where), _by_cell(rows_b, where)
    if not a or not b:
        raise UsageError(f"{name_a if not a else name_b} has no finished cell to compare")
    order = [cell for cell in a if cell in b]
    if not order:
        raise UsageError(f"{name_a} and {name_b} share no cell: {next(iter(a))}, but {next(iter(b))}")
    cells = []
    for cell in order:
        shared = [seed for seed in a[cell] if seed in b[cell]]
        if shared:
            ones, others = [a[cell][s] for s in shared], [b[cell][s] for s in shared]
            cells.append(_difference(cell, _accuracies(ones), _accuracies(others), paired_t, _notes(ones, others)))
    missing = [(name_b, *lacked) for lacked in _missing(a, b)] + [(name_a, *lacked) for lacked in _missing(b, a)]
    return Comparison(name_a, name_b, _corrected(cells), _corrected(_pool(a, b, order)), tuple(missing))


def _by_cell(rows: Iterable[Row], where: Callable[[Row], Where]) -> dict[Where, dict[int, Row]]:
    """Finished rows by cell and seed."""
    found: dict[Where, dict[int, Row]] = {}
    for row in rows:
        if row.status == "done" and row.accuracy is not None:
            found.setdefault(where(row), {})[row.seed] = row
    return found


def _pool(a: Mapping[Where, Mapping[int, Row]], b: Mapping[Where, Mapping[int, Row]], order: Sequence[Where]) -> list[Difference]:
    """A method on a dataset over all budgets and seeds, the evaluators of a block averaged; ``full`` is no method of a budget."""
    blocks: dict[Where, dict[tuple[int, int], list[tuple[float, float]]]] = {}
    for cell in order:
        if cell.ipc is not None:
            pool = blocks.setdefault(replace(cell, ipc=None, evaluator=""), {})
            for seed in a[cell]:
                if seed in b[cell]:
                    both = _accuracies([a[cell][seed], b[cell][seed]])
                    pool.setdefault((cell.ipc, seed), []).append((both[0], both[1]))
    found = []
    for where, members in blocks.items():
        if members:
            means = [np.mean(pairs, axis=0) for pairs in members.values()]
            found.append(_difference(where, [float(m[0]) for m in means], [float(m[1]) for m in means], _sign_flip, ()))
    return found


def _difference(
    where: Where, a: Sequence[float], b: Sequence[float], test: Callable[[Sequence[float]], float | None], notes: tuple[str, ...]
) -> Difference:
    differences = tuple(y - x for x, y in zip(a, b, strict=True))
    return Difference(where, differences, float(np.mean(a)), float(np.mean(b)), test(differences), notes=notes)


def _sign_flip(differences: Sequence[float]) -> float | None:
    return sign_flip(differences) if smallest_sign_flip_p(len(differences)) <= ALPHA else None


def _corrected(found: Sequence[Difference]) -> tuple[Difference, ...]:
    return tuple(replace(d, adjusted=p) for d, p in zip(found, holm([d.p for d in found]), strict=True))


def _accuracies(rows: Sequence[Row]) -> list[float]:
    return [row.accuracy for row in rows if row.accuracy is not None]


def _notes(a: Sequence[Row], b: Sequence[Row]) -> tuple[str, ...]:
    """What else than the result differs between the two sides of a cell."""
    looks: dict[str, Callable[[Row], object]] = {
        "other data": lambda row: row.dataset_digest,
        "other recipe": lambda row: row.recipe_digest,
        "other code or parameters of the evaluator": lambda row: row.evaluator_digest,
        "other device": lambda row: row.device,
        "other library versions": lambda row: tuple(sorted(row.libraries.items())),
    }
    return tuple(text for text, look in looks.items() if {look(row) for row in a} != {look(row) for row in b})


def _missing(here: Mapping[Where, Mapping[int, Row]], there: Mapping[Where, Mapping[int, Row]]) -> list[tuple[Where, tuple[int, ...]]]:
    """Cells and seeds that are finished here and not there."""
    lacked = {cell: tuple(seed for seed in rows if seed not in there.get(cell, {})) for cell, rows in here.items()}
    return [(cell, seeds) for cell, seeds in lacked.items() if seeds]


# For people and programs


def tables(found: Comparison) -> list[Table]:
    """Pooled, cell by cell, and what is missing."""
    alike = _alike(found)
    made = [
        _table("pooled", "All budgets pooled", found.pooled, alike, "two-sided sign-flip permutation test over blocks of (IPC, seed)"),
        _table("cells", "Cell by cell", found.cells, alike, "paired t-test over shared seeds"),
    ]
    if found.missing:
        rows = tuple(
            TableRow(TableCell(cell.say(alike)), (TableCell(", ".join(map(str, seeds))), TableCell(side)))
            for side, cell, seeds in found.missing
        )
        made.append(Table("missing", "Finished on one side only", "cell", ("seeds", "missing in"), rows))
    return made


def _table(name: str, title: str, differences: Sequence[Difference], alike: Sequence[str], test: str) -> Table:
    return Table(
        name=name,
        title=title,
        corner="cell",
        columns=("A", "B", "B − A", "95 %", "n", "ahead, tied, behind", "p (Holm)"),
        rows=tuple(_row(d, alike) for d in differences),
        caption=f"Top-1 in %, differences in points with their 95 % Student-t interval; {test}, Holm-corrected; bold where p ≤ {ALPHA}.",
    )


def _row(d: Difference, alike: Sequence[str]) -> TableRow:
    interval = DASH if d.interval is None else f"{points(d.interval[0])} to {points(d.interval[1])}"
    test = "n too small" if d.adjusted is None else p_value(d.adjusted)
    texts = (
        f"{100 * d.a:.1f}",
        f"{100 * d.b:.1f}",
        points(d.mean),
        interval,
        str(len(d.differences)),
        ", ".join(map(str, d.outcome)),
        test,
    )
    cells = [TableCell(text, bold=d.significant and i == 2) for i, text in enumerate(texts)]
    return TableRow(TableCell(d.where.say(alike) or "all", notes=d.notes), tuple(cells))


def as_markdown(found: Comparison) -> str:
    """The whole comparison."""
    head = f"# B against A\n\n- A: {found.a}\n- B: {found.b}\n- of each: {_shared(found)}\n- {_summary(found)}\n"
    return "\n".join([head, *(to_markdown(table) for table in tables(found))])


def as_csv(found: Comparison) -> str:
    """One line for each difference, unrounded, and for each cell that one side lacks."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    axes = ("dataset", "shape", "protocol", "labels", "method", "ipc", "evaluator")
    numbers = ("a", "b", "difference", "low", "high", "n", "ahead", "tied", "behind", "p", "p_holm")
    writer.writerow(["scope", *axes, *numbers, "notes"])
    for scope, differences in (("pooled", found.pooled), ("cell", found.cells)):
        for d in differences:
            values = (d.a, d.b, d.mean, *(d.interval or ("", "")), len(d.differences), *d.outcome, d.p, d.adjusted)
            writer.writerow([scope, *(getattr(d.where, axis) for axis in axes), *values, "; ".join(d.notes)])
    for side, where, seeds in found.missing:
        told = f"missing in {side}: seed {', '.join(map(str, seeds))}"
        writer.writerow(["missing", *(getattr(where, axis) for axis in axes), *[""] * len(numbers), told])
    return out.getvalue()


def as_text(found: Comparison, width: int) -> str:
    """The comparison for a terminal of this many characters."""
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console(width=width, file=io.StringIO(), markup=False, record=False)
    console.print(f"A: {found.a}\nB: {found.b}\nof each: {_shared(found)}\n{_summary(found)}", highlight=False)
    for table in tables(found):
        grid = Grid(
            title=table.title, title_justify="left", caption=table.caption.replace("bold where", "* where") or None, caption_justify="left"
        )
        for i, name in enumerate((table.corner, *table.columns)):
            grid.add_column(name, justify="left" if i == 0 or len(table.columns) == 1 else "right", overflow="fold")
        for row in table.rows:
            mark = " *" if any(cell.bold for cell in row.cells) else ""
            label = "\n".join([row.label.text + mark, *(f"  {note}" for note in row.label.notes)])
            grid.add_row(label, *(cell.text for cell in row.cells))
        console.print(grid)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _alike(found: Comparison) -> list[str]:
    """What is the same everywhere, so that it is said once. Methods are always named."""
    wheres = [*(d.where for d in found.cells), *(cell for _, cell, _ in found.missing)]
    return [
        name
        for name in ("labels", "dataset", "protocol")
        if len({(getattr(w, name), w.shape if name == "dataset" else "") for w in wheres}) == 1
    ]


def _shared(found: Comparison) -> str:
    alike = _alike(found)
    return found.cells[0].where.say({"method", "ipc", "evaluator", "labels", "dataset", "protocol"} - set(alike)) or "nothing"


def _summary(found: Comparison) -> str:
    better, worse = (sum(d.significant and sign * d.mean > 0 for d in found.cells) for sign in (1, -1))
    same = sum(not any(d.differences) for d in found.cells)
    missing = f"; {len(found.missing)} cells are finished on one side only" if found.missing else ""
    return (
        f"{len(found.cells)} cells on both sides: B is better in {better}, worse in {worse} (p ≤ {ALPHA}), equal to the digit in {same}; "
        f"the rest cannot be told apart{missing}"
    )
