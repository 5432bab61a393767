"""A tiny learnable dataset and the contexts of plugins on it, as the checks use them: no file, no download, no run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.data.base import Split
from harness.data.info import ClipShape, DatasetInfo
from harness.names import parse_spec
from harness.plan import REFERENCE, TEACHER
from harness.plugin import Asset, AssetPlugin, Context, MethodPlugin
from harness.protocol import TrainingProtocol
from harness.registry import Registry
from harness.tasks.common import seed_everything

SHAPE: ClipShape = (8, 1, 32, 32)
CLASSES, PER_CLASS = 3, 6
PROTOCOL = TrainingProtocol(epochs=2, batch=8)
NETWORK = "convnet3d[width=4]"
"""The teacher where a plugin leaves the choice to the run, and the network that sets are tried on."""


def tiny_split(clip_shape: ClipShape = SHAPE, classes: int = CLASSES, per_class: int = PER_CLASS, seed: int = 0) -> Split:
    """Noise with a bright square that moves at the speed of its class; classes alternate. Every call gives the same clips of its own."""
    frames, _, height, width = clip_shape
    rng = np.random.default_rng(seed)
    n = classes * per_class
    labels = np.arange(n) % classes
    clips = rng.integers(0, 90, (n, *clip_shape), dtype=np.uint8)
    side = max(2, height // 4)
    for i, label in enumerate(labels):
        y, x = rng.integers(0, height - side), rng.integers(0, width)
        for t in range(frames):
            columns = (x + t * (label + 1) + np.arange(side)) % width
            clips[i, t, :, y : y + side, columns] += 150
    names = tuple(f"class-{c}" for c in range(classes))
    info = DatasetInfo("tiny", names, clip_shape, (per_class,) * classes, (1,) * classes, False, f"tiny-{seed}")
    native = torch.full((n,), 2 * frames, dtype=torch.int64)
    return Split(clips, torch.from_numpy(labels), native, [f"train-{i:03d}" for i in range(n)], info)


class ContextFactory:
    """Contexts as the harness makes them; the assets that plugins declare are built for real, once for each split.

    small: name of a plugin -> parameters that make it quick; what a plugin declares itself goes before them.
    """

    def __init__(
        self,
        registry: Registry,
        scratch: Path,
        protocol: TrainingProtocol = PROTOCOL,
        small: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.registry, self.scratch, self.protocol, self.small = registry, scratch, protocol, small or {}
        self._made = 0
        self._built: dict[tuple[str, str], Any] = {}

    def __call__(self, plugin: MethodPlugin | AssetPlugin, train: Split, seed: int = 0) -> Context:
        """The context of a method or an asset. Seeds the global generators, as a task does."""
        assets = {name: self._asset(asset, train) for name, asset in plugin.assets(train.info).items()}
        networks = {name: self._builder(spec, train.info) for name, spec in plugin.networks().items()}
        return self.bare(train, seed, assets, networks)

    def bare(
        self,
        train: Split,
        seed: int = 0,
        assets: Mapping[str, Any] | None = None,
        networks: Mapping[str, Callable[[], nn.Module]] | None = None,
    ) -> Context:
        """The context of an evaluator: without assets and networks."""
        self._made += 1
        scratch = self.scratch / str(self._made)  # a task's own, as in a run: nothing resumes from another's checkpoint
        scratch.mkdir(parents=True)
        seed_everything(seed)
        return Context(
            device=torch.device("cpu"),
            generator=torch.Generator().manual_seed(seed),
            seed=seed,
            info=train.info,
            assets=assets or {},
            networks=networks or {},
            protocol=self.protocol,
            scratch=scratch,
            progress=lambda done, total: None,
        )

    def create(self, kind: str, spec: str, params: Mapping[str, Any] | None = None, root: Path | None = None) -> Any:
        """A plugin with its small parameters; a teacher that is left open is a small one."""
        name = parse_spec(spec)[0]
        given = {**self.small.get(name, {}), **(params or {})}
        open_field = {TEACHER: "evaluator", REFERENCE: "teacher"}.get(name) if kind == "asset" else None
        if open_field is not None and not given.get(open_field):
            given[open_field] = NETWORK
        return self.registry.resolve(kind, spec, given).create(root)

    def _builder(self, spec: str, info: DatasetInfo) -> Callable[[], nn.Module]:
        family = self.create("evaluator", spec)
        return lambda: family.build(info.clip_shape, len(info.classes))  # type: ignore[no-any-return]

    def _asset(self, asset: Asset, train: Split) -> Any:
        plugin: AssetPlugin = self.create("asset", asset.name, asset.params)
        key = (f"{asset.name} {sorted(asset.params.items())}", train.info.digest + str(train.info.clip_shape))
        if key not in self._built:
            self._built[key] = plugin.build(train, self(plugin, train))
        return plugin.load(self._built[key], self(plugin, train))
