"""Pretrained pipelines and autoencoders: tiny ones with random weights, saved to disk and loaded as a user's would be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.budget import Budget, audit
from harness.errors import TaskError
from harness.plugin import Asset
from harness.registry import Registry
from methods.gvd import GVD
from methods.gvd.codec import LatentCodec
from methods.gvd.families import FAMILIES, Native
from methods.gvd.guidance import Guidance
from methods.gvd.pipelines import PipelineBackbone, adapt_scheduler, load_pipeline, readable
from methods.gvd.sampling import SAMPLERS, Sampling, walk
from methods.gvd.vae import LatentSpace, describe_pretrained, load_pretrained_codec
from tests.tiny_pipelines import (
    BUILDERS,
    CPU,
    PROMPTS,
    SIZES,
    TRAIN,
    codec_of,
    cogvideox_vae,
    image_vae,
    load,
    make_context,
    noise_for,
    wan_vae,
)

PUBLISHED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "LattePipeline": [("DDIMScheduler", {"beta_schedule": "linear", "clip_sample": False, "variance_type": "learned_range"})],
    "WanPipeline": [
        ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
    ],
    "CogVideoXPipeline": [
        (f"CogVideoX{name}Scheduler", {
            "snr_shift_scale": shift, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
            "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "set_alpha_to_one": True, "timestep_spacing": "trailing",
        }) for name, shift in (("DDIM", 3.0), ("DPM", 1.0))
    ],
    "AnimateDiffPipeline": [
        ("DDIMScheduler", {
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "clip_sample": False, "steps_offset": 1,
            "timestep_spacing": "linspace",
        }),
        ("PNDMScheduler", {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True}),
        ("EulerDiscreteScheduler", {"beta_schedule": "linear", "timestep_spacing": "trailing"}),
    ],
}  # fmt: skip
"""Schedulers that models of the families are published with: Latte-1's learned variance; those of diffusers' conversion scripts for Wan
and CogVideoX (2b and 5b); those that the cards of AnimateDiff, of Stable Diffusion 1.5 and of AnimateDiff-Lightning name."""


def test_every_supported_family_is_tested() -> None:
    assert set(BUILDERS) == set(FAMILIES) == set(PUBLISHED)


@pytest.mark.parametrize("family", FAMILIES)
def test_gvd_with_a_pretrained_pipeline(family: str, saved: dict[str, Path], tmp_path: Path) -> None:
    """The whole method: modes by the pipeline's autoencoder, guided generation, composition, clips of the budget's size."""
    method = GVD(backbone=str(saved[family]), steps=2, compose=2, soft=False, size=SIZES[family], sampler="ddim")
    assert method.assets(TRAIN.info)["codec"] == Asset("latent_codec", {"kind": str(saved[family]), "size": SIZES[family]})
    budget = Budget(1, TRAIN.info.clip_shape, 2)
    stored = method.distill(TRAIN, budget, make_context(tmp_path, codec=codec_of(saved[family], SIZES[family])))
    stored.validate(TRAIN.info.clip_shape, 2)
    assert audit(stored, budget)["frames_stored"] == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_reaches_the_pipeline(family: str, saved: dict[str, Path]) -> None:
    """Scale 0 is the pipeline alone; the distance to the modes falls with the scale, and ends at them with scale 1."""
    backbone = load(saved, family)
    noise = noise_for(backbone)
    modes, labels = torch.full_like(noise, 2.0), torch.tensor([0, 1])

    def generate(guidance: Guidance) -> torch.Tensor:
        return backbone.generate(modes, labels, noise, guidance, Sampling("ddim", 3))

    plain = generate(Guidance(0.0))
    assert plain.shape == modes.shape
    assert torch.equal(plain, generate(Guidance(0.9, stop=1.0)))
    distances = [float((generate(Guidance(scale, decay="none", stop=0.0)) - modes).norm()) for scale in (0.0, 0.5, 1.0)]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.05 * distances[0] + 0.05
    frames = (generate(Guidance(1.0, stop=0.0)) - modes).flatten(2).norm(dim=2).mean(0)
    assert frames[0] < 0.05 * float(distances[0]) + 0.05 and frames[0] < frames[-1], "the first frame is pulled the most"


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_unguided_it_is_the_pipelines_own_loop(family: str, cfg: float, saved: dict[str, Path]) -> None:
    """diffusers' call of the whole pipeline, with the same scheduler, noise and prompts, beside our loop around its denoiser."""
    from diffusers import DiffusionPipeline

    backbone = load(saved, family)
    noise = noise_for(backbone)
    ours = backbone.generate(torch.zeros_like(noise), torch.tensor([0, 1]), noise, Guidance(0.0), Sampling("ddim", 3, cfg))
    pipe = DiffusionPipeline.from_pretrained(saved[family])
    pipe.scheduler = adapt_scheduler(pipe.scheduler, "ddim")
    frames, height, width = backbone.codec.size
    behind = family == "CogVideoXPipeline"  # frames before channels
    options: dict[str, Any] = {"LattePipeline": {"video_length": frames, "clean_caption": False}}.get(family, {"num_frames": frames})
    theirs = pipe(
        PROMPTS, latents=noise if behind else noise.transpose(1, 2).clone(), height=height, width=width,
        num_inference_steps=3, guidance_scale=cfg, output_type="latent", **options,
    ).frames  # fmt: skip
    assert torch.allclose(ours, theirs if behind else theirs.transpose(1, 2), atol=2e-4)
    assert (ours - noise).abs().mean() > 0.01


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str, sampler: str, saved: dict[str, Path]) -> None:
    """The denoiser sees bfloat16; latents, classifier-free guidance and the pull do not, so that a pull below its rounding arrives."""
    backbone = load(saved, family, "bfloat16")
    noise = noise_for(backbone)
    seen = set()

    def end(scale: float) -> torch.Tensor:
        guidance, how = Guidance(scale, decay="none", stop=0.0), Sampling(sampler, 3, 3.0)
        return backbone.generate(torch.full_like(noise, 1.0), torch.tensor([0, 1]), noise, guidance, how)

    hook = backbone.networks[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(a.dtype for a in (*args, *kwargs.values()) if torch.is_tensor(a) and a.dim() == 5),
        with_kwargs=True,
    )
    plain, nudged = end(0.0), end(1e-5)
    hook.remove()
    assert seen == {torch.bfloat16}
    assert plain.dtype == torch.float32 and torch.isfinite(plain).all()
    assert 0 < float((nudged - plain).abs().mean()) < 0.1
    exact = load(saved, family).generate(torch.zeros_like(noise), torch.tensor([0, 1]), noise, Guidance(0.0), Sampling(sampler, 3, 3.0))
    assert float((plain - exact).norm() / exact.norm()) < 0.1


def test_the_autoencoder_of_wan_stays_in_float32(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of diffusers where there is a GPU."""
    from diffusers import AutoModel

    asked = {}
    original = AutoModel.from_pretrained.__func__  # type: ignore[attr-defined]

    class Gpu:
        type = "cuda"

    def load_on_cpu(cls: Any, path: str, torch_dtype: torch.dtype, **options: Any) -> Any:
        asked[Path(path)] = torch_dtype
        model = original(cls, path, **options)
        monkeypatch.setattr(model, "to", lambda device: model)
        return model

    monkeypatch.setattr(AutoModel, "from_pretrained", classmethod(load_on_cpu))
    for family, folder in saved.items():
        load_pretrained_codec(describe_pretrained(str(folder), SIZES[family]), TRAIN.info.clip_shape, Gpu())  # type: ignore[arg-type]
    assert [asked[folder.resolve()] == torch.float32 for folder in saved.values()] == [family == "WanPipeline" for family in saved]


def test_prompts_are_encoded_once_and_the_text_encoder_goes(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass over all prompts; then no text encoder and no autoencoder is left with the pipeline."""
    from diffusers import LattePipeline

    calls, encode = [], LattePipeline.encode_prompt
    monkeypatch.setattr(LattePipeline, "encode_prompt", lambda self, prompt, **how: calls.append(prompt) or encode(self, prompt, **how))
    backbone = load(saved, "LattePipeline")
    for _ in range(2):
        noise = noise_for(backbone)
        backbone.generate(noise, torch.tensor([0, 1]), noise, Guidance(0.1), Sampling("ddim", 2, 2.0))
    assert calls == [PROMPTS]
    assert backbone.pipe.text_encoder is None and backbone.pipe.vae is None
    assert not torch.equal(backbone.texts[0], backbone.texts[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_embedded_alike_alone_and_among_others(family: str, saved: dict[str, Path]) -> None:
    codec, folder = codec_of(saved[family], SIZES[family]), str(saved[family])
    prompts = [f"a video of class {i % 2}" for i in range(17)]  # two parts, the second of one
    many, alone = load_pipeline(folder, codec, prompts, CPU, "float32"), load_pipeline(folder, codec, prompts[:1], CPU, "float32")
    assert many.texts.shape[0] == 17 and many.free.shape == many.texts[:1].shape
    assert torch.allclose(many.texts[16], many.texts[0], atol=1e-6) and torch.allclose(alone.texts[0], many.texts[0], atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_published_schedulers(family: str) -> None:
    """Each becomes a scheduler of every name, with its own noise at every timestep, which steps a prediction of as many channels."""
    import diffusers

    for name, config in PUBLISHED[family]:
        own = getattr(diffusers, name).from_config(config)
        for sampler in SAMPLERS:
            scheduler = adapt_scheduler(own, sampler)
            assert scheduler.config.get("variance_type") is None
            if hasattr(own, "alphas_cumprod") and family != "WanPipeline":
                assert torch.allclose(scheduler.alphas_cumprod[:-1], own.alphas_cumprod[:-1], atol=1e-6)
                assert scheduler.config.prediction_type == own.config.prediction_type
            scheduler.set_timesteps(4)
            x = torch.randn(1, 4, 4, 2, 2)
            out = walk(scheduler, lambda x, t: torch.zeros_like(x), x, x, Guidance(0.1))
            assert out.shape == x.shape and torch.isfinite(out).all()


def test_flow_shifts_are_kept() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    own = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    for flow, shift in ((FlowMatchEulerDiscreteScheduler(shift=5.0), 5.0), (own, 3.0)):
        assert adapt_scheduler(flow, "euler").config.shift == shift
        for sampler in ("dpm++", "unipc"):
            assert adapt_scheduler(flow, sampler).config.flow_shift == shift


def test_latte_with_its_published_scheduler_on_disk(saved: dict[str, Path], tmp_path: Path) -> None:
    """The file as it is published, with a field that DDIM does not know; the denoiser has twice the channels."""
    folder = tmp_path / "latte"
    shutil.copytree(saved["LattePipeline"], folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"variance_type": "learned_range"}))
    method = GVD(backbone=str(folder), steps=2, compose=1, soft=False, size=SIZES["LattePipeline"])
    stored = method.distill(TRAIN, Budget(1, TRAIN.info.clip_shape, 2), make_context(tmp_path, codec=codec_of(folder, (0, 16, 16))))
    stored.validate(TRAIN.info.clip_shape, 2)


SIZE_CASES = [
    ("LattePipeline", {"video_length": 16, "sample_size": 64, "patch_size": 2}, 8, 1, (0, 0, 0), (16, 512, 512)),
    ("LattePipeline", {"video_length": 16, "sample_size": 64, "patch_size": 2}, 8, 1, (0, 250, 130), (16, 256, 128)),
    ("WanPipeline", {"patch_size": [1, 2, 2]}, 8, 4, (0, 0, 0), (81, 480, 832)),
    ("WanPipeline", {"patch_size": [1, 2, 2]}, 8, 4, (16, 256, 0), (17, 256, 832)),
    ("CogVideoXPipeline", {"sample_frames": 49, "sample_height": 60, "sample_width": 90, "patch_size": 2}, 8, 4, (0, 0, 0), (49, 480, 720)),
    ("CogVideoXPipeline", {"sample_frames": 81, "sample_height": 96, "sample_width": 170, "patch_size": 2, "patch_size_t": 2}, 8, 4,
     (0, 0, 0), (85, 768, 1360)),
    ("AnimateDiffPipeline", {"sample_size": 64, "motion_max_seq_length": 32}, 8, 1, (0, 0, 0), (16, 512, 512)),
    ("AnimateDiffPipeline", {"sample_size": None, "motion_max_seq_length": 32}, 8, 1, (24, 0, 0), (24, 512, 512)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "config", "space", "time", "wanted", "size"), SIZE_CASES)
def test_a_family_works_at_its_own_size(
    name: str, config: dict[str, Any], space: int, time: int, wanted: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    """Hand-computed for the published configurations: Latte-1, Wan2.1-T2V, CogVideoX-2b and 1.5, AnimateDiff on Stable Diffusion 1.5."""
    assert Native(name, config).working_size(wanted, space, time) == size


def test_steps_and_scale_are_the_familys_own(saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of diffusers' own call; what the method says goes before."""
    import inspect

    import diffusers

    for name, family in FAMILIES.items():
        defaults = {p.name: p.default for p in inspect.signature(getattr(diffusers, name).__call__).parameters.values()}
        assert (family.steps, family.cfg) == (defaults["num_inference_steps"], defaults["guidance_scale"])
        assert family.frames == (defaults.get("num_frames") or defaults.get("video_length") or 49)
        assert family.height == (defaults["height"] or family.height) and family.width == (defaults["width"] or family.width)
    seen = []

    def generate(self: Any, modes: torch.Tensor, labels: Any, noise: Any, guidance: Any, how: Sampling, *rest: Any) -> torch.Tensor:
        seen.append((how.steps, how.cfg))
        return modes

    monkeypatch.setattr(PipelineBackbone, "generate", generate)
    folder, size = saved["LattePipeline"], SIZES["LattePipeline"]
    for given in ({}, {"steps": 7, "cfg": 1.0}):
        method = GVD(backbone=str(folder), compose=1, soft=False, size=size, **given)  # type: ignore[arg-type]
        (scratch := tmp_path / str(len(seen))).mkdir()
        method.distill(TRAIN, Budget(1, TRAIN.info.clip_shape, 2), make_context(scratch, codec=codec_of(folder, size)))
    assert seen == [(50, 7.5), (7, 1.0)]


def test_unfit_frames_are_refused(saved: dict[str, Path]) -> None:
    with pytest.raises(TaskError, match="a LattePipeline takes 4 frames, got 9"):
        codec_of(saved["LattePipeline"], (9, 16, 16))
    with pytest.raises(TaskError, match="takes at most 32 frames, got 40"):
        codec_of(saved["AnimateDiffPipeline"], (40, 16, 16))


@pytest.mark.parametrize("family", FAMILIES)
def test_offloading_changes_no_number(family: str, saved: dict[str, Path]) -> None:
    plain, offloaded = load(saved, family), load(saved, family, offload=True)
    noise = noise_for(plain)
    made = [b.generate(noise, torch.tensor([0, 1]), noise, Guidance(0.1), Sampling("dpm++", 2, 2.0)) for b in (plain, offloaded)]
    assert torch.equal(*made)


@pytest.mark.slow
def test_a_compiled_denoiser_is_the_same_within_rounding(saved: dict[str, Path]) -> None:
    plain, compiled = load(saved, "LattePipeline"), load(saved, "LattePipeline", compiled=True)
    noise = noise_for(plain)
    made = [b.generate(noise, torch.tensor([0, 1]), noise, Guidance(0.1), Sampling("dpm++", 2, 2.0)) for b in (plain, compiled)]
    assert torch.allclose(*made, atol=1e-4)


def test_pretrained_autoencoders_work_in_slices_and_tiles(saved: dict[str, Path]) -> None:
    for family, folder in saved.items():
        vae = codec_of(folder, SIZES[family]).space.vae
        assert vae.use_slicing and vae.use_tiling


def test_pipelines_may_start_from_the_mode(saved: dict[str, Path]) -> None:
    """From a noise level on, in the pipeline's own schedule: the less noise, the nearer what is made stays to the mode."""
    backbone = load(saved, "LattePipeline")
    noise = noise_for(backbone)
    modes = torch.full_like(noise, 2.0)
    made = [
        backbone.generate(modes, torch.tensor([0, 1]), noise, Guidance(0.0), Sampling("dpm++", 10, start=start))
        for start in (1.0, 0.6, 0.2)
    ]
    distances = [float((latents - modes).norm()) for latents in made]
    assert distances[0] > distances[1] > distances[2]


@pytest.mark.parametrize("build, frames", [(image_vae, 8), (wan_vae, 3), (cogvideox_vae, 3)])
def test_pretrained_autoencoders_are_codecs(build: Any, frames: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = build()
    vae.save_pretrained(tmp_path)
    asset = LatentCodec(kind=str(tmp_path))
    context = make_context(tmp_path)
    codec = asset.load(asset.build(TRAIN, context), context)
    latents = codec.encode(TRAIN.clips())
    assert latents.shape == (8, *codec.latent_shape)
    assert codec.latent_shape[0] == frames
    decoded = codec.decode(latents)
    assert decoded.shape == TRAIN.clips().shape and decoded.dtype == torch.uint8
    assert 0 < float(context.metrics["reconstruction_rmse"] or 0) < 1


NAMED = [("method", "gvd", "backbone"), ("method", "gvd", "codec"), ("method", "codec_random", "codec"), ("asset", "latent_codec", "kind")]
"""Parameters that name a folder, a model of a hub, or something that is built in."""


@pytest.mark.parametrize(("kind", "plugin", "field"), NAMED)
def test_replaced_weights_are_another_key(kind: str, plugin: str, field: str, tmp_path: Path) -> None:
    registry = Registry()
    (tmp_path / "weights").write_bytes(b"old")
    before = registry.resolve(kind, f"{plugin}[{field}={tmp_path}]").spec
    (tmp_path / "weights").write_bytes(b"new")
    after = registry.resolve(kind, f"{plugin}[{field}={tmp_path}]").spec
    assert before.keyed(code=False) != after.keyed(code=False)


@pytest.mark.parametrize(
    ("kind", "plugin", "field"), [("method", "gvd", "backbone"), ("method", "gvd", "codec"), ("asset", "latent_codec", "kind")]
)
@pytest.mark.parametrize("name", ["trained", "patch", "maxin-cn/Latte-1"])
def test_names_stay_names(kind: str, plugin: str, field: str, name: str) -> None:
    resolved = Registry().resolve(kind, f"{plugin}[{field}={name}]")
    assert resolved.spec.params[field] == getattr(resolved.create(), field) == name
    assert resolved.spec.files == {}


def test_latents_are_the_scaled_posterior_mean() -> None:
    vae = image_vae()
    video = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        mean = vae.encode(video.flatten(0, 1)).latent_dist.mean
    assert torch.allclose(LatentSpace(vae).encode(video).flatten(0, 1), mean * vae.config.scaling_factor, atol=1e-5)


def test_a_small_autoencoder_is_trained(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    asset = LatentCodec(kind="autoencoder", steps=40, width=8)
    tensors = asset.build(TRAIN, context)
    assert context.curves["loss"][-1][0] == 40
    untrained = LatentCodec(kind="autoencoder", steps=1, width=8)
    before = make_context(tmp_path)
    untrained.build(TRAIN, before)
    assert context.metrics["reconstruction_rmse"] < 0.9 * before.metrics["reconstruction_rmse"]  # type: ignore[operator]
    latents = asset.load(tensors, context).encode(TRAIN.clips())
    assert latents.shape == (8, 8, 4, 4, 4)
    assert float(latents.std()) == pytest.approx(1, rel=0.1)


def test_missing_models_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match="hf download maxin-cn/Latte-1"):
        load_pipeline(str(tmp_path / "nothing"), None, ["a video"], CPU)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=r"config.json is in neither"):
        LatentCodec(kind=str(tmp_path / "nothing")).build(TRAIN, make_context(tmp_path))


def test_other_pipelines_are_refused(tmp_path: Path) -> None:
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DModel(sample_size=8, block_out_channels=(8,), norm_num_groups=2, **blocks)
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(TaskError, match="is a DDIMPipeline; valid: LattePipeline, WanPipeline"):
        load_pipeline(str(tmp_path), None, ["a video"], CPU)  # type: ignore[arg-type]


def test_schedulers_keep_the_pipelines_noise_schedule() -> None:
    from diffusers import EulerDiscreteScheduler

    own = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction")
    for name in ("ddim", "dpm++", "unipc"):
        made = adapt_scheduler(own, name)
        assert (made.config.beta_end, made.config.prediction_type) == (0.012, "v_prediction")
        assert torch.allclose(made.alphas_cumprod, own.alphas_cumprod)


def test_class_names_become_words() -> None:
    assert readable("ApplyEyeMakeup") == "apply eye makeup"
    assert readable("draw_sword") == "draw sword"
