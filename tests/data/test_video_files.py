"""Reading one video: every codec, container and oddity, frame by frame."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from harness.data.video_files import fitted_size, natural_order, read_video
from harness.errors import DataError
from tests.data.videos import read_stamp, stamp, upright, write_frames, write_sound, write_video

SHAPE = (4, 3, 112, 112)
WANTED = np.array([1, 6, 7, 18])


def choose(length: int, seconds: float) -> list[np.ndarray]:
    return [np.minimum(WANTED, length - 1)]


@pytest.mark.parametrize(
    ("suffix", "codec", "size", "pix_fmt"),
    [
        (".mp4", "libx264", (160, 120), None),
        (".mkv", "libx264", (161, 121), "yuv444p"),
        (".mkv", "libx264", (200, 90), "yuv420p10le"),
        (".avi", "libx264", (320, 240), None),
        (".avi", "mpeg4", (160, 120), None),
        (".avi", "mpeg4", (175, 143), None),
        (".avi", "mjpeg", (163, 119), "yuvj444p"),
        (".webm", "libvpx-vp9", (160, 120), None),
        (".mkv", "ffv1", (160, 120), "gray"),
    ],
)
def test_codecs_and_containers(tmp_path: Path, suffix: str, codec: str, size: tuple[int, int], pix_fmt: str | None) -> None:
    path = write_video(tmp_path / f"a video é{suffix}", 20, codec, size, pix_fmt=pix_fmt)
    (clip,) = read_video(path, SHAPE, choose, "crop")
    assert clip.frames.shape == SHAPE
    assert clip.native_frames == 20
    assert clip.indices == tuple(WANTED)
    assert [read_stamp(picture) for picture in clip.frames] == WANTED.tolist()
    assert all(upright(picture) for picture in clip.frames)


def test_pixels_are_those_of_a_plain_decode(tmp_path: Path) -> None:
    """Against the drawn frames, PyAV's own conversion at full size, and a 2 x 2 mean: OpenCV's bilinear from 320 x 240 to 160 x 120."""
    path = write_video(tmp_path / "v.mkv", 20, "ffv1", (320, 240), pix_fmt="yuv420p")
    (clip,) = read_video(path, SHAPE, choose, "crop")
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for picture, index in zip(clip.frames, WANTED, strict=True):
        for frame, tolerance in ((stamp(index, 320, 240), 1), (decoded[index], 2)):
            expected = frame.reshape(120, 2, 160, 2, 3).mean(axis=(1, 3))[4:116, 24:136].transpose(2, 0, 1)
            assert np.abs(picture - expected).max() <= tolerance


def test_squash_keeps_the_whole_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 20, "libx264", (240, 120))
    (clip,) = read_video(path, (4, 1, 64, 64), choose, "squash")
    assert clip.frames.shape == (4, 1, 64, 64)
    assert [read_stamp(picture, cropped=False) for picture in clip.frames] == WANTED.tolist()


def test_fitted_size_is_published_at_112_and_in_proportion_elsewhere() -> None:
    assert fitted_size(112, 112, "crop") == (120, 160)
    assert fitted_size(56, 56, "crop") == (60, 80)
    assert fitted_size(64, 64, "squash") == (64, 64)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_metadata(tmp_path: Path, degrees: int) -> None:
    """Frames are stored turned, and the header says how to turn them back."""
    path = tmp_path / "v.mp4"
    turns = degrees // 90  # the header asks for so many clockwise quarter turns
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stored = [np.ascontiguousarray(np.rot90(stamp(n), turns)) for n in range(20)]
        stream.height, stream.width, stream.pix_fmt = *stored[0].shape[:2], "yuv420p"
        stream.options = {"preset": "ultrafast"}
        for picture in stored:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    header = path.read_bytes()
    fixed = [value.to_bytes(4, "big", signed=True) for value in (65536 * m for m in matrix)]
    identity = b"".join(v.to_bytes(4, "big") for v in (65536, 0, 0, 0, 65536, 0, 0, 0, 0x40000000))
    turned = fixed[0] + fixed[1] + bytes(4) + fixed[2] + fixed[3] + bytes(12) + identity[-4:]
    track = header.index(b"tkhd")
    place = header.index(identity, track)
    path.write_bytes(header[:place] + turned + header[place + len(identity) :])
    (clip,) = read_video(path, SHAPE, choose, "crop")
    assert all(upright(picture) for picture in clip.frames)
    assert [read_stamp(picture) for picture in clip.frames] == WANTED.tolist()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate(tmp_path: Path, suffix: str) -> None:
    times = [0, 10, 20, 400, 410, 900, 910, 920, 1500, 1501, 1600, 1700, 1710, 1720, 2500, 2510, 2520, 2600, 2700, 4000]
    seen: list[float] = []

    def note(length: int, seconds: float) -> list[np.ndarray]:
        seen.append(seconds)
        return choose(length, seconds)

    (clip,) = read_video(write_video(tmp_path / f"v{suffix}", 20, "libx264", times=times), SHAPE, note, "crop")
    assert clip.native_frames == 20
    assert [read_stamp(picture) for picture in clip.frames] == WANTED.tolist()
    assert 2.5 < seen[-1] < 5.1  # as the container says; mp4 forgets the last frame's


def test_sizes_that_change_within_a_video(tmp_path: Path) -> None:
    """Motion JPEG may: two streams of different sizes, one after the other."""
    small, large = write_video(tmp_path / "a.mjpeg", 10, "mjpeg"), write_video(tmp_path / "b.mjpeg", 10, "mjpeg", (320, 240), first=10)
    both = tmp_path / "both.mjpeg"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    (clip,) = read_video(both, SHAPE, choose, "crop")
    assert clip.native_frames == 20
    assert [read_stamp(picture) for picture in clip.frames] == WANTED.tolist()


def test_frames_that_decode_are_counted_not_those_that_are_announced(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.avi", 60, "mpeg4")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    lengths: list[int] = []

    def note(length: int, seconds: float) -> list[np.ndarray]:
        lengths.append(length)
        return choose(length, seconds)

    (clip,) = read_video(cut, SHAPE, note, "crop")
    with av.open(str(cut)) as container:
        reference = 0
        for packet in container.demux(video=0):
            try:
                reference += len(packet.decode())
            except av.error.FFmpegError:
                break
    assert clip.native_frames == lengths[-1]
    assert abs(clip.native_frames - reference) <= 1
    assert 20 < clip.native_frames < 45
    assert [read_stamp(picture) for picture in clip.frames] == WANTED.tolist()


def test_one_frame_and_wrong_suffix_work(tmp_path: Path) -> None:
    (still,) = read_video(write_video(tmp_path / "one.mp4", 1, "libx264"), SHAPE, choose, "crop")
    assert still.native_frames == 1
    assert still.indices == (0, 0, 0, 0)
    renamed = write_video(tmp_path / "v.mkv", 20, "libx264").rename(tmp_path / "v.avi")
    assert read_video(renamed, SHAPE, choose, "crop")[0].native_frames == 20


def test_unreadable_files_say_why(tmp_path: Path) -> None:
    empty = tmp_path / "empty.avi"
    empty.touch()
    text = tmp_path / "text.avi"
    text.write_text("not a video at all\n" * 100)
    noise = tmp_path / "noise.avi"
    noise.write_bytes(np.random.default_rng(0).bytes(5000))
    header = tmp_path / "header.mp4"
    header.write_bytes(write_video(tmp_path / "v.mp4", 20, "libx264").read_bytes()[:300])
    sound = write_sound(tmp_path / "sound.mp4")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    reasons = {}
    for path in (empty, text, noise, header, sound, nothing, tmp_path / "absent.avi"):
        with pytest.raises(DataError) as caught:
            read_video(path, SHAPE, choose, "crop")
        reasons[path.stem] = str(caught.value)
    assert reasons["empty"] == "the file is empty"
    assert "no video stream" in reasons["sound"]
    assert "no frames" in reasons["nothing"]
    assert "No such file" in reasons["absent"]
    assert all("\n" not in reason and len(reason) < 200 for reason in reasons.values())


def test_frame_folder_in_natural_order(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", 20)
    (folder / "notes.txt").write_text("not a frame")
    (clip,) = read_video(folder, SHAPE, choose, "crop")
    assert clip.native_frames == 20
    assert [read_stamp(picture) for picture in clip.frames] == WANTED.tolist()
    (folder / "frame7.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"frame7\.jpg"):
        read_video(folder, SHAPE, choose, "crop")
    assert [p.name for p in natural_order([Path("f10"), Path("f9"), Path("f1")])] == ["f1", "f9", "f10"]


def test_several_clips_of_one_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", 20, "libx264")
    opened: list[str] = []
    real = av.open
    monkeypatch.setattr("harness.data.video_files.av.open", lambda *a, **k: (opened.append(a[0]), real(*a, **k))[1])
    first, second = read_video(path, SHAPE, lambda n, s: [np.arange(4), np.arange(10, 14)], "crop")
    assert [read_stamp(p) for p in first.frames] == [0, 1, 2, 3]
    assert [read_stamp(p) for p in second.frames] == [10, 11, 12, 13]
    assert len(opened) == 2  # the header, and one decode
