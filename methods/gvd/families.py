"""The families of diffusers' pretrained text-to-video pipelines that GVD can take: how each is called, and what its authors sample with.

A family's denoiser is one function of latents (B, F, c, h, w) in its own dtype, timesteps (B,) and text embeddings (B, L, d), whatever the
layout of the network. Sampling and fine-tuning both use it; see ``pipelines.py`` and ``tuning.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Denoise = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Family:
    """frames, height, width, steps, cfg: the defaults of the pipeline's call in diffusers 0.42, where its networks' configuration does not
    say otherwise. networks: the components that denoise. denoise(pipe, x, t, text): what they predict, like x.
    """

    frames: int
    height: int
    width: int
    steps: int
    cfg: float
    networks: tuple[str, ...]
    denoise: Denoise


def _latte(pipe: Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    out = pipe.transformer(x.transpose(1, 2), t, text, return_dict=False)[0].transpose(1, 2)
    return out[:, :, : x.shape[2]]  # Latte-1 has twice the channels: the second half is a learned variance


def _wan(pipe: Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    network, boundary = pipe.transformer, pipe.config.boundary_ratio
    if boundary is not None and float(t[0]) < boundary * pipe.scheduler.config.num_train_timesteps:
        network = pipe.transformer_2  # Wan 2.2: one network for much noise, one for little
    if pipe.config.expand_timesteps:  # Wan 2.2 TI2V: a timestep for every patch
        patch = network.config.patch_size
        patches = x.shape[1] // patch[0] * (x.shape[3] // patch[1]) * (x.shape[4] // patch[2])
        t = t[:, None].expand(-1, patches)
    return network(x.transpose(1, 2), t, text, return_dict=False)[0].transpose(1, 2)


def _cogvideox(pipe: Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    rotary = None
    if pipe.transformer.config.use_rotary_positional_embeddings:
        side = pipe.vae_scale_factor_spatial
        rotary = pipe._prepare_rotary_positional_embeddings(x.shape[3] * side, x.shape[4] * side, x.shape[1], x.device)
    return pipe.transformer(x, text, t, image_rotary_emb=rotary, return_dict=False)[0]


def _animatediff(pipe: Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    text = text.repeat_interleave(x.shape[1], dim=0)  # every frame has its own copy
    return pipe.unet(x.transpose(1, 2), t, text).sample.transpose(1, 2)


FAMILIES: Mapping[str, Family] = {
    "LattePipeline": Family(16, 512, 512, 50, 7.5, ("transformer",), _latte),
    "WanPipeline": Family(81, 480, 832, 50, 5.0, ("transformer", "transformer_2"), _wan),
    "CogVideoXPipeline": Family(49, 480, 720, 50, 6.0, ("transformer",), _cogvideox),
    "AnimateDiffPipeline": Family(16, 512, 512, 50, 7.5, ("unet",), _animatediff),
}
"""By the class of the pipeline, which its model_index.json names."""


@dataclass(frozen=True)
class Native:
    """A pipeline's class, and the configuration of its first denoiser."""

    name: str
    config: Mapping[str, Any]

    @property
    def family(self) -> Family:
        return FAMILIES[self.name]

    def working_size(self, wanted: tuple[int, int, int], space_factor: int, time_factor: int) -> tuple[int, int, int]:
        """(frames, height, width) of clips at which it works: what is wanted, and its own where that is 0, rounded to what it takes.

        space_factor and time_factor are those of its autoencoder, time_factor 1 that of one for images. Raises ValueError for a number of
        frames that its position embedding does not have.
        """
        config, own = self.config, self.family
        frames = wanted[0] or int(config.get("video_length") or config.get("sample_frames") or own.frames)
        most = config.get("video_length") or config.get("motion_max_seq_length")
        if most and (frames > most or ("video_length" in config and frames != most)):
            raise ValueError(f"a {self.name} takes {'' if 'video_length' in config else 'at most '}{most} frames, got {frames}")
        side = config.get("sample_size") or (config.get("sample_height"), config.get("sample_width"))
        height, width = side if isinstance(side, tuple | list) else (side, side)
        patch = config.get("patch_size") or 1
        step = space_factor * int(max(patch) if isinstance(patch, tuple | list) else patch)
        height = wanted[1] or (int(height) * space_factor if height else own.height)
        width = wanted[2] or (int(width) * space_factor if width else own.width)
        # CogVideoX 1.5 takes latent frames in pairs.
        latent_frames = -(-(frames - 1) // time_factor) + 1 if time_factor > 1 else frames
        latent_frames = -(-latent_frames // (config.get("patch_size_t") or 1)) * (config.get("patch_size_t") or 1)
        frames = (latent_frames - 1) * time_factor + 1 if time_factor > 1 else latent_frames
        return frames, max(1, round(height / step)) * step, max(1, round(width / step)) * step


def native_of(path: str) -> Native | None:
    """What a folder or hub id says of itself, from its small configuration files; None where it is no pipeline of a known family.

    Raises OSError where it cannot be read.
    """
    from diffusers import DiffusionPipeline

    try:
        name = DiffusionPipeline.load_config(path).get("_class_name")
    except OSError:
        return None
    if name not in FAMILIES:
        return None
    return Native(name, read_config(path, FAMILIES[name].networks[0]))


def read_config(path: str, subfolder: str = "") -> Mapping[str, Any]:
    """The config.json of a model. Raises OSError where it cannot be read."""
    from diffusers import AutoencoderKL  # any model reads the file; AutoModel would look for another one

    config: Mapping[str, Any] = AutoencoderKL.load_config(path, subfolder=subfolder)
    return config


def as_batch(t: Any, x: Tensor) -> Tensor:
    """A scheduler's timestep for every clip of a batch, (B,)."""
    return torch.as_tensor(t, device=x.device).expand(len(x))
