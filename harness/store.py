"""The result store: records, artifacts, logs and sweeps under one root, which is a folder or any fsspec URL.

    records/<key>.json        one per task; carries the hash of its own content
    artifacts/<key>/<file>    what a task made: asset.safetensors, distilled.safetensors, preview.gif, stored.gif ...
    logs/<key>.log            what a task printed, with the traceback if it failed
    running/<key>.json        where a task runs and how far it is; removed when it ends
    sweeps/<id>.json          one per command: its cells, its owner, its environment

Everything is written under a temporary name and renamed, so that a reader never sees half a file. A results folder may come from someone
else: names stay inside of it, links that lead out are not followed, only plain files are read, and none that is larger than it may be.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from harness.errors import DamagedError, StoreError, UsageError
from harness.record import Artifact, Record, Sweep, parse_record
from harness.spec import content_hash, task_key
from harness.text import redacted

_LARGEST_JSON = 64 << 20
"""Bytes of a record, a sweep or a heartbeat; a sweep of 50,000 cells has 40 MB."""
_CHUNK = 1 << 20


class Store:
    """Records and artifacts under ``root``. shown: the same for people, without the credentials of a URL."""

    def __init__(self, root: str | Path) -> None:
        self.fs, path = fsspec.core.url_to_fs(str(root))
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.path = os.path.abspath(path) if self.is_local else path
        self.root = self.path if self.is_local else str(root)
        self.shown = redacted(self.root)

    def check_writable(self) -> None:
        """Raise UsageError unless files can be written here."""
        name = f"records/.probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(name, b"")
            self.fs.rm_file(self._at(name))
        except (OSError, StoreError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            reason = getattr(cause, "strerror", None) or redacted(str(cause))
            raise UsageError(f"cannot write to the results folder {self.shown}: {reason}") from error

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one file so that it appears whole or not at all. Raises StoreError where it cannot be written."""
        target = self._at(name)
        try:
            if not self.is_local:
                self.fs.makedirs(posixpath.dirname(target), exist_ok=True)
                self.fs.pipe_file(target, data)
                return
            self._make_room(target)
            temporary = f"{target}.{uuid.uuid4().hex}.tmp"
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                os.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise StoreError(f"cannot write {name} in {self.shown}: {error.strerror or redacted(str(error))}") from error

    def _make_room(self, target: str) -> None:
        """The folder of a file that will be written. What stands in the way, a folder in a file's place or the reverse, is moved aside."""
        file = Path(target)
        folder = file.parent
        if not folder.is_dir():
            if os.path.lexists(folder):
                os.replace(folder, f"{folder}.{uuid.uuid4().hex}.damaged")
            folder.mkdir(parents=True, exist_ok=True)
        self._confine(str(folder), target)
        if file.is_dir() and not file.is_symlink():
            os.replace(file, f"{file}.{uuid.uuid4().hex}.damaged")

    def read_bytes(self, name: str, limit: int = _LARGEST_JSON) -> bytes:
        """The content of one file. Raises StoreError when it is not there, is no plain file, or has more than ``limit`` bytes."""
        return b"".join(self._chunks(name, limit))

    def _chunks(self, name: str, limit: int) -> Iterator[bytes]:
        target = self._at(name)
        try:
            if self.is_local:
                self._confine(target, target)
                # A pipe without a writer would be waited for; opened so, it is seen to be one.
                descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                handle = os.fdopen(descriptor, "rb")
                found = os.fstat(descriptor)
                size = found.st_size if stat.S_ISREG(found.st_mode) else -1
            else:
                handle = self.fs.open(target, "rb")
                size = int(self.fs.size(target) or 0)
            with handle:
                if size < 0:
                    raise StoreError(f"{name} is damaged: it is not a file")
                if size > limit:
                    raise StoreError(f"{name} is damaged: it has {size:,} bytes, and at most {limit:,} are expected")
                left = limit
                while left and (part := handle.read(min(_CHUNK, left))):
                    left -= len(part)
                    yield part
        except FileNotFoundError as error:
            raise StoreError(f"{name} is missing in {self.shown}") from error
        except OSError as error:
            raise StoreError(f"{name} cannot be read: {error.strerror or redacted(str(error))}") from error

    def _confine(self, path: str, target: str) -> None:
        """Raise StoreError where links lead out of the results folder."""
        root, real = os.path.realpath(self.path), os.path.realpath(path)
        if real != root and not real.startswith(f"{root}{os.sep}"):
            raise StoreError(f"{os.path.relpath(target, self.path)} is a link that leads out of {self.shown}")

    def exists(self, name: str) -> bool:
        return os.path.lexists(self._at(name)) if self.is_local else bool(self.fs.exists(self._at(name)))

    def names(self, folder: str, ending: str = ".json") -> list[str]:
        """Sorted names of the files in one of the store's folders; hidden ones are left out."""
        place = self._at(folder)
        if not self.fs.isdir(place):
            return []
        found = (posixpath.basename(str(path)) for path in self.fs.ls(place, detail=False))
        return sorted(name for name in found if name.endswith(ending) and not name.startswith("."))

    def remove(self, name: str) -> None:
        """Remove a file; a missing one is no error."""
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            self.fs.rm_file(self._at(name))

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
        wanted = None if keys is None else {f"{key}.json" for key in keys}
        records: dict[str, Record] = {}
        damaged: list[str] = []
        for name in self.names("records"):
            if wanted is not None and name not in wanted:
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

    def move_artifact(self, key: str, name: str, path: Path) -> Artifact:
        """Store a local file as one of a task's, without reading it into memory; returns its entry for the record. The file is moved."""
        with open(path, "rb") as file:
            entry = Artifact(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)
        target = self._at(f"artifacts/{key}/{name}")
        try:
            if not self.is_local:
                self.fs.makedirs(posixpath.dirname(target), exist_ok=True)
                self.fs.put_file(str(path), target)
                return entry
            self._make_room(target)
            temporary = f"{target}.{uuid.uuid4().hex}.tmp"
            try:
                shutil.move(path, temporary)  # renamed, or copied where the store is on another disk
                os.replace(temporary, target)
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write {name} of {key} in {self.shown}: {error.strerror or redacted(str(error))}") from error
        return entry

    def open_artifact(self, record: Record, name: str, folder: Path) -> Path:
        """A local file that has been compared with its record: the stored one, or a copy of it in ``folder`` where the store is elsewhere.

        Raises StoreError as ``read_artifact`` does, but for memory, which is not needed.
        """
        place = f"artifacts/{record.key}/{name}"
        if self.is_local:
            self.verify_artifact(record, name)
            return Path(self._at(place))
        copy = folder / f"{record.key}-{name}"
        if not copy.is_file():
            partial = copy.with_suffix(".partial")
            with open(partial, "wb") as file:
                for part in self._verified(record, name):
                    file.write(part)
            partial.rename(copy)
        return copy

    def read_artifact(self, record: Record, name: str) -> bytes:
        """A file that a record names. Raises StoreError when it is missing, not what was written, or larger than this machine's memory."""
        entry = self._entry(record, name)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if entry.bytes > memory:
            raise StoreError(f"artifact {name} of {record.key} has {entry.bytes:,} bytes: more than this machine's memory of {memory:,}")
        return b"".join(self._verified(record, name))

    def verify_artifact(self, record: Record, name: str) -> None:
        """Compare a file with its record, a piece at a time. Raises StoreError as ``read_artifact`` does."""
        for _ in self._verified(record, name):
            pass

    def _verified(self, record: Record, name: str) -> Iterator[bytes]:
        """A file that a record names, a piece at a time; raises StoreError after the last one where it is not what was written."""
        entry, sha, place = self._entry(record, name), hashlib.sha256(), f"artifacts/{record.key}/{name}"
        for part in self._chunks(place, entry.bytes):
            sha.update(part)
            yield part
        if sha.hexdigest() != entry.sha256:
            raise DamagedError(f"artifact {name} of {record.key} is damaged: its checksum differs from its record's", place)

    def set_aside(self, name: str) -> None:
        """Give a damaged file another name, so that it counts as missing and is made again."""
        with contextlib.suppress(OSError):
            self.fs.mv(self._at(name), self._at(f"{name}.{uuid.uuid4().hex}.damaged"))

    def has_artifacts(self, record: Record, or_none: bool = False) -> bool:
        """Whether every file that a record names is there, as a plain file of its size; their content is not read.

        or_none: a missing one will do, as where the artifacts were deleted to save space.
        """
        for name, entry in record.artifacts.items():
            place = self._at(f"artifacts/{record.key}/{name}")
            try:
                if self.is_local:
                    self._confine(place, place)
                found = self.fs.info(os.path.realpath(place) if self.is_local else place)
            except FileNotFoundError:
                if or_none and not self.exists(f"artifacts/{record.key}/{name}"):
                    continue
                return False
            except (OSError, StoreError):
                return False
            if found.get("type") != "file" or found.get("size") != entry.bytes:
                return False
        return True

    @staticmethod
    def _entry(record: Record, name: str) -> Artifact:
        entry = record.artifacts.get(name)
        if entry is None:
            raise StoreError(f"record {record.key} has no artifact {name!r}")
        return entry

    # Sweeps and running tasks

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """A JSON file, or None when it is missing or half gone."""
        try:
            return json.loads(self.read_bytes(name))
        except (StoreError, ValueError, RecursionError):
            return None

    def write_sweep(self, sweep: Sweep) -> None:
        self.write_json(f"sweeps/{sweep.id}.json", sweep.model_dump(mode="json"))

    def read_sweeps(self) -> list[Sweep]:
        """All sweeps that can be read, oldest first."""
        found = []
        for name in self.names("sweeps"):
            with contextlib.suppress(ValidationError, RecursionError):
                found.append(Sweep.model_validate(self.read_json(f"sweeps/{name}")))
        return sorted(found, key=lambda s: s.started_at)

    def _at(self, name: str) -> str:
        """The place of a file. Raises StoreError where its name leads out of the store."""
        if name.startswith("/") or "\0" in name or "\\" in name or ".." in name.split("/"):
            raise StoreError(f"{name!r} is not a name of a file in {self.shown}")
        return posixpath.join(self.path, name)


def _parse(data: bytes, name: str) -> Record:
    """A record from its file: the hash of its content, its schema, the key in its name and the key of its specification must agree."""
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or "content_sha256" not in content:
            raise StoreError(f"{name} is damaged: it is not a complete record")
        if content.pop("content_sha256") != content_hash(content):
            raise StoreError(f"{name} is damaged: its content does not match its checksum")
    except (ValueError, TypeError, RecursionError) as error:  # no JSON; NaN; halves of surrogate pairs; nested too deeply
        raise StoreError(f"{name} is damaged: it is not a complete record") from error
    record = parse_record(content, name)
    if posixpath.basename(name) != f"{record.key}.json":
        raise StoreError(f"{name} is damaged: it is the record of another task, {record.key}")
    if any("/" in file or file in ("", ".", "..") for file in record.artifacts):
        raise StoreError(f"{name} is damaged: it names a file that is not its own")
    if task_key(record.spec, record.inputs) != record.key:
        raise StoreError(f"{name} is damaged: its key is not that of the task that it describes")
    return record
