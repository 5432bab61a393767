"""Latents: codecs between clips and the space in which GVD clusters and generates.

Every codec has two functions and one property:

    encode(clips (N, T, C, H, W) uint8) -> latents (N, F, c, h, w) float32, about unit variance
    decode(latents) -> clips uint8
    latent_shape                (F, c, h, w)

A codec is an asset of its own, so that a control such as random clips passed through it (``codec_random``) shares it with GVD.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from harness import Context, Metric, Split, asset
from methods.gvd.shipped import shipped_tensors
from methods.latents import BATCH


class Codec(Protocol):
    """Clips to latents and back."""

    latent_shape: tuple[int, int, int, int]

    def encode(self, clips: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class PatchCodec:
    """A linear map of non-overlapping patches: principal components of their pixels, scaled to unit variance overall.

    basis: (c, p*p*C) with orthonormal rows; mean: (p*p*C,); scale: what latents are multiplied with. Patch 1 with all components is
    the identity up to a rotation of the channels.
    """

    def __init__(self, basis: Tensor, mean: Tensor, scale: float, clip_shape: tuple[int, int, int, int]) -> None:
        t, c, h, w = clip_shape
        self.basis, self.mean, self.scale, self.clip_shape = basis, mean, scale, clip_shape
        self.patch = math.isqrt(basis.shape[1] // c)
        self.latent_shape = (t, basis.shape[0], h // self.patch, w // self.patch)

    @classmethod
    def fit(cls, train: Split, patch: int, components: int, explained: float, samples: int = 512) -> PatchCodec:
        """Principal components of the patches of evenly spaced training clips. components 0: as many as explain that much variance."""
        rows = torch.linspace(0, len(train) - 1, min(samples, len(train))).long()
        values = patch * patch * train.info.clip_shape[1]
        count, total = 0, torch.zeros(values, dtype=torch.float64)
        square = torch.zeros(values, values, dtype=torch.float64)
        for part in rows.split(BATCH):
            flat = _patches(_to_unit(train.clips(part)), patch).flatten(0, -2).double()
            count += len(flat)
            total = total + flat.sum(0)
            square = square + flat.T @ flat
        mean = total / count
        variances, vectors = torch.linalg.eigh(square / count - mean.outer(mean))
        variances, vectors = variances.flip(0).clamp(min=0), vectors.flip(1)
        if components == 0:
            components = int((variances.cumsum(0) / variances.sum() < explained).sum()) + 1
        components = min(components, values)
        basis = vectors[:, :components].T
        # The sign of an eigenvector is arbitrary: the largest entry is made positive, so that every machine gets the same latents.
        basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
        scale = float((variances[:components].mean().clamp(min=1e-8)) ** -0.5)
        return cls(basis.float(), mean.float(), scale, train.info.clip_shape)

    def encode(self, clips: Tensor) -> Tensor:
        patches = _patches(_to_unit(clips), self.patch)
        latents = (patches - self.mean.to(patches.device)) @ (self.basis.to(patches.device).T * self.scale)
        return latents.movedim(-1, 2).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        patches = latents.float().movedim(2, -1) @ (self.basis.to(latents.device) / self.scale) + self.mean.to(latents.device)
        n, t, h, w, _ = patches.shape
        p, c = self.patch, self.clip_shape[1]
        pixels = patches.view(n, t, h, w, c, p, p).permute(0, 1, 4, 2, 5, 3, 6).reshape(n, t, c, h * p, w * p)
        return _to_bytes(pixels)

    def tensors(self) -> dict[str, Tensor]:
        """What ``load_codec`` needs."""
        return {"basis": self.basis, "mean": self.mean, "scale": torch.tensor([self.scale])}


def load_codec(tensors: dict[str, Tensor], clip_shape: tuple[int, int, int, int], device: torch.device) -> Codec:
    """The codec behind stored tensors."""
    if "pretrained" in tensors:
        from methods.gvd.vae import load_pretrained_codec

        return load_pretrained_codec(tensors["pretrained"], clip_shape, device)
    if "autoencoder" in tensors:
        from methods.gvd.vae import load_trained_codec

        return load_trained_codec(tensors, clip_shape, device)
    return PatchCodec(tensors["basis"].to(device), tensors["mean"].to(device), float(tensors["scale"]), clip_shape)


@asset("latent_codec")
class LatentCodec:
    """A codec between clips and latents: linear patches, a small autoencoder trained here, or a pretrained one."""

    metrics = (
        Metric("reconstruction_rmse", better="lower", doc="Root mean square error of clips after the codec, in units of black to white."),
    )

    kind: Path | str = "patch"
    """patch: principal components of patches, fitted in seconds; identity: pixels; autoencoder: a small AutoencoderKL trained on the
    split; anything else: a diffusers autoencoder (image or video) or the pipeline that it belongs to, a local folder or hub id."""
    size: tuple[int, int, int] = (0, 0, 0)
    """Frames, height and width at which a pretrained autoencoder works; 0: its pipeline's own, or that of the clips where it has none."""
    patch: int = 0
    """patch: side of a patch; 0: what leaves 16 latent pixels."""
    components: int = 0
    """patch: components kept; 0: as many as explain ``explained`` of the variance."""
    explained: float = 0.998
    """patch: part of the variance that is kept."""
    steps: int = 2000
    """autoencoder: training steps."""
    width: int = 32
    """autoencoder: channels of its first level."""

    def build(self, train: Split, context: Context) -> dict[str, Tensor]:
        """The codec's tensors. Records the reconstruction error of evenly spaced training clips."""
        tensors = self._tensors(train, context)
        codec = load_codec(tensors, train.info.clip_shape, context.device)
        context.metrics["reconstruction_rmse"] = reconstruction_error(codec, train, context.device)
        return tensors

    def load(self, tensors: dict[str, Tensor], context: Context) -> Codec:
        return load_codec(tensors, context.info.clip_shape, context.device)

    def _tensors(self, train: Split, context: Context) -> dict[str, Tensor]:
        _, c, h, w = train.info.clip_shape
        if self.kind == "identity":
            return PatchCodec.fit(train, 1, c, 1.0).tensors()
        if self.kind == "autoencoder":
            from methods.gvd.vae import train_autoencoder

            return train_autoencoder(train, context, self.steps, self.width)
        if self.kind != "patch":
            from methods.gvd.vae import describe_pretrained

            return {"pretrained": describe_pretrained(str(self.kind), self.size)}
        if self == LatentCodec():
            shipped = shipped_tensors(train.info.digest)
            if shipped is not None:
                return {name.removeprefix("codec."): t for name, t in shipped.items() if name.startswith("codec.")}
        patch = self.patch or max(1, round(min(h, w) / 16))
        if h % patch or w % patch:
            raise ValueError(f"latent_codec: patch {patch} does not divide clips of {h}x{w}; set patch to a divisor of both")
        return PatchCodec.fit(train, patch, self.components, self.explained).tensors()


def reconstruction_error(codec: Codec, split: Split, device: torch.device, samples: int = 128) -> float:
    """Root mean square error of clips after the codec, in units of black to white (0 to 1)."""
    rows = torch.linspace(0, len(split) - 1, min(samples, len(split))).long()
    total = count = 0.0
    for part in rows.split(BATCH):
        clips = split.clips(part).to(device)
        error = (codec.decode(codec.encode(clips)).float() - clips.float()) / 255
        total, count = total + float(error.square().sum()), count + error.numel()
    return math.sqrt(total / count)


def _to_unit(clips: Tensor) -> Tensor:
    return clips.float() / 127.5 - 1


def _to_bytes(pixels: Tensor) -> Tensor:
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _patches(clips: Tensor, p: int) -> Tensor:
    """(N, T, C, H, W) -> (N, T, H/p, W/p, C*p*p)."""
    n, t, c, h, w = clips.shape
    return clips.view(n, t, c, h // p, p, w // p, p).permute(0, 1, 3, 5, 2, 4, 6).reshape(n, t, h // p, w // p, c * p * p)
