"""Backbone: class-conditional video diffusion in latent space, trained on the training split.

A 2-D U-Net (diffusers' UNet2DModel) sees the frames of a clip as channels: every convolution mixes all frames, so motion is learned at
every level, at the cost of an image model. Few channels are then left for what is in a frame; with ``frame_width`` a finer level around
it draws every frame by itself, and the levels that mix frames decide where things go. It is trained by flow matching,

    x_t = (1 - t) x0 + t eps,      v = eps - x0 = (x_t - x0) / t,      t in (0, 1),

with the squared error of v as its loss, the logit of t normal, an additional class for "no class" (classifier-free guidance), and an
exponential average of its weights. The network's output is x0, from which v follows, not v itself: to predict v it would have to pass
all of the noise through, frames x channels values at every place, and a network with fewer channels than that leaves noise in its clips
(Li and He, arXiv 2511.13720).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from harness import Asset, Context, Split, asset
from methods.gvd.codec import BATCH, Codec, pack_json, unpack_json
from methods.gvd.guidance import Guidance
from methods.gvd.sampling import Sampling, sample
from methods.gvd.shipped import shipped_tensors

CHECKPOINT_SECONDS = 60.0
SMALLEST_T = 0.05


@dataclass(frozen=True)
class Architecture:
    """What decides the network: the latent shape (F, c, h, w), the classes, its size, and what its output is.

    Files without ``predicts`` were made when every network predicted the velocity.
    """

    latent_shape: tuple[int, int, int, int]
    classes: int
    width: int
    multipliers: tuple[int, ...]
    layers: int
    torus: bool
    predicts: str = "velocity"
    frame_width: int = 0


class VideoUNet(nn.Module):
    """Velocity of a latent clip: (B, F, c, h, w), t (B,) in [0, 1], classes (B,) (``classes`` itself is "no class") -> like the first."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.architecture = architecture
        frames, channels, h, w = architecture.latent_shape
        halvings = len(architecture.multipliers) - 1 + bool(architecture.frame_width)
        if h % 2**halvings or w % 2**halvings:
            raise ValueError(
                f"video_diffusion: latents of {h}x{w} cannot be halved {halvings} times, as multipliers {list(architecture.multipliers)} "
                f"and frame_width {architecture.frame_width} do; use fewer multipliers, or a patch of latent_codec that leaves "
                f"a multiple of {2**halvings}"
            )
        self.frames = FrameLevel(architecture) if architecture.frame_width else None
        if architecture.frame_width:
            channels, h, w = architecture.frame_width, h // 2, w // 2
        widths = tuple(architecture.width * m for m in architecture.multipliers)
        levels = len(widths)
        network: Any = UNet2DModel(
            sample_size=(h, w),
            in_channels=frames * channels,
            out_channels=frames * channels,
            block_out_channels=widths,
            # Attention where there are few places: at all levels but the first.
            down_block_types=("DownBlock2D",) + ("AttnDownBlock2D",) * (levels - 1),
            up_block_types=("AttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
            layers_per_block=architecture.layers,
            norm_num_groups=math.gcd(16, architecture.width),
            attention_head_dim=math.gcd(32, *(widths[1:] or widths)),
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=architecture.classes + 1,
        )
        self.net = network
        if architecture.torus:
            for module in network.modules():
                if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                    module.padding_mode = "circular"

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        steps = t * 1000
        out: Tensor = self._mix(x, steps, labels) if self.frames is None else self.frames(x, steps, labels, self._mix)
        return out if self.architecture.predicts == "velocity" else velocity_to(out, x, t)

    def _mix(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        out: Tensor = self.net(x.flatten(1, 2), t, labels).sample.view_as(x)
        return out


class FrameLevel(nn.Module):
    """The finest level of a network, with the same weights for every frame; ``mix`` sees all frames at half the resolution.

    (B, F, c, h, w), t (B,) in [0, 1000], classes (B,), mix: (B, F, frame_width, h / 2, w / 2) -> like the first.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        from diffusers.models.downsampling import Downsample2D
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps
        from diffusers.models.resnet import ResnetBlock2D
        from diffusers.models.upsampling import Upsample2D

        frames, channels, _, _ = architecture.latent_shape
        width = architecture.frame_width
        embedding, groups = 4 * width, math.gcd(8, width)

        def block(inside: int) -> nn.Module:
            return ResnetBlock2D(
                in_channels=inside, out_channels=width, temb_channels=embedding, groups=groups, time_embedding_norm="scale_shift"
            )

        self.frequencies = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(width, embedding)
        self.label = nn.Embedding(architecture.classes + 1, embedding)
        self.frame = nn.Embedding(frames, embedding)
        self.into = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(block(width) for _ in range(architecture.layers))
        self.shrink = Downsample2D(width, use_conv=True)
        self.grow = Upsample2D(width, use_conv=True)
        self.up = nn.ModuleList(block(width if layer else 2 * width) for layer in range(architecture.layers + 1))
        self.norm = nn.GroupNorm(groups, width)
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        embedding = self.time(self.frequencies(t).to(x.dtype)) + self.label(labels)
        embedding = (embedding[:, None] + self.frame.weight).flatten(0, 1)
        fine = self.into(x.flatten(0, 1))
        for layer in self.down:
            fine = layer(fine, embedding)
        coarse = self.shrink(fine).unflatten(0, x.shape[:2])
        coarse = coarse + mix(coarse, t, labels)
        fine = torch.cat([self.grow(coarse.flatten(0, 1)), fine], 1)
        for layer in self.up:
            fine = layer(fine, embedding)
        out: Tensor = self.out(nn.functional.silu(self.norm(fine)))
        return out.view_as(x)


def velocity_to(x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """(x_t - x0) / t, with t (B,) bounded from below as Li and He have it."""
    return (x - x0) / t.clamp(min=SMALLEST_T).view(-1, 1, 1, 1, 1)


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

    codec: str = "patch"
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
    steps: int = 20000
    """Training steps."""
    seconds: float = 900
    """Training ends after so many seconds if the steps are not done by then; 0: no limit. The schedule shortens accordingly."""
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

    def assets(self, info: Any) -> dict[str, Asset]:
        return {"codec": Asset("latent_codec", {"kind": self.codec})}

    def build(self, train: Split, context: Context) -> dict[str, Tensor]:
        """The averaged weights in half precision and their description. Resumes from its checkpoint after an interruption."""
        shipped = shipped_tensors(train.info.digest) if self.shipped and self.codec == "patch" else None
        context.metrics["shipped_weights"] = float(shipped is not None)
        if shipped is not None:
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
        context.metrics["parameters"] = float(sum(p.numel() for p in trainer.network.parameters()))
        context.metrics["samples_seen"] = float(trainer.step * self.batch)
        context.metrics["train_seconds"] = trainer.seconds
        context.curves["loss"] = trainer.curve
        return pack(trainer.average, {"training": {**asdict(self), "steps_done": trainer.step, "seconds": round(trainer.seconds)}})

    def load(self, tensors: dict[str, Tensor], context: Context) -> Backbone:
        return Backbone(unpack(tensors).to(context.device).eval().requires_grad_(False), context.assets["codec"])


def pack(network: VideoUNet, facts: dict[str, Any]) -> dict[str, Tensor]:
    """Weights in half precision with a description of the architecture."""
    tensors = {f"net.{name}": t.detach().cpu().half() for name, t in network.state_dict().items()}
    return {**tensors, "description": pack_json({"architecture": asdict(network.architecture), **facts})}


def unpack(tensors: dict[str, Tensor]) -> VideoUNet:
    """Inverse of ``pack``, in float32."""
    described: dict[str, Any] = unpack_json(tensors["description"])["architecture"]
    for name in ("latent_shape", "multipliers"):
        described[name] = tuple(described[name])
    network = VideoUNet(Architecture(**described))
    network.load_state_dict({name.removeprefix("net."): t.float() for name, t in tensors.items() if name.startswith("net.")})
    return network


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
    """The training loop: flow matching, averaged weights, checkpoints that it resumes from."""

    def __init__(self, architecture: Architecture, config: VideoDiffusion, device: torch.device) -> None:
        self.config, self.device = config, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = VideoUNet(architecture).to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.step, self.seconds = 0, 0.0
        self.curve: list[tuple[int, float]] = []

    def run(self, latents: np.ndarray, labels: Tensor, context: Context) -> None:
        """Train to the end; ``latents`` may be a memory map of any size."""
        config, path = self.config, context.scratch / "checkpoint.pt"
        if path.is_file():
            self._resume(path)
        losses: list[Tensor] = []
        last = saved = time.monotonic()
        while (done := self._done()) < 1:
            generator = torch.Generator().manual_seed((config.seed << 32) + self.step)  # of this step: a resumed run draws the same
            losses.append(self._step(latents, labels, generator, done))
            self.step += 1
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            if self.step % 50 == 0:
                self.curve.append((self.step, float(torch.stack(losses).mean())))
                losses.clear()
                context.progress(round(1000 * self._done()), 1000)
                if not math.isfinite(self.curve[-1][1]):
                    raise ValueError(f"video_diffusion: the loss is not finite at step {self.step}; lower lr (it is {config.lr})")
            if now - saved > CHECKPOINT_SECONDS:
                self._save(path)
                saved = now

    def _done(self) -> float:
        """Part of the training that is done, by steps or by time, whichever is further."""
        by_time = self.seconds / self.config.seconds if self.config.seconds > 0 else 0.0
        return max(self.step / self.config.steps, by_time)

    def _step(self, latents: np.ndarray, labels: Tensor, generator: torch.Generator, done: float) -> Tensor:
        config = self.config
        rows = torch.randint(len(labels), (config.batch,), generator=generator)
        x0 = torch.from_numpy(latents[rows.numpy()]).float()
        if config.torus:
            x0 = roll(x0, torch.rand(len(x0), 2, generator=generator))
        t = torch.sigmoid(config.noise_mean + torch.randn(len(x0), generator=generator))
        noise = torch.randn(x0.shape, generator=generator)
        classes = labels[rows].masked_fill(torch.rand(len(x0), generator=generator) < config.drop_class, self.network.architecture.classes)
        x0, t, noise, classes = (tensor.to(self.device, non_blocking=True) for tensor in (x0, t, noise, classes))
        noisy = torch.lerp(x0, noise, t.view(-1, 1, 1, 1, 1))
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            velocity = self.network(noisy, t, classes)
        loss = (velocity.float() - velocity_to(x0, noisy, t)).square().mean()
        warmed = min(1.0, done / 0.02 + 0.01)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * warmed * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return loss.detach()

    def _save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "numbers": {"step": self.step, "seconds": self.seconds, "curve": self.curve},
        }
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["numbers"]["step"], state["numbers"]["seconds"]
        self.curve = [(int(s), float(v)) for s, v in state["numbers"]["curve"]]


def roll(latents: Tensor, shifts: Tensor) -> Tensor:
    """Each clip (B, F, c, h, w) moved cyclically by its shift (B, 2) in fractions of height and width, all frames alike."""
    b, _, _, h, w = latents.shape
    rows = (torch.arange(h) + (shifts[:, :1] * h).long()) % h
    columns = (torch.arange(w) + (shifts[:, 1:] * w).long()) % w
    moved = latents.permute(0, 3, 4, 1, 2)[torch.arange(b)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 4, 1, 2).contiguous()
