"""Looks into a results folder: what it holds, what is missing, what other code made, and whether it is sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from harness.errors import StoreError
from harness.record import STATUSES, Record, Sweep
from harness.spec import KINDS
from harness.staleness import Staleness
from harness.store import Store

_SHOWN_SWEEPS, _SHOWN_NAMES = 5, 5


def describe_store(root: str) -> str:
    """Sweeps, records by kind and status, what is planned and missing, what is stale, and running tasks, as text for people."""
    store = Store(root)
    records, damaged = store.read_records()
    sweeps = store.read_sweeps()
    lines = [f"results: {store.shown}"]
    if not records and not sweeps and not damaged:
        return f"{lines[0]}\nnothing yet: python -m harness run"
    counts = Counter((r.kind, r.status) for r in records.values())
    for kind in KINDS:
        parts = [f"{counts[(kind, s)]} {s}" for s in STATUSES if counts[(kind, s)]]
        lines.append(f"{kind:<9} {', '.join(parts) or 'none'}")
    lines += [f"damaged   {line}" for line in damaged]
    for sweep in sweeps[-_SHOWN_SWEEPS:]:
        done = sum(r is not None and r.status == "done" for r in (records.get(c.key) for c in sweep.cells))
        told = f"{done} of {len(sweep.cells)} cells done"
        lines.append(f"sweep {sweep.id}: {sweep.status}, {told}, started {sweep.started_at}: {sweep.command}")
    missing = missing_cells(records, sweeps)
    if missing:
        lines.append(f"missing   {len(missing)} planned cells have no result: {_names(missing)}")
    stale = Staleness().stale_cells(records)
    if stale:
        changed = sorted({what for parts in stale.values() for what in parts})
        told = f"{len(stale)} cells were made by other code than the present"
        lines.append(f"stale     {told} ({', '.join(changed)}); `run` makes them again")
    lost = [r.provenance.lost for r in records.values() if r.provenance.lost]
    if lost:
        lines.append(f"lost      {len(lost)} tasks ran again because their node was lost, {sum(lost)} times in all")
    for name in store.names("running"):
        beat = store.read_json(f"running/{name}")
        if isinstance(beat, dict) and {"name", "host", "pid", "done", "total"} <= beat.keys():
            lines.append(f"running {beat['name']} on {beat['host']} pid {beat['pid']}: {beat['done']} of {beat['total']}")
    failed = [r for r in records.values() if r.status in ("failed", "oom", "timeout", "interrupted")]
    lines += [f"{r.status} {r.kind} {r.name}: {r.reason}" for r in failed]
    return "\n".join(lines)


def missing_cells(records: Mapping[str, Record], sweeps: list[Sweep]) -> list[str]:
    """Names of the cells that a sweep planned and that no record of any code or status answers."""
    answered = {r.identity for r in records.values()}
    planned = {cell.identity: cell.name for sweep in sweeps for cell in sweep.cells}
    return [name for identity, name in planned.items() if identity not in answered]


def check_store(root: str) -> tuple[list[str], str]:
    """One line for everything that is damaged or missing, and a closing line."""
    store = Store(root)
    records, problems = store.read_records()
    artifacts = 0
    for record in records.values():
        for name in record.artifacts:
            artifacts += 1
            try:
                store.verify_artifact(record, name)
            except StoreError as error:
                problems.append(str(error))
        if record.status == "done":
            problems += [
                f"record {record.key} ({record.name}) rests on {upstream}, which has no record"
                for upstream in record.inputs.values()
                if upstream not in records
            ]
    state = f"{len(problems)} problems" if problems else "sound"
    return problems, f"{len(records)} records, {artifacts} artifacts: {state}"


def _names(names: list[str]) -> str:
    return "; ".join(names[:_SHOWN_NAMES]) + (f"; and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else "")
