"""Plugin files on their way to machines that do not have them: by content, with every module beside them that they import."""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness import code


@dataclass(frozen=True)
class PluginSource:
    """One plugin file. path: where it lies on the machine of the driver. files: name below its folder -> content, of it and its imports."""

    path: str
    files: Mapping[str, bytes]


Parcel = tuple[PluginSource, ...]


def pack(plugins: Sequence[str]) -> Parcel:
    """The content of plugin files. What is installed, and what the harness brings along, is expected on every machine."""
    return tuple(PluginSource(plugin, _contents(Path(plugin).resolve())) for plugin in plugins)


def unpack(parcel: Parcel, folder: Path) -> tuple[str, ...]:
    """Paths of these files on this machine: their own where they are there with the same content, else in a folder below ``folder``."""
    return tuple(_place(source, folder) for source in parcel)


def _contents(path: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes()}
    for file in code.source_files(path, [path.parent]):
        roots = [path.parent] if file.is_relative_to(path.parent) else [Path(entry).resolve() for entry in sys.path]
        around = [root for root in roots if file.is_relative_to(root) and root != code.PROJECT]
        if around:
            files[file.relative_to(max(around, key=lambda root: len(root.parts))).as_posix()] = file.read_bytes()
    return files


def _place(source: PluginSource, folder: Path) -> str:
    name = Path(source.path).name
    if _holds(Path(source.path).parent, source.files):
        return source.path
    sha = hashlib.sha256()
    for file, content in sorted(source.files.items()):
        sha.update(f"{file}\0{len(content)}\0".encode() + content)
    target = folder / sha.hexdigest()[:16]
    if not _holds(target, source.files):
        for file, content in source.files.items():
            path = target / file
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
            temporary.write_bytes(content)
            os.replace(temporary, path)
    return str(target / name)


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    with suppress(OSError):
        return all((folder / name).read_bytes() == content for name, content in files.items())
    return False
