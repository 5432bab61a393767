"""Fine-tuning of a pretrained pipeline's denoiser on the target's training split: class names alone say little about a dataset's clips.

The denoiser is trained as its family was: noise at a random timestep of its own schedule is added to the latents of a training clip, and
the network predicts what it was made to predict (noise, velocity, or flow), with a squared error; the text is the prompt of the clip's
class, and the empty one for a part of the clips, which classifier-free guidance needs. LoRA (Hu et al., ICLR 2022, arXiv 2106.09685, by
peft) learns low-rank changes of the attention's projections; ``full`` changes all weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness import Asset, Context, DatasetInfo, Split, TaskError, asset
from methods.gvd.pipelines import PipelineBackbone, adapt_scheduler, load_pipeline, prompts_of
from methods.gvd.stepwise import Stepwise
from methods.latents import StoredLatents, codec_asset, latent_assets

PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]
"""What LoRA changes: the attention's projections, which have these names in all families."""


class Tuned:
    """The fine-tuned weights of a denoiser: all of them, or LoRA's matrices of a rank."""

    def __init__(self, tensors: Mapping[str, Tensor], rank: int) -> None:
        self.tensors, self.rank = tensors, rank

    def apply(self, network: nn.Module) -> None:
        """Put them into the pretrained network, which is on the CPU; LoRA's are added to its weights."""
        lora = add_lora(network, self.rank) if self.rank else None
        unknown = network.load_state_dict(dict(self.tensors), strict=False).unexpected_keys
        if unknown:
            raise TaskError(f"the fine-tuned weights do not fit the backbone: it has no {unknown[0]}")
        if lora is not None:
            lora.merge_and_unload()


@asset("pipeline_tuning")
class PipelineTuning:
    """A pretrained pipeline's denoiser, fine-tuned on the encoded training split and the prompts of its classes."""

    backbone: Path | str = "maxin-cn/Latte-1"
    """The pipeline: a folder or hub id."""
    how: Literal["lora", "full"] = "lora"
    """lora: low-rank changes of the attention, some 1 % of the weights; full: all weights, 16 bytes of memory for each."""
    prompt: str = "a video of {}"
    """What a clip is called; {} is its class name."""
    size: tuple[int, int, int] = (0, 0, 0)
    """Frames, height and width at which it works; 0: its own."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """What the denoiser computes in; what is learned is float32."""
    rank: int = 16
    """lora: rank of the changes."""
    steps: int = 2000
    """Training steps."""
    batch: int = 4
    """Clips of one step."""
    lr: float = 0.0
    """Peak learning rate of AdamW: linear warm-up over 2 %, cosine to 0. 0: 1e-4 for lora, 1e-5 for full."""
    drop_text: float = 0.1
    """Part of the clips trained with the empty prompt."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.rank) < 1:
            raise ValueError(f"steps, batch and rank must be at least 1, got {self.steps}, {self.batch} and {self.rank}")
        if self.lr < 0 or not 0 <= self.drop_text <= 1:
            raise ValueError(f"lr must not be negative and drop_text in [0, 1], got {self.lr} and {self.drop_text}")

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"codec": codec_asset(self.backbone, self.size), **latent_assets(self.backbone, self.size)}

    def build(self, train: Split, context: Context) -> dict[str, Tensor]:
        """What was learned, LoRA's matrices in float32 or all weights in ``precision``; a run that was interrupted goes on."""
        precision = self.precision if self.how == "lora" else "float32"
        prompts = prompts_of(train.info, self.prompt)
        backbone = load_pipeline(str(self.backbone), context.assets["codec"], prompts, context.device, precision)
        tuner = Tuner(backbone, self, context.assets["latents"], train.labels)
        tuner.run(context)
        context.curves["loss"] = tuner.curve
        dtype = torch.float32 if self.how == "lora" else getattr(torch, self.precision)
        return {name: tensor.to(dtype) for name, tensor in tuner.learned().items()}

    def load(self, tensors: dict[str, Tensor], context: Context) -> Tuned:
        return Tuned(tensors, self.rank if self.how == "lora" else 0)


class Tuner(Stepwise):
    """The training loop of a pipeline's denoiser."""

    def __init__(self, backbone: PipelineBackbone, params: PipelineTuning, latents: StoredLatents, labels: Tensor) -> None:
        lr = params.lr or (1e-4 if params.how == "lora" else 1e-5)
        super().__init__("pipeline_tuning", params.steps, lr, params.seed, backbone.device)
        if len(backbone.networks) > 1:
            raise TaskError("fine-tuning knows pipelines of one denoiser, this one has two; leave finetune=none")
        self.backbone, self.params, self.latents, self.labels = backbone, params, latents, labels
        self.network = backbone.networks[0]
        if params.how == "lora":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(params.seed)
                add_lora(self.network, params.rank)
        else:
            self.network.requires_grad_(True)
        self.network.enable_gradient_checkpointing()
        self.scheduler = adapt_scheduler(backbone.pipe.scheduler, "ddim")
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)

    def take_step(self, generator: torch.Generator) -> Tensor:
        params = self.params
        rows = torch.randint(len(self.labels), (params.batch,), generator=generator)
        x0 = torch.cat(list(self.latents.parts(rows)))
        noise = torch.randn(x0.shape, generator=generator)
        t, alpha, sigma, prediction = random_levels(self.scheduler, torch.rand(len(x0), generator=generator))
        is_free = torch.rand(len(x0), generator=generator) < params.drop_text
        texts = torch.where(is_free[:, None, None], self.backbone.free, self.backbone.texts[self.labels[rows]])
        alpha, sigma = (level.view(-1, 1, 1, 1, 1) for level in (alpha, sigma))
        target = {
            "epsilon": noise,
            "v_prediction": alpha * noise - sigma * x0,
            "flow_prediction": noise - x0,
            "sample": x0,
        }[prediction]
        noisy, t, texts, target = (tensor.to(self.device) for tensor in (alpha * x0 + sigma * noise, t, texts, target))
        with torch.autocast(self.device.type, getattr(torch, params.precision), enabled=params.precision != "float32"):
            predicted = self.backbone.denoise(noisy, t, texts)
        loss = (predicted - target).square().mean()
        self.set_rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.learned().values(), 1.0)
        self.optimizer.step()
        return loss.detach()

    def learned(self) -> dict[str, Tensor]:
        """The parameters that are trained, by their names."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def state(self) -> dict[str, Any]:
        return {"learned": self.learned()}

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["learned"], strict=False)


def add_lora(network: nn.Module, rank: int) -> Any:
    """Wrap the attention's projections of a network, in place, with changes of this rank, which are zero at first; returns peft's model."""
    from peft import LoraConfig, LoraModel

    lora = LoraModel(network, LoraConfig(r=rank, lora_alpha=rank, target_modules=PROJECTIONS), "default")
    return lora


def random_levels(scheduler: Any, u: Tensor) -> tuple[Tensor, Tensor, Tensor, str]:
    """Timesteps, alpha and sigma of the noise levels at u (B,) in [0, 1), uniform in the schedule's timesteps, and the prediction's name.

    scheduler: DDIM's, or flow matching's, whose shift moves them toward high noise as it does in sampling.
    """
    if type(scheduler).__name__.startswith("FlowMatch"):
        shift, steps = scheduler.config.shift, scheduler.config.num_train_timesteps
        sigma = shift * u / (1 + (shift - 1) * u)
        return sigma * steps, 1 - sigma, sigma, "flow_prediction"
    t = (u * len(scheduler.alphas_cumprod)).long()
    cumulative = scheduler.alphas_cumprod[t].float()  # CogVideoX's are of double precision
    return t, cumulative.sqrt(), (1 - cumulative).sqrt(), scheduler.config.prediction_type
