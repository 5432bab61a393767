"""name -> plugin, for methods, evaluators, datasets, assets and metrics of predictions.

Plugins come from the built-in folders, from files named by --plugin, and from entry points (groups ``harness.methods``,
``harness.evaluators``, ``harness.datasets``, ``harness.assets``, ``harness.metrics``). Built-in plugins are *described* from their source
text, so that ``list`` imports none of them; a plugin is imported when it is used, and an entry point's code only when its name is.
A registry is rebuilt from its plugin files inside every worker.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import fnmatch
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness import code
from harness.errors import PluginError, UnknownNameError, UsageError, did_you_mean
from harness.guard import GUARD
from harness.names import natural_key, parse_spec, split_list
from harness.plugin import KINDS, ROOT_FIELD
from harness.spec import PluginSpec
from harness.stopping import Stop

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_ROOT = Path(__file__).resolve().parent.parent
_BUILT_IN = ("methods", "evaluators", "harness/data", "harness/assets", "harness/scores")


@dataclass(frozen=True)
class Param:
    """One parameter of a plugin, as its source states it. space: what ``tune`` may try; empty: it is not tuned."""

    name: str
    type: str
    default: str
    doc: str
    space: str = ""


@dataclass(frozen=True)
class PluginInfo:
    """What is known of a plugin without importing it. ``error`` says why it is unavailable, or is None."""

    kind: str
    name: str
    summary: str
    origin: str
    module: str
    path: Path | None
    params: tuple[Param, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Resolved:
    """A plugin with all of its parameters decided, and its specification: what goes into keys and records, and all that a worker needs."""

    kind: str
    spec: PluginSpec
    cls: type = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def label(self) -> str:
        return self.spec.label

    def create(self, root: Path | None = None) -> Any:
        """An instance of the plugin with these parameters; a dataset that is read from disk is told its root.

        Raises UsageError where the plugin refuses them with a ValueError.
        """
        plugin = _instance(self.cls, dict(self.spec.params), f"{self.kind} {self.label}", root)
        if self.spec.held_out is None:
            return plugin
        from harness.data.held_out import HeldOutDataset

        return HeldOutDataset(plugin, self.spec.held_out)


class Registry:
    """All plugins of one run.

    plugin_files: Python files to load beside the built-ins (imported at once: they were named).
    defaults: kind -> name -> parameters from bench.toml that override a plugin's own defaults.
    """

    def __init__(
        self, plugin_files: Sequence[str | Path] = (), defaults: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None
    ) -> None:
        self.plugin_files = tuple(str(Path(p).expanduser().resolve()) for p in plugin_files)
        self._defaults = defaults or {}
        self._infos: dict[tuple[str, str], PluginInfo] = {}
        self._unavailable: list[PluginInfo] = []
        for folder in _BUILT_IN:
            for path in sorted((_ROOT / folder).rglob("*.py")):
                for info in _describe(path, *code.stamp(path)):
                    if info.kind == "?":
                        self._unavailable.append(info)
                    else:
                        self._add(info)
        for file in self.plugin_files:
            self._add_file(Path(file))
        for kind in KINDS:
            for entry in _entry_points(f"harness.{kind}s", tuple(sys.path)):
                origin = f"entry point {entry.value} of {entry.dist.name if entry.dist else '?'}"
                self._add(PluginInfo(kind, entry.name, "(entry point; loaded when named)", origin, entry.value, None))

    def infos(self, kind: str) -> list[PluginInfo]:
        """Plugins of this kind in natural order; unavailable ones carry their error."""
        broken = [i for i in self._unavailable if i.kind in (kind, "?")]
        return sorted((i for (k, _), i in self._infos.items() if k == kind), key=lambda i: natural_key(i.name)) + broken

    def names(self, kind: str) -> list[str]:
        return [i.name for i in self.infos(kind) if i.error is None]

    def expand(self, kind: str, specs: Iterable[str]) -> list[str]:
        """Replace wildcards ('convnet*') by the names they match, in natural order; keep first mentions.

        Raises UnknownNameError when a wildcard matches nothing.
        """
        found: dict[str, None] = {}
        for spec in specs:
            name, params = parse_spec(spec)
            if any(c in name for c in "*?") and not params:
                matches = fnmatch.filter(self.names(kind), name)
                if not matches:
                    raise UnknownNameError(kind, name, self.names(kind))
                found.update(dict.fromkeys(matches))
            else:
                found[spec] = None
        return list(found)

    def load(self, kind: str, name: str) -> type:
        """The plugin class. Raises UnknownNameError, or PluginError when it cannot be imported."""
        info = self._info(kind, name)
        if info.error is not None:
            raise PluginError(f"{kind} {name!r} is unavailable: {info.error} ({info.origin})")
        try:
            if info.path is None:
                module_name, _, attr = info.module.partition(":")
                with contextlib.nullcontext() if module_name in sys.modules else GUARD.around():
                    cls = getattr(importlib.import_module(module_name), attr)
            else:
                module = sys.modules.get(info.module) or importlib.import_module(info.module)
                cls = _plugin_classes(module)[(kind, name)]
        except Exception as error:
            raise PluginError(f"{kind} {name!r} is unavailable: {type(error).__name__}: {error} ({info.origin})") from error
        return cls  # type: ignore[no-any-return]

    def resolve(self, kind: str, spec: str, overrides: Mapping[str, Any] | None = None) -> Resolved:
        """Name, parameters and digests of a spec such as ``gvd[guidance=0.2]``.

        Parameters: the plugin's defaults < bench.toml < ``overrides`` (a protocol's) < inline ones. Raises UsageError on an unknown or
        unfit parameter.
        """
        name, inline = parse_spec(spec)
        given = {**self._defaults.get(kind, {}).get(name, {}), **(overrides or {}), **inline}
        label = f"{name}[{','.join(f'{k}={v}' for k, v in inline.items())}]" if inline else name
        return self.resolve_exactly(kind, name, given, label)

    def resolve_exactly(self, kind: str, name: str, given: Mapping[str, Any], label: str = "") -> Resolved:
        """A plugin with just these parameters beside its defaults, whatever bench.toml says."""
        cls, where = self.load(kind, name), f"{kind} {name!r}"
        params = read_params(cls, given, where)
        digest, files = self.digest(kind, name), _file_digests(cls, params, where)
        return Resolved(kind, PluginSpec(name=name, params=params, label=label or name, code=digest, files=files), cls)

    def revive(self, kind: str, spec: PluginSpec, by_other_code: bool = False) -> Resolved:
        """The plugin of a specification, in a worker. Raises PluginError when its source or a file is not the one that was planned.

        by_other_code: what it made may have been made by other code than the present, which reads it all the same.
        """
        cls = self.load(kind, spec.name)
        if self.digest(kind, spec.name) != spec.code and not by_other_code:
            raise PluginError(f"{kind} {spec.name!r} changed after the run was planned: run the command again")
        if (found := _file_digests(cls, spec.params, f"{kind} {spec.name!r}")) != spec.files:
            changed = next(name for name in {*found, *spec.files} if found.get(name) != spec.files.get(name))
            raise PluginError(f"{kind} {spec.name!r}: {spec.params[changed]} changed after the run was planned: run the command again")
        return Resolved(kind, spec, cls)

    def digest(self, kind: str, name: str) -> str:
        """Digest (16 hex digits) of the plugin's code: its file and every module outside site-packages that it imports.

        For a dataset also of the harness's decoding.
        """
        info = self._info(kind, name)
        path, roots = info.path, []
        if path is None:
            module = importlib.import_module(info.module.partition(":")[0])
            path = Path(module.__file__ or "")
        if str(path) in self.plugin_files:
            roots = [path.parent]
        found = code.digest_of(code.source_files(path, roots)) if path.is_file() else ""
        return code.decoding_digest(found) if kind == "dataset" else found

    def is_foreign(self, kind: str, name: str) -> bool:
        """Whether a plugin is not built in: its code is a file of --plugin, or that of an entry point."""
        path = self._info(kind, name).path
        return path is None or str(path) in self.plugin_files

    def _info(self, kind: str, name: str) -> PluginInfo:
        info = self._infos.get((kind, name))
        if info is not None:
            return info
        if self._unavailable:
            broken = next((i for i in self._unavailable if name in (i.name, Path(i.origin).stem)), self._unavailable[0])
            raise PluginError(f"{kind} {name!r} is not there, and a plugin file cannot be loaded: {broken.error} ({broken.origin})")
        raise UnknownNameError(kind, name, self.names(kind))

    def _add_file(self, path: Path) -> None:
        """Import a file that was named by --plugin; one that fails is listed as unavailable and breaks nothing else.

        Its folder joins the import path, so that it may import modules beside it.
        """
        if not path.is_file():
            raise PluginError(f"plugin file {path} does not exist")
        module_name = f"harness_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        try:
            module = _import_file(path, module_name)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            nodes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
            for (kind, name), cls in _plugin_classes(module).items():
                node = nodes.get(cls.__name__)
                # From the text: a dataclass without a docstring is given its signature as one.
                doc = ast.get_docstring(node) if node else cls.__doc__
                summary = (doc or "").strip().split("\n")[0]
                params = _params(node, tree, (path.parent, _ROOT)) if node else ()
                self._add(PluginInfo(kind, name, summary, str(path), module_name, path, params))
        except PluginError as error:
            if "two plugins claim" in str(error):
                raise
            self._unavailable.append(PluginInfo("?", path.stem, "", str(path), module_name, path, error=str(error)))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._unavailable.append(PluginInfo("?", path.stem, "", str(path), module_name, path, error=text))

    def _add(self, info: PluginInfo) -> None:
        other = self._infos.get((info.kind, info.name))
        if other is not None:
            raise PluginError(f"two plugins claim the {info.kind} name {info.name!r}: {other.origin} and {info.origin}")
        self._infos[(info.kind, info.name)] = info


@functools.lru_cache(maxsize=1024)
def _describe(path: Path, _modified: int, _size: int) -> tuple[PluginInfo, ...]:
    """The plugins of a built-in file, from its syntax tree; the kind of a file that cannot be read is "?"."""
    module = ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
    origin = str(path.relative_to(_ROOT))
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return (PluginInfo("?", path.stem, "", origin, module, path, error=f"SyntaxError: {error}"),)
    missing = _missing_imports(tree)
    reason = f"No module named {missing!r}" if missing else None
    found = []
    for node in tree.body:
        for kind, name in _marks(node):
            assert isinstance(node, ast.ClassDef)
            summary = (ast.get_docstring(node) or "").split("\n")[0]
            found.append(PluginInfo(kind, name, summary, origin, module, path, _params(node, tree), reason))
    return tuple(found)


@functools.lru_cache(maxsize=16)
def _entry_points(group: str, _search: tuple[str, ...]) -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=group))


def read_params(cls: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All parameters of a plugin class as JSON values: its defaults, and what is given as text or values, converted to the fields' types.

    A ``Path`` becomes absolute, and so does the text of a ``Path | str`` where it names a file or folder. Raises UsageError that names
    field and value.
    """
    types = _param_types(cls)
    for key in given:
        if key not in types:
            raise UsageError(f"{where} has no parameter {key!r}{did_you_mean(key, types)}")
    values = {key: _as_value(value, types[key]) for key, value in given.items()}
    plugin = _instance(cls, values, where)
    return {name: to_jsonable(_as_path(getattr(plugin, name), annotation)) for name, annotation in types.items()}


def _as_value(value: Any, annotation: str) -> Any:
    """What text stands for: "none" where a parameter may be None, "[1,2]" where it is a list."""
    if value == "none" and _mentions(annotation, "None", "Optional"):
        return None
    if isinstance(value, str) and value[:1] + value[-1:] == "[]" and _mentions(annotation, "tuple", "list"):
        return split_list(value[1:-1])
    return value


def to_jsonable(value: Any) -> Any:
    """Plain JSON types: tuples become lists, paths absolute text."""
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(v) for v in value]
    return str(value.expanduser().absolute()) if isinstance(value, Path) else value


def _param_types(cls: type) -> dict[str, str]:
    """Name -> annotation as text, of the fields that are parameters."""
    return {f.name: str(f.type) for f in dataclasses.fields(cls) if f.name != ROOT_FIELD}


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    """What converts and checks the parameters of a plugin class; made once, because it takes milliseconds."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _instance(cls: type, values: Mapping[str, Any], where: str, root: Path | None = None) -> Any:
    from pydantic import ValidationError

    names = {f.name for f in dataclasses.fields(cls)}
    extra = {ROOT_FIELD: root} if ROOT_FIELD in names and root is not None else {}
    try:
        return _adapter(cls).validate_python({**values, **extra})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # what __post_init__ refuses
            raise UsageError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
        key = ".".join(str(p) for p in first["loc"])
        raise UsageError(f"{where}: parameter {key!r} = {first['input']!r} is not valid: {first['msg']}") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from error


def _file_digests(cls: type, params: Mapping[str, Any], where: str) -> dict[str, str]:
    """Parameter -> digest of the content of the file or folder that it names.

    A ``Path | str`` may name something else, such as a model of a hub. Raises UsageError where a ``Path`` names nothing that can be read.
    """
    digests = {}
    for name, annotation in _param_types(cls).items():
        value = params[name]
        if not _mentions(annotation, "Path") or value is None:
            continue
        if not isinstance(value, str):
            raise PluginError(f"{where}: parameter {name!r} is a {annotation}: a file is named by Path, Path | None or Path | str alone")
        path = Path(value)
        if _mentions(annotation, "str") and not path.exists():
            continue
        try:
            digests[name] = code.content_digest(path)
        except OSError as error:
            raise UsageError(f"{where}: parameter {name!r} names {path}: {error.strerror or error}") from error
    return digests


def _mentions(annotation: str, *names: str) -> bool:
    """Whether one of these names is part of an annotation."""
    return re.search(rf"\b({'|'.join(names)})\b", annotation) is not None


def _as_path(value: Any, annotation: str) -> Any:
    """The text of a ``Path | str`` as a Path, where it names something."""
    if isinstance(value, str) and _mentions(annotation, "Path") and (path := Path(value).expanduser()).exists():
        return path
    return value


def _import_file(path: Path, module_name: str) -> ModuleType:
    """The module of a plugin file. Raises whatever its import raises, and PluginError where a module beside it is hidden by another."""
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    _check_siblings(path)
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise PluginError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with GUARD.around():
            spec.loader.exec_module(module)
    except Stop:
        raise
    except BaseException as error:
        sys.modules.pop(module_name, None)
        if isinstance(error, Exception):
            raise
        raise PluginError(f"its import raises {type(error).__name__}") from error
    _check_siblings(path)
    return module


def _check_siblings(path: Path) -> None:
    """Raise PluginError where a module beside a plugin file, which its digest covers, is not the one of that name that is loaded."""
    for sibling in code.source_files(path, [path.parent]) - {path}:
        if sibling.is_relative_to(path.parent):
            name = ".".join(sibling.relative_to(path.parent).with_suffix("").parts).removesuffix(".__init__")
            other = getattr(sys.modules.get(name), "__file__", None)
            if other is not None and Path(other).resolve() != sibling:
                raise PluginError(f"it imports {name!r} from beside it, but a module of that name came from {other}: rename one")


def _plugin_classes(module: ModuleType) -> dict[tuple[str, str], type]:
    found = {}
    for cls in vars(module).values():
        mark = vars(cls).get("__plugin__") if isinstance(cls, type) else None
        if mark is not None and cls.__module__ == module.__name__:
            if mark in found:
                raise PluginError(f"two classes of {module.__name__} claim the {mark[0]} name {mark[1]!r}")
            found[mark] = cls
    return found


def _marks(node: ast.stmt) -> list[tuple[str, str]]:
    """(kind, name) of the plugin decorators of a class."""
    if not isinstance(node, ast.ClassDef):
        return []
    calls = [d for d in node.decorator_list if isinstance(d, ast.Call) and isinstance(d.func, ast.Name) and d.args]
    return [(d.func.id, ast.literal_eval(d.args[0])) for d in calls if d.func.id in KINDS]  # type: ignore[attr-defined]


def _params(node: ast.ClassDef, tree: ast.Module, folders: tuple[Path, ...] = (_ROOT,)) -> tuple[Param, ...]:
    """The annotated attributes of a class with the text under each, after those that it inherits, as a dataclass orders them.

    folders: where the modules are that its bases are imported from.
    """
    params: dict[str, Param] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and (found := _find_class(base.id, tree, folders)) is not None:
            params |= {param.name: param for param in _params(*found, folders)}
    for i, item in enumerate(node.body):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id != ROOT_FIELD:
            annotation, space = _annotation(item.annotation)
            if annotation.startswith("ClassVar"):
                continue
            after = node.body[i + 1] if i + 1 < len(node.body) else None
            is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
            doc = " ".join(after.value.value.split()) if is_doc else ""  # type: ignore[union-attr]
            default = ast.unparse(item.value) if item.value is not None else "(required)"
            params[item.target.id] = Param(item.target.id, annotation, default, doc, space)
    return tuple(params.values())


def _annotation(node: ast.expr) -> tuple[str, str]:
    """Type and search space of a field: those of ``Annotated[float, Log(1, 100)]`` are "float" and "Log(1, 100)"."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Annotated":
        assert isinstance(node.slice, ast.Tuple)
        kind, *rest = node.slice.elts
        return ast.unparse(kind), ", ".join(ast.unparse(part) for part in rest)
    return ast.unparse(node), ""


def _find_class(name: str, tree: ast.Module, folders: tuple[Path, ...]) -> tuple[ast.ClassDef, ast.Module] | None:
    """A class of this module, or of the module that it is imported from, with its module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, tree
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            for folder in folders:
                base = folder.joinpath(*node.module.split("."))
                for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
                    if path.is_file():
                        return _find_class(name, ast.parse(path.read_text(encoding="utf-8")), folders)
    return None


def _missing_imports(tree: ast.Module) -> str | None:
    """The first top-level import of a module that is not installed, found without importing anything."""
    for node in tree.body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        for name in names:
            top = name.split(".")[0]
            if top not in sys.modules and top not in sys.stdlib_module_names and importlib.util.find_spec(top) is None:
                return top
    return None
