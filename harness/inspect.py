"""Looks into a results folder: what it holds, and whether it is sound."""

from __future__ import annotations

from collections import Counter

from harness.errors import StoreError
from harness.store import STATUSES, Store


def describe_store(root: str) -> str:
    """Sweeps, records by kind and status, and running tasks, as text for people."""
    store = Store(root)
    records, damaged = store.read_records()
    sweeps = store.read_sweeps()
    lines = [f"results: {store.root}"]
    if not records and not sweeps:
        return f"{lines[0]}\nnothing yet: python -m harness run"
    counts = Counter((r["kind"], r["status"]) for r in records.values())
    for kind in ("data", "asset", "distill", "evaluate"):
        parts = [f"{counts[(kind, s)]} {s}" for s in STATUSES if counts[(kind, s)]]
        lines.append(f"{kind:<9} {', '.join(parts) or 'none'}")
    lines += [f"damaged   {line}" for line in damaged]
    for sweep in sweeps[-5:]:
        cells = len(sweep["cells"])
        lines.append(f"sweep {sweep['id']}: {sweep['status']}, {cells} cells, started {sweep['started_at']}: {sweep['command']}")
    folder = f"{store.path}/running"
    for name in store.fs.ls(folder, detail=False) if store.fs.isdir(folder) else ():
        beat = store.read_json(f"running/{str(name).rsplit('/', 1)[-1]}")
        if beat is not None:
            lines.append(f"running {beat['name']} on {beat['host']} pid {beat['pid']}: {beat['done']} of {beat['total']}")
    failed = [r for r in records.values() if r["status"] in ("failed", "oom", "timeout", "interrupted")]
    lines += [f"{r['status']} {r['kind']} {r['name']}: {r['reason']}" for r in failed]
    return "\n".join(lines)


def check_store(root: str) -> tuple[list[str], str]:
    """One line for everything that is damaged or missing, and a closing line."""
    store = Store(root)
    records, problems = store.read_records()
    artifacts = 0
    for record in records.values():
        for name in record.get("artifacts", {}):
            artifacts += 1
            try:
                store.read_artifact(record, name)
            except StoreError as error:
                problems.append(str(error))
        if record["status"] == "done":
            problems += [
                f"record {record['key']} ({record['name']}) rests on {upstream}, which has no record"
                for upstream in record["inputs"].values()
                if upstream not in records
            ]
    state = f"{len(problems)} problems" if problems else "sound"
    return problems, f"{len(records)} records, {artifacts} artifacts: {state}"
