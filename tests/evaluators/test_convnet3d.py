from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluators.convnet3d import ConvNet3D, ConvNet3DEvaluator

EXACT = (16, 3, 112, 112)


@pytest.mark.parametrize(
    ("classes", "parameters"), [(50, 3_647_666), (51, 3_647_795), (101, 3_654_245), (174, 3_663_662), (400, 3_692_816)]
)
def test_parameter_counts_of_the_released_network(classes: int, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ConvNet3D(EXACT, classes).parameters()) == parameters


def test_layer_by_layer_as_released() -> None:
    model = ConvNet3D(EXACT, 50).eval()
    shapes: list[tuple[int, ...]] = []
    for module in [*model.stages, model.head_pool]:
        module.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:])))
    with torch.inference_mode():
        logits = model(torch.randn(1, *EXACT))
    convolutions = [(64, 16, 56, 56), (128, 16, 14, 14), (128, 8, 4, 4)]
    pools = [(64, 16, 28, 28), (128, 8, 7, 7), (128, 4, 2, 2)]
    assert shapes == [s for c, p in zip(convolutions, pools, strict=True) for s in (c, p, p)] + [(128, 3, 1, 1)]
    assert logits.shape == (1, 50)
    assert model.embed(torch.randn(2, *EXACT)).shape == (2, 2048)


def test_maximum_before_relu_is_the_released_order_to_the_bit() -> None:
    """The released network takes the ReLU first: the same features and the same gradients."""
    model = ConvNet3D(EXACT, 50, width=4)
    clips = torch.randn(2, *EXACT)
    convolutions = [module for module in model.stages if isinstance(module, nn.Conv3d)]
    pools = [module for module in model.stages if isinstance(module, nn.MaxPool3d)]
    ours = model.embed(clips)
    released = clips.transpose(1, 2)
    for convolution, pool in zip(convolutions, pools, strict=True):
        released = pool(nn.functional.relu(convolution(released)))
    assert torch.equal(ours, released.flatten(1))
    weights = [module.weight for module in convolutions]
    for mine, theirs in zip(
        torch.autograd.grad(ours.square().sum(), weights), torch.autograd.grad(released.square().sum(), weights), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_head_is_the_maximum_over_time_of_the_averaged_features() -> None:
    model = ConvNet3D(EXACT, 5).eval()
    clips = torch.randn(1, *EXACT)
    features = model.embed(clips).view(1, 128, 4, 2, 2)
    averaged = nn.functional.avg_pool3d(features, 2, 1)
    expected = model.head(averaged).squeeze(-1).squeeze(-1).max(2).values
    torch.testing.assert_close(model(clips), expected)


def test_published_8x64x64_variant() -> None:
    model = ConvNet3D((8, 3, 64, 64), 400)
    assert model(torch.randn(1, 8, 3, 64, 64)).shape == (1, 400)
    assert model.embed(torch.randn(1, 8, 3, 64, 64)).shape == (1, 256)


@pytest.mark.parametrize("shape", [(8, 1, 32, 32), (2, 1, 16, 16), (4, 3, 64, 64), (8, 3, 42, 100), (8, 3, 43, 43), (16, 3, 65, 65)])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_adapts_to_small_clips(shape: tuple[int, int, int, int], depth: int) -> None:
    plugin = ConvNet3DEvaluator(width=4, depth=depth)
    assert plugin.skip(shape) is None
    model = plugin.build(shape, 3)
    clips = torch.randn(2, *shape)
    logits = model(clips)
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.embed(clips).dim() == 2


def test_too_small_clips_are_skipped_with_the_reason() -> None:
    plugin = ConvNet3DEvaluator()
    assert plugin.skip((1, 3, 112, 112)) == "convnet3d needs 2 frames of 16x16 or more, the clips are 1x112x112"
    assert plugin.skip((8, 3, 8, 8)) is not None
    with pytest.raises(ValueError, match="depth 1 to 4"):
        ConvNet3DEvaluator(depth=5)
