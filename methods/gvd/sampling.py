"""Sampling: from noise to latents with a scheduler of diffusers, guided by modes, in micro-batches of one size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from methods.gvd.guidance import SAME_LEVEL, Guidance, GuidedScheduler, from_x0, level, noise_level


class Denoiser(Protocol):
    """What sampling needs of a backbone: the velocity eps - x0 at x_t, with classifier-free guidance of scale ``cfg``."""

    def velocity(self, x: Tensor, t: Tensor, labels: Tensor, cfg: float) -> Tensor: ...


StepDone = Callable[[int, int], None]
"""Told of every denoising step: how many are done, of how many."""
SAMPLERS = ("euler", "dpm++", "unipc", "ddim", "ddim-linear")


@dataclass(frozen=True)
class Sampling:
    """How latents are sampled: ``sampler`` and ``shift`` as in ``make_scheduler``, ``cfg`` the scale of classifier-free guidance.

    start: the noise level at which sampling starts, in (0, 1]: 1 is noise; below it the modes with the noise of the first step that is not
    above it.
    """

    sampler: str
    steps: int
    cfg: float = 1.0
    start: float = 1.0
    shift: float = 1.0


def make_scheduler(name: str, steps: int, shift: float = 1.0) -> Any:
    """A diffusers scheduler with its timesteps set.

    euler: flow matching; dpm++ and unipc: second-order multistep solvers along the same path; ddim: the variance-preserving path, with a
    cosine schedule; ddim-linear: with that of DDPM and DiT, 1,000 betas from 1e-4 to 0.02.
    shift: t' = shift t / (1 + (shift - 1) t), more of the steps at high noise (Esser et al., arXiv 2403.03206, equation 23); ddim has none.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    if name == "euler":
        scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
        return scheduler
    if name == "dpm++":
        scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift)
    elif name == "unipc":
        scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift)
    elif name in ("ddim", "ddim-linear"):
        betas = "linear" if name == "ddim-linear" else "squaredcos_cap_v2"
        scheduler = DDIMScheduler(beta_schedule=betas, clip_sample=False, timestep_spacing="trailing")
    else:
        raise ValueError(f"unknown sampler {name!r}, valid: {', '.join(SAMPLERS)}")
    scheduler.set_timesteps(steps)
    return scheduler


def network_output(backbone: Denoiser, x: Tensor, alpha: float, sigma: float, prediction: str, labels: Tensor, cfg: float) -> Tensor:
    """What the scheduler expects, from the backbone's velocity: any (alpha, sigma) is a place on the flow's path after a rescaling.

    With s = alpha + sigma, x / s = (1 - t) x0 + t eps at t = sigma / s.
    """
    s = alpha + sigma
    t = torch.full((len(x),), sigma / s, device=x.device)
    velocity = backbone.velocity(x / s, t, labels, cfg).float()
    if prediction == "flow_prediction":
        return velocity
    return from_x0(x / s - sigma / s * velocity, x, alpha, sigma, prediction)


def sample(
    backbone: Denoiser,
    modes: Tensor,
    labels: Tensor,
    noise: Tensor,
    guidance: Guidance,
    how: Sampling,
    weights: Tensor | None = None,
    progress: StepDone | None = None,
) -> Tensor:
    """Latents (B, F, c, h, w) of these classes (B,), from noise of the same shape, guided by modes of the same shape.

    weights: (B, F) of the guidance, where they are not those of whole videos. progress: called after each step.
    """
    scheduler = make_scheduler(how.sampler, how.steps, how.shift)

    def predict(x: Tensor, timestep: Any) -> Tensor:
        alpha, sigma, prediction = noise_level(scheduler, timestep)
        return network_output(backbone, x, alpha, sigma, prediction, labels, how.cfg)

    return walk(scheduler, predict, modes, noise, guidance, how.start, weights, progress)


@torch.no_grad()
def walk(
    scheduler: Any,
    predict: Callable[[Tensor, Any], Tensor],
    modes: Tensor,
    noise: Tensor,
    guidance: Guidance,
    start: float = 1.0,
    weights: Tensor | None = None,
    progress: StepDone | None = None,
) -> Tensor:
    """Latents from noise along a scheduler's timesteps, all float32; predict(x, timestep): what the scheduler expects of a network."""
    guided = GuidedScheduler(scheduler, guidance, modes, weights)
    first = first_step(scheduler, start)
    x = noise
    if first:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        alpha, sigma = path(scheduler, first)
        x = alpha * modes + sigma * noise
    timesteps = scheduler.timesteps[first:]
    for done, timestep in enumerate(timesteps, start=1):
        x = guided.step(predict(x, timestep), timestep, x)
        if progress is not None:
            progress(done, len(timesteps))
    return x


def first_step(scheduler: Any, start: float) -> int:
    """The first step that is not above the noise level ``start``, 0 for noise; the last step where all are above."""
    if start >= 1:
        return 0
    steps = len(scheduler.timesteps)
    return next((i for i in range(steps) if level(*path(scheduler, i)) <= start + SAME_LEVEL), steps - 1)


def path(scheduler: Any, step: int) -> tuple[float, float]:
    """(alpha, sigma) of the step-th timestep, before anything was stepped."""
    if hasattr(scheduler, "sigmas") and hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[step])
        return float(alpha), float(sigma)
    if hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[step])
        return 1 - sigma, sigma
    alpha, sigma, _ = noise_level(scheduler, scheduler.timesteps[step])
    return alpha, sigma
