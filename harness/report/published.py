"""The papers' numbers, from published.toml: in tables of their own and in rows below ours, each with its source, in no test with ours.

Beside the project's file the user's count: ``published.toml`` in the results folder, and any that is named.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.names import natural_key
from harness.report.group import Group
from harness.report.tables import DASH, Table, TableCell, TableRow, slug
from harness.words import percent

DEFAULT = Path(__file__).resolve().parents[2] / "results" / "published.toml"
_NEEDED = {"dataset": str, "method": str, "evaluator": str, "ipc": int, "metric": str, "accuracy": float, "source": str}
_OPTIONAL = {"std": float, "note": str, "protocol": str}


@dataclass(frozen=True)
class Published:
    """One published number. accuracy and std in [0, 1]; std is None where the source gives none. ``note`` says how it was obtained.

    source: its citation. protocol: the one of ours that the source followed; empty: its own.
    """

    dataset: str
    method: str
    evaluator: str
    ipc: int
    metric: str
    accuracy: float
    source: str
    std: float | None = None
    note: str = ""
    protocol: str = ""


def load_published(path: Path = DEFAULT) -> list[Published]:
    """The numbers of a published.toml; none when the file is not there. Raises ConfigError on a bad entry."""
    if not path.exists():
        return []
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    sources = {str(name): str(text) for name, text in content.get("sources", {}).items()}
    return [_check(entry, i, sources, path) for i, entry in enumerate(content.get("number", []))]


def gather_published(paths: Sequence[Path]) -> list[Published]:
    """The numbers of all these files; where two speak of the same cell of the same method, the later file counts."""
    found: dict[tuple[object, ...], Published] = {}
    for path in paths:
        for n in load_published(path):
            found[n.dataset, n.evaluator, n.metric, n.method, n.ipc] = n
    return list(found.values())


def of_group(numbers: Sequence[Published], group: Group) -> list[Published]:
    """Top-1 accuracies on the dataset and evaluator of a group."""
    return [n for n in numbers if (n.dataset, n.evaluator, n.metric) == (group.dataset, group.evaluator, "top-1")]


def _check(entry: Mapping[str, Any], index: int, sources: Mapping[str, str], path: Path) -> Published:
    where = f"{path}, number {index + 1}"
    known = _NEEDED | _OPTIONAL
    for name in _NEEDED:
        if name not in entry:
            raise ConfigError(f"{where}: {name!r} is missing")
    for name, value in entry.items():
        if name not in known:
            raise ConfigError(f"{where}: unknown key {name!r}. Valid: {', '.join(known)}")
        if not isinstance(value, known[name]) or isinstance(value, bool):
            raise ConfigError(f"{where}: {name} must be a {known[name].__name__}, got {value!r}")
    if not 0 <= entry["accuracy"] <= 1:
        raise ConfigError(f"{where}: accuracy is a fraction in [0, 1], got {entry['accuracy']}")
    if entry["source"] not in sources:
        raise ConfigError(f"{where}: source {entry['source']!r} stands in no [sources]. Valid: {', '.join(sources)}")
    return Published(**{**entry, "source": sources[entry["source"]]})


def published_tables(datasets: Sequence[str], numbers: Sequence[Published], digits: int = 1) -> list[Table]:
    """One table of published numbers for each (dataset, evaluator, metric) among these datasets."""
    keys = dict.fromkeys((n.dataset, n.evaluator, n.metric) for n in numbers if n.dataset in datasets)
    return [_table(*key, [n for n in numbers if (n.dataset, n.evaluator, n.metric) == key], digits) for key in keys]


def published_cell(n: Published, digits: int = 1, protocol: str | None = None) -> TableCell:
    """One number with its source. protocol: of our table that it stands in, if any; a source with another one is said to differ."""
    text = f"{percent(n.accuracy, digits)}{f' ± {percent(n.std, digits)}' if n.std is not None else ''}"
    differs = ("protocol differs",) if protocol is not None and n.protocol != protocol else ()
    data = {"published": n.accuracy, "published_std": n.std, "source": n.source}
    return TableCell(text, notes=(*differs, n.source, *((n.note,) if n.note else ())), data=data)


def _table(dataset: str, evaluator: str, metric: str, numbers: Sequence[Published], digits: int) -> Table:
    budgets = sorted({n.ipc for n in numbers})
    rows = []
    for method in sorted({n.method for n in numbers}, key=natural_key):
        by_ipc = {n.ipc: n for n in numbers if n.method == method}
        rows.append(
            TableRow(TableCell(method), tuple(published_cell(by_ipc[b], digits) if b in by_ipc else TableCell(DASH) for b in budgets))
        )
    return Table(
        name=slug(f"published-{dataset}-{evaluator}-{metric}"),
        title=f"Published numbers, not run here: {dataset}, {evaluator}, {metric}",
        corner="method",
        columns=tuple(f"IPC {ipc}" for ipc in budgets),
        rows=tuple(rows),
        caption=(
            f"{metric} accuracy in %, as the sources print it; where they state a spread it may be a population standard deviation and the "
            "accuracy that of the best checkpoint on the test split. Not comparable with our tables to the decimal."
        ),
        across="IPC",
    )
