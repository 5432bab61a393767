"""Tiny pipelines of every family with random weights, as diffusers saves them: what a user's downloaded folder is to the tests.

python -m tests.tiny_pipelines LattePipeline FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from harness.plugin import Context
from harness.protocol import TrainingProtocol
from methods.gvd.pipelines import PipelineBackbone, load_pipeline
from methods.gvd.vae import describe_pretrained, load_pretrained_codec
from tests.tiny import tiny_split

CPU = torch.device("cpu")
TRAIN = tiny_split((8, 3, 16, 16), classes=2, per_class=4)
WORDS = ("a", "video", "of", "class", "0", "1", "-")


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


PROMPTS = ["a video of class 0", "a video of class 1"]
BUILDERS = {"LattePipeline": latte, "WanPipeline": wan, "CogVideoXPipeline": cogvideox, "AnimateDiffPipeline": animatediff}

SIZES = {"LattePipeline": (0, 16, 16), "WanPipeline": (9, 16, 16), "CogVideoXPipeline": (9, 16, 16), "AnimateDiffPipeline": (8, 16, 16)}
"""At which they are quick, and as their networks have it."""


def save(family: str, folder: Path) -> Path:
    """A pipeline, always the same, in a folder."""
    torch.manual_seed(0)
    BUILDERS[family]().save_pretrained(folder)
    return folder


def make_context(scratch: Path, **assets: Any) -> Context:
    return Context(
        device=CPU, generator=torch.Generator().manual_seed(0), seed=0, info=TRAIN.info, assets=assets, networks={},
        protocol=TrainingProtocol(), scratch=scratch, progress=lambda done, total: None,
    )  # fmt: skip


def codec_of(folder: Path, size: tuple[int, int, int]) -> Any:
    return load_pretrained_codec(describe_pretrained(str(folder), size), TRAIN.info.clip_shape, CPU)


def load(folders: dict[str, Path], family: str, precision: Any = "float32", **options: Any) -> PipelineBackbone:
    codec = codec_of(folders[family], SIZES[family])
    return load_pipeline(str(folders[family]), codec, PROMPTS, CPU, precision, **options)


def noise_for(backbone: PipelineBackbone, videos: int = 2) -> torch.Tensor:
    return torch.randn(videos, *backbone.codec.latent_shape, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    save(sys.argv[1], Path(sys.argv[2]))
