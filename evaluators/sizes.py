"""From which clip size the networks of this folder keep their published form; below it they have a small one."""

from __future__ import annotations

SMALLEST_EXACT = (8, 43)
"""Frames and pixels from which the released ConvNet3D has something left after its third pooling; the other families switch there too."""


def is_small(clip_shape: tuple[int, int, int, int]) -> bool:
    """Whether clips (T, C, H, W) have fewer frames or pixels than that."""
    t, _, h, w = clip_shape
    return t < SMALLEST_EXACT[0] or min(h, w) < SMALLEST_EXACT[1]
