"""Latents of the training split: encoded once, in float16, resumable, and the same for all that need them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.plugin import Asset
from methods.gvd import GVD
from methods.gvd.backbone import VideoDiffusion
from methods.gvd.codec import PatchCodec
from methods.gvd.modes import find_modes
from methods.k_means_real import KMeansReal
from methods.latents import FreshLatents, TrainingLatents, encode_all, latents_of
from tests.tiny import tiny_split

CPU = torch.device("cpu")
TRAIN = tiny_split((4, 1, 16, 16), classes=2, per_class=5)


class Counting:
    """A codec that counts what it encodes, and may die."""

    def __init__(self, dies_after: int = 10**9) -> None:
        self.codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
        self.latent_shape, self.encoded, self.dies_after = self.codec.latent_shape, 0, dies_after

    def encode(self, clips: Tensor) -> Tensor:
        if self.encoded + len(clips) > self.dies_after:
            raise KeyboardInterrupt
        self.encoded += len(clips)
        return self.codec.encode(clips)


def make_context(scratch: Path, **assets: Any) -> Any:
    return SimpleNamespace(device=CPU, scratch=scratch, assets=assets, metrics={}, progress=lambda done, total: None)


def test_they_are_the_codecs_within_float16(tmp_path: Path) -> None:
    context = make_context(tmp_path, codec=Counting())
    asset = TrainingLatents()
    stored = asset.load(asset.build(TRAIN, context), context)
    exact = PatchCodec.fit(TRAIN, 2, 4, 1.0).encode(TRAIN.clips())
    rows = torch.tensor([7, 0, 3])
    read = torch.cat(list(stored.parts(rows)))
    assert read.dtype == torch.float32 and stored.shape == tuple(exact.shape[1:])
    assert torch.equal(read, exact[rows].half().float())
    error = float(((exact.half().float() - exact).square().mean() / exact.square().mean()).sqrt())
    assert context.metrics["rounding"] == pytest.approx(error, rel=1e-3) and error < 2**-11


def test_an_interrupted_encoding_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.latents.BATCH", 3)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole, rounding = encode_all(Counting(), TRAIN, make_context(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        encode_all(Counting(dies_after=7), TRAIN, make_context(tmp_path / "cut"))
    again = Counting()
    resumed, its_rounding = encode_all(again, TRAIN, make_context(tmp_path / "cut"))
    assert again.encoded == 4, "the last four of ten clips"
    assert (resumed == whole).all() and its_rounding == pytest.approx(rounding, rel=1e-9)


def test_what_a_codec_before_encoded_is_not_taken(tmp_path: Path) -> None:
    encode_all(Counting(), TRAIN, make_context(tmp_path))
    other = Counting()
    other.codec = PatchCodec.fit(TRAIN, 2, 3, 1.0)
    other.latent_shape = other.codec.latent_shape
    array, _ = encode_all(other, TRAIN, make_context(tmp_path))
    assert other.encoded == 10 and array.shape[1:] == other.latent_shape


@pytest.mark.parametrize("codec", ["patch", "identity"])
def test_free_codecs_need_no_asset(codec: str) -> None:
    assert "latents" not in GVD(codec=codec).assets(TRAIN.info)
    assert "latents" not in VideoDiffusion(codec=codec).assets(TRAIN.info)
    assert "latents" not in KMeansReal(space="latent", codec=codec).assets(TRAIN.info)


def test_all_that_need_latents_of_a_codec_share_one_asset() -> None:
    params = {"kind": "some/pipeline", "size": (9, 16, 16)}
    shared = Asset("training_latents", params)
    assert GVD(backbone="some/pipeline", size=(9, 16, 16)).assets(TRAIN.info)["latents"] == shared
    assert TrainingLatents("some/pipeline", (9, 16, 16)).assets(TRAIN.info)["codec"] == Asset("latent_codec", params)
    for plugin in (GVD(codec="autoencoder"), VideoDiffusion(codec="autoencoder"), KMeansReal(space="latent", codec="autoencoder")):
        assert plugin.assets(TRAIN.info)["latents"] == Asset("training_latents", {"kind": "autoencoder"})


def test_nothing_is_encoded_where_latents_are_stored(tmp_path: Path) -> None:
    codec = Counting()
    context = make_context(tmp_path, codec=codec)
    asset = TrainingLatents()
    stored = asset.load(asset.build(TRAIN, context), context)
    codec.dies_after = 0
    rows = TRAIN.indices_of(1)
    for source in ("kmeans", "real", "random", "gmm"):
        modes = find_modes(latents_of(codec, TRAIN, make_context(tmp_path, latents=stored)), rows, 2, source, 0)
        fresh = find_modes(FreshLatents(codec.codec, TRAIN, CPU), rows, 2, source, 0)
        assert torch.allclose(modes, fresh, atol=0.02)
