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
from harness.training import predict_logits
from methods.gvd import GVD
from methods.gvd.backbone import Backbone
from methods.gvd.codec import LatentCodec, PatchCodec, reconstruction_error
from methods.gvd.guidance import Guidance, level
from methods.gvd.modes import find_modes
from methods.gvd.sampling import SAMPLERS, Sampling, first_step, make_scheduler, path, sample
from methods.gvd.unet import Architecture, VideoUNet
from methods.latents import FreshLatents
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
        "frames_stored": 24, "stored_bytes": 6 * 4 * 256, "label_bytes": 6 * 3 * 4, "videos_trained_on": 6,
    }  # fmt: skip
    assert stored.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert context.metrics["videos_generated"] == 12
    assert set(context.metrics) == {metric.name for metric in GVD.metrics}


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
        {"rule": "mgd3"},
        {"stop": 1.0},
        {"cfg": 1.0},
    ],
    ids=str,
)
def test_ablations_differ(params: dict[str, Any], context: Context) -> None:
    base = {"guidance": 0.5, "stop": 0.0, "soft": False, "compose": 2}
    assert not torch.equal(distill(context, **base).clips, distill(context, **{**base, **params}).clips)  # type: ignore[arg-type]


def test_micro_batches_do_not_change_the_videos(context: Context) -> None:
    """The noise is drawn in order, whatever the batch; only rounding may differ."""
    small, large = (distill(context, soft=False, batch=b).clips for b in (5, 48))
    assert small is not None and large is not None
    assert (small.int() - large.int()).abs().max() <= 1


@pytest.mark.parametrize("params", [{"compose": 2}, {"compose": 4, "layout": "grid"}], ids=["time", "grid"])
def test_an_interrupted_set_equals_an_undisturbed_one(
    params: dict[str, Any], tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set, soft labels and figures to the digit, where the attempts before came to other places; what was made is not made again."""
    made: list[int] = []
    generate = Backbone.generate

    def counted(self: Backbone, modes: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(made) in stops:
            stops.remove(len(made))
            raise KeyboardInterrupt
        made.append(len(modes))
        return generate(self, modes, *rest)

    monkeypatch.setattr(Backbone, "generate", counted)

    def attempt(folder: Path) -> tuple[bytes, dict[str, Any]]:
        context = make_context(folder, backbone=backbone, teacher=Teacher().eval())
        torch.rand(len(made), generator=context.generator)  # what was drawn before does not matter
        stored = GVD(steps=2, batch=5, **params).distill(TRAIN, Budget(2, SHAPE, 3), context)
        return stored.to_bytes(), context.metrics

    for name in ("disturbed", "undisturbed"):
        (tmp_path / name).mkdir()
    stops = [1, 2]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "disturbed")
    disturbed = attempt(tmp_path / "disturbed")
    assert sum(made) == 6 * params["compose"], "no video twice"
    assert disturbed == attempt(tmp_path / "undisturbed")


def test_without_guidance_modes_do_not_matter(context: Context) -> None:
    a, b = (distill(context, soft=False, guidance=0.0, modes=m).clips for m in ("kmeans", "random"))
    assert torch.equal(a, b)  # type: ignore[arg-type]


def test_guided_sets_say_whether_the_guidance_arrived(context: Context) -> None:
    """Figures of the latents themselves: without guidance about chance, with all of it every video is its mode."""
    figures = {}
    for scale in (0.0, 1.0):
        distill(context, ipc=4, compose=1, guidance=scale, decay="none", stop=0.0, soft=False)
        figures[scale] = context.metrics["mode_hit_rate"], context.metrics["effective_pull"]
    assert figures[1.0][0] == 1.0 and float(figures[1.0][1] or 0) > 0.95
    assert float(figures[0.0][0] or 0) < 0.7 and abs(float(figures[0.0][1] or 0)) < 0.1
    distill(context, ipc=1, compose=1, soft=False)
    assert context.metrics["mode_hit_rate"] is None and context.metrics["effective_pull"] is None, "one mode: nothing to tell"


def test_a_grid_is_stored_small_and_trained_on_large(context: Context) -> None:
    stored = distill(context, ipc=1, compose=4, layout="grid")
    stored.validate(SHAPE, 3)
    assert audit(stored, Budget(1, SHAPE, 3)) == {
        "frames_stored": 12, "stored_bytes": 3 * 4 * 256, "label_bytes": 12 * 3 * 4, "videos_trained_on": 12,
    }  # fmt: skip
    assert context.metrics["videos_generated"] == 12
    clips = GVD(compose=4, layout="grid").materialise(stored.tensors)
    logits = predict_logits(context.assets["teacher"], clips, TrainingProtocol(), CPU)
    assert torch.equal(stored.soft_labels, logits), "labels of the tiles as they are trained on"  # type: ignore[arg-type]


def test_composition_in_time_guides_each_video_over_its_own_frames(context: Context) -> None:
    """With modes as the clean latents, guidance to the end and a weight that falls to 0 over a run of two frames: the first frame of every
    run is its mode, the second is free. Frames 0 and 2 of an instance of 4 are then near modes, 1 and 3 are not."""
    base = {"ipc": 2, "compose": 2, "guidance": 1.0, "stop": 0.0, "soft": False}
    stored, uniform = distill(context, **base), distill(context, **base, decay="none")
    assert stored.clips is not None and uniform.clips is not None
    apart = (stored.clips.float() - uniform.clips.float()).abs().mean(dim=(0, 2, 3, 4))
    assert float(apart[[0, 2]].max()) < 0.25 * float(apart[[1, 3]].min()), apart


def test_bad_parameters_are_refused() -> None:
    grid = {"compose": 3, "layout": "grid"}
    unfit = ({"compose": 0}, {"steps": -1}, {"cfg": 0.5}, {"size": (0, -1, 0)}, {"guidance": -1.0}, {"stop": 1.5}, {"init_level": 0.0})
    for params in (*unfit, {"batch": 0}, grid):
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


def modes_of(codec: PatchCodec, label: int, k: int, source: str, features: torch.Tensor | None = None) -> torch.Tensor:
    return find_modes(FreshLatents(codec, TRAIN, CPU), TRAIN.indices_of(label), k, source, 0, features)


def test_modes_of_separate_clusters() -> None:
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    mean = codec.encode(TRAIN.clips(TRAIN.indices_of(1))).mean(0)
    assert torch.allclose(modes_of(codec, 1, 1, "kmeans")[0], mean, atol=1e-4)
    assert torch.allclose(modes_of(codec, 1, 1, "gmm")[0], mean, atol=1e-3)
    own = codec.encode(TRAIN.clips(TRAIN.indices_of(1)))
    for source in ("real", "random"):
        modes = modes_of(codec, 1, 4, source)
        nearest = torch.cdist(modes.flatten(1), own.flatten(1)).min(dim=1)
        assert nearest.values.max() < 1e-2 and len(nearest.indices.unique()) == 4, "four different clips of the class"
    eight = modes_of(codec, 1, 8, "kmeans")
    assert torch.cdist(own.flatten(1), eight.flatten(1)).amin(dim=1).max() < 1e-2, "as many clusters as clips: the clips"


@pytest.mark.parametrize("source", ["kmeans", "gmm", "real"])
def test_clusters_of_given_features(source: str) -> None:
    """Which clips belong together is decided by the features alone; what comes out are latents."""
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    own = codec.encode(TRAIN.clips(TRAIN.indices_of(1)))
    features = torch.tensor([[0.0, 0], [9, 9], [0, 1], [9, 8], [9, 7], [0, 2], [9, 8.5], [9, 8]])
    first = [0, 2, 5]
    modes = modes_of(codec, 1, 2, source, features)
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
    modes = modes_of(PatchCodec.fit(TRAIN, 2, 4, 1.0), 0, 10, "kmeans")
    assert modes.shape[0] == 10
    assert torch.equal(modes[:2], modes[8:])


@pytest.mark.parametrize("source", ["kmeans", "real"])
def test_large_classes_are_clustered_in_parts(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.gvd.modes.FIT_BYTES", 0)
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    mean = codec.encode(TRAIN.clips(TRAIN.indices_of(0))).mean(0)
    modes = modes_of(codec, 0, 1, source)
    assert modes.shape == (1, *codec.latent_shape)
    if source == "kmeans":
        assert float((modes[0] - mean).norm() / mean.norm()) < 0.05


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


@pytest.mark.parametrize("sampler, shift", [("dpm++", 3.0), ("dpm++", 1.0), ("unipc", 3.0), ("euler", 3.0), ("ddim", 1.0)])
def test_a_start_is_a_noise_level_whatever_the_sampler(sampler: str, shift: float) -> None:
    """The first step that is not above it: for half of the variance-preserving noise another one than on the straight path."""
    scheduler = make_scheduler(sampler, 50, shift)
    levels = [level(*path(scheduler, i)) for i in range(50)]
    assert levels == sorted(levels, reverse=True)
    first = first_step(scheduler, 0.6)
    assert levels[first - 1] > 0.6 >= levels[first] - 1e-3
    assert levels[first] > 0.56, "and not far below it"
    assert first_step(scheduler, 1.0) == 0
    assert first_step(scheduler, 1e-9) == 49


def test_the_default_stop_is_half_of_the_default_steps() -> None:
    """Six of DPM-Solver++'s 12 steps with shift 3, and as many of the other samplers on that path."""
    guidance = GVD()._guidance()[0]
    assert (GVD().sampler, Backbone.steps, GVD().shift) == ("dpm++", 12, 3.0)
    for sampler in ("dpm++", "unipc", "euler"):
        scheduler = make_scheduler(sampler, 12, 3.0)
        assert [guidance.active(level(*path(scheduler, i))) for i in range(12)] == [True] * 6 + [False] * 6, sampler


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
