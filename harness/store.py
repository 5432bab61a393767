"""The result store: records, artifacts, logs and sweeps under one root, which is a folder or any fsspec URL.

    records/<key>.json        one per task; carries the hash of its own content
    artifacts/<key>/<file>    what a task made: asset.safetensors, distilled.safetensors, preview.gif, stored.gif ...
    logs/<key>.log            what a task printed, with the traceback if it failed
    running/<key>.json        where a task runs and how far it is; removed when it ends
    sweeps/<id>.json          one per command: its cells, its owner, its environment

    data/<name>-<hash>/       decoded clips, for machines without the videos (see harness.data.source)
    leases/<name>.<n>.json    who makes what is made once (see harness.lease)

Everything is written under a temporary name and renamed, so that a reader never sees half a file; an object store's files appear whole.
Whatever a remote store answers with, an error is a StoreError in a sentence, without credentials. A results folder may come from someone
else: names stay inside of it, links that lead out are not followed, only plain files are read, and none that is larger than it may be.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import posixpath
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from harness.errors import DamagedError, StoreError, UsageError
from harness.record import Artifact, Record, Sweep, parse_record
from harness.spec import content_hash, task_key
from harness.text import one_line, redacted

_LARGEST_JSON = 64 << 20
"""Bytes of a record, a sweep or a heartbeat; a sweep of 50,000 cells has 40 MB."""
_CHUNK = 1 << 20
_TOGETHER = 500
"""Records that are asked for at once of a remote store."""
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"}
"""Protocols without folders: making one would make a bucket."""
_EXCLUSIVE = {"s3", "s3a", "gs", "gcs", "memory"}
"""Protocols whose fsspec implementation creates a file in one step, or not at all where there is one; others look first."""


class Store:
    """Records and artifacts under ``root``. shown: the same for people, without the credentials of a URL."""

    def __init__(self, root: str | Path) -> None:
        try:
            # What other nodes write must be seen: no listing is kept.
            self.fs, path = fsspec.core.url_to_fs(str(root), use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UsageError(f"results at {redacted(str(root))} cannot be reached: {redacted(one_line(str(error)))}") from error
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.path = os.path.abspath(path) if self.is_local else path
        self.root = self.path if self.is_local else str(root)
        self.shown = redacted(self.root)
        self._protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)

    @property
    def pace(self) -> float:
        """Seconds between two writes, or two looks, at what changes all the time: each is a request where the store is remote."""
        return 0.5 if self.is_local else 5.0

    @cached_property
    def excludes(self) -> bool:
        """Whether ``create_bytes`` succeeds for one of several at once: tried out, because not every server of a protocol knows how."""
        if self.is_local or not self._protocols & _EXCLUSIVE:
            return self.is_local
        name = f"leases/.probe-{uuid.uuid4().hex}"
        try:
            return self.create_bytes(name, b"") and not self.create_bytes(name, b"")
        finally:
            self.remove(name)

    @contextlib.contextmanager
    def _told(self, what: str, missing: str = "") -> Iterator[None]:
        """Errors of the system, and all that a remote store's client raises, as a StoreError. missing: the whole text for one of them."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if missing and isinstance(error, FileNotFoundError):
                raise StoreError(missing) from error
            if self.is_local and not isinstance(error, OSError):
                raise
            reason = getattr(error, "strerror", None) or redacted(one_line(str(error))) or type(error).__name__
            raise StoreError(f"{what} in {self.shown}: {reason}") from error

    def check_writable(self) -> None:
        """Raise UsageError unless files can be written here."""
        name = f"records/.probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(name, b"")
            self.remove(name)
        except StoreError as error:
            cause = error.__cause__ or error
            reason = getattr(cause, "strerror", None) or redacted(one_line(str(cause)))
            raise UsageError(f"cannot write to the results folder {self.shown}: {reason}") from error

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one file so that it appears whole or not at all. Raises StoreError where it cannot be written."""
        target = self._at(name)
        with self._told(f"cannot write {name}"):
            if not self.is_local:
                self._make_remote_folder(target)
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

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Write a file where there is none; False where there is one. Raises StoreError where it cannot be written."""
        target = self._at(name)
        with self._told(f"cannot write {name}"):
            try:
                if self.is_local:
                    self._make_room(target)
                    with open(target, "xb") as file:
                        file.write(data)
                else:
                    self._make_remote_folder(target)
                    self.fs.pipe_file(target, data, mode="create")
            except FileExistsError:
                return False
        return True

    def _make_remote_folder(self, target: str) -> None:
        if not self._protocols & _OBJECT_STORES:
            self.fs.makedirs(posixpath.dirname(target), exist_ok=True)

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
        with self._told(f"{name} cannot be read", missing=f"{name} is missing in {self.shown}"):
            if self.is_local:
                self._confine(target, target)
                # A pipe without a writer would be waited for; opened so, it is seen to be one.
                descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                handle = os.fdopen(descriptor, "rb")
                found = os.fstat(descriptor)
                size = found.st_size if stat.S_ISREG(found.st_mode) else -1
            else:
                handle = self.fs.open(target, "rb")
                known = getattr(handle, "size", None)
                size = int(self.fs.size(target) if known is None else known)
            with handle:
                _check_size(name, size, limit)
                left = limit
                while left and (part := handle.read(min(_CHUNK, left))):
                    left -= len(part)
                    yield part

    def _confine(self, path: str, target: str) -> None:
        """Raise StoreError where links lead out of the results folder."""
        root, real = os.path.realpath(self.path), os.path.realpath(path)
        if real != root and not real.startswith(f"{root}{os.sep}"):
            raise StoreError(f"{os.path.relpath(target, self.path)} is a link that leads out of {self.shown}")

    def exists(self, name: str) -> bool:
        with self._told(f"{name} cannot be looked for"):
            return os.path.lexists(self._at(name)) if self.is_local else bool(self.fs.exists(self._at(name)))

    def names(self, folder: str, ending: str = ".json") -> list[str]:
        """Sorted names of the files in one of the store's folders; hidden ones are left out."""
        return sorted(self._sizes(folder, ending))

    def _sizes(self, folder: str, ending: str) -> dict[str, int]:
        """Name -> bytes, as far as the store says it without being asked for each."""
        place = self._at(folder)
        with self._told(f"{folder} cannot be listed"):
            try:
                if self.is_local:
                    with os.scandir(place) as entries:
                        sizes = {entry.name: 0 for entry in entries}
                else:
                    sizes = {posixpath.basename(found["name"]): int(found.get("size") or 0) for found in self.fs.ls(place, detail=True)}
            except (FileNotFoundError, NotADirectoryError):
                return {}
        return {name: size for name, size in sizes.items() if name.endswith(ending) and not name.startswith(".")}

    def remove(self, name: str) -> None:
        """Remove a file; a missing one is no error."""
        with self._told(f"cannot remove {name}"), contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
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
        sizes = self._sizes("records", ".json")
        chosen = sorted(sizes if wanted is None else wanted & sizes.keys())
        for name, read in self._read_all("records", chosen, sizes):
            try:
                record = _parse(read(), name)
                records[record.key] = record
            except StoreError as error:
                damaged.append(str(error))
        return records, damaged

    def _read_all(self, folder: str, chosen: list[str], sizes: dict[str, int]) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """(name, what reads it) of files of a folder; many are asked for at once where each is a request."""
        for start in range(0, len(chosen), _TOGETHER):
            names = [f"{folder}/{name}" for name in chosen[start : start + _TOGETHER]]
            got: dict[str, Any] = {}
            if not self.is_local:
                asked = [self._at(name) for name in names if sizes[posixpath.basename(name)] <= _LARGEST_JSON and not glob.has_magic(name)]
                with self._told(f"{folder} cannot be read"):
                    got = self.fs.cat(asked, on_error="return") if asked else {}
            for name in names:
                data = got.get(self._at(name))
                yield name, partial(self.read_bytes, name) if not isinstance(data, bytes) else partial(bytes, data)

    # Files that are too large for memory

    def put_file(self, name: str, path: Path) -> None:
        """Store a file of this machine. Raises StoreError where that fails."""
        target = self._at(name)
        with self._told(f"cannot write {name}"):
            if self.is_local:
                self._make_room(target)
                temporary = f"{target}.{uuid.uuid4().hex}.tmp"
                shutil.copyfile(path, temporary)
                os.replace(temporary, target)
            else:
                self._make_remote_folder(target)
                self.fs.put_file(str(path), target)

    def get_file(self, name: str, path: Path, limit: int) -> None:
        """Copy a file of at most ``limit`` bytes here. Raises StoreError as ``read_bytes`` does, OSError where there is no room."""
        with open(path, "wb") as target:
            for part in self._chunks(name, limit):
                target.write(part)

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
        with contextlib.suppress(StoreError), self._told(f"cannot move {name}"):
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


def _check_size(name: str, size: int, limit: int) -> None:
    if size < 0:
        raise StoreError(f"{name} is damaged: it is not a file")
    if size > limit:
        raise StoreError(f"{name} is damaged: it has {size:,} bytes, and at most {limit:,} are expected")


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
