"""Records of another machine, taken into a results folder: checked by checksum, without duplicates, and without losing what is better."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.errors import StoreError, UsageError
from harness.record import Record
from harness.store import Store


@dataclass
class Imported:
    """What became of the records of a source. refused: one line for each that is damaged; kept: there was a better or the same one."""

    added: int = 0
    replaced: int = 0
    kept: int = 0
    same: int = 0
    sweeps: int = 0
    refused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.added} records added, {self.replaced} replaced by better or newer ones, {self.kept} not taken (here are better or "
            f"newer ones), {self.same} the same; {self.sweeps} sweeps; {len(self.refused)} refused"
        )


def import_results(source: Store, target: Store) -> Imported:
    """Take over what another results folder holds, with its artifacts, logs and sweeps. Importing it again changes nothing.

    Of two records of one key a finished one stands, of two finished ones the newer. A record is written after its artifacts, so that an
    interrupted import leaves no record without them. Raises UsageError where there is nothing to import.
    """
    if source.root == target.root:
        raise UsageError(f"{source.root} is the results folder itself: name another one")
    records, damaged = source.read_records()
    sweeps = source.read_sweeps()
    if not records and not sweeps and not damaged:
        raise UsageError(f"{source.root} is no results folder: it holds no records")
    target.check_writable()
    done = Imported(refused=damaged)
    for key, record in records.items():
        present = _present(target, key)
        if present is not None and present != record and not _better(record, present):
            done.kept += 1
            continue
        try:
            copied = _copy_files(source, target, record, present)
        except StoreError as error:
            done.refused.append(str(error))
            continue
        if present == record and not copied:
            done.same += 1
            continue
        target.write_record(record)
        if present is None:
            done.added += 1
        else:
            done.replaced += 1
    known = {sweep.id: sweep for sweep in target.read_sweeps()}
    for sweep in sweeps:
        if sweep.id not in known or (known[sweep.id].ended_at is None and sweep.ended_at is not None):
            target.write_sweep(sweep)
            done.sweeps += 1
    return done


def _present(target: Store, key: str) -> Record | None:
    """The record that is there; a damaged one counts as none."""
    try:
        return target.read_record(key)
    except StoreError:
        return None


def _better(new: Record, old: Record) -> bool:
    """Whether a record takes another's place: done beats all else, then the newer stands."""
    return (new.status == "done", new.provenance.ended_at) > (old.status == "done", old.provenance.ended_at)


def _copy_files(source: Store, target: Store, record: Record, present: Record | None) -> bool:
    """Copy what a record names and the target lacks; returns whether there was any. Raises StoreError where a file is damaged."""
    same = present == record
    files = {
        name: source.read_artifact(record, name)
        for name in record.artifacts
        if not (same and target.exists(f"artifacts/{record.key}/{name}"))
    }
    for name, data in files.items():
        target.write_artifact(record.key, name, data)
    if record.log and source.exists(record.log) and not (same and target.exists(record.log)):
        target.write_bytes(record.log, source.read_bytes(record.log))
        return True
    return bool(files)
