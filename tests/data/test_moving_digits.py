"""moving-digits: one frame says nothing, the motion says everything, and the splits share no digit."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from harness.data.cache import describe
from harness.data.moving_digits import LAWS, MovingDigits, glyphs, trace
from harness.errors import DataError

SHAPE = (8, 1, 32, 32)
PLAIN = MovingDigits()


def test_counts_and_balance() -> None:
    assert len(LAWS) == 12
    for split, per_class in (("train", 300), ("test", 40)):
        items = PLAIN.items(split)
        assert np.bincount([i.label for i in items]).tolist() == [per_class] * 12
        assert len({i.id for i in items}) == 12 * per_class


def test_digests_stay_what_they_were() -> None:
    """Fixed values: caches and records that exist are named by them."""
    assert PLAIN.digest() == "31d2b3ed86c74a80ee2da2b246246634170c404f4a25fdd1b9c6afdff73b8ada"
    assert MovingDigits(preset="hard", train_per_class=5).digest() == "20b1e4291a27f23af760c1ef62ca498ba04aacc76de41ff4060734423bd37e69"
    info = describe(PLAIN, "moving-digits", code="any")
    assert info.digest == "9d0de4134a0c11e6b0f6cb5a9eccd38d8dee5f3dc8554bb22dfcdbb08c233346"
    assert (info.clip_shape, info.flip, info.code) == (SHAPE, False, "any")


def test_splits_share_no_digit() -> None:
    digests = {s: {hashlib.sha256(g.numpy().tobytes()).digest() for g in glyphs(s)} for s in ("train", "test")}
    assert len(digests["train"]) == len(glyphs("train")) > 1300
    assert not digests["train"] & digests["test"]


@pytest.mark.parametrize("frame", [0, 3, 7])
def test_one_frame_is_drawn_alike_for_every_law(frame: int) -> None:
    """Position, angle and size at any frame have the same distribution whatever the law: uniform on their circles."""
    time = np.linspace(0, 1, 8)
    for law in LAWS:
        drawn = np.array([trace(np.random.default_rng((n, LAWS.index(law))), law, time)[frame] for n in range(400)])
        sizes = np.log(drawn[:, 3])
        unit = (drawn[:, 0] % 1, drawn[:, 1] % 1, drawn[:, 2] / (2 * np.pi) % 1, (sizes - np.log(0.34)) / np.log(0.72 / 0.34))
        for values in unit:
            assert stats.kstest(values, "uniform").pvalue > 1e-4, law


def test_motion_is_the_laws() -> None:
    time = np.linspace(0, 1, 8)
    steps = {law: np.diff(trace(np.random.default_rng(3), law, time), axis=0) for law in LAWS}
    assert (steps["left"][:, 0] < 0).all()
    assert (steps["right"][:, 0] > 0).all()
    assert (steps["up"][:, 1] < 0).all()
    assert (steps["down"][:, 1] > 0).all()
    assert (steps["rotate-cw"][:, 2] > 0).all()
    assert (steps["rotate-ccw"][:, 2] < 0).all()
    for law, sign in (("orbit-cw", 1), ("orbit-ccw", -1)):
        x, y = steps[law][:, 0], steps[law][:, 1]
        assert (sign * (x[:-1] * y[1:] - y[:-1] * x[1:]) > 0).all(), "y points down, so a positive turn is clockwise"
    for law, sign in (("grow", 1), ("shrink", -1)):
        assert (sign * steps[law][:, 3] > 0).sum() >= 6, "all steps but the one where the size starts again"
    assert np.abs(steps["sway-x"][:, 1]).max() == 0 < np.abs(steps["sway-x"][:, 0]).max()
    assert np.abs(steps["sway-y"][:, 0]).max() == 0 < np.abs(steps["sway-y"][:, 1]).max()


def test_clips_are_reproducible_and_differ() -> None:
    items = PLAIN.items("train")[:24]
    first, again = ([PLAIN.read(i, SHAPE).frames for i in items] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({a.tobytes() for a in first}) == 24
    assert not np.array_equal(PLAIN.read(PLAIN.items("test")[0], SHAPE).frames, first[0])


def test_the_canvas_is_a_torus() -> None:
    """The ink of a digit that leaves one side comes in at the other."""
    for label in (0, 1, 2, 3):
        clip = torch.from_numpy(PLAIN.read(PLAIN.items("train")[label], SHAPE).frames).float()
        ink = (clip - clip.amin()).sum(dim=(1, 2, 3))
        assert float(ink.std() / ink.mean()) < 0.05


def test_shapes_and_presets() -> None:
    item = PLAIN.items("train")[0]
    gray = PLAIN.read(item, (8, 1, 32, 32)).frames
    colour = PLAIN.read(item, (8, 3, 32, 32)).frames
    assert all(np.array_equal(colour[:, c], gray[:, 0]) for c in range(3))
    assert PLAIN.read(item, (16, 1, 48, 48)).frames.shape == (16, 1, 48, 48)
    hard = MovingDigits(preset="hard")
    background = [np.median(p.read(i, SHAPE).frames[0]) for p in (PLAIN, hard) for i in p.items("train")[:20]]
    assert np.mean(background[20:]) > 2 * np.mean(background[:20])
    assert hard.digest() != PLAIN.digest()
    for shape in ((8, 2, 32, 32), (1, 1, 32, 32), (8, 1, 32, 40)):
        with pytest.raises(DataError, match="clips must have"):
            PLAIN.read(item, shape)
    with pytest.raises(ValueError, match="'soft' does not exist"):
        MovingDigits(preset="soft")
