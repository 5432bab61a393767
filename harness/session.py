"""The benchmark from Python: what the command line, a notebook and the tests call.

    from harness import Session

    session = Session.open(methods="gvd,random", ipc=[1, 5], seeds=3)
    session.run()                             # only what is missing is done
    session.frame()                           # a DataFrame, one row per cell and seed
    session.distilled(session.plan().cells[0])  # clips and labels of a cell's set
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import Config, check_sections, load_config, read_options
from harness.data.info import DatasetInfo
from harness.errors import StoreError, UsageError
from harness.estimate import Estimate, side_by_side
from harness.executors import Executor
from harness.plan import Plan, plan_run
from harness.plugin import DatasetPlugin
from harness.registry import Registry, Resolved
from harness.rows import Row, cell_rows
from harness.runner import Ending, Observer, RunState, cache_folder, execute, survey
from harness.spec import Cell, EvaluateSpec, HeldOut
from harness.store import Store

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from harness.data.cache import ClipCache
    from harness.predictions import Predictions


@dataclass(frozen=True)
class Distilled:
    """A distilled set. clips: (N, T, C, H, W) as a network is trained on them; labels: (N,); soft_labels: (N, classes) logits or None."""

    clips: Tensor
    labels: Tensor
    soft_labels: Tensor | None
    classes: tuple[str, ...]


class Session:
    """One benchmark: a configuration, and the results folder that it names. Nothing is read or run before it is asked for."""

    def __init__(self, config: Config, held_out: HeldOut | None = None) -> None:
        self.config = config
        self.held_out = held_out
        """Where it is given, all is done on the training split, of which a part stands for the test split."""

    @classmethod
    def open(cls, config: str | Path | None = None, *, set: Sequence[str] = (), **run: Any) -> Session:
        """A session on bench.toml.

        config: a TOML file laid over it. set: "section.key=value" overrides. run: keys of [run], such as methods, ipc, evaluators, seeds,
        labels, results; lists may be given as the command line takes them. Raises UsageError on anything that is not valid.
        """
        return cls(load_config(config, tuple(set), read_options(run)))

    @cached_property
    def store(self) -> Store:
        return Store(self.config.run.results)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.config.run.plugins, self.config.plugin_defaults)

    @cached_property
    def resolved_dataset(self) -> Resolved:
        resolved = self.registry.resolve("dataset", self.config.run.dataset)
        return replace(resolved, spec=resolved.spec.model_copy(update={"held_out": self.held_out}))

    @cached_property
    def dataset(self) -> DatasetPlugin:
        """The dataset plugin. Raises UsageError where its root is not there."""
        root = Path(self.config.run.data_root).expanduser() if self.config.run.data_root else None
        if root is not None and not root.is_dir():
            raise UsageError(f"data root {root} does not exist or is not a folder")
        plugin: DatasetPlugin = self.resolved_dataset.create(root)
        return plugin

    @cached_property
    def info(self) -> DatasetInfo:
        """What the dataset says of itself at the configured clip shape."""
        from harness.data.cache import describe

        section = self.config.dataset()
        t, c, h, w = self.dataset.default_shape
        shape = (section.frames or t, c, section.size or h, section.size or w)
        resolved = self.resolved_dataset
        return describe(self.dataset, resolved.name, shape, resolved.spec.code)

    @cached_property
    def cache(self) -> ClipCache:
        """The decoded clips of the dataset."""
        from harness.data.cache import ClipCache

        return ClipCache(self.info, Path(cache_folder(config=self.config, store=self.store)))

    def plan(self) -> Plan:
        """The graph of the run. Everything that can be wrong with it is found here, before any work."""
        return self._plan

    @cached_property
    def _plan(self) -> Plan:
        check_sections(self.config, self.registry)
        return plan_run(self.config, self.registry, self.resolved_dataset, self.info)

    def survey(self) -> RunState:
        """The plan against the store: what is done, and what is to do."""
        return survey(self.plan(), self.store, self.config.run.rerun, self.config.run.stale)

    def estimate(self, state: RunState) -> Estimate:
        """How long what is to do will take on this machine, from like tasks in the results folder."""
        tasks = list(state.to_do.values())
        return state.estimator.total(tasks, side_by_side(tasks, self.config.run.workers, os.cpu_count() or 1))

    def run(self, observers: Sequence[Observer] = (), *, state: RunState | None = None, arguments: Sequence[str] = ()) -> Ending:
        """Do what is missing. Returns "done", "failed" (some cell is not done) or "interrupted".

        observers: told of every task. state: a survey that was just made. arguments: the command line, for the record.
        """
        self.store.check_writable()
        state = state or self.survey()
        if not state.to_do:
            return "done" if state.all_done() else "failed"
        return execute(self.config, state, self.store, self._executor(), observers, arguments)

    def rows(self) -> list[Row]:
        """The rows of this session's cells that have a record, in the plan's order."""
        state = self.survey()
        records, _ = self.store.read_records()
        found = {row.key: row for row in cell_rows(records)}
        return [found[cell.key] for cell in state.plan.cells if cell.key in found]

    def frame(self) -> pd.DataFrame:
        """The rows as a DataFrame: axes, status, and every metric."""
        import pandas as pd

        axes = ("dataset_label", "method_label", "ipc", "labels", "evaluator_label", "protocol", "seed", "status", "reason")
        rows = [{**{name.removesuffix("_label"): getattr(row, name) for name in axes}, **row.values, "key": row.key} for row in self.rows()]
        return pd.DataFrame(rows)

    def distilled(self, cell: Cell) -> Distilled:
        """The set behind a cell. Raises StoreError where it has none: for ``full``, or before it was run."""
        from harness.distilled import DistilledSet
        from harness.tasks.common import materialise

        record = self.store.read_record(cell.key)
        made = None if record is None else self.store.read_record(record.inputs.get("distill", ""))
        if record is None or made is None or made.status != "done":
            raise StoreError(f"cell {cell.name!r} has no distilled set in {self.store.shown}: run it first")
        assert isinstance(record.spec, EvaluateSpec)
        stored = DistilledSet.from_bytes(self.store.read_artifact(made, "distilled.safetensors"))
        method = self.registry.revive("method", record.spec.method).create()
        clips = materialise(method, stored, record.spec.dataset.clip_shape)
        return Distilled(clips, stored.labels, stored.soft_labels, self.info.classes)

    def predictions(self, cell: Cell) -> Predictions:
        """What the network of a cell said of each test clip. Raises StoreError where none were kept, or before it was run."""
        from harness.predictions import read_predictions

        record = self.store.read_record(cell.key)
        found = None if record is None else read_predictions(self.store, record, self.info.classes)
        if found is None:
            raise StoreError(f"cell {cell.name!r} has no predictions in {self.store.shown}: run it, with predictions kept")
        return found

    def _executor(self) -> Executor:
        if self.config.run.executor == "inline":
            from harness.executors.inline import InlineExecutor

            return InlineExecutor()
        try:
            from harness.executors.ray import RayExecutor
            return RayExecutor(self.store, self.config.run.workers, self.config.run.autoscale)
        except ImportError as error:
            raise UsageError(f"the ray executor needs the package {error.name!r}: install it, or use --executor inline") from error
