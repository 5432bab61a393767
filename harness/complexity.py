"""What a network costs before it is trained: parameters and multiply-adds, counted without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Complexity:
    """Trainable parameters, and multiply-adds of one forward pass of one clip."""

    parameters: int
    multiply_adds: int


def measure_complexity(build: Callable[[], nn.Module], clip_shape: tuple[int, int, int, int]) -> Complexity:
    """Parameters and multiply-adds of the network that ``build`` makes, for one clip (T, C, H, W).

    Runs on the meta device: no memory for weights, no arithmetic. Convolutions, matrix products, attention and recurrent layers are counted,
    what is cheap beside them (normalisation, activations, pooling) is not.
    """
    with torch.device("meta"):
        model = build().eval()
        clip = torch.empty(1, *clip_shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(clip)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Complexity(parameters, counter.get_total_flops() // 2)

