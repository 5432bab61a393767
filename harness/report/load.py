"""Records -> rows: read, drop what a newer version of the same cell supersedes, join, sort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.registry import natural_key
from harness.report.cells import method_order
from harness.rows import Record, cell_rows
from harness.store import Store, content_hash

if TYPE_CHECKING:
    import pandas as pd

KIND_WORDS = {"data": "data", "asset": "asset", "distill": "distillation", "evaluate": "evaluation"}
_VERDICTS = ("done", "failed", "oom", "timeout")


@dataclass(frozen=True)
class Results:
    """All that a report is made from.

    superseded: keys of evaluate records that a newer version of their cell replaces. damaged: one line for each unreadable file.
    """

    store: Store
    records: Mapping[str, Record]
    rows: pd.DataFrame
    superseded: tuple[str, ...]
    damaged: tuple[str, ...]

    def row_dicts(self) -> list[dict[str, Any]]:
        """The rows as dictionaries, in order."""
        return [{str(name): value for name, value in row.items()} for row in self.rows.to_dict("records")]


def load_rows(results: Store | str | Path) -> pd.DataFrame:
    """One row per current cell and seed: the columns of ``harness.rows.cell_rows``, and ``dataset_label``, ``shape``."""
    return load(results).rows


def load(results: Store | str | Path) -> Results:
    """Read a results folder (or fsspec URL). Damaged records are left out and named."""
    import pandas as pd

    store = results if isinstance(results, Store) else Store(results)
    records, damaged = store.read_records()
    old = superseded(records)
    current = {key: record for key, record in records.items() if key not in old}
    rows = [_complete(row, records) for row in cell_rows(current)]
    rows.sort(key=_row_order)
    return Results(store, records, pd.DataFrame(rows), tuple(sorted(old)), tuple(damaged))


def _complete(row: Mapping[str, Any], records: Mapping[str, Record]) -> dict[str, Any]:
    """A row with what only the report needs: names of the dataset and shape, the key of the set, and the failure it goes back to."""
    record = records[row["key"]]
    dataset = record["spec"]["dataset"]
    frames, _, height, width = dataset["clip_shape"]
    cause, where = _cause(record, records)
    return {
        **row,
        "dataset_label": dataset.get("label", row["dataset"]),
        "shape": f"{frames}x{height}x{width}",
        "evaluator_digest": content_hash(_without_seed(record["spec"]["evaluator"])),
        "recipe_digest": content_hash(record["spec"]["protocol"]),
        "distill_key": record.get("inputs", {}).get("distill"),
        "status": cause["status"],
        "reason": f"{where}: {cause['reason']}" if where and cause["status"] != "done" else cause["reason"],
        "log": cause.get("log"),
    }


def _cause(record: Record, records: Mapping[str, Record]) -> tuple[Record, str]:
    """The record that decides why a cell is missing (itself, or the failed input it was skipped for), and its kind where it is an input."""
    if record["status"] == "skipped":
        for key in record.get("inputs", {}).values():
            upstream = records.get(key)
            if upstream is not None and upstream["status"] != "done":
                cause, where = _cause(upstream, records)
                return cause, where or KIND_WORDS[upstream["kind"]]
    return record, ""


def _row_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    group = [natural_key(str(row[name])) for name in ("dataset_label", "shape", "protocol", "labels", "evaluator_label")]
    return (*group, row["ipc"] or 0, method_order(row["method_label"]), row["seed"])


def superseded(records: Mapping[str, Record]) -> set[str]:
    """Keys of evaluate records that a newer version of the same cell replaces.

    A cell is (dataset, clip shape, method, IPC, labels, evaluator, protocol) as written by the user. Two of its records are of one
    version when everything but the seed is alike: parameters, source digests, the protocol's fields, and the same of all inputs. The
    version with the newest verdict stands for the cell, so that seeds of different code are never averaged; an interrupted or
    skipped record does not displace a verdict. Of two records of one seed the newer stands.
    """
    cells: dict[str, list[Record]] = {}
    for record in records.values():
        if record["kind"] == "evaluate":
            cells.setdefault(_cell_identity(record), []).append(record)
    old: set[str] = set()
    for members in cells.values():
        members.sort(key=lambda r: (r["status"] in _VERDICTS, _ended(r), r["key"]))
        newest = members[-1]
        spec, closure = _version(newest, records)
        seeds: dict[int, Record] = {}
        for record in members:
            own_spec, own_closure = _version(record, records)
            if own_spec != spec or (closure and own_closure and own_closure != closure):
                old.add(record["key"])
                continue
            seed = record["spec"]["seed"]
            if seed in seeds:
                old.add(seeds[seed]["key"])
            seeds[seed] = record
    return old


def _ended(record: Record) -> str:
    return str((record.get("provenance") or {}).get("ended_at") or "")


def _cell_identity(record: Record) -> str:
    spec = record["spec"]
    dataset, budget = spec["dataset"], spec.get("budget")
    return content_hash(
        [
            dataset.get("label", dataset["name"]),
            dataset["clip_shape"],
            spec["method"]["label"],
            budget["ipc"] if budget else None,
            spec["labels"],
            spec["evaluator"]["label"],
            spec["protocol"]["name"],
        ]
    )


def _version(record: Record, records: Mapping[str, Record]) -> tuple[str, str | None]:
    """(hash of the record's own specification, hash of its inputs' specifications or None where one is not there), seeds left out."""
    own = content_hash(_without_seed(record["spec"]))
    inputs: dict[str, tuple[str, str]] = {}
    for name, key in sorted(record.get("inputs", {}).items()):
        upstream = records.get(key)
        if upstream is None:
            return own, None
        spec, closure = _version(upstream, records)
        if closure is None:
            return own, None
        inputs[name] = spec, closure
    return own, content_hash(inputs)


def _without_seed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_seed(v) for k, v in value.items() if k not in ("seed", "label")}
    return value
