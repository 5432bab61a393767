"""What is known of a dataset before a clip is decoded."""

from __future__ import annotations

from dataclasses import dataclass

ClipShape = tuple[int, int, int, int]
"""(T, C, H, W) of one clip."""


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before a clip is decoded.

    train_per_class, test_per_class: clips of each class, in class order. flip: whether a horizontal flip keeps the label.
    digest: hash of what the clips are (version, annotation files, names and sizes of the videos, sampling, clip shape).
    code: digest of the code that lists, decodes and samples them; clips in the cache are those of one digest and one code.
    """

    name: str
    classes: tuple[str, ...]
    clip_shape: ClipShape
    train_per_class: tuple[int, ...]
    test_per_class: tuple[int, ...]
    flip: bool
    digest: str
    code: str = ""
