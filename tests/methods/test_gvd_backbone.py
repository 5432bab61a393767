"""The video diffusion model: its network, its training, which no clock decides, and what is stored of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.errors import TaskError
from harness.registry import Registry
from methods.gvd.backbone import Trainer, VideoDiffusion, roll
from methods.gvd.codec import PatchCodec
from methods.gvd.described import pack_json, unpack_json
from methods.gvd.unet import Architecture, FrameLevel, VideoUNet, pack, unpack
from methods.latents import encode_all
from tests.tiny import ContextFactory, tiny_split

CPU = torch.device("cpu")
TRAIN = tiny_split((4, 1, 16, 16), classes=3, per_class=8)


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


class Clock:
    """A machine on which every step takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def monotonic(self) -> float:
        self.now += self.seconds
        return self.now


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """All that training makes."""
    networks = {"network": trainer.network, "average": trainer.average}
    tensors = {f"{name}.{key}": tensor for name, network in networks.items() for key, tensor in network.state_dict().items()}
    return {**tensors, "curve": torch.tensor(trainer.curve)}


def are_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train(tmp_path: Path, steps: int, **params: Any) -> Trainer:
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    asset = VideoDiffusion(**{"width": 16, "multipliers": (1,), "frame_width": 0, "steps": steps, "batch": 4, **params})
    size = (asset.width, asset.multipliers, 1, asset.torus, asset.predicts, asset.frame_width)
    trainer = Trainer(Architecture(codec.latent_shape, 3, *size), asset, CPU)
    context: Any = SimpleNamespace(scratch=tmp_path, progress=lambda done, total: None, device=CPU)
    trainer.fit(encode_all(codec, TRAIN, context)[0], TRAIN.labels, context)
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
    assert unpack(pack(network)).architecture == network.architecture


def test_weights_from_before_the_frame_level_load() -> None:
    tensors = pack(VideoUNet(Architecture((4, 4, 8, 8), 3, 16, (1,), 1, False)))
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


@pytest.mark.parametrize("machine", [Clock(0.001), Clock(30.0), Clock(1000.0)], ids=["fast", "slow", "checkpoint-at-every-step"])
def test_the_clock_decides_nothing(machine: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here = train(tmp_path / "here", 8)
    monkeypatch.setattr("methods.gvd.stepwise.time", machine)
    there = train(tmp_path / "there", 8)
    assert there.step == 8
    assert are_equal(weights(here), weights(there))


def test_training_resumes_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    monkeypatch.setattr("methods.gvd.stepwise.CHECKPOINT_SECONDS", 0.0)
    whole = train(tmp_path / "whole", 6)

    class Killed(Exception):
        pass

    step = Trainer.take_step

    def die_at_four(self: Trainer, *args: Any) -> Any:
        if self.step == 4:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(Trainer, "take_step", die_at_four)
    with pytest.raises(Killed):
        train(tmp_path / "cut", 6)
    monkeypatch.setattr(Trainer, "take_step", step)
    assert are_equal(weights(whole), weights(train(tmp_path / "cut", 6)))


def test_another_seed_draws_other_batches_and_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch takes the low 32 bits of a seed: one that differs in the high bits alone would draw the same."""
    drawn: list[int] = []

    def draw(self: Trainer, generator: torch.Generator) -> torch.Tensor:
        drawn.append(int(torch.randint(1 << 30, (), generator=generator)))
        return torch.zeros(())

    monkeypatch.setattr(Trainer, "take_step", draw)
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        train(tmp_path / str(seed), 3, seed=seed)
    assert len(set(drawn)) == 6


def test_it_says_how_long_it_will_take_and_how_far_it_is(
    contexts: ContextFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("methods.gvd.clock.time", Clock(10.0))  # looked at before and after five steps
    asset = VideoDiffusion(width=16, multipliers=(1,), frame_width=0, steps=9, batch=4)
    context, seen = contexts(asset, TRAIN), []
    context.progress = lambda done, total: seen.append((done, total))
    asset.build(TRAIN, context)
    assert capsys.readouterr().out == "video_diffusion: 2 s a step, 3 to go: about 0.1 min\n"
    assert seen == [(24, 24)] + [(step, 9) for step in range(1, 10)], "clips encoded, then steps"


def test_a_loss_that_is_not_finite_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"the loss is not finite at step 5; lower lr \(it is inf\)"):
        train(tmp_path, 5, lr=float("inf"))


def test_unfit_parameters_are_refused() -> None:
    for params in ({"steps": 0}, {"batch": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            VideoDiffusion(**params)  # type: ignore[arg-type]


def test_the_asset_stores_what_it_loads(contexts: ContextFactory) -> None:
    asset = VideoDiffusion(width=16, multipliers=(1, 1), frame_width=8, steps=2, batch=4, torus=True)
    context = contexts(asset, TRAIN)
    tensors = asset.build(TRAIN, context)
    assert context.cost is None, "it was made here: its phase says what it took"
    assert [step for step, _ in context.curves["loss"]] == [2]
    loaded = asset.load(tensors, context)
    assert loaded.network.architecture.torus
    assert are_equal(pack(unpack(tensors)), tensors)


def test_loading_leaves_the_random_state(contexts: ContextFactory) -> None:
    asset = VideoDiffusion(width=16, multipliers=(1,), frame_width=0, steps=1, batch=2)
    context = contexts(asset, TRAIN)
    tensors = asset.build(TRAIN, context)
    before = torch.get_rng_state()
    asset.load(tensors, context)
    assert torch.equal(torch.get_rng_state(), before)


def test_cyclic_shifts_move_whole_clips() -> None:
    latents = torch.randn(2, 3, 1, 4, 4)
    moved = roll(latents, torch.tensor([[0.25, 0.5], [0.0, 0.0]]))
    assert torch.equal(moved[0], latents[0].roll((-1, -2), dims=(-2, -1)))
    assert torch.equal(moved[1], latents[1])
