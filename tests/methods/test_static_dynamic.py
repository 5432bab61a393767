from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from harness.budget import Budget
from harness.registry import Registry
from methods.dc import gradient_distance
from methods.static_dynamic import distill_frames, draw_frames, draw_one, frame_network, hallucinate
from methods.vdsd_dm import VDSD
from tests.tiny import ContextFactory, tiny_split

SHAPE = (4, 3, 16, 16)
NETWORK = "convnet3d[width=4]"


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def test_hallucinator_is_one_convolution_over_image_and_memory() -> None:
    """Layer by layer: 327 parameters for colour, and the same numbers as the module on the stacked channels."""
    layer = nn.Conv3d(4, 3, 3, padding=1)
    assert sum(p.numel() for p in layer.parameters()) == 327
    static, dynamic = torch.randn(2, 3, 6, 6), torch.randn(2, 5, 1, 6, 6)
    clips = hallucinate(static, dynamic, layer.weight, layer.bias)
    for n in range(2):
        stacked = torch.stack([torch.cat([static[n], dynamic[n, t]]) for t in range(5)], 1)
        torch.testing.assert_close(clips[n], layer(stacked[None])[0].transpose(0, 1))


def test_frame_network_has_the_parameters_of_dc() -> None:
    network = frame_network((3, 112, 112), 50, 128)
    assert sum(p.numel() for p in network[:-2].parameters()) == 299_520, "the frame encoder of the field's CNN+RNN networks"
    assert network(torch.randn(1, 3, 112, 112)).shape == (1, 50)


def test_the_image_gradient_is_that_of_the_gradient_distance(contexts: ContextFactory) -> None:
    """One step of stage 1 against finite differences of DC's loss, in double precision."""
    train, budget = tiny_split(SHAPE), Budget(1, SHAPE, 3)
    method = VDSD(network=NETWORK, static_iterations=1, static_lr=1.0, static_width=4, static_batch=4)
    rows = [train.indices_of(c) for c in range(3)]
    start = torch.cat([draw_frames(train, r, 2, contexts(method, train)) for r in rows])
    moved = distill_frames(start.view(3, 1, 2, *start.shape[1:]), train, budget, method, contexts(method, train)).flatten(0, 2)

    context = contexts(method, train)  # the same draws again: the network, then the real frames of each class
    network = frame_network(SHAPE[1:], 3, 4).double()
    frames = [draw_frames(train, r, 4, context).double() for r in rows]

    def gradients(clips: torch.Tensor, c: int) -> tuple[torch.Tensor, ...]:
        loss = nn.functional.cross_entropy(network(clips), torch.full((len(clips),), c))
        return torch.autograd.grad(loss, list(network.parameters()))

    def distance(images: torch.Tensor) -> float:
        return sum(float(gradient_distance(gradients(frames[c], c), gradients(images[2 * c : 2 * c + 2], c))) for c in range(3))

    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).double()
    ahead, behind = (distance(start.double() + sign * 1e-5 * direction) for sign in (1, -1))
    slope = float(((start - moved).double() * direction).sum())
    assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-2)


def test_a_pair_is_drawn_at_every_use(contexts: ContextFactory) -> None:
    """Each slot gets one of its own rows, all of them in time."""
    context = contexts(VDSD(network=NETWORK), tiny_split(SHAPE))
    drawn = torch.stack([draw_one(torch.arange(3, 6), 2, context) for _ in range(30)])
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[6, 7], [8, 9], [10, 11]]
