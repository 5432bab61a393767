"""UTD-MHAD's depth recordings as published: DIR/Depth/a<action>_s<subject>_t<trial>_depth.mat (also directly in DIR), d_depth (H, W, T).

Depth in millimetres becomes brightness: 0 (nothing measured) is black, the nearest point of the recording white, the farthest dark gray.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from harness.data.base import Clip
from harness.data.info import ClipShape
from harness.data.listed import Listed, StridedVideos
from harness.data.video_files import FOLDER_FPS, Choose, crop, fitted_size
from harness.errors import DataError
from harness.plugin import dataset

ACTIONS = (
    "SwipeLeft", "SwipeRight", "Wave", "Clap", "Throw", "ArmCross", "BasketballShoot", "DrawX", "DrawCircleCW", "DrawCircleCCW",
    "DrawTriangle", "Bowling", "Boxing", "BaseballSwing", "TennisSwing", "ArmCurl", "TennisServe", "Push", "Knock", "Catch",
    "PickupThrow", "Jog", "Walk", "SitToStand", "StandToSit", "Lunge", "Squat",
)  # fmt: skip
FARTHEST = 64
"""Brightness of the farthest point."""
_NAME = re.compile(r"a(\d+)_s(\d+)_t(\d+)_depth\.mat")


@dataset("utd_mhad")
class UTDMHAD(StridedVideos):
    """UTD-MHAD, depth .mat files as published: 27 actions, 861 recordings, split by subject.

    Left and right are labels, so that a mirrored clip does not keep its own.
    """

    rule = "strided depth"
    choices = frozenset({"train_subjects"})

    train_subjects: str = "1357"
    """The people of the training split, one digit each (1 to 8); the others are the test split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        people = set(self.train_subjects)
        if not people or not people < set("12345678"):
            raise ValueError(f"train_subjects {self.train_subjects!r} must be some (not all) of the digits 1 to 8")

    def classes(self) -> tuple[str, ...]:
        return ACTIONS

    def listing(self, split: str) -> Iterator[Listed]:
        people = set(self.train_subjects)
        for action, subject, trial, path in self._files():
            if not 1 <= action <= len(ACTIONS):
                raise DataError(f"utd_mhad: {path.name} has an action outside 1 to {len(ACTIONS)}")
            if (str(subject) in people) == (split == "train"):
                yield Listed(f"a{action}_s{subject}_t{trial}", action - 1, path)

    def _files(self) -> list[tuple[int, int, int, Path]]:
        folder = self.data_root / "Depth" if (self.data_root / "Depth").is_dir() else self.data_root
        found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        if not found:
            raise DataError(f"utd_mhad: no file a<action>_s<subject>_t<trial>_depth.mat in {folder}")
        return sorted((int(m[1]), int(m[2]), int(m[3]), path) for m, path in found)

    def read_source(self, path: Path, clip_shape: ClipShape, choose: Choose) -> list[Clip]:
        depth = _load_depth(path)
        measured = depth[depth > 0]
        near, far = (int(measured.min()), int(measured.max())) if measured.size else (0, 1)
        length = depth.shape[2]
        clips = []
        for indices in choose(length, length / FOLDER_FPS):
            frames = [_picture(depth[:, :, i], near, far, clip_shape, self.fit) for i in indices]
            clips.append(Clip(np.stack(frames), length, tuple(int(i) for i in indices)))
        return clips


def _load_depth(path: Path) -> np.ndarray:
    from scipy.io import loadmat

    try:
        depth = loadmat(path, variable_names=["d_depth"])["d_depth"]
    except KeyError:
        raise DataError("the file has no variable d_depth") from None
    except Exception as error:  # scipy raises whatever its parsers meet in a damaged file
        raise DataError(f"cannot be read: {type(error).__name__}: {error}") from error
    if depth.ndim != 3 or depth.shape[2] == 0:
        raise DataError(f"d_depth must be (H, W, T), got {depth.shape}")
    return np.asarray(depth)


def _picture(depth: np.ndarray, near: int, far: int, clip_shape: ClipShape, fit: str) -> np.ndarray:
    """One frame (C, H, W) uint8."""
    _, channels, height, width = clip_shape
    gray = np.where(depth > 0, 255 - (depth.astype(np.float32) - near) * (255 - FARTHEST) / max(1, far - near), 0)
    rows, columns = fitted_size(height, width, fit)
    image = Image.fromarray(gray.round().astype(np.uint8))
    shrinks = image.width >= columns and image.height >= rows
    resized = image.resize((columns, rows), Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)
    return np.repeat(crop(np.asarray(resized), height, width), channels, axis=0)
