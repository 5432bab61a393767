"""HMDB51 in the layout that it is published in.

    DIR/<class>/<video>.avi                                  also under DIR/videos, DIR/hmdb51_org; or folders of extracted frames
    DIR/testTrainMulti_7030_splits/<class>_test_split1.txt   or DIR/splits, DIR/annotations: '<video>.avi <code>' with the codes
                                                             1 train, 2 test, 0 unused by this split
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from harness.data.listed import Listed, ListedVideos, find_video, read_lines
from harness.errors import DataError, did_you_mean
from harness.plugin import dataset

POOLS = ("standard", "vdsd")


@dataset("hmdb51")
class HMDB51(ListedVideos):
    """HMDB51: 51 classes; the standard training pool (3,570 videos) or VDSD's, which is all that is not test (5,236)."""

    split: int = 1
    """Official split: 1, 2 or 3."""
    pool: str = "standard"
    """Training videos: standard (code 1 of the split files, 3,570) or vdsd (all that are not test, 5,236)."""
    stride: int = 4
    """Native frames from one frame of a clip to the next; less where the video is too short."""
    train_clips: int = 1
    """Clips taken of each training video."""
    test_clips: int = 1
    """Clips taken of each test video."""
    seed: int = 0
    """Decides where in its video a clip starts."""
    flip: bool = True
    """Whether a mirrored clip keeps its label."""
    max_lost: float = 0.02
    """Share of a split's videos that may be missing or broken; more is an error."""

    def classes(self) -> tuple[str, ...]:
        return tuple(self._lists)

    def listing(self, split: str) -> Iterator[Listed]:
        if self.pool not in POOLS:
            raise DataError(f"hmdb51: unknown pool {self.pool!r}{did_you_mean(self.pool, POOLS)}")
        codes = {"2"} if split == "test" else {"1"} if self.pool == "standard" else {"0", "1"}
        bases = [base for base in (self.root / b for b in (".", "videos", "hmdb51_org", "rawframes")) if base.is_dir()]
        for label, (name, path) in enumerate(self._lists.items()):
            for number, line in read_lines(path):
                video, _, code = line.rpartition(" ")
                if code not in ("0", "1", "2") or not video:
                    raise DataError(f"{path}, line {number}: expected '<video> <0|1|2>', got {line!r}")
                if code in codes:
                    video = video.strip()
                    yield Listed(f"{name}/{video}", label, find_video(bases, f"{name}/{video}", video))

    @cached_property
    def _lists(self) -> dict[str, Path]:
        """Class -> its split file, in alphabetical order of the classes."""
        places = ("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", "splits", "annotations", ".")
        ending = f"_test_split{self.split}.txt"
        for place in places:
            found = {path.name.removesuffix(ending): path for path in sorted((self.root / place).glob(f"*{ending}"))}
            if found:
                return found
        raise DataError(f"no split files <class>{ending} under {self.root}: looked in {', '.join(places)}") from None
