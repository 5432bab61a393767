"""DD-Ranking's scores against a computation by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.protocol import TrainingProtocol
from harness.report import build_report
from harness.report.build import make_report
from harness.report.ddranking import augmentation_robust, label_robust
from harness.report.tables import DASH, TableCell
from harness.spec import ProtocolSpec
from tests.report.records import Builder

RECIPE = TrainingProtocol(lr=0.01, epochs=60, crop=4, flip=True)
HARD, RANDOM, SOFT, RANDOM_SOFT, PLAIN, RANDOM_PLAIN = (0.6, 0.64), (0.5, 0.46), (0.7, 0.72), (0.66, 0.7), (0.55, 0.57), (0.5, 0.49)
FULL = 0.9


def scores(root: Path, method: str = "gvd") -> dict[str, TableCell]:
    """Column -> cell of a method at IPC 1, where there is such a table."""
    report = make_report(root, draw=False)
    tables = [table for table in report.tables if table.name.startswith("ddranking-")]
    if not tables:
        return {}
    row = next(row for row in tables[0].rows if row.label.text == f"{method}, IPC 1")
    return dict(zip(tables[0].columns, row.cells, strict=True))


def results(root: Path, *, soft: bool = True, plain: bool = True, full: bool = True, labels: str = "soft") -> None:
    build = Builder(root)
    build.protocol = ProtocolSpec(name="quick", recipe=RECIPE)
    if full:
        build.evaluate("full", None, 0, build.teacher("convnet3d"), accuracy=FULL, exact=True)
    for seed in range(2):
        gvd, random = build.distill("gvd", 1, seed), build.distill("random", 1, seed)
        build.evaluate("gvd", 1, seed, gvd, accuracy=HARD[seed], exact=True)
        build.evaluate("random", 1, seed, random, accuracy=RANDOM[seed], exact=True)
        if soft:
            build.evaluate("gvd", 1, seed, gvd, accuracy=SOFT[seed], exact=True, labels=labels)  # type: ignore[arg-type]
            build.evaluate("random", 1, seed, random, accuracy=RANDOM_SOFT[seed], exact=True, labels="soft")
        if plain:
            build.protocol = ProtocolSpec(name="bare", recipe=RECIPE.model_copy(update={"crop": 0, "flip": False}))
            build.evaluate("gvd", 1, seed, gvd, accuracy=PLAIN[seed], exact=True)
            build.evaluate("random", 1, seed, random, accuracy=RANDOM_PLAIN[seed], exact=True)
            build.protocol = ProtocolSpec(name="quick", recipe=RECIPE)


@pytest.mark.parametrize("labels", ["soft", "native"])
def test_scores_are_those_of_a_computation_by_hand(tmp_path: Path, labels: str) -> None:
    results(tmp_path, labels=labels)
    found = scores(tmp_path)

    def normal(score: float) -> float:
        return (math.exp(score) - math.exp(-1)) / (math.exp(1) - math.exp(-1))

    hlr = [FULL - a for a in HARD]  # 0.30, 0.26
    pairs = ((HARD, RANDOM), (SOFT, RANDOM_SOFT), (PLAIN, RANDOM_PLAIN))
    ior, ior_soft, ior_plain = ([a - b for a, b in zip(*pair, strict=True)] for pair in pairs)
    wanted = {
        "HLR": hlr,
        "IOR, hard": ior,
        "LRS, hard": [normal((i - h) / 2) for i, h in zip(ior, hlr, strict=True)],
        "IOR, soft": ior_soft,
        "LRS, soft": [normal((i - h) / 2) for i, h in zip(ior_soft, hlr, strict=True)],
        "IOR, plain": ior_plain,
        "ARS": [normal((i + j) / 2) for i, j in zip(ior, ior_plain, strict=True)],
    }
    for column, values in wanted.items():
        assert found[column].data["value"] == pytest.approx(sum(values) / 2, abs=1e-12), column
    assert found["HLR"].text == "+28.0 ± 2.8" and found["LRS, hard"].text == "0.240 ± 0.017"


def test_what_the_records_lack_is_blank_with_its_reason(tmp_path: Path) -> None:
    results(tmp_path, soft=False, plain=False, full=False)
    build = Builder(tmp_path)
    assert scores(tmp_path) == {}, "without full, soft labels and a plain protocol there is no score, and no table"
    build.protocol = ProtocolSpec(name="quick", recipe=RECIPE)
    build.evaluate("full", None, 0, build.teacher("convnet3d"), accuracy=FULL, exact=True)
    found = scores(tmp_path)
    assert found["LRS, hard"].text != DASH
    assert found["LRS, soft"].text == DASH and found["LRS, soft"].notes == ("no result of the method and of random with soft labels",)
    assert found["ARS"].notes == ("no protocol was run that is quick with flip, crop and resized_crop off",)
    table = next(t for t in make_report(tmp_path, draw=False).tables if t.name.startswith("ddranking"))
    assert not any(row.label.text.startswith("random") for row in table.rows)


def test_a_recipe_without_augmentation_says_so(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    build.evaluate("full", None, 0, build.teacher("convnet3d"), accuracy=FULL)
    for method in ("gvd", "random"):
        build.evaluate(method, 1, 0, build.distill(method, 1, 0))
    assert scores(tmp_path)["ARS"].notes == ("protocol quick trains without augmentation: run one that differs in it alone",)
    assert any("ddranking-" in path.name for path in build_report(tmp_path, tmp_path / "out", formats=("md",)))


def test_scores_have_the_bounds_of_the_paper() -> None:
    assert label_robust(1, -1) == 0 and label_robust(-1, 1) == 1 and augmentation_robust(-1, -1) == 0 and augmentation_robust(1, 1) == 1
    assert label_robust(0.3, 0.1, weight=1.0) == label_robust(0.9, 0.1, weight=1.0), "w = 1 leaves out the recovery"
