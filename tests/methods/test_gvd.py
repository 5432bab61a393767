"""GVD on a tiny dataset with a tiny backbone: its parts, its switches, its bookkeeping."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.budget import Budget, audit
from harness.distilled import DistilledSet
from harness.errors import HarnessError
from harness.plugin import Context
from harness.protocol import TrainingProtocol
from methods.gvd import GVD
from methods.gvd.backbone import Backbone
from methods.gvd.codec import LatentCodec, PatchCodec, reconstruction_error
from methods.gvd.compose import frame_run, place_runs
from methods.gvd.guidance import Guidance
from methods.gvd.modes import find_modes
from methods.gvd.sampling import SAMPLERS, Sampling, make_scheduler, sample
from methods.gvd.unet import Architecture, VideoUNet
from tests.tiny import tiny_split

CPU = torch.device("cpu")
SHAPE = (4, 1, 16, 16)
TRAIN = tiny_split(SHAPE, classes=3, per_class=8)


class Teacher(torch.nn.Module):
    """A fixed random network with features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = torch.nn.Linear(4 * 256, 12), torch.nn.Linear(12, 3)

    def embed(self, clips: torch.Tensor) -> torch.Tensor:
        return self.layer(clips.flatten(1)).relu()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(clips))


def make_context(tmp_path: Path, **assets: Any) -> Context:
    return Context(
        device=CPU, generator=torch.Generator().manual_seed(0), seed=0, info=TRAIN.info, assets=assets, networks={},
        protocol=TrainingProtocol(), scratch=tmp_path, progress=lambda done, total: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    torch.manual_seed(0)
    network = VideoUNet(Architecture(codec.latent_shape, 3, 16, (1, 1), 1, False)).eval().requires_grad_(False)
    return Backbone(network, codec)


@pytest.fixture()
def context(tmp_path: Path, backbone: Backbone) -> Context:
    return make_context(tmp_path, backbone=backbone, teacher=Teacher().eval())


def distill(context: Context, ipc: int = 2, **params: Any) -> DistilledSet:
    context.generator.manual_seed(0)
    return GVD(**{"steps": 3, **params}).distill(TRAIN, Budget(ipc, SHAPE, 3), context)


# The whole method


def test_the_set_keeps_its_budget(context: Context) -> None:
    stored = distill(context, compose=2)
    stored.validate(SHAPE, 3)
    assert audit(stored, Budget(2, SHAPE, 3)) == {
        "frames_stored": 24, "stored_bytes": 6 * 4 * 256, "label_bytes": 6 * 3 * 4, "clips_stored": 6,
    }  # fmt: skip
    assert stored.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert context.metrics == {"videos_generated": 12}
    assert [metric.name for metric in GVD.metrics] == ["videos_generated"]


def test_parts_can_be_switched_off(context: Context) -> None:
    stored = distill(context, soft=False, compose=1)
    assert stored.soft_labels is None
    assert GVD(soft=False).native_labels == "hard"
    assert GVD().native_labels == "soft"
    assert set(GVD(soft=False).assets(TRAIN.info)) == {"backbone"}
    assert set(GVD().assets(TRAIN.info)) == {"backbone", "teacher"}


@pytest.mark.parametrize(
    "params",
    [
        {"guidance": 0.0},
        {"decay": "none"},
        {"compose": 1},
        {"modes": "real"},
        {"modes": "random"},
        {"modes": "gmm"},
        {"init": "mode"},
        {"cfg": 1.0},
    ],
    ids=str,
)
def test_ablations_differ(params: dict[str, Any], context: Context) -> None:
    base = {"guidance": 0.5, "stop": 1.0, "soft": False, "compose": 2}
    assert not torch.equal(distill(context, **base).clips, distill(context, **{**base, **params}).clips)  # type: ignore[arg-type]


def test_micro_batches_do_not_change_the_videos(context: Context) -> None:
    """The noise is drawn in order, whatever the batch; only rounding may differ."""
    small, large = (distill(context, soft=False, batch=b).clips for b in (5, 48))
    assert small is not None and large is not None
    assert (small.int() - large.int()).abs().max() <= 1


def test_without_guidance_modes_do_not_matter(context: Context) -> None:
    a, b = (distill(context, soft=False, guidance=0.0, modes=m).clips for m in ("kmeans", "random"))
    assert torch.equal(a, b)  # type: ignore[arg-type]


def test_bad_parameters_are_refused() -> None:
    for params in ({"compose": 0}, {"steps": 0}, {"guidance": -1.0}, {"stop": 1.5}, {"init_level": 0.0}, {"batch": 0}):
        with pytest.raises(ValueError, match="must"):
            GVD(**params)  # type: ignore[arg-type]
    assert "do not fit" in str(GVD(compose=9).skip(TRAIN.info, Budget(1, SHAPE, 3)))


# Codec


@pytest.mark.parametrize("channels, patch", [(1, 1), (1, 2), (3, 4)])
def test_all_components_lose_nothing(channels: int, patch: int) -> None:
    split = tiny_split((4, channels, 16, 16), classes=2, per_class=4)
    codec = PatchCodec.fit(split, patch, patch * patch * channels, 1.0)
    clips = split.clips()
    latents = codec.encode(clips)
    assert latents.shape == (8, 4, patch * patch * channels, 16 // patch, 16 // patch) == (8, *codec.latent_shape)
    assert torch.equal(codec.decode(latents), clips)
    assert float(latents.square().mean()) == pytest.approx(1, rel=0.05)


def test_fewer_components_lose_what_they_should() -> None:
    """The error of the projection is the variance of the components left out."""
    full, cut = PatchCodec.fit(TRAIN, 2, 4, 1.0), PatchCodec.fit(TRAIN, 2, 2, 1.0)
    left = full.encode(TRAIN.clips())[:, :, 2:] / full.scale / 2
    expected = float((left.square().sum() / TRAIN.clips().numel()).sqrt())
    assert reconstruction_error(cut, TRAIN, CPU) == pytest.approx(expected, rel=0.05)
    assert PatchCodec.fit(TRAIN, 2, 0, 0.5).latent_shape[1] < 4


def test_the_codec_is_an_asset(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    for kind, channels in (("patch", 4), ("identity", 1)):
        asset = LatentCodec(kind=kind, patch=2, components=4)
        codec = asset.load(asset.build(TRAIN, context), context)
        assert codec.latent_shape[1] == channels
        assert context.metrics["reconstruction_rmse"] == pytest.approx(0, abs=0.002)
    with pytest.raises(ValueError, match="does not divide"):
        LatentCodec(patch=5).build(TRAIN, context)


# Modes


def test_modes_of_separate_clusters() -> None:
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    mean = codec.encode(TRAIN.clips(TRAIN.indices_of(1))).mean(0)
    assert torch.allclose(find_modes(codec, TRAIN, 1, 1, "kmeans", 0, CPU)[0], mean, atol=1e-4)
    assert torch.allclose(find_modes(codec, TRAIN, 1, 1, "gmm", 0, CPU)[0], mean, atol=1e-3)
    own = codec.encode(TRAIN.clips(TRAIN.indices_of(1)))
    for source in ("real", "random"):
        modes = find_modes(codec, TRAIN, 1, 4, source, 0, CPU)
        nearest = torch.cdist(modes.flatten(1), own.flatten(1)).min(dim=1)
        assert nearest.values.max() < 1e-2 and len(nearest.indices.unique()) == 4, "four different clips of the class"
    eight = find_modes(codec, TRAIN, 1, 8, "kmeans", 0, CPU)
    assert torch.cdist(own.flatten(1), eight.flatten(1)).amin(dim=1).max() < 1e-2, "as many clusters as clips: the clips"


@pytest.mark.parametrize("source", ["kmeans", "gmm", "real"])
def test_clusters_of_given_features(source: str) -> None:
    """Which clips belong together is decided by the features alone; what comes out are latents."""
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    own = codec.encode(TRAIN.clips(TRAIN.indices_of(1)))
    features = torch.tensor([[0.0, 0], [9, 9], [0, 1], [9, 8], [9, 7], [0, 2], [9, 8.5], [9, 8]])
    first = [0, 2, 5]
    modes = find_modes(codec, TRAIN, 1, 2, source, 0, CPU, features)
    if source == "real":
        found = {int(torch.cdist(mode.flatten()[None], own.flatten(1)).argmin()) for mode in modes}
        assert 2 in found, "the clip in the middle of the first group"
        assert found - {2} <= {3, 7}
    else:
        expected = torch.stack([own[first].mean(0), own[[1, 3, 4, 6, 7]].mean(0)])
        distances = torch.cdist(modes.flatten(1), expected.flatten(1)) / expected.flatten(1).norm(dim=1)
        assert distances.amin(dim=0).max() < 1e-3


def test_clustering_in_the_teachers_features(context: Context) -> None:
    in_latents, in_features = (distill(context, features=f, guidance=0.5) for f in ("latent", "teacher"))
    assert not torch.equal(in_latents.clips, in_features.clips)
    assert "teacher" in GVD(features="teacher", soft=False).assets(TRAIN.info)


def test_more_modes_than_clips_repeat() -> None:
    modes = find_modes(PatchCodec.fit(TRAIN, 2, 4, 1.0), TRAIN, 0, 10, "kmeans", 0, CPU)
    assert modes.shape[0] == 10
    assert torch.equal(modes[:2], modes[8:])


@pytest.mark.parametrize("source", ["kmeans", "real"])
def test_large_classes_are_clustered_in_parts(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.gvd.modes.FIT_BYTES", 0)
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    mean = codec.encode(TRAIN.clips(TRAIN.indices_of(0))).mean(0)
    modes = find_modes(codec, TRAIN, 0, 1, source, 0, CPU)
    assert modes.shape == (1, *codec.latent_shape)
    if source == "kmeans":
        assert float((modes[0] - mean).norm() / mean.norm()) < 0.05


# Composition


def test_runs_cover_an_instance_once() -> None:
    for frames, videos in ((8, 1), (8, 2), (8, 3), (16, 5), (4, 4)):
        covered = [f for j in range(videos) for f in range(frames)[frame_run(frames, videos, j)]]
        assert covered == list(range(frames))


def test_composition_by_hand() -> None:
    clips = torch.arange(4).view(4, 1, 1, 1, 1).expand(4, 4, 1, 2, 2) * 10 + torch.arange(4).view(1, 4, 1, 1, 1)
    storage = torch.zeros(2, 4, 1, 2, 2, dtype=torch.uint8)
    place_runs(storage, clips[:1].to(torch.uint8), 0, 2)  # in two micro-batches that do not end with an instance
    place_runs(storage, clips[1:].to(torch.uint8), 1, 2)
    assert storage[:, :, 0, 0, 0].tolist() == [[0, 1, 12, 13], [20, 21, 32, 33]]


# Sampling


class Straight:
    """A backbone that knows the answer: the flow from any noise to one clean latent."""

    def __init__(self, clean: torch.Tensor) -> None:
        self.clean = clean

    def velocity(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, cfg: float) -> torch.Tensor:
        return (x - self.clean) / t.view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_ends_at_the_clean_latent(sampler: str) -> None:
    clean = torch.randn(2, 4, 4, 3, 3)
    x = sample(Straight(clean), clean, torch.zeros(2).long(), torch.randn(clean.shape), Guidance(0.0), Sampling(sampler, 10))  # type: ignore[arg-type]
    assert torch.allclose(x, clean, atol=0.05)


@pytest.mark.parametrize("sampler", ["euler", "dpm++", "unipc"])
def test_shifted_timesteps(sampler: str) -> None:
    """t' = s t / (1 + (s - 1) t), with s = 3: half way becomes three quarters."""
    even, shifted = (make_scheduler(sampler, 8, shift).sigmas for shift in (1.0, 3.0))
    assert torch.allclose(shifted, 3 * even / (1 + 2 * even), atol=2e-3)
    assert float(even[4]) == pytest.approx(0.5, abs=2e-3)
    assert float(shifted[4]) == pytest.approx(0.75, abs=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_starting_from_the_mode(sampler: str, backbone: Backbone) -> None:
    """A start after nearly all steps leaves the mode almost as it is; a start from noise does not know it."""
    modes = torch.full((2, *backbone.latent_shape), 3.0)
    noise, labels = torch.randn(modes.shape), torch.zeros(2).long()
    near, far = (sample(backbone, modes, labels, noise, Guidance(0.0), Sampling(sampler, 10, start=s)) for s in (0.1, 1.0))
    assert (near - modes).norm() < 0.5 * (far - modes).norm()


def test_classifier_free_guidance(backbone: Backbone) -> None:
    x, t, labels = torch.randn(2, *backbone.latent_shape), torch.full((2,), 0.5), torch.tensor([0, 1])
    conditional = backbone.velocity(x, t, labels, 1.0)
    free = backbone.velocity(x, t, torch.tensor([3, 3]), 1.0)
    assert torch.allclose(backbone.velocity(x, t, labels, 2.5), free + 2.5 * (conditional - free), atol=1e-4)


# Parameters


def test_parameters_are_documented() -> None:
    from harness.registry import Registry

    registry = Registry()
    for kind, name in (("method", "gvd"), ("asset", "video_diffusion"), ("asset", "latent_codec")):
        info = next(i for i in registry.infos(kind) if i.name == name)
        assert [p.name for p in info.params] == [f.name for f in dataclasses.fields(registry.load(kind, name))]
        assert all(p.doc for p in info.params), name


def test_harness_errors_pass_through(context: Context) -> None:
    context.assets = {**context.assets, "teacher": torch.nn.Linear(1, 1)}
    with pytest.raises((HarnessError, RuntimeError)):
        distill(context)
