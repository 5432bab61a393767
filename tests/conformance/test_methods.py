"""Every method keeps its budget, repeats itself, leaves the training split alone, and gives a set that trains a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.budget import Budget, audit
from harness.distilled import DistilledSet
from harness.registry import Registry
from harness.training import train_network
from harness.worker import materialise
from tests.tiny import SHAPE, ContextFactory, tiny_split

CLASSES, PER_CLASS = 3, 6
COLOUR = (8, 3, 32, 32)

Distil = Callable[..., DistilledSet]


@pytest.fixture(scope="session")
def distil(registry: Registry, contexts: ContextFactory) -> Distil:
    """The set that a method gives for an IPC, seed and clip shape; each is made once unless ``again`` is set."""
    made: dict[tuple[object, ...], DistilledSet] = {}

    def run(name: str, ipc: int, seed: int = 0, shape: tuple[int, int, int, int] = SHAPE, again: bool = False) -> DistilledSet:
        key = (name, ipc, seed, shape)
        if key not in made or again:
            plugin = registry.resolve("method", name).create()
            if getattr(plugin, "reference", False):
                pytest.skip("a reference distils nothing")
            train, budget = tiny_split(shape, CLASSES, PER_CLASS), Budget(ipc, shape, CLASSES)
            reason = plugin.skip(train.info, budget) if hasattr(plugin, "skip") else None
            if reason:
                pytest.skip(reason)
            result = plugin.distill(train, budget, contexts(plugin, train, seed))
            if again:
                return result  # type: ignore[no-any-return]
            made[key] = result
        return made[key]

    return run


@pytest.mark.parametrize("ipc", [1, 3])
def test_keeps_its_budget(method_name: str, ipc: int, distil: Distil, registry: Registry) -> None:
    stored = distil(method_name, ipc)
    stored.validate(SHAPE, CLASSES)
    figures = audit(stored, Budget(ipc, SHAPE, CLASSES))
    assert 0 < figures["frames_stored"] <= CLASSES * ipc * SHAPE[0]
    assert stored.labels.unique().tolist() == list(range(CLASSES)), "every class has a clip"
    assert registry.load("method", method_name).native_labels == ("hard" if stored.soft_labels is None else "soft")  # type: ignore[attr-defined]


def test_colour_clips(method_name: str, distil: Distil) -> None:
    stored = distil(method_name, 1, shape=COLOUR)
    stored.validate(COLOUR, CLASSES)
    audit(stored, Budget(1, COLOUR, CLASSES))


def test_same_seed_same_set(method_name: str, distil: Distil) -> None:
    same = distil(method_name, 1).to_bytes() == distil(method_name, 1, again=True).to_bytes()
    assert same, "two runs with the same context give different sets"


def test_another_seed_another_set(method_name: str, distil: Distil, registry: Registry) -> None:
    sets = [hashlib.sha256(distil(method_name, 3, seed).to_bytes()).hexdigest() for seed in (0, 1, 2)]
    if getattr(registry.load("method", method_name), "deterministic", False):
        assert len(set(sets)) == 1, "the class says deterministic = True"
    else:
        assert len(set(sets)) > 1, "nothing is drawn from context.generator or context.seed: say deterministic = True on the class"


def test_survives_storage(method_name: str, distil: Distil, registry: Registry) -> None:
    stored = distil(method_name, 1)
    read = DistilledSet.from_bytes(stored.to_bytes())
    assert read.tensors.keys() == stored.tensors.keys()
    assert all(torch.equal(read.tensors[name], tensor.cpu()) for name, tensor in stored.tensors.items())
    assert torch.equal(read.labels, stored.labels.cpu())
    plugin = registry.resolve("method", method_name).create()  # another instance, as in another process
    assert torch.equal(materialise(plugin, read, SHAPE), materialise(plugin, read, SHAPE))


def test_trains_a_network(method_name: str, distil: Distil, registry: Registry, contexts: ContextFactory) -> None:
    stored = DistilledSet.from_bytes(distil(method_name, 3).to_bytes())
    clips: Tensor = materialise(registry.resolve("method", method_name).create(), stored, SHAPE)
    assert clips.dtype == torch.uint8 or (clips.min() > -20 and clips.max() < 20), "float clips: [0, 1] is black to white"
    family = registry.resolve("evaluator", "convnet3d").create()
    trained = train_network(
        lambda: family.build(SHAPE, CLASSES),
        clips,
        stored.labels,
        contexts.protocol,
        seed=0,
        device="cpu",
        soft_labels=stored.soft_labels,
    )
    assert trained.steps > 0


def test_leaves_the_training_split_alone(method_name: str, registry: Registry, contexts: ContextFactory) -> None:
    plugin = registry.resolve("method", method_name).create()
    train, budget = tiny_split(), Budget(1, SHAPE, CLASSES)
    if getattr(plugin, "reference", False) or (hasattr(plugin, "skip") and plugin.skip(train.info, budget)):
        pytest.skip("nothing is distilled")
    before = _fingerprint(train.clips(), train.labels)
    plugin.distill(train, budget, contexts(plugin, train))
    assert _fingerprint(train.clips(), train.labels) == before


@pytest.mark.parametrize("ipc", [1, PER_CLASS, PER_CLASS + 1, 1000])
def test_skip_gives_a_reason_or_none(method_name: str, ipc: int, registry: Registry) -> None:
    plugin = registry.resolve("method", method_name).create()
    if not hasattr(plugin, "skip"):
        pytest.skip("has no skip")
    reason = plugin.skip(tiny_split().info, Budget(ipc, SHAPE, CLASSES))
    assert reason is None or (isinstance(reason, str) and reason.strip())


def _fingerprint(*tensors: Tensor) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()
