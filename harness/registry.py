"""name -> plugin, for methods, evaluators, datasets and assets.

Plugins come from the built-in folders, from files named by --plugin, and from entry points (groups ``harness.methods``,
``harness.evaluators``, ``harness.datasets``, ``harness.assets``). Built-in plugins are *described* from their source text, so that
``list`` imports none of them; a plugin is imported when it is used, and an entry point's code only when its name is.
A registry is rebuilt from its plugin files inside every worker.
"""

from __future__ import annotations

import ast
import dataclasses
import fnmatch
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import PluginError, UnknownNameError, UsageError, did_you_mean
from harness.plugin import KINDS

_ROOT = Path(__file__).resolve().parent.parent
_BUILT_IN = ("methods", "evaluators", "harness/data", "harness/assets")


@dataclass(frozen=True)
class Param:
    """One field of a plugin's Config, as its source states it."""

    name: str
    type: str
    default: str
    doc: str


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
    """A plugin with all of its parameters decided: what goes into keys and records, and all that a worker needs."""

    kind: str
    name: str
    params: Mapping[str, Any]
    digest: str
    label: str
    cls: type = field(repr=False, compare=False)

    def create(self, *args: Any) -> Any:
        """An instance of the plugin with these parameters. Raises UsageError where its constructor refuses them with a ValueError."""
        try:
            return self.cls(self.cls.Config(**self.params), *args)  # type: ignore[attr-defined]
        except ValueError as error:
            raise UsageError(f"{self.kind} {self.label}: {error}") from error

    def spec(self) -> dict[str, Any]:
        """The JSON form for keys and records."""
        return {"name": self.name, "params": dict(self.params), "digest": self.digest, "label": self.label}


def natural_key(text: str) -> list[Any]:
    """Sort key that puts ipc1, ipc5, ipc10 in that order.

    >>> sorted(["ipc10", "ipc1", "ipc5"], key=natural_key)
    ['ipc1', 'ipc5', 'ipc10']
    """
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", text) if part]


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """Split a plugin spec into its name and inline parameters.

    >>> parse_spec("gvd[guidance=0.2,compose=2]")
    ('gvd', {'guidance': '0.2', 'compose': '2'})

    Raises UsageError when the brackets or an assignment are malformed.
    """
    match = re.fullmatch(r"\s*([^\[\]=,\s]+)\s*(?:\[(.*)\])?\s*", text, re.DOTALL)
    if match is None:
        raise UsageError(f"cannot read {text!r}: write name or name[key=value,key=value]")
    params: dict[str, str] = {}
    for part in split_list(match[2] or ""):
        key, eq, value = part.partition("=")
        if not eq or not key.strip():
            raise UsageError(f"cannot read {part!r} in {text!r}: write name[key=value,key=value]")
        if key.strip() in params:
            raise UsageError(f"parameter {key.strip()!r} is given twice in {text!r}")
        params[key.strip()] = value.strip()
    return match[1], params


def split_list(text: str) -> list[str]:
    """Split at commas that are outside brackets.

    >>> split_list("gvd[guidance=0.2,compose=2],random")
    ['gvd[guidance=0.2,compose=2]', 'random']
    """
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth < 0:
            break
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth != 0:
        raise UsageError(f"unbalanced brackets in {text!r}")
    parts.append(text[start:])
    return [p.strip() for p in parts if p.strip()]


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
                module = ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
                self._scan(path, module, str(path.relative_to(_ROOT)))
        for file in self.plugin_files:
            self._add_file(Path(file))
        for kind in KINDS:
            for entry in importlib.metadata.entry_points(group=f"harness.{kind}s"):
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
        info = self._infos.get((kind, name))
        if info is None:
            broken = [i for i in self._unavailable if i.name == name or Path(i.origin).stem == name]
            if broken:
                raise PluginError(f"{kind} {name!r} is unavailable: {broken[0].error} ({broken[0].origin})")
            raise UnknownNameError(kind, name, self.names(kind))
        if info.error is not None:
            raise PluginError(f"{kind} {name!r} is unavailable: {info.error} ({info.origin})")
        try:
            if info.path is None:
                module_name, _, attr = info.module.partition(":")
                cls = getattr(importlib.import_module(module_name), attr)
            else:
                module = sys.modules.get(info.module) or importlib.import_module(info.module)
                cls = _plugin_classes(module)[(kind, name)]
        except Exception as error:
            raise PluginError(f"{kind} {name!r} is unavailable: {type(error).__name__}: {error} ({info.origin})") from error
        return cls  # type: ignore[no-any-return]

    def resolve(self, kind: str, spec: str, overrides: Mapping[str, Any] | None = None) -> Resolved:
        """Name, parameters and digest of a spec such as ``gvd[guidance=0.2]``.

        Parameters: the plugin's defaults < bench.toml < ``overrides`` (a protocol's) < inline ones. Raises UsageError on an unknown or
        unfit parameter.
        """
        name, inline = parse_spec(spec)
        cls = self.load(kind, name)
        given = {**self._defaults.get(kind, {}).get(name, {}), **(overrides or {}), **inline}
        config = make_config(cls.Config, given, f"{kind} {name!r}")  # type: ignore[attr-defined]
        params = to_jsonable(dataclasses.asdict(config))
        label = f"{name}[{','.join(f'{k}={v}' for k, v in inline.items())}]" if inline else name
        return Resolved(kind, name, params, self.digest(kind, name), label, cls)

    def revive(self, kind: str, spec: Mapping[str, Any]) -> Resolved:
        """The inverse of ``Resolved.spec()``, in a worker. Raises PluginError when the source is not the one that was planned."""
        digest = self.digest(kind, spec["name"])
        if digest != spec["digest"]:
            raise PluginError(f"{kind} {spec['name']!r} changed after the run was planned: run the command again")
        return Resolved(kind, spec["name"], spec["params"], digest, spec["label"], self.load(kind, spec["name"]))

    def resolve_exactly(self, kind: str, name: str, params: Mapping[str, Any]) -> Resolved:
        """A plugin with just these parameters, whatever bench.toml says."""
        return Resolved(kind, name, dict(params), self.digest(kind, name), name, self.load(kind, name))

    def digest(self, kind: str, name: str) -> str:
        """SHA-256 (16 hex digits) of the plugin's source: its file and the modules of methods/ or evaluators/ that it imports."""
        info = self._infos.get((kind, name))
        if info is None:
            raise UnknownNameError(kind, name, self.names(kind))
        if info.path is None:
            module = importlib.import_module(info.module.partition(":")[0])
            sources = [Path(module.__file__)] if module.__file__ else []
        else:
            sources = sorted(_source_files(info.path))
        sha = hashlib.sha256()
        for path in sources:
            sha.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return sha.hexdigest()[:16]

    def _scan(self, path: Path, module: str, origin: str) -> None:
        """Describe the plugins of a source file from its syntax tree."""
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            self._unavailable.append(PluginInfo("?", path.stem, "", origin, module, path, error=f"SyntaxError: {error}"))
            return
        missing = _missing_imports(tree)
        for node in tree.body:
            if not isinstance(node, ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                if not (isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.args):
                    continue
                if decorator.func.id not in KINDS:
                    continue
                name = ast.literal_eval(decorator.args[0])
                summary = (ast.get_docstring(node) or "").split("\n")[0]
                reason = f"No module named {missing!r}" if missing else None
                self._add(PluginInfo(decorator.func.id, name, summary, origin, module, path, _params(node), reason))

    def _add_file(self, path: Path) -> None:
        """Import a file that was named by --plugin; one that fails is listed as unavailable and breaks nothing else."""
        if not path.is_file():
            raise PluginError(f"plugin file {path} does not exist")
        module_name = f"harness_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        try:
            spec = importlib.util.spec_from_file_location(module_name, path)
            if spec is None or spec.loader is None:
                raise ImportError("not a Python file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
        except Exception as error:
            sys.modules.pop(module_name, None)
            self._unavailable.append(
                PluginInfo("?", path.stem, "", str(path), module_name, path, error=f"{type(error).__name__}: {error}")
            )
            return
        nodes = {n.name: n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef)}
        for (kind, name), cls in _plugin_classes(module).items():
            node = nodes.get(cls.__name__)
            summary = (cls.__doc__ or "").strip().split("\n")[0]
            self._add(PluginInfo(kind, name, summary, str(path), module_name, path, _params(node) if node else ()))

    def _add(self, info: PluginInfo) -> None:
        other = self._infos.get((info.kind, info.name))
        if other is not None:
            raise PluginError(f"two plugins claim the {info.kind} name {info.name!r}: {other.origin} and {info.origin}")
        self._infos[(info.kind, info.name)] = info


def make_config(config_class: type, given: Mapping[str, Any], where: str) -> Any:
    """A Config from parameters as text or values, converted to the types of its fields. Raises UsageError, naming field and value."""
    from pydantic import TypeAdapter, ValidationError

    types = {f.name: str(f.type) for f in dataclasses.fields(config_class)}
    known = list(types)
    for key in given:
        if key not in known:
            raise UsageError(f"{where} has no parameter {key!r}{did_you_mean(key, known)}")
    try:
        return TypeAdapter(config_class).validate_python({k: None if v == "none" and "None" in types[k] else v for k, v in given.items()})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"]) or "configuration"
        raise UsageError(f"{where}: parameter {key!r} = {first['input']!r} is not valid: {first['msg']}") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from error


def to_jsonable(value: Any) -> Any:
    """Plain JSON types: tuples become lists, paths text."""
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _plugin_classes(module: ModuleType) -> dict[tuple[str, str], type]:
    found = {}
    for cls in vars(module).values():
        mark = vars(cls).get("__plugin__") if isinstance(cls, type) else None
        if mark is not None and cls.__module__ == module.__name__:
            if mark in found:
                raise PluginError(f"two classes of {module.__name__} claim the {mark[0]} name {mark[1]!r}")
            found[mark] = cls
    return found


def _params(node: ast.ClassDef) -> tuple[Param, ...]:
    """Fields of the nested Config with the text under each."""
    config = next((n for n in node.body if isinstance(n, ast.ClassDef) and n.name == "Config"), None)
    if config is None:
        return ()
    params = []
    for i, item in enumerate(config.body):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            after = config.body[i + 1] if i + 1 < len(config.body) else None
            is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
            doc = " ".join(after.value.value.split()) if is_doc else ""  # type: ignore[union-attr]
            default = ast.unparse(item.value) if item.value is not None else "(required)"
            params.append(Param(item.target.id, ast.unparse(item.annotation), default, doc))
    return tuple(params)


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


def _source_files(path: Path) -> set[Path]:
    """A plugin's file and the modules of methods/ and evaluators/ that it imports, directly or through each other."""
    found: set[Path] = set()
    queue = [path]
    while queue:
        current = queue.pop()
        if current in found or not current.is_file():
            continue
        found.add(current)
        if _ROOT not in current.parents:
            continue
        for node in ast.walk(ast.parse(current.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            if node.level:
                base = current.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            elif node.module and node.module.split(".")[0] in ("methods", "evaluators"):
                base = _ROOT.joinpath(*node.module.split("."))
            else:
                continue
            queue += [base.with_suffix(".py"), base / "__init__.py", *(base / f"{alias.name}.py" for alias in node.names)]
    return found
