"""Every built-in evaluator: published parameter counts, shapes at 16x112x112 and at small clips, gradients, reasons to skip."""

from __future__ import annotations

import pytest
import torch

from harness.errors import UsageError
from harness.registry import Registry

REGISTRY = Registry()
PUBLISHED = (16, 3, 112, 112)
SMALL = (8, 1, 32, 32)
NAMES = [info.name for info in REGISTRY.infos("evaluator") if info.error is None]


R18 = 11_176_512
"""ResNet-18 without its classifier (He et al., CVPR 2016; torchvision's resnet18)."""
HALF_2, HALF_3, HALF_4 = (9 * (c * 2 * c + 2 * c * 2 * c) for c in (64, 128, 256))
"""Weights of the 3x3 convolutions in the first block of stages 2 to 4: what inflating it to 3x3x3 adds twice."""
STAGE_3, STAGE_4 = (9 * (c * 2 * c + 3 * (2 * c) ** 2) for c in (128, 256))


def build(spec: str, shape: tuple[int, int, int, int], classes: int) -> torch.nn.Module:
    return REGISTRY.resolve("evaluator", spec).create().build(shape, classes)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("spec", "classes", "parameters"),
    [
        ("c3d", 101, 77_995_776 + 4097 * 101),
        ("i3d", 400, 12_697_264),
        ("cnn_gru", 50, 299_520 + 3 * 1024 * (8192 + 1024 + 2) + 1025 * 50),
        ("cnn_lstm", 50, 299_520 + 4 * 8192 * (2 * 8192 + 2) + 8193 * 50),
        ("cnn_mean", 50, 299_520 + 8193 * 50),
        ("minic3d", 101, 3_654_885),
        ("slowonly_r18", 101, R18 + 2 * (STAGE_3 + STAGE_4) + 513 * 101),
        ("i3d_r18", 101, R18 + 4 * 3 * 64 * 49 + 2 * (4 * 64 * 64 * 9 + HALF_2 + HALF_3 + HALF_4) + 513 * 101),
        ("r2plus1d_r18", 101, 33_279_558),
    ],
)
def test_exact_parameter_counts(spec: str, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(build(spec, PUBLISHED, classes)) == parameters


@pytest.mark.parametrize(
    ("spec", "shape", "millions"),
    [
        ("i3d_r50", (8, 3, 224, 224), 28.04),
        ("r2plus1d", (16, 3, 224, 224), 28.11),
        ("slowfast", (32, 3, 224, 224), 34.57),
        ("x3d", (13, 3, 160, 160), 3.79),
        ("mvit", (16, 3, 224, 224), 36.61),
    ],
)
def test_parameter_counts_of_the_model_zoo(spec: str, shape: tuple[int, int, int, int], millions: float) -> None:
    """Figures of pytorchvideo's model zoo for Kinetics-400."""
    with torch.device("meta"):
        assert count(build(spec, shape, 400)) / 1e6 == pytest.approx(millions, abs=0.006)


def test_r2plus1d_r18_by_hand() -> None:
    """Every convolution as two, with the channels between them of Tran et al., eq. in section 3.5; batch norms after each of the two."""

    def factored(c_in: int, c_out: int, side: int) -> int:
        between = 3 * c_in * c_out * side * side // (c_in * side * side + 3 * c_out)
        in_time = 1 if side == 1 else 3
        return between * (c_in * side * side + in_time * c_out) + 2 * between + 2 * c_out

    total = factored(3, 64, 7) + 4 * factored(64, 64, 3) + 513 * 101
    for c in (64, 128, 256):
        total += factored(c, 2 * c, 3) + 3 * factored(2 * c, 2 * c, 3) + factored(c, 2 * c, 1)
    with torch.device("meta"):
        assert count(build("r2plus1d_r18", PUBLISHED, 101)) == total == 33_279_558


@pytest.mark.parametrize(("spec", "frames"), [("slowonly_r18", 8), ("i3d_r18", 1), ("r2plus1d_r18", 1), ("minic3d", 2)])
def test_frames_that_are_left_before_the_average(spec: str, frames: int) -> None:
    """8 frames, as Video-DC has them: SlowOnly keeps all, the others halve them three times, MiniC3D twice."""
    with torch.device("meta"):
        assert build(spec, (8, 3, 112, 112), 5).stages(torch.empty(1, 3, 8, 112, 112)).shape[2] == frames  # type: ignore[operator]


def test_r18_networks_are_torchvisions_where_the_two_agree() -> None:
    """SlowOnly on one frame that is repeated, with its 3x3x3 kernels centred, is the 2-D ResNet-18."""
    from torchvision.models import resnet18

    flat = resnet18(num_classes=5).eval()
    deep = build("slowonly_r18", (8, 3, 64, 64), 5).eval()
    state = deep.state_dict()
    for (name, target), source in zip(state.items(), flat.state_dict().values(), strict=True):
        if target.dim() == 5:
            source = source.unsqueeze(2)
            source = torch.nn.functional.pad(source, (0, 0, 0, 0, target.shape[2] // 2, target.shape[2] // 2))
        state[name] = source
    deep.load_state_dict(state)
    frame = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(deep(frame[:, None].repeat(1, 8, 1, 1, 1)), flat(frame), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_at_the_published_clip(name: str) -> None:
    with torch.device("meta"):
        model = build(name, PUBLISHED, 5)
        clips = torch.empty(2, *PUBLISHED)
        logits, features = model(clips), model.embed(clips)
    assert logits.shape == (2, 5) and features.dim() == 2 and features.shape[0] == 2


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_gradients_at_the_embedded_clip(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, SMALL, 3)
    logits = model(torch.randn(2, *SMALL))
    assert logits.shape == (2, 3) and bool(torch.isfinite(logits).all())
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    clips = torch.randn(2, *SMALL)
    # In eval mode a clip's logits do not depend on its neighbours in the batch.
    torch.testing.assert_close(model(clips)[:1], model(clips[:1]), atol=1e-4, rtol=1e-3)
    assert count(model) < 12_000_000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(5, 3, 33, 33), (2, 1, 16, 16), (4, 2, 20, 28), (1, 3, 8, 8)])
def test_takes_a_small_clip_or_says_why_not(name: str, shape: tuple[int, int, int, int]) -> None:
    plugin = REGISTRY.resolve("evaluator", name).create()
    reason = plugin.skip(shape)
    if reason is not None:
        assert name in reason and f"{shape[2]}x{shape[3]}" in reason
        return
    with torch.device("meta"):
        assert plugin.build(shape, 4)(torch.empty(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize("name", ["c3d", "i3d", "convnet3d", "i3d_r50", "r2plus1d", "slowfast", "i3d_r18"])
def test_width_makes_it_smaller_and_depth_counts(name: str) -> None:
    with torch.device("meta"):
        width = 0.25 if name == "i3d" else 16
        sizes = [count(build(spec, PUBLISHED, 5)) for spec in (name, f"{name}[width={width}]", f"{name}[width={width},depth=2]")]
    assert sizes[0] > sizes[1] != sizes[2]


@pytest.mark.parametrize(
    "spec",
    [
        "c3d[depth=6]", "i3d[width=-1]", "i3d_r50[depth=5]", "r2plus1d[width=-8]", "slowfast[width=12]", "x3d[depth=-1]", "mvit[width=-1]",
        "cnn_gru[width=-1]", "tsn[backbone=resnet17]", "tsn[pooling=max]", "minic3d[width=-1]",
        "i3d_r18[depth=5]",
    ],
)  # fmt: skip
def test_bad_parameters_are_usage_errors(spec: str) -> None:
    with pytest.raises(UsageError, match=spec.partition("[")[0]):
        REGISTRY.resolve("evaluator", spec)


@pytest.mark.parametrize("spec", ["tsn[pooling=gru]", "tsn[backbone=vit_tiny_patch16_224]", "tsn[backbone=efficientnet_b0]"])
def test_tsn_takes_timm_models(spec: str) -> None:
    with torch.device("meta"):
        assert build(spec, (2, 3, 64, 64), 4)(torch.empty(2, 2, 3, 64, 64)).shape == (2, 4)


def test_mean_over_frames_cannot_see_their_order() -> None:
    clips = torch.randn(2, *SMALL)
    for name, blind in (("cnn_mean", True), ("cnn_gru", False)):
        model = build(name, SMALL, 3).eval()
        same = torch.allclose(model(clips), model(clips.flip(1)), atol=1e-6)
        assert same == blind
