"""Every dataset in its official layout: counts, splits, labels, sampled frames, and what a wrong list says."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.cache import describe
from harness.data.folder import VideoFolder, VideoTable
from harness.data.hmdb51 import HMDB51
from harness.data.kinetics400 import Kinetics400
from harness.data.sampling import centred, item_generator, spread, strided
from harness.data.ssv2 import SomethingSomethingV2
from harness.data.ucf101 import MINIUCF_CLASSES, UCF101, MiniUCF
from harness.data.utd_mhad import ACTIONS, UTDMHAD
from harness.errors import DataError, UsageError
from harness.registry import Registry
from tests.data.videos import read_stamp, write_frames, write_video

SMALL = (4, 3, 56, 56)
MINIUCF_COUNTS = """101/44 77/31 112/43 107/43 99/35 94/37 96/38 110/40 76/33 112/43 73/28 79/33 99/39 118/49 105/45 89/36 89/37 100/39
105/45 86/37 89/35 115/49 91/34 112/46 86/37 89/34 92/33 91/45 77/37 77/28 72/28 109/40 88/35 121/39 83/28 101/36 88/32 95/40 72/28 79/31
96/41 80/32 82/34 93/33 89/42 117/49 87/32 76/28 81/35 107/45"""
"""Train/test videos of each class, from VDSD's list."""


def make(cls: Any, root: Path, **parameters: Any) -> Any:
    return cls(root, **parameters)


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def ucf_lists(root: Path, train: list[str], test: list[str], classes: list[str], folder: str = "ucfTrainTestlist") -> None:
    lists = root / folder
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\r\n" for n, name in enumerate(classes, 1)))
    (lists / "trainlist01.txt").write_text("".join(f"{name} {classes.index(name.split('/')[0]) + 1}\n" for name in train))
    (lists / "testlist01.txt").write_text("".join(f"{name}\n" for name in test))


@pytest.mark.parametrize("place", ["", "videos", "UCF-101"])
def test_ucf101(tmp_path: Path, place: str) -> None:
    train, test = ["Walk/v_Walk_g01_c01.avi", "Run/v_Run_g01_c01.avi"], ["Run/v_Run_g02_c01.avi"]
    for name in (*train, *test):
        write_video(tmp_path / place / name, 30)
    ucf_lists(tmp_path, train, test, ["Walk", "Run"])
    plugin = make(UCF101, tmp_path)
    assert plugin.classes() == ("Walk", "Run")  # classInd's order, not the alphabet's
    assert [(i.id, i.label) for i in plugin.items("train")] == [(train[0], 0), (train[1], 1)]
    assert describe(plugin, "ucf101").test_per_class == (0, 1)
    clip = plugin.read(plugin.items("train")[0], SMALL)
    assert clip.native_frames == 30
    assert [read_stamp(p) for p in clip.frames] == list(clip.indices)
    assert set(np.diff(clip.indices)) == {4}


@pytest.mark.parametrize("place", ["{cls}/{video}", "rawframes/{cls}/{video}", "jpegs_256/{video}"])
def test_ucf101_as_extracted_frames(tmp_path: Path, place: str) -> None:
    files = "img_{:05d}.jpg" if "raw" in place else "frame{:06d}.jpg"
    for cls, video in (("Walk", "v_Walk_g01_c01"), ("Walk", "v_Walk_g02_c01")):
        write_frames(tmp_path / place.format(cls=cls, video=video), 18, name=files)
    ucf_lists(tmp_path, ["Walk/v_Walk_g01_c01.avi"], ["Walk/v_Walk_g02_c01.avi"], ["Walk"])
    plugin = make(UCF101, tmp_path)
    clip = plugin.read(plugin.items("train")[0], SMALL)
    assert clip.native_frames == 18
    assert [read_stamp(p) for p in clip.frames] == list(clip.indices)
    before = plugin.digest()
    assert make(UCF101, tmp_path).digest() == before
    write_frames(tmp_path / place.format(cls="Walk", video="v_Walk_g02_c01"), 20, name=files)
    assert make(UCF101, tmp_path).digest() != before, "an extraction that went on is other data"


def test_miniucf_counts(tmp_path: Path) -> None:
    """Lists of the official sizes, among UCF101's other classes."""
    counts = [tuple(map(int, pair.split("/"))) for pair in MINIUCF_COUNTS.split()]
    train, test, classes = [], [], sorted([*MINIUCF_CLASSES, "Archery", "YoYo"])
    for name, (n_train, n_test) in zip([*MINIUCF_CLASSES, "Archery", "YoYo"], [*counts, (104, 41), (92, 36)], strict=True):
        videos = [f"{name}/v_{name}_{n}.avi" for n in range(n_train + n_test)]
        (tmp_path / "UCF-101" / name).mkdir(parents=True)
        for video in videos:
            (tmp_path / "UCF-101" / video).touch()
        train += videos[:n_train]
        test += videos[n_train:]
    ucf_lists(tmp_path, train, test, classes)
    info = describe(make(MiniUCF, tmp_path), "miniucf")
    assert len(info.classes) == 50
    assert info.classes == tuple(sorted(info.classes))
    assert (sum(info.train_per_class), sum(info.test_per_class)) == (4662, 1861)
    assert list(zip(info.train_per_class, info.test_per_class, strict=True)) == counts
    full = describe(make(UCF101, tmp_path), "ucf101")
    assert sum(full.train_per_class) == 4662 + 196


def test_hmdb51_has_two_pools(tmp_path: Path) -> None:
    splits = tmp_path / "testTrainMulti_7030_splits"
    splits.mkdir()
    unused = 0
    for number in range(51):
        name = f"class_{number:02d}"
        codes = [1] * 70 + [2] * 30 + [0] * (number % 5)
        unused += number % 5
        videos = [f"{'#' if n == 0 else ''}film (x) {n}.avi" for n in range(len(codes))]
        (tmp_path / name).mkdir()
        for video in videos:
            (tmp_path / name / video).touch()
        (splits / f"{name}_test_split1.txt").write_text("".join(f"{v} {c} \n" for v, c in zip(videos, codes, strict=True)))
    standard, vdsd = (describe(make(HMDB51, tmp_path, pool=pool), "hmdb51") for pool in ("standard", "vdsd"))
    assert (sum(standard.train_per_class), sum(standard.test_per_class)) == (3570, 1530)
    assert set(standard.train_per_class) == {70}
    assert (sum(vdsd.train_per_class), sum(vdsd.test_per_class)) == (3570 + unused, 1530)
    assert standard.digest != vdsd.digest
    with pytest.raises(ValueError, match="did you mean 'vdsd'"):
        HMDB51(pool="vdds")
    with pytest.raises(DataError, match="_test_split2"):
        make(HMDB51, tmp_path, split=2).items("train")


@pytest.mark.parametrize("layout", ["{split}/{file}", "videos_{split}/{label_}/{file}", "{split}/{label}/{file}"])
def test_kinetics400(tmp_path: Path, layout: str) -> None:
    lists: dict[str, list[tuple[str, str, int, int]]] = {
        "train": [("abseiling", "-AbC_x12345", 10, 20), ("air drumming", "qqqqqqqqqqq", 0, 10)],
        "val": [("air drumming", "vvvvvvvvvvv", 100, 110), ("abseiling", "rrrrrrrrrrr", 5, 15)],
    }
    for split, rows in lists.items():
        path = tmp_path / "annotations" / f"{split}.csv"
        path.parent.mkdir(exist_ok=True)
        with open(path, "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["label", "youtube_id", "time_start", "time_end", "split", "is_cc"])
            writer.writerows([*row, split, 0] for row in rows)
        for label, video, start, end in rows:
            file = f"{video}_{start:06d}_{end:06d}.mp4"
            place = layout.format(split=split, label=label, label_=label.replace(" ", "_"), file=file)
            if video[0] == "r":
                place = f"replacement/replacement_for_corrupted_k400/{file}"
            write_video(tmp_path / place, 60, "libx264", rate=15)
    plugin = make(Kinetics400, tmp_path)
    assert plugin.classes() == ("abseiling", "air drumming")
    assert [i.label for i in plugin.items("train")] == [0, 1]
    assert [i.label for i in plugin.items("test")] == [1, 0]
    assert not any(i.problem for split in ("train", "test") for i in plugin.items(split))
    clip = plugin.read(plugin.items("train")[0], (8, 3, 64, 64))
    assert clip.native_frames == 60
    assert clip.indices == tuple(centred(60, 4.0, 8))
    assert [read_stamp(p, cropped=False) for p in clip.frames] == list(clip.indices)


def test_ssv2(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "labels.json").write_text(json.dumps({"Pushing something left": "1", "Holding something": "0"}))
    entries = {"train": [("7", "Pushing [something] left"), ("10", "Holding [something]")], "validation": [("3", "Holding [something]")]}
    for name, rows in entries.items():
        text = json.dumps([{"id": i, "label": "pushing a cup left", "template": t, "placeholders": ["a cup"]} for i, t in rows])
        (labels / f"{name}.json").write_text(text)
        for i, _ in rows:
            write_video(tmp_path / "20bn-something-something-v2" / f"{i}.webm", 22, "libvpx-vp9")
    plugin = make(SomethingSomethingV2, tmp_path)
    assert plugin.classes() == ("Holding something", "Pushing something left")
    assert [(i.id, i.label) for i in plugin.items("train")] == [("7", 1), ("10", 0)]
    assert plugin.flip is False
    clip = plugin.read(plugin.items("test")[0], (8, 3, 64, 64))
    assert clip.indices == tuple(spread(22, 8))
    assert [read_stamp(p, cropped=False) for p in clip.frames] == list(clip.indices)
    (labels / "train.json").write_text(json.dumps([{"id": "7", "template": "Holding [nothing]"}]))
    with pytest.raises(DataError, match="unknown class 'Holding nothing'"):
        make(SomethingSomethingV2, tmp_path).items("train")


def test_utd_mhad(tmp_path: Path) -> None:
    from scipy.io import savemat

    (tmp_path / "Depth").mkdir()
    depth = np.zeros((24, 32, 9), np.uint16)
    for t in range(9):
        depth[8:16, 3 * t : 3 * t + 6, t] = 1000 + 100 * t
    for action in (1, 2, 27):
        for subject in range(1, 9):
            savemat(tmp_path / "Depth" / f"a{action}_s{subject}_t1_depth.mat", {"d_depth": depth}, do_compression=True)
    plugin = make(UTDMHAD, tmp_path)
    assert len(plugin.classes()) == len(ACTIONS) == 27
    assert Counter(i.label for i in plugin.items("train")) == {0: 4, 1: 4, 26: 4}
    assert {re.search(r"_s(\d)_", i.id)[1] for i in plugin.items("train")} == set("1357")  # type: ignore[index]
    assert {re.search(r"_s(\d)_", i.id)[1] for i in make(UTDMHAD, tmp_path, train_subjects="12345").items("test")} == set("678")  # type: ignore[index]
    clip = plugin.read(plugin.items("train")[0], SMALL)
    assert clip.frames.shape == SMALL
    assert clip.native_frames == 9
    assert clip.frames.min() == 0
    whole = plugin.read(plugin.items("train")[0], (9, 1, 48, 48))
    brightness = [int(frame.max()) for frame in whole.frames]
    assert brightness[0] == 255, "the nearest point is white"
    assert brightness == sorted(brightness, reverse=True), "farther is darker"
    for people in ("", "12345678", "19"):
        with pytest.raises(ValueError, match="train_subjects"):
            UTDMHAD(train_subjects=people)


def test_folder_and_table(tmp_path: Path) -> None:
    for split, cls, name in (("train", "a b", "é 1.mp4"), ("train", "c", "2.mkv"), ("test", "a b", "3.mp4"), ("test", "c", "4.mkv")):
        write_video(tmp_path / split / cls / name, 12, "libx264")
    write_frames(tmp_path / "train" / "c" / "10", 12)
    plugin = make(VideoFolder, tmp_path)
    assert plugin.classes() == ("a b", "c")
    assert [i.id for i in plugin.items("train")] == ["train/a b/é 1.mp4", "train/c/2.mkv", "train/c/10"]
    for item in plugin.items("train"):
        assert plugin.read(item, SMALL).native_frames == 12
    with open(tmp_path / "videos.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path", "label", "split"])
        writer.writerows([["train/a b/é 1.mp4", "x", "train"], [str(tmp_path / "train" / "c" / "2.mkv"), "y", "train"]])
        writer.writerows([["test/c/4.mkv", "y", "test"], ["train/c/10", "x", "test"]])
    table = make(VideoTable, tmp_path)
    assert table.classes() == ("x", "y")
    assert [i.label for i in table.items("test")] == [1, 0]
    for split in ("train", "test"):
        assert [table.read(i, SMALL).native_frames for i in table.items(split)] == [12, 12]


def test_what_a_list_can_have_wrong(tmp_path: Path) -> None:
    touch(tmp_path / "Walk" / "v.avi")
    touch(tmp_path / "Walk" / "w.avi")
    with pytest.raises(DataError, match=r"no list trainlist01\.txt .* looked for ucfTrainTestlist/trainlist01\.txt"):
        make(UCF101, tmp_path).items("train")
    ucf_lists(tmp_path, ["Walk/v.avi"], ["Walk/w.avi"], ["Walk"])
    train = tmp_path / "ucfTrainTestlist" / "trainlist01.txt"
    for text, message in (
        ("Wolk/v.avi 1", r"line 1: unknown class 'Wolk'; did you mean 'Walk'\?"),
        ("Walk/v.avi 2", "has the label 2"),
        ("v.avi 1", "expected <Class>/<video>"),
        ("", "lists no video"),
        ("Walk/absent.avi 1", "none of the"),
    ):
        train.write_text(text)
        (tmp_path / "ucfTrainTestlist" / "testlist01.txt").write_text("Walk/gone.avi\n" if "absent" in text else "Walk/w.avi\n")
        with pytest.raises(DataError, match=message):
            make(UCF101, tmp_path).items("train")
    train.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read the list"):
        make(UCF101, tmp_path).items("train")
    with pytest.raises(DataError, match="no folder train"):
        make(VideoFolder, tmp_path).items("train")
    touch(tmp_path / "videos.csv", b"path,label\na,b\n")
    with pytest.raises(DataError, match="lacks the column split"):
        make(VideoTable, tmp_path).items("train")
    touch(tmp_path / "videos.csv", b"path,label,split\na,b,dev\n")
    with pytest.raises(DataError, match="line 2: split 'dev'"):
        make(VideoTable, tmp_path).items("train")


def test_problems_of_lists_are_known_before_decoding(tmp_path: Path) -> None:
    for name in ("v.avi", "w.avi", "z.avi"):
        touch(tmp_path / "Walk" / name)
    ucf_lists(tmp_path, ["Walk/v.avi", "Walk/v.avi", "Walk/gone.avi", "Walk/z.avi"], ["Walk/w.avi", "Walk/z.avi"], ["Walk"])
    plugin = make(UCF101, tmp_path, train_clips=3)
    problems = {i.id: i.problem for i in plugin.items("train")}
    assert problems == {
        "Walk/v.avi": "",
        "Walk/v.avi#1": "",
        "Walk/v.avi#2": "",
        "Walk/v.avi (again 1)": "listed twice",
        "Walk/gone.avi": "missing",
        "Walk/z.avi": "also in the test split",
    }
    info = describe(plugin, "ucf101")
    assert (info.train_per_class, info.test_per_class) == ((3,), (2,))


def test_the_digest_is_of_lists_sizes_and_sampling_not_of_places(tmp_path: Path) -> None:
    for root in (tmp_path / "one", tmp_path / "two"):
        ucf_lists(root, ["Walk/v.avi"], ["Walk/w.avi"], ["Walk"])
        for name in ("v.avi", "w.avi"):
            touch(root / ("videos" if root.name == "two" else ".") / "Walk" / name)
    one, two = make(UCF101, tmp_path / "one"), make(UCF101, tmp_path / "two", flip=False, max_lost=0.5)
    assert one.digest() == two.digest()
    for change in ({"seed": 1}, {"stride": 2}, {"train_clips": 2}):
        assert make(UCF101, tmp_path / "one", **change).digest() != one.digest()
    touch(tmp_path / "one" / "Walk" / "v.avi", b"another video")
    assert make(UCF101, tmp_path / "one").digest() != one.digest()


def test_digests_and_recipes_stay_what_they_were(tmp_path: Path) -> None:
    """Fixed values: caches and records that exist are named by them."""
    ucf_lists(tmp_path / "ucf", ["Walk/v.avi", "Run/v.avi"], ["Run/w.avi"], ["Walk", "Run"])
    for name in ("Walk/v.avi", "Run/v.avi", "Run/w.avi"):
        touch(tmp_path / "ucf" / name)
    ucf = make(UCF101, tmp_path / "ucf", train_clips=2)
    assert ucf.recipe() == '["strided", 1, {"seed": 0, "stride": 4}]'
    assert ucf.digest() == "7c915936eb3e73982f32cb8e56af50efa31a37934bd4eec22d64edde7c40f68e"
    assert describe(ucf, "ucf101", code="any").digest == "1628e4cb9abe05ced3018213def88b9b56a21a0c83a1b032e55381178bda1d73"
    for number in range(3):
        touch(tmp_path / "hmdb" / "a" / f"{number}.avi")
    touch(tmp_path / "hmdb" / "splits" / "a_test_split1.txt", b"0.avi 1\n1.avi 2\n2.avi 0\n")
    hmdb = make(HMDB51, tmp_path / "hmdb", pool="vdsd")
    assert hmdb.recipe() == ucf.recipe(), "split and pool decide which clips there are, not how one looks"
    assert hmdb.digest() == "4c81f3a268da8c72ab3c8d11555b04936c1fb52850287a70acdc7dfb8aa5bd35"
    assert describe(hmdb, "hmdb51").digest == "74cf8f2c8e62f6cd1b41cb4582cc16a6dfbf221ca927c7d3f11fd19f18fb6f77"


@pytest.mark.parametrize("name", ["ucf101", "miniucf", "hmdb51", "kinetics400", "ssv2", "utd_mhad", "folder", "csv"])
def test_parameters_are_checked_without_a_root_and_lists_are_not_read_without_one(tmp_path: Path, name: str) -> None:
    resolved = Registry().resolve("dataset", f"{name}[seed=3]")
    plugin = resolved.create()
    assert plugin.seed == 3
    assert json.loads(plugin.recipe().partition("]")[0] + "]")[2]["seed"] == 3
    for ask in (lambda p: p.items("train"), lambda p: p.digest(), lambda p: describe(p, name)):
        with pytest.raises(DataError, match=rf"dataset '{name}' is read from disk: name its folder with --data-root DIR"):
            ask(plugin)
        with pytest.raises(DataError, match=r"data root .*nowhere does not exist or is not a folder"):
            ask(resolved.create(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=rf"{name}.*train_clips and test_clips must be at least 1"):
        Registry().resolve("dataset", f"{name}[test_clips=0]")


def test_inherited_parameters_are_listed_from_the_source_alone() -> None:
    program = (
        "import json, sys; from harness.registry import Registry\n"
        "print(json.dumps({i.name: {p.name: [p.default, p.doc] for p in i.params} for i in Registry().infos('dataset')}))\n"
        "sys.exit(bool({'harness.data.listed', 'harness.data.ucf101', 'torch'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    listed = json.loads(told.stdout)
    shared = ["train_clips", "test_clips", "seed", "flip", "max_lost"]
    assert set(listed["miniucf"]) == set(listed["ucf101"]) == {*shared, "stride", "split"}
    assert set(listed["hmdb51"]) == {*shared, "stride", "split", "pool"}
    assert set(listed["ssv2"]) == set(listed["kinetics400"]) == set(shared)
    assert set(listed["utd_mhad"]) == {*shared, "stride", "train_subjects"}
    assert set(listed["csv"]) == {*shared, "stride", "file"}
    assert {name: params["flip"][0] for name, params in listed.items() if "flip" in params} == {
        "csv": "False", "folder": "False", "hmdb51": "True", "kinetics400": "True", "miniucf": "True", "ssv2": "False",
        "ucf101": "True", "utd_mhad": "False",
    }  # fmt: skip
    assert set(listed["moving-digits"]) == {"preset", "train_per_class", "test_per_class"}
    assert all(doc for params in listed.values() for _, doc in params.values())
    defaults = {name: repr(value) for name, value in Registry().resolve("dataset", "miniucf").spec.params.items()}
    assert defaults == {name: default for name, (default, _) in listed["miniucf"].items()}


def test_sampling_keeps_the_rules_of_the_published_code() -> None:
    for length in (1, 15, 16, 17, 29, 63, 64, 65, 200):
        starts = {int(strided(length, 16, 4, item_generator(s, "v", 0))[0]) for s in range(200)}
        stride = 4 if length >= 64 else max(1, length // 16)
        for s in range(20):
            indices = strided(length, 16, 4, item_generator(s, "v", 0))
            assert indices.min() >= 0
            assert indices.max() < length
            if length >= 16:
                assert set(np.diff(indices)) == {stride}
        if length > 16:
            assert max(starts) + 15 * stride <= length - 2, "the last frame is never used"
            assert min(starts) == 0
            assert length > 100 or starts == set(range(max(1, length - 15 * stride - 1))), "every other start is used"
    assert len({int(strided(500, 16, 4, item_generator(0, name, part))[0]) for name in "abcde" for part in (0, 1)}) > 5
    for length in (1, 3, 8, 9, 100):
        for rule in (spread(length, 8), centred(length, length / 25, 8)):
            assert rule.min() >= 0
            assert rule.max() < length
            assert (np.diff(rule) >= 0).all()
