"""The R18 networks of Video-DC's cross-architecture table: SlowOnly, I3D and R(2+1)D on a residual body of 18 layers (arXiv 2412.21197).

As its released configurations (mmaction2) have them: a stem of 64 channels with spatial stride 2 and a 3x3 max pooling; four stages of two
basic blocks with 64, 128, 256 and 512 channels, the spatial stride 2 from the second on; an average over time and space, dropout 0.5 and a
linear classifier that starts from a normal distribution of 0.01. Convolutions have no bias and are followed by batch normalisation.

    slowonly_r18   stem 1x7x7; 3x3x3 convolutions in the last two stages, 1x3x3 before; time is never strided
    i3d_r18        stem 5x7x7; time is halved by the stem, its pooling, and a pooling after stage 1; 3x3x3 in both blocks of stage 1 and the
                   first of every other
    r2plus1d_r18   every 3x3x3 convolution is one in space and one in time with batch norm and ReLU between (Tran et al., CVPR 2018), whose
                   channels keep the number of parameters; the stem is 3x7x7; time is halved with space by stages 2 to 4

Released, they start from Kinetics-400 weights; here they start from scratch. Clips below 8x43x43 get a quarter of the channels, the first
two stages, and no pooling of time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from evaluators.sizes import is_small, too_small
from harness import evaluator

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Body:
    """What tells the three networks apart, all of it about time. stem: its kernel. stem_strides: of the stem, its pooling, and a pooling
    after stage 1. stage_strides: of the four stages. inflated: whether the two blocks of each stage have kernels that see time. factored:
    whether convolutions are split into space and time."""

    stem: int
    stem_strides: Triple
    stage_strides: tuple[int, int, int, int]
    inflated: tuple[tuple[bool, bool], ...]
    factored: bool = False


SLOWONLY = Body(1, (1, 1, 1), (1, 1, 1, 1), ((False, False), (False, False), (True, True), (True, True)))
I3D = Body(5, (2, 2, 2), (1, 1, 1, 1), ((True, True), (True, False), (True, False), (True, False)))
R2PLUS1D = Body(3, (1, 1, 1), (1, 2, 2, 2), ((True, True),) * 4, factored=True)


@dataclass(frozen=True)
class ResNet18Plugin:
    """An R18 body; each is a plugin of its own."""

    body: ClassVar[Body]
    name: ClassVar[str]

    width: int = 0
    """Channels of the stem; 0: 64 as released, 16 for clips below 8x43x43."""
    depth: int = 0
    """Residual stages kept, 1 to 4; 0: all 4, and 2 for clips below 8x43x43."""

    def __post_init__(self) -> None:
        if self.width < 0 or not 0 <= self.depth <= 4:
            raise ValueError(f"width must be 0 or more and depth 0 to 4, got width={self.width}, depth={self.depth}")

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small(self.name, clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        small = is_small(clip_shape)
        return ResNet18(self.body, clip_shape, classes, self.width or (16 if small else 64), self.depth or (2 if small else 4))


@evaluator("slowonly_r18")
class SlowOnlyR18(ResNet18Plugin):
    """SlowOnly-R18: a residual network that sees time in its last two stages alone (Video-DC)."""

    body, name = SLOWONLY, "slowonly_r18"


@evaluator("i3d_r18")
class I3DR18(ResNet18Plugin):
    """I3D-R18: a residual network of 18 layers inflated to three dimensions (Video-DC)."""

    body, name = I3D, "i3d_r18"


@evaluator("r2plus1d_r18")
class R2Plus1DR18(ResNet18Plugin):
    """R(2+1)D-18: every convolution factored into space and time (Tran et al. 2018, Video-DC)."""

    body, name = R2PLUS1D, "r2plus1d_r18"


class ResNet18(nn.Module):
    """Normalised clips (B, T, C, H, W) -> logits (B, classes)."""

    def __init__(self, body: Body, clip_shape: tuple[int, int, int, int], classes: int, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        keep_time = is_small(clip_shape)
        stem, pool, after = (1, 1, 1) if keep_time else body.stem_strides
        layers: list[nn.Module] = [
            convolution(clip_shape[1], width, (body.stem, 7, 7), (stem, 2, 2), body.factored),
            norm(width, body.factored),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), (pool, 2, 2), (0, 1, 1)),
        ]
        c = width
        for stage in range(depth):
            stride = (1 if keep_time else body.stage_strides[stage], 1 if stage == 0 else 2)
            out = width << stage
            layers.append(Block(c, out, stride, body.inflated[stage][0], body.factored))
            layers.append(Block(out, out, (1, 1), body.inflated[stage][1], body.factored))
            if stage == 0 and after == 2:
                layers.append(nn.MaxPool3d((2, 1, 1), (2, 1, 1)))
            c = out
        self.stages = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(c, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def embed(self, clips: Tensor) -> Tensor:
        """Features averaged over time and space, (B, D): 512 in the released networks."""
        return self.stages(clips.transpose(1, 2)).mean(dim=(2, 3, 4))

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(clips)))


class Block(nn.Module):
    """Two 3x3 convolutions, in time too where ``inflated``, and a shortcut. strides: of time and space, both in the first convolution."""

    def __init__(self, c_in: int, c_out: int, strides: tuple[int, int], inflated: bool, factored: bool) -> None:
        super().__init__()
        kernel = (3 if inflated else 1, 3, 3)
        stride = (strides[0], strides[1], strides[1])
        self.body = nn.Sequential(
            convolution(c_in, c_out, kernel, stride, factored),
            norm(c_out, factored),
            nn.ReLU(inplace=True),
            convolution(c_out, c_out, kernel, (1, 1, 1), factored),
            norm(c_out, factored),
        )
        self.shortcut: nn.Module = nn.Identity()
        if c_in != c_out or stride != (1, 1, 1):
            self.shortcut = nn.Sequential(convolution(c_in, c_out, (1, 1, 1), stride, factored), norm(c_out, factored))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.shortcut(x)).relu_()


def norm(channels: int, factored: bool) -> nn.Module:
    """Batch normalisation; that of R(2+1)D has a larger epsilon, but for the one between space and time."""
    return nn.BatchNorm3d(channels, eps=1e-3 if factored else 1e-5)


def convolution(c_in: int, c_out: int, kernel: Triple, stride: Triple, factored: bool) -> nn.Module:
    """A convolution without bias, padded by half of its kernel; ``factored``: one in space and one in time with the channels between them
    that keep the number of parameters (Tran et al., section 3.5)."""
    t, h, w = kernel
    padding = (t // 2, h // 2, w // 2)
    if not factored:
        return nn.Conv3d(c_in, c_out, kernel, stride, padding, bias=False)
    between = 3 * c_in * c_out * h * w // (c_in * h * w + 3 * c_out)
    return nn.Sequential(
        nn.Conv3d(c_in, between, (1, h, w), (1, *stride[1:]), (0, *padding[1:]), bias=False),
        nn.BatchNorm3d(between),
        nn.ReLU(inplace=True),
        nn.Conv3d(between, c_out, (t, 1, 1), (stride[0], 1, 1), (padding[0], 0, 0), bias=False),
    )
