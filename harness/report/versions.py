"""Which records of a cell count: those of its newest version, and those that the user asked to keep. And which cells never ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.record import Record, Sweep
from harness.spec import AssetSpec, Cell, EvaluateSpec, Kind, Spec, content_hash

_VERDICTS = ("done", "failed", "oom", "timeout")


class Written(NamedTuple):
    """A cell as the user wrote it; the seed is not part of it."""

    dataset: str
    clip_shape: tuple[int, int, int, int]
    method: str
    ipc: int | None
    labels: str
    evaluator: str
    protocol: str


def superseded(records: Mapping[str, Record], sweeps: Sequence[Sweep] = ()) -> set[str]:
    """Keys of evaluate records that a newer version of the same cell replaces.

    Two records of a written cell are of one version when everything but the seed is alike: parameters, code, the protocol's fields, and
    the same of all inputs. The version with the newest verdict stands for the cell, so that seeds of different code are not averaged;
    an interrupted or skipped record does not displace a verdict. Of two records of one seed the newer stands.

    sweeps: oldest first. What the newest sweep that planned the cell asked for counts as the newest, whenever it was made: results of
    other code that the user chose to keep, or of code that was changed and changed back.
    """
    lineage, planned = Lineage(records), {cell: {c.key for c in cells} for cell, (_, cells) in _newest_plans(sweeps).items()}
    old: set[str] = set()
    for written, members in _by_cell(records).items():
        asked = {r.key for r in members if r.status in _VERDICTS and r.key in planned.get(written, ())}
        members.sort(key=lambda r: (r.status in _VERDICTS, r.key in asked, r.provenance.ended_at, r.key))
        own, closure = lineage.version(members[-1])
        seeds: dict[int, Record] = {}
        for record in members:
            own_here, closure_here = lineage.version(record)
            alike = own_here == own and (closure is None or closure_here is None or closure_here == closure)
            if not alike and record.key not in asked:
                old.add(record.key)
                continue
            seed = _evaluated(record).seed
            if seed in seeds:
                old.add(seeds[seed].key)
            seeds[seed] = record
    return old


def made_by_other_code(current: Mapping[str, Record]) -> frozenset[str]:
    """Keys of finished evaluate records that other code made than the newest of their cell. current: records without the superseded."""
    lineage = Lineage(current)
    found: set[str] = set()
    for members in _by_cell(current).values():
        done = sorted((r for r in members if r.status == "done"), key=lambda r: (r.provenance.ended_at, r.key))
        if len(done) > 1:
            newest = lineage.codes(done[-1])
            found |= {r.key for r in done if _differ(lineage.codes(r), newest)}
    return frozenset(found)


def never_run(records: Mapping[str, Record], sweeps: Sequence[Sweep]) -> list[tuple[Sweep, Cell]]:
    """What the newest sweep that planned a cell asked for and no record of that written cell and seed answers, with that sweep."""
    answered = {(written, _evaluated(r).seed) for written, members in _by_cell(records).items() for r in members}
    return [
        (sweep, cell)
        for written, (sweep, cells) in _newest_plans(sweeps).items()
        for cell in cells
        if (written, cell.seed) not in answered and cell.key not in records
    ]


def _newest_plans(sweeps: Iterable[Sweep]) -> dict[Written, tuple[Sweep, list[Cell]]]:
    """Written cell -> the newest sweep that planned it, with the cells (seeds) that it planned. sweeps: oldest first."""
    plans: dict[Written, tuple[Sweep, list[Cell]]] = {}
    for sweep in sweeps:
        own: dict[Written, tuple[Sweep, list[Cell]]] = {}
        for c in sweep.cells:
            written = Written(c.dataset_label, c.clip_shape, c.method_label, c.ipc, c.labels, c.evaluator_label, c.protocol)
            own.setdefault(written, (sweep, []))[1].append(c)
        plans |= own
    return plans


def _by_cell(records: Mapping[str, Record]) -> dict[Written, list[Record]]:
    cells: dict[Written, list[Record]] = {}
    for record in records.values():
        if record.kind == "evaluate":
            s = _evaluated(record)
            written = Written(s.dataset.label, s.dataset.clip_shape, s.method.label, s.ipc, s.labels, s.evaluator.label, s.protocol.name)
            cells.setdefault(written, []).append(record)
    return cells


def _evaluated(record: Record) -> EvaluateSpec:
    assert isinstance(record.spec, EvaluateSpec)
    return record.spec


Codes = Mapping[tuple[Kind, str], set[str]]
"""(kind of task, what it is the code of) -> digests."""


class Lineage:
    """What records rest on; each is looked at once."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._records = records
        self._versions: dict[str, tuple[str, str | None]] = {}
        self._codes: dict[str, Codes] = {}

    def version(self, record: Record) -> tuple[str, str | None]:
        """(hash of the record's own specification, hash of its inputs' specifications or None where one is not there), seeds left out."""
        if record.key not in self._versions:
            self._versions[record.key] = content_hash(_without_seed(record.spec)), self._closure(record)
        return self._versions[record.key]

    def codes(self, record: Record) -> Codes:
        """Of the record and all that it rests on."""
        if record.key not in self._codes:
            found: dict[tuple[Kind, str], set[str]] = {(record.kind, what): {digest} for what, digest in record.spec.codes().items()}
            for key in record.inputs.values():
                if (upstream := self._records.get(key)) is not None:
                    for what, digests in self.codes(upstream).items():
                        found[what] = found.get(what, set()) | digests
            self._codes[record.key] = found
        return self._codes[record.key]

    def _closure(self, record: Record) -> str | None:
        inputs: dict[str, tuple[str, str]] = {}
        for name, key in sorted(record.inputs.items()):
            upstream = self._records.get(key)
            own, closure = (None, None) if upstream is None else self.version(upstream)
            if own is None or closure is None:
                return None
            inputs[name] = own, closure
        return content_hash(inputs)


def _without_seed(spec: Spec) -> dict[str, Any]:
    """What decides a result, but for the seed; the network of a reference is an asset whose parameter the seed is."""
    keyed = spec.keyed(code=True)
    keyed.pop("seed", None)
    if isinstance(spec, AssetSpec):
        keyed["asset"]["params"].pop("seed", None)
    return keyed


def _differ(a: Codes, b: Codes) -> bool:
    """Whether any code that both rest on is another; where an input is not there, it is not judged."""
    return any(a[what] != b[what] for what in a.keys() & b.keys())
