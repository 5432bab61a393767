"""Which code made a number: digests of source that change when its meaning may and stay when only words do.

A digest is taken from the syntax tree without comments, docstrings and positions. A plugin's covers its file and every module outside
site-packages that it imports, directly or through each other; the harness's own part covers, for each kind of task, the modules
that decide its result. Modules that only carry, plan, store or show are left out: changing them changes no number.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

DECODING = ("data/cache.py", "data/cache_files.py", "data/listed.py", "data/prepare.py", "data/sampling.py", "data/video_files.py")
"""What decides the clips of a dataset, beside its plugin. A cache made by other code is not used."""
_TRAINING = ("protocol.py", "seeds.py", "training.py")
DECIDING: dict[str, tuple[str, ...]] = {
    "data": ("tasks/data.py",),
    "asset": ("data/base.py", "tasks/asset.py", "tasks/common.py", *_TRAINING),
    "distill": ("budget.py", "data/base.py", "data/video_files.py", "distilled.py", "tasks/common.py", "tasks/distill.py", *_TRAINING),
    "quality": (
        "assets/feature_reference.py",
        "data/base.py",
        "distilled.py",
        "quality.py",
        "tasks/common.py",
        "tasks/quality.py",
        *_TRAINING,
    ),
    "evaluate": ("data/base.py", "distilled.py", "evaluation.py", "tasks/common.py", "tasks/evaluate.py", *_TRAINING),
}
"""Modules of harness/ that decide the result of a task, by its kind; those that it rests on stand in its inputs' keys."""
NEUTRAL = frozenset(
    {
        "__init__.py", "data/__init__.py", "data/info.py", "errors.py", "job.py", "measure.py", "metrics.py", "names.py", "plugin.py",
        "code.py", "registry.py", "record.py", "spec.py", "store.py", "tasks/__init__.py", "words.py", "preview.py", "config.py",
        "worker.py", "data/reuse.py", "assets/__init__.py", "data/held_out.py", "guard.py", "space.py", "stopping.py", "text.py",
        "clip_writer.py", "lease.py", "predictions.py",
    }
)  # fmt: skip
"""Modules that tasks import and that decide no number; a test holds every import of a task to be in one of these tables."""


def harness_digest(kind: str) -> str:
    """Digest (16 hex digits) of the harness modules that decide a task of this kind."""
    return digest_of(PROJECT / "harness" / name for name in DECIDING[kind])


def decoding_digest(plugin: str) -> str:
    """Digest of what decodes the clips of a dataset, from the digest of its plugin."""
    return hashlib.sha256(f"{plugin} {digest_of(PROJECT / 'harness' / name for name in DECODING)}".encode()).hexdigest()[:16]


def digest_of(files: Iterable[Path]) -> str:
    """Digest (16 hex digits) of source files, by name and syntax tree."""
    lines = sorted(f"{path.name} {_file_digest(path, *stamp(path))}\n" for path in files)  # names repeat: __init__.py
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def syntax_digest(source: str) -> str:
    """SHA-256 of a module's meaning.

    >>> syntax_digest("x = 1  # one") == syntax_digest("'''A module.'''\\nx = (1)")
    True
    >>> syntax_digest("x = 1") == syntax_digest("x = 2")
    False
    """
    parts: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, ast.AST):
            parts.append(type(node).__name__)
            for name, value in ast.iter_fields(node):
                # Empty fields are left out: a later Python has more of them.
                if name not in ("type_comment", "kind", "ctx") and value not in (None, []):
                    parts.append(name)
                    walk(value)
            parts.append(")")
        elif isinstance(node, list):
            for item in node:
                if not _is_text(item):
                    walk(item)
            parts.append("]")
        else:
            parts.append(repr(node))

    walk(ast.parse(source))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def source_files(path: Path, extra_roots: Sequence[Path] = ()) -> set[Path]:
    """A source file and all modules that it imports, directly or through each other, that are neither the harness's nor installed.

    Imports are found in the text and resolved as Python would, without running anything. extra_roots: folders searched first.
    """
    found: set[Path] = set()
    queue = [path.resolve()]
    while queue:
        current = queue.pop()
        if current not in found and current.is_file():
            found.add(current)
            queue += _imports(current, tuple(extra_roots), *stamp(current))
    return found


def content_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes of all files of a folder. Raises OSError when it cannot be read."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return _content_digest(path, tuple((file, *stamp(file)) for file in files))


@lru_cache(maxsize=64)
def _content_digest(path: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    """The same; several parameters may name one folder of many gigabytes."""
    sha = hashlib.sha256()
    for file, _, _ in files:
        sha.update(f"{file.relative_to(path) if file != path else ''}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
        with open(file, "rb") as handle:
            while part := handle.read(1 << 20):
                sha.update(part)
    return sha.hexdigest()


def _is_text(node: object) -> bool:
    """A statement that is nothing but a string: a docstring, or the text under a field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def stamp(path: Path) -> tuple[int, int]:
    """When a file was changed, and its size: what is known of it is kept as long as both stay."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=1024)
def _file_digest(path: Path, _modified: int, _size: int) -> str:
    return syntax_digest(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=1024)
def _imports(path: Path, roots: tuple[Path, ...], _modified: int, _size: int) -> tuple[Path, ...]:
    """Files of the modules that a file imports."""
    found: dict[Path, None] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= dict.fromkeys(_module_files(alias.name, roots))
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split(".")) if node.module else path.parents[node.level - 1]
            found |= dict.fromkeys(_files_below(base, [alias.name for alias in node.names]))
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                found |= dict.fromkeys(_module_files(name, roots))
    return tuple(found)


def _files_below(base: Path, names: Sequence[str]) -> list[Path]:
    inner = [base / f"{name}{ending}" for name in names for ending in (".py", "/__init__.py")]
    candidates = [base.with_suffix(".py"), base / "__init__.py", *inner]
    return [file for file in candidates if file.is_file()]


def _module_files(name: str, roots: tuple[Path, ...]) -> list[Path]:
    """The files of a dotted module and of its packages; none where it is the harness's, built in, or installed."""
    parts = name.split(".")
    if parts[0] == "harness" or parts[0] in sys.stdlib_module_names:
        return []
    files: list[Path] = []
    search: list[str] | None = [*(str(r) for r in roots), str(PROJECT), *sys.path]
    for i in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: i + 1]) if i == 0 else parts[i], search)
        if spec is None:
            break
        if spec.origin and spec.origin.endswith(".py"):
            file = Path(spec.origin).resolve()
            if _is_installed(file, roots):
                return []
            files.append(file)
        search = list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else None
        if search is None:
            break
    return files


def _is_installed(file: Path, roots: tuple[Path, ...]) -> bool:
    """Whether the innermost folder around a file, of those that are known, is one for installed packages.

    Either may lie in the other: an environment beside a plugin file, and this project in an environment.
    """
    own = (PROJECT / "methods", PROJECT / "evaluators", *roots)
    around = [folder for folder in (*own, *_installed()) if folder in file.parents]
    return bool(around) and max(around, key=lambda folder: len(folder.parts)) in _installed()


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    folders = [paths["purelib"], paths["platlib"], paths["stdlib"], site.getusersitepackages(), *site.getsitepackages()]
    return tuple({Path(folder).resolve() for folder in folders})
