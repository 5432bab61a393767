"""A distilled set: made by its method from the training split alone, audited, stored, and shown."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from harness.budget import audit
from harness.data.base import Clips, read_clips
from harness.distilled import DistilledSet
from harness.errors import DistilledSetError
from harness.plugin import MethodPlugin
from harness.preview import animation, contact_sheet, pick_rows
from harness.spec import DistillSpec
from harness.tasks.common import Work, clips_of, seed_everything


def run(work: Work) -> None:
    spec = work.job.spec
    assert isinstance(spec, DistillSpec)
    with work.phases.measure("load"):
        data = work.open_data()
        train, native_frames = data.train, data.native_train_frames
        del data  # the test split never reaches a method
    plugin: MethodPlugin = work.registry.revive("method", spec.method).create()
    seed = work.seed("distil", spec.method.name, spec.budget.ipc, spec.seed)
    inputs = {name: key for name, key in work.job.inputs.items() if name != "data"}
    context = work.context(train.info, seed, spec.protocol.recipe, spec.networks, inputs)
    with work.phases.measure("assets"):
        for name in context.assets:
            context.assets[name]
    seed_everything(seed)
    with work.phases.measure("distill"):
        stored = plugin.distill(train, spec.budget, context)
    if not isinstance(stored, DistilledSet):
        raise DistilledSetError(f"{type(plugin).__name__}.distill must return a DistilledSet, got {type(stored).__name__}")
    work.keep(context, plugin)
    stored.validate(spec.budget.clip_shape, spec.budget.classes)
    figures = audit(stored, spec.budget)
    work.draft.metrics.update(figures)
    work.draft.metrics["frame_fraction"] = figures["frames_stored"] / native_frames
    file = work.scratch / "distilled.safetensors"
    stored.save(file)
    stored = replace(DistilledSet.open(file), not_pixels=stored.not_pixels)  # as it will be read; what the method holds is let go
    show(work, "preview", clips_of(plugin, stored, spec.budget.clip_shape), stored.labels, train.info.classes)
    if (kept := stored_clips(stored, spec.budget.clip_shape)) is not None:
        show(work, "stored", kept, stored.labels[:: len(stored.labels) // len(kept)], train.info.classes)
    work.move_artifact("distilled.safetensors", file)


def show(work: Work, name: str, clips: Tensor | Clips, labels: Tensor, classes: tuple[str, ...]) -> None:
    """Pictures of clips, still and moving."""
    rows = pick_rows(labels)
    shown, names = read_clips(clips, rows), [classes[int(labels[r])] for r in rows]
    work.write_artifact(f"{name}.png", contact_sheet(shown, names))
    work.write_artifact(f"{name}.gif", animation(shown, names))


def stored_clips(stored: DistilledSet, clip_shape: tuple[int, int, int, int]) -> Tensor | None:
    """The pictures of a set that keeps each clip for several that are trained on, such as mosaics; None where there are none."""
    for name, tensor in stored.tensors.items():
        is_shown = name != "clips" and name not in stored.not_pixels and tuple(tensor.shape[1:]) == clip_shape
        if is_shown and len(tensor) > 0 and len(stored.labels) % len(tensor) == 0:
            return tensor
    return None
