"""The backbone that comes with the project: of the size, for the data, and with the checksum that are published."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from harness.data.cache import describe
from harness.data.moving_digits import MovingDigits
from harness.plugin import Context
from harness.protocol import TrainingProtocol
from methods.gvd import shipped
from methods.gvd.backbone import VideoDiffusion
from methods.gvd.codec import LatentCodec
from methods.gvd.guidance import Guidance
from methods.gvd.sampling import Sampling
from tests.tiny import tiny_split

INFO = describe(MovingDigits(), "moving-digits")


def make_context(tmp_path: Path, digest: str) -> Context:
    info = dataclasses.replace(INFO, digest=digest)
    return Context(
        device=torch.device("cpu"), generator=torch.Generator().manual_seed(0), seed=0, info=info, assets={}, networks={},
        protocol=TrainingProtocol(), scratch=tmp_path, progress=lambda done, total: None,
    )  # fmt: skip


def test_the_shipped_weights_are_for_the_embedded_dataset() -> None:
    """A change of the dataset (or of how it is identified) needs new weights, or a new key of the old ones in shipped.py."""
    assert list(shipped.SHIPPED) == [INFO.digest]
    files = sorted(p.name for p in shipped.WEIGHTS.iterdir())
    assert files == ["README.md", "moving-digits.safetensors"]
    assert (shipped.WEIGHTS / "moving-digits.safetensors").stat().st_size <= 8e6


def test_both_assets_use_them(tmp_path: Path) -> None:
    train = tiny_split(INFO.clip_shape, classes=12, per_class=2)
    train.info = dataclasses.replace(train.info, digest=INFO.digest)
    context = make_context(tmp_path, INFO.digest)
    codec_asset = LatentCodec()
    codec = codec_asset.load(codec_asset.build(train, context), context)
    context.assets = {"codec": codec}
    asset = VideoDiffusion()
    backbone = asset.load(asset.build(train, context), context)
    assert context.cost is not None and context.cost.seconds == 4200, "what the weights took is recorded, not the loading of a file"
    assert backbone.latent_shape == codec.latent_shape
    noise = torch.randn(2, *codec.latent_shape)
    latents = backbone.generate(noise, torch.tensor([0, 3]), noise, Guidance(0.0), Sampling("dpm++", 4, shift=3.0))
    clips = codec.decode(latents).float()
    assert clips.shape == (2, *INFO.clip_shape)
    assert 0 < clips.mean() < 60, "mostly dark, as moving digits are"


def test_other_data_does_not_get_them(tmp_path: Path) -> None:
    train = tiny_split((4, 1, 16, 16), classes=2, per_class=4)
    context = make_context(tmp_path, train.info.digest)
    asset = LatentCodec(patch=2)
    context.info = train.info
    context.assets = {"codec": asset.load(asset.build(train, context), context)}
    VideoDiffusion(width=16, steps=1, batch=2).build(train, context)
    assert context.cost is None


def test_a_damaged_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "moving-digits.safetensors"
    data = (shipped.WEIGHTS / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    shipped.shipped_tensors.cache_clear()
    with pytest.raises(ValueError, match="is damaged"):
        shipped.shipped_tensors(INFO.digest)
    shipped.shipped_tensors.cache_clear()
