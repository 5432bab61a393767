"""Pretrained text-to-video pipelines of diffusers as backbones: Latte, Wan, CogVideoX, AnimateDiff.

Taken from a pipeline: its text encoder, which encodes the prompts of all classes once and is then let go (a T5 has 10 GB); its denoiser
(``families.py``); its noise schedule. Its autoencoder is the codec, an asset of its own (``codec.py``). The sampling loop is the one of the
backbones that are trained here (``sampling.py``): the sample, classifier-free guidance and the modes' pull are in float32, only the
denoiser works in its own precision.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from harness import DatasetInfo, TaskError
from methods.gvd.codec import Codec
from methods.gvd.families import FAMILIES, Native, as_batch, native_of
from methods.gvd.guidance import Guidance
from methods.gvd.sampling import Sampling, StepDone, walk
from methods.gvd.vae import missing_model

EXAMPLE = "maxin-cn/Latte-1"
PROMPTS = 16
"""Prompts that are encoded at a time."""
SCHEDULE = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type", "rescale_betas_zero_snr",
    "timestep_spacing", "steps_offset", "set_alpha_to_one", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
)  # fmt: skip
"""What of a scheduler's configuration describes the noise that a model was trained with, its prediction, and where it is best sampled.
The rest is a solver's own. Some of it must not be carried over: ``variance_type = learned_range`` (Latte-1) makes others expect a variance
that is cut off here, ``sde-dpmsolver++`` draws noise, clipping and thresholding are for pixels."""
Precision = Literal["bfloat16", "float16", "float32"]


class Changes(Protocol):
    """What fine-tuning changes of a denoiser."""

    def apply(self, network: nn.Module) -> None: ...


class PipelineBackbone:
    """A pretrained pipeline behind the interface of the backbone that is trained here.

    pipe: without autoencoder and text encoder. texts: embeddings of the classes' prompts (classes, L, d); free: of the empty one (1, L, d).
    """

    def __init__(self, pipe: Any, native: Native, codec: Codec, texts: Tensor, free: Tensor, device: torch.device) -> None:
        self.pipe, self.family, self.codec, self.device = pipe, native.family, codec, device
        self.texts, self.free = texts, free
        self.steps, self.cfg = self.family.steps, self.family.cfg

    def generate(
        self,
        modes: Tensor,
        labels: Tensor,
        noise: Tensor,
        guidance: Guidance,
        how: Sampling,
        weights: Tensor | None = None,
        progress: StepDone | None = None,
    ) -> Tensor:
        """Latents (B, F, c, h, w) of these classes; see ``sampling.sample``. ``shift`` is the pipeline's own, which it was trained with."""
        scheduler = adapt_scheduler(self.pipe.scheduler, how.sampler)
        scheduler.set_timesteps(how.steps)
        texts = self.texts[labels.cpu()].to(self.device)
        free = self.free.to(self.device).expand_as(texts)

        def predict(x: Tensor, timestep: Any) -> Tensor:
            t = as_batch(timestep, x)
            output = self.denoise(x, t, texts)
            if how.cfg == 1:
                return output
            unconditional = self.denoise(x, t, free)
            return unconditional + how.cfg * (output - unconditional)

        return walk(scheduler, predict, modes, noise, guidance, how.start, weights, progress)

    def denoise(self, x: Tensor, t: Tensor, texts: Tensor) -> Tensor:
        """What the network predicts of float32 latents, in float32; it works in the precision of its text embeddings."""
        return self.family.denoise(self.pipe, x.to(texts.dtype), t, texts).float()

    @property
    def networks(self) -> list[Any]:
        """The modules that denoise."""
        return [network for name in self.family.networks if (network := getattr(self.pipe, name)) is not None]


def load_pipeline(
    path: str,
    codec: Codec,
    prompts: Sequence[str],
    device: torch.device,
    precision: Precision = "bfloat16",
    offload: bool = False,
    compiled: bool = False,
    tuned: Changes | None = None,
) -> PipelineBackbone:
    """A pipeline from a local folder or by its hub id, for these prompts. Raises TaskError: how to get one, or which families work.

    offload: the denoiser stays in the memory of the CPU, and a layer is on the GPU while it computes. compiled: by torch.compile.
    tuned: fine-tuned weights (``tuning.py``).
    """
    from diffusers import DiffusionPipeline

    if path.startswith((".", "/", "~")):
        path = str(Path(path).expanduser())
    dtype = getattr(torch, precision)
    try:
        native = native_of(path)
        if native is None:
            named = DiffusionPipeline.load_config(path).get("_class_name")
            raise TaskError(f"backbone={path!r} is a {named}; valid: {', '.join(FAMILIES)}")
        absent: dict[str, None] = dict.fromkeys(("vae", *native.family.networks))
        texts, free = encode_prompts(DiffusionPipeline.from_pretrained(path, torch_dtype=dtype, **absent), native, prompts, device)
        gc.collect()  # the text encoder is in reference cycles
        absent = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
        pipe = DiffusionPipeline.from_pretrained(path, torch_dtype=dtype, **absent)
    except OSError as error:
        raise TaskError(missing_model("backbone", path, EXAMPLE)) from error
    backbone = PipelineBackbone(pipe, native, codec, texts, free, device)
    for network in backbone.networks:
        if tuned is not None:
            tuned.apply(network)
        place(network.eval().requires_grad_(False), device, offload, compiled)
    return backbone


def place(network: Any, device: torch.device, offload: bool, compiled: bool) -> None:
    """Bring a denoiser to where it computes."""
    if offload:
        network.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda")
    else:
        network.to(device)
    if compiled:
        network.compile()


@torch.no_grad()
def encode_prompts(pipe: Any, native: Native, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Text embeddings of the prompts (n, L, d) and of the empty one (1, L, d), on the CPU, as the pipeline's own call makes them.

    Latte embeds a prompt otherwise where it is alone: a single one is given twice.
    """
    pipe.text_encoder.to(device)
    options: dict[str, Any] = {
        "LattePipeline": {"num_images_per_prompt": 1, "clean_caption": False},
        "WanPipeline": {"max_sequence_length": 512},
        "CogVideoXPipeline": {"max_sequence_length": native.config.get("max_text_seq_length", 226)},
        "AnimateDiffPipeline": {"num_images_per_prompt": 1},
    }[native.name]
    texts = []
    for start in range(0, len(prompts), PROMPTS):
        part = list(prompts[start : start + PROMPTS])
        told = part if len(part) > 1 else part * 2
        text, free = pipe.encode_prompt(told, do_classifier_free_guidance=True, negative_prompt=[""] * len(told), device=device, **options)
        texts.append(text[: len(part)].cpu())
        empty = free[:1].cpu()
    return torch.cat(texts), empty


def prompts_of(info: DatasetInfo, template: str) -> list[str]:
    """What a pipeline is asked for, class by class; {} in the template is the class name."""
    return [template.format(readable(name)) for name in info.classes]


def readable(name: str) -> str:
    """A class name as words.

    >>> readable("ApplyEyeMakeup"), readable("draw_sword"), readable("tennis-swing")
    ('apply eye makeup', 'draw sword', 'tennis swing')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_\-]+", " ", name).lower()


def adapt_scheduler(own: Any, sampler: str) -> Any:
    """A scheduler that can be guided, with the noise schedule and the prediction of the pipeline's own (``SCHEDULE``).

    Flow-matching pipelines take euler, dpm++ and unipc (ddim is their euler), the others ddim, dpm++ and unipc (euler is their ddim:
    both are the first-order deterministic step). CogVideoX has a DDIM of its own, which is what every name gives there.
    """
    import diffusers

    config = own.config
    flow = type(own).__name__.startswith("FlowMatch") or config.get("use_flow_sigmas", False)
    first_order = diffusers.FlowMatchEulerDiscreteScheduler if flow else diffusers.DDIMScheduler
    kinds: dict[str, Any] = {"dpm++": diffusers.DPMSolverMultistepScheduler, "unipc": diffusers.UniPCMultistepScheduler}
    kind = kinds.get(sampler, first_order)
    if type(own).__name__.startswith("CogVideoX"):
        kind = diffusers.CogVideoXDDIMScheduler
    known = kind().config
    options = {name: config[name] for name in SCHEDULE if name in config and name in known}
    if "clip_sample" in known:
        options["clip_sample"] = False
    if "snr_shift_scale" in known:
        options["snr_shift_scale"] = config["snr_shift_scale"]
    if flow:
        shift = config.get("shift") or config.get("flow_shift") or 1.0
        solver = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
        options = {"num_train_timesteps": config["num_train_timesteps"]} | ({"shift": shift} if kind is first_order else solver)
    return kind(**options)
