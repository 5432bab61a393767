"""Plugins and datasets on a machine that shares no disk with the driver: by content and by digest, not by path."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness import Session, code
from harness.data.cache import ClipCache
from harness.data.source import fetch, is_shared, settle, share
from harness.errors import StoreError
from harness.job import Job
from harness.registry import Registry
from harness.runner import _open_sweep, _Run
from harness.shipping import pack, unpack
from harness.store import Store
from tests.conftest import TINY

PLUGIN = '''
from helper import TEXT
from parts.inner import NUMBER
from harness import method

@method("mine")
class Mine:
    """A method."""

    deterministic = True

    def distill(self, train, budget, context):
        raise RuntimeError(f"{TEXT} {NUMBER}")
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    folder = tmp_path / "driver"
    (folder / "parts").mkdir(parents=True)
    (folder / "helper.py").write_text("import other\nTEXT = other.TEXT\n")
    (folder / "other.py").write_text("TEXT = 'beside'\n")
    (folder / "unused.py").write_text("SECRET = 1\n")
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "inner.py").write_text("NUMBER = 7\n")
    (folder / "mine.py").write_text(PLUGIN)
    return folder / "mine.py"


def test_a_plugin_travels_with_what_it_imports_and_keeps_its_digest(plugin: Path, tmp_path: Path) -> None:
    before = code.digest_of(code.source_files(plugin, [plugin.parent]))
    parcel = pack([str(plugin)])
    assert set(parcel[0].files) == {"mine.py", "helper.py", "other.py", "parts/__init__.py", "parts/inner.py"}
    assert unpack(parcel, tmp_path / "node") == (str(plugin),), "where it is there already it is used"
    plugin.parent.rename(tmp_path / "gone")
    (path,) = unpack(parcel, tmp_path / "node")
    assert Path(path).is_relative_to(tmp_path / "node")
    assert unpack(parcel, tmp_path / "node") == (path,)
    assert code.digest_of(code.source_files(Path(path), [Path(path).parent])) == before
    assert Registry([path]).names("method").count("mine") == 1
    Path(path).write_text("changed")
    assert unpack(parcel, tmp_path / "node") == (path,) and Path(path).read_text() == PLUGIN


def test_another_file_at_the_same_path_is_not_taken_for_it(plugin: Path, tmp_path: Path) -> None:
    parcel = pack([str(plugin)])
    (plugin.parent / "other.py").write_text("TEXT = 'another'\n")
    (path,) = unpack(parcel, tmp_path / "node")
    assert path != str(plugin) and (Path(path).parent / "other.py").read_text() == "TEXT = 'beside'\n"


VIDEOS = '''
from pathlib import Path
import numpy as np
from harness import Clip, Item, dataset

@dataset("on-disk")
class OnDisk:
    """Two classes of files with a number in them."""

    default_shape = (2, 1, 4, 4)
    root: Path | None = None

    def classes(self):
        return ("a", "b")

    def items(self, split):
        files = sorted((self.root / split).glob("*"))
        return [Item(f.name, int(f.name[0] == "b"), str(f), bytes=f.stat().st_size) for f in files]

    def read(self, item, clip_shape):
        return Clip(np.full(clip_shape, int(Path(item.source).read_text()), np.uint8), native_frames=2)

    def digest(self):
        return repr([(s, i.id, i.bytes) for s in ("train", "test") for i in self.items(s)])
'''


def videos(root: Path) -> Path:
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for number in range(4):
            (root / split / f"{'ab'[number % 2]}{number}").write_text(str(10 + number))
    return root


@pytest.fixture
def job(tmp_path: Path, bench: Path) -> Job:
    """The data task of a run with results on a URL, as it leaves the driver."""
    (tmp_path / "videos.py").write_text(VIDEOS)
    options = {"dataset": "on-disk", "data_root": str(videos(tmp_path / "root")), "protocol": "tiny", "methods": "first", "ipc": [1]}
    plugins = [str(TINY), str(tmp_path / "videos.py")]
    session = Session.open(bench, results=f"memory://{tmp_path.name}", cache=str(tmp_path / "driver-cache"), plugins=plugins, **options)
    state = session.survey()
    sweep = _open_sweep(session.config, state, session.store, [])
    made = _Run(session.config, state, session.store, None, [], sweep)  # type: ignore[arg-type]
    return made._job(state.plan.of_kind("data")[0])


def test_a_dataset_is_found_by_its_digest(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(job.data_root)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "node-cache"))
    assert settle(job) == replace(job, cache=str(tmp_path / "node-cache"))
    own = tmp_path / "own"
    shutil.copytree(root, own / "right")
    shutil.copytree(root, own / "wrong")
    (own / "wrong" / "test" / "a0").unlink()
    shutil.rmtree(root)
    assert settle(job) == "has no videos of on-disk"
    monkeypatch.setenv("HARNESS_DATA_ROOT", str(own / "wrong"))
    assert settle(job) == "has no videos of on-disk", "a dataset of that name with other videos"
    monkeypatch.setenv("HARNESS_DATA_ROOT", os.pathsep.join(str(own / name) for name in ("none", "wrong", "right")))
    settled = settle(job)
    assert isinstance(settled, Job) and settled.data_root == str(own / "right")
    assert settle(replace(job, spec=job.spec.model_copy(update={"code": "other"}))) == (
        "has other code of the harness than the driver: install the same version there"
    )


def test_a_node_without_videos_gets_the_clips_from_the_results(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, cache = Store(job.results), ClipCache(job.info, Path(job.cache))
    plugin = Registry(job.plugins).revive("dataset", job.spec.dataset).create(Path(job.data_root))
    made = cache.open(plugin)
    assert not is_shared(cache, store)
    share(cache, store)
    share(cache, store)
    assert is_shared(cache, store) and store.names("leases") == []
    shutil.rmtree(job.data_root)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "node-cache"))
    settled = settle(job)
    assert isinstance(settled, Job)
    got = ClipCache(job.info, Path(settled.cache)).load()
    for one, other in ((got.train, made.train), (got.test, made.test)):
        assert torch.equal(one.clips(), other.clips()) and one.ids == other.ids and torch.equal(one.native_frames, other.native_frames)
    assert sorted(path.name for path in (tmp_path / "node-cache").iterdir()) == sorted([cache.folder.name, "leases"])


@pytest.mark.parametrize("name", ["train.npy", "test.csv", "meta.json"])
def test_damaged_clips_are_not_taken(job: Job, tmp_path: Path, name: str) -> None:
    store, cache = Store(job.results), ClipCache(job.info, Path(job.cache))
    cache.open(Registry(job.plugins).revive("dataset", job.spec.dataset).create(Path(job.data_root)))
    share(cache, store)
    place = f"data/{cache.folder.name}/{name}"
    store.write_bytes(place, store.read_bytes(place)[:-1] + b"?")
    here = ClipCache(job.info, tmp_path / "node-cache")
    with pytest.raises(StoreError, match=f"data/{cache.folder.name} in memory://.* is damaged"):
        fetch(here, store)
    assert not here.is_prepared()
    assert [path.name for path in here.root.iterdir()] == ["leases"], "nothing half is left"
