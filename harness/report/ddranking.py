"""DD-Ranking's scores beside ours: how good is a set once labels and augmentation are set aside (Li et al., arXiv 2505.13300).

With accuracies in [0, 1], hard label recovery HLR = full with hard labels - the set with hard labels, improvement over random
IOR = the set - random clips, both trained alike, and w = gamma = 1/2:

    alpha = w IOR - (1 - w) HLR                                       LRS = (e^alpha - 1/e) / (e - 1/e)
    beta = gamma IOR with augmentation + (1 - gamma) IOR without it   ARS = (e^beta - 1/e) / (e - 1/e)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.protocol import TrainingProtocol
from harness.report.cells import FULL, RANDOM, CellResult, View, find, ipcs, methods
from harness.report.group import Group
from harness.report.main_table import device_words
from harness.report.statistics import sample_std
from harness.report.tables import DASH, Table, TableCell, TableRow
from harness.spec import EvaluateSpec
from harness.words import percent, points

WEIGHT = 0.5
"""w and gamma of the paper."""
NO_AUGMENTATION = {"flip": False, "crop": 0, "resized_crop": 0.0}
BySeed = Mapping[int, float]
_COLUMNS = ("HLR", "IOR, hard", "LRS, hard", "IOR, soft", "LRS, soft", "IOR, plain", "ARS")


def label_robust(hlr: float, ior: float, weight: float = WEIGHT) -> float:
    """LRS in [0, 1] of HLR and IOR in [-1, 1].

    >>> label_robust(1, -1), label_robust(-1, 1), round(label_robust(0.0, 0.0), 4)
    (0.0, 1.0, 0.2689)
    """
    return _normalised(weight * ior - (1 - weight) * hlr)


def augmentation_robust(augmented: float, plain: float, weight: float = WEIGHT) -> float:
    """ARS in [0, 1] of the improvements over random with augmentation and without it, in [-1, 1].

    >>> augmentation_robust(-1, -1), augmentation_robust(1, 1)
    (0.0, 1.0)
    """
    return _normalised(weight * augmented + (1 - weight) * plain)


def _normalised(score: float) -> float:
    return (math.exp(score) - math.exp(-1)) / (math.e - math.exp(-1))


def ddranking_tables(view: View) -> list[Table]:
    """A table for each evaluator of the hard labels, from the cells of all labels and protocols of its dataset; none without a score."""
    if view.first.labels != "hard":
        return []
    tables = (_table(view, group) for group in view.groups)
    return [table for table in tables if table is not None]


def _table(view: View, group: Group) -> Table | None:
    beside = [cell for cell in view.beside if cell.group.evaluator == group.evaluator]
    plain = _without_augmentation(view, beside, group)
    known = [cell for cell in beside if cell.group.protocol == group.protocol]
    rows = []
    for method in methods(view.groups[group]):
        for ipc in ipcs(view.groups[group]) if method != RANDOM else ():
            scores = _scores(method, ipc, known, plain)
            keys = tuple(key for cell in beside if (cell.method, cell.ipc) == (method, ipc) for key in cell.keys)
            shown = tuple(_cell(column, *scores[column], view.digits, keys) for column in _COLUMNS)
            rows.append(TableRow(TableCell(f"{view.say(method)}, IPC {ipc}"), shown))
    if all(cell.text == DASH for row in rows for cell, column in zip(row.cells, _COLUMNS, strict=True) if column[:3] in ("LRS", "ARS")):
        return None
    return Table(
        name=f"ddranking-{group.name}",
        title=f"DD-Ranking: {view.name(group)}",
        corner="method",
        columns=_COLUMNS,
        rows=tuple(rows),
        caption=(
            "Scores of DD-Ranking (arXiv 2505.13300) with w = γ = 0.5, mean ± sample standard deviation over seeds that all parts share. "
            "HLR: accuracy of full minus that of the set, hard labels, in points (lower is better). IOR: accuracy minus that of random by "
            "the same labels, in points; plain: trained without augmentation. LRS = (exp(α) − 1/e) / (e − 1/e), α = (IOR − HLR) / 2; "
            f"ARS likewise of the mean IOR with and without augmentation, hard labels. {device_words(known)}".strip()
        ),
        across="score",
    )


Score = tuple[BySeed | None, str]
"""Values by seed, or None with what is missing."""


def _scores(method: str, ipc: int, known: Sequence[CellResult], plain: Sequence[CellResult] | str) -> dict[str, Score]:
    """Every column of one method and IPC. known: cells of the protocol. plain: those of its recipe without augmentation, or why none."""
    full = next((cell.mean for cell in known if cell.method == FULL and cell.mean is not None), None)
    hard, soft = _accuracy(known, method, ipc, "hard"), _accuracy(known, method, ipc, "native") or _accuracy(known, method, ipc, "soft")
    random_hard, random_soft = (_accuracy(known, RANDOM, ipc, labels) for labels in ("hard", "soft"))
    hlr: Score = (None, "no result of full") if full is None else ({s: full - a for s, a in hard.items()} or None, "no hard labels")
    ior = _minus(hard, random_hard, "hard labels")
    ior_soft = _minus(soft, random_soft, "soft labels")
    if isinstance(plain, str):
        without: Score = (None, plain)
    else:
        without = _minus(_accuracy(plain, method, ipc, "hard"), _accuracy(plain, RANDOM, ipc, "hard"), "hard labels without augmentation")
    return {
        "HLR": hlr,
        "IOR, hard": ior,
        "LRS, hard": _of_both(label_robust, hlr, ior),
        "IOR, soft": ior_soft,
        "LRS, soft": _of_both(label_robust, hlr, ior_soft),
        "IOR, plain": without,
        "ARS": _of_both(augmentation_robust, ior, without),
    }


def _accuracy(cells: Sequence[CellResult], method: str, ipc: int, labels: str) -> BySeed:
    cell = find((c for c in cells if c.group.labels == labels), method, ipc)
    return {} if cell is None else cell.accuracy


def _minus(a: BySeed, random: BySeed, what: str) -> Score:
    if not a or not random:
        lacking = [name for name, values in (("the method", a), ("random", random)) if not values]
        return None, f"no result of {' and of '.join(lacking)} with {what}"
    return ({s: a[s] - random[s] for s in sorted(a) if s in random} or None), f"no shared seed with {what}"


def _of_both(score: Callable[[float, float], float], a: Score, b: Score) -> Score:
    if a[0] is None or b[0] is None:
        return None, a[1] if a[0] is None else b[1]
    return {s: score(a[0][s], b[0][s]) for s in sorted(a[0]) if s in b[0]} or None, "no shared seed"


def _without_augmentation(view: View, cells: Sequence[CellResult], group: Group) -> list[CellResult] | str:
    """The cells that were trained by the recipe of this group with its augmentation off; or the sentence that says why there are none."""
    recipes = {cell.group.protocol: recipe for cell in cells if (recipe := _recipe(view, cell)) is not None}
    own = recipes.get(group.protocol)
    if own is None:
        return "no recipe is known"
    wanted = own.model_copy(update=NO_AUGMENTATION)
    if own == wanted:
        return f"protocol {group.protocol} trains without augmentation: run one that differs in it alone"
    found = [cell for cell in cells if cell.group.protocol != group.protocol and recipes.get(cell.group.protocol) == wanted]
    return found or f"no protocol was run that is {group.protocol} with flip, crop and resized_crop off"


def _recipe(view: View, cell: CellResult) -> TrainingProtocol | None:
    for row in cell.done if cell.ipc is not None else ():
        spec = view.records[row.key].spec
        if isinstance(spec, EvaluateSpec):
            return spec.protocol.recipe
    return None


def _cell(column: str, values: BySeed | None, missing: str, digits: int, keys: tuple[str, ...]) -> TableCell:
    if values is None:
        return TableCell(DASH, notes=(missing,), data={"value": None}, records=keys)
    mean, std = float(np.mean(list(values.values()))), sample_std(list(values.values()))
    if column[:3] in ("LRS", "ARS"):
        text = f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")
    else:
        text = points(mean) + ("" if std is None else f" ± {percent(std, digits)}")
    return TableCell(text, data={"value": mean}, records=keys)
