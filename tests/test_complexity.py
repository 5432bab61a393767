from __future__ import annotations

import pytest
from torch import nn

from harness.complexity import describe_cost, measure_complexity
from harness.registry import Registry

CLIP = (16, 3, 112, 112)


@pytest.mark.parametrize(
    ("name", "parameters", "gigas"),
    [("convnet3d", 3_647_666, 5.50), ("c3d", 78_200_626, 38.5), ("cnn_gru", 28_668_466, 3.70)],
)
def test_figures_of_known_networks(name: str, parameters: int, gigas: float) -> None:
    """ConvNet3D: layer by layer from VDSD. C3D: 38.5 G, as published. CNN+GRU: 3.25 G in the encoder, then 16 steps of the GRU."""
    plugin = Registry().resolve("evaluator", name).create()
    cost = measure_complexity(lambda: plugin.build(CLIP, 50), CLIP)
    assert cost.parameters == parameters
    assert cost.multiply_adds / 1e9 == pytest.approx(gigas, abs=0.06)


def test_counts_one_clip_and_nothing_else() -> None:
    layer = nn.Sequential(nn.Flatten(), nn.Linear(2 * 1 * 3 * 3, 5), nn.ReLU())
    cost = measure_complexity(lambda: nn.Sequential(nn.Flatten(), nn.Linear(18, 5), nn.ReLU()), (2, 1, 3, 3))
    assert (cost.parameters, cost.multiply_adds) == (sum(p.numel() for p in layer.parameters()), 18 * 5)


def test_lines_for_the_list_of_evaluators() -> None:
    lines = describe_cost(Registry(), "convnet3d", [CLIP, (1, 3, 112, 112)])
    assert lines[0] == "16x3x112x112: 3,647,666 parameters, 5.5 G multiply-adds"
    assert lines[1] == "1x3x112x112: convnet3d needs 2 frames of 16x16 or more, the clips are 1x112x112"
