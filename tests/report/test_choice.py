from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from matplotlib.container import ErrorbarContainer

from harness.cli import main
from harness.errors import UsageError
from harness.report.build import make_report
from harness.report.choice import Choice, read_choice
from harness.report.document import Report
from harness.report.tables import Table


def made(compared: Path, **options: object) -> Report:
    return make_report(compared, choice=read_choice(**options))  # type: ignore[arg-type]


def labels(table: Table) -> list[str]:
    return [row.label.text for row in table.rows]


def test_results_are_chosen_and_the_reference_stays(compared: Path) -> None:
    report = made(compared, methods="random,gvd[guidance=0]", ipc="1,10", evaluators="convnet3d", labels="hard", protocol="quick")
    (table,) = report.sections[0].main
    assert labels(table) == ["random", "gvd: without guidance", "full (whole training split)"] and table.columns == ("IPC 1", "IPC 10")
    assert {row.evaluator for row in report.results.rows} == {"convnet3d"} and report.failures is None
    assert labels(made(compared, methods="gvd").sections[0].main[0])[:2] == ["gvd", "gvd: without guidance"], "a name is all its variants"


def test_order_names_and_digits(compared: Path) -> None:
    report = made(compared, order="gvd,random", names=["gvd[guidance=0]=unguided", "convnet3d=ConvNet3D", "full=whole"], digits=2)
    table = report.sections[0].main[1]
    assert labels(table) == ["gvd", "random", "dm", "unguided", "whole"] and "ConvNet3D" in table.title
    assert table.rows[3].label.notes == (), "a name that the user gave needs no footnote"
    assert len(table.rows[0].cells[0].text.split()[0].split(".")[1]) == 2
    legend = {text.get_text() for figure in report.sections[0].figures for box in figure.figure.legends for text in box.get_texts()}
    assert {"unguided", "whole"} <= legend


def test_the_first_evaluator_is_the_one_that_the_drop_is_told_from(compared: Path) -> None:
    for order in ("convnet3d,c3d", "c3d,convnet3d"):
        cross = next(t for t in made(compared, evaluators=order, only="cross").tables if t.name.startswith("cross"))
        assert cross.columns == (*order.split(","), "drop")


def test_only_what_is_wanted(compared: Path) -> None:
    report = made(compared, only="main,cost")
    kinds = {table.name.partition("-")[0] for table in report.tables}
    assert kinds == {"moving", "cost"} and [figure.name.partition("-")[0] for figure in report.figures] == ["cost"]
    cost = next(t for t in made(compared, columns="distill_seconds,peak_cpu_mib").tables if t.name.startswith("cost"))
    assert cost.names == ("distill_seconds", "peak_cpu_mib")


def test_colours_do_not_change_with_the_selection(compared: Path) -> None:
    def colours(report: Report) -> dict[str, Any]:
        axes = report.sections[0].figures[0].figure.axes[0]
        return {str(c.get_label()): c.lines[0].get_color() for c in axes.containers if isinstance(c, ErrorbarContainer)}

    every, one = colours(made(compared)), colours(made(compared, methods="gvd"))
    assert one["gvd"] == every["gvd"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "gdv"}, r"no results of method 'gdv'.*did you mean 'gvd'"),
        ({"ipc": "2"}, "no results of IPC '2'"),
        ({"ipc": "x"}, "IPC is a list of numbers"),
        ({"only": "mian"}, "unknown output 'mian'; did you mean 'main'"),
        ({"order": "gdv"}, "unknown method 'gdv'"),
        ({"names": ["gvd[guidance=0]"]}, "write label=name"),
        ({"names": ["gdv=x"]}, "unknown method, evaluator or dataset 'gdv'"),
        ({"columns": "peak"}, "unknown column 'peak'"),
        ({"published": ["none.toml"]}, "no file of published numbers at none.toml"),
    ],
)
def test_what_is_not_there_is_one_sentence(compared: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(compared, **options)


def test_the_verb_takes_the_options(compared: Path, tmp_path: Path) -> None:
    given = ["--only", "main", "--names", "gvd[guidance=0]=unguided", "--digits", "2", "--methods", "gvd,random", "--ipc", "1"]
    told = CliRunner().invoke(main, ["report", "--results", str(compared), "--out", str(tmp_path), *given])
    assert told.exit_code == 0, told.output
    assert "unguided" in (tmp_path / "tables" / "moving-digits-8x32x32-c3d-quick-hard.tex").read_text()
    wrong = CliRunner().invoke(main, ["report", "--results", str(compared), "--out", str(tmp_path), "--only", "mian"])
    assert wrong.exit_code == 2 and wrong.output.startswith("error: unknown output 'mian'")


def test_a_choice_of_nothing_is_everything() -> None:
    assert read_choice() == Choice() and Choice().shows("accuracy-x") and not Choice(only=("main",)).shows("cost-x")
