"""Axes -> cells -> a graph of keyed tasks: data -> asset -> distill -> quality, evaluate. Pure: reads no record, imports named plugins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal

from harness import code
from harness.budget import Budget
from harness.config import Config, Resources
from harness.data.info import DatasetInfo
from harness.errors import UsageError
from harness.names import natural_key
from harness.plugin import Asset, AssetPlugin, EvaluatorPlugin, MethodPlugin
from harness.registry import Registry, Resolved
from harness.space import search_space
from harness.spec import (
    KINDS,
    AssetSpec,
    Cell,
    DatasetSpec,
    DataSpec,
    DistillSpec,
    EvaluateSpec,
    Kind,
    Labels,
    PluginSpec,
    ProtocolSpec,
    QualitySpec,
    Spec,
    Tuned,
    task_identity,
    task_key,
)

TEACHER, REFERENCE = "teacher", "feature_reference"
"""Assets that the plan itself asks for: soft labels and `full` need the one, the quality of sets both."""


@dataclass(frozen=True)
class Task:
    """One node of the graph.

    key: SHA-256 of everything that decides the result; identity: the same without the code. inputs: name -> key of the task whose
    result is read. skip: why the task cannot be done at all, or None. kept: its result is there, made by other code, and stays. foreign:
    the plugins ("method mine") that it and its inputs rest on and that are not built in.
    """

    key: str
    identity: str
    kind: Kind
    name: str
    spec: Spec = field(repr=False)
    inputs: Mapping[str, str] = field(repr=False)
    resources: Resources = field(repr=False)
    skip: str | None = None
    kept: bool = False
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The cells of a run and the tasks that they need, inputs before their users, on a dataset as it was described."""

    info: DatasetInfo
    cells: tuple[Cell, ...]
    tasks: Mapping[str, Task]

    def of_kind(self, kind: Kind) -> list[Task]:
        return [t for t in self.tasks.values() if t.kind == kind]

    @cached_property
    def leaves(self) -> list[str]:
        """Keys of what the run is for: its cells, and the quality of their sets."""
        return [*(cell.key for cell in self.cells), *(task.key for task in self.of_kind("quality"))]

    def keeping(self, made_by_other_code: Mapping[str, str]) -> Plan:
        """The plan with results that other code made in the place of tasks: identity -> key of their record."""
        moved: dict[str, str] = {}
        tasks: dict[str, Task] = {}
        for task in self.tasks.values():
            inputs = {name: moved.get(key, key) for name, key in task.inputs.items()}
            old = made_by_other_code.get(task.identity)
            key = old or (task_key(task.spec, inputs) if inputs != dict(task.inputs) else task.key)
            moved[task.key] = key
            tasks[key] = replace(task, key=key, inputs=inputs, kept=old is not None)
        cells = tuple(cell.model_copy(update={"key": moved[cell.key]}) for cell in self.cells)
        return Plan(self.info, cells, tasks)


def plan_run(config: Config, registry: Registry, dataset: Resolved, info: DatasetInfo) -> Plan:
    """The whole graph of a run.

    info: the described dataset; its smallest class bounds the IPC. Raises UsageError on unknown names, empty lists, an IPC above what a
    class holds, and unfit parameters.
    """
    return _Planner(config, registry, dataset, info).plan()


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


def _label_modes(asked: Sequence[Labels], native: Literal["hard", "soft"]) -> list[Labels]:
    """The modes of a method, each once: its own labels are the hard ones where it has no others.

    >>> _label_modes(["native", "hard", "soft"], "hard")
    ['hard', 'soft']
    """
    return list(dict.fromkeys("hard" if mode == "native" and native == "hard" else mode for mode in asked))


class _Planner:
    def __init__(self, config: Config, registry: Registry, dataset: Resolved, info: DatasetInfo) -> None:
        self.config, self.registry, self.info = config, registry, info
        name, self.protocol = config.protocol()
        self.recipe = ProtocolSpec(name=name, recipe=self.protocol.train)
        self.full_recipe = ProtocolSpec(name=name, recipe=self.protocol.full)
        self.dataset = DatasetSpec(**{**dict(dataset.spec), "code": info.code}, digest=info.digest, clip_shape=info.clip_shape)
        self.tasks: dict[str, Task] = {}
        self.cells: dict[str, Cell] = {}
        self._tunable: dict[str, tuple[str, ...]] = {}
        self._tuned: dict[str, Tuned] = {}
        self._codes = {kind: code.harness_digest(kind) for kind in KINDS}
        # A plugin is asked once for each of its axes, not once for each cell.
        self._network_spec = lru_cache(maxsize=None)(lambda spec: registry.resolve("evaluator", spec).spec)
        self._asset_key = lru_cache(maxsize=None)(self._add_asset)
        self._distill_key = lru_cache(maxsize=None)(self._add_distill)
        self._needs = lru_cache(maxsize=None)(self._needs_of)

    def plan(self) -> Plan:
        run = self.config.run
        self.data = self._add(f"prepare {self.info.name}", DataSpec(code=self._codes["data"], dataset=self.dataset), {})
        self.methods = [self._method(s) for s in self.registry.expand("method", run.methods)]
        self.evaluators = [self.registry.resolve("evaluator", s) for s in self.registry.expand("evaluator", run.evaluators)]
        self._check_ipc()
        skips = [self._skip(evaluator.create()) for evaluator in self.evaluators]
        references = [m for m in self.methods if m.cls.reference]  # type: ignore[attr-defined]
        budgeted = [(i, m.create()) for i, m in enumerate(self.methods) if not m.cls.reference]  # type: ignore[attr-defined]
        for seed in run.seeds:
            for evaluator, skip in zip(self.evaluators, skips, strict=True):
                for reference in references:
                    self._reference_cell(reference, evaluator, skip, seed)
        if run.reference and not references:
            for evaluator, skip in zip(self.evaluators, skips, strict=True):
                self._reference_cell(self._method("full"), evaluator, skip, run.seeds[0])
        for seed in run.seeds:
            for ipc in run.ipc:
                for number, plugin in budgeted:
                    distill = self._distill_key(number, ipc, 0 if plugin.deterministic else seed, self._asset_seed(seed))
                    for labels in _label_modes(run.labels, plugin.native_labels):
                        for evaluator, skip in zip(self.evaluators, skips, strict=True):
                            self._cell(self.methods[number], distill, ipc, labels, evaluator, skip, seed)
        order = sorted(
            self.cells.values(),
            key=lambda c: (c.ipc or 0, natural_key(c.method_label), c.labels, natural_key(c.evaluator_label), c.seed),
        )
        return Plan(self.info, tuple(order), self.tasks)

    def _check_ipc(self) -> None:
        smallest = min(self.info.train_per_class)
        for ipc in self.config.run.ipc:
            if ipc > smallest:
                label = self.info.classes[self.info.train_per_class.index(smallest)]
                raise UsageError(
                    f"IPC {ipc} is above what a class holds: {label!r} of {self.info.name!r} has {smallest} training clips. "
                    f"Valid: 1 to {smallest}"
                )

    # Cells

    def _cell(
        self, method: Resolved, distill: str, ipc: int, labels: Labels, evaluator: Resolved, skip: str | None, seed: int
    ) -> None:
        inputs = {"data": self.data, "distill": distill}
        if labels == "soft":
            inputs["teacher"] = self._asset(Asset(TEACHER, {"evaluator": self._teacher(evaluator)}), self._asset_seed(seed))
        spec = EvaluateSpec(
            code=self._codes["evaluate"],
            dataset=self.dataset,
            budget=self._budget(ipc),
            method=method.spec,
            labels=labels,
            evaluator=evaluator.spec,
            protocol=self.recipe,
            seed=seed,
        )
        name = f"{evaluator.label} on {method.label} ipc {ipc} {labels} seed {seed}"
        self._add_cell(name, spec, inputs, self.tasks[distill].skip or skip)

    def _reference_cell(self, method: Resolved, evaluator: Resolved, skip: str | None, seed: int) -> None:
        """`full`: the network that was trained on the whole training split is an asset (a teacher is the same thing); it is only tested."""
        inputs = {"data": self.data}
        if skip is None:
            inputs["teacher"] = self._asset(Asset(TEACHER, {"evaluator": evaluator.label, "seed": seed}))
        spec = EvaluateSpec(
            code=self._codes["evaluate"],
            dataset=self.dataset,
            budget=None,
            method=method.spec,
            labels="hard",
            evaluator=evaluator.spec,
            protocol=self.full_recipe,
            seed=seed,
        )
        self._add_cell(f"{evaluator.label} on {method.label} seed {seed}", spec, inputs, skip)

    def _add_cell(self, name: str, spec: EvaluateSpec, inputs: dict[str, str], skip: str | None) -> None:
        key = self._add(name, spec, inputs, skip)
        if key not in self.cells:
            self.cells[key] = Cell(
                key=key,
                identity=self.tasks[key].identity,
                name=name,
                dataset=spec.dataset.name,
                dataset_label=spec.dataset.label,
                clip_shape=spec.dataset.clip_shape,
                method=spec.method.name,
                method_label=spec.method.label,
                ipc=spec.ipc,
                labels=spec.labels,
                evaluator=spec.evaluator.name,
                evaluator_label=spec.evaluator.label,
                protocol=spec.protocol.name,
                seed=spec.seed,
                tunable=self._tunable[spec.method.name],
                tuned=self._tuned.get(spec.method.label),
            )

    # What they need

    def _method(self, spec: str) -> Resolved:
        """A method with its parameters under the protocol. One that stands as it was tuned, and not at its defaults, is called so."""
        name = spec.partition("[")[0].strip()
        method = self.registry.resolve("method", spec, self.protocol.methods.get(name))
        self._tunable[name] = tuple(search_space(method.cls))
        tuned = self.protocol.tuned.get(name)
        if tuned is None or method.label != name or any(method.spec.params.get(k) != v for k, v in tuned.params.items()):
            return method
        if tuned.better:
            method = replace(method, spec=method.spec.model_copy(update={"label": f"{name} (tuned)"}))
        self._tuned[method.label] = tuned
        return method

    def _add_distill(self, number: int, ipc: int, seed: int, asset_seed: int | None) -> str:
        method, budget = self.methods[number], self._budget(ipc)
        skip, assets, networks = self._needs(number, ipc, asset_seed)
        spec = DistillSpec(
            code=self._codes["distill"],
            dataset=self.dataset,
            budget=budget,
            method=method.spec,
            networks=networks,
            protocol=self.full_recipe,
            seed=seed,
        )
        key = self._add(f"{method.label} ipc {ipc} seed {seed}", spec, {"data": self.data, **assets}, skip)
        if skip is None and self.judges is not None:
            self._add_quality(method, budget, seed, {"data": self.data, "distill": key, **self.judges})
        return key

    def _needs_of(self, number: int, ipc: int, asset_seed: int | None) -> tuple[str | None, dict[str, str], dict[str, PluginSpec]]:
        """Why a method declines a budget, or its assets and networks."""
        plugin: MethodPlugin = self.methods[number].create()
        skip = plugin.skip(self.info, self._budget(ipc))
        return skip, {} if skip else self._declared_assets(plugin, asset_seed), self._networks(plugin)

    @cached_property
    def judges(self) -> dict[str, str] | None:
        """The assets that the quality of sets is measured with; None where it is not asked for, or the teacher does not take such clips."""
        evaluator = self._teacher()
        if not self.config.run.quality or self._skip(self.registry.resolve("evaluator", evaluator).create()) is not None:
            return None
        teacher, reference = Asset(TEACHER, {"evaluator": evaluator}), Asset(REFERENCE, {"teacher": evaluator})
        return {"teacher": self._asset(teacher), "reference": self._asset(reference)}

    def _add_quality(self, method: Resolved, budget: Budget, seed: int, inputs: dict[str, str]) -> None:
        spec = QualitySpec(
            code=self._codes["quality"], dataset=self.dataset, budget=budget, method=method.spec, protocol=self.full_recipe
        )
        self._add(f"{method.label} ipc {budget.ipc} seed {seed}", spec, inputs)

    def _asset_seed(self, seed: int) -> int | None:
        """The seed of the assets of a cell of this seed; None: the one that they have by themselves."""
        return seed if self.config.run.asset_seeds == "run" else None

    def _asset(self, asset: Asset, seed: int | None = None) -> str:
        return self._asset_key(asset.name, tuple(sorted(asset.params.items())), seed)

    def _add_asset(self, name: str, given: tuple[tuple[str, object], ...], seed: int | None) -> str:
        params = dict(given)
        if seed is not None:
            fields = {field.name for field in dataclasses.fields(self.registry.load("asset", name))}
            # Weights that come with the project have one seed, whatever is asked for.
            params = {k: v for k, v in {"seed": seed, "shipped": False}.items() if k in fields and "seed" in fields} | params
        # Where a plugin leaves the teacher open, it is the run's.
        for asset, field_ in ((TEACHER, "evaluator"), (REFERENCE, "teacher")):
            if name == asset and params.get(field_) == "":
                params[field_] = self._teacher()
        resolved = self.registry.resolve("asset", name, params)
        plugin: AssetPlugin = resolved.create()
        spec = AssetSpec(
            code=self._codes["asset"],
            dataset=self.dataset,
            asset=resolved.spec,
            networks=self._networks(plugin),
            protocol=self.full_recipe,
            by_protocol=plugin.uses_protocol,
        )
        shown = ",".join(f"{k}={v}" for k, v in params.items())
        inputs = {"data": self.data, **self._declared_assets(plugin, seed)}
        return self._add(f"{name}[{shown}]" if shown else name, spec, inputs)

    def _teacher(self, evaluator: Resolved | None = None) -> str:
        """Evaluator spec of the run's teacher. evaluator: whose student it teaches; without one, the first of the run."""
        chosen = self.config.run.teacher
        return (evaluator or self.evaluators[0]).label if chosen == "same" else chosen

    def _declared_assets(self, plugin: MethodPlugin | AssetPlugin, seed: int | None) -> dict[str, str]:
        return {name: self._asset(asset, seed) for name, asset in plugin.assets(self.info).items()}

    def _networks(self, plugin: MethodPlugin | AssetPlugin) -> dict[str, PluginSpec]:
        return {name: self._network_spec(spec) for name, spec in plugin.networks().items()}

    def _budget(self, ipc: int) -> Budget:
        return Budget(ipc, self.info.clip_shape, len(self.info.classes))

    def _skip(self, plugin: EvaluatorPlugin) -> str | None:
        return plugin.skip(self.info.clip_shape)

    def _add(self, name: str, spec: Spec, inputs: Mapping[str, str], skip: str | None = None) -> str:
        key = task_key(spec, inputs)
        if key not in self.tasks:
            identity = task_identity(spec, {name: self.tasks[k].identity for name, k in inputs.items()})
            resources, foreign = self.config.resources.of(spec.kind), self._foreign(spec, inputs)
            self.tasks[key] = Task(key, identity, spec.kind, name, spec, inputs, resources, skip, foreign=foreign)
        return key

    def _foreign(self, spec: Spec, inputs: Mapping[str, str]) -> tuple[str, ...]:
        own = {what for what in spec.codes() if what != "harness" and self.registry.is_foreign(*what.split(" ", 1))}
        return tuple(sorted(own.union(*(self.tasks[key].foreign for key in inputs.values()))))
