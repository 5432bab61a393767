"""Pretrained text-to-video pipelines of diffusers as backbones: Latte, Wan, CogVideoX, AnimateDiff, guided without a change to their loop.

A pipeline is given a scheduler whose steps see guided predictions (``GuidedScheduler``), noise in its own layout, and the class names as
prompts. Its autoencoder is the codec: clips are resized to the size at which the pipeline works, and what it makes is resized back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness import DatasetInfo, TaskError
from methods.gvd.guidance import Guidance, GuidedScheduler
from methods.gvd.sampling import Sampling
from methods.gvd.vae import AutoencoderCodec, LatentSpace, missing_model

EXAMPLE = "maxin-cn/Latte-1"


@dataclass(frozen=True)
class Family:
    """How a family of pipelines is called. frames: its argument for the number of frames; frame_dim: where its latents count frames."""

    frames: str
    frame_dim: int


FAMILIES = {
    "LattePipeline": Family("video_length", 2),
    "WanPipeline": Family("num_frames", 2),
    "CogVideoXPipeline": Family("num_frames", 1),
    "AnimateDiffPipeline": Family("num_frames", 2),
}


class PipelineBackbone:
    """A pretrained pipeline behind the interface of the backbone that is trained here."""

    def __init__(self, pipe: Any, info: DatasetInfo, template: str, resolution: int, device: torch.device) -> None:
        self.family = FAMILIES[type(pipe).__name__]
        self.pipe = pipe.to(device)
        self.pipe.set_progress_bar_config(disable=True)
        self.prompts = [template.format(readable(name)) for name in info.classes]
        self.own_scheduler = pipe.scheduler
        space = LatentSpace(pipe.vae)
        size = working_size(pipe, space, info.clip_shape, resolution)
        self.codec = AutoencoderCodec(space, info.clip_shape, size)
        self.latent_shape = self.codec.latent_shape

    def generate(
        self, modes: Tensor, labels: Tensor, noise: Tensor, guidance: Guidance, how: Sampling, weights: Tensor | None = None
    ) -> Tensor:
        """Latents (B, F, c, h, w) of these classes; see ``sampling.sample``.

        ``start`` must be 1: pipelines start from noise. ``shift`` is the pipeline's own, which it was trained with.
        """
        if how.start != 1:
            raise TaskError("init=mode needs a backbone that is trained here: a pipeline starts from noise; leave init=noise")
        frames, h, w = self.codec.size
        scheduler = adapt_scheduler(self.own_scheduler, how.sampler)
        self.pipe.scheduler = GuidedScheduler(scheduler, guidance, self._enter(modes), self.family.frame_dim, weights)
        latents = self.pipe(
            prompt=[self.prompts[label] for label in labels.tolist()],
            latents=self._enter(noise),
            height=h,
            width=w,
            num_inference_steps=how.steps,
            guidance_scale=how.cfg,
            output_type="latent",
            **{self.family.frames: frames},
        ).frames
        return self._enter(latents).float()

    def _enter(self, latents: Tensor) -> Tensor:
        """Between (B, F, c, h, w) and the pipeline's layout; its own inverse."""
        return latents.transpose(1, 2).contiguous() if self.family.frame_dim == 2 else latents


def load_pipeline(path: str, info: DatasetInfo, template: str, resolution: int, device: torch.device) -> PipelineBackbone:
    """A pipeline from a local folder or by its hub id. Raises TaskError that says how to get one, or which families work."""
    from diffusers import DiffusionPipeline

    if path.startswith((".", "/", "~")):
        path = str(Path(path).expanduser())
        if not (Path(path) / "model_index.json").is_file():
            raise TaskError(missing_model("backbone", path, EXAMPLE))
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        pipe = DiffusionPipeline.from_pretrained(path, torch_dtype=half)
    except OSError as error:
        raise TaskError(missing_model("backbone", path, EXAMPLE)) from error
    if type(pipe).__name__ not in FAMILIES:
        raise TaskError(f"backbone={path!r} is a {type(pipe).__name__}; valid: {', '.join(FAMILIES)}")
    return PipelineBackbone(pipe, info, template, resolution, device)


def readable(name: str) -> str:
    """A class name as words.

    >>> readable("ApplyEyeMakeup"), readable("draw_sword"), readable("tennis-swing")
    ('apply eye makeup', 'draw sword', 'tennis swing')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_\-]+", " ", name).lower()


def working_size(pipe: Any, space: LatentSpace, clip_shape: tuple[int, int, int, int], resolution: int) -> tuple[int, int, int]:
    """(frames, height, width) at which a pipeline works. resolution 0: what its denoiser was trained for, where it says so."""
    config = (getattr(pipe, "transformer", None) or pipe.unet).config
    frames = int(config.get("video_length") or space.frames_for(clip_shape[0]))
    if resolution == 0:
        native = config.get("sample_size") or config.get("sample_height")
        resolution = int(native) * space.space_factor if native else 480
    patch = config.get("patch_size") or 1
    step = space.space_factor * int(max(patch) if isinstance(patch, list | tuple) else patch)
    side = max(1, round(resolution / step)) * step
    return frames, side, side


def adapt_scheduler(own: Any, sampler: str) -> Any:
    """A scheduler that can be guided, with the noise schedule and the prediction of the pipeline's own.

    Flow-matching pipelines take euler, dpm++ and unipc (ddim is their euler), the others ddim, dpm++ and unipc (euler is their ddim:
    both are the first-order deterministic step). CogVideoX has a DDIM of its own, which is what every name gives there.
    """
    import diffusers

    if type(own).__name__.startswith("CogVideoX"):
        return diffusers.CogVideoXDDIMScheduler.from_config(own.config)
    config = own.config
    flow = type(own).__name__.startswith("FlowMatch") or config.get("use_flow_sigmas", False)
    first_order = diffusers.FlowMatchEulerDiscreteScheduler if flow else diffusers.DDIMScheduler
    kinds: dict[str, Any] = {"dpm++": diffusers.DPMSolverMultistepScheduler, "unipc": diffusers.UniPCMultistepScheduler}
    kind = kinds.get(sampler, first_order)
    # Options that another kind of scheduler does not have are left out. Clipping to [-1, 1] is for pixels, and kept only where it is said.
    options = {k: v for k, v in config.items() if k in kind().config and not k.startswith("_")}
    if kind is diffusers.DDIMScheduler:
        options["clip_sample"] = config.get("clip_sample", False)
    if flow:
        shift = config.get("shift") or config.get("flow_shift") or 1.0
        if kind is first_order:
            options["shift"] = shift
        else:
            options |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    return kind(**options)
