from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from harness.report.latex import to_latex
from harness.report.tables import DASH, Table, TableCell, TableRow, to_csv, to_html, to_markdown

TABLE = Table(
    name="t",
    title="A title with 100 % & <b>",
    corner="method",
    columns=("IPC 1", "IPC 10"),
    rows=(
        TableRow(
            TableCell("random"),
            (TableCell("9.9 ± 0.8 (5)", records=("r1",), data={"accuracy": 0.099}), TableCell(DASH, notes=("oom: too big",), data={})),
            True,
        ),
        TableRow(
            TableCell("g|v_d[w_end=0]", notes=("in words",)),
            (
                TableCell("44.8", bold=True, details=("+1.0", "p < 0.001"), records=("r2", "r3"), data={"accuracy": 0.448}),
                TableCell(DASH, notes=("not run", "oom: too big")),
            ),
        ),
        TableRow(TableCell("full"), (TableCell("57.2", records=("r2",), data={"accuracy": 0.572}, span=2),), True),
    ),
    caption="A caption.",
    across="IPC",
)


class Tags(HTMLParser):
    """Checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[int] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.cells.append(0)
        if tag in ("td", "th"):
            self.cells[-1] += int(dict(attrs).get("colspan") or 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_table_remembers_its_records_and_footnotes() -> None:
    assert TABLE.records == ("r1", "r2", "r3")
    assert TABLE.notes == ("oom: too big", "in words", "not run")
    assert TABLE.marks(TABLE.rows[1].cells[1]) == "c,a"


def test_markdown() -> None:
    lines = to_markdown(TABLE).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in table), "the bar in a name does not open a cell"
    assert "| **44.8**<br><sub>+1.0</sub><br><sub>p < 0.001</sub> | —<sup>c,a</sup> |" in table[3]
    assert lines[-1] == "<sup>a</sup> oom: too big<br><sup>b</sup> in words<br><sup>c</sup> not run"


def test_latex_is_balanced_and_escaped() -> None:
    text = to_latex(TABLE)
    assert text.count(r"\begin{") == text.count(r"\end{") == 4
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert r"\begin{tabular}{lrr}" in text and r"\toprule" in text and r"\bottomrule" in text
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    for line in body.splitlines():
        if line.endswith(r"\\"):
            spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + spans == 2, line
    assert r"g$|$v\_d{[}w\_end=0{]}" in text and r"9.9 $\pm$ 0.8 (5)" in text and r"100 \% \& $<$b$>$" in text
    assert r"\textbf{44.8}" in text and r"\multicolumn{2}{c}{57.2}" in text
    assert body.count(r"\midrule") == 2, "reference rows are set apart on both sides"


def test_csv_of_cells_with_several_numbers_is_long() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert rows == [] or set(rows[0]) == {"method", "IPC", "accuracy", "notes", "records"}
    assert [(r["method"], r["IPC"], r["accuracy"]) for r in rows] == [
        ("random", "IPC 1", "0.099"),
        ("random", "IPC 10", ""),
        ("g|v_d[w_end=0]", "IPC 1", "0.448"),
        ("g|v_d[w_end=0]", "IPC 10", ""),
        ("full", "", "0.572"),
    ]
    assert rows[3]["notes"] == "in words; not run; oom: too big" and rows[2]["records"] == "r2 r3"


def test_csv_of_single_numbers_is_wide_and_unrounded() -> None:
    cells = (TableCell("33.3", data={"value": 1 / 3}), TableCell(DASH, data={"value": None}))
    table = Table("t", "t", "class", ("a", "b"), (TableRow(TableCell("left"), cells),))
    assert to_csv(table) == f"class,a,b\nleft,{1 / 3},\n"


@pytest.mark.parametrize("table", [TABLE, Table("e", "empty", "m", ("a",), ())], ids=["full", "empty"])
def test_html_is_well_formed(table: Table) -> None:
    parser = Tags()
    parser.feed(to_html(table))
    assert parser.open == []
    assert set(parser.cells) == {1 + len(table.columns)}
    assert table.title in "".join(parser.text), "markup in names is shown, not obeyed"
