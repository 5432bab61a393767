"""python -m harness data: exit codes and what is printed."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Harness
from tests.data.videos import write_video


def make_videos(root: Path) -> Path:
    for split in ("train", "test"):
        for name in ("left", "right"):
            for number in range(2):
                write_video(root / split / name / f"{number}.mp4", 20, "libx264")
    return root


def test_prepare_verify_info_preview(harness: Harness, tmp_path: Path) -> None:
    root = make_videos(tmp_path / "videos")
    options = ("--dataset", "folder", "--data-root", str(root), "--set", "datasets.folder.frames=4", "--set", "datasets.folder.size=32")
    before = harness("data", "verify", *options)
    assert before.returncode == 0, before.stderr
    assert "not prepared" in before.stdout
    prepared = harness("data", "prepare", *options, "--workers", "2")
    assert prepared.returncode == 0, prepared.stderr
    assert "clips/s" in prepared.stderr
    info = harness("data", "info", *options)
    assert "native train frames   80" in info.stdout
    assert "4 frames of 32 x 32, 3 channels" in info.stdout
    preview = harness("data", "preview", *options, "--class", "right")
    assert Path(preview.stdout.strip()).name == "001-right.png"
    sound = harness("data", "verify", *options)
    assert sound.returncode == 0
    assert "4 train and 4 test clips" in sound.stdout
    assert sound.stdout.strip().endswith("sound")
    (root / "train" / "left" / "0.mp4").write_bytes(b"")
    refused = harness("data", "prepare", *options)
    assert refused.returncode == 2
    assert "the file is empty" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_usage_errors(harness: Harness, tmp_path: Path) -> None:
    for arguments, message in (
        (("info", "--dataset", "ucf101"), "--data-root"),
        (("info", "--dataset", "ucf102"), "did you mean 'ucf101'"),
        (("info", "--dataset", "ucf101", "--data-root", str(tmp_path / "nowhere")), "nowhere"),
        (("info", "--dataset", "ucf101[strides=2]", "--data-root", str(tmp_path)), "'stride'"),
        (("prepare", "--dataset", "ucf101", "--data-root", str(tmp_path)), "looked for"),
    ):
        answer = harness("data", *arguments)
        assert answer.returncode == 2, arguments
        assert message in answer.stderr
        assert "Traceback" not in answer.stderr
