"""Which native frames a clip takes: the rules of the published pipelines, as functions of the number of frames that decode.

Every rule returns ``frames`` indices in [0, length), ascending. A video shorter than the clip shows frames several times.
"""

from __future__ import annotations

import hashlib

import numpy as np


def strided(length: int, frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """UCF101, MiniUCF and HMDB51, as VDSD samples them: every ``stride``-th frame from a random start.

    Videos shorter than frames * stride get the stride floor(length / frames). The start is uniform over the 0-based
    0 .. length - (frames - 1) * stride - 2, so that the last frame is never used.

    >>> strided(100, 4, 2, np.random.default_rng(0)).tolist()
    [79, 81, 83, 85]
    >>> strided(3, 6, 4, np.random.default_rng(0)).tolist()
    [0, 0, 1, 1, 2, 2]
    """
    if length < frames:
        return np.arange(frames) * length // frames
    stride = min(stride, length // frames)
    starts = max(1, length - (frames - 1) * stride - 1)
    return int(rng.integers(starts)) + stride * np.arange(frames)


def centred(length: int, seconds: float, frames: int) -> np.ndarray:
    """Kinetics-400, as VDSD samples it: frames at a fixed rate from a window in the middle of the video.

    For 8 frames the rate is 2 per second, 4 for videos under 4 s, 8 under 2 s and 12 under 1 s; it grows with ``frames``.

    >>> centred(300, 10.0, 8).tolist()
    [97, 112, 127, 142, 157, 172, 187, 202]
    """
    rate = 12 if seconds < 1 else 8 if seconds < 2 else 4 if seconds < 4 else 2
    window = min(seconds, 8 / rate)
    times = (seconds - window) / 2 + (np.arange(frames) + 0.5) * window / frames
    return np.clip((times * length / max(seconds, 1e-9)).astype(int), 0, length - 1)


def spread(length: int, frames: int) -> np.ndarray:
    """Something-Something v2, as VDSD samples it: the whole video, stride (length - 1) // (frames - 1), start at half of the remainder.

    >>> spread(40, 8).tolist()
    [2, 7, 12, 17, 22, 27, 32, 37]
    """
    if frames == 1:
        return np.array([(length - 1) // 2])
    if length < frames:
        return np.arange(frames) * length // frames
    stride, remainder = divmod(length - 1, frames - 1)
    return remainder // 2 + stride * np.arange(frames)


def item_generator(seed: int, name: str, part: int) -> np.random.Generator:
    """Random numbers that belong to one clip of one video, whatever else is read before it."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}/{part}/{name}".encode()).digest()[:8], "big"))
