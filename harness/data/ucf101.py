"""UCF101 and its 50-class subset MiniUCF, in the layout that they are published in.

    DIR/<Class>/v_<Class>_gXX_cYY.avi            also under DIR/videos, DIR/UCF-101; or folders of extracted frames without .avi,
                                                 also without the class folder (DIR/jpegs_256/v_<Class>_gXX_cYY/frame000001.jpg)
    DIR/ucfTrainTestlist/classInd.txt ...        or DIR/classInd.txt; trainlist0X.txt, testlist0X.txt beside it
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from harness.data.listed import Listed, StridedVideos, class_index, find_file, find_video, read_lines
from harness.errors import DataError
from harness.plugin import dataset

_MINIUCF = """
    ApplyEyeMakeup BalanceBeam BandMarching BaseballPitch Basketball BasketballDunk Biking Billiards BlowingCandles Bowling
    BreastStroke CleanAndJerk CliffDiving CricketShot Diving FloorGymnastics FrisbeeCatch GolfSwing HammerThrow HighJump HorseRace
    HorseRiding HulaHoop IceDancing JumpingJack Knitting MilitaryParade Mixing ParallelBars PlayingPiano PlayingViolin PoleVault
    PommelHorse Punch Rafting Rowing SkateBoarding Skiing Skijet SkyDiving SoccerPenalty StillRings SumoWrestling Surfing Swing
    TennisSwing TrampolineJumping UnevenBars VolleyballSpiking WritingOnBoard"""
MINIUCF_CLASSES = tuple(_MINIUCF.split())
"""The classes of VDSD's MiniUCF list (ucf50_splits1.csv of its release), in label order."""


@dataset("ucf101")
class UCF101(StridedVideos):
    """UCF101 (101 classes, 13,320 videos), or any folder in its layout with its own classInd.txt."""

    choices = frozenset({"split"})

    split: int = 1
    """Official split: 1, 2 or 3."""
    flip: bool = True
    """Whether a mirrored clip keeps its label; say false where left and right are classes."""

    def classes(self) -> tuple[str, ...]:
        return self._classes

    def listing(self, split: str) -> Iterator[Listed]:
        path = self._list(f"{split}list{self.split:02d}.txt")
        classes = self.classes()
        bases = [base for base in (self.data_root / b for b in (".", "videos", "UCF-101", "jpegs_256", "rawframes")) if base.is_dir()]
        for number, line in read_lines(path):
            name, label_text = _split_label(line)
            folder, slash, file = name.partition("/")
            where = f"{path}, line {number}"
            if not slash:
                raise DataError(f"{where}: expected <Class>/<video>, got {line!r}")
            if self._ignores(folder):
                continue
            label = class_index(folder, classes, where)
            if label_text and not self._label_agrees(folder, int(label_text)):
                raise DataError(f"{where}: {folder!r} has the label {label_text}, but classInd.txt says otherwise")
            yield Listed(name, label, find_video(bases, name, file))

    def _ignores(self, class_name: str) -> bool:
        return False

    def _label_agrees(self, class_name: str, label: int) -> bool:
        return self._numbers.get(class_name) == label

    def _list(self, file: str) -> Path:
        return find_file(self.data_root, f"list {file}", f"ucfTrainTestlist/{file}", file, f"annotations/{file}")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Class name -> number of classInd.txt, in the order of the numbers."""
        path = self._list("classInd.txt")
        numbers: dict[str, int] = {}
        for line_number, line in read_lines(path):
            number, _, name = line.partition(" ")
            if not number.isdigit() or not name.strip():
                raise DataError(f"{path}, line {line_number}: expected '<number> <Class>', got {line!r}")
            if name.strip() in numbers or int(number) in numbers.values():
                raise DataError(f"{path}, line {line_number}: {line!r} repeats a class or a number")
            numbers[name.strip()] = int(number)
        if not numbers:
            raise DataError(f"{path} is empty")
        return dict(sorted(numbers.items(), key=lambda entry: entry[1]))

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return tuple(self._numbers)


@dataset("miniucf")
class MiniUCF(UCF101):
    """MiniUCF: 50 classes of UCF101, official split 1 (4,662 training and 1,861 test videos)."""

    def classes(self) -> tuple[str, ...]:
        return MINIUCF_CLASSES

    def _ignores(self, class_name: str) -> bool:
        return class_name not in MINIUCF_CLASSES

    def _label_agrees(self, class_name: str, label: int) -> bool:
        return True  # the numbers are UCF101's


def _split_label(line: str) -> tuple[str, str]:
    """'Class/v_name.avi 12' -> name and label; the name may hold spaces, the label may be absent.

    >>> _split_label("Walk/v 1.avi 12"), _split_label("Walk/v_2.avi")
    (('Walk/v 1.avi', '12'), ('Walk/v_2.avi', ''))
    """
    name, space, label = line.rpartition(" ")
    return (name.strip(), label) if space and label.isdigit() else (line, "")
