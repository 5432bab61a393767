"""What is required of every plugin, whatever its kind."""

from __future__ import annotations

import dataclasses

from harness.conformance.subject import Check, Subject, check, require
from harness.plugin import ROOT_FIELD
from harness.spec import canonical_json

CHECKS: list[Check] = []


@check(CHECKS)
def can_be_made(subject: Subject) -> None:
    """It loads, its defaults are valid, and its parameters are JSON values."""
    subject.create()
    resolved = subject.contexts.registry.resolve(subject.kind, subject.name)
    try:
        canonical_json(resolved.spec.keyed(code=True))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"parameters must be numbers, texts, paths, lists or dictionaries: {error}") from error


@check(CHECKS)
def says_what_it_is(subject: Subject) -> None:
    """The first line of its docstring says what it is."""
    require(subject.info.summary, "its class needs a docstring, whose first line list shows")


@check(CHECKS)
def documents_every_parameter(subject: Subject) -> None:
    """Every parameter has a default and a text under it."""
    undocumented = [param.name for param in subject.info.params if not param.doc]
    require(not undocumented, f"a line of text belongs under each parameter; missing under: {', '.join(undocumented)}")
    without_default = [param.name for param in subject.info.params if param.default == "(required)"]
    require(not without_default, f"parameters need defaults; without one: {', '.join(without_default)}")


@check(CHECKS)
def is_frozen(subject: Subject) -> None:
    """It is a frozen dataclass whose fields are the parameters that list shows."""
    plugin = subject.create()
    names = [field.name for field in dataclasses.fields(plugin) if field.name != ROOT_FIELD]
    shown = [param.name for param in subject.info.params]
    require(subject.info.path is None or sorted(names) == sorted(shown), f"its parameters are {names}, list shows {shown}")
    for name in names:
        try:
            setattr(plugin, name, getattr(plugin, name))
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"parameter {name!r} can be changed after the key of the task was made")
