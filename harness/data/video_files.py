"""Reading one video: a file that PyAV decodes, or a folder of extracted frames.

Every frame is decoded, because the frames that decode are the denominator of the frame fraction, but only those that a clip takes are
converted and resized, in one step. Resizing averages areas where it shrinks and interpolates bilinearly where it grows: at UCF101's
factor of 2 that is the 2 x 2 mean, which OpenCV's bilinear gives too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from harness.data.base import Clip
from harness.data.info import ClipShape
from harness.errors import DataError

Choose = Callable[[int, float], Sequence[np.ndarray]]
"""(number of frames, seconds) -> the frames of each clip."""

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_NOT_VIDEO = frozenset({"tty", "lrc", "srt", "webvtt", "ass", "microdvd", "subviewer"})  # text that libav would draw or read as subtitles
_SCALING = Interpolation.AREA | Interpolation.FULL_CHR_H_INT  # without the flag colours are up to two levels too dark
FOLDER_FPS = 30.0
"""Frame rate that is assumed of extracted frames, which carry none."""


def read_video(path: Path, clip_shape: ClipShape, choose: Choose, fit: str) -> list[Clip]:
    """The clips of one video. Raises DataError with the reason when it cannot be read.

    fit: "crop" resizes to 160 x 120 for 112 pixels (in proportion for other sizes), then crops the centre; "squash" resizes to the
    square. Neither keeps the aspect ratio, as published. Rotation metadata is applied. C is 3 (RGB) or 1 (luma).
    """
    try:
        if path.is_dir():
            return _read_folder(path, clip_shape, choose, fit)
        if path.stat().st_size == 0:
            raise DataError("the file is empty")
        return _read_file(path, clip_shape, choose, fit)
    except (OSError, ValueError, IndexError) as error:  # libav's errors are both OSError or ValueError
        raise DataError(f"cannot be read: {_first_line(error)}") from error


def fitted_size(height: int, width: int, fit: str) -> tuple[int, int]:
    """Height and width that a frame is resized to before the centre crop to (height, width)."""
    return (round(height * 120 / 112), round(width * 160 / 112)) if fit == "crop" else (height, width)


def natural_order(paths: Sequence[Path]) -> list[Path]:
    """frame2.jpg before frame10.jpg."""
    return sorted(paths, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])


def _read_file(path: Path, clip_shape: ClipShape, choose: Choose, fit: str) -> list[Clip]:
    length, seconds = _announced(path)
    for _ in range(3):  # the announced length is right nearly always; where it is not, the decoded one is
        chosen = choose(length, seconds) if length else []
        pictures, decoded = _decode(path, clip_shape, {int(i) for indices in chosen for i in indices}, fit)
        if decoded == 0:
            raise DataError("no frame decodes")
        if decoded == length:
            return _assemble(pictures, chosen, length)
        seconds = seconds * decoded / length if length else decoded / FOLDER_FPS
        length = decoded
    raise DataError("decodes to a different number of frames each time")


def _announced(path: Path) -> tuple[int, float]:
    """Number of frames and seconds, by the container or else by counting packets."""
    with av.open(str(path)) as container:
        stream = _video_stream(container)
        length = stream.frames
        seconds = _seconds(container, stream)
        if length == 0:
            try:
                length = sum(packet.size > 0 for packet in container.demux(stream))
            except (OSError, ValueError):
                length = 0
        rate = float(stream.average_rate) if stream.average_rate else FOLDER_FPS
    return length, seconds or length / rate


def _seconds(container: Any, stream: Any) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


def _video_stream(container: Any) -> Any:
    if container.format.name in _NOT_VIDEO:
        raise DataError("is text, not a video")
    streams = [s for s in container.streams.video if not _is_cover(s)]
    if not streams:
        raise DataError("has no video stream")
    stream = streams[0]
    stream.codec_context.thread_count = 1  # videos are read side by side; threads within one only get in each other's way
    return stream


def _is_cover(stream: Any) -> bool:
    """Whether a video stream is the one picture that comes with music."""
    return bool(int(stream.disposition) & 0x400)


def _decode(path: Path, clip_shape: ClipShape, wanted: set[int], fit: str) -> tuple[dict[int, np.ndarray], int]:
    """Pictures (C, H, W) uint8 of the wanted frames by index, and the number of frames that decode."""
    pictures: dict[int, np.ndarray] = {}
    count = 0
    scaler = VideoReformatter()
    with av.open(str(path)) as container:
        packets = container.demux(_video_stream(container))
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                return pictures, count
            except av.error.InvalidDataError:  # a damaged packet: what decodes after it still counts
                continue
            except (OSError, ValueError):  # the file ends in the middle
                return pictures, count
            for frame in frames:
                if count in wanted:
                    pictures[count] = _picture(frame, scaler, clip_shape, fit)
                count += 1


def _picture(frame: Any, scaler: Any, clip_shape: ClipShape, fit: str) -> np.ndarray:
    _, channels, height, width = clip_shape
    turns = round(frame.rotation / 90) % 4
    full = fitted_size(height, width, fit)
    rows, columns = full if turns % 2 == 0 else full[::-1]
    colours = "rgb24" if channels == 3 else "gray"
    pixels = scaler.reformat(frame, columns, rows, colours, interpolation=_SCALING, threads=1).to_ndarray()
    return crop(np.rot90(pixels, turns), height, width)


def crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Centre crop of (H, W[, C]) to (C, height, width)."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    crop = pixels[top : top + height, left : left + width]
    return np.ascontiguousarray(crop[None] if crop.ndim == 2 else crop.transpose(2, 0, 1))


def _read_folder(path: Path, clip_shape: ClipShape, choose: Choose, fit: str) -> list[Clip]:
    files = natural_order([p for p in path.iterdir() if p.suffix.lower() in PICTURES])
    if not files:
        raise DataError("the folder has no frames (.jpg, .png, .bmp, .webp)")
    chosen = choose(len(files), len(files) / FOLDER_FPS)
    pictures = {i: _open_picture(files[i], clip_shape, fit) for i in {int(i) for indices in chosen for i in indices}}
    return _assemble(pictures, chosen, len(files))


def _open_picture(path: Path, clip_shape: ClipShape, fit: str) -> np.ndarray:
    _, channels, height, width = clip_shape
    rows, columns = fitted_size(height, width, fit)
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB" if channels == 3 else "L")
        shrinks = picture.width >= columns and picture.height >= rows
        resized = picture.resize((columns, rows), Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)
        return crop(np.asarray(resized), height, width)
    except (OSError, ValueError) as error:
        raise DataError(f"frame {path.name} cannot be read: {_first_line(error)}") from error


def _assemble(pictures: dict[int, np.ndarray], chosen: Sequence[np.ndarray], length: int) -> list[Clip]:
    return [Clip(np.stack([pictures[int(i)] for i in indices]), length, tuple(int(i) for i in indices)) for indices in chosen]


def _first_line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
