"""Pretrained pipelines and autoencoders: tiny ones with random weights, saved to disk and loaded as a user's would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.budget import Budget, audit
from harness.errors import TaskError
from harness.plugin import Context
from harness.protocol import TrainingProtocol
from harness.registry import Registry
from methods.gvd import GVD
from methods.gvd.codec import LatentCodec
from methods.gvd.guidance import Guidance
from methods.gvd.pipelines import FAMILIES, adapt_scheduler, load_pipeline, readable
from methods.gvd.sampling import Sampling
from methods.gvd.vae import LatentSpace
from tests.tiny import tiny_split

CPU = torch.device("cpu")
TRAIN = tiny_split((8, 3, 16, 16), classes=2, per_class=4)
WORDS = ("a", "video", "of", "class", "0", "1", "-")


def make_context(tmp_path: Path, **assets: Any) -> Context:
    return Context(
        device=CPU, generator=torch.Generator().manual_seed(0), seed=0, info=TRAIN.info, assets=assets, networks={},
        protocol=TrainingProtocol(), scratch=tmp_path, progress=lambda done, total: None,
    )  # fmt: skip


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=8)


def t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=16, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()


def image_vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8),
        latent_channels=4, norm_num_groups=4, sample_size=16,
    )  # fmt: skip


def wan_vae() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True])


def cogvideox_vae() -> Any:
    from diffusers import AutoencoderKLCogVideoX

    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4, block_out_channels=(8, 8, 8, 8),
        latent_channels=4, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4,
    )  # fmt: skip


def latte() -> Any:
    from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel

    transformer = LatteTransformer3DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=16, in_channels=4,
        cross_attention_dim=16, out_channels=8, attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_single", norm_elementwise_affine=False, video_length=4,
    )  # fmt: skip
    return LattePipeline(tokenizer(), t5(), image_vae(), transformer, DDIMScheduler(clip_sample=False))


def wan() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=16, freq_dim=32,
        ffn_dim=16, num_layers=1, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    )  # fmt: skip
    return WanPipeline(tokenizer(), t5(), wan_vae(), FlowMatchEulerDiscreteScheduler(shift=3.0), transformer=transformer)


def cogvideox() -> Any:
    from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2, text_embed_dim=16, num_layers=1,
        sample_width=2, sample_height=2, sample_frames=9, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=226,
    )  # fmt: skip
    scheduler = CogVideoXDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return CogVideoXPipeline(tokenizer(), t5(), cogvideox_vae(), transformer, scheduler)


def animatediff() -> Any:
    from diffusers import AnimateDiffPipeline, EulerDiscreteScheduler, MotionAdapter, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, sample_size=8, in_channels=4, out_channels=4, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=2,
        attention_head_dim=4,
    )  # fmt: skip
    adapter = MotionAdapter(block_out_channels=(8, 8), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=2)
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=16, max_position_embeddings=8,
        bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return AnimateDiffPipeline(image_vae(), CLIPTextModel(text), tokenizer(), unet, adapter, EulerDiscreteScheduler())


BUILDERS = {"LattePipeline": latte, "WanPipeline": wan, "CogVideoXPipeline": cogvideox, "AnimateDiffPipeline": animatediff}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, build in BUILDERS.items():
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp(name)
        build().save_pretrained(folders[name])
    return folders


def test_every_supported_family_is_tested() -> None:
    assert set(BUILDERS) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_gvd_with_a_pretrained_pipeline(family: str, saved: dict[str, Path], tmp_path: Path) -> None:
    """The whole method: modes by the pipeline's autoencoder, guided generation, composition, clips of the budget's size."""
    method = GVD(backbone=str(saved[family]), steps=2, compose=2, soft=False, resolution=16, sampler="ddim")
    assert method.assets(TRAIN.info) == {}
    budget = Budget(1, TRAIN.info.clip_shape, 2)
    stored = method.distill(TRAIN, budget, make_context(tmp_path))
    stored.validate(TRAIN.info.clip_shape, 2)
    assert audit(stored, budget)["frames_stored"] == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_reaches_the_pipeline(family: str, saved: dict[str, Path]) -> None:
    """Scale 0 is the pipeline alone; the distance to the modes falls with the scale, and ends at them with scale 1."""
    backbone = load_pipeline(str(saved[family]), TRAIN.info, "a video of {}", 16, CPU)
    modes = torch.full((2, *backbone.latent_shape), 2.0)
    noise = torch.randn(modes.shape, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])

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


def test_pipelines_alone_give_the_same_as_unguided(saved: dict[str, Path]) -> None:
    """Bit for bit: Latte's own loop with its own scheduler, and our backbone with scale 0."""
    from diffusers import LattePipeline

    folder = str(saved["LattePipeline"])
    backbone = load_pipeline(folder, TRAIN.info, "a video of {}", 16, CPU)
    modes = torch.zeros(1, *backbone.latent_shape)
    noise = torch.randn(modes.shape, generator=torch.Generator().manual_seed(0))
    ours = backbone.generate(modes, torch.tensor([1]), noise, Guidance(0.0), Sampling("ddim", 3))
    pipe = LattePipeline.from_pretrained(folder)
    theirs = pipe(
        "a video of class 1", latents=noise.transpose(1, 2), height=16, width=16, num_inference_steps=3, guidance_scale=1.0,
        video_length=4, output_type="latent",
    ).frames  # fmt: skip
    assert torch.equal(ours, theirs.transpose(1, 2))


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
    with pytest.raises(TaskError, match="huggingface-cli download maxin-cn/Latte-1"):
        load_pipeline(str(tmp_path / "nothing"), TRAIN.info, "{}", 0, CPU)
    with pytest.raises(TaskError, match=r"config.json is in neither"):
        LatentCodec(kind=str(tmp_path / "nothing")).build(TRAIN, make_context(tmp_path))


def test_other_pipelines_are_refused(tmp_path: Path) -> None:
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DModel(sample_size=8, block_out_channels=(8,), norm_num_groups=2, **blocks)
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(TaskError, match="is a DDIMPipeline; valid: LattePipeline, WanPipeline"):
        load_pipeline(str(tmp_path), TRAIN.info, "{}", 0, CPU)


def test_pipelines_start_from_noise(saved: dict[str, Path], tmp_path: Path) -> None:
    method = GVD(backbone=str(saved["LattePipeline"]), init="mode", steps=2, soft=False, resolution=16)
    with pytest.raises(TaskError, match="leave init=noise"):
        method.distill(TRAIN, Budget(1, TRAIN.info.clip_shape, 2), make_context(tmp_path))


def test_schedulers_keep_the_pipelines_noise_schedule() -> None:
    from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    own = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction")
    for name in ("ddim", "dpm++", "unipc"):
        made = adapt_scheduler(own, name)
        assert (made.config.beta_end, made.config.prediction_type) == (0.012, "v_prediction")
        assert torch.allclose(made.alphas_cumprod, own.alphas_cumprod)
    flow = FlowMatchEulerDiscreteScheduler(shift=5.0)
    assert adapt_scheduler(flow, "euler").config.shift == 5.0
    assert adapt_scheduler(flow, "dpm++").config.flow_shift == 5.0


def test_class_names_become_words() -> None:
    assert readable("ApplyEyeMakeup") == "apply eye makeup"
    assert readable("draw_sword") == "draw sword"
