"""Something-Something v2 with its official annotation files.

    DIR/20bn-something-something-v2/<id>.webm     also under DIR/videos, DIR
    DIR/labels/train.json, validation.json, labels.json     also in DIR or DIR/annotations, also as something-something-v2-<name>.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.listed import Listed, ListedVideos, class_index, find_file, find_video
from harness.data.sampling import spread
from harness.errors import DataError
from harness.plugin import dataset


@dataset("ssv2")
class SomethingSomethingV2(ListedVideos):
    """Something-Something v2: 174 classes of hand motions; the validation split is the test split.

    Left and right are labels, so that a mirrored clip does not keep its own.
    """

    default_shape = (8, 3, 64, 64)
    fit = "squash"
    rule = "spread"

    def classes(self) -> tuple[str, ...]:
        return self._classes

    def listing(self, split: str) -> Iterator[Listed]:
        path = self._file({"train": "train", "test": "validation"}[split])
        bases = [b for b in (self.data_root / f for f in ("20bn-something-something-v2", "videos", "rawframes", ".")) if b.is_dir()]
        for number, row in enumerate(_read_json(path, list), 1):
            try:
                name, template = str(row["id"]), str(row["template"])
            except (KeyError, TypeError):
                raise DataError(f"{path}, entry {number}: expected an object with id and template") from None
            label = class_index(_plain(template), self._classes, f"{path}, entry {number}")
            yield Listed(name, label, find_video(bases, f"{name}.webm", f"{name}.mp4"))

    def choose(self, length: int, seconds: float, frames: int, rng: np.random.Generator) -> np.ndarray:
        """Spread over the video; where several clips are taken of a video, shifted at random."""
        clip = spread(length, frames)
        return clip - clip[0] + int(rng.integers(length - clip[-1] + clip[0])) if self.several else clip

    def recipe(self) -> str:
        return f"{super().recipe()} {'random' if self.several else 'fixed'} window"

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        labels = _read_json(self._file("labels"), dict)
        try:
            return tuple(_plain(template) for template, _ in sorted(labels.items(), key=lambda entry: int(entry[1])))
        except ValueError:
            raise DataError(f"{self._file('labels')}: the values must be class numbers") from None

    def _file(self, name: str) -> Path:
        files = (f"{name}.json", f"something-something-v2-{name}.json")
        return find_file(self.data_root, f"{name} list", *(f"{f}{file}" for f in ("labels/", "", "annotations/") for file in files))


def _plain(template: str) -> str:
    """'Pushing [something] left' -> 'Pushing something left': the lists write templates with brackets, labels.json without."""
    return template.replace("[", "").replace("]", "")


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(content, kind):
        raise DataError(f"{path}: expected a JSON {'list' if kind is list else 'object'}")
    return content
