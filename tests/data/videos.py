"""Small real videos whose every frame says which one it is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

BITS = 7
BLACK, WHITE = 40, 210


def stamp(number: int, width: int = 160, height: int = 120) -> np.ndarray:
    """A gray frame (height, width, 3) with its number in binary: bars across the middle, so that a centre crop keeps them.

    A bright square in the top left corner of the middle tells which way is up.
    """
    frame = np.full((height, width, 3), BLACK, np.uint8)
    left, right = width * 0.22, width * 0.78
    edges = np.linspace(left, right, BITS + 1).round().astype(int)
    for bit in range(BITS):
        if number >> bit & 1:
            frame[height * 45 // 100 : height * 75 // 100, edges[bit] : edges[bit + 1]] = WHITE
    frame[height * 15 // 100 : height * 35 // 100, edges[0] : edges[2]] = WHITE
    return frame


def read_stamp(picture: np.ndarray, cropped: bool = True) -> int:
    """The number of a picture (C, H, W) made from a stamped frame; ``cropped``: it went through the 160 x 120 to 112 x 112 crop."""
    _, height, width = picture.shape
    scale, shift = (160 / 112, 24 / 160) if cropped else (1.0, 0.0)
    edges = (np.linspace(0.22, 0.78, BITS + 1) - shift) * scale * width
    row = picture[:, height * 52 // 100 : height * 68 // 100].mean(axis=(0, 1))
    middles = ((edges[1:] + edges[:-1]) / 2).round().astype(int)
    return sum(1 << bit for bit, x in enumerate(middles) if row[x] > (BLACK + WHITE) / 2)


def upright(picture: np.ndarray) -> bool:
    """Whether the corner mark is where it belongs."""
    _, height, width = picture.shape
    top = picture[:, height * 18 // 100 : height * 32 // 100]
    return bool(top[:, :, width // 8 : width // 4].mean() > 150 and picture[:, int(height * 0.85) :].mean() < 100)


def write_video(
    path: Path,
    frames: int = 20,
    codec: str = "mpeg4",
    size: tuple[int, int] = (160, 120),
    rate: int = 25,
    pix_fmt: str | None = None,
    times: list[int] | None = None,
    first: int = 0,
    sound: bool = False,
) -> Path:
    """A video of stamped frames. ``times``: presentation times in milliseconds instead of a constant rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = pix_fmt or {"mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        stream.bit_rate = 2_000_000
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "bf": "2"}
        elif codec == "libvpx-vp9":
            stream.options = {"deadline": "realtime", "cpu-used": "8"}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(stamp(first + number, width, height), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A file with sound alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        for block in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, block * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_frames(folder: Path, frames: int = 20, size: tuple[int, int] = (160, 120), name: str = "frame{:d}.jpg") -> Path:
    """A folder of extracted frames, numbered from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        Image.fromarray(stamp(number, *size)).save(folder / name.format(number + 1), quality=95)
    return folder
