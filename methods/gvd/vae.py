"""Autoencoders of diffusers as codecs: per frame (AutoencoderKL) or for video (Wan, CogVideoX and the like), pretrained or trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Context, Split, TaskError
from methods.gvd.described import pack_json, unpack_json
from methods.gvd.families import native_of, read_config

PART, PART_PIXELS = 8, 1 << 25
"""Clips that pass through an autoencoder at a time: so many, and fewer where they have more frames x height x width together."""
KL_WEIGHT = 1e-4


class LatentSpace:
    """The latents of a diffusers autoencoder: posterior mean, normalised as diffusion models of this autoencoder expect.

    Video (N, F, 3, H, W) in [-1, 1] <-> latents (N, f, c, h, w). Image autoencoders take frames one by one, f = F; video autoencoders
    compress time, and are given F such that F - 1 is a multiple of their factor.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae.eval().requires_grad_(False)
        config = vae.config
        # Only video autoencoders have a temporal compression or causal 3-D convolutions.
        self.is_video = any(p.dim() == 5 for p in vae.parameters())
        time_factor = config.get("temporal_compression_ratio") or config.get("scale_factor_temporal") or 4
        self.time_factor = int(time_factor) if self.is_video else 1
        channels = int(config.get("latent_channels") or config.get("z_dim"))
        self.channels = channels
        self.space_factor = int(config.get("scale_factor_spatial") or config.get("spatial_compression_ratio") or self._space_factor())
        mean, std = config.get("latents_mean"), config.get("latents_std")
        self.shift = torch.tensor(mean) if mean else torch.full((channels,), float(config.get("shift_factor") or 0.0))
        self.scale = 1 / torch.tensor(std) if std else torch.full((channels,), float(config.get("scaling_factor") or 1.0))

    def frames_for(self, frames: int) -> int:
        """The smallest number of frames from ``frames`` on that the autoencoder takes."""
        return -(-(frames - 1) // self.time_factor) * self.time_factor + 1 if self.is_video else frames

    def encode(self, video: Tensor) -> Tensor:
        dtype, device = self.vae.dtype, self.vae.device
        video = video.to(device, dtype)
        if self.is_video:
            latents = self.vae.encode(video.transpose(1, 2)).latent_dist.mode().transpose(1, 2)
        else:
            latents = self.vae.encode(video.flatten(0, 1)).latent_dist.mode().unflatten(0, video.shape[:2])
        return (latents.float() - self._channel(self.shift, device)) * self._channel(self.scale, device)

    def decode(self, latents: Tensor) -> Tensor:
        dtype, device = self.vae.dtype, self.vae.device
        latents = (latents.to(device).float() / self._channel(self.scale, device) + self._channel(self.shift, device)).to(dtype)
        if self.is_video:
            video = self.vae.decode(latents.transpose(1, 2)).sample.transpose(1, 2)
        else:
            video = self.vae.decode(latents.flatten(0, 1)).sample.unflatten(0, latents.shape[:2])
        return video.float()

    def _channel(self, values: Tensor, device: torch.device) -> Tensor:
        return values.to(device).view(1, 1, -1, 1, 1)

    def _space_factor(self) -> int:
        levels = self.vae.config.get("block_out_channels") or self.vae.config.get("dim_mult")
        return int(2 ** (len(levels) - 1))


class AutoencoderCodec:
    """Clips of any size through an autoencoder of a given working size, and back to their own size.

    size: (frames, height, width) at which the autoencoder works. Gray clips are shown to it as gray RGB, and averaged back. Missing frames
    repeat the nearest; further ones are dropped.
    """

    def __init__(self, space: LatentSpace, clip_shape: tuple[int, int, int, int], size: tuple[int, int, int]) -> None:
        self.space, self.clip_shape, self.size = space, clip_shape, size
        frames, h, w = size
        latent_frames = (frames - 1) // space.time_factor + 1 if space.is_video else frames
        self.latent_shape = (latent_frames, space.channels, h // space.space_factor, w // space.space_factor)
        self.part = max(1, min(PART, PART_PIXELS // (frames * h * w)))

    def encode(self, clips: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self.space.encode(self._enter(part)) for part in clips.split(self.part)]).clone()

    def decode(self, latents: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self._leave(self.space.decode(part)) for part in latents.split(self.part)]).clone()

    def _enter(self, clips: Tensor) -> Tensor:
        video = clips.float() / 127.5 - 1
        if video.shape[2] == 1:
            video = video.expand(-1, -1, 3, -1, -1)
        return resize_video(video, *self.size)

    def _leave(self, video: Tensor) -> Tensor:
        t, c, h, w = self.clip_shape
        video = resize_video(video, t, h, w)
        if c == 1:
            video = video.mean(dim=2, keepdim=True)
        return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def resize_video(video: Tensor, frames: int, height: int, width: int) -> Tensor:
    """(N, T, C, H, W) to that many frames (nearest in time, ends kept) and that size (bilinear, antialiased when it shrinks)."""
    n, t, c, h, w = video.shape
    if t != frames:
        video = video[:, torch.linspace(0, t - 1, frames).round().long()]
    if (h, w) != (height, width):
        flat = video.reshape(n * frames, c, h, w)
        flat = F.interpolate(flat, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
        video = flat.view(n, frames, c, height, width)
    return video


def describe_pretrained(path: str, size: tuple[int, int, int]) -> Tensor:
    """What is stored of a pretrained autoencoder: where it is. Raises TaskError when a local folder has no autoencoder."""
    folder = Path(path).expanduser()
    if folder.exists() or path.startswith((".", "/", "~")):
        if not any((folder / name / "config.json").is_file() for name in ("", "vae")):
            raise TaskError(f"codec {path!r} is no folder with an autoencoder: config.json is in neither {folder} nor {folder / 'vae'}")
        path = str(folder.resolve())
    return pack_json({"path": path, "size": size})


def load_pretrained_codec(description: Tensor, clip_shape: tuple[int, int, int, int], device: torch.device) -> AutoencoderCodec:
    """A pretrained autoencoder from a local folder (or its ``vae`` subfolder) or by its hub id.

    It works at the size that was asked for; where that is 0, at the pipeline's own where the folder is that of a pipeline, else at that of
    the clips. Wan's is in float32, as its model card asks for; others are in bfloat16 on a GPU. Slices and tiles bound its memory.
    """
    from diffusers import AutoModel

    described = unpack_json(description)
    path, wanted = described["path"], tuple(described["size"])
    try:
        native = native_of(path)
        subfolder = "vae" if native is not None or (Path(path) / "vae").is_dir() else ""
        is_half = device.type == "cuda" and read_config(path, subfolder).get("_class_name") != "AutoencoderKLWan"
        options = {"subfolder": subfolder} if subfolder else {}
        vae = AutoModel.from_pretrained(path, torch_dtype=torch.bfloat16 if is_half else torch.float32, **options).to(device)
    except OSError as error:
        raise TaskError(missing_model("codec", path, "stabilityai/sd-vae-ft-mse")) from error
    vae.enable_slicing()
    vae.enable_tiling()
    space = LatentSpace(vae)
    if native is None:
        return fit_codec(space, clip_shape, wanted)
    try:
        return AutoencoderCodec(space, clip_shape, native.working_size(wanted, space.space_factor, space.time_factor))
    except ValueError as error:
        raise TaskError(str(error)) from error


def missing_model(parameter: str, path: str, example: str) -> str:
    """What to tell a user whose model is not there."""
    return (
        f"{parameter}={path!r} could not be loaded: give a local folder in diffusers' format, or a hub id such as {example!r}; "
        f"get it once on a machine with network by `hf download {example}` and name the folder or set HF_HOME"
    )


def fit_codec(space: LatentSpace, clip_shape: tuple[int, int, int, int], wanted: tuple[int, ...] = (0, 0, 0)) -> AutoencoderCodec:
    """The codec that works at the size that is wanted, the clips' own where that is 0, rounded up to what the autoencoder takes."""
    t, h, w = (want or own for want, own in zip(wanted, (clip_shape[0], *clip_shape[2:]), strict=True))
    step = space.space_factor
    return AutoencoderCodec(space, clip_shape, (space.frames_for(t), -(-h // step) * step, -(-w // step) * step))


def small_autoencoder(width: int) -> Any:
    """A small AutoencoderKL: factor 4 in space, 4 latent channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(width, 2 * width, 2 * width),
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=1.0,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def train_autoencoder(train: Split, context: Context, steps: int, width: int) -> dict[str, Tensor]:
    """Train a small AutoencoderKL on frames of the training split: squared error with a weak KL term. Its scaling factor makes the
    latents' variance 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = small_autoencoder(width).to(context.device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(0)
    frames = train.info.clip_shape[0]
    curve = context.curves.setdefault("loss", [])
    for step in range(steps):
        rows = torch.randint(len(train), (8,), generator=generator)
        chosen = torch.randint(frames, (8, 4), generator=generator)
        batch = train.clips(rows)[torch.arange(8)[:, None], chosen].flatten(0, 1).to(context.device)
        images = (batch.float() / 127.5 - 1).expand(-1, 3, -1, -1)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(context.device)
        rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample
        loss = F.mse_loss(rebuilt, images) + KL_WEIGHT * posterior.kl().mean() / noise[0].numel()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50) * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            curve.append((step + 1, float(loss.detach())))
            context.progress(step + 1, steps)
    vae.eval()
    codec = fit_codec(LatentSpace(vae), train.info.clip_shape)
    sample = codec.encode(train.clips(slice(0, min(64, len(train)))).to(context.device))
    facts = {"width": width, "scaling_factor": float(1 / sample.std().clamp(min=1e-6)), "shift_factor": float(sample.mean())}
    weights = {f"vae.{name}": t.detach().cpu().half() for name, t in vae.state_dict().items()}
    return {"autoencoder": pack_json(facts), **weights}


def load_trained_codec(tensors: dict[str, Tensor], clip_shape: tuple[int, int, int, int], device: torch.device) -> AutoencoderCodec:
    """The codec of ``train_autoencoder``. The global random state is left as it was."""
    facts = unpack_json(tensors["autoencoder"])
    with torch.random.fork_rng(devices=[]):
        vae = small_autoencoder(facts["width"])
    vae.load_state_dict({name.removeprefix("vae."): t.float() for name, t in tensors.items() if name.startswith("vae.")})
    vae.register_to_config(scaling_factor=facts["scaling_factor"], shift_factor=facts["shift_factor"])
    return fit_codec(LatentSpace(vae.to(device)), clip_shape)
