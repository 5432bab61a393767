"""The equations of guidance against cases worked out by hand, and against diffusers' own samplers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from methods.gvd.guidance import Guidance, GuidedScheduler, frame_weights, from_x0, noise_level, pull, to_x0
from methods.gvd.sampling import SAMPLERS, make_scheduler

LEVELS = [("epsilon", 0.8, 0.6), ("v_prediction", 0.8, 0.6), ("sample", 0.8, 0.6), ("flow_prediction", 0.7, 0.3)]


def test_weights_of_each_frame() -> None:
    assert frame_weights(5).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert frame_weights(3, w_end=0.2).tolist() == pytest.approx([1.0, 0.6, 0.2])
    assert frame_weights(3, w_end=0.2, decay="cosine").tolist() == pytest.approx([1.0, 0.6, 0.2])
    assert frame_weights(5, decay="cosine").tolist() == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)
    assert frame_weights(1).tolist() == [1.0]
    with pytest.raises(ValueError, match="linear"):
        frame_weights(4, decay="steep")


@pytest.mark.parametrize("w_end, decay", [(1.0, "linear"), (1.0, "cosine"), (0.0, "none")])
def test_uniform_guidance(w_end: float, decay: str) -> None:
    assert frame_weights(8, w_end, decay).tolist() == [1.0] * 8


def test_pull_by_hand() -> None:
    x0, mode = torch.tensor([2.0, 2.0, 2.0]), torch.tensor([6.0, 6.0, 0.0])
    assert pull(x0, mode, frame_weights(3), 0.5).tolist() == [4.0, 3.0, 2.0]
    assert pull(x0, mode, torch.ones(3), 1.0).tolist() == mode.tolist()


@pytest.mark.parametrize("prediction, alpha, sigma", LEVELS)
def test_every_parameterisation_means_the_same_latent(prediction: str, alpha: float, sigma: float) -> None:
    x0, eps = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    sample = alpha * x0 + sigma * eps
    output = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "sample": x0, "flow_prediction": eps - x0}[prediction]
    assert torch.allclose(to_x0(output, sample, alpha, sigma, prediction), x0, atol=1e-5)
    assert torch.allclose(from_x0(x0, sample, alpha, sigma, prediction), output, atol=1e-5)


@pytest.mark.parametrize("prediction, alpha, sigma", LEVELS)
def test_the_sign_is_toward_the_mode(prediction: str, alpha: float, sigma: float) -> None:
    """In epsilon the pull is minus: eps' = eps - (alpha / sigma) * scale * w * (m - x0), which is MGD3's Algorithm 1 and not its Eq. 6."""
    sample, output, mode = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([9.0])
    x0 = to_x0(output, sample, alpha, sigma, prediction)
    guided = from_x0(pull(x0, mode, torch.ones(1), 0.1), sample, alpha, sigma, prediction)
    shift = 0.1 * (mode - x0)
    per_unit = {"epsilon": -alpha / sigma, "v_prediction": -1 / sigma, "sample": 1.0, "flow_prediction": -1 / sigma}[prediction]
    assert torch.allclose(guided - output, per_unit * shift, atol=1e-5)
    assert float(to_x0(guided, sample, alpha, sigma, prediction)) == pytest.approx(float(x0 + shift), abs=1e-5)


def denoise(sampler: str, modes: Tensor, guidance: Guidance | None, steps: int = 8) -> Tensor:
    """Sampling with a denoiser that always sees the clean latent 0, from fixed noise."""
    scheduler = make_scheduler(sampler, steps)
    stepper = scheduler if guidance is None else GuidedScheduler(scheduler, guidance, modes)
    x = torch.randn(modes.shape, generator=torch.Generator().manual_seed(3))
    for timestep in scheduler.timesteps:
        alpha, sigma, prediction = noise_level(scheduler, timestep)
        x = stepper.step(from_x0(torch.zeros_like(x), x, alpha, sigma, prediction), timestep, x).prev_sample
    return x


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_scale_zero_is_the_plain_sampler(sampler: str) -> None:
    modes = torch.full((1, 4, 1, 2, 2), 5.0)
    assert torch.equal(denoise(sampler, modes, Guidance(0.0)), denoise(sampler, modes, None))
    assert torch.equal(denoise(sampler, modes, Guidance(0.5, stop=0.0)), denoise(sampler, modes, None)), "no step is guided"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_distance_to_the_mode_falls_with_the_scale(sampler: str) -> None:
    modes = torch.full((1, 4, 1, 2, 2), 5.0)
    distances = [
        float((denoise(sampler, modes, Guidance(scale, decay="none", stop=1.0)) - modes).norm()) for scale in (0, 0.1, 0.3, 0.6, 1.0)
    ]
    assert all(a > b + 1e-3 for a, b in pairwise(distances)), distances
    assert distances[-1] < 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frames_are_pulled_by_their_weights(sampler: str) -> None:
    """With the clean latent always 0 and guidance to the end, frame f ends at scale * w_f * mode."""
    modes = torch.full((1, 5, 1, 2, 2), 4.0)
    ended = denoise(sampler, modes, Guidance(0.5, stop=1.0), steps=12).mean(dim=(0, 2, 3, 4))
    assert ended.tolist() == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0], abs=0.06)


def test_guidance_stops() -> None:
    guidance = Guidance(0.1, stop=0.5)
    assert [guidance.active(step, 8) for step in range(8)] == [True] * 4 + [False] * 4
    assert not Guidance(0.0, stop=1.0).active(0, 8)


def test_frames_in_the_third_dimension() -> None:
    """Pipelines keep frames behind channels: the weights follow."""
    modes = torch.ones(2, 3, 5, 2, 2)
    weights = GuidedScheduler(make_scheduler("euler", 4), Guidance(0.1), modes, frame_dim=2).weights
    assert weights.shape == (1, 1, 5, 1, 1)


def test_an_unknown_scheduler_is_refused() -> None:
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="EulerDiscreteScheduler cannot be guided"):
        noise_level(scheduler, scheduler.timesteps[0])
