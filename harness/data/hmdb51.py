"""HMDB51 in the layout that it is published in.

    DIR/<class>/<video>.avi                                  also under DIR/videos, DIR/hmdb51_org; or folders of extracted frames
    DIR/testTrainMulti_7030_splits/<class>_test_split1.txt   or DIR/splits, DIR/annotations: '<video>.avi <code>' with the codes
                                                             1 train, 2 test, 0 unused by this split
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from harness.data.listed import Listed, StridedVideos, find_video, read_lines
from harness.errors import DataError, did_you_mean
from harness.plugin import dataset

POOLS = ("standard", "vdsd")


@dataset("hmdb51")
class HMDB51(StridedVideos):
    """HMDB51: 51 classes; the standard training pool (3,570 videos) or VDSD's, which is all that is not test (5,236)."""

    choices = frozenset({"split", "pool"})

    split: int = 1
    """Official split: 1, 2 or 3."""
    pool: str = "standard"
    """Training videos: standard (code 1 of the split files, 3,570) or vdsd (all that are not test, 5,236)."""
    flip: bool = True
    """Whether a mirrored clip keeps its label."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in POOLS:
            raise ValueError(f"unknown pool {self.pool!r}{did_you_mean(self.pool, POOLS)}")

    def classes(self) -> tuple[str, ...]:
        return tuple(self._lists)

    def listing(self, split: str) -> Iterator[Listed]:
        codes = {"2"} if split == "test" else {"1"} if self.pool == "standard" else {"0", "1"}
        bases = [base for base in (self.data_root / b for b in (".", "videos", "hmdb51_org", "rawframes")) if base.is_dir()]
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
            found = {path.name.removesuffix(ending): path for path in sorted((self.data_root / place).glob(f"*{ending}"))}
            if found:
                return found
        raise DataError(f"no split files <class>{ending} under {self.data_root}: looked in {', '.join(places)}") from None
