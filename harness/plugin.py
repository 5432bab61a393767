"""What a plugin is: the four decorators, and the small objects that the harness hands to plugins.

A plugin is a class under one of the decorators, with an optional frozen dataclass ``Config`` whose documented fields become its
command-line parameters, and a constructor that takes the config:

    @method("name")     distill(train, budget, context) -> DistilledSet
    @evaluator("name")  build(clip_shape, classes) -> nn.Module
    @dataset("name")    items(split), read(item, clip_shape): see harness.data.base.DatasetPlugin
    @asset("name")      build(train, context) -> tensors;  load(tensors, context) -> anything

Optional on methods and evaluators: ``skip(...) -> reason | None``. Optional on methods and assets: ``assets(info) -> {name: Asset}``, what
they need loaded in ``context.assets``, and ``networks() -> {name: evaluator spec}``, evaluator networks (such as "convnet3d[width=32]")
that they build themselves by ``context.networks[name]()``. What is declared becomes part of the task's key.
The first line of the class docstring is what ``list`` shows. Decorators mark the class and register nothing: the registry finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness.budget import Budget
    from harness.data.base import Split
    from harness.distilled import DistilledSet
    from harness.protocol import TrainingProtocol

KINDS = ("method", "evaluator", "dataset", "asset")
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class NoConfig:
    """A plugin without parameters."""


def _mark(kind: str, name: str) -> Callable[[C], C]:
    def decorate(cls: C) -> C:
        cls.__plugin__ = (kind, name)  # type: ignore[attr-defined]
        if not hasattr(cls, "Config"):
            cls.Config = NoConfig  # type: ignore[attr-defined]
        return cls

    return decorate


def method(name: str) -> Callable[[C], C]:
    """Mark a class as the distillation method ``name``."""
    return _mark("method", name)


def evaluator(name: str) -> Callable[[C], C]:
    """Mark a class as the evaluator network ``name``."""
    return _mark("evaluator", name)


def dataset(name: str) -> Callable[[C], C]:
    """Mark a class as the dataset ``name``."""
    return _mark("dataset", name)


def asset(name: str) -> Callable[[C], C]:
    """Mark a class as the asset ``name``: something learned once from the training split and shared by cells."""
    return _mark("asset", name)


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before a clip is decoded.

    train_per_class, test_per_class: clips of each class, in class order. flip: whether a horizontal flip keeps the label.
    digest: hash of what decides the clips (version, annotation files, names and sizes of the videos, sampling, clip shape).
    """

    name: str
    classes: tuple[str, ...]
    clip_shape: tuple[int, int, int, int]
    train_per_class: tuple[int, ...]
    test_per_class: tuple[int, ...]
    flip: bool
    digest: str


@dataclass(frozen=True)
class Asset:
    """A reference to an asset: its plugin's name and the parameters that differ from its defaults."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


Progress = Callable[[int, int], None]


@dataclass
class Context:
    """What the harness hands to a plugin beside the training split.

    device: where to compute. generator: CPU generator seeded for this task; ``seed`` the same seed as an int.
    assets: the loaded assets that the plugin declared, by the names it gave them; each is loaded on first access.
    networks: builders of the evaluator networks that the plugin declared; each call gives a freshly initialised module on the CPU.
    protocol: the training recipe of the run, for assets that train a network.
    scratch: a folder of this task that survives interruption (checkpoints); removed when the task is done.
    progress(done, total): call it as often as you like. metrics: named numbers for the record. curves: name -> [(step, value)].
    """

    device: torch.device
    generator: torch.Generator
    seed: int
    info: DatasetInfo
    assets: Mapping[str, Any]
    networks: Mapping[str, Callable[[], nn.Module]]
    protocol: TrainingProtocol
    scratch: Path
    progress: Progress
    metrics: dict[str, float | None] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


class MethodPlugin(Protocol):
    """A distillation method. ``native_labels`` says which labels its sets come with: "hard" (default) or "soft"."""

    native_labels: str

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet: ...


class EvaluatorPlugin(Protocol):
    """A network family. Modules take float clips (B, T, C, H, W), normalised, and return logits (B, classes).

    The logits of a clip may depend on the other clips of its batch through torch's batch norm only: a CPU splits batches where
    there is none.
    Where the module has ``embed(clips) -> (B, D)``, selection and matching methods can use it as a feature extractor.
    """

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module: ...


class AssetPlugin(Protocol):
    """Something learned once from the training split. The returned tensors are stored as safetensors."""

    def build(self, train: Split, context: Context) -> dict[str, Tensor]: ...

    def load(self, tensors: dict[str, Tensor], context: Context) -> Any: ...
