"""The result store: records, artifacts, logs and sweeps under one root, which is a folder or any fsspec URL.

    records/<key>.json        one per task; carries the hash of its own content
    artifacts/<key>/<file>    what a task made: asset.safetensors, distilled.safetensors, preview.gif, stored.gif ...
    logs/<key>.log            what a task printed, with the traceback if it failed
    running/<key>.json        where a task runs and how far it is; removed when it ends
    sweeps/<id>.json          one per command: its cells, its owner, its environment

Everything is written under a temporary name and renamed, so that a reader never sees half a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from harness.errors import StoreError, UsageError
from harness.record import Artifact, Record, Sweep, parse_record
from harness.spec import content_hash


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

    def write_record(self, record: Record) -> None:
        """Store a record under its key, with the hash of its content. Raises ValueError where a number is not finite."""
        body = record.content()
        body["content_sha256"] = content_hash(body)
        self.write_json(f"records/{record.key}.json", body)

    def read_record(self, key: str) -> Record | None:
        """The record of a key, or None. Raises StoreError when it is damaged or breaks the schema."""
        name = f"records/{key}.json"
        if not self.exists(name):
            return None
        return _parse(self.read_bytes(name), name)

    def read_records(self, keys: Iterable[str] | None = None) -> tuple[dict[str, Record], list[str]]:
        """Records by key (all, or those of ``keys`` that exist), and one line for each file that is damaged."""
        folder = self._at("records")
        names = []
        if self.fs.isdir(folder):
            names = sorted(posixpath.basename(str(p)) for p in self.fs.ls(folder, detail=False))
        wanted = None if keys is None else {f"{k}.json" for k in keys}
        records: dict[str, Record] = {}
        damaged: list[str] = []
        for name in names:
            if not name.endswith(".json") or name.startswith(".") or (wanted is not None and name not in wanted):
                continue
            try:
                record = _parse(self.read_bytes(f"records/{name}"), f"records/{name}")
                records[record.key] = record
            except StoreError as error:
                damaged.append(str(error))
        return records, damaged

    # Artifacts

    def write_artifact(self, key: str, name: str, data: bytes) -> Artifact:
        """Store one file of a task; returns its entry for the record."""
        self.write_bytes(f"artifacts/{key}/{name}", data)
        return Artifact(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))

    def read_artifact(self, record: Record, name: str) -> bytes:
        """A file that a record names. Raises StoreError when it is missing or not what was written."""
        entry = record.artifacts.get(name)
        if entry is None:
            raise StoreError(f"record {record.key} has no artifact {name!r}")
        data = self.read_bytes(f"artifacts/{record.key}/{name}")
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise StoreError(f"artifact {name} of {record.key} is damaged: its checksum differs from its record's")
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

    def write_sweep(self, sweep: Sweep) -> None:
        self.write_json(f"sweeps/{sweep.id}.json", sweep.model_dump(mode="json"))

    def read_sweeps(self) -> list[Sweep]:
        """All sweeps that can be read, oldest first."""
        folder = self._at("sweeps")
        if not self.fs.isdir(folder):
            return []
        names = sorted(posixpath.basename(str(p)) for p in self.fs.ls(folder, detail=False))
        found = []
        for name in names:
            if name.endswith(".json"):
                with contextlib.suppress(ValidationError):
                    found.append(Sweep.model_validate(self.read_json(f"sweeps/{name}")))
        return sorted(found, key=lambda s: s.started_at)

    def _at(self, name: str) -> str:
        return posixpath.join(self.path, name)


def _parse(data: bytes, name: str) -> Record:
    """A record from its file: the hash of its content, its schema and the key in its name must agree."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{name} is damaged: it is not a complete record") from error
    if not isinstance(content, dict) or "content_sha256" not in content:
        raise StoreError(f"{name} is damaged: it is not a complete record")
    if content.pop("content_sha256") != content_hash(content):
        raise StoreError(f"{name} is damaged: its content does not match its checksum")
    record = parse_record(content, name)
    if posixpath.basename(name) != f"{record.key}.json":
        raise StoreError(f"{name} is damaged: it is the record of another task, {record.key}")
    return record
