"""Your own videos, without annotation files: a folder per class in train/ and test/, or one table of paths."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from harness.data.listed import SPLITS, Listed, StridedVideos, class_index
from harness.data.video_files import natural_order
from harness.errors import DataError
from harness.plugin import dataset

_COLUMNS = ("path", "label", "split")


@dataset("folder")
class VideoFolder(StridedVideos):
    """DIR/train/<class>/* and DIR/test/<class>/*: videos, or folders of extracted frames."""

    def classes(self) -> tuple[str, ...]:
        return self._classes

    def listing(self, split: str) -> Iterator[Listed]:
        for folder in self._class_folders(split):
            label = class_index(folder.name, self._classes, str(folder))
            for path in natural_order([p for p in folder.iterdir() if not p.name.startswith(".")]):
                yield Listed(f"{split}/{folder.name}/{path.name}", label, path)

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return tuple(folder.name for folder in self._class_folders("train"))

    def _class_folders(self, split: str) -> list[Path]:
        folder = self.data_root / split
        if not folder.is_dir():
            raise DataError(f"folder: {self.data_root} has no folder {split}; expected train/<class>/* and test/<class>/*")
        found = natural_order([p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")])
        if not found:
            raise DataError(f"folder: {folder} has no class folders; expected {split}/<class>/*")
        return found


@dataset("csv")
class VideoTable(StridedVideos):
    """A table DIR/videos.csv with the columns path, label, split (train or test); paths are relative to DIR or absolute."""

    choices = frozenset({"file"})

    file: str = "videos.csv"
    """Name of the table in the data root."""

    def classes(self) -> tuple[str, ...]:
        return self._classes

    def listing(self, split: str) -> Iterator[Listed]:
        for row in self._rows:
            if row["split"] == split:
                path = self.data_root / row["path"]
                yield Listed(row["path"], self._classes.index(row["label"]), path if path.exists() else None)

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return tuple(sorted({row["label"] for row in self._rows}))

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        path = self.data_root / self.file
        try:
            with open(path, newline="", encoding="utf-8-sig") as handle:
                reader = csv.DictReader(handle)
                columns = reader.fieldnames or ()
                rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the table {path}: {error}") from error
        missing = [column for column in _COLUMNS if column not in columns]
        if missing:
            raise DataError(f"{path} lacks the column {', '.join(missing)}; valid: {', '.join(_COLUMNS)}")
        for number, row in enumerate(rows, 2):
            if row["split"] not in SPLITS:
                raise DataError(f"{path}, line {number}: split {row['split']!r} is not valid; write train or test")
            if not row["path"] or not row["label"]:
                raise DataError(f"{path}, line {number}: path and label may not be empty")
        return rows
