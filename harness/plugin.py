"""What a plugin is: the five decorators, every hook that the harness calls, and the small objects that it hands to plugins.

A plugin is a class under one of the decorators. Its annotated attributes are its parameters: they need defaults, the text under each is
its documentation, and the decorator makes the class a frozen dataclass of them, so that it needs no constructor. A ``__post_init__`` may
check them and raise ValueError. A parameter of type ``Path`` names a file or folder, whose content becomes part of the task's key.

    @method("name")     MethodPlugin: distill(train, budget, context) -> DistilledSet
    @evaluator("name")  EvaluatorPlugin: build(clip_shape, classes) -> nn.Module
    @dataset("name")    DatasetPlugin: classes(), items(split), read(item, clip_shape), digest()
    @asset("name")      AssetPlugin: build(train, context) -> tensors;  load(tensors, context) -> anything
    @metric("name")     MetricPlugin: measure(predictions) -> numbers;  matrix(predictions) -> array

The other hooks are optional: the decorator adds the defaults that stand in the classes below. The first line of the class docstring is what
``list`` shows. Decorators mark the class and register nothing: the registry finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, cast, dataclass_transform, runtime_checkable

from harness.errors import DistilledSetError, PluginError
from harness.seeds import derive_seed

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from harness.budget import Budget
    from harness.clip_writer import ClipWriter
    from harness.data.base import Clip, Item, Split
    from harness.data.info import ClipShape, DatasetInfo
    from harness.distilled import DistilledSet
    from harness.metrics import Metric
    from harness.predictions import Predictions
    from harness.protocol import TrainingProtocol
    from harness.record import Cost

KINDS = ("method", "evaluator", "dataset", "asset", "metric")
ROOT_FIELD = "root"
"""The one field that is no parameter: a dataset that declares it is handed the folder of --data-root."""


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
    progress(done, total): call it as often as you like; a task's time limit counts from the last call that said something new.
    metrics: named numbers for the record; what they are called in a report is said by the plugin's hook ``metrics``.
    curves: name -> [(step, value)]. cost: what an asset cost that was made elsewhere (shipped weights).
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
    cost: Cost | None = None
    _writers: int = field(default=0, init=False, repr=False)

    def writer(self, clips: int, clip_shape: ClipShape, parts: int = 1) -> ClipWriter:
        """Room on disk for so many uint8 clips, for ``DistilledSet.of_clips``: memory does not grow with a set that is written to it.

        Where an earlier attempt of this task was interrupted, the clips that it wrote are there (``has``). parts: videos that share a clip.
        Raises TaskError where the disk has no room for them.
        """
        from harness.clip_writer import ClipWriter

        self._writers += 1
        return ClipWriter(self.scratch / f"clips-{self._writers}.uint8", (clips, *clip_shape), parts)

    def generator_of(self, number: int) -> torch.Generator:
        """A CPU generator for one clip, decided by ``seed`` and the clip's number: not by what was drawn before, nor in which batch."""
        import torch

        return torch.Generator().manual_seed(derive_seed("clip", self.seed, number))


class MethodPlugin:
    """A distillation method. ``distill`` is required, but for a reference."""

    metrics: ClassVar[Sequence[Metric]] = ()
    """Title, unit and direction of what the method puts into ``context.metrics``."""
    reference: ClassVar[bool] = False
    """True for `full` alone: not a method of the budget; the network that was trained on the whole training split is tested."""

    @property
    def native_labels(self) -> Literal["hard", "soft"]:
        """The labels that its sets come with; "soft" where it stores logits. A plain class attribute will do."""
        return "hard"

    @property
    def deterministic(self) -> bool:
        """Whether the set does not depend on the seed: one set then serves all seeds. A plain class attribute will do."""
        return False

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        """Why it cannot do this budget, or None. Asked before anything runs."""
        return None

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        """What ``context.assets`` shall hold, by names of its own choice. Becomes part of the key."""
        return {}

    def networks(self) -> dict[str, str]:
        """What ``context.networks`` shall hold: name -> evaluator spec, such as "convnet3d[width=32]". Becomes part of the key."""
        return {}

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        """A set within the budget, from the training split."""
        raise PluginError(f"{type(self).__name__} has no distill(train, budget, context)")

    def materialise(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The clips (N, T, C, H, W) that a set without the tensor "clips" stands for, one for each of its labels.

        They may be more than the budget's: a network is trained on all of them, in the steps of the budget's clips.
        """
        name = type(self).__name__
        raise DistilledSetError(f"the set has no tensor 'clips' and {name} has no materialise(tensors): one of them is needed")

    def materialise_rows(self, tensors: Mapping[str, Tensor], rows: Tensor) -> Tensor | None:
        """The clips at these rows (n,) of what ``materialise`` gives, to the digit; None: they cannot be made apart from the others.

        With it a network is trained on a large set without all of its clips in memory: they are made when a batch needs them.
        """
        return None


class EvaluatorPlugin:
    """A network family. Modules take float clips (B, T, C, H, W), normalised, and return logits (B, classes).

    The logits of a clip may depend on the other clips of its batch through torch's batch norm only: a CPU splits batches where
    there is none. Where the module is ``Embedding`` too, selection and matching methods can use it as a feature extractor.
    """

    metrics: ClassVar[Sequence[Metric]] = ()
    """Title, unit and direction of what ``measure`` puts into ``context.metrics``."""

    def skip(self, clip_shape: ClipShape) -> str | None:
        """Why it does not take such clips, or None."""
        return None

    def build(self, clip_shape: ClipShape, classes: int) -> nn.Module:
        """A network, initialised from torch's global generator."""
        raise PluginError(f"{type(self).__name__} has no build(clip_shape, classes)")

    def measure(self, model: nn.Module, context: Context) -> None:
        """Numbers of its own about a trained network, for ``context.metrics``; the test split is not at hand."""


class DatasetPlugin:
    """A dataset. ``default_shape``, ``classes``, ``items``, ``read`` and ``digest`` are required.

    One that is read from disk declares the field ``root: Path | None = None`` and is handed the folder of --data-root there.
    """

    default_shape: ClipShape
    """Clip shape (T, C, H, W) where none is asked for."""
    flip: bool = False
    """Whether a horizontal flip keeps the label."""
    max_lost: float = 0.02
    """Share of a split's videos that may be unreadable; more is an error."""

    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        raise PluginError(f"{type(self).__name__} has no classes()")

    def items(self, split: str) -> Sequence[Item]:
        """The videos of "train" or "test", in a fixed order. Cheap: reads lists, decodes nothing."""
        raise PluginError(f"{type(self).__name__} has no items(split)")

    def read(self, item: Item, clip_shape: ClipShape) -> Clip:
        """Decode one item. Deterministic: the same item gives the same clip. Raises DataError with the reason if it cannot be read."""
        raise PluginError(f"{type(self).__name__} has no read(item, clip_shape)")

    def read_parts(self, items: Sequence[Item], clip_shape: ClipShape) -> list[Clip]:
        """The clips of one video, where several are taken of each; one that decodes it once for all of them is faster."""
        return [self.read(item, clip_shape) for item in items]

    def recipe(self) -> str | None:
        """What decides the clip of a given file, so that datasets of the same recipe share decoded clips; None: they do not."""
        return None

    def digest(self) -> str:
        """Hash of what decides the clips, without the clip shape."""
        raise PluginError(f"{type(self).__name__} has no digest()")


class AssetPlugin:
    """Something learned once from the training split and shared by cells. ``build`` and ``load`` are required.

    One with a parameter ``seed`` is made anew for every seed of a run with asset_seeds = "run"; a parameter ``shipped`` is then False.
    """

    metrics: ClassVar[Sequence[Metric]] = ()
    """Title, unit and direction of what it puts into ``context.metrics``."""
    uses_protocol: ClassVar[bool] = False
    """Whether ``context.protocol`` decides the result; the recipe is then part of its key."""

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        """Assets that it rests on, by names of its own choice."""
        return {}

    def networks(self) -> dict[str, str]:
        """Evaluator networks that it builds: name -> evaluator spec."""
        return {}

    def build(self, train: Split, context: Context) -> dict[str, Tensor]:
        """The tensors to keep, stored as safetensors."""
        raise PluginError(f"{type(self).__name__} has no build(train, context)")

    def load(self, tensors: dict[str, Tensor], context: Context) -> Any:
        """What users of the asset get, from its stored tensors."""
        raise PluginError(f"{type(self).__name__} has no load(tensors, context)")


class MetricPlugin:
    """Numbers of tested networks that `report` computes from the predictions that evaluations kept: nothing is trained again.

    One of ``measure`` and ``matrix`` is required. It has no part in the key of any task, and needs no torch.
    """

    metrics: ClassVar[Sequence[Metric]] = ()
    """Title, unit and direction of what ``measure`` returns."""

    def measure(self, predictions: Predictions) -> Mapping[str, float | None]:
        """Numbers of one network by the names of ``metrics``; None where one cannot be had, as without logits."""
        return {}

    def matrix(self, predictions: Predictions) -> np.ndarray | None:
        """(classes, classes) numbers of one network, a row for each true class; a table of its own shows their mean over seeds."""
        return None


@runtime_checkable
class Embedding(Protocol):
    """A network with features."""

    def embed(self, clips: Tensor) -> Tensor:
        """Features (B, D) of normalised clips (B, T, C, H, W)."""
        ...


Plugin = MethodPlugin | EvaluatorPlugin | DatasetPlugin | AssetPlugin | MetricPlugin
_HOOKS: Mapping[str, type] = {
    "method": MethodPlugin,
    "evaluator": EvaluatorPlugin,
    "dataset": DatasetPlugin,
    "asset": AssetPlugin,
    "metric": MetricPlugin,
}
C = TypeVar("C", bound=type)


def _mark(kind: str, name: str) -> Callable[[C], C]:
    def decorate(cls: C) -> C:
        if "__init__" in vars(cls):
            raise PluginError(
                f"{kind} {name!r}: {cls.__name__} has a constructor; its annotated attributes are its parameters, "
                "and __post_init__ may check them"
            )
        for hook, default in vars(_HOOKS[kind]).items():
            if not hook.startswith("__") and not hasattr(cls, hook):
                setattr(cls, hook, default)
        cls.__plugin__ = (kind, name)  # type: ignore[attr-defined]
        try:
            return cast(C, dataclass(frozen=True)(cls))
        except (TypeError, ValueError) as error:
            raise PluginError(f"{kind} {name!r}: {error}") from error

    return decorate


@dataclass_transform(frozen_default=True)
def method(name: str) -> Callable[[C], C]:
    """Mark a class as the distillation method ``name``; see MethodPlugin."""
    return _mark("method", name)


@dataclass_transform(frozen_default=True)
def evaluator(name: str) -> Callable[[C], C]:
    """Mark a class as the evaluator network ``name``; see EvaluatorPlugin."""
    return _mark("evaluator", name)


@dataclass_transform(frozen_default=True)
def dataset(name: str) -> Callable[[C], C]:
    """Mark a class as the dataset ``name``; see DatasetPlugin."""
    return _mark("dataset", name)


@dataclass_transform(frozen_default=True)
def asset(name: str) -> Callable[[C], C]:
    """Mark a class as the asset ``name``: something learned once from the training split and shared by cells; see AssetPlugin."""
    return _mark("asset", name)


@dataclass_transform(frozen_default=True)
def metric(name: str) -> Callable[[C], C]:
    """Mark a class as the metric of predictions ``name``; see MetricPlugin."""
    return _mark("metric", name)
