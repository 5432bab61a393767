"""The cache: decoded once, resumed after a kill, verified, bounded in memory; broken input is left out with a reason."""

from __future__ import annotations

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

from harness.data.base import Clip, ClipShape, Item
from harness.data.cache import ClipFile, cache_folder, describe, is_prepared, load_dataset, open_dataset, read_index, verify_cache
from harness.data.folder import VideoFolder
from harness.data.inspect import dataset_facts, verify_dataset, write_previews
from harness.data.ucf101 import UCF101
from harness.errors import DataError
from tests.data.videos import read_stamp, write_sound, write_video

SHAPE: ClipShape = (4, 1, 56, 56)
PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Counting:
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


def test_clips_are_read_once_and_kept_as_they_were(tmp_path: Path) -> None:
    plugin, seen = Counting(), []
    info = describe(plugin, "counting")
    assert not is_prepared(info, tmp_path)
    data = open_dataset(plugin, info, tmp_path, workers=3, progress=lambda done, total: seen.append((done, total)))
    assert is_prepared(info, tmp_path)
    assert sorted(plugin.read_ids) == sorted(i.id for s in ("train", "test") for i in plugin.items(s))
    assert seen[-1] == (200, 200)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    again = open_dataset(plugin, info, tmp_path)
    assert len(plugin.read_ids) == 200, "the second use decodes nothing"
    for d in (data, again):
        assert torch.equal(d.train.clips()[:, 0, 0, 0, 0], torch.arange(1, 101, dtype=torch.uint8))
        assert torch.equal(d.train.clips([7, 3])[:, 1, 0, 3, 3], torch.tensor([8, 4], dtype=torch.uint8))
        assert torch.equal(d.train.subset(torch.tensor([9, 5])).clips(slice(0, 2))[:, 0, 0, 0, 0], torch.tensor([10, 6], dtype=torch.uint8))
        assert d.train.labels.tolist() == [0, 1] * 50
        assert d.native_train_frames == 1000
    assert verify_cache(info, tmp_path) == []
    clips = again.train.clips(slice(0, 2))
    clips.zero_()
    assert again.train.clips(slice(0, 2)).any(), "what is handed out is a copy"


def test_the_shape_and_the_digest_name_the_cache(tmp_path: Path) -> None:
    plugin = Counting()
    small, large = describe(plugin, "counting"), describe(plugin, "counting", (2, 1, 8, 8))
    open_dataset(plugin, small, tmp_path)
    assert not is_prepared(large, tmp_path)
    assert open_dataset(plugin, large, tmp_path).train.clips([0]).shape == (1, 2, 1, 8, 8)


def test_several_processes_prepare_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    plugins = [Counting(log=log, pause=0.001) for _ in range(4)]
    info = describe(plugins[0], "counting")
    with ThreadPoolExecutor(4) as pool:  # flock is between open files: threads compete as processes do
        for data in pool.map(lambda p: open_dataset(p, info, tmp_path / "cache"), plugins):
            assert len(data.train) == 100
    assert len(log.read_text().splitlines()) == 200


def test_kill_and_resume(tmp_path: Path) -> None:
    """kill -9 in the middle: the same call completes, decodes what is missing and nothing twice."""
    log, cache = tmp_path / "log", tmp_path / "cache"
    program = (
        "import sys; from pathlib import Path; from tests.data.test_cache import Counting; from harness.data.cache import *\n"
        "p = Counting(log=Path(sys.argv[1]), pause=0.01); open_dataset(p, describe(p, 'counting'), Path(sys.argv[2]), workers=2)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(log), str(cache)], cwd=PROJECT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not log.exists() or len(log.read_text().splitlines()) < 120):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = log.read_text().splitlines()
    assert 120 <= len(before) < 200
    plugin = Counting(log=log)
    info = describe(plugin, "counting")
    assert not is_prepared(info, cache)
    partial = cache_folder(info, cache).with_suffix(".partial")
    journal = [line for path in partial.glob("*.jsonl") for line in path.read_text().splitlines()]
    data = open_dataset(plugin, info, cache)
    after = log.read_text().splitlines()[len(before) :]
    assert len(after) == 200 - len(journal)
    assert len(set(before) & set(after)) <= 2, "only the clips that were in the workers' hands"
    assert verify_cache(info, cache) == []
    assert torch.equal(data.train.clips()[:, 0, 0, 0, 0], torch.arange(1, 101, dtype=torch.uint8))
    assert not partial.exists()


def test_a_damaged_part_is_decoded_again(tmp_path: Path) -> None:
    plugin = Counting(bad={f"test-{n}" for n in range(50)})
    info = describe(plugin, "counting")
    with pytest.raises(DataError, match="50 of 100 test clips cannot be had"):
        open_dataset(plugin, info, tmp_path)
    partial = cache_folder(info, tmp_path).with_suffix(".partial")
    with open(partial / "train.npy", "r+b") as handle:
        handle.seek(-3, os.SEEK_END)
        handle.write(b"???")
    with open(partial / "train.journal.jsonl", "a") as handle:
        handle.write('[1, 10, [], "12')
    plugin.bad, before = set(), len(plugin.read_ids)
    data = open_dataset(plugin, info, tmp_path)
    assert sorted(plugin.read_ids[before:]) == sorted(["train-99", *(f"test-{n}" for n in range(50))])
    assert int(data.train.clips([99]).max()) == 100


def test_lost_clips_are_listed_and_too_many_are_an_error(tmp_path: Path) -> None:
    plugin = Counting(bad={"train-0", "train-8", "train-9"})
    info = describe(plugin, "counting")
    with pytest.raises(DataError, match=r"3 of 100 train clips cannot be had, more than the 2% .*\(train-0: train-0 is broken"):
        open_dataset(plugin, info, tmp_path)
    plugin.max_lost = 0.05
    before = len(plugin.read_ids)
    data = open_dataset(plugin, info, tmp_path)
    assert len(plugin.read_ids) - before == 3 + 100, "the lost ones again, and the test split"
    assert [(left.split, left.id) for left in data.left_out] == [("train", "train-0"), ("train", "train-8"), ("train", "train-9")]
    assert data.info.train_per_class == (48, 49)
    assert len(data.train) == 97
    assert data.train.clips([0, 1]).amax(dim=(1, 2, 3, 4)).tolist() == [2, 3]
    assert data.train.ids[:2] == ("train-1", "train-2")
    assert data.native_train_frames == 970
    problems, summary = verify_dataset(plugin, info, tmp_path)
    assert problems == [f"train train-{n}: train-{n} is broken" for n in (0, 8, 9)]
    assert "97 train and 100 test clips" in summary


def test_a_class_without_training_clips_is_an_error(tmp_path: Path) -> None:
    plugin = Counting(per_class=2, bad={"train-1", "train-3"}, max_lost=1.0)
    with pytest.raises(DataError, match="no training clip of b"):
        open_dataset(plugin, describe(plugin, "counting"), tmp_path)


def test_a_full_disk_shows_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Counting()
    info = describe(plugin, "counting", (16, 3, 112, 112))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"the clips need 114\.8 MiB|the clips need 115 MiB"):
        open_dataset(plugin, info, tmp_path)
    assert plugin.read_ids == []


def test_an_unwritable_cache_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plugin = Counting()
    with pytest.raises(DataError, match="cannot be written"):
        open_dataset(plugin, describe(plugin, "counting"), tmp_path / "file" / "cache")


@pytest.mark.parametrize("damage", ["clip", "length", "index", "meta", "gone"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    plugin = Counting()
    info = describe(plugin, "counting")
    open_dataset(plugin, info, tmp_path)
    folder = cache_folder(info, tmp_path)
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
    problems, _ = verify_dataset(plugin, info, tmp_path)
    assert len(problems) == 1
    assert "prepare again" in problems[0]
    if damage == "clip":
        assert "test-98" in problems[0]
    else:
        with pytest.raises(DataError, match="prepare again"):
            load_dataset(info, tmp_path)


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
        plugin = VideoFolder(VideoFolder.Config(), tmp_path / "data")
        open_dataset(plugin, describe(plugin, "folder", SHAPE), tmp_path / "cache")
    plugin = VideoFolder(VideoFolder.Config(max_lost=0.5), tmp_path / "data")
    info = describe(plugin, "folder", SHAPE)
    data = open_dataset(plugin, info, tmp_path / "cache", workers=2)
    reasons = {Path(left.id).name: left.reason for left in data.left_out}
    expected = {"empty.avi", "text.avi", "sound.mp4"} | ({"unreadable.mp4"} if os.geteuid() else set())
    assert set(reasons) == expected
    assert all(reasons.values())
    kept = {Path(i).name: int(n) for i, n in zip(data.train.ids, data.train.native_frames, strict=True)}
    assert kept["one frame.mp4"] == 1
    assert kept["größe éè.mkv"] == kept["wrong-suffix.avi"] == 20
    assert 5 < kept["truncated.avi"] < 40
    problems, _ = verify_dataset(plugin, info, tmp_path / "cache")
    assert "class odd: no test clip" in problems
    assert len(problems) == 1 + len(expected)
    for path in write_previews(info, tmp_path / "cache", tmp_path / "previews", clips=2):
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="no class 'goed'; did you mean 'good'"):
        write_previews(info, tmp_path / "cache", tmp_path / "previews", classes=["goed"])


def test_several_clips_per_video_count_its_frames_once(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_video(tmp_path / "data" / split / "a" / "v.mp4", 100, "libx264")
    plugin = VideoFolder(VideoFolder.Config(train_clips=3), tmp_path / "data")
    info = describe(plugin, "folder", SHAPE)
    data = open_dataset(plugin, info, tmp_path / "cache")
    assert len(data.train) == 3
    assert data.native_train_frames == 100
    rows = read_index(cache_folder(info, tmp_path / "cache"), "train")
    assert len({row.frames for row in rows}) == 3, "the stored start points differ"
    for row, clip in zip(rows, data.train.clips(), strict=True):
        assert [read_stamp(picture.numpy()) for picture in clip] == list(row.frames)
    one = VideoFolder(VideoFolder.Config(), tmp_path / "data")
    first = one.read(one.items("train")[0], SHAPE)
    assert np.array_equal(first.frames, data.train.clips([0])[0].numpy()), "the first clip does not depend on their number"


def test_clips_of_an_earlier_cache_are_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken video is replaced, and more clips are asked for: only these are decoded."""
    for split in ("train", "test"):
        for number in range(3):
            write_video(tmp_path / "data" / split / "a" / f"{number}.mp4", 100, "libx264")
    (tmp_path / "data" / "train" / "a" / "1.mp4").write_bytes(b"broken")
    cache = tmp_path / "cache"
    read: list[str] = []
    real = VideoFolder.read_parts

    def note(self: VideoFolder, items: list[Item], shape: ClipShape) -> list[Clip]:
        read.extend(item.id for item in items)
        return real(self, items, shape)

    monkeypatch.setattr(VideoFolder, "read_parts", note)

    def prepared(**parameters: Any) -> Any:
        read.clear()
        plugin = VideoFolder(VideoFolder.Config(max_lost=0.5, **parameters), tmp_path / "data")
        return open_dataset(plugin, describe(plugin, "folder", SHAPE), cache)

    first = prepared()
    assert len(read) == 6
    write_video(tmp_path / "data" / "train" / "a" / "1.mp4", 60, "libx264")
    second = prepared(train_clips=2)
    assert sorted(read) == ["train/a/0.mp4#1", "train/a/1.mp4", "train/a/1.mp4#1", "train/a/2.mp4#1"]
    assert second.native_train_frames == 260
    assert torch.equal(second.train.clips([0, 4]), first.train.clips([0, 1]))
    prepared(seed=1)
    assert len(read) == 6, "other start points are other clips"


def test_real_videos(real_data: Path, tmp_path: Path) -> None:
    """UTD-MHAD in UCF101's layout: every listed video is there; a few are decoded."""
    plugin = UCF101(UCF101.Config(flip=False), real_data)
    info = describe(plugin, "ucf101")
    assert len(info.classes) == 27
    assert (sum(info.train_per_class), sum(info.test_per_class)) == (539, 322)
    items = plugin.items("train")[::60]
    clips = [plugin.read(item, (16, 3, 112, 112)) for item in items]
    assert all(41 <= clip.native_frames <= 125 for clip in clips)
    assert all(clip.frames.std() > 10 for clip in clips)


@pytest.mark.slow
def test_real_videos_are_counted(real_data: Path, tmp_path: Path) -> None:
    plugin = UCF101(UCF101.Config(flip=False), real_data)
    info = describe(plugin, "ucf101", (8, 3, 32, 32))
    data = open_dataset(plugin, info, tmp_path, workers=2)
    assert data.native_train_frames == 34_980
    assert int(data.test.native_frames.sum()) == 23_319
    assert data.left_out == ()
    assert verify_cache(info, tmp_path) == []


def test_facts(tmp_path: Path) -> None:
    plugin: Any = Counting()
    info = describe(plugin, "counting")
    assert dict(dataset_facts(plugin, info, tmp_path))["cache"] == "not prepared"
    open_dataset(plugin, info, tmp_path)
    facts = dict(dataset_facts(plugin, info, tmp_path))
    assert facts["native train frames"] == "1,000"
    assert facts["train clips"] == "100 (50 to 50 per class)"
