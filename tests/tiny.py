"""A tiny learnable dataset and the context of one task, for tests of plugins: no file, no download, no runner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.data.base import Split
from harness.plugin import Asset, Context, DatasetInfo
from harness.protocol import TrainingProtocol
from harness.registry import Registry

SHAPE = (8, 1, 32, 32)
PROTOCOL = TrainingProtocol(epochs=2, batch=8)


def tiny_split(clip_shape: tuple[int, int, int, int] = SHAPE, classes: int = 3, per_class: int = 6, seed: int = 0) -> Split:
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
    """Contexts as the harness makes them; the assets that plugins declare are built for real, once for each split."""

    def __init__(self, registry: Registry, scratch: Path, protocol: TrainingProtocol = PROTOCOL) -> None:
        self.registry, self.scratch, self.protocol = registry, scratch, protocol
        self._made = 0
        self._built: dict[tuple[str, str], Any] = {}

    def __call__(self, plugin: Any, train: Split, seed: int = 0) -> Context:
        declared: dict[str, Asset] = plugin.assets(train.info) if hasattr(plugin, "assets") else {}
        self._made += 1
        scratch = self.scratch / str(self._made)  # a task's own, as in a run: nothing resumes from another's checkpoint
        scratch.mkdir(parents=True)
        context = Context(
            device=torch.device("cpu"),
            generator=torch.Generator().manual_seed(seed),
            seed=seed,
            info=train.info,
            assets={},
            networks=self._networks(plugin, train.info),
            protocol=self.protocol,
            scratch=scratch,
            progress=lambda done, total: None,
        )
        context.assets = {name: self._asset(asset, train) for name, asset in declared.items()}
        torch.manual_seed(seed)
        return context

    def _networks(self, plugin: Any, info: DatasetInfo) -> dict[str, Callable[[], nn.Module]]:
        specs: dict[str, str] = plugin.networks() if hasattr(plugin, "networks") else {}

        def builder(spec: str) -> Callable[[], nn.Module]:
            family = self.registry.resolve("evaluator", spec).create()
            return lambda: family.build(info.clip_shape, len(info.classes))  # type: ignore[no-any-return]

        return {name: builder(spec) for name, spec in specs.items()}

    def _asset(self, asset: Asset, train: Split) -> Any:
        plugin = self.registry.resolve("asset", asset.name, dict(asset.params)).create()
        key = (f"{asset.name} {sorted(asset.params.items())}", train.info.digest + str(train.info.clip_shape))
        if key not in self._built:
            self._built[key] = plugin.build(train, self(plugin, train))
        return plugin.load(self._built[key], self(plugin, train))
