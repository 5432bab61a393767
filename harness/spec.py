"""What is planned, as frozen types: one specification for each kind of task, its canonical JSON, and the key that follows from it.

The key of a task is the hash of all that decides its result: its specification, the digests of its code, and the keys of its inputs. Its
``identity`` leaves the code out: two records of one identity and different keys are the same task done by different code.
What only names things (how a plugin was written down, what the protocol is called) and what a path is called stand in neither: a parameter
that names a file counts by the content of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.budget import Budget
from harness.protocol import TrainingProtocol

FORMAT: Literal[2] = 2
"""Version of specifications and records; a record of another version is not read. A record's key is checked against its specification
when it is read: where ``keyed`` changes so that earlier specifications get other keys, this number changes too."""
Kind = Literal["data", "asset", "distill", "quality", "evaluate"]
KINDS: tuple[Kind, ...] = ("data", "asset", "distill", "quality", "evaluate")
"""In the order in which tasks run: what others need comes first."""
Labels = Literal["native", "hard", "soft"]
Keep = Literal["none", "classes", "logits"]
"""What an evaluation keeps of its predictions: nothing, the predicted classes, or the logits too."""


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. Raises ValueError on NaN or infinity."""
    return _ENCODER.encode(value)


def content_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HeldOut(_Frozen):
    """That a share of each class's training videos is held out, drawn by the seed, and stands for the test split."""

    share: float = Field(gt=0, lt=1)
    seed: int = 0


class Tuned(_Frozen):
    """How a method's parameters were chosen under a protocol: on training clips that were held out, by mean accuracy.

    params: what was chosen. better: whether the defaults were beaten with fresh seeds; if not, params are the defaults. trials, seconds:
    what the search took. score, default: means of the fresh seeds (without any, of the trials). ipc, dataset: what it was done on.
    """

    params: dict[str, Any]
    better: bool
    trials: int
    seconds: float
    score: float
    default: float
    ipc: tuple[int, ...]
    dataset: str
    search: str


class PluginSpec(_Frozen):
    """A plugin with all of its parameters.

    label: how the user wrote it. code: digest of its source and what that imports. files: parameter -> digest of the file it names.
    held_out: of a dataset, whose digest tells it too: only its training split is used.
    """

    name: str
    params: dict[str, Any]
    label: str
    code: str
    files: dict[str, str] = {}
    held_out: HeldOut | None = None

    def keyed(self, code: bool) -> dict[str, Any]:
        """What of it decides a result."""
        return {"name": self.name, "params": {**self.params, **self.files}, **({"code": self.code} if code else {})}


class DatasetSpec(PluginSpec):
    """A dataset at one clip shape (T, C, H, W). digest: that of DatasetInfo."""

    digest: str
    clip_shape: tuple[int, int, int, int]

    def keyed(self, code: bool) -> dict[str, Any]:
        return {**super().keyed(code), "digest": self.digest, "clip_shape": self.clip_shape}


class ProtocolSpec(_Frozen):
    """A training recipe and the name it has in bench.toml."""

    name: str
    recipe: TrainingProtocol


class _Task(_Frozen):
    """What all tasks have. code: digest of the harness modules that decide this kind of task."""

    code: str
    dataset: DatasetSpec

    def keyed(self, code: bool) -> dict[str, Any]:
        """What decides the result, as JSON; with or without the code."""
        return {"dataset": self.dataset.keyed(code), **({"code": self.code} if code else {})}

    def codes(self) -> dict[str, str]:
        """Digest of every piece of code that decides the result, by what it is of."""
        return {"harness": self.code, f"dataset {self.dataset.name}": self.dataset.code}


class DataSpec(_Task):
    """The clips of a dataset, decoded."""

    kind: Literal["data"] = "data"


class AssetSpec(_Task):
    """Something learned once from the training split. by_protocol: whether the recipe decides it."""

    kind: Literal["asset"] = "asset"
    asset: PluginSpec
    networks: dict[str, PluginSpec]
    protocol: ProtocolSpec
    by_protocol: bool

    def keyed(self, code: bool) -> dict[str, Any]:
        recipe = {"protocol": self.protocol.recipe.keyed()} if self.by_protocol else {}
        networks = {name: network.keyed(code) for name, network in self.networks.items()}
        return {**super().keyed(code), "asset": self.asset.keyed(code), "networks": networks, **recipe}

    def codes(self) -> dict[str, str]:
        networks = {f"evaluator {network.name}": network.code for network in self.networks.values()}
        return {**super().codes(), f"asset {self.asset.name}": self.asset.code, **networks}


class DistillSpec(_Task):
    """A distilled set.

    How a network is trained on the set does not decide the set, so the recipe is not keyed. What a method may see of it is that of the full
    split: a teacher that it looks through is trained by it, and carries it in its own key.
    """

    kind: Literal["distill"] = "distill"
    budget: Budget
    method: PluginSpec
    networks: dict[str, PluginSpec]
    protocol: ProtocolSpec
    seed: int

    def keyed(self, code: bool) -> dict[str, Any]:
        networks = {name: network.keyed(code) for name, network in self.networks.items()}
        own = {"budget": self.budget.keyed(), "method": self.method.keyed(code), "networks": networks, "seed": self.seed}
        return {**super().keyed(code), **own}

    def codes(self) -> dict[str, str]:
        networks = {f"evaluator {network.name}": network.code for network in self.networks.values()}
        return {**super().codes(), f"method {self.method.name}": self.method.code, **networks}


class QualitySpec(_Task):
    """A distilled set seen through a teacher's features."""

    kind: Literal["quality"] = "quality"
    budget: Budget
    method: PluginSpec
    protocol: ProtocolSpec

    def keyed(self, code: bool) -> dict[str, Any]:
        return {**super().keyed(code), "budget": self.budget.keyed(), "method": self.method.keyed(code)}

    def codes(self) -> dict[str, str]:
        return {**super().codes(), f"method {self.method.name}": self.method.code}


class EvaluateSpec(_Task):
    """A network trained on a distilled set and tested; without a budget the reference: trained on the whole split, here only tested."""

    kind: Literal["evaluate"] = "evaluate"
    budget: Budget | None
    method: PluginSpec
    labels: Labels
    evaluator: PluginSpec
    protocol: ProtocolSpec
    seed: int

    @property
    def ipc(self) -> int | None:
        """Instances per class; None for the reference."""
        return None if self.budget is None else self.budget.ipc

    def keyed(self, code: bool) -> dict[str, Any]:
        return {
            **super().keyed(code),
            "budget": None if self.budget is None else self.budget.keyed(),
            "method": self.method.keyed(code),
            "labels": self.labels,
            "evaluator": self.evaluator.keyed(code),
            "protocol": self.protocol.recipe.keyed(),
            "seed": self.seed,
        }

    def codes(self) -> dict[str, str]:
        own = {f"method {self.method.name}": self.method.code, f"evaluator {self.evaluator.name}": self.evaluator.code}
        return {**super().codes(), **own}


class Cell(_Frozen):
    """One row of the result, as it was planned: fully resolved. key and identity are those of its evaluate task; ipc is None for `full`.

    tunable: parameters of its method that can be tuned. tuned: how they were, or None where they never were.
    """

    key: str
    identity: str
    name: str
    dataset: str
    dataset_label: str
    clip_shape: tuple[int, int, int, int]
    method: str
    method_label: str
    ipc: int | None
    labels: Labels
    evaluator: str
    evaluator_label: str
    protocol: str
    seed: int
    tunable: tuple[str, ...] = ()
    tuned: Tuned | None = None


Spec = Annotated[DataSpec | AssetSpec | DistillSpec | QualitySpec | EvaluateSpec, Field(discriminator="kind")]


def task_key(spec: Spec, inputs: Mapping[str, str]) -> str:
    """The key of a task. inputs: name -> key of the task whose result it reads."""
    return content_hash({"format": FORMAT, "kind": spec.kind, "spec": spec.keyed(code=True), "inputs": dict(inputs)})


def task_identity(spec: Spec, inputs: Mapping[str, str]) -> str:
    """What the key would be if code did not count. inputs: name -> identity."""
    return content_hash({"format": FORMAT, "kind": spec.kind, "spec": spec.keyed(code=False), "inputs": dict(inputs)})
