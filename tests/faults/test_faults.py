"""A sample of the faults, and the rest of them where slow tests run; `python -m tests.faults` injects all and prints the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.__main__ import make_template
from tests.faults.cases import CASES, Case
from tests.faults.scene import Scene

SAMPLE = (
    *("pollution: dtype, in an evaluation", "pollution: inference", "pollution: loss, in an evaluation", "pollution: step"),
    *("pollution: hook, in an evaluation", "pollution: stdout", "pollution: descriptor", "error: unprintable", "error: generator-exit"),
    *("data record: truncated", "asset record: empty", "distill record: a fifo", "evaluate record: swapped", "evaluate record: NaN"),
    *("distill record: nested deeply", "evaluate record: a link to /dev/zero", "data record: a directory", "asset record: a link loop"),
    *("distill artifact: a sparse file of 60 GiB", "distill artifact: a bit flipped", "evaluate record: another task under its key"),
)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple]]:
    return make_template(tmp_path_factory.mktemp("undisturbed"))


def cases() -> list[object]:
    assert set(SAMPLE) <= {case.name for case in CASES}
    return [pytest.param(case, id=case.name, marks=() if case.name in SAMPLE else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", cases())
def test_nothing_is_lost_and_no_number_is_wrong(case: Case, tmp_path: Path, undisturbed: tuple[Path, dict[str, tuple]]) -> None:
    template, good = undisturbed
    skipped = case.inject(Scene(tmp_path / "scene", template if case.finished else None), good)
    if skipped is not None:
        pytest.skip(skipped)
