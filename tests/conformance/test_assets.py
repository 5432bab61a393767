"""Every asset is a dictionary of tensors that is made the same way twice and loads from storage."""

from __future__ import annotations

import torch
from safetensors.torch import load, save

from harness.registry import Registry
from tests.tiny import ContextFactory, tiny_split


def test_builds_stores_and_loads(asset_name: str, registry: Registry, contexts: ContextFactory) -> None:
    plugin, train = registry.resolve("asset", asset_name).create(), tiny_split()
    first, again = (plugin.build(train, contexts(plugin, train)) for _ in range(2))
    assert first
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first), "the same context gives the same asset"
    stored = load(save({name: tensor.detach().cpu().contiguous() for name, tensor in first.items()}))
    another = registry.resolve("asset", asset_name).create()
    assert another.load(stored, contexts(another, train)) is not None
