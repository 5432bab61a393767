"""Kinetics-400 with its official annotation files, as the CVDF mirror unpacks or sorted by class.

    DIR/annotations/train.csv, val.csv (or validate.csv)      also in DIR; columns label, youtube_id, time_start, time_end
    DIR/train/<youtube_id>_<start>_<end>.mp4, DIR/val/...     six digits each; also DIR/videos_train, DIR/videos_val, and with a folder
                                                              per class, spaces or underscores in its name
    DIR/replacement/...                                       tried where the video is not in its own folder
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.data.listed import Listed, ListedVideos, class_index, find_file, find_video
from harness.data.sampling import centred
from harness.errors import DataError
from harness.plugin import dataset

_LISTS = {"train": ("train.csv",), "test": ("val.csv", "validate.csv", "validation.csv")}
_FOLDERS = {"train": ("train", "videos_train", "rawframes_train"), "test": ("val", "validate", "videos_val", "rawframes_val")}
_REPLACEMENT = ("replacement/replacement_for_corrupted_k400", "replacement", "replacement_for_corrupted_k400")
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


@dataset("kinetics400")
class Kinetics400(ListedVideos):
    """Kinetics-400: 400 classes; the validation split is the test split."""

    default_shape = (8, 3, 64, 64)
    fit = "squash"
    rule = "centred"

    flip: bool = True
    """Whether a mirrored clip keeps its label."""

    def classes(self) -> tuple[str, ...]:
        return self._classes

    def listing(self, split: str) -> Iterator[Listed]:
        bases = [base for base in (self.data_root / f for f in (*_FOLDERS[split], *_REPLACEMENT)) if base.is_dir()]
        path, rows = self._rows[split]
        for number, row in enumerate(rows, 2):
            try:
                name = f"{row['youtube_id']}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
            except ValueError:
                raise DataError(f"{path}, line {number}: time_start and time_end must be seconds") from None
            label = class_index(row["label"], self._classes, f"{path}, line {number}")
            files = [f"{name}{suffix}" for suffix in (".mp4", ".mkv", ".webm")]
            folders = dict.fromkeys((row["label"], row["label"].replace(" ", "_")))
            yield Listed(name, label, find_video(bases, *files, *(f"{folder}/{file}" for folder in folders for file in files)))

    def choose(self, length: int, seconds: float, frames: int, rng: np.random.Generator) -> np.ndarray:
        """The window in the middle; where several clips are taken of a video, at a random place instead."""
        clip = centred(length, seconds, frames)
        return clip - clip[0] + int(rng.integers(length - clip[-1] + clip[0])) if self.several else clip

    def recipe(self) -> str:
        return f"{super().recipe()} {'random' if self.several else 'fixed'} window"

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return tuple(sorted({row["label"] for row in self._rows["train"][1]}))

    @cached_property
    def _rows(self) -> dict[str, tuple[Path, list[dict[str, str]]]]:
        return {split: self._read_list(split) for split in _LISTS}

    def _read_list(self, split: str) -> tuple[Path, list[dict[str, str]]]:
        names = _LISTS[split]
        path = find_file(self.data_root, f"{split} list", *(f"annotations/{n}" for n in names), *names)
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path} lacks the column {', '.join(missing)}; valid: {', '.join(_COLUMNS)}")
            return path, [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
