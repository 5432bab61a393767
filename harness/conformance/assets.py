"""What is required of an asset: it is a dictionary of tensors that is made the same way each time and loads from storage."""

from __future__ import annotations

from safetensors.torch import load, save
from torch import Tensor

from harness.conformance.subject import Check, Subject, check, require, require_declared, same_tensors
from harness.conformance.tiny import tiny_split
from harness.plugin import AssetPlugin

CHECKS: list[Check] = []


@check(CHECKS)
def builds_stores_and_loads(subject: Subject) -> None:
    """The same context gives the same tensors, they load from storage, and what ``build`` records is declared in the hook ``metrics``."""
    train = tiny_split()
    made: list[dict[str, Tensor]] = []
    for _ in range(2):
        plugin: AssetPlugin = subject.create()
        context = subject.contexts(plugin, train)
        made.append(plugin.build(train, context))
    first, again = made
    require(first, "build must return the tensors to keep, got none")
    require(same_tensors(first, again), "two builds with the same context give different tensors")
    stored = load(save({name: tensor.detach().cpu().contiguous() for name, tensor in first.items()}))
    another: AssetPlugin = subject.create()
    require(another.load(stored, subject.contexts(another, train)) is not None, "load must return what users of the asset get, got None")
    require_declared(subject, context)
