"""The result store: records, artifacts, logs and sweeps under one root, which is a folder or any fsspec URL.

    records/<key>.json        one per task; carries the hash of its own content
    artifacts/<key>/<file>    what a task made: asset.safetensors, distilled.safetensors, preview.png, preview.gif
    logs/<key>.log            what a task printed, with the traceback if it failed
    running/<key>.json        where a task runs and how far it is; removed when it ends
    sweeps/<id>.json          one per command: its cells, its owner, its environment

Everything is written under a temporary name and renamed, so that a reader never sees half a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from harness.errors import StoreError, UsageError

SCHEMA = 1
STATUSES = ("done", "failed", "oom", "timeout", "skipped", "interrupted")


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. Raises ValueError on NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Store:
    """Records and artifacts under ``root``."""

    def __init__(self, root: str | Path) -> None:
        self.fs, path = fsspec.core.url_to_fs(str(root))
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.path = os.path.abspath(path) if self.is_local else path
        self.root = self.path if self.is_local else str(root)

    def check_writable(self) -> None:
        """Raise UsageError unless files can be written here."""
        name = f"records/.probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(name, b"")
            self.fs.rm_file(self._at(name))
        except OSError as error:
            raise UsageError(f"cannot write to the results folder {self.root}: {error.strerror or error}") from error

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one file so that it appears whole or not at all."""
        target = self._at(name)
        self.fs.makedirs(posixpath.dirname(target), exist_ok=True)
        if not self.is_local:
            self.fs.pipe_file(target, data)
            return
        temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def read_bytes(self, name: str) -> bytes:
        """The content of one file. Raises StoreError when it is not there."""
        try:
            return self.fs.cat_file(self._at(name))  # type: ignore[no-any-return]
        except FileNotFoundError as error:
            raise StoreError(f"{name} is missing in {self.root}") from error

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self._at(name)))

    def remove(self, name: str) -> None:
        """Remove a file; a missing one is no error."""
        try:
            self.fs.rm_file(self._at(name))
        except FileNotFoundError:
            return

    # Records

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Store a record under its key, with the hash of its content."""
        body = {k: v for k, v in record.items() if k != "content_sha256"}
        if body["status"] not in STATUSES:
            raise StoreError(f"record {body['key']} has the unknown status {body['status']!r}. Valid: {', '.join(STATUSES)}")
        body["content_sha256"] = content_hash(body)
        self.write_bytes(f"records/{body['key']}.json", (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())

    def read_record(self, key: str) -> dict[str, Any] | None:
        """The record of a key, or None. Raises StoreError when it is damaged."""
        name = f"records/{key}.json"
        if not self.exists(name):
            return None
        return _parse_record(self.read_bytes(name), name)

    def read_records(self, keys: Iterable[str] | None = None) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Records by key (all, or those of ``keys`` that exist), and one line for each damaged file."""
        folder = self._at("records")
        names = []
        if self.fs.isdir(folder):
            names = sorted(posixpath.basename(str(p)) for p in self.fs.ls(folder, detail=False))
        wanted = None if keys is None else {f"{k}.json" for k in keys}
        records, damaged = {}, []
        for name in names:
            if not name.endswith(".json") or name.startswith(".") or (wanted is not None and name not in wanted):
                continue
            try:
                record = _parse_record(self.read_bytes(f"records/{name}"), f"records/{name}")
                records[record["key"]] = record
            except StoreError as error:
                damaged.append(str(error))
        return records, damaged

    # Artifacts

    def write_artifact(self, key: str, name: str, data: bytes) -> dict[str, Any]:
        """Store one file of a task; returns its entry for the record."""
        self.write_bytes(f"artifacts/{key}/{name}", data)
        return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    def read_artifact(self, record: Mapping[str, Any], name: str) -> bytes:
        """A file that a record names. Raises StoreError when it is missing or not what was written."""
        entry = record["artifacts"].get(name)
        if entry is None:
            raise StoreError(f"record {record['key']} has no artifact {name!r}")
        data = self.read_bytes(f"artifacts/{record['key']}/{name}")
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise StoreError(f"artifact {name} of {record['key']} is damaged: its checksum differs from its record's")
        return data

    # Sweeps and running tasks

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """A JSON file, or None when it is missing or half gone."""
        try:
            return json.loads(self.read_bytes(name))
        except (StoreError, ValueError):
            return None

    def read_sweeps(self) -> list[dict[str, Any]]:
        """All sweeps, oldest first."""
        folder = self._at("sweeps")
        if not self.fs.isdir(folder):
            return []
        names = sorted(posixpath.basename(str(p)) for p in self.fs.ls(folder, detail=False))
        sweeps = [self.read_json(f"sweeps/{n}") for n in names if n.endswith(".json")]
        return sorted((s for s in sweeps if s is not None), key=lambda s: s["started_at"])

    def _at(self, name: str) -> str:
        return posixpath.join(self.path, name)


def _parse_record(data: bytes, name: str) -> dict[str, Any]:
    try:
        record = json.loads(data)
        claimed = record.pop("content_sha256")
    except (ValueError, KeyError, AttributeError) as error:
        raise StoreError(f"{name} is damaged: it is not a complete record") from error
    if content_hash(record) != claimed:
        raise StoreError(f"{name} is damaged: its content does not match its checksum")
    return record  # type: ignore[no-any-return]
