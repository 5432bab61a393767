"""An asset: learned once from the training split and shared by cells."""

from __future__ import annotations

from safetensors.torch import save_file

from harness.plugin import AssetPlugin
from harness.spec import AssetSpec
from harness.tasks.common import Work, seed_everything


def run(work: Work) -> None:
    spec = work.job.spec
    assert isinstance(spec, AssetSpec)
    with work.phases.measure("load"):
        train = work.open_data().train
    plugin: AssetPlugin = work.registry.revive("asset", spec.asset).create()
    # An asset is shared by all methods and seeds: its randomness is decided by its own parameters.
    seed = work.seed("asset", spec.asset.name)
    inputs = {name: key for name, key in work.job.inputs.items() if name != "data"}
    context = work.context(train.info, seed, spec.protocol.recipe, spec.networks, inputs)
    seed_everything(seed)
    with work.phases.measure("build"):
        tensors = plugin.build(train, context)
    work.keep(context, plugin)
    file = work.scratch / "asset.safetensors"
    file.touch()
    mode = file.stat().st_mode & 0o777  # save_file leaves a file that nobody else can read
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, file)
    file.chmod(mode)
    work.draft.metrics["asset_bytes"] = file.stat().st_size
    work.move_artifact("asset.safetensors", file)
