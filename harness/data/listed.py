"""What the datasets of listed video files share: finding the files, problems known before decoding, reading, identity."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.data.base import Clip, Item
from harness.data.info import ClipShape
from harness.data.sampling import item_generator, strided
from harness.data.video_files import Choose, read_video
from harness.errors import DataError, PluginError, did_you_mean

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Listed:
    """One line of an annotation: a name, a class index, and the file or frame folder; None where there is none."""

    name: str
    label: int
    path: Path | None


@dataclass(frozen=True)
class ListedVideos:
    """Base of the datasets that are video files (or frame folders) named by lists.

    A subclass defines ``classes()``, ``listing(split)`` and ``choose``; ``fit`` where its frames are not resized as UCF101's are. It reads
    under ``data_root``. A parameter of its own that decides which clips there are, not how one of them looks, is named in ``choices``.
    """

    default_shape: ClassVar[ClipShape] = (16, 3, 112, 112)
    fit: ClassVar[str] = "crop"
    rule: ClassVar[str]
    """Name of what ``choose`` and the reading do, in the recipe."""
    version: ClassVar[int] = 1
    choices: ClassVar[frozenset[str]] = frozenset()

    root: Path | None = None
    train_clips: int = 1
    """Clips taken of each training video."""
    test_clips: int = 1
    """Clips taken of each test video."""
    seed: int = 0
    """Decides where in its video a clip starts."""
    flip: bool = False
    """Whether a mirrored clip keeps its label."""
    max_lost: float = 0.02
    """Share of a split's videos that may be missing or broken; more is an error."""

    def __post_init__(self) -> None:
        if self.train_clips < 1 or self.test_clips < 1:
            raise ValueError("train_clips and test_clips must be at least 1")

    @property
    def name(self) -> str:
        """The plugin's name."""
        return str(type(self).__plugin__[1])  # type: ignore[attr-defined]

    @cached_property
    def data_root(self) -> Path:
        """The folder of the data. Raises DataError where none was named or there is none: parameters are checked without one."""
        if self.root is None:
            raise DataError(f"dataset {self.name!r} is read from disk: name its folder with --data-root DIR")
        if not self.root.is_dir():
            raise DataError(f"data root {self.root} does not exist or is not a folder")
        return self.root

    def classes(self) -> tuple[str, ...]:
        raise PluginError(f"{type(self).__name__} has no classes()")

    def listing(self, split: str) -> Iterable[Listed]:
        """The lines of the split's lists, in their order."""
        raise PluginError(f"{type(self).__name__} has no listing(split)")

    def choose(self, length: int, seconds: float, frames: int, rng: np.random.Generator) -> np.ndarray:
        """The native frames of one clip, (frames,), of a video of ``length`` frames."""
        raise PluginError(f"{type(self).__name__} has no choose(length, seconds, frames, rng)")

    @property
    def several(self) -> bool:
        """Whether more than one clip is taken of a video."""
        return max(self.train_clips, self.test_clips) > 1

    def items(self, split: str) -> Sequence[Item]:
        return self._items[split]

    def read(self, item: Item, clip_shape: ClipShape) -> Clip:
        return self.read_parts([item], clip_shape)[0]

    def read_parts(self, items: Sequence[Item], clip_shape: ClipShape) -> list[Clip]:
        """The clips of one video, decoded once."""

        def choose(length: int, seconds: float) -> list[np.ndarray]:
            name = items[0].id.rpartition("#")[0] if items[0].part else items[0].id
            return [self.choose(length, seconds, clip_shape[0], item_generator(self.seed, name, item.part)) for item in items]

        return self.read_source(Path(items[0].source), clip_shape, choose)

    def read_source(self, path: Path, clip_shape: ClipShape, choose: Choose) -> list[Clip]:
        """The clips of one file, at the frames that ``choose`` takes."""
        if clip_shape[1] not in (1, 3):
            raise DataError(f"{self.name}: clips have 3 channels or 1, not {clip_shape[1]}")
        return read_video(path, clip_shape, choose, self.fit)

    def recipe(self) -> str:
        """What decides the clip of a given video file: datasets of the same recipe can share decoded clips."""
        settings = self._settings({"train_clips", "test_clips", *self.choices})
        return json.dumps([self.rule, self.version, settings], sort_keys=True)

    def digest(self) -> str:
        """Hash of sampling, classes, and every listed name with its label and size; not of where they lie."""
        rows = {s: [[i.id, i.label, i.bytes, bool(i.problem)] for i in self.items(s)] for s in SPLITS}
        text = json.dumps([self.name, self.version, self._settings(), self.classes(), rows], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _settings(self, without: Iterable[str] = ()) -> dict[str, Any]:
        """The parameters that decide a pixel or a list, without some."""
        left_out = {"root", "flip", "max_lost", *without}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}

    @cached_property
    def _items(self) -> dict[str, list[Item]]:
        listed = {split: list(self.listing(split)) for split in SPLITS}
        for split, rows in listed.items():
            if not rows:
                raise DataError(f"{self.name}: the {split} split under {self.data_root} lists no video")
        if all(row.path is None for rows in listed.values() for row in rows):
            raise DataError(f"{self.name}: none of the {sum(map(len, listed.values()))} listed videos is under {self.data_root}")
        in_test = {row.name for row in listed["test"]}
        parts = {"train": self.train_clips, "test": self.test_clips}
        return {s: _make_items(rows, parts[s], in_test if s == "train" else set()) for s, rows in listed.items()}


@dataclass(frozen=True)
class StridedVideos(ListedVideos):
    """Those whose clips are taken as UCF101's are: every ``stride``-th frame from a random start."""

    rule: ClassVar[str] = "strided"

    stride: int = 4
    """Native frames from one frame of a clip to the next; less where the video is too short."""

    def choose(self, length: int, seconds: float, frames: int, rng: np.random.Generator) -> np.ndarray:
        return strided(length, frames, self.stride, rng)


def source_bytes(path: Path) -> int:
    """Size of a video file, or of all files of a frame folder."""
    if not path.is_dir():
        return path.stat().st_size
    with os.scandir(path) as files:
        return sum(file.stat().st_size for file in files)


def _make_items(rows: Sequence[Listed], parts: int, in_test: set[str]) -> list[Item]:
    items = []
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row.name] += 1
        again = f" (again {seen[row.name] - 1})" if seen[row.name] > 1 else ""
        problem = "listed twice" if again else "also in the test split" if row.name in in_test else "missing" if row.path is None else ""
        size = source_bytes(row.path) if row.path is not None and not problem else 0
        for part in range(1 if problem else parts):
            name = f"{row.name}{again}#{part}" if part else f"{row.name}{again}"
            items.append(Item(name, row.label, "" if row.path is None else str(row.path), part, size, problem))
    return items


def find_file(root: Path, what: str, *candidates: str) -> Path:
    """The first of these files that exists under the root. Raises DataError that names all of them."""
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise DataError(f"no {what} under {root}: looked for {', '.join(candidates)}")


def find_video(bases: Sequence[Path], *relatives: str) -> Path | None:
    """The video at one of these paths under one of these folders, or the folder of its extracted frames; None where there is none."""
    for base in bases:
        for relative in relatives:
            path = base / relative
            if path.is_file():
                return path
            folder = path.with_suffix("")
            if folder.is_dir():
                return folder
    return None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not blank, stripped, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path}: {error}") from error
    return [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]


def class_index(name: str, classes: Sequence[str], where: str) -> int:
    """Index of a class. Raises DataError that says where the unknown name stands."""
    try:
        return classes.index(name)
    except ValueError:
        raise DataError(f"{where}: unknown class {name!r}{did_you_mean(name, classes)}") from None
