"""Latents of the training split, for all that works in them: mode discovery, selection, and the training of diffusion models.

Where encoding takes a network (an autoencoder, pretrained or trained here) they are an asset: every clip is encoded once for a dataset and
a codec, and what needs latents maps the file. The codecs ``patch`` and ``identity`` are one matrix product: clips are encoded where they
are needed, which costs less than reading latents would, which have the size of the clips in float16 or more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from harness import Asset, Context, Metric, Split, asset

BATCH = 64
"""Clips that are encoded or read at a time, so that memory does not grow with the set."""
FREE = ("patch", "identity")
"""Codecs whose encoding costs no more than reading latents from a disk."""


class Latents(Protocol):
    """Latents of the training split, by the rows of its clips; ``shape``: that of a clip's, (F, c, h, w)."""

    shape: tuple[int, ...]

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        """Those of these clips, float32 on the CPU, at most ``BATCH`` at a time: (n, F, c, h, w)."""
        ...


class FreshLatents:
    """Encoded when they are asked for."""

    def __init__(self, codec: Any, train: Split, device: torch.device) -> None:
        self.codec, self.train, self.device = codec, train, device
        self.shape: tuple[int, ...] = codec.latent_shape

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        for part in rows.split(BATCH):
            yield self.codec.encode(self.train.clips(part).to(self.device)).cpu()


class StoredLatents:
    """Encoded before: ``array`` (N, F, c, h, w) float16, a memory map."""

    def __init__(self, array: Tensor) -> None:
        self.array = array
        self.shape: tuple[int, ...] = array.shape[1:]

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        for part in rows.split(BATCH):
            yield self.array[part].float()


@asset("training_latents")
class TrainingLatents:
    """Latents of the training split by an autoencoder, encoded once and kept in float16."""

    metrics = (
        Metric("rounding", better="lower", doc="Root mean square error of the latents by float16, over their root mean square."),
    )  # fmt: skip

    kind: Path | str = "autoencoder"
    """That of the asset latent_codec."""
    size: tuple[int, int, int] = (0, 0, 0)
    """That of the asset latent_codec."""

    def assets(self, info: Any) -> dict[str, Asset]:
        return {"codec": codec_asset(self.kind, self.size)}

    def build(self, train: Split, context: Context) -> dict[str, Tensor]:
        """The latents; an attempt that was interrupted goes on. The disk holds them twice while this is done."""
        array, context.metrics["rounding"] = encode_all(context.assets["codec"], train, context)
        return {"latents": torch.from_numpy(array)}

    def load(self, tensors: dict[str, Tensor], context: Context) -> StoredLatents:
        return StoredLatents(tensors["latents"])


def codec_asset(kind: Path | str, size: tuple[int, int, int] = (0, 0, 0)) -> Asset:
    """The codec of that kind, which works at that size."""
    return Asset("latent_codec", {"kind": kind, "size": size} if any(size) else {"kind": kind})


def latent_assets(kind: Path | str, size: tuple[int, int, int] = (0, 0, 0)) -> dict[str, Asset]:
    """What ``latents_of`` needs beside the codec."""
    if kind in FREE:
        return {}
    return {"latents": Asset("training_latents", codec_asset(kind, size).params)}


def latents_of(codec: Any, train: Split, context: Context) -> Latents:
    """Those of the asset where it was declared, else encoded by this codec when they are asked for."""
    if "latents" in context.assets:
        stored: StoredLatents = context.assets["latents"]
        return stored
    return FreshLatents(codec, train, context.device)


def encode_all(codec: Any, train: Split, context: Context) -> tuple[np.ndarray, float]:
    """Latents of the whole split as a float16 memory map in the task's scratch, (N, F, c, h, w), and the error of their rounding.

    The error is relative, root mean squares of all. What an interrupted attempt encoded is kept.
    """
    path, note = context.scratch / "latents.npy", context.scratch / "latents.json"
    shape = (len(train), *codec.latent_shape)
    told: Mapping[str, Any] = json.loads(note.read_text()) if note.is_file() else {}
    is_resumed = path.is_file() and told.get("shape") == list(shape)
    array = np.lib.format.open_memmap(path, "r+" if is_resumed else "w+", np.float16, shape)
    done, error, power = (told["done"], told["error"], told["power"]) if is_resumed else (0, 0.0, 0.0)
    for rows in torch.arange(done, len(train)).split(BATCH):
        latents = codec.encode(train.clips(rows).to(context.device)).float()
        rounded = latents.half()
        array[rows.numpy()] = rounded.cpu().numpy()
        error += float((rounded.float() - latents).square().sum(dtype=torch.float64))
        power += float(latents.square().sum(dtype=torch.float64))
        done += len(rows)
        array.flush()
        partial = note.with_suffix(".partial")
        partial.write_text(json.dumps({"shape": shape, "done": done, "error": error, "power": power}))
        partial.rename(note)
        context.progress(done, len(train))
    return array, math.sqrt(error / max(power, 1e-30))
