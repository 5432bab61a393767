"""One cell again, alone, from its record and the configuration of the sweep that made it: are the numbers the same, and if not, why."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import Config
from harness.errors import StoreError, UsageError
from harness.plan import Plan, Task, walk
from harness.record import Record
from harness.runner import cache_folder, survey
from harness.session import Session
from harness.spec import Cell, EvaluateSpec
from harness.store import Store

_MACHINE = ("device", "threads", "python", "platform", "executor")


@dataclass(frozen=True)
class Verdict:
    """What came of doing a cell again. changed: metric -> (then, now) where they are not equal to the digit. reasons: what else differs."""

    cell: str
    record: Record
    again: Record
    changed: Mapping[str, tuple[float | None, float | None]]
    reasons: tuple[str, ...]

    @property
    def equal(self) -> bool:
        return self.again.status == self.record.status and not self.changed

    def lines(self) -> list[str]:
        """For people."""
        if self.again.status != self.record.status:
            told = [f"{self.cell}: {self.record.status} then, {self.again.status} now: {self.again.reason or 'no reason recorded'}"]
        elif self.equal:
            told = [f"{self.cell}: all {len(self.record.metrics)} metrics are equal to the digit"]
        else:
            told = [f"{self.cell}: {len(self.changed)} of {len(self.record.metrics)} metrics differ"]
            told += [f"  {name}: {then} then, {now} now" for name, (then, now) in self.changed.items()]
        if self.reasons:
            told += [f"  {'also' if self.equal else 'what may be why'}: {reason}" for reason in self.reasons]
        elif not self.equal:
            told.append("  code, versions and machine are the same: what made it is not deterministic")
        return told


def rerun_cell(store: Store, key: str, results: str, plugins: Sequence[str] = (), data_root: str = "") -> Verdict:
    """Do one cell again in another results folder.

    key: the beginning of its key. results: a folder without records, so that everything that the cell rests on is made again. plugins,
    data_root: where they lie now, if not where they did. Decoded clips are those of the cache that was used. Raises UsageError where the
    cell cannot be found or planned, and KeyboardInterrupt where it was stopped.
    """
    records, _ = store.read_records()
    record = find_cell(records, key, store)
    assert isinstance(record.spec, EvaluateSpec)
    config = _config(record, store, results, plugins, data_root)
    session = Session(config)
    if session.store.read_records()[0]:
        raise UsageError(f"{results} holds records already: name an empty folder, so that nothing is taken from it")
    session.store.check_writable()
    plan = _alone(session.plan(), record)
    if session.run(state=survey(plan, session.store, "all"), arguments=["rerun", record.key]) == "interrupted":
        raise KeyboardInterrupt
    made, _ = session.store.read_records()
    again = made.get(plan.cells[0].key)
    if again is None:
        raise StoreError(f"{record.name} left no record in {results}")
    names = list(dict.fromkeys([*record.metrics, *again.metrics]))
    pairs = {name: (record.metrics.get(name), again.metrics.get(name)) for name in names}
    changed = {name: pair for name, pair in pairs.items() if not _same(*pair)}
    return Verdict(record.name, record, again, changed, tuple(_reasons(record, records, again, made)))


def rerun_in_scratch(store: Store, key: str, scratch: str | None, plugins: Sequence[str], data_root: str) -> tuple[Verdict, str]:
    """The same in a folder that is made empty, by default rerun/<key> beside the records; returns the verdict and that folder."""
    record = find_cell(store.read_records()[0], key, store)
    folder = scratch
    if folder is None:
        if not store.is_local:
            raise UsageError(f"{store.shown} is no local folder: name one with --scratch DIR")
        folder = str(Path(store.path) / "rerun" / record.key[:12])
        shutil.rmtree(folder, ignore_errors=True)  # what an earlier attempt left
    return rerun_cell(store, record.key, folder, plugins, data_root), folder


def find_cell(records: Mapping[str, Record], key: str, store: Store) -> Record:
    """The evaluation whose key begins so. Raises UsageError where there is none, or several."""
    found = [record for k, record in records.items() if record.kind == "evaluate" and k.startswith(key)]
    if not key or not found:
        raise UsageError(f"no cell in {store.shown} has a key that begins with {key!r}: `report` lists keys in cells.csv, column key")
    if len(found) > 1:
        raise UsageError(f"{len(found)} cells in {store.shown} have keys that begin with {key!r}: write more of it")
    return found[0]


def _config(record: Record, store: Store, results: str, plugins: Sequence[str], data_root: str) -> Config:
    """The configuration of the record's sweep, for this cell alone. All evaluators stay: the teacher of a run may be its first."""
    spec = record.spec
    assert isinstance(spec, EvaluateSpec)
    sweep = next((s for s in store.read_sweeps() if s.id == record.provenance.sweep), None)
    if sweep is None or not sweep.config:
        raise UsageError(f"the sweep {record.provenance.sweep} that made {record.name} is not in {store.shown}: its configuration is lost")
    try:
        before = Config.model_validate(sweep.config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"the configuration of sweep {sweep.id} is of another version of the harness: {where}: {first['msg']}") from error
    kept = before.run.cache if Path(before.run.cache).is_dir() else ""  # of another machine: that of the results folder
    now: dict[str, Any] = {
        "methods": (spec.method.label,),
        "seeds": (spec.seed,),
        "labels": (spec.labels,),
        "protocol": spec.protocol.name,
        "reference": False,
        "quality": False,
        "track": False,
        "results": results,
        "cache": cache_folder(config=before.model_copy(update={"run": before.run.model_copy(update={"cache": kept})}), store=store),
        "executor": "inline",
        "rerun": "all",
        "stale": "rerun",
    }
    if spec.ipc is not None:
        now["ipc"] = (spec.ipc,)
    if plugins:
        now["plugins"] = tuple(plugins)
    if data_root:
        now["data_root"] = data_root
    return before.model_copy(update={"run": before.run.model_copy(update=now)})


def _alone(plan: Plan, record: Record) -> Plan:
    """The plan with this cell and what it needs, and nothing else."""
    spec = record.spec
    assert isinstance(spec, EvaluateSpec)

    def alike(cell: Cell) -> bool:
        axes = (cell.method_label, cell.ipc, cell.labels, cell.evaluator_label, cell.seed)
        return axes == (spec.method.label, spec.ipc, spec.labels, spec.evaluator.label, spec.seed)

    cells = [cell for cell in plan.cells if alike(cell)]
    if not cells:
        raise UsageError(f"the present code does not plan {record.name}: the labels or networks of its method are others now")
    cell = next((c for c in cells if c.identity == record.identity), cells[0])
    tasks: dict[str, Task] = {task.key: task for task in walk(plan.tasks, [cell.key])}
    return Plan(plan.info, (cell,), tasks)


def _same(then: float | None, now: float | None) -> bool:
    return then == now or (then is not None and now is not None and math.isnan(then) and math.isnan(now))


def _reasons(record: Record, records: Mapping[str, Record], again: Record, made: Mapping[str, Record]) -> list[str]:
    """What differs between two makings of a cell: specification, code, data of what it rests on, versions, machine."""
    found: dict[str, None] = {}

    def visit(path: str, old: Record | None, new: Record | None) -> None:
        if old is None or new is None:
            if old is not None or new is not None:
                found.setdefault(f"{path}: its record is missing {'then' if old is None else 'now'}")
            return
        then, now = old.spec.codes(), new.spec.codes()
        for what in {**then, **now}:
            if then.get(what) != now.get(what):
                found.setdefault(f"other code of {what if what != 'harness' else f'the harness for {old.kind}'}")
        for name, value in _flat(old.spec.keyed(code=False)).items():
            present = _flat(new.spec.keyed(code=False)).get(name)
            if present != value:
                found.setdefault(f"{path}: {name} is {present}, was {value}")
        for name in sorted({*old.inputs, *new.inputs}):
            visit(name, records.get(old.inputs.get(name, "")), made.get(new.inputs.get(name, "")))
        for name in sorted({*old.artifacts} & {*new.artifacts} - {"preview.png", "preview.gif"}):
            if old.artifacts[name].sha256 != new.artifacts[name].sha256:
                found.setdefault(f"{path}: {name} has other content")
        if new.status == "done" == old.status:
            _machine(old, new, found)

    visit("cell", record, again)
    return list(found)


def _machine(old: Record, new: Record, found: dict[str, None]) -> None:
    for name in _MACHINE:
        then, now = getattr(old.provenance, name), getattr(new.provenance, name)
        if then != now:
            found.setdefault(f"other {name}: {now}, was {then}")
    then, now = old.provenance.libraries, new.provenance.libraries
    for name in {**then, **now}:
        if then.get(name) != now.get(name):
            found.setdefault(f"other version of {name}: {now.get(name)}, was {then.get(name)}")


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    if isinstance(value, Mapping):
        return {name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{path}.{key}" if path else str(key)).items()}
    return {path: value}
