"""Guidance by modes: the equations of GVD, and a scheduler that applies them inside any sampler.

With x0 the clean latent that the denoiser predicts at a step, m the mode (a cluster centre of the class) and f the frame,

    x0' = x0 + scale * w_f * (m - x0),      w_f = 1 - (1 - w_end) * f / (F - 1)

and the sampler's update uses x0' (GVD, arXiv 2507.22360, in this project's reading; w_f = 1 is MGD3, arXiv 2505.18963). The pull is
toward the mode whatever the network predicts: a prediction is turned into x0, guided, and turned back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DECAYS = ("linear", "none", "cosine")


def frame_weights(frames: int, w_end: float = 0.0, decay: str = "linear") -> Tensor:
    """Weight of the guidance for every latent frame, (frames,) float32: 1 for the first, w_end for the last; all 1 with "none".

    >>> frame_weights(5, 0.0).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if decay not in DECAYS:
        raise ValueError(f"unknown decay {decay!r}, valid: {', '.join(DECAYS)}")
    if frames == 1 or decay == "none":
        return torch.ones(frames)
    position = torch.arange(frames, dtype=torch.float32) / (frames - 1)
    falling = 1 - position if decay == "linear" else (1 + torch.cos(math.pi * position)) / 2
    return w_end + (1 - w_end) * falling


def pull(x0: Tensor, mode: Tensor, weights: Tensor, scale: float) -> Tensor:
    """x0 + scale * weights * (mode - x0); weights broadcast against x0."""
    return x0 + scale * weights * (mode - x0)


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
    """How the modes guide. stop: the fraction of the steps, counted from the noise, that are guided (MGD3: half)."""

    scale: float
    w_end: float = 0.0
    decay: str = "linear"
    stop: float = 0.5

    def active(self, step: int, steps: int) -> bool:
        """Whether this step (0 is the noisiest) of so many is guided."""
        return self.scale != 0 and step < self.stop * steps


class GuidedScheduler:
    """A diffusers scheduler whose ``step`` sees guided predictions. Everything else is the scheduler's own.

    modes: the modes of the batch, in the layout of the sample; frame_dim: the dimension of the sample that counts latent frames.
    With scale 0 the wrapped scheduler gets exactly the network's output. A pipeline that takes such an object for its scheduler is
    guided without a change to its loop; its classifier-free guidance happens before, in the prediction, as in MGD3.
    """

    def __init__(self, inner: Any, guidance: Guidance, modes: Tensor, frame_dim: int = 1) -> None:
        self.inner, self.guidance, self.modes = inner, guidance, modes
        self._done = 0
        shape = [1] * modes.dim()
        shape[frame_dim] = modes.shape[frame_dim]
        self.weights = frame_weights(modes.shape[frame_dim], guidance.w_end, guidance.decay).view(shape).to(modes.device)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not yet set: copying or unpickling
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __len__(self) -> int:
        return len(self.inner)

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        self._done = 0
        self.inner.set_timesteps(*args, **kwargs)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.guidance.active(self._done, len(self.inner.timesteps)):
            alpha, sigma, prediction = noise_level(self.inner, timestep)
            x, out = sample.float(), model_output.float()
            x0 = pull(to_x0(out, x, alpha, sigma, prediction), self.modes.float(), self.weights, self.guidance.scale)
            model_output = from_x0(x0, x, alpha, sigma, prediction).to(model_output.dtype)
        self._done += 1
        return self.inner.step(model_output, timestep, sample, *args, **kwargs)


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
