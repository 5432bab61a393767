"""Differentiable Siamese augmentation (DSA) for clips: the same random change of the real and of the distilled ones.

Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, with the released strengths. Each time one of
the strategies is drawn; all frames of a clip are changed alike, and where real and distilled clips are compared, all clips of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Numbers = tuple[float, float, float]
"""Uniform in [0, 1); what they decide is the strategy's."""

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
SHIFT = 0.125
"""Largest shift of a crop, in sides of the frame."""
CUT = 0.5
"""Side of what is cut out, in sides of the frame."""
ZOOM = 1.2
ANGLE = 15.0
"""Largest rotation, in degrees."""


def color(clips: Tensor, u: Numbers) -> Tensor:
    """Brightness, saturation and contrast, one after the other. Contrast is about the mean of the whole clip."""
    clips = clips + (u[0] - 0.5) * BRIGHTNESS
    gray = clips.mean(2, keepdim=True)
    clips = (clips - gray) * (u[1] * SATURATION) + gray
    mean = clips.mean((1, 2, 3, 4), keepdim=True)
    return (clips - mean) * (u[2] + CONTRAST) + mean


def crop(clips: Tensor, u: Numbers) -> Tensor:
    """Moved by up to an eighth of the frame; what comes in is 0, the mean in normalised pixels."""
    moved = []
    for size, number in zip(clips.shape[-2:], u[:2], strict=True):
        most = int(size * SHIFT + 0.5)
        moved.append((most, int(number * (2 * most + 1)), size))
    (top, y, height), (left, x, width) = moved
    return F.pad(clips, (left, left, top, top))[..., y : y + height, x : x + width]


def cutout(clips: Tensor, u: Numbers) -> Tensor:
    """A box of half of the sides, around any place, set to 0."""
    kept = torch.ones(clips.shape[-2:], device=clips.device, dtype=clips.dtype)
    (top, bottom), (left, right) = (_box(size, int(size * CUT + 0.5), number) for size, number in zip(clips.shape[-2:], u[:2], strict=True))
    kept[top:bottom, left:right] = 0
    return clips * kept


def flip(clips: Tensor, u: Numbers) -> Tensor:
    """Mirrored, half of the time."""
    return clips.flip(-1) if u[0] < 0.5 else clips


def scale(clips: Tensor, u: Numbers) -> Tensor:
    """Width and height larger or smaller by up to a fifth, each by itself."""
    x, y = (number * (ZOOM - 1 / ZOOM) + 1 / ZOOM for number in u[:2])
    return _resample(clips, [[x, 0.0, 0.0], [0.0, y, 0.0]])


def rotate(clips: Tensor, u: Numbers) -> Tensor:
    """Turned by up to 15 degrees."""
    angle = math.radians((u[0] - 0.5) * 2 * ANGLE)
    return _resample(clips, [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])


STRATEGIES: dict[str, Callable[[Tensor, Numbers], Tensor]] = {f.__name__: f for f in (color, crop, cutout, flip, scale, rotate)}


@dataclass(frozen=True)
class Augmentation:
    """What was drawn: a strategy and its numbers. Called with normalised clips (N, T, C, H, W), differentiable in them."""

    strategy: str
    numbers: Numbers

    def __call__(self, clips: Tensor) -> Tensor:
        return STRATEGIES[self.strategy](clips, self.numbers)


def draw(count: int, strategies: Sequence[str], generator: torch.Generator) -> list[Augmentation]:
    """``count`` augmentations by one strategy; drawn on the CPU, so that nothing waits for a device."""
    strategy = strategies[int(torch.randint(len(strategies), (), generator=generator))]
    return [Augmentation(strategy, (a, b, c)) for a, b, c in torch.rand(count, 3, generator=generator).tolist()]


def augment_each(clips: Tensor, strategies: Sequence[str], generator: torch.Generator) -> Tensor:
    """Every clip by numbers of its own, as a network that trains on them sees them."""
    drawn = draw(len(clips), strategies, generator)
    return torch.cat([augmentation(clip[None]) for augmentation, clip in zip(drawn, clips, strict=True)])


def _box(size: int, side: int, number: float) -> tuple[int, int]:
    start = int(number * (size + 1 - side % 2)) - side // 2
    return max(0, start), min(size, start + side)


def _resample(clips: Tensor, theta: list[list[float]]) -> Tensor:
    n, t, c, h, w = clips.shape
    matrix = torch.tensor(theta, dtype=clips.dtype).to(clips.device, non_blocking=True)
    grid = F.affine_grid(matrix.expand(n, 2, 3), [n, t * c, h, w], align_corners=False)
    return F.grid_sample(clips.reshape(n, t * c, h, w), grid, align_corners=False).view(clips.shape)
