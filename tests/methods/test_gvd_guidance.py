"""The equations of guidance against cases worked out by hand, and against diffusers' own samplers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from methods.gvd.arrival import Arrival
from methods.gvd.guidance import STRONGEST, Guidance, GuidedScheduler, frame_weights, from_x0, level, noise_level, pull, strength, to_x0
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
    """In epsilon the pull is minus: eps' = eps - (alpha / sigma) * scale * w * (m - x0), the sign of MGD3's Algorithm 1, not its Eq. 6."""
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
    stepper = None if guidance is None else GuidedScheduler(scheduler, guidance, modes)
    x = torch.randn(modes.shape, generator=torch.Generator().manual_seed(3))
    for timestep in scheduler.timesteps:
        alpha, sigma, prediction = noise_level(scheduler, timestep)
        output = from_x0(torch.zeros_like(x), x, alpha, sigma, prediction)
        x = scheduler.step(output, timestep, x).prev_sample if stepper is None else stepper.step(output, timestep, x)
    return x


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_scale_zero_is_the_plain_sampler(sampler: str) -> None:
    modes = torch.full((1, 4, 1, 2, 2), 5.0)
    assert torch.equal(denoise(sampler, modes, Guidance(0.0)), denoise(sampler, modes, None))
    assert torch.equal(denoise(sampler, modes, Guidance(0.5, stop=1.0)), denoise(sampler, modes, None)), "no step is guided"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_distance_to_the_mode_falls_with_the_scale(sampler: str) -> None:
    modes = torch.full((1, 4, 1, 2, 2), 5.0)
    distances = [
        float((denoise(sampler, modes, Guidance(scale, decay="none", stop=0.0)) - modes).norm()) for scale in (0, 0.1, 0.3, 0.6, 1.0)
    ]
    assert all(a > b + 1e-3 for a, b in pairwise(distances)), distances
    assert distances[-1] < 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frames_are_pulled_by_their_weights(sampler: str) -> None:
    """With the clean latent always 0 and guidance to the end, frame f ends at scale * w_f * mode."""
    modes = torch.full((1, 5, 1, 2, 2), 4.0)
    ended = denoise(sampler, modes, Guidance(0.5, stop=0.0), steps=12).mean(dim=(0, 2, 3, 4))
    assert ended.tolist() == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0], abs=0.06)


def test_guidance_stops_at_a_noise_level() -> None:
    guidance = Guidance(0.1, stop=0.5)
    assert [guidance.active(t) for t in (1.0, 0.75, 0.51, 0.5005, 0.5, 0.25)] == [True, True, True, False, False, False]
    assert Guidance(0.1, stop=0.0).active(0.01)
    assert not Guidance(0.1, stop=1.0).active(1.0)
    assert not Guidance(0.0, stop=0.0).active(1.0)


@pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
def test_no_pull_is_taken_back_after_the_stop(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the clean latent always 0, a free step only takes noise away: x' = (sigma' / sigma) x, exactly. A solver that remembered the
    guided predictions would step off that line where guidance stops."""
    modes = torch.full((1, 4, 1, 2, 2), 5.0)

    def worst_step() -> float:
        scheduler = make_scheduler(sampler, 12)
        stepper = GuidedScheduler(scheduler, Guidance(0.3, decay="none", stop=0.5), modes)
        x, worst = torch.randn(modes.shape, generator=torch.Generator().manual_seed(3)), 0.0
        for i, timestep in enumerate(scheduler.timesteps):
            alpha, sigma, prediction = noise_level(scheduler, timestep)
            after = stepper.step(from_x0(torch.zeros_like(x), x, alpha, sigma, prediction), timestep, x)
            if sigma < 0.5:
                worst = max(worst, float((after - x * scheduler.sigmas[i + 1] / sigma).abs().max()))
            x = after
        return worst

    assert worst_step() < 1e-5
    monkeypatch.setattr("methods.gvd.guidance.forget", lambda scheduler: None)
    assert worst_step() > 0.05


def test_mgd3_is_its_algorithm_1() -> None:
    """Every step against DDIM written out with eps' = eps - sqrt(1 - abar) * lambda * (m - x0), for epsilons of a network that errs."""
    generator = torch.Generator().manual_seed(0)
    scheduler = make_scheduler("ddim", 20)
    scheduler.register_to_config(prediction_type="epsilon")
    modes = torch.randn(2, 4, 1, 3, 3, generator=generator)
    stepper = GuidedScheduler(scheduler, Guidance(0.1, decay="none", stop=0.0, rule="mgd3"), modes)
    x = by_hand = torch.randn(modes.shape, generator=generator)
    steps = 0
    for timestep in scheduler.timesteps:
        eps = torch.randn(modes.shape, generator=generator)
        abar = scheduler.alphas_cumprod[timestep]
        before = timestep - 1000 // 20
        previous = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
        if float((1 - abar) / abar**0.5) < STRONGEST:
            g = modes - (by_hand - (1 - abar).sqrt() * eps) / abar.sqrt()
            guided = eps - (1 - abar).sqrt() * 0.1 * g
            x0 = (by_hand - (1 - abar).sqrt() * guided) / abar.sqrt()
            by_hand = previous.sqrt() * x0 + (1 - previous).sqrt() * guided
            x = stepper.step(eps, timestep, x)
            assert torch.allclose(x, by_hand, rtol=1e-3, atol=1e-3), int(timestep)
            x = by_hand
            steps += 1
    assert steps >= 19, "all but a first step at pure noise, where the algorithm is not defined"


def test_mgd3_has_its_strength_on_every_path() -> None:
    """alpha and sigma count by their ratio; the strength is 1 where sigma^2 = alpha, and bounded where a schedule begins at pure noise."""
    for alpha, sigma in ((0.6, 0.8), (0.3, 0.4), (0.428571, 0.571429)):
        assert strength(alpha, sigma, "mgd3") == pytest.approx(0.64 / 0.6, rel=1e-5)
        assert level(alpha, sigma) == pytest.approx(4 / 7, rel=1e-5)
    root = (5**0.5 - 1) / 2
    assert strength(root, root**0.5, "mgd3") == pytest.approx(1)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = float((1 - betas).prod())
    assert pytest.approx((1 - abar) / abar**0.5, rel=0.01) == STRONGEST, "the first step of DiT's schedule"
    assert strength(0.0, 1.0, "mgd3") == strength(1e-6, 1.0, "mgd3") == STRONGEST
    assert strength(0.5, 0.5, "x0") == 1.0
    with pytest.raises(ValueError, match="x0, mgd3"):
        strength(0.5, 0.5, "mgd4")


def test_weights_of_a_run_of_kept_frames() -> None:
    """A video of which frames 2 to 4 are kept has its whole decay there, and holds it outside."""
    assert frame_weights(6, run=slice(2, 5)).tolist() == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert frame_weights(4, w_end=0.2, run=slice(0, 2)).tolist() == pytest.approx([1.0, 0.2, 0.2, 0.2])
    assert frame_weights(4, run=slice(2, 3)).tolist() == [1.0, 1.0, 1.0, 0.0]
    both = Guidance(0.1).weights(4, [slice(0, 2), slice(2, 4)])
    assert both.tolist() == [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    assert Guidance(0.1).weights(3).tolist() == [[1.0, 0.5, 0.0]]


def test_every_video_has_its_own_weights() -> None:
    modes = torch.full((2, 4, 1, 2, 2), 4.0)
    weights = Guidance(0.5).weights(4, [slice(0, 2), slice(2, 4)])
    scheduler = make_scheduler("euler", 12)
    stepper = GuidedScheduler(scheduler, Guidance(0.5, stop=0.0), modes, weights=weights)
    x = torch.randn(modes.shape, generator=torch.Generator().manual_seed(3))
    for timestep in scheduler.timesteps:
        x = stepper.step(x / scheduler.sigmas[scheduler.step_index or 0], timestep, x)
    assert torch.allclose(x.mean(dim=(2, 3, 4)), 2 * weights, atol=1e-3)


def test_arrival_by_hand(tmp_path: Path) -> None:
    """Two modes at 0 and 10 on a line: videos at 1, for the first, and at 4, for the second."""
    arrival = Arrival(tmp_path / "a.npy", 3)
    assert arrival.hit_rate is None and arrival.pull is None
    arrival.note(torch.tensor([0, 1]), torch.tensor([[1.0], [4.0]]), torch.tensor([[0.0], [10.0]]), torch.tensor([0, 1]))
    assert arrival.hit_rate == 0.5, "the second is nearer to the other's mode"
    assert arrival.pull == pytest.approx(1 - (1 + 6) / (9 + 4))
    arrival = Arrival(tmp_path / "a.npy", 3)  # as after an interruption
    arrival.note(torch.tensor([2]), torch.tensor([[0.0]]), torch.tensor([[0.0], [3.0], [9.0]]), torch.tensor([0]))  # another class
    assert arrival.hit_rate == pytest.approx(2 / 3)
    assert arrival.pull == pytest.approx(1 - (7 + 0) / (13 + 6))


def test_videos_that_do_not_know_their_mode_have_no_pull(tmp_path: Path) -> None:
    """Chance hits and no pull, though one mode lies nearer to all videos than the others do."""
    generator = torch.Generator().manual_seed(0)
    modes = torch.randn(5, 40, generator=generator) * torch.tensor([0.2, 1, 1, 2, 2])[:, None]
    k = 5
    arrival = Arrival(tmp_path / "a.npy", 200 * k)
    for i in range(200):
        arrival.note(torch.arange(k) + i * k, torch.randn(k, 40, generator=generator), modes, torch.arange(k))
    assert arrival.hit_rate == pytest.approx(1 / k, abs=0.02)
    assert arrival.pull == pytest.approx(0, abs=0.01)
    exact = Arrival(tmp_path / "b.npy", k)
    exact.note(torch.arange(k), modes, modes, torch.arange(k))
    assert exact.hit_rate == 1 and exact.pull == pytest.approx(1)
    single = Arrival(tmp_path / "c.npy", 1)
    single.note(torch.tensor([0]), modes[:1], modes[:1], torch.zeros(1).long())
    assert single.hit_rate is None and single.pull is None


def test_an_unknown_scheduler_is_refused() -> None:
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="EulerDiscreteScheduler cannot be guided"):
        noise_level(scheduler, scheduler.timesteps[0])
