from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.report import build_report
from harness.report.latex import to_latex
from harness.report.tables import Table, TableCell, TableRow
from tests.report.records import comparison

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")


def compile_paper(folder: Path) -> str:
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return (folder / "paper.log").read_text(errors="replace")


def overfull(log: str) -> list[float]:
    return [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]


@pytest.mark.slow
@needs_latex
@pytest.mark.parametrize("columns", ["", "twocolumn,"])
def test_the_paper_compiles_as_it_is_and_fits_one_and_two_columns(tmp_path: Path, columns: str) -> None:
    comparison(tmp_path / "r", methods=("random", "dm", "gvd", "gvd[guidance=0]", "gvd[guidance=0.5]", "herding"), seeds=3)
    build = build_report(tmp_path / "r", tmp_path / "out")
    paper = tmp_path / "out" / "paper.tex"
    assert paper in build
    paper.write_text(paper.read_text().replace("[a4paper", f"[{columns}a4paper"))
    log = compile_paper(tmp_path / "out")
    assert not [points for points in overfull(log) if points > 5]
    assert (tmp_path / "out" / "paper.pdf").stat().st_size > 20_000
    included = re.findall(r"\\input\{(tables/[^}]*)\}", paper.read_text())
    assert {f"tables/{p.name}" for p in (tmp_path / "out" / "tables").glob("*.tex")} == set(included)


def table(columns: int, rows: int = 3, **fields: object) -> Table:
    cells = tuple(TableCell("61.5 ± 2.3", signs="*≈", details=("a detail",)) for _ in range(columns))
    names = tuple(f"IPC {i}" for i in range(columns))
    return Table("t", "T", "method", names, tuple(TableRow(TableCell(f"m{i}"), cells) for i in range(rows)), compact=True, **fields)  # type: ignore[arg-type]


def test_a_narrow_table_takes_a_column_and_a_wide_one_the_page() -> None:
    assert r"\begin{table}[" in to_latex(table(3)) and r"\begin{table*}[" in to_latex(table(8))


def test_a_table_that_is_too_wide_goes_on_below_itself_with_its_labels() -> None:
    text = to_latex(table(30))
    assert text.count(r"\begin{tabular}") >= 3 and text.count(r"\begin{table*}") == 1
    assert len(re.findall(r"IPC \d+", text)) == 30 and text.count("m0 &") == text.count(r"\begin{tabular}")


def test_a_long_table_goes_on_in_another_float() -> None:
    text = to_latex(table(2, rows=100))
    assert text.count(r"\begin{table}") == 3 and text.count("(continued)") == 2
    assert sorted(re.findall(r"m\d+", text), key=lambda m: int(m[1:])) == [f"m{i}" for i in range(100)]
    assert len(set(re.findall(r"\\label\{([^}]*)\}", text))) == 3


def test_signs_heads_and_a_short_caption() -> None:
    text = to_latex(table(4, heads=(("miniucf", 2), ("hmdb51", 2)), caption="long", brief="short, n = 3"))
    assert r"61.5 $\pm$ 2.3$^{*\approx}$" in text and "a detail" not in text and "long" not in text
    assert r"\multicolumn{2}{c}{miniucf} & \multicolumn{2}{c}{hmdb51}" in text and r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in text
    assert r"\caption{T. short, n = 3}" in text


def test_what_latex_does_not_know_does_not_stop_it() -> None:
    made = Table("t", "名 \u2603", "m", ("a",), (TableRow(TableCell("/a/very/long/path/without/any/space/in/it"), (TableCell("1"),)),))
    text = to_latex(made)
    assert "名" not in text and r"\allowbreak{}" in text
