"""GVD on a tiny dataset with a tiny backbone: its parts, its switches, its bookkeeping."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.budget import Budget, audit
from harness.distilled import DistilledSet
from harness.errors import HarnessError
from harness.plugin import Context
from harness.protocol import TrainingProtocol
from methods.gvd import GVD
from methods.gvd.backbone import Architecture, Backbone, FrameLevel, Trainer, VideoDiffusion, VideoUNet, encode_all, pack, roll, unpack
from methods.gvd.codec import LatentCodec, PatchCodec, pack_json, reconstruction_error, unpack_json
from methods.gvd.compose import frame_run, place_runs
from methods.gvd.guidance import Guidance
from methods.gvd.modes import find_modes
from methods.gvd.quality import FeatureReference, frechet_distance, measure_quality, motion_energy
from methods.gvd.sampling import SAMPLERS, Sampling, make_scheduler, sample
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
    teacher = Teacher().eval()
    made = make_context(tmp_path, backbone=backbone, teacher=teacher)
    asset = FeatureReference(FeatureReference.Config())
    made.assets = {"backbone": backbone, "teacher": teacher, "reference": asset.load(asset.build(TRAIN, made), made)}
    return made


def distill(context: Context, ipc: int = 2, **params: Any) -> DistilledSet:
    context.generator.manual_seed(0)
    return GVD(GVD.Config(**{"steps": 3, **params})).distill(TRAIN, Budget(ipc, SHAPE, 3), context)


# The whole method


def test_the_set_keeps_its_budget(context: Context) -> None:
    stored = distill(context, compose=2)
    stored.validate(SHAPE, 3)
    assert audit(stored, Budget(2, SHAPE, 3)) == {
        "frames_stored": 24, "stored_bytes": 6 * 4 * 256, "label_bytes": 6 * 3 * 4, "clips_stored": 6,
    }  # fmt: skip
    assert stored.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert context.metrics["videos_generated"] == 12
    for name in ("teacher_accuracy", "teacher_confidence", "diversity", "coverage", "frechet", "motion_ratio"):
        assert np.isfinite(context.metrics[name]), name


def test_parts_can_be_switched_off(context: Context) -> None:
    stored = distill(context, soft=False, quality=False, compose=1)
    assert stored.soft_labels is None
    assert GVD(GVD.Config(soft=False)).native_labels == "hard"
    assert GVD(GVD.Config()).native_labels == GVD.native_labels == "soft"
    assert set(GVD(GVD.Config(soft=False, quality=False)).assets(TRAIN.info)) == {"backbone"}


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
    base = {"guidance": 0.5, "stop": 1.0, "soft": False, "quality": False, "compose": 2}
    assert not torch.equal(distill(context, **base).clips, distill(context, **{**base, **params}).clips)  # type: ignore[arg-type]


def test_micro_batches_do_not_change_the_videos(context: Context) -> None:
    """The noise is drawn in order, whatever the batch; only rounding may differ."""
    small, large = (distill(context, soft=False, quality=False, batch=b).clips for b in (5, 48))
    assert small is not None and large is not None
    assert (small.int() - large.int()).abs().max() <= 1


def test_without_guidance_modes_do_not_matter(context: Context) -> None:
    a, b = (distill(context, soft=False, quality=False, guidance=0.0, modes=m).clips for m in ("kmeans", "random"))
    assert torch.equal(a, b)  # type: ignore[arg-type]


def test_bad_parameters_are_refused() -> None:
    for params in ({"compose": 0}, {"steps": 0}, {"guidance": -1.0}, {"stop": 1.5}, {"init_level": 0.0}, {"batch": 0}):
        with pytest.raises(ValueError, match="gvd: "):
            GVD(GVD.Config(**params))  # type: ignore[arg-type]
    assert "do not fit" in str(GVD(GVD.Config(compose=9)).skip(TRAIN.info, Budget(1, SHAPE, 3)))


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
        asset = LatentCodec(LatentCodec.Config(kind=kind, patch=2, components=4))
        codec = asset.load(asset.build(TRAIN, context), context)
        assert codec.latent_shape[1] == channels
        assert context.metrics["reconstruction_rmse"] == pytest.approx(0, abs=0.002)
    with pytest.raises(ValueError, match="does not divide"):
        LatentCodec(LatentCodec.Config(patch=5)).build(TRAIN, context)


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
    assert "teacher" in GVD(GVD.Config(features="teacher", soft=False, quality=False)).assets(TRAIN.info)


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


# Backbone


def train(tmp_path: Path, steps: int, **params: Any) -> Trainer:
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    config = VideoDiffusion.Config(**{"width": 16, "multipliers": (1,), "frame_width": 0, "steps": steps, "batch": 4, **params})
    size = (config.width, config.multipliers, 1, config.torus, config.predicts, config.frame_width)
    architecture = Architecture(codec.latent_shape, 3, *size)
    trainer = Trainer(architecture, config, CPU)
    context = SimpleNamespace(scratch=tmp_path, progress=lambda done, total: None)
    trainer.run(encode_all(codec, TRAIN, tmp_path / "latents.npy", CPU), TRAIN.labels, context)  # type: ignore[arg-type]
    return trainer


@pytest.mark.parametrize("params", [{"predicts": "x0"}, {"predicts": "velocity"}, {"frame_width": 8}])
def test_training_lowers_the_loss(params: dict[str, Any], tmp_path: Path) -> None:
    trainer = train(tmp_path, 100, lr=3e-3, **params)
    assert trainer.step == 100
    assert trainer.curve[-1][1] < 0.95 * trainer.curve[0][1]


def test_the_velocity_follows_from_the_predicted_x0() -> None:
    torch.manual_seed(0)
    as_x0 = VideoUNet(Architecture((4, 4, 8, 8), 3, 16, (1,), 1, False, "x0")).eval()
    as_velocity = VideoUNet(Architecture((4, 4, 8, 8), 3, 16, (1,), 1, False, "velocity")).eval()
    as_velocity.load_state_dict(as_x0.state_dict())
    x, t, labels = torch.randn(3, 4, 4, 8, 8), torch.tensor([1.0, 0.4, 0.01]), torch.tensor([0, 1, 3])
    with torch.inference_mode():
        x0, velocity = as_velocity(x, t, labels), as_x0(x, t, labels)
    expected = torch.stack([x[0] - x0[0], (x[1] - x0[1]) / 0.4, (x[2] - x0[2]) / 0.05])  # t is bounded from below
    torch.testing.assert_close(velocity, expected)


def test_weights_say_what_their_network_is() -> None:
    network = VideoUNet(Architecture((4, 4, 8, 8), 3, 16, (1,), 1, False, "x0", 8))
    assert unpack(pack(network, {})).architecture == network.architecture


def test_weights_from_before_the_frame_level_load() -> None:
    tensors = pack(VideoUNet(Architecture((4, 4, 8, 8), 3, 16, (1,), 1, False)), {})
    described = unpack_json(tensors["description"])
    del described["architecture"]["predicts"], described["architecture"]["frame_width"]
    architecture = unpack({**tensors, "description": pack_json(described)}).architecture
    assert (architecture.predicts, architecture.frame_width) == ("velocity", 0)


def test_on_a_torus_moved_clips_give_moved_answers() -> None:
    torch.manual_seed(0)
    network = VideoUNet(Architecture((4, 4, 16, 16), 3, 16, (1, 1), 1, True, "x0")).eval()
    x, t, labels = torch.randn(2, 4, 4, 16, 16), torch.tensor([0.9, 0.3]), torch.tensor([0, 3])
    with torch.inference_mode():
        moved = network(x.roll((4, 8), (3, 4)), t, labels)  # whole cells of the coarsest level
        torch.testing.assert_close(moved, network(x, t, labels).roll((4, 8), (3, 4)), rtol=1e-4, atol=1e-4)


def test_the_frame_level_draws_every_frame_by_itself() -> None:
    level = FrameLevel(Architecture((4, 2, 8, 8), 3, 16, (1,), 1, False, "x0", 8)).eval()
    x, t, labels = torch.randn(1, 4, 2, 8, 8), torch.tensor([500.0]), torch.tensor([1])
    other = x.clone()
    other[:, 2] += 1
    with torch.inference_mode():
        a, b = (level(clip, t, labels, lambda coarse, t, labels: torch.zeros_like(coarse)) for clip in (x, other))
    assert [torch.equal(a[:, f], b[:, f]) for f in range(4)] == [True, True, False, True]


@pytest.mark.parametrize(("side", "multipliers", "frame_width"), [(15, (1, 2), 0), (14, (1, 2, 2), 0), (14, (1, 1), 8)])
def test_latents_that_cannot_be_halved_are_refused(side: int, multipliers: tuple[int, ...], frame_width: int) -> None:
    with pytest.raises(ValueError, match=f"latents of {side}x{side} cannot be halved"):
        VideoUNet(Architecture((4, 4, side, side), 3, 16, multipliers, 1, False, "x0", frame_width))


def test_training_resumes_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    monkeypatch.setattr("methods.gvd.backbone.CHECKPOINT_SECONDS", 0.0)
    whole = train(tmp_path / "whole", 6)

    class Killed(Exception):
        pass

    step = Trainer._step

    def die_at_four(self: Trainer, *args: Any) -> Any:
        if self.step == 4:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(Trainer, "_step", die_at_four)
    with pytest.raises(Killed):
        train(tmp_path / "cut", 6)
    monkeypatch.setattr(Trainer, "_step", step)
    resumed = train(tmp_path / "cut", 6)
    for a, b in zip(whole.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_asset_stores_what_it_loads(tmp_path: Path) -> None:
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    context = make_context(tmp_path, codec=codec)
    asset = VideoDiffusion(VideoDiffusion.Config(width=16, multipliers=(1, 1), frame_width=8, steps=2, batch=4, torus=True))
    tensors = asset.build(TRAIN, context)
    assert context.metrics["shipped_weights"] == 0
    assert context.metrics["samples_seen"] == 8
    loaded = asset.load(tensors, context)
    assert loaded.network.architecture.torus
    again = pack(unpack(tensors), {})
    assert all(torch.equal(again[name], t) for name, t in tensors.items() if name != "description")


def test_cyclic_shifts_move_whole_clips() -> None:
    latents = torch.randn(2, 3, 1, 4, 4)
    moved = roll(latents, torch.tensor([[0.25, 0.5], [0.0, 0.0]]))
    assert torch.equal(moved[0], latents[0].roll((-1, -2), dims=(-2, -1)))
    assert torch.equal(moved[1], latents[1])


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


# Quality


def test_frechet_distance_by_hand() -> None:
    torch.manual_seed(0)
    a = torch.randn(4000, 3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + torch.tensor([1.0, 0.0, 2.0])) == pytest.approx(5, abs=1e-3)
    assert frechet_distance(a, 2 * a) == pytest.approx(float(a.var(0).sum() + (a.mean(0) ** 2).sum()), rel=1e-3)


def test_real_clips_are_of_perfect_quality(context: Context) -> None:
    logits = torch.nn.functional.one_hot(TRAIN.labels, 3).float() * 20
    figures = measure_quality(TRAIN.clips(), TRAIN.labels, logits, context.assets["teacher"], context.assets["reference"], context)
    assert figures["teacher_accuracy"] == figures["coverage"] == 1
    assert figures["teacher_confidence"] == pytest.approx(1)
    assert figures["diversity"] == pytest.approx(1, rel=1e-4)
    assert figures["frechet"] == pytest.approx(0, abs=1e-3)
    assert figures["motion_ratio"] == pytest.approx(1)


def test_a_single_repeated_clip_is_of_poor_quality(context: Context) -> None:
    clips = TRAIN.clips([0] * 6)
    teacher, reference = context.assets["teacher"], context.assets["reference"]
    figures = measure_quality(clips, torch.zeros(6).long(), torch.zeros(6, 3), teacher, reference, context)
    assert figures["diversity"] == pytest.approx(0, abs=1e-5)
    assert 0 < figures["coverage"] < 0.5


def test_motion_energy_by_hand() -> None:
    clips = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).view(1, 4, 1, 1, 1)
    assert motion_energy(clips) == pytest.approx(2 / 3)


def test_config_is_documented() -> None:
    from harness.registry import Registry

    registry = Registry()
    for kind, name in (("method", "gvd"), ("asset", "video_diffusion"), ("asset", "latent_codec"), ("asset", "feature_reference")):
        info = next(i for i in registry.infos(kind) if i.name == name)
        assert [p.name for p in info.params] == [f.name for f in dataclasses.fields(registry.load(kind, name).Config)]  # type: ignore[attr-defined]
        assert all(p.doc for p in info.params), name


def test_harness_errors_pass_through(context: Context) -> None:
    context.assets = {**context.assets, "teacher": torch.nn.Linear(1, 1)}
    with pytest.raises((HarnessError, RuntimeError)):
        distill(context)
