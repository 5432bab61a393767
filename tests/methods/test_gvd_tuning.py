"""Fine-tuning of pretrained pipelines: the loss falls, what is learned loads as it was, and an interrupted run ends as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.budget import Budget
from harness.errors import TaskError
from harness.plugin import Asset
from methods.gvd import GVD
from methods.gvd.families import FAMILIES
from methods.gvd.guidance import Guidance, to_x0
from methods.gvd.pipelines import adapt_scheduler
from methods.gvd.sampling import Sampling
from methods.gvd.tuning import PipelineTuning, Tuned, Tuner, random_levels
from methods.latents import StoredLatents
from tests.tiny_pipelines import SIZES, TRAIN, codec_of, load, make_context, noise_for

Folders = dict[str, Path]


def build(folders: Folders, family: str, scratch: Path, **params: Any) -> tuple[dict[str, torch.Tensor], Any, PipelineTuning]:
    """What is learned, and the context and asset that it was learned with."""
    codec = codec_of(folders[family], SIZES[family])
    context = make_context(scratch, codec=codec, latents=StoredLatents(codec.encode(TRAIN.clips()).half()))
    asset = PipelineTuning(**{"backbone": str(folders[family]), "steps": 3, "rank": 2, "precision": "float32", **params})
    return asset.build(TRAIN, context), context, asset


def generate(backbone: Any) -> torch.Tensor:
    noise = noise_for(backbone)
    made: torch.Tensor = backbone.generate(noise, torch.tensor([0, 1]), noise, Guidance(0.0), Sampling("ddim", 2))
    return made


@pytest.mark.parametrize("how", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learned_is_what_generates(family: str, how: str, saved: Folders, tmp_path: Path) -> None:
    """The stored tensors, put into the pipeline as it was published, give the network as it was trained."""
    codec = codec_of(saved[family], SIZES[family])
    params = PipelineTuning(str(saved[family]), how, steps=2, rank=2, precision="float32", lr=0.05, batch=2)  # type: ignore[arg-type]
    backbone = load(saved, family)
    before = generate(backbone)
    tuner = Tuner(backbone, params, StoredLatents(codec.encode(TRAIN.clips()).half()), TRAIN.labels)
    tuner.run(make_context(tmp_path))
    after = generate(backbone)
    tuned = params.load({name: t.detach().clone() for name, t in tuner.learned().items()}, make_context(tmp_path))
    reloaded = load(saved, family, tuned=tuned)
    assert torch.allclose(generate(reloaded), after, atol=1e-3), "LoRA's are added to the weights, which rounds"
    assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("how", ["lora", "full"])
def test_the_loss_falls(how: str, saved: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.gvd.stepwise.CURVE_STEPS", 20)
    _, context, _ = build(saved, "WanPipeline", tmp_path, how=how, steps=80, lr=1e-2, rank=8)
    curve = context.curves["loss"]
    assert [step for step, _ in curve] == [20, 40, 60, 80]
    assert curve[-1][1] < 0.97 * curve[0][1]


@pytest.mark.parametrize("how", ["lora", "full"])
def test_killed_and_resumed_is_undisturbed(
    how: str,
    saved: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("methods.gvd.stepwise.CHECKPOINT_SECONDS", 0.0)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole, _, _ = build(saved, "LattePipeline", tmp_path / "whole", how=how, steps=4, lr=1e-2)
    step = Tuner.take_step

    def die_at_three(self: Tuner, generator: torch.Generator) -> torch.Tensor:
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self, generator)

    monkeypatch.setattr(Tuner, "take_step", die_at_three)
    with pytest.raises(KeyboardInterrupt):
        build(saved, "LattePipeline", tmp_path / "cut", how=how, steps=4, lr=1e-2)
    taken = []
    monkeypatch.setattr(Tuner, "take_step", lambda self, generator: taken.append(self.step) or step(self, generator))
    resumed, _, _ = build(saved, "LattePipeline", tmp_path / "cut", how=how, steps=4, lr=1e-2)
    assert taken == [3]
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_learns_in_float32(family: str, saved: Folders, tmp_path: Path) -> None:
    tensors, _, asset = build(saved, family, tmp_path, steps=1, precision="bfloat16", lr=1e-3)
    assert all("lora_" in name and t.dtype == torch.float32 and torch.isfinite(t).all() for name, t in tensors.items())
    moved = sum(float(t.abs().sum()) for name, t in tensors.items() if "lora_B" in name)
    assert moved > 0, "zero before the first step"
    assert torch.isfinite(generate(load(saved, family, "bfloat16", tuned=asset.load(tensors, None)))).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["DDIMScheduler", "CogVideoXDDIMScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_levels_are_those_of_the_schedule(name: str) -> None:
    """An exact prediction at each level gives the clean latent back; timesteps are those that the scheduler samples with."""
    import diffusers

    own = getattr(diffusers, name)(**({"shift": 3.0} if name.startswith("Flow") else {"prediction_type": "v_prediction"}))
    u = torch.tensor([0.0, 0.25, 0.5, 0.999])
    t, alpha, sigma, prediction = random_levels(adapt_scheduler(own, "ddim"), u)
    x0, noise = torch.randn(4), torch.randn(4)
    target = noise - x0 if name.startswith("Flow") else alpha * noise - sigma * x0
    found = [to_x0(target[i], alpha[i] * x0[i] + sigma[i] * noise[i], float(alpha[i]), float(sigma[i]), prediction) for i in range(len(u))]
    assert torch.allclose(torch.stack(found), x0, atol=1e-4)
    if name.startswith("Flow"):
        assert torch.allclose(t / 1000, 3 * u / (1 + 2 * u)) and torch.allclose(alpha + sigma, torch.ones(4))
    else:
        assert t.tolist() == [0, 250, 500, 999]
        assert torch.allclose(alpha**2, own.alphas_cumprod[t].float(), atol=1e-6) and torch.allclose(alpha**2 + sigma**2, torch.ones(4))


def test_the_method_declares_and_takes_it(saved: Folders, tmp_path: Path) -> None:
    folder, size = str(saved["LattePipeline"]), SIZES["LattePipeline"]
    method = GVD(backbone=folder, size=size, finetune="lora", steps=2, compose=1, soft=False, precision="float32")
    needed = method.assets(TRAIN.info)
    assert needed["tuned"] == Asset("pipeline_tuning", {"backbone": folder, "how": "lora", "prompt": "a video of {}", "size": size})
    assert PipelineTuning(folder, size=size).assets(TRAIN.info) == {name: needed[name] for name in ("codec", "latents")}
    tensors, context, asset = build(saved, "LattePipeline", tmp_path, lr=0.05)
    for scratch in ("none", "lora"):
        (tmp_path / scratch).mkdir()
    plain, tuned = (
        GVD(**{**vars(method), "finetune": finetune}).distill(
            TRAIN, Budget(1, TRAIN.info.clip_shape, 2), make_context(tmp_path / finetune, codec=context.assets["codec"], **assets)
        )
        for finetune, assets in (("none", {}), ("lora", {"tuned": asset.load(tensors, context)}))
    )
    assert plain.clips is not None and tuned.clips is not None and not torch.equal(plain.clips, tuned.clips)


def test_what_does_not_fit_is_refused(saved: Folders) -> None:
    with pytest.raises(ValueError, match="finetune=lora is for a pretrained backbone"):
        GVD(finetune="lora")
    with pytest.raises(ValueError, match="must be at least 1"):
        PipelineTuning("folder", steps=0)
    with pytest.raises(TaskError, match="do not fit the backbone: it has no elsewhere"):
        load(saved, "LattePipeline", tuned=Tuned({"elsewhere": torch.zeros(1)}, 2))
