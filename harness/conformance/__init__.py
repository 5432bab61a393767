"""The checks that every plugin passes, on a tiny dataset, in seconds: what ``harness check --plugin FILE`` and tests/conformance run.

A check is a function of one plugin whose docstring is the requirement. It fails by an AssertionError or HarnessError that says what is
wrong in a sentence, and declines by NotApplicable.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.conformance import assets, datasets, evaluators, methods, metrics, plugins
from harness.conformance.subject import Check, NotApplicable, Subject
from harness.conformance.tiny import ContextFactory
from harness.errors import HarnessError, PluginError, UnknownNameError
from harness.names import parse_spec
from harness.plugin import KINDS
from harness.registry import Registry

__all__ = ["Check", "ContextFactory", "NotApplicable", "Result", "Subject", "check_files", "checks", "plugins_of", "run_checks"]
_CHECKS = {
    "method": methods.CHECKS,
    "evaluator": evaluators.CHECKS,
    "dataset": datasets.CHECKS,
    "asset": assets.CHECKS,
    "metric": metrics.CHECKS,
}


@dataclass(frozen=True)
class Result:
    """What one check found. detail: what is wrong, or why it was skipped; empty where all is well."""

    kind: str
    plugin: str
    check: str
    status: Literal["ok", "failed", "skipped"]
    detail: str = ""


def checks(kind: str) -> Sequence[Check]:
    """The checks of a kind of plugin; those of every plugin come first."""
    return plugins.CHECKS + _CHECKS[kind]


def check_files(files: Sequence[str | Path], small: Sequence[str] = (), data_root: Path | None = None) -> Iterator[Result]:
    """Check every plugin of these files. small: specs such as "name[steps=3]" that make a plugin quick; see ``run_checks``."""
    registry = Registry(files)
    names = [named for file in files for named in plugins_of(registry, file)]
    yield from run_checks(registry, names, dict(parse_spec(spec) for spec in small), data_root)


def plugins_of(registry: Registry, file: str | Path) -> list[tuple[str, str]]:
    """(kind, name) of the plugins of a file that was given to the registry. Raises PluginError when it cannot be loaded or has none."""
    path = Path(file).expanduser().resolve()
    infos = [(kind, info) for kind in KINDS for info in registry.infos(kind) if info.path == path]
    for _, info in infos:
        if info.error is not None:
            raise PluginError(f"{file} cannot be loaded: {info.error}")
    if not infos:
        raise PluginError(f"{file} has no plugin: put @method, @evaluator, @dataset, @asset or @metric above a class")
    return [(kind, info.name) for kind, info in infos]


def run_checks(
    registry: Registry,
    names: Sequence[tuple[str, str]],
    small: Mapping[str, Mapping[str, Any]] | None = None,
    data_root: Path | None = None,
) -> Iterator[Result]:
    """Check plugins, named as (kind, name): one result for each check, as it ends. Slow checks are left out.

    small: name of a plugin -> parameters that make it quick. Where a plugin cannot be made, that is its only result. Raises
    UnknownNameError where ``small`` names no plugin.
    """
    known = {name for kind in KINDS for name in registry.names(kind)}
    for name in small or {}:
        if name not in known:
            raise UnknownNameError("plugin", name, known)
    with tempfile.TemporaryDirectory(prefix="harness-check-") as scratch:
        contexts = ContextFactory(registry, Path(scratch), small=small)
        for kind, name in names:
            subject = Subject(contexts, kind, name, data_root)
            for check in checks(kind):
                if check.slow:
                    continue
                result = _result(check, subject)
                yield result
                if result.status == "failed" and check.run is plugins.can_be_made:
                    break


def _result(check: Check, subject: Subject) -> Result:
    named = (subject.kind, subject.name, check.name)
    try:
        check.run(subject)
    except NotApplicable as reason:
        return Result(*named, "skipped", str(reason))
    except (AssertionError, HarnessError) as error:
        return Result(*named, "failed", str(error) or f"an assertion failed at {_place(error, subject)}")
    except Exception as error:
        return Result(*named, "failed", f"{type(error).__name__}: {error} ({_place(error, subject)})")
    return Result(*named, "ok")


def _place(error: Exception, subject: Subject) -> str:
    """File and line where an exception came from: the last ones in the plugin's file, if it passed through that."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(subject.info.path)]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
