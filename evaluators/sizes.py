"""From which clip size the networks of this folder keep their published form, and below which they take no clip at all."""

from __future__ import annotations

SMALLEST_EXACT = (8, 43)
"""Frames and pixels from which the released ConvNet3D has something left after its third pooling; the other families switch there too."""


def is_small(clip_shape: tuple[int, int, int, int]) -> bool:
    """Whether clips (T, C, H, W) have fewer frames or pixels than that."""
    t, _, h, w = clip_shape
    return t < SMALLEST_EXACT[0] or min(h, w) < SMALLEST_EXACT[1]


def too_small(name: str, clip_shape: tuple[int, int, int, int], frames: int = 2, pixels: int = 16) -> str | None:
    """Why the network ``name`` does not take clips (T, C, H, W), where it needs so many frames and pixels a side; or None."""
    t, _, h, w = clip_shape
    if t >= frames and min(h, w) >= pixels:
        return None
    if frames == 1:
        return f"{name} needs frames of {pixels}x{pixels} or more, the clips are {h}x{w}"
    return f"{name} needs {frames} frames of {pixels}x{pixels} or more, the clips are {t}x{h}x{w}"
