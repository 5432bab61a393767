"""I3D: Inception-v1 inflated to three dimensions (Carreira and Zisserman, CVPR 2017, figure 3; one RGB stream, from scratch).

Stem (7x7x7 stride 2, 1x1x1, 3x3x3), nine Inception modules in three groups with max poolings between them, average pooling, dropout 0.5,
a 1x1x1 convolution to the classes, and the mean over time. Every other convolution is without bias, followed by batch normalisation and
ReLU. Odd kernels are padded by half of their size, the even pooling keeps an odd border (ceil mode): the sizes are those of the paper.

Time is halved three times and space five times. Clips below 8x43x43 get a stem convolution with kernel (3, 5, 5) that leaves time alone,
an eighth of the channels and the first group alone by default; no pooling shrinks a dimension that has one place left.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluators.sizes import is_small, too_small
from harness import evaluator

GROUPS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
"""Modules 3b-3c, 4b-4f, 5b-5c: channels of 1x1x1; 1x1x1 -> 3x3x3; 1x1x1 -> 3x3x3; pooling -> 1x1x1 (Szegedy et al. 2015, table 1)."""
STEM = (64, 64, 192)


@evaluator("i3d")
class I3DEvaluator:
    """I3D: Inception-v1 inflated to three dimensions (Carreira and Zisserman 2017), from scratch."""

    width: float = 0
    """Factor on all channels; 0: 1 as published, 0.125 for clips below 8x43x43."""
    depth: int = 0
    """Groups of Inception modules that are kept, 1 to 3; 0: 3 as published, 1 for clips below 8x43x43."""
    dropout: float = 0.5
    """Dropout before the classifier."""

    def __post_init__(self) -> None:
        if self.width < 0 or not 0 <= self.depth <= len(GROUPS):
            raise ValueError(f"width must be 0 or more and depth 0 to {len(GROUPS)}, got width={self.width}, depth={self.depth}")

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small("i3d", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        small = is_small(clip_shape)
        width = self.width or (0.125 if small else 1.0)
        return I3D(clip_shape, classes, width, self.depth or (1 if small else len(GROUPS)), self.dropout)


class I3D(nn.Module):
    """Normalised clips (B, T, C, H, W) -> logits (B, classes)."""

    def __init__(
        self, clip_shape: tuple[int, int, int, int], classes: int, width: float = 1.0, depth: int = 3, dropout: float = 0.5
    ) -> None:
        super().__init__()
        t, c, h, w = clip_shape

        def wide(channels: int) -> int:
            return max(1, round(channels * width))

        small = is_small(clip_shape)
        kernel, stride = ((3, 5, 5), (1, 2, 2)) if small else ((7, 7, 7), (2, 2, 2))
        one, two, three = (wide(n) for n in STEM)
        self.size = [(n - 1) // s + 1 for n, s in zip((t, h, w), stride, strict=True)]
        layers: list[nn.Module] = [Unit(c, one, kernel, stride), self._pool((1, 3, 3), (1, 2, 2))]
        layers += [Unit(one, two, (1, 1, 1)), Unit(two, three, (3, 3, 3)), self._pool((1, 3, 3), (1, 2, 2))]
        c = three
        for i, group in enumerate(GROUPS[:depth]):
            if i > 0:
                layers.append(self._pool((3, 3, 3), (2, 2, 2)) if i == 1 else self._pool((2, 2, 2), (2, 2, 2)))
            for module in group:
                layers.append(Inception(c, tuple(wide(n) for n in module)))
                c = layers[-1].channels  # type: ignore[assignment]
        self.stages = nn.Sequential(*layers)
        time = min(2, self.size[0])
        self.head_pool = nn.AvgPool3d((time, self.size[1], self.size[2]), stride=1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv3d(c, classes, 1)

    def embed(self, clips: Tensor) -> Tensor:
        """Features averaged over time and space, (B, D): 1,024 in the published network."""
        return self.stages(clips.transpose(1, 2)).mean(dim=(2, 3, 4))

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.head_pool(self.stages(clips.transpose(1, 2))))).mean(dim=(2, 3, 4))

    def _pool(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> nn.Module:
        """A max pooling that leaves a dimension of one place as it is; keeps ``size`` up to date."""
        kept = [n == 1 for n in self.size]
        kernel, stride = (tuple(1 if k else v for v, k in zip(values, kept, strict=True)) for values in (kernel, stride))  # type: ignore[assignment]
        padding = tuple(k // 2 if k % 2 else 0 for k in kernel)
        self.size = [(n - 1) // s + 1 for n, s in zip(self.size, stride, strict=True)]
        return nn.MaxPool3d(kernel, stride, padding, ceil_mode=kernel[0] == 2)  # type: ignore[arg-type]


class Unit(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> None:
        padding = tuple(k // 2 for k in kernel)
        super().__init__(
            nn.Conv3d(c_in, c_out, kernel, stride, padding, bias=False),  # type: ignore[arg-type]
            nn.BatchNorm3d(c_out, eps=1e-3),
            nn.ReLU(inplace=True),
        )


class Inception(nn.Module):
    """Four parallel branches, concatenated."""

    def __init__(self, c_in: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        one, reduce_a, a, reduce_b, b, pooled = channels
        self.channels = one + a + b + pooled
        self.one = Unit(c_in, one, (1, 1, 1))
        self.a = nn.Sequential(Unit(c_in, reduce_a, (1, 1, 1)), Unit(reduce_a, a, (3, 3, 3)))
        self.b = nn.Sequential(Unit(c_in, reduce_b, (1, 1, 1)), Unit(reduce_b, b, (3, 3, 3)))
        self.pooled = nn.Sequential(nn.MaxPool3d(3, 1, 1), Unit(c_in, pooled, (1, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.a(x), self.b(x), self.pooled(x)], 1)
