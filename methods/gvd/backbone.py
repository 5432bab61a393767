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
import math
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from harness import Asset, Context, DatasetInfo, Split, TaskError, asset
from methods.gvd.codec import BATCH, Codec
from methods.gvd.guidance import Guidance
from methods.gvd.sampling import Sampling, sample
from methods.gvd.shipped import SHIPPED, shipped_tensors
from methods.gvd.unet import Architecture, VideoUNet, pack, unpack, velocity_to

CHECKPOINT_SECONDS = 60.0
TIMED_STEPS = 5
"""Steps, after the first, whose time tells how long training will take."""
CURVE_STEPS = 50
"""Steps that one point of the loss curve is the mean of."""


class Backbone:
    """A trained denoiser behind the interface that sampling uses, with the codec of its latents."""

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

    def generate(self, modes: Tensor, labels: Tensor, noise: Tensor, guidance: Guidance, how: Sampling) -> Tensor:
        """Latents (B, F, c, h, w) of these classes; see ``sampling.sample``."""
        return sample(self, modes, labels, noise, guidance, how)


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
        return {"codec": Asset("latent_codec", {"kind": self.codec})}

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
        latents = encode_all(codec, train, context.scratch / "latents.npy", context.device)
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
        trainer.run(latents, train.labels, context)
        context.curves["loss"] = trainer.curve
        return pack(trainer.average)

    def load(self, tensors: dict[str, Tensor], context: Context) -> Backbone:
        return Backbone(unpack(tensors).to(context.device).eval().requires_grad_(False), context.assets["codec"])


def encode_all(codec: Codec, train: Split, path: Path, device: torch.device) -> np.ndarray:
    """Latents of the whole split as a float16 memory map at ``path``, (N, F, c, h, w); made once."""
    shape = (len(train), *codec.latent_shape)
    if path.is_file():
        made = np.load(path, mmap_mode="r")
        if made.shape == shape:
            return made
    partial = path.with_suffix(".partial")
    array = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
    for start in range(0, len(train), BATCH):
        clips = train.clips(slice(start, min(start + BATCH, len(train)))).to(device)
        array[start : start + len(clips)] = codec.encode(clips).half().cpu().numpy()
    array.flush()
    partial.rename(path)
    return np.load(path, mmap_mode="r")


class Trainer:
    """The training loop: flow matching, averaged weights, checkpoints that it resumes from. No clock decides what it makes."""

    def __init__(self, architecture: Architecture, params: VideoDiffusion, device: torch.device) -> None:
        self.params, self.device = params, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed)
            self.network = VideoUNet(architecture).to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=params.lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.step = 0
        self.losses: list[Tensor] = []  # since the last point of the curve
        self.curve: list[tuple[int, float]] = []

    def run(self, latents: np.ndarray, labels: Tensor, context: Context) -> None:
        """Train to the last step; ``latents`` may be a memory map of any size."""
        params, path = self.params, context.scratch / "checkpoint.pt"
        if path.is_file():
            self._resume(path)
        first = self.step
        saved = timed = time.monotonic()
        while self.step < params.steps:
            generator = torch.Generator().manual_seed((params.seed << 32) + self.step)  # of this step: a resumed run draws the same
            self.losses.append(self._step(latents, labels, generator))
            self.step += 1
            if self.step - first in (1, 1 + TIMED_STEPS):
                self.losses[-1].item()  # waits for a GPU
            now = time.monotonic()
            if self.step - first == 1:
                timed = now
            if self.step - first == 1 + TIMED_STEPS:
                self._announce((now - timed) / TIMED_STEPS)
            if self.step % CURVE_STEPS == 0 or self.step == params.steps:
                self._close_point()
            context.progress(self.step, params.steps)
            if now - saved > CHECKPOINT_SECONDS:
                self._save(path)
                saved = now

    def _announce(self, seconds: float) -> None:
        """Say, from the time of one step, how long the others will take."""
        left = self.params.steps - self.step
        sys.stdout.write(f"video_diffusion: {seconds:.3g} s a step, {left} steps to go: about {seconds * left / 60:.3g} min\n")

    def _close_point(self) -> None:
        """A point of the loss curve. Raises TaskError where it is not finite."""
        self.curve.append((self.step, float(torch.stack(self.losses).mean())))
        self.losses.clear()
        if not math.isfinite(self.curve[-1][1]):
            raise TaskError(f"video_diffusion: the loss is not finite at step {self.step}; lower lr (it is {self.params.lr})")

    def _step(self, latents: np.ndarray, labels: Tensor, generator: torch.Generator) -> Tensor:
        params = self.params
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
        done = self.step / params.steps
        warmed = min(1.0, done / 0.02 + 0.01)
        for group in self.optimizer.param_groups:
            group["lr"] = params.lr * warmed * 0.5 * (1 + math.cos(math.pi * done))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(params.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return loss.detach()

    def _save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "curve": self.curve,
        }
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses, self.curve = state["step"], state["losses"], state["curve"]


def roll(latents: Tensor, shifts: Tensor) -> Tensor:
    """Each clip (B, F, c, h, w) moved cyclically by its shift (B, 2) in fractions of height and width, all frames alike."""
    b, _, _, h, w = latents.shape
    rows = (torch.arange(h) + (shifts[:, :1] * h).long()) % h
    columns = (torch.arange(w) + (shifts[:, 1:] * w).long()) % w
    moved = latents.permute(0, 3, 4, 1, 2)[torch.arange(b)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 4, 1, 2).contiguous()
