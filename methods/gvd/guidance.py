"""Guidance by modes: the equations of GVD and MGD3, and a scheduler that applies them inside any sampler.

With x0 the clean latent that the denoiser predicts at a step, m the mode (a cluster centre of the class), f the frame and lambda the scale,

    x0' = x0 + lambda * w_f * s * (m - x0),      w_f = 1 - (1 - w_end) * f / (F - 1)

and the sampler's update uses x0'. The weight w_f is GVD's (arXiv 2507.22360, in this project's reading). The strength s is a rule:

    x0:    s = 1, the same at every noise level (ours);
    mgd3:  s = sigma^2 / alpha, which is Algorithm 1 of MGD3 (arXiv 2505.18963): eps' = eps - sqrt(1 - abar) * lambda * (m - x0), and
           x0 = (x - sigma eps) / alpha. With w_f = 1 these are MGD3's updates: far stronger at high noise, weaker below t = 0.56.

alpha and sigma are those of a variance-preserving path (alpha^2 + sigma^2 = 1), for which MGD3 is written; on another path those of the
same signal-to-noise ratio. The noise level t = sigma / (alpha + sigma), 0 clean and 1 noise, is what ``stop`` and the sampling speak of:
the same for every sampler, schedule and number of steps. A prediction is turned into x0, guided in float32, and turned back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DECAYS = ("linear", "none", "cosine")
RULES = ("x0", "mgd3")
STRONGEST = 157.0
"""sigma^2 / alpha at the noisiest step of MGD3's own schedule (DiT: 1,000 betas from 1e-4 to 0.02). Algorithm 1 is not defined where a
schedule begins at pure noise, alpha = 0: the rule is no stronger there than where its authors' sampling begins."""
SAME_LEVEL = 1e-3
"""Noise levels that differ by less than a step of the usual 1,000 are one: a solver's 0.7504 is 0.75."""


def frame_weights(frames: int, w_end: float = 0.0, decay: str = "linear", run: slice | None = None) -> Tensor:
    """Weight of the guidance for every latent frame, (frames,) float32: 1 for the first, w_end for the last; all 1 with "none".

    run: the frames of a video that are kept, where it is not all of them. The weights then fall over these alone; frames before have the
    weight of its first, frames behind that of its last.

    >>> frame_weights(5, 0.0).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    >>> frame_weights(6, 0.0, run=slice(2, 5)).tolist()
    [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    if decay not in DECAYS:
        raise ValueError(f"unknown decay {decay!r}, valid: {', '.join(DECAYS)}")
    first, end = (0, frames) if run is None else (run.start, run.stop)
    if frames == 1 or decay == "none":
        return torch.ones(frames)
    position = ((torch.arange(frames, dtype=torch.float32) - first) / max(end - first - 1, 1)).clamp(0, 1)
    falling = 1 - position if decay == "linear" else (1 + torch.cos(math.pi * position)) / 2
    return w_end + (1 - w_end) * falling


def pull(x0: Tensor, mode: Tensor, weights: Tensor, scale: float) -> Tensor:
    """x0 + scale * weights * (mode - x0); weights broadcast against x0."""
    return x0 + scale * weights * (mode - x0)


def strength(alpha: float, sigma: float, rule: str) -> float:
    """What the rule multiplies the scale with at a noise level: 1, or sigma^2 / alpha of the variance-preserving path, at most STRONGEST.

    >>> strength(0.6, 0.8, "x0"), round(strength(0.6, 0.8, "mgd3"), 4), round(strength(0.3, 0.4, "mgd3"), 4)
    (1.0, 1.0667, 1.0667)
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}, valid: {', '.join(RULES)}")
    if rule == "x0":
        return 1.0
    below = alpha * math.hypot(alpha, sigma)
    return STRONGEST if sigma**2 >= STRONGEST * below else sigma**2 / below


def level(alpha: float, sigma: float) -> float:
    """The noise level t = sigma / (alpha + sigma) in [0, 1]: where on the straight path from data to noise it lies.

    >>> level(0.25, 0.75), level(0.6, 0.6)
    (0.75, 0.5)
    """
    return sigma / (alpha + sigma)


def to_x0(output: Tensor, sample: Tensor, alpha: float, sigma: float, prediction: str) -> Tensor:
    """The clean latent behind a network's output, where sample = alpha * x0 + sigma * eps.

    epsilon: output = eps. v_prediction: alpha * eps - sigma * x0 (alpha^2 + sigma^2 = 1). flow_prediction: eps - x0 (alpha = 1 - sigma).
    """
    if prediction == "epsilon":
        return (sample - sigma * output) / alpha
    if prediction == "v_prediction":
        return alpha * sample - sigma * output
    if prediction == "flow_prediction":
        return sample - sigma * output
    if prediction == "sample":
        return output
    raise ValueError(f"unknown prediction {prediction!r}, valid: epsilon, v_prediction, sample, flow_prediction")


def from_x0(x0: Tensor, sample: Tensor, alpha: float, sigma: float, prediction: str) -> Tensor:
    """Inverse of ``to_x0``: the output that stands for this clean latent."""
    if prediction == "epsilon":
        return (sample - alpha * x0) / sigma
    if prediction == "v_prediction":
        return (alpha * sample - x0) / sigma
    if prediction == "flow_prediction":
        return (sample - x0) / sigma
    if prediction == "sample":
        return x0
    raise ValueError(f"unknown prediction {prediction!r}, valid: epsilon, v_prediction, sample, flow_prediction")


@dataclass(frozen=True)
class Guidance:
    """How the modes guide: lambda and the rule of its strength, the weights of the frames, and the noise level at which it stops.

    stop 0.75 is half of MGD3's steps on the shifted path that GVD takes by default: the first 6 of 12.
    """

    scale: float
    w_end: float = 0.0
    decay: str = "linear"
    stop: float = 0.75
    rule: str = "x0"

    def active(self, t: float) -> bool:
        """Whether a step at this noise level is guided: above ``stop``."""
        return self.scale != 0 and t > self.stop + SAME_LEVEL

    def weights(self, frames: int, runs: list[slice] | None = None) -> Tensor:
        """Weights of every latent frame, (1, frames), or (B, frames) where only a run of each video is kept."""
        kept: list[slice | None] = [None] if runs is None else list(runs)
        return torch.stack([frame_weights(frames, self.w_end, self.decay, run) for run in kept])


class GuidedScheduler:
    """A diffusers scheduler whose ``step`` sees guided predictions.

    modes: the modes of the batch, like the sample (B, F, c, h, w); weights: (1 or B, F), by default those of whole videos. The sample and
    the prediction are float32, in whatever precision a network works: half of it would round most pulls away. With scale 0 the wrapped
    scheduler gets exactly the network's output. Classifier-free guidance happens before, in the prediction, as in MGD3.

    A solver that remembers earlier predictions forgets those that were guided where guidance stops: extrapolating from them to the first
    free prediction would take a part of the pull back.
    """

    def __init__(self, inner: Any, guidance: Guidance, modes: Tensor, weights: Tensor | None = None) -> None:
        self.inner, self.guidance, self.modes = inner, guidance, modes.float()
        weights = guidance.weights(modes.shape[1]) if weights is None else weights
        self.weights = weights.view(*weights.shape, *[1] * (modes.dim() - 2)).to(modes.device)
        self._was_guided = False

    def step(self, output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
        """The sample after a step, from the network's output at it."""
        if self.guidance.scale != 0:
            alpha, sigma, prediction = noise_level(self.inner, timestep)
            is_guided = self.guidance.active(level(alpha, sigma))
            if is_guided:
                scale = self.guidance.scale * strength(alpha, sigma, self.guidance.rule)
                x0 = pull(to_x0(output, sample, alpha, sigma, prediction), self.modes, self.weights, scale)
                output = from_x0(x0, sample, alpha, sigma, prediction)
            elif self._was_guided:
                forget(self.inner)
            self._was_guided = is_guided
        after: Tensor = self.inner.step(output, timestep, sample, return_dict=False)[0]
        return after


def forget(scheduler: Any) -> None:
    """Make a multistep solver of diffusers (DPM-Solver, UniPC) forget its earlier predictions: its next step is of first order."""
    if hasattr(scheduler, "lower_order_nums"):
        scheduler.lower_order_nums = 0
        scheduler.model_outputs = [None] * len(scheduler.model_outputs)
        if hasattr(scheduler, "last_sample"):
            scheduler.last_sample = None  # without it UniPC corrects no earlier step


def noise_level(scheduler: Any, timestep: Any) -> tuple[float, float, str]:
    """(alpha, sigma, prediction) of a diffusers scheduler at a timestep: sample = alpha * x0 + sigma * eps.

    Knows the three families: schedulers with ``alphas_cumprod`` alone (DDPM, DDIM, CogVideoX), those that step along ``sigmas``
    (DPM-Solver, UniPC), and flow matching (Euler).
    """
    config = scheduler.config
    name = type(scheduler).__name__
    if name.startswith("FlowMatch"):
        sigma = float(scheduler.sigmas[step_index(scheduler, timestep)])
        return 1 - sigma, sigma, "flow_prediction"
    if hasattr(scheduler, "sigmas") and hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[step_index(scheduler, timestep)])
        return float(alpha), float(sigma), config.prediction_type
    if hasattr(scheduler, "sigmas"):
        valid = "DDPM, DDIM, CogVideoX DDIM and DPM, DPM-Solver, UniPC, flow matching Euler"
        raise ValueError(f"scheduler {name} cannot be guided, valid: {valid}")
    cumulative = float(scheduler.alphas_cumprod[int(timestep)])
    return cumulative**0.5, (1 - cumulative) ** 0.5, config.prediction_type


def step_index(scheduler: Any, timestep: Any) -> int:
    """Where along its timesteps the scheduler is."""
    if scheduler.step_index is not None:
        return int(scheduler.step_index)
    return int((scheduler.timesteps == timestep).nonzero()[0])
