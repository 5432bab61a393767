"""The papers' numbers, from published.toml: shown apart from ours, each with its source, never in one test with them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.names import natural_key
from harness.report.cells import slug
from harness.report.tables import DASH, Table, TableCell, TableRow
from harness.words import percent

DEFAULT = Path(__file__).resolve().parents[2] / "results" / "published.toml"
_NEEDED = {"dataset": str, "method": str, "evaluator": str, "ipc": int, "metric": str, "accuracy": float, "source": str}
_OPTIONAL = {"std": float, "note": str}


@dataclass(frozen=True)
class Published:
    """One published number. accuracy and std in [0, 1]; std is None where the source gives none. ``note`` says how it was obtained."""

    dataset: str
    method: str
    evaluator: str
    ipc: int
    metric: str
    accuracy: float
    source: str
    std: float | None = None
    note: str = ""


def load_published(path: Path = DEFAULT) -> tuple[dict[str, str], list[Published]]:
    """(source id -> citation, numbers) of a published.toml; nothing when the file is not there. Raises ConfigError on a bad entry."""
    if not path.exists():
        return {}, []
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    sources = {str(name): str(text) for name, text in content.get("sources", {}).items()}
    return sources, [_check(entry, i, sources, path) for i, entry in enumerate(content.get("number", []))]


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
    return Published(**entry)


def published_tables(datasets: Sequence[str], path: Path = DEFAULT) -> list[Table]:
    """One table of published numbers for each (dataset, evaluator, metric) among these datasets."""
    sources, numbers = load_published(path)
    keys = dict.fromkeys((n.dataset, n.evaluator, n.metric) for n in numbers if n.dataset in datasets)
    return [_table(*key, [n for n in numbers if (n.dataset, n.evaluator, n.metric) == key], sources) for key in keys]


def _table(dataset: str, evaluator: str, metric: str, numbers: Sequence[Published], sources: Mapping[str, str]) -> Table:
    budgets = sorted({n.ipc for n in numbers})
    rows = []
    for method in sorted({n.method for n in numbers}, key=natural_key):
        cells = [_cell([n for n in numbers if n.method == method and n.ipc == ipc], sources) for ipc in budgets]
        rows.append(TableRow(TableCell(method), tuple(cells)))
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


def _cell(numbers: Sequence[Published], sources: Mapping[str, str]) -> TableCell:
    if not numbers:
        return TableCell(DASH)
    n = numbers[0]
    text = f"{percent(n.accuracy)}{f' ± {percent(n.std)}' if n.std is not None else ''}"
    notes = (sources[n.source], *((n.note,) if n.note else ()))
    return TableCell(text, notes=notes, data={"accuracy": n.accuracy, "std": n.std, "source": n.source, "note": n.note})
