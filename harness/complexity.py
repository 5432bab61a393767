"""What a network costs before it is trained: parameters and multiply-adds, counted without computing anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from harness.registry import Registry

REFERENCE_CLIPS = ((16, 3, 112, 112), (8, 1, 32, 32))
"""The field's clip and the embedded one."""
REFERENCE_CLASSES = 50


@dataclass(frozen=True)
class Complexity:
    """Trainable parameters, and multiply-adds of one forward pass of one clip."""

    parameters: int
    multiply_adds: int


def measure_complexity(build: Callable[[], nn.Module], clip_shape: tuple[int, int, int, int]) -> Complexity:
    """Parameters and multiply-adds of the network that ``build`` makes, for one clip (T, C, H, W).

    Runs on the meta device: no memory for weights, no arithmetic. Convolutions, matrix products, attention and recurrent layers are
    counted, what is cheap beside them (normalisation, activations, pooling) is not.
    """
    with torch.device("meta"):
        model = build().eval()
        clip = torch.empty(1, *clip_shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(clip)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Complexity(parameters, counter.get_total_flops() // 2)


def describe_cost(registry: Registry, name: str, clip_shapes: Sequence[tuple[int, int, int, int]] = REFERENCE_CLIPS) -> list[str]:
    """One line for each clip shape: what the evaluator costs there with 50 classes, or why it does not take such clips."""
    plugin = registry.resolve("evaluator", name).create()
    lines = []
    for shape in clip_shapes:
        clip = "x".join(map(str, shape))
        reason = plugin.skip(shape)
        if reason:
            lines.append(f"{clip}: {reason}")
            continue
        cost = measure_complexity(lambda shape=shape: plugin.build(shape, REFERENCE_CLASSES), shape)  # type: ignore[misc]
        lines.append(f"{clip}: {cost.parameters:,} parameters, {cost.multiply_adds / 1e9:.3g} G multiply-adds")
    return lines
