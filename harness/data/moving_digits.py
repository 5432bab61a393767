"""moving-digits: real handwritten digits that move by one of twelve laws; the law is the class. Nothing to download.

Everything a single frame shows (position, angle, size, digit, contrast, background, and the phase of the motion) is drawn independently
of the law, and every law keeps that distribution at every frame: positions live on a torus, angles on a circle, and the size on a circle
too (a digit that has grown to the largest size starts again at the smallest). So one frame says nothing about the class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from harness.data.base import Clip, Item
from harness.data.info import ClipShape
from harness.errors import DataError
from harness.plugin import dataset

VERSION = 1
LAWS = ("left", "right", "up", "down", "rotate-cw", "rotate-ccw", "orbit-cw", "orbit-ccw", "grow", "shrink", "sway-x", "sway-y")
TEST_DIGITS = 400
"""Digit images kept for the test split; the other 1,397 make the training split."""
GLYPH = 24
"""Side of a digit after smooth upsampling from 8 x 8."""
SMALLEST, LARGEST = 0.34, 0.72
"""Side of the digit's square, as a fraction of the canvas."""
PRESETS = ("plain", "hard")


@dataset("moving-digits")
class MovingDigits:
    """Handwritten digits moving by one of 12 laws; generated, the class is the law."""

    default_shape = (8, 1, 32, 32)

    preset: str = "plain"
    """plain: one digit on a dark ground; hard: low contrast, a moving background and two still digits besides."""
    train_per_class: int = 300
    """Training clips of each class."""
    test_per_class: int = 40
    """Test clips of each class."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} does not exist; valid: {', '.join(PRESETS)}")
        if self.train_per_class < 1 or self.test_per_class < 1:
            raise ValueError("train_per_class and test_per_class must be at least 1")

    def classes(self) -> tuple[str, ...]:
        return LAWS

    def items(self, split: str) -> Sequence[Item]:
        per_class = {"train": self.train_per_class, "test": self.test_per_class}[split]
        return [Item(f"{split}-{n:05d}", n % len(LAWS)) for n in range(per_class * len(LAWS))]

    def read(self, item: Item, clip_shape: ClipShape) -> Clip:
        """Draw one clip. T >= 2, C 1 or 3 (gray repeated), H = W; speeds are per clip, so every T shows the same motion."""
        frames, channels, height, width = clip_shape
        if frames < 2 or channels not in (1, 3) or height != width:
            raise DataError(f"moving-digits: clips must have T >= 2, C 1 or 3 and H = W, got {clip_shape}")
        split, number = item.id.split("-")
        rng = np.random.default_rng((VERSION, split == "test", int(number)))
        canvas = draw_clip(rng, LAWS[item.label], split, frames, height, hard=self.preset == "hard")
        pixels = (canvas.clamp(0, 1) * 255).round().to(torch.uint8)
        return Clip(np.repeat(pixels.numpy()[:, None], channels, axis=1), native_frames=frames)

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(["moving-digits", VERSION, asdict(self)], sort_keys=True).encode()).hexdigest()


def draw_clip(rng: np.random.Generator, law: str, split: str, frames: int, size: int, hard: bool) -> Tensor:
    """One clip (T, size, size) float in about [0, 1]. Draws the same random numbers, in the same order, for every law."""
    time = np.linspace(0.0, 1.0, frames)
    ground = rng.uniform(0.0, 0.1)
    ink = rng.uniform(0.75, 1.0)
    digit = glyphs(split)[rng.integers(len(glyphs(split)))]
    path = trace(rng, law, time)
    if not hard:
        return ground + (ink - ground) * render(digit, path, size)
    canvas = ground + 0.35 * drifting_clouds(rng, time, size)
    for _ in range(2):
        bystander = glyphs(split)[rng.integers(len(glyphs(split)))]
        cover = render(bystander, trace(rng, "still", time), size)
        canvas = canvas + (rng.uniform(0.35, 0.6) - canvas) * cover
    return canvas + (rng.uniform(0.65, 1.0) - canvas) * render(digit, path, size)


def trace(rng: np.random.Generator, law: str, time: np.ndarray) -> np.ndarray:
    """The motion of a digit: (T, 4) of x, y (fractions of the canvas, modulo 1), angle (radians), side (fraction of the canvas).

    x points right, y down, so that a growing angle turns clockwise on the screen.
    """
    x0, y0, angle0, size0, phase = rng.uniform(size=5)
    shift = rng.uniform(0.4, 0.7)  # of the canvas, over the clip
    turn = 2 * np.pi * rng.uniform(0.45, 0.8)
    growth = rng.uniform(0.55, 0.85)  # of the range of sizes
    radius, cycles = rng.uniform(0.14, 0.2), rng.uniform(0.9, 1.2)
    x, y, angle, grown = (np.full_like(time, v) for v in (x0, y0, 2 * np.pi * angle0, size0))
    around = 2 * np.pi * (phase + cycles * time)
    match law:
        case "left":
            x -= shift * time
        case "right":
            x += shift * time
        case "up":
            y -= shift * time
        case "down":
            y += shift * time
        case "rotate-cw":
            angle += turn * time
        case "rotate-ccw":
            angle -= turn * time
        case "orbit-cw":
            x, y = x + radius * np.cos(around), y + radius * np.sin(around)
        case "orbit-ccw":
            x, y = x + radius * np.cos(around), y - radius * np.sin(around)
        case "grow":
            grown += growth * time
        case "shrink":
            grown -= growth * time
        case "sway-x":
            x += radius * np.cos(around)
        case "sway-y":
            y += radius * np.cos(around)
    side = SMALLEST * (LARGEST / SMALLEST) ** (grown % 1.0)
    return np.stack([x, y, angle, side], axis=1)


def render(glyph: Tensor, path: np.ndarray, size: int) -> Tensor:
    """The glyph (GLYPH, GLYPH) along a path (T, 4) on a torus: coverage (T, size, size) in [0, 1]."""
    x, y, angle, side = torch.from_numpy(path).float().unbind(1)
    pixel = (torch.arange(size) + 0.5) / size
    dx = (pixel[None, None, :] - x[:, None, None] + 0.5).remainder(1.0) - 0.5
    dy = (pixel[None, :, None] - y[:, None, None] + 0.5).remainder(1.0) - 0.5
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    half = side[:, None, None] / 2
    grid = torch.stack([(cos * dx + sin * dy) / half, (cos * dy - sin * dx) / half], dim=-1)
    return functional.grid_sample(glyph.expand(len(path), 1, -1, -1), grid, padding_mode="zeros", align_corners=False)[:, 0]


def drifting_clouds(rng: np.random.Generator, time: np.ndarray, size: int) -> Tensor:
    """A smooth random texture that drifts over the torus: (T, size, size) in [0, 1]."""
    coarse = torch.from_numpy(rng.uniform(size=(1, 1, 6, 6))).float()
    wrapped = functional.pad(coarse, (2, 2, 2, 2), mode="circular")
    texture = functional.interpolate(wrapped, scale_factor=size / 6, mode="bicubic", align_corners=False)[0, 0]
    margin = round(2 * size / 6)
    texture = texture[margin : margin + size, margin : margin + size]
    vx, vy = rng.uniform(-0.5, 0.5, size=2) * size
    frames = [torch.roll(texture, (round(float(vy * t)), round(float(vx * t))), dims=(0, 1)) for t in time]
    return torch.stack(frames).clamp(0, 1)


@lru_cache(maxsize=2)
def glyphs(split: str) -> Tensor:
    """Digit images of one split, (N, GLYPH, GLYPH) in [0, 1]. The splits share no image."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images).float() / 16
    order = np.random.default_rng(VERSION).permutation(len(images))
    chosen = order[:TEST_DIGITS] if split == "test" else order[TEST_DIGITS:]
    padded = functional.pad(images[chosen], (1, 1, 1, 1))[:, None]
    return functional.interpolate(padded, size=(GLYPH, GLYPH), mode="bicubic", align_corners=False)[:, 0].clamp(0, 1)
