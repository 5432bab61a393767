"""Backbone: class-conditional video diffusion in latent space, trained on the training split.

The network (``methods/gvd/unet.py``) is trained by flow matching,

    x_t = (1 - t) x0 + t eps,      v = eps - x0 = (x_t - x0) / t,      t in (0, 1),

with the squared error of v as its loss, the logit of t normal, an additional class for "no class" (classifier-free guidance), and an
exponential average of its weights. The network's output is x0, from which v follows, not v itself: to predict v it would have to pass
all of the noise through, frames x channels values at every place, and a network with fewer channels than that leaves noise in its clips
(Li and He, arXiv 2511.13720).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from harness import Asset, Context, DatasetInfo, Split, asset
from methods.gvd.codec import Codec
from methods.gvd.guidance import Guidance
from methods.gvd.sampling import Sampling, StepDone, sample
from methods.gvd.shipped import SHIPPED, shipped_tensors
from methods.gvd.stepwise import Stepwise
from methods.gvd.unet import Architecture, VideoUNet, pack, unpack, velocity_to
from methods.latents import codec_asset, encode_all, latent_assets


class Backbone:
    """A trained denoiser behind the interface that sampling uses, with the codec of its latents.

    steps, cfg: of the sampling where GVD says nothing else.
    """

    steps, cfg = 12, 2.5

    def __init__(self, network: VideoUNet, codec: Codec) -> None:
        self.network, self.codec = network, codec
        self.latent_shape = network.architecture.latent_shape
        self.classes = network.architecture.classes

    def velocity(self, x: Tensor, t: Tensor, labels: Tensor, cfg: float) -> Tensor:
        """v = eps - x0 at x_t, with classifier-free guidance of that scale (1: off)."""
        if cfg == 1:
            return self.network(x, t, labels)
        both = self.network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, torch.full_like(labels, self.classes)]))
        conditional, free = both.chunk(2)
        return free + cfg * (conditional - free)

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
        """Latents (B, F, c, h, w) of these classes; see ``sampling.sample``."""
        return sample(self, modes, labels, noise, guidance, how, weights, progress)


@asset("video_diffusion")
class VideoDiffusion:
    """Class-conditional latent video diffusion, trained on the training split; the shipped weights where they were trained on this data."""

    codec: Path | str = "patch"
    """Latents: the kind of the asset latent_codec."""
    width: int = 96
    """Channels of the first level that mixes frames."""
    multipliers: tuple[int, ...] = (1, 1)
    """Channels of each of these levels in units of ``width``; from one to the next the size halves."""
    layers: int = 1
    """Residual blocks of a level."""
    predicts: Literal["x0", "velocity"] = "x0"
    """What the network's output is; the loss is that of the velocity either way."""
    frame_width: int = 32
    """Channels of a finer level around those that draws every frame by itself, with weights that all frames share; 0: none."""
    torus: bool = False
    """For canvases that wrap around: circular convolutions (the level of ``frame_width`` keeps its borders, which costs less), and
    random cyclic shifts of whole clips in training."""
    steps: int = 4000
    """Training steps. One core of a 2.3 GHz Xeon takes 1.1 s for one of 16x64x64 clips and 0.6 s of 8x32x32, so 75 and 40 minutes for
    these; UTD-MHAD came to its loss of 0.083 with 3,500."""
    batch: int = 32
    """Clips of one step."""
    lr: float = 1e-3
    """Peak learning rate of AdamW: linear warm-up over 2 %, cosine to 0."""
    ema: float = 0.998
    """Decay of the averaged weights."""
    noise_mean: float = 0.5
    """Mean of the logit of t in training: above 0 the high noise levels, where motion is decided, are seen more often."""
    drop_class: float = 0.1
    """Part of the clips trained without their class."""
    shipped: bool = True
    """Use the weights that come with the project where the dataset is exactly theirs. They decide the fields above."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ValueError(f"steps and batch must be at least 1, got {self.steps} and {self.batch}")

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"codec": codec_asset(self.codec), **latent_assets(self.codec)}

    def build(self, train: Split, context: Context) -> dict[str, Tensor]:
        """The averaged weights in half precision and their description.

        Training ends by its steps; where the task's time limit comes first, that is a failure, and the next run goes on from the last
        checkpoint, at most a minute old. Raises TaskError where the loss is not finite.
        """
        shipped = shipped_tensors(train.info.digest) if self.shipped and self.codec == "patch" else None
        if shipped is not None:
            context.cost = SHIPPED[train.info.digest].cost
            return {name: t for name, t in shipped.items() if not name.startswith("codec.")}
        codec: Codec = context.assets["codec"]
        stored = context.assets["latents"].array.numpy() if "latents" in context.assets else encode_all(codec, train, context)[0]
        architecture = Architecture(
            codec.latent_shape,
            len(train.info.classes),
            self.width,
            tuple(self.multipliers),
            self.layers,
            self.torus,
            self.predicts,
            self.frame_width,
        )
        trainer = Trainer(architecture, self, context.device)
        trainer.fit(stored, train.labels, context)
        context.curves["loss"] = trainer.curve
        return pack(trainer.average)

    def load(self, tensors: dict[str, Tensor], context: Context) -> Backbone:
        return Backbone(unpack(tensors).to(context.device).eval().requires_grad_(False), context.assets["codec"])


class Trainer(Stepwise):
    """The training loop: flow matching, averaged weights."""

    latents: np.ndarray
    labels: Tensor

    def __init__(self, architecture: Architecture, params: VideoDiffusion, device: torch.device) -> None:
        super().__init__("video_diffusion", params.steps, params.lr, params.seed, device)
        self.params = params
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed)
            self.network = VideoUNet(architecture).to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=params.lr, betas=(0.9, 0.99), weight_decay=0.01)

    def fit(self, latents: np.ndarray, labels: Tensor, context: Context) -> None:
        """Train to the last step; ``latents`` may be a memory map of any size."""
        self.latents, self.labels = latents, labels
        self.run(context)

    def take_step(self, generator: torch.Generator) -> Tensor:
        params, latents, labels = self.params, self.latents, self.labels
        rows = torch.randint(len(labels), (params.batch,), generator=generator)
        x0 = torch.from_numpy(latents[rows.numpy()]).float()
        if params.torus:
            x0 = roll(x0, torch.rand(len(x0), 2, generator=generator))
        t = torch.sigmoid(params.noise_mean + torch.randn(len(x0), generator=generator))
        noise = torch.randn(x0.shape, generator=generator)
        classes = labels[rows].masked_fill(torch.rand(len(x0), generator=generator) < params.drop_class, self.network.architecture.classes)
        x0, t, noise, classes = (tensor.to(self.device, non_blocking=True) for tensor in (x0, t, noise, classes))
        noisy = torch.lerp(x0, noise, t.view(-1, 1, 1, 1, 1))
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            velocity = self.network(noisy, t, classes)
        loss = (velocity.float() - velocity_to(x0, noisy, t)).square().mean()
        self.set_rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(params.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return loss.detach()

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "average": self.average.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])


def roll(latents: Tensor, shifts: Tensor) -> Tensor:
    """Each clip (B, F, c, h, w) moved cyclically by its shift (B, 2) in fractions of height and width, all frames alike."""
    b, _, _, h, w = latents.shape
    rows = (torch.arange(h) + (shifts[:, :1] * h).long()) % h
    columns = (torch.arange(w) + (shifts[:, 1:] * w).long()) % w
    moved = latents.permute(0, 3, 4, 1, 2)[torch.arange(b)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 4, 1, 2).contiguous()
