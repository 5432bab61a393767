"""What is required of a method: it keeps its budget, repeats itself, leaves the training split alone, and its set trains a network."""

from __future__ import annotations

import torch

from harness.budget import Budget, audit
from harness.conformance.subject import Check, Subject, check, require, require_declared, require_reason
from harness.conformance.tiny import CLASSES, NETWORK, PER_CLASS, SHAPE, tiny_split
from harness.distilled import DistilledSet
from harness.plugin import EvaluatorPlugin
from harness.tasks.common import materialise
from harness.training import train_network

COLOUR = (8, 3, 32, 32)

CHECKS: list[Check] = []


@check(CHECKS, ipc=(1, 3))
def keeps_its_budget(subject: Subject, ipc: int) -> None:
    """The set is well formed, within the budget, and has a clip of every class."""
    stored = subject.distill(ipc).stored
    stored.validate(SHAPE, CLASSES)
    frames = audit(stored, Budget(ipc, SHAPE, CLASSES))["frames_stored"]
    require(0 < frames <= CLASSES * ipc * SHAPE[0], f"the audit charges {frames} frames for IPC {ipc}")
    missing = sorted(set(range(CLASSES)) - set(stored.labels.tolist()))
    require(not missing, f"every class needs a clip; classes without one: {missing}")


@check(CHECKS, ipc=(1, 3))
def says_its_labels(subject: Subject, ipc: int) -> None:
    """``native_labels`` is "soft" where the set has soft labels, else "hard"."""
    stored, said = subject.distill(ipc).stored, subject.create().native_labels
    found = "hard" if stored.soft_labels is None else "soft"
    require(said == found, f"native_labels is {said!r}, the set has {found} labels")


@check(CHECKS)
def takes_colour(subject: Subject) -> None:
    """Clips of three channels work as those of one do, or ``skip`` declines them."""
    stored = subject.distill(1, shape=COLOUR).stored
    stored.validate(COLOUR, CLASSES)
    audit(stored, Budget(1, COLOUR, CLASSES))


@check(CHECKS)
def repeats_itself(subject: Subject) -> None:
    """The same seed gives the same set, to the byte."""
    same = subject.distill(1).stored.to_bytes() == subject.distill_again(1).stored.to_bytes()
    require(same, "two runs with the same context give different sets: draw from context.generator, or seed with context.seed")


@check(CHECKS)
def follows_the_seed(subject: Subject) -> None:
    """Another seed gives another set, unless ``deterministic`` says that it does not."""
    deterministic = subject.create().deterministic
    sets = {subject.distill(3, seed).stored.to_bytes() for seed in (0, 1, 2)}
    if deterministic:
        require(len(sets) == 1, "deterministic is True, but seeds 0, 1 and 2 do not give one set")
    else:
        require(len(sets) > 1, "seeds 0, 1 and 2 give the same set: say deterministic = True on the class, so that it is made once")


@check(CHECKS)
def survives_storage(subject: Subject) -> None:
    """A set that is read back is the same, and a new instance of the method makes the same clips of it each time."""
    stored = subject.distill(1).stored
    read = DistilledSet.from_bytes(stored.to_bytes())
    require(read.tensors.keys() == stored.tensors.keys(), f"stored {sorted(stored.tensors)}, read back {sorted(read.tensors)}")
    changed = [name for name, tensor in stored.tensors.items() if not torch.equal(read.tensors[name], tensor.cpu())]
    require(not changed, f"tensors that change when they are stored: {changed}")
    require(torch.equal(read.labels, stored.labels.cpu()), "the labels change when they are stored")
    plugin = subject.create()  # as in another process
    same = torch.equal(materialise(plugin, read, SHAPE), materialise(plugin, read, SHAPE))
    require(same, "materialise gives different clips for the same tensors")


@check(CHECKS)
def makes_rows_as_the_whole(subject: Subject) -> None:
    """Where it has ``materialise_rows``, that gives the clips of ``materialise``, to the digit."""
    stored, plugin = subject.distill(3).stored, subject.create()
    rows = torch.tensor([len(stored.labels) - 1, 0])
    some = None if stored.clips is not None else plugin.materialise_rows(dict(stored.tensors), rows)
    same = some is None or torch.equal(some, materialise(plugin, stored, SHAPE)[rows])
    require(same, "materialise_rows gives other clips than materialise at the same rows")


@check(CHECKS)
def trains_a_network(subject: Subject) -> None:
    """A network can be trained on the set."""
    stored = DistilledSet.from_bytes(subject.distill(3).stored.to_bytes())
    clips = materialise(subject.create(), stored, SHAPE)
    low, high = float(clips.min()), float(clips.max())
    in_range = clips.dtype == torch.uint8 or (low > -20 and high < 20)
    require(in_range, f"in float clips [0, 1] is black to white; these reach from {low:.3g} to {high:.3g}")
    family: EvaluatorPlugin = subject.contexts.create("evaluator", NETWORK)
    trained = train_network(
        lambda: family.build(SHAPE, CLASSES),
        clips,
        stored.labels,
        subject.contexts.protocol,
        seed=0,
        device="cpu",
        soft_labels=stored.soft_labels,
    )
    require(trained.steps > 0, "the training loop took no step")


@check(CHECKS)
def leaves_the_training_split_alone(subject: Subject) -> None:
    """Distillation changes neither the clips nor the labels of the training split."""
    train, untouched = subject.distill(1).train, tiny_split()
    require(torch.equal(train.clips(), untouched.clips()), "distill changes clips of the training split: it must work on a copy")
    require(torch.equal(train.labels, untouched.labels), "distill changes labels of the training split: it must work on a copy")


@check(CHECKS, ipc=(1, PER_CLASS, PER_CLASS + 1, 1000))
def declines_with_a_reason(subject: Subject, ipc: int) -> None:
    """``skip`` gives a sentence or None for any budget."""
    require_reason(subject.create().skip(tiny_split().info, Budget(ipc, SHAPE, CLASSES)))


@check(CHECKS)
def declares_its_metrics(subject: Subject) -> None:
    """What it puts into context.metrics is declared in its hook ``metrics``: what it is, under a name of its own."""
    require_declared(subject, subject.distill(1).context)
