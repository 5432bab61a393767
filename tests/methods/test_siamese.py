"""Differentiable Siamese augmentation: alike for all frames and clips, by the released strengths."""

from __future__ import annotations

import math

import pytest
import torch

from methods.siamese import STRATEGIES, Augmentation, augment_each, draw

CLIPS = torch.randn(3, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_real_and_distilled_clips_and_all_frames_are_changed_alike(strategy: str) -> None:
    """The same picture in every frame and clip stays the same in all, and what is done to one batch is done to another."""
    still = CLIPS[:1, :1].expand(3, 4, -1, -1, -1)
    for seed in range(5):
        (augmentation,) = draw(1, [strategy], generator(seed))
        made = augmentation(still)
        torch.testing.assert_close(made, made[:1, :1].expand_as(made))
        torch.testing.assert_close(augmentation(CLIPS)[1:2], augmentation(CLIPS[1:2]))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_gradient_passes_through(strategy: str) -> None:
    (augmentation,) = draw(1, [strategy], generator(3))
    clips, along = CLIPS.double().requires_grad_(), torch.randn(CLIPS.shape, generator=generator(1)).double()
    weights = torch.randn(CLIPS.shape, generator=generator(2)).double()
    (augmentation(clips) * weights).sum().backward()
    h = 1e-6
    ahead, behind = (float((augmentation(clips.detach() + sign * h * along) * weights).sum()) for sign in (1, -1))
    assert clips.grad is not None
    assert float((clips.grad * along).sum()) == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


def test_color_by_hand() -> None:
    made = Augmentation("color", (0.9, 0.25, 0.7))(CLIPS)
    x = CLIPS + 0.4
    gray = x.mean(2, keepdim=True)
    x = (x - gray) * 0.5 + gray
    for clip, expected in zip(made, x, strict=True):
        torch.testing.assert_close(clip, (expected - expected.mean()) * 1.2 + expected.mean())


def test_crop_moves_by_whole_pixels_and_fills_with_the_mean() -> None:
    made = Augmentation("crop", (0.0, 0.999, 0.5))(CLIPS)  # shifts of -2 rows and +2 columns
    assert torch.equal(made[..., 2:, :-2], CLIPS[..., :-2, 2:])
    assert (made[..., :2, :] == 0).all() and (made[..., -2:] == 0).all()
    assert torch.equal(Augmentation("crop", (0.5, 0.5, 0.5))(CLIPS), CLIPS), "the middle number is no shift"


def test_cutout_takes_half_of_the_sides_and_less_at_the_edge() -> None:
    def cut(*numbers: float) -> torch.Tensor:
        return (Augmentation("cutout", (*numbers, 0.0))(torch.ones(1, 1, 1, 16, 16)) == 0)[0, 0, 0]  # type: ignore[arg-type]

    assert int(cut(0.5, 0.5).sum()) == 64
    corner = cut(0.0, 0.0)
    assert int(corner.sum()) == 16 and corner[:4, :4].all()


def test_flip_scale_and_rotation() -> None:
    assert torch.equal(Augmentation("flip", (0.4, 0, 0))(CLIPS), CLIPS.flip(-1)) and Augmentation("flip", (0.5, 0, 0))(CLIPS) is CLIPS
    one = (1 - 1 / 1.2) / (1.2 - 1 / 1.2)  # a factor of 1
    torch.testing.assert_close(Augmentation("scale", (one, one, 0))(CLIPS), CLIPS, atol=1e-4, rtol=0)
    torch.testing.assert_close(Augmentation("rotate", (0.5, 0, 0))(CLIPS), CLIPS, atol=1e-5, rtol=0)
    ramp = torch.linspace(-1, 1, 33)[None, None, None, None].expand(1, 1, 1, 33, 33)
    wide = Augmentation("scale", (0.0, one, 0.0))(ramp)[0, 0, 0, 16]
    torch.testing.assert_close(wide, ramp[0, 0, 0, 16] / 1.2, atol=1e-4, rtol=0)
    turned = Augmentation("rotate", (1.0, 0.0, 0.0))(ramp)[0, 0, 0, 16:19, 16:19]
    step = 2 / 32
    assert float(turned[0, 1] - turned[0, 0]) == pytest.approx(step * math.cos(math.radians(15)), rel=1e-3)
    assert float(turned[1, 0] - turned[0, 0]) == pytest.approx(-step * math.sin(math.radians(15)), rel=1e-3)


def test_draws_cover_their_ranges_and_each_clip_has_its_own() -> None:
    drawn = [draw(1, list(STRATEGIES), generator(seed))[0] for seed in range(200)]
    assert {a.strategy for a in drawn} == set(STRATEGIES)
    numbers = torch.tensor([a.numbers for a in drawn])
    assert numbers.min() < 0.02 and numbers.max() > 0.98
    still = CLIPS[:1].expand(3, -1, -1, -1, -1)
    made = augment_each(still, ["color"], generator())
    assert made.shape == still.shape and not torch.equal(made[0], made[1])
    for frame in augment_each(CLIPS[:, :1].expand(-1, 4, -1, -1, -1), ["crop"], generator()).unbind(1)[1:]:
        assert frame.shape == (3, 3, 16, 16)
