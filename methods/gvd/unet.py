"""The backbone's network: a 2-D U-Net that sees the frames of a latent clip as channels, and a finest level that draws each by itself.

Every convolution of diffusers' UNet2DModel mixes all frames, so motion is learned at every level, at the cost of an image model. Few
channels are then left for what is in a frame; with ``frame_width`` a finer level around it draws every frame by itself, and the levels
that mix frames decide where things go.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.gvd.described import pack_json, unpack_json

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


def pack(network: VideoUNet) -> dict[str, Tensor]:
    """Weights in half precision with a description of the architecture."""
    tensors = {f"net.{name}": t.detach().cpu().half() for name, t in network.state_dict().items()}
    return {**tensors, "description": pack_json({"architecture": asdict(network.architecture)})}


def unpack(tensors: dict[str, Tensor]) -> VideoUNet:
    """Inverse of ``pack``, in float32. The global random state is left as it was."""
    described: dict[str, Any] = unpack_json(tensors["description"])["architecture"]
    for name in ("latent_shape", "multipliers"):
        described[name] = tuple(described[name])
    with torch.random.fork_rng(devices=[]):
        network = VideoUNet(Architecture(**described))
    network.load_state_dict({name.removeprefix("net."): t.float() for name, t in tensors.items() if name.startswith("net.")})
    return network
