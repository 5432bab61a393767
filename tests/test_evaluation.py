from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from harness.data.base import Split
from harness.data.info import DatasetInfo
from harness.evaluation import calibration_error, evaluate_network, pack_bits, per_class_accuracy, unpack_bits
from harness.protocol import TrainingProtocol
from harness.training import normalise

T = 4


class LastMinusFirst(nn.Module):
    """Classifies by the sign of the change of brightness over time: it sees direction and nothing else."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        change = (clips[:, -1] - clips[:, 0]).mean(dim=(1, 2, 3))
        return torch.stack([change, -change], 1)


class FirstFrame(nn.Module):
    """Classifies by brightness of the first frame."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        value = clips[:, 0].mean(dim=(1, 2, 3))
        return torch.stack([value, -value], 1)


def ramps(n: int = 40) -> Split:
    """Class 0 becomes brighter, class 1 darker."""
    labels = torch.arange(n) % 2
    ramp = torch.tensor([10, 80, 150, 220], dtype=torch.uint8).view(1, T, 1, 1, 1).expand(n, T, 1, 2, 2).clone()
    ramp[labels == 1] = ramp[labels == 1].flip(1)
    info = DatasetInfo("ramps", ("up", "down"), (T, 1, 2, 2), (n // 2,) * 2, (n // 2,) * 2, True, "digest")
    return Split(ramp.numpy(), labels, torch.full((n,), T), [str(i) for i in range(n)], info)


def test_controls_tell_a_network_that_sees_motion() -> None:
    metrics, arrays, _ = evaluate_network(LastMinusFirst(), ramps(), TrainingProtocol(test_batch=7), "cpu", seed=0)
    assert metrics["accuracy"] == 1.0 and metrics["accuracy_reversed"] == 0.0 and metrics["accuracy_top5"] == 1.0
    assert metrics["accuracy_single_frame"] == 0.5  # no change at all: always class 0
    assert 0.2 < metrics["accuracy_shuffled"] < 0.8
    assert arrays.per_class_accuracy == [1.0, 1.0]
    assert unpack_bits(arrays.correct or "", 40).all()


def test_single_frames_are_drawn_from_the_whole_clip() -> None:
    metrics, arrays, _ = evaluate_network(FirstFrame(), ramps(400), TrainingProtocol(), "cpu", seed=0)
    assert metrics["accuracy"] == 0.0 and metrics["accuracy_reversed"] == 1.0
    assert 0.4 < metrics["accuracy_single_frame"] < 0.6
    assert not unpack_bits(arrays.correct or "", 400).any()


def test_the_seed_decides_the_controls() -> None:
    one, two, other = (evaluate_network(FirstFrame(), ramps(400), TrainingProtocol(), "cpu", seed=s)[0] for s in (0, 0, 1))
    assert one == two
    assert one["accuracy_shuffled"] != other["accuracy_shuffled"]


class LeftBrightness(nn.Module):
    """Class 0 where the left half is brighter."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        side = (clips[..., 0] - clips[..., 1]).mean(dim=(1, 2, 3))
        return torch.stack([side, -side], 1)


def sides(n: int = 400) -> Split:
    """Class 0 is bright on the left, class 1 on the right: a flip changes the class."""
    labels = torch.arange(n) % 2
    clips = torch.zeros(n, T, 1, 2, 2, dtype=torch.uint8)
    clips[labels == 0, ..., 0] = 255
    clips[labels == 1, ..., 1] = 255
    info = DatasetInfo("sides", ("left", "right"), (T, 1, 2, 2), (n // 2,) * 2, (n // 2,) * 2, True, "digest")
    return Split(clips.numpy(), labels, torch.full((n,), T), [str(i) for i in range(n)], info)


def test_flips_in_the_test_are_an_option_with_a_name() -> None:
    plain, _, _ = evaluate_network(LeftBrightness(), sides(), TrainingProtocol(), "cpu", seed=0)
    flipped, arrays, _ = evaluate_network(LeftBrightness(), sides(), TrainingProtocol(test_flip=True, test_passes=3), "cpu", seed=0)
    assert plain["accuracy"] == 1.0
    assert 0.4 < flipped["accuracy"] < 0.6 and flipped["accuracy_top5"] == 1.0
    assert unpack_bits(arrays.correct or "", 400).all()
    assert not TrainingProtocol(test_flip=True).on(replace(sides().info, flip=False)).test_flip


def test_passes_reshuffle_the_batches_that_restandardisation_sees() -> None:
    """Brightness decides the class, but only against the other clips of the batch."""
    bright = torch.randint(0, 256, (60,), generator=torch.Generator().manual_seed(0))
    labels = (bright < 128).long()
    clips = bright.to(torch.uint8).view(-1, 1, 1, 1, 1).expand(60, T, 1, 2, 2).numpy()
    split = Split(clips, labels, torch.full((60,), T), [str(i) for i in range(60)], ramps().info)
    protocol = TrainingProtocol(standardise_batch=True, test_batch=3)
    one, _, _ = evaluate_network(FirstFrame(), split, protocol, "cpu", seed=0)
    three, _, _ = evaluate_network(FirstFrame(), split, protocol.model_copy(update={"test_passes": 3}), "cpu", seed=0)
    assert one["accuracy"] != three["accuracy"] and one["accuracy_shuffled"] == three["accuracy_shuffled"]


def test_options_that_came_later_leave_earlier_keys_alone() -> None:
    assert TrainingProtocol().keyed() == {}
    named = TrainingProtocol(test_passes=3).keyed()
    assert named == {"test_passes": 3} and TrainingProtocol(**named).test_passes == 3


def test_correct_bits_follow_test_order() -> None:
    bits = torch.tensor([True, False, False, True, True, False, True, False, True])
    assert base64.b64decode(pack_bits(bits)) == np.packbits(bits.numpy()).tobytes()
    assert unpack_bits(pack_bits(bits), 9).tolist() == bits.tolist()


def test_class_without_test_clips_is_null() -> None:
    assert per_class_accuracy(torch.tensor([True]), torch.tensor([1]), 3) == [None, 1.0, None]


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_against_a_plain_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(500, 6, generator=generator)
    labels = torch.randint(6, (500,), generator=generator)
    probability = logits.double().softmax(1).numpy()
    expected = 0.0
    for low in range(15):
        inside = [i for i in range(500) if low / 15 < probability[i].max() <= (low + 1) / 15]
        if inside:
            right = np.mean([probability[i].argmax() == labels[i].item() for i in inside])
            expected += len(inside) / 500 * abs(right - np.mean([probability[i].max() for i in inside]))
    assert calibration_error(logits, labels) == pytest.approx(expected, abs=1e-9)


def test_frames_are_gathered_before_normalisation() -> None:
    from harness.training import predict_logits

    split = ramps(4)
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            seen.append(clips)
            return clips.flatten(1)[:, :2]

    predict_logits(Spy(), split, TrainingProtocol(), "cpu", frames=torch.tensor([[3, 3, 0, 0]]).expand(4, 4))
    torch.testing.assert_close(seen[0], normalise(split.clips())[:, [3, 3, 0, 0]])
