"""The quality of a distilled set, of whatever method, in a teacher's features; apart from its distillation, whose cost it is not."""

from __future__ import annotations

from harness.plugin import MethodPlugin
from harness.quality import measure_quality
from harness.spec import QualitySpec
from harness.tasks.common import Work


def run(work: Work) -> None:
    spec = work.job.spec
    assert isinstance(spec, QualitySpec)
    with work.phases.measure("load"):
        plugin: MethodPlugin = work.registry.revive("method", spec.method).create()
        stored, clips = work.distilled(plugin, work.job.info)
        teacher, reference = (work.load_asset(work.job.inputs[name]) for name in ("teacher", "reference"))
    with work.phases.measure("quality"):
        figures = measure_quality(clips, stored.labels, teacher, reference, spec.protocol.recipe, work.device)
    work.draft.metrics.update(figures)
