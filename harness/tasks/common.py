"""What the tasks share: the dataset, seeds, contexts, assets, and the draft of what will be recorded."""

from __future__ import annotations

import contextlib
import math
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.base import Clips, Indices, VideoDataset
from harness.data.cache import ClipCache, describe
from harness.data.info import DatasetInfo
from harness.distilled import DistilledSet, check_clips, map_tensors
from harness.errors import TaskError
from harness.job import Job
from harness.measure import Phases
from harness.metrics import Metric
from harness.plugin import AssetPlugin, Context, EvaluatorPlugin, MethodPlugin, Progress
from harness.protocol import TrainingProtocol
from harness.record import Arrays, Artifact, Cost, Record
from harness.registry import Registry
from harness.seeds import derive_seed
from harness.spec import AssetSpec, PluginSpec
from harness.store import Store

TOGETHER = 64 << 20
"""Values of a set's clips that are held in memory together; of more, a batch at a time is read or made. 100 clips of 16x3x112x112."""


@dataclass
class Draft:
    """What a task has found so far; it becomes part of the record however the task ends."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    declared: dict[str, Metric] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=Arrays)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    cost: Cost | None = None


@dataclass
class Work:
    """One task on its worker."""

    job: Job
    store: Store
    registry: Registry
    device: torch.device
    phases: Phases
    progress: Progress
    draft: Draft = field(default_factory=Draft)

    @property
    def scratch(self) -> Path:
        """A folder of this task that survives its interruption."""
        return Path(self.job.cache) / "scratch" / self.job.key

    def open_data(self) -> VideoDataset:
        """The dataset, from the cache; its lists are read again only where its clips must be decoded."""
        info, spec = self.job.info, self.job.spec.dataset
        cache = ClipCache(info, Path(self.job.cache))
        if cache.is_prepared():
            return cache.load()
        plugin = self.registry.revive("dataset", spec).create(Path(self.job.data_root) if self.job.data_root else None)
        if describe(plugin, info.name, info.clip_shape, info.code).digest != info.digest:
            raise TaskError(f"dataset {info.name!r} changed after the run was planned: run the command again")
        return cache.open(plugin, workers=self.job.cpus, progress=self.progress)

    def seed(self, role: str, *axes: object) -> int:
        """The seed of a role on this dataset."""
        return derive_seed(role, self.job.spec.dataset.name, *axes)

    def context(
        self,
        info: DatasetInfo,
        seed: int,
        protocol: TrainingProtocol,
        networks: Mapping[str, PluginSpec] | None = None,
        assets: Mapping[str, str] | None = None,
    ) -> Context:
        """The context of a plugin. assets: name -> key of the asset's record."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        return Context(
            device=self.device,
            generator=torch.Generator().manual_seed(seed),
            seed=seed,
            info=info,
            assets=Assets(assets or {}, self.load_asset),
            networks={name: self.builder(spec) for name, spec in (networks or {}).items()},
            protocol=protocol,
            scratch=self.scratch,
            progress=self.progress,
        )

    def builder(self, spec: PluginSpec) -> Callable[[], nn.Module]:
        """What makes a freshly initialised evaluator network for this dataset."""
        plugin: EvaluatorPlugin = self.registry.revive("evaluator", spec, self.job.keeps).create()
        info = self.job.info
        return lambda: plugin.build(info.clip_shape, len(info.classes))

    def load_asset(self, key: str) -> Any:
        """An asset as its users get it. The random state is left as it was."""
        record = self.record_of(key, "asset")
        spec = record.spec
        assert isinstance(spec, AssetSpec)
        plugin: AssetPlugin = self.registry.revive("asset", spec.asset, self.job.keeps).create()
        seed = self.seed("asset", spec.asset.name)
        inputs = {name: k for name, k in record.inputs.items() if name != "data"}
        with seeded(seed):
            context = self.context(self.job.info, seed, spec.protocol.recipe, spec.networks, inputs)
            return plugin.load(map_tensors(self.store.open_artifact(record, "asset.safetensors", self.scratch)), context)

    def record_of(self, key: str, what: str) -> Record:
        """The record of an input. Raises TaskError when it is not done."""
        record = self.store.read_record(key)
        if record is None or record.status != "done":
            raise TaskError(f"{what} {key[:12]} of this task is not done: run the command again")
        return record

    def distilled(self, method: MethodPlugin, info: DatasetInfo) -> tuple[DistilledSet, Tensor | Clips]:
        """The set that this task rests on, memory-mapped, and the clips (N, T, C, H, W) that it stands for."""
        record = self.record_of(self.job.inputs["distill"], "set")
        self.scratch.mkdir(parents=True, exist_ok=True)
        stored = DistilledSet.open(self.store.open_artifact(record, "distilled.safetensors", self.scratch))
        return stored, clips_of(method, stored, info.clip_shape)

    def keep(self, context: Context, plugin: MethodPlugin | EvaluatorPlugin | AssetPlugin) -> None:
        """Metrics, curves and cost that the plugin put into its context."""
        self.draft.metrics.update({name: None if value is None else float(value) for name, value in context.metrics.items()})
        self.draft.declared.update({metric.name: metric for metric in plugin.metrics if metric.name in context.metrics})
        self.draft.curves.update({name: [(int(s), float(v)) for s, v in points] for name, points in context.curves.items()})
        self.draft.cost = context.cost

    def write_artifact(self, name: str, data: bytes) -> None:
        self.draft.artifacts[name] = self.store.write_artifact(self.job.key, name, data)

    def move_artifact(self, name: str, path: Path) -> None:
        self.draft.artifacts[name] = self.store.move_artifact(self.job.key, name, path)

    def clear_scratch(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)


class Assets(Mapping[str, Any]):
    """Assets by the names a plugin gave them, each loaded on first access."""

    def __init__(self, keys: Mapping[str, str], load_asset: Callable[[str], Any]) -> None:
        self._keys, self._load = dict(keys), load_asset
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._load(self._keys[name])
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def materialise(method: MethodPlugin, stored: DistilledSet, clip_shape: tuple[int, int, int, int]) -> Tensor:
    """The clips that a network is trained on, (N, T, C, H, W): the stored ones, or what the method makes of its tensors."""
    if stored.clips is not None:
        return stored.clips
    clips = method.materialise(dict(stored.tensors))
    check_clips(clips, len(stored.labels), clip_shape)
    return clips


def clips_of(method: MethodPlugin, stored: DistilledSet, clip_shape: tuple[int, int, int, int]) -> Tensor | Clips:
    """The same, but read or made when they are asked for where they are many and that can be done."""
    if stored.file is None or len(stored.labels) * math.prod(clip_shape) <= TOGETHER:
        return materialise(method, stored, clip_shape)
    if stored.clips is None and method.materialise_rows(dict(stored.tensors), torch.zeros(1, dtype=torch.int64)) is None:
        return materialise(method, stored, clip_shape)
    return _StreamedClips(method, stored.file, len(stored.labels), clip_shape)


@dataclass(frozen=True)
class _StreamedClips:
    """The clips of a stored set, a few at a time. The file is mapped anew for each of these reads, so that its pages are given back."""

    method: MethodPlugin
    file: Path
    count: int
    clip_shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return self.count

    def clips(self, indices: Indices = None) -> Tensor:
        rows = torch.arange(self.count)[slice(None) if indices is None else indices]
        tensors = map_tensors(self.file)
        if "clips" in tensors:
            return tensors["clips"].index_select(0, rows)
        clips = self.method.materialise_rows(tensors, rows)
        assert clips is not None
        check_clips(clips, len(rows), self.clip_shape)
        return clips


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators seeded inside, and as they were after it."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        seed_everything(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
