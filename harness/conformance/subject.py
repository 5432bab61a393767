"""What a check is, the plugin that it looks at, and how it says what is wrong."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.budget import Budget
from harness.conformance.tiny import CLASSES, SHAPE, ContextFactory, tiny_split
from harness.data.base import Split
from harness.data.info import ClipShape
from harness.distilled import DistilledSet
from harness.metrics import BY_NAME
from harness.plugin import ROOT_FIELD, Context, DatasetPlugin, EvaluatorPlugin, MethodPlugin
from harness.registry import PluginInfo


class NotApplicable(Exception):
    """A check declines: the text says why."""


@dataclass(frozen=True)
class Check:
    """One requirement of a kind of plugin. slow: takes more than a second or so, and is not run on a command."""

    name: str
    requirement: str
    run: Callable[[Subject], None]
    slow: bool = False


@dataclass(frozen=True)
class Distillation:
    """A set with the split and the context that it was made from."""

    stored: DistilledSet
    train: Split
    context: Context


class Subject:
    """One plugin under check, with what it made so far: a set is distilled once for several checks.

    data_root: the folder of a dataset that is read from disk.
    """

    def __init__(self, contexts: ContextFactory, kind: str, name: str, data_root: Path | None = None) -> None:
        self.contexts, self.kind, self.name, self.data_root = contexts, kind, name, data_root
        self._made: dict[tuple[int, int, ClipShape], Distillation | Exception] = {}

    @property
    def info(self) -> PluginInfo:
        """How the registry describes it."""
        return next(info for info in self.contexts.registry.infos(self.kind) if info.name == self.name)

    def create(self) -> Any:
        """A new instance with its small parameters."""
        return self.contexts.create(self.kind, self.name)

    def distill(self, ipc: int, seed: int = 0, shape: ClipShape = SHAPE) -> Distillation:
        """What a method makes for an IPC, seed and clip shape, once for all checks. Declines where the method does.

        Where the method fails, the first check that asks fails with it, and the others decline.
        """
        key = (ipc, seed, shape)
        if key not in self._made:
            try:
                self._made[key] = self.distill_again(ipc, seed, shape)
            except Exception as error:
                self._made[key] = error
                raise
        made = self._made[key]
        if isinstance(made, Exception):
            raise made if isinstance(made, NotApplicable) else NotApplicable(f"there is no set to look at: {made}")
        return made

    def distill_again(self, ipc: int, seed: int = 0, shape: ClipShape = SHAPE) -> Distillation:
        """The same by a new instance on a new split."""
        plugin: MethodPlugin = self.create()
        train, budget = tiny_split(shape), Budget(ipc, shape, CLASSES)
        if plugin.reference:
            raise NotApplicable("a reference distills nothing")
        reason = plugin.skip(train.info, budget)
        if reason:
            raise NotApplicable(f"it declines IPC {ipc} of {as_text(shape)}: {reason}")
        context = self.contexts(plugin, train, seed)
        stored = plugin.distill(train, budget, context)
        require(isinstance(stored, DistilledSet), f"distill must return a DistilledSet, got {type(stored).__name__}")
        return Distillation(stored, train, context)

    def network(self, shape: ClipShape = SHAPE, seed: int = 0) -> nn.Module:
        """The network of an evaluator for a global seed. Declines where the evaluator does."""
        family: EvaluatorPlugin = self.create()
        reason = family.skip(shape)
        if reason:
            raise NotApplicable(f"it declines {as_text(shape)}: {reason}")
        torch.manual_seed(seed)
        return family.build(shape, CLASSES)

    def dataset(self) -> DatasetPlugin:
        """A new instance of a dataset. Declines where its folder is not known."""
        if self.reads_from_disk and self.data_root is None:
            raise NotApplicable("it is read from disk: name its folder with --data-root DIR")
        plugin: DatasetPlugin = self.contexts.create("dataset", self.name, root=self.data_root)
        return plugin

    @property
    def reads_from_disk(self) -> bool:
        """Whether a dataset is handed the folder of --data-root."""
        return any(field.name == ROOT_FIELD for field in dataclasses.fields(self.contexts.registry.load(self.kind, self.name)))


def check(checks: list[Check], slow: bool = False, **variants: Sequence[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put a function among the checks of a kind of plugin; with ``argument=values`` once for each of the values."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        requirement = " ".join((function.__doc__ or "").split())
        if not variants:
            checks.append(Check(function.__name__, requirement, function, slow))
        for argument, values in variants.items():
            for value in values:
                run = functools.partial(function, **{argument: value})
                checks.append(Check(f"{function.__name__}[{argument}={as_text(value)}]", requirement, run, slow))
        return function

    return add


def require(condition: object, sentence: str) -> None:
    """Raise AssertionError with the sentence unless the condition holds; ``python -O`` keeps it."""
    if not condition:
        raise AssertionError(sentence)


def require_shape(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    require(tuple(tensor.shape) == shape, f"{what} must have shape {shape}, got {tuple(tensor.shape)}")


def require_reason(reason: object) -> None:
    require(reason is None or (isinstance(reason, str) and reason.strip()), f"skip must give None or a sentence, got {reason!r}")


def require_declared(subject: Subject, context: Context) -> None:
    """What a plugin put into context.metrics is in its hook ``metrics``, with a title or a sentence, under a name that is free."""
    declared = {metric.name: metric for metric in subject.create().metrics}
    for name in context.metrics:
        require(name in declared, f"context.metrics[{name!r}] is not declared: add Metric({name!r}, doc='what it is') to its hook metrics")
    for name, metric in declared.items():
        require(metric.title or metric.doc, f"metric {name!r} needs a title or a doc: a report says what its numbers are")
        # What an asset records stands in no row.
        require(subject.kind == "asset" or name not in BY_NAME, f"metric {name!r} has the name of a metric of the harness: choose another")


def same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two dictionaries of tensors are equal to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def as_text(value: object) -> str:
    """A clip shape as 8x1x32x32; anything else as it is."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
