"""The cache: decoded once, resumed after a kill, verified, bounded in memory; broken input is left out with a reason."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data.base import Clip, Item, VideoDataset
from harness.data.cache import ClipCache, ClipFile, describe, read_index
from harness.data.facts import dataset_facts, verify_dataset, write_previews
from harness.data.folder import VideoFolder
from harness.data.info import ClipShape
from harness.data.ucf101 import UCF101
from harness.errors import DataError
from harness.plugin import DatasetPlugin
from tests.data.videos import read_stamp, write_sound, write_video

SHAPE: ClipShape = (4, 1, 56, 56)
PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Counting(DatasetPlugin):
    """A generated dataset that counts what is read. ``bad`` ids cannot be read; ``pause`` seconds for each."""

    per_class: int = 50
    bad: set[str] = field(default_factory=set)
    pause: float = 0.0
    log: Path | None = None
    max_lost: float = 0.02
    default_shape: ClipShape = (2, 1, 4, 4)
    flip: bool = False
    read_ids: list[str] = field(default_factory=list)

    def classes(self) -> tuple[str, ...]:
        return ("a", "b")

    def items(self, split: str) -> list[Item]:
        return [Item(f"{split}-{n}", n % 2) for n in range(2 * self.per_class)]

    def read(self, item: Item, clip_shape: ClipShape) -> Clip:
        time.sleep(self.pause)
        if self.log is not None:
            with open(self.log, "a") as handle:
                handle.write(f"{item.id}\n")
        self.read_ids.append(item.id)
        if item.id in self.bad:
            raise DataError(f"{item.id} is broken")
        return Clip(np.full(clip_shape, int(item.id.split("-")[1]) + 1, np.uint8), native_frames=10)

    def digest(self) -> str:
        return f"counting-{self.per_class}"


def cache_of(plugin: DatasetPlugin, root: Path, shape: ClipShape | None = None, code: str = "") -> ClipCache:
    return ClipCache(describe(plugin, "counting", shape, code), root)


def test_clips_are_read_once_and_kept_as_they_were(tmp_path: Path) -> None:
    plugin, seen = Counting(), []
    cache = cache_of(plugin, tmp_path)
    assert not cache.is_prepared()
    data = cache.open(plugin, workers=3, progress=lambda done, total: seen.append((done, total)))
    assert cache.is_prepared()
    assert sorted(plugin.read_ids) == sorted(i.id for s in ("train", "test") for i in plugin.items(s))
    assert seen[-1] == (200, 200)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    again = cache.open(plugin)
    assert len(plugin.read_ids) == 200, "the second use decodes nothing"
    for d in (data, again):
        assert torch.equal(d.train.clips()[:, 0, 0, 0, 0], torch.arange(1, 101, dtype=torch.uint8))
        assert torch.equal(d.train.clips([7, 3])[:, 1, 0, 3, 3], torch.tensor([8, 4], dtype=torch.uint8))
        assert torch.equal(d.train.subset(torch.tensor([9, 5])).clips(slice(0, 2))[:, 0, 0, 0, 0], torch.tensor([10, 6], dtype=torch.uint8))
        assert d.train.labels.tolist() == [0, 1] * 50
        assert d.native_train_frames == 1000
    assert cache.verify() == []
    clips = again.train.clips(slice(0, 2))
    clips.zero_()
    assert again.train.clips(slice(0, 2)).any(), "what is handed out is a copy"


def test_the_shape_and_the_digest_name_the_cache(tmp_path: Path) -> None:
    plugin = Counting()
    small, large = cache_of(plugin, tmp_path), cache_of(plugin, tmp_path, (2, 1, 8, 8))
    small.open(plugin)
    assert small.folder == tmp_path / f"counting-{small.info.digest[:16]}"
    assert not large.is_prepared()
    assert large.open(plugin).train.clips([0]).shape == (1, 2, 1, 8, 8)


def test_other_code_means_another_folder_and_decoding_again(tmp_path: Path) -> None:
    plugin = Counting()
    none, old, new = (cache_of(plugin, tmp_path, code=code) for code in ("", "0" * 16, "1" * 16))
    assert len({cache.folder for cache in (none, old, new)}) == 3
    assert none.info.digest == old.info.digest == new.info.digest, "the clips that are listed are the same"
    assert old.open(plugin).info.code == "0" * 16
    assert len(plugin.read_ids) == 200
    assert not new.is_prepared()
    assert not none.is_prepared()
    new.open(plugin)
    assert len(plugin.read_ids) == 400
    old.open(plugin)
    assert len(plugin.read_ids) == 400, "what the old code made is still its own"
    assert [json.loads((c.folder / "meta.json").read_text())["code"] for c in (old, new)] == ["0" * 16, "1" * 16]


def test_a_dot_in_a_name_does_not_shorten_it(tmp_path: Path) -> None:
    caches = [ClipCache(describe(Counting(per_class=n), "my.set"), tmp_path) for n in (2, 3)]
    assert len({cache.partial for cache in caches}) == 2
    assert caches[0].partial.name == f"{caches[0].folder.name}.partial"
    caches[0].open(Counting(per_class=2))
    assert {path.name for path in tmp_path.iterdir()} == {caches[0].folder.name, "leases"}


def test_several_processes_prepare_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    plugins = [Counting(log=log, pause=0.001) for _ in range(4)]
    cache = cache_of(plugins[0], tmp_path / "cache")
    with ThreadPoolExecutor(4) as pool:  # each has a lease of its own: threads compete as processes do
        for data in pool.map(cache.open, plugins):
            assert len(data.train) == 100
    assert len(log.read_text().splitlines()) == 200


def test_kill_and_resume(tmp_path: Path) -> None:
    """kill -9 in the middle: the same call completes, decodes what is missing and nothing twice."""
    log, root = tmp_path / "log", tmp_path / "cache"
    program = (
        "import sys; from pathlib import Path; from tests.data.test_cache import Counting, cache_of\n"
        "p = Counting(log=Path(sys.argv[1]), pause=0.01); cache_of(p, Path(sys.argv[2])).open(p, workers=2)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(log), str(root)], cwd=PROJECT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not log.exists() or len(log.read_text().splitlines()) < 120):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = log.read_text().splitlines()
    assert 120 <= len(before) < 200
    plugin = Counting(log=log)
    cache = cache_of(plugin, root)
    assert not cache.is_prepared()
    journal = [line for path in cache.partial.glob("*.jsonl") for line in path.read_text().splitlines()]
    data = cache.open(plugin)
    after = log.read_text().splitlines()[len(before) :]
    assert len(after) == 200 - len(journal)
    assert len(set(before) & set(after)) <= 2, "only the clips that were in the workers' hands"
    assert cache.verify() == []
    assert torch.equal(data.train.clips()[:, 0, 0, 0, 0], torch.arange(1, 101, dtype=torch.uint8))
    assert not cache.partial.exists()


def test_a_damaged_part_is_decoded_again(tmp_path: Path) -> None:
    plugin = Counting(bad={f"test-{n}" for n in range(50)})
    cache = cache_of(plugin, tmp_path)
    with pytest.raises(DataError, match="50 of 100 test clips cannot be had"):
        cache.open(plugin)
    with open(cache.partial / "train.npy", "r+b") as handle:
        handle.seek(-3, os.SEEK_END)
        handle.write(b"???")
    with open(cache.partial / "train.journal.jsonl", "a") as handle:
        handle.write('[1, 10, [], "12')
    plugin.bad, before = set(), len(plugin.read_ids)
    data = cache.open(plugin)
    assert sorted(plugin.read_ids[before:]) == sorted(["train-99", *(f"test-{n}" for n in range(50))])
    assert int(data.train.clips([99]).max()) == 100


def test_lost_clips_are_listed_and_too_many_are_an_error(tmp_path: Path) -> None:
    plugin = Counting(bad={"train-0", "train-8", "train-9"})
    cache = cache_of(plugin, tmp_path)
    with pytest.raises(DataError, match=r"3 of 100 train clips cannot be had, more than the 2% .*\(train-0: train-0 is broken"):
        cache.open(plugin)
    plugin.max_lost = 0.05
    before = len(plugin.read_ids)
    data = cache.open(plugin)
    assert len(plugin.read_ids) - before == 3 + 100, "the lost ones again, and the test split"
    assert [(left.split, left.id) for left in data.left_out] == [("train", "train-0"), ("train", "train-8"), ("train", "train-9")]
    assert data.info.train_per_class == (48, 49)
    assert len(data.train) == 97
    assert data.train.clips([0, 1]).amax(dim=(1, 2, 3, 4)).tolist() == [2, 3]
    assert data.train.ids[:2] == ("train-1", "train-2")
    assert data.native_train_frames == 970
    problems, summary = verify_dataset(plugin, cache)
    assert problems == [f"train train-{n}: train-{n} is broken" for n in (0, 8, 9)]
    assert "97 train and 100 test clips" in summary


def test_a_class_without_training_clips_is_an_error(tmp_path: Path) -> None:
    plugin = Counting(per_class=2, bad={"train-1", "train-3"}, max_lost=1.0)
    with pytest.raises(DataError, match="no training clip of b"):
        cache_of(plugin, tmp_path).open(plugin)


def test_a_full_disk_shows_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Counting()
    cache = cache_of(plugin, tmp_path, (16, 3, 112, 112))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"the clips need 114\.8 MiB|the clips need 115 MiB"):
        cache.open(plugin)
    assert plugin.read_ids == []


def test_an_unwritable_cache_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plugin = Counting()
    with pytest.raises(DataError, match="cannot be written"):
        cache_of(plugin, tmp_path / "file" / "cache").open(plugin)


@pytest.mark.parametrize("damage", ["clip", "length", "index", "meta", "gone"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    plugin = Counting()
    cache = cache_of(plugin, tmp_path)
    cache.open(plugin)
    folder = cache.folder
    if damage == "clip":
        with open(folder / "test.npy", "r+b") as handle:
            handle.seek(-40, os.SEEK_END)
            handle.write(b"?")
    elif damage == "length":
        os.truncate(folder / "test.npy", 500)
    elif damage == "index":
        (folder / "train.csv").write_text((folder / "train.csv").read_text().replace("train-3,1", "train-3,0"))
    elif damage == "meta":
        (folder / "meta.json").write_text("{")
    else:
        (folder / "test.csv").unlink()
    problems, _ = verify_dataset(plugin, cache)
    assert len(problems) == 1
    assert "prepare again" in problems[0]
    if damage == "clip":
        assert "test-98" in problems[0]
    else:
        with pytest.raises(DataError, match="prepare again"):
            cache.load()


def test_memory_of_reading_is_bounded(tmp_path: Path) -> None:
    """Walking over a large file leaves no more than a batch resident, though all of it is mapped."""
    rows, size = 64, 1 << 20
    array = np.lib.format.open_memmap(tmp_path / "c.npy", "w+", np.uint8, (rows, size))
    array[:] = np.arange(rows, dtype=np.uint8)[:, None]
    array.flush()
    del array
    file = ClipFile(tmp_path / "c.npy", (rows, size))
    before = _resident()
    for start in range(0, rows, 4):
        assert (file[np.arange(start, start + 4)][:, -1] == np.arange(start, start + 4)).all()
        assert file[start : start + 4].flags.owndata
        assert _resident() - before < 16 * mmap.PAGESIZE * 256  # 16 MiB


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def broken_folder(root: Path) -> None:
    """A folder dataset with one of everything that goes wrong, and clips that work."""
    for number in range(3):
        for split in ("train", "test"):
            write_video(root / split / "good" / f"{number}.mp4", 20, "libx264")
    train = root / "train" / "odd"
    write_video(train / "one frame.mp4", 1, "libx264")
    write_video(train / "größe éè.mkv", 20, "libx264", (161, 99), pix_fmt="yuv444p", rate=7)
    write_video(train / "x.mp4", 20, "libx264").rename(train / "wrong-suffix.avi")
    whole = write_video(root / "whole.avi", 40, "mpeg4").read_bytes()
    (train / "truncated.avi").write_bytes(whole[: len(whole) // 2])
    (train / "empty.avi").touch()
    (train / "text.avi").write_text("hello " * 500)
    write_sound(train / "sound.mp4")
    unreadable = write_video(train / "unreadable.mp4", 5, "libx264")
    unreadable.chmod(0)
    (root / "test" / "odd").mkdir(parents=True)


def test_broken_input(tmp_path: Path) -> None:
    broken_folder(tmp_path / "data")
    with pytest.raises(DataError, match="more than the 2%"):
        plugin = VideoFolder(tmp_path / "data")
        ClipCache(describe(plugin, "folder", SHAPE), tmp_path / "cache").open(plugin)
    plugin = VideoFolder(tmp_path / "data", max_lost=0.5)
    cache = ClipCache(describe(plugin, "folder", SHAPE), tmp_path / "cache")
    data = cache.open(plugin, workers=2)
    reasons = {Path(left.id).name: left.reason for left in data.left_out}
    expected = {"empty.avi", "text.avi", "sound.mp4"} | ({"unreadable.mp4"} if os.geteuid() else set())
    assert set(reasons) == expected
    assert all(reasons.values())
    kept = {Path(i).name: int(n) for i, n in zip(data.train.ids, data.train.native_frames, strict=True)}
    assert kept["one frame.mp4"] == 1
    assert kept["größe éè.mkv"] == kept["wrong-suffix.avi"] == 20
    assert 5 < kept["truncated.avi"] < 40
    problems, _ = verify_dataset(plugin, cache)
    assert "class odd: no test clip" in problems
    assert len(problems) == 1 + len(expected)
    for path in write_previews(cache, tmp_path / "previews", clips=2):
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="no class 'goed'; did you mean 'good'"):
        write_previews(cache, tmp_path / "previews", classes=["goed"])


def test_several_clips_per_video_count_its_frames_once(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_video(tmp_path / "data" / split / "a" / "v.mp4", 100, "libx264")
    plugin = VideoFolder(tmp_path / "data", train_clips=3)
    cache = ClipCache(describe(plugin, "folder", SHAPE), tmp_path / "cache")
    data = cache.open(plugin)
    assert len(data.train) == 3
    assert data.native_train_frames == 100
    rows = read_index(cache.folder, "train")
    assert len({row.frames for row in rows}) == 3, "the stored start points differ"
    for row, clip in zip(rows, data.train.clips(), strict=True):
        assert [read_stamp(picture.numpy()) for picture in clip] == list(row.frames)
    one = VideoFolder(tmp_path / "data")
    first = one.read(one.items("train")[0], SHAPE)
    assert np.array_equal(first.frames, data.train.clips([0])[0].numpy()), "the first clip does not depend on their number"


def test_clips_of_an_earlier_cache_are_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken video is replaced, and more clips are asked for: only these are decoded, as long as the code is the same."""
    for split in ("train", "test"):
        for number in range(3):
            write_video(tmp_path / "data" / split / "a" / f"{number}.mp4", 100, "libx264")
    (tmp_path / "data" / "train" / "a" / "1.mp4").write_bytes(b"broken")
    read: list[str] = []
    real = VideoFolder.read_parts

    def note(self: VideoFolder, items: list[Item], shape: ClipShape) -> list[Clip]:
        read.extend(item.id for item in items)
        return real(self, items, shape)

    monkeypatch.setattr(VideoFolder, "read_parts", note)

    def prepared(code: str = "one", **parameters: Any) -> VideoDataset:
        read.clear()
        plugin = VideoFolder(tmp_path / "data", max_lost=0.5, **parameters)
        return ClipCache(describe(plugin, "folder", SHAPE, code), tmp_path / "cache").open(plugin)

    first = prepared()
    assert len(read) == 6
    write_video(tmp_path / "data" / "train" / "a" / "1.mp4", 60, "libx264")
    second = prepared(train_clips=2)
    assert sorted(read) == ["train/a/0.mp4#1", "train/a/1.mp4", "train/a/1.mp4#1", "train/a/2.mp4#1"]
    assert second.native_train_frames == 260
    assert torch.equal(second.train.clips([0, 4]), first.train.clips([0, 1]))
    prepared(seed=1)
    assert len(read) == 6, "other start points are other clips"
    for code in ("two", ""):
        prepared(code)
        assert len(read) == 6, "clips of other code are not taken over"
    prepared("two", train_clips=2)
    assert sorted(read) == [f"train/a/{n}.mp4#1" for n in range(3)]


def test_real_videos(real_data: Path, tmp_path: Path) -> None:
    """UTD-MHAD in UCF101's layout: every listed video is there; a few are decoded."""
    plugin = UCF101(real_data, flip=False)
    info = describe(plugin, "ucf101")
    assert len(info.classes) == 27
    assert (sum(info.train_per_class), sum(info.test_per_class)) == (539, 322)
    items = plugin.items("train")[::60]
    clips = [plugin.read(item, (16, 3, 112, 112)) for item in items]
    assert all(41 <= clip.native_frames <= 125 for clip in clips)
    assert all(clip.frames.std() > 10 for clip in clips)


@pytest.mark.slow
def test_real_videos_are_counted(real_data: Path, tmp_path: Path) -> None:
    plugin = UCF101(real_data, flip=False)
    cache = ClipCache(describe(plugin, "ucf101", (8, 3, 32, 32)), tmp_path)
    data = cache.open(plugin, workers=2)
    assert data.native_train_frames == 34_980
    assert int(data.test.native_frames.sum()) == 23_319
    assert data.left_out == ()
    assert cache.verify() == []


def test_facts(tmp_path: Path) -> None:
    plugin = Counting()
    cache = cache_of(plugin, tmp_path)
    assert dict(dataset_facts(cache))["cache"] == "not prepared"
    cache.open(plugin)
    facts = dict(dataset_facts(cache))
    assert facts["native train frames"] == "1,000"
    assert facts["train clips"] == "100 (50 to 50 per class)"
