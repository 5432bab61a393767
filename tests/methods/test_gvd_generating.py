"""Methods that are parts of GVD under names of their own: diffusion, MGD3 and D4M, each against its algorithm written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from harness.budget import Budget
from harness.plugin import Context
from methods.d4m import D4M
from methods.diffusion import Diffusion
from methods.gvd import GVD
from methods.gvd.backbone import Backbone
from methods.gvd.codec import PatchCodec
from methods.gvd.unet import Architecture, VideoUNet
from methods.mgd3 import MGD3
from tests.methods.test_gvd import SHAPE, TRAIN, Teacher, make_context
from tests.tiny import tiny_split

BUDGET = Budget(2, SHAPE, 3)
ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
"""DiT's schedule."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    codec = PatchCodec.fit(TRAIN, 2, 4, 1.0)
    torch.manual_seed(0)
    network = VideoUNet(Architecture(codec.latent_shape, 3, 16, (1, 1), 1, False)).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.mul_(1.5)  # an untrained one says little
    return Backbone(network, codec)


@pytest.fixture
def context(tmp_path: Any, backbone: Backbone) -> Context:
    return make_context(tmp_path, backbone=backbone, teacher=Teacher().eval())


def ddim(backbone: Backbone, x: Tensor, labels: Tensor, cfg: float, first: int = 0, modes: Tensor | None = None, guided: int = 0) -> Tensor:
    """50 steps of DDIM from the step ``first`` on, the first ``guided`` of them by Algorithm 1 of MGD3 with lambda = 0.1."""
    for step in range(first, 50):
        t = 999 - 20 * step
        abar, previous = float(ABAR[t]), float(ABAR[t - 20]) if t > 20 else 1.0
        alpha, sigma = abar**0.5, (1 - abar) ** 0.5
        s = alpha + sigma
        velocity = backbone.velocity(x / s, torch.full((len(x),), sigma / s), labels, cfg)
        eps, x0 = (x + alpha * velocity) / s, (x - sigma * velocity) / s
        if step < guided:
            assert modes is not None
            eps = eps - (1 - abar) ** 0.5 * 0.1 * (modes - x0)
        x0 = (x - (1 - abar) ** 0.5 * eps) / abar**0.5
        x = previous**0.5 * x0 + (1 - previous) ** 0.5 * eps
    return x


def centres(backbone: Backbone, seed: int) -> Tensor:
    """k-means centres of the latents of each class with k = IPC, class by class."""
    found = []
    for label in range(3):
        points = backbone.codec.encode(TRAIN.clips(TRAIN.indices_of(label))).flatten(1)
        found.append(torch.from_numpy(KMeans(2, n_init=1, random_state=seed + label).fit(points.numpy()).cluster_centers_).float())
    return torch.cat(found).view(6, *backbone.codec.latent_shape)


def noises(context: Context, modes: Tensor) -> Tensor:
    """The noise of each video, which has a generator of its own."""
    return torch.stack([torch.randn(modes.shape[1:], generator=context.generator_of(number)) for number in range(len(modes))])


def test_mgd3_is_its_algorithm_1_on_the_noise_levels_of_its_paper(context: Context, backbone: Backbone) -> None:
    stored = MGD3().distill(TRAIN, BUDGET, context)
    labels, modes = torch.tensor([0, 0, 1, 1, 2, 2]), centres(backbone, context.seed)
    noise = noises(context, modes)
    by_hand, free = (backbone.codec.decode(ddim(backbone, noise, labels, 4.0, 0, modes, guided=g)) for g in (24, 0))
    assert stored.clips is not None and stored.soft_labels is None
    assert (stored.clips.int() - by_hand.int()).abs().max() <= 1
    assert (by_hand.int() - free.int()).abs().float().mean() > 5, "the guidance is seen"
    assert stored.labels.tolist() == labels.tolist()


def test_d4m_denoises_noised_prototypes(context: Context, backbone: Backbone) -> None:
    stored = D4M().distill(TRAIN, BUDGET, context)
    labels, modes = torch.tensor([0, 0, 1, 1, 2, 2]), centres(backbone, context.seed)
    levels = [(1 - ABAR[999 - 20 * i]) ** 0.5 / (ABAR[999 - 20 * i] ** 0.5 + (1 - ABAR[999 - 20 * i]) ** 0.5) for i in range(50)]
    first = next(i for i in range(50) if levels[i] <= 0.769)
    alpha, sigma = float(ABAR[999 - 20 * first]) ** 0.5, float(1 - ABAR[999 - 20 * first]) ** 0.5
    noise = noises(context, modes)
    by_hand = backbone.codec.decode(ddim(backbone, alpha * modes + sigma * noise, labels, 8.0, first))
    assert stored.clips is not None
    assert (stored.clips.int() - by_hand.int()).abs().max() <= 1
    assert stored.soft_labels is not None and stored.soft_labels.shape == (6, 3)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    released = np.cumprod(1 - betas)[700]
    assert D4M().start == pytest.approx((1 - released) ** 0.5 / (released**0.5 + (1 - released) ** 0.5), abs=1e-3)


def test_unguided_samples_know_nothing_of_the_clips(context: Context) -> None:
    """Another training split, the same model: the same set. GVD without its guidance and composition is no other."""
    sets = []
    for method, split in ((Diffusion(steps=3), TRAIN), (Diffusion(steps=3), tiny_split(SHAPE, classes=3, per_class=8, seed=1)), (
        GVD(steps=3, guidance=0.0, compose=1, soft=False), TRAIN,
    )):  # fmt: skip
        context.generator.manual_seed(0)
        sets.append(method.distill(split, BUDGET, context).clips)
    assert sets[0] is not None and torch.equal(sets[0], sets[1]) and torch.equal(sets[0], sets[2])  # type: ignore[arg-type]


def test_each_names_what_it_needs_and_declines() -> None:
    assert set(Diffusion().assets(TRAIN.info)) == set(MGD3().assets(TRAIN.info)) == {"backbone"}
    assert set(D4M().assets(TRAIN.info)) == {"backbone", "teacher"}
    assert (Diffusion().native_labels, MGD3().native_labels, D4M().native_labels) == ("hard", "hard", "soft")
    assert "do not fit" in str(MGD3(compose=9).skip(TRAIN.info, BUDGET))
    assert "starts from noise" in str(D4M(backbone="some/pipeline").skip(TRAIN.info, BUDGET))
    with pytest.raises(ValueError, match="must not be negative"):
        Diffusion(steps=-1)
