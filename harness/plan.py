"""Axes -> cells -> a graph of keyed tasks: asset -> distil -> evaluate. Pure: reads no file and imports no plugin that was not named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.config import Config, Resources
from harness.errors import UsageError
from harness.plugin import Asset, DatasetInfo
from harness.registry import Registry, Resolved, natural_key, split_list
from harness.store import SCHEMA, content_hash

Kind = Literal["data", "asset", "distill", "evaluate"]
KINDS: tuple[Kind, ...] = ("data", "asset", "distill", "evaluate")


@dataclass(frozen=True)
class Task:
    """One node of the graph.

    key: SHA-256 of everything that decides the result. spec: all that a worker needs, as JSON. inputs: name -> key of the task whose
    artifact is read. skip: why the task cannot be done at all, or None.
    """

    key: str
    kind: Kind
    name: str
    spec: Mapping[str, Any] = field(repr=False)
    inputs: Mapping[str, str] = field(repr=False)
    resources: Resources = field(repr=False)
    skip: str | None = None


@dataclass(frozen=True)
class Cell:
    """One row of the result: fully resolved. ``key`` is that of its evaluate task."""

    key: str
    dataset: str
    method: str
    ipc: int | None
    labels: str
    evaluator: str
    protocol: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """The cells of a run and the tasks that they need, inputs before their users, on a dataset as it was described."""

    info: DatasetInfo
    cells: tuple[Cell, ...]
    tasks: Mapping[str, Task]

    def of_kind(self, kind: Kind) -> list[Task]:
        return [t for t in self.tasks.values() if t.kind == kind]


def derive_seed(role: str, *axes: object) -> int:
    """A seed in [0, 2**31) for one role ("data", "distil", "train"), decided by the named axes alone.

    The seed of training does not take the method as an axis: all methods share initialisation and batch order, so that comparisons
    are paired.
    """
    text = "/".join([role, *(str(a) for a in axes)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31


def plan_run(config: Config, registry: Registry, dataset: Resolved, info: DatasetInfo) -> Plan:
    """The whole graph of a run.

    info: the described dataset; its smallest class bounds the IPC. Raises UsageError on unknown names, empty lists, an IPC above what a
    class holds, and unfit parameters.
    """
    return _Planner(config, registry, dataset, info).plan()


class _Planner:
    def __init__(self, config: Config, registry: Registry, dataset: Resolved, info: DatasetInfo) -> None:
        self.config, self.registry, self.info = config, registry, info
        self.protocol_name, self.protocol = config.protocol()
        self.dataset_spec = {**dataset.spec(), "digest": info.digest, "clip_shape": list(info.clip_shape)}
        self.tasks: dict[str, Task] = {}
        self.cells: list[Cell] = []

    def plan(self) -> Plan:
        run = self.config.run
        self.data = self._add("data", f"prepare {self.info.name}", {"dataset": self.dataset_spec}, {})
        methods = [self._method(s) for s in self.registry.expand("method", run.methods)]
        evaluators = [self.registry.resolve("evaluator", s) for s in self.registry.expand("evaluator", run.evaluators)]
        if not methods or not evaluators:
            raise UsageError("the lists of methods and evaluators may not be empty")
        smallest = min(self.info.train_per_class)
        for ipc in run.ipc:
            if ipc > smallest:
                label = self.info.classes[self.info.train_per_class.index(smallest)]
                raise UsageError(
                    f"IPC {ipc} is above what a class holds: {label!r} of {self.info.name!r} has {smallest} training clips. "
                    f"Valid: 1 to {smallest}"
                )
        references = [m for m in methods if _is_reference(m)]
        budgeted = [m for m in methods if not _is_reference(m)]
        for seed in run.seeds:
            for evaluator in evaluators:
                for reference in references:
                    self._reference_cell(reference, evaluator, seed)
        if run.reference and not references:
            for evaluator in evaluators:
                self._reference_cell(self._method("full"), evaluator, run.seeds[0])
        for seed in run.seeds:
            for ipc in run.ipc:
                for method in budgeted:
                    for labels in run.labels:
                        for evaluator in evaluators:
                            self._cell(method, ipc, labels, evaluator, seed)
        cells = {c.key: c for c in self.cells}
        order = sorted(
            cells.values(), key=lambda c: (c.ipc or 0, natural_key(c.method), c.labels, natural_key(c.evaluator), c.seed)
        )
        return Plan(self.info, tuple(order), self.tasks)

    def _method(self, spec: str) -> Resolved:
        name = spec.partition("[")[0].strip()
        return self.registry.resolve("method", spec, self.protocol.methods.get(name))

    def _cell(self, method: Resolved, ipc: int, labels: str, evaluator: Resolved, seed: int) -> None:
        plugin = method.create()
        if labels == "native" and getattr(plugin, "native_labels", "hard") == "hard":
            labels = "hard"
        distill = self._distill(method, plugin, ipc, seed)
        inputs = {"data": self.data, "distill": distill}
        if labels == "soft":
            teacher = evaluator.label if self.config.run.teacher == "same" else self.config.run.teacher
            inputs["teacher"] = self._asset(Asset("teacher", {"evaluator": teacher}))
        spec = {
            "dataset": self.dataset_spec,
            "budget": self._budget(ipc),
            "method": method.spec(),
            "labels": labels,
            "evaluator": evaluator.spec(),
            "protocol": {"name": self.protocol_name, **self.protocol.train.model_dump()},
            "seed": seed,
        }
        name = f"{evaluator.label} on {method.label} ipc {ipc} {labels} seed {seed}"
        self._add_cell(spec, inputs, name, self.tasks[distill].skip or _skip(evaluator, self.info.clip_shape))

    def _reference_cell(self, method: Resolved, evaluator: Resolved, seed: int) -> None:
        """`full`: the network that was trained on the whole training split is an asset (a teacher is the same thing); it is only tested."""
        skip = _skip(evaluator, self.info.clip_shape)
        inputs = {"data": self.data}
        if skip is None:
            inputs["teacher"] = self._asset(Asset("teacher", {"evaluator": evaluator.label, "seed": seed}))
        spec = {
            "dataset": self.dataset_spec,
            "budget": None,
            "method": method.spec(),
            "labels": "hard",
            "evaluator": evaluator.spec(),
            "protocol": {"name": self.protocol_name, **self.protocol.full.model_dump()},
            "seed": seed,
        }
        self._add_cell(spec, inputs, f"{evaluator.label} on {method.label} seed {seed}", skip)

    def _add_cell(self, spec: dict[str, Any], inputs: dict[str, str], name: str, skip: str | None) -> None:
        key = self._add("evaluate", name, spec, inputs, skip)
        budget = spec["budget"]
        self.cells.append(
            Cell(
                key,
                self.info.name,
                spec["method"]["label"],
                None if budget is None else budget["ipc"],
                spec["labels"],
                spec["evaluator"]["label"],
                self.protocol_name,
                spec["seed"],
            )
        )

    def _distill(self, method: Resolved, plugin: Any, ipc: int, seed: int) -> str:
        from harness.budget import Budget

        if getattr(plugin, "deterministic", False):
            seed = 0
        budget = Budget(ipc, self.info.clip_shape, len(self.info.classes))
        skip = plugin.skip(self.info, budget) if hasattr(plugin, "skip") else None
        inputs = {"data": self.data, **({} if skip else self._declared_assets(plugin))}
        spec = {
            "dataset": self.dataset_spec,
            "budget": self._budget(ipc),
            "method": method.spec(),
            "networks": self._networks(plugin),
            "protocol": {"name": self.protocol_name, **self.protocol.full.model_dump()},
            "seed": seed,
        }
        # How a network is trained on the set does not decide the set, so the recipe stays out of the key. What a method may see of it is
        # that of the full split: a teacher that it looks through is trained by it, and carries it in its own key.
        keyed = {k: v for k, v in spec.items() if k != "protocol"}
        return self._add("distill", f"{method.label} ipc {ipc} seed {seed}", spec, inputs, skip, keyed)

    def _asset(self, asset: Asset) -> str:
        name = asset.name
        resolved = self.registry.resolve("asset", name, dict(asset.params))
        plugin = resolved.create()
        spec = {
            "dataset": self.dataset_spec,
            "asset": resolved.spec(),
            "networks": self._networks(plugin),
            "protocol": {"name": self.protocol_name, **self.protocol.full.model_dump()},
        }
        # An asset that trains by the run's protocol says so; for any other the protocol does not decide the result.
        keyed = spec if getattr(plugin, "uses_protocol", False) else {k: v for k, v in spec.items() if k != "protocol"}
        shown = ",".join(f"{k}={v}" for k, v in asset.params.items())
        inputs = {"data": self.data, **self._declared_assets(plugin)}
        return self._add("asset", f"{name}[{shown}]" if shown else name, spec, inputs, None, keyed)

    def _declared_assets(self, plugin: Any) -> dict[str, str]:
        declared: Mapping[str, Asset] = plugin.assets(self.info) if hasattr(plugin, "assets") else {}
        return {name: self._asset(asset) for name, asset in declared.items()}

    def _networks(self, plugin: Any) -> dict[str, Any]:
        declared: Mapping[str, str] = plugin.networks() if hasattr(plugin, "networks") else {}
        return {name: self.registry.resolve("evaluator", spec).spec() for name, spec in declared.items()}

    def _budget(self, ipc: int) -> dict[str, Any]:
        return {"ipc": ipc, "clip_shape": list(self.info.clip_shape), "classes": len(self.info.classes)}

    def _add(
        self,
        kind: Kind,
        name: str,
        spec: Mapping[str, Any],
        inputs: Mapping[str, str],
        skip: str | None = None,
        keyed: Mapping[str, Any] | None = None,
    ) -> str:
        key = content_hash({"schema": SCHEMA, "kind": kind, "spec": _without_labels(keyed or spec), "inputs": dict(inputs)})
        if key not in self.tasks:
            resources: Resources = getattr(self.config.resources, kind)
            self.tasks[key] = Task(key, kind, name, spec, inputs, resources, skip)
        return key


def _is_reference(method: Resolved) -> bool:
    return bool(getattr(method.cls, "reference", False))


def _skip(evaluator: Resolved, clip_shape: tuple[int, int, int, int]) -> str | None:
    plugin = evaluator.create()
    reason: str | None = plugin.skip(clip_shape) if hasattr(plugin, "skip") else None
    return reason


def _without_labels(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without the texts that only name things: how a plugin was written down, and what the protocol is called."""
    plain: dict[str, Any] = {}
    for name, value in spec.items():
        if isinstance(value, Mapping):
            value = _without_labels({k: v for k, v in value.items() if k != "label" and not (name == "protocol" and k == "name")})
        plain[name] = value
    return plain


def parse_list(text: str, what: str) -> list[str]:
    """A comma-separated list of the command line. Raises UsageError when it is empty."""
    parts = split_list(text)
    if not parts:
        raise UsageError(f"the list of {what} is empty: name at least one")
    return parts


def walk(tasks: Mapping[str, Task], keys: Sequence[str]) -> Iterator[Task]:
    """The tasks of these keys and all that they need, inputs first."""
    seen: set[str] = set()

    def visit(key: str) -> Iterator[Task]:
        if key in seen:
            return
        seen.add(key)
        for upstream in tasks[key].inputs.values():
            yield from visit(upstream)
        yield tasks[key]

    for key in keys:
        yield from visit(key)
