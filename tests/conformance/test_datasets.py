"""Every dataset lists its videos cheaply, reads them the same way twice, and keeps its splits apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.cache import describe
from harness.errors import DataError
from harness.registry import Registry


@pytest.fixture
def dataset(dataset_name: str, registry: Registry, pytestconfig: pytest.Config) -> Any:
    root = pytestconfig.getoption("--data-root", default=None)
    try:
        plugin = registry.resolve("dataset", dataset_name).create(Path(root) if root else None)
        plugin.items("train")
    except DataError as error:
        pytest.skip(f"needs --data-root: {error}")
    return plugin


def test_lists(dataset: Any) -> None:
    classes = dataset.classes()
    assert len(set(classes)) == len(classes) >= 2
    ids: dict[str, set[str]] = {}
    for split in ("train", "test"):
        items = list(dataset.items(split))
        ids[split] = {item.id for item in items}
        assert len(ids[split]) == len(items), "an id names one video"
        assert {item.label for item in items} == set(range(len(classes))), "every class has videos in both splits"
        assert [i.id for i in dataset.items(split)] == [i.id for i in items], "a fixed order"
    assert not ids["train"] & ids["test"], "no video is in both splits"


def test_description(dataset: Any, dataset_name: str) -> None:
    info = describe(dataset, dataset_name)
    assert info.clip_shape == dataset.default_shape
    assert sum(info.train_per_class) == len(list(dataset.items("train")))
    assert info.digest == describe(dataset, dataset_name).digest
    t, c, h, w = info.clip_shape
    assert describe(dataset, dataset_name, (t, c, h + 8, w + 8)).digest != info.digest


def test_reads_the_same_twice(dataset: Any) -> None:
    for split in ("train", "test"):
        item = next(iter(dataset.items(split)))
        clip, again = dataset.read(item, dataset.default_shape), dataset.read(item, dataset.default_shape)
        assert clip.frames.shape == dataset.default_shape
        assert clip.frames.dtype == np.uint8
        assert clip.frames.std() > 0, "not one flat colour"
        assert clip.native_frames >= 1
        assert np.array_equal(clip.frames, again.frames)
        assert clip.native_frames == again.native_frames


def test_missing_root_is_one_clear_sentence(dataset_name: str, registry: Registry, tmp_path: Path) -> None:
    try:
        registry.resolve("dataset", dataset_name).create(tmp_path / "nowhere").items("train")
    except DataError as error:
        assert "nowhere" in str(error)
