from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness.report.build as build_module
import harness.report.page as page
from harness.errors import UsageError
from harness.metrics import METRICS
from harness.report import build_report
from harness.report.build import make_report
from harness.report.cells import View
from harness.report.choice import Choice
from harness.report.tables import Table, TableCell, TableRow
from tests.report.records import CLASSES, Builder
from tests.report.test_tables import Tags


@pytest.fixture(scope="module")
def built(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build_report(compared, out)
    return out


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_table_and_figure_is_written_in_every_format(built: Path) -> None:
    tables = {p.name for p in (built / "tables").iterdir()}
    figures = {p.name for p in (built / "figures").iterdir()}
    for stem in ("moving-digits-8x32x32-convnet3d-quick-hard", "gains-moving-digits-8x32x32-quick-hard", "failures"):
        assert {f"{stem}.md", f"{stem}.tex", f"{stem}.csv"} <= tables
    for stem in ("accuracy-moving-digits-8x32x32-quick-hard", "cost-moving-digits-8x32x32"):
        assert (built / "figures" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert (built / "figures" / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
    assert len(figures) == 6, "accuracy, cost and ranks"
    assert (built / "paper.tex").read_text().count(r"\input{tables/") == len(tables) / 3


def test_the_page_is_well_formed_and_needs_nothing_beside_it(built: Path) -> None:
    text = (built / "index.html").read_text()
    parser = Tags()
    parser.handle_startendtag = lambda tag, attrs: None  # type: ignore[method-assign]
    parser.handle_starttag = lambda tag, attrs: None if tag in ("meta", "img", "br", "input") else Tags.handle_starttag(parser, tag, attrs)  # type: ignore[method-assign]
    parser.feed(text)
    assert parser.open == []
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    beside = [s for s in sources if not s.startswith(("data:image/", "#"))]
    assert beside and all((built / s).is_file() for s in beside), "links to the tables and figures as files"
    assert {Path(s).suffix for s in beside} == {".csv", ".tex", ".md", ".pdf", ".png"}
    anchors = {s[1:] for s in sources if s.startswith("#")}
    assert anchors <= set(re.findall(r'<section id="([^"]*)"', text)) and "http" not in text
    assert len([s for s in sources if s.startswith("data:image/gif")]) == 4, "one moving preview for each method"
    assert "python -m harness run --methods random,dm,gvd" in text and "0123abc" in text
    assert "out of memory: 24.0 GiB asked for" in text


def test_what_is_stored_is_shown_beside_what_is_trained_on(tmp_path: Path) -> None:
    build = Builder(tmp_path / "r")
    for label in ("random", "random[layout=grid,compose=4]"):
        upstream = build.distill(label, 1, 0)
        if label != "random":
            files = build.records[upstream].artifacts
            stored = build.store.write_artifact(upstream, "stored.gif", build.store.read_artifact(build.records[upstream], "preview.gif"))
            build.change(upstream, artifacts={**files, "stored.gif": stored})
        build.evaluate(label, 1, 0, upstream)
    build_report(tmp_path / "r", tmp_path / "out", formats=["html"])
    text = (tmp_path / "out" / "index.html").read_text()
    assert (text.count("<summary>contact sheet</summary>"), text.count("<summary>as stored</summary>")) == (2, 1)


def test_large_previews_are_linked(compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "EMBED_FILE", 10)
    build_report(compared, tmp_path, formats=["html"])
    links = re.findall(r'href="([^"#][^"]*)"', (tmp_path / "index.html").read_text())
    assert len(links) == 8 and all((tmp_path / link).resolve().is_file() for link in links)


def test_a_lost_preview_does_not_stop_the_page(tmp_path: Path) -> None:
    build = Builder(tmp_path / "r")
    upstream = build.distill("gvd", 1, 0)
    build.evaluate("gvd", 1, 0, upstream)
    (tmp_path / "r" / "artifacts" / upstream / "preview.gif").unlink()
    build_report(tmp_path / "r", tmp_path / "out", formats=["html"])
    assert "preview.gif is missing" in (tmp_path / "out" / "index.html").read_text()


def test_cells_are_there_for_everybodys_own_analysis(built: Path) -> None:
    cells = read_csv(built / "cells.csv")
    assert len(cells) == 2 * (1 + 4 * 3 * 5)
    assert {metric.name for metric in METRICS} | {"videos_generated"} <= set(cells[0])
    done = [cell for cell in cells if cell["status"] == "done"]
    assert all(0 <= float(cell["accuracy"]) <= 1 and float(cell["relative_accuracy"]) > 0 for cell in done)
    assert all(cell["peak_gpu_mib"] == "" for cell in cells), "unmeasured is empty"
    assert all(cell["rerun"] == f"python -m harness rerun {cell['key'][:12]}" for cell in cells)
    assert {cell["ipc"] for cell in cells} == {"", "1", "5", "10"} and {cell["status"] for cell in cells} == {"done", "failed", "oom"}
    assert {cell["videos_generated"] for cell in done if cell["method"] == "gvd"} == {"40.0", "200.0", "400.0"}


def test_the_same_records_give_the_same_files(compared: Path, built: Path, tmp_path: Path) -> None:
    for path in build_report(compared, tmp_path, formats=["md", "csv", "tex", "png", "pdf"]):
        assert path.read_bytes() == (built / path.relative_to(tmp_path)).read_bytes(), path.name


def test_words_reach_tables_and_figures(compared: Path) -> None:
    report = make_report(compared, words={"gvd": {"guidance=0": "unguided diffusion"}})
    labels = [r.label.text for r in report.sections[0].main[0].rows]
    assert "gvd: unguided diffusion" in labels
    default = make_report(compared)
    assert "gvd: without guidance" in [r.label.text for r in default.sections[0].main[0].rows]


def test_classes_have_names(built: Path) -> None:
    rows = read_csv(built / "tables" / "classes-moving-digits-8x32x32-convnet3d-quick-hard.csv")
    assert [row["class"] for row in rows] == list(CLASSES)


def test_a_report_of_one_dataset(tmp_path: Path) -> None:
    for name in ("digits", "hmdb51"):
        build = Builder(tmp_path, dataset=name)
        build.evaluate("random", 1, 0, build.distill("random", 1, 0))
    report = make_report(tmp_path, choice=Choice(datasets=("hmdb51",)))
    assert {row.dataset for row in report.results.rows} == {"hmdb51"}, "the counts and cells.csv are those of what is shown"
    assert [s.title for s in report.sections] == ["hmdb51 (8x32x32), protocol quick, hard labels"]
    assert [t.name for t in report.published] == ["published-hmdb51-convnet3d-top-1"]
    with pytest.raises(UsageError, match=r"no results of dataset 'hmdb'.*did you mean 'hmdb51'"):
        make_report(tmp_path, choice=Choice(datasets=("hmdb",)))


def test_bad_requests_are_one_sentence(tmp_path: Path, compared: Path) -> None:
    with pytest.raises(UsageError, match="no evaluated cell in"):
        build_report(tmp_path, tmp_path / "out")
    planned = Builder(tmp_path / "planned")
    planned.plan([planned.cell("gvd", 1, 0)])
    with pytest.raises(UsageError, match="no evaluated cell in"):
        build_report(tmp_path / "planned", tmp_path / "out")
    with pytest.raises(UsageError, match="unknown report format 'doc'"):
        build_report(compared, tmp_path, formats=["doc"])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write the report"):
        build_report(compared, tmp_path / "file", formats=["md"])


def test_results_of_failures_alone_still_make_a_report(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    build.fail("gvd", 1, 0, status="failed", reason="NaN in the loss")
    files = build_report(tmp_path, tmp_path / "out")
    assert not [f for f in files if f.suffix == ".png"]
    assert "NaN in the loss" in files[0].read_text()


def test_a_page_of_a_command_that_was_cut_short_says_what_is_missing(tmp_path: Path) -> None:
    build = Builder(tmp_path / "r")
    for label in ("random", "gvd"):
        for seed in range(2):
            build.evaluate(label, 1, seed, build.distill(label, 1, seed, preview=False))
    build.plan([build.cell(m, ipc, seed) for m in ("random", "gvd") for ipc in (1, 5) for seed in range(3)], status="interrupted")
    (file,) = build_report(tmp_path / "r", tmp_path / "out", formats=["html"])
    text = file.read_text()
    assert "4 cells done of 12" in text and "planned, not run" in text and "1 of 3 seeds missing" in text
    assert f"{build.sweep}: 4 cells, interrupted" in text
    failures = make_report(tmp_path / "r").failures
    assert failures is not None
    assert [(row.label.text, row.cells[1].text, row.cells[4].text, row.cells[5].text) for row in failures.rows] == [
        ("random", "1", "2", "missing"),
        ("random", "5", "0, 1, 2", "missing"),
        ("gvd", "1", "2", "missing"),
        ("gvd", "5", "0, 1, 2", "missing"),
    ]
    assert failures.records == (), "there is none to name"


def test_what_other_code_made_is_said_and_marked(tmp_path: Path) -> None:
    build = Builder(tmp_path / "r")
    kept = [build.evaluate("gvd", 1, seed, build.distill("gvd", 1, seed)) for seed in range(2)]
    build.digest = "2" * 12
    new = [build.evaluate("gvd", 1, seed, build.distill("gvd", 1, seed)) for seed in range(2, 5)]
    build.plan([build.cell("gvd", 1, seed, key=key) for seed, key in enumerate([*kept, *new])], kept)
    report = make_report(tmp_path / "r", judge=lambda records: {key: ["method gvd"] for key in kept})
    assert report.sections[0].main[0].rows[0].cells[0].notes == (
        "2 of 5 seeds were made by other code than the newest",
        "2 of 5 seeds were made by other code than the present (method gvd)",
    )
    assert any(w.startswith("2 cells were made by other code than the newest seed beside them and kept") for w in report.warnings)
    assert any(w.startswith("2 cells were made by other code than the present (method gvd)") for w in report.warnings)


def test_a_table_is_added_in_one_place(compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count_table(view: View) -> list[Table]:
        row = TableRow(TableCell("sets"), (TableCell(str(sum(r.kind == "distill" for r in view.records.values()))),))
        return [Table(f"count-{view.first.stem}", f"How many sets: {view.title}", "what", ("number",), (row,))]

    monkeypatch.setattr(build_module, "TABLES", (*build_module.TABLES, count_table))
    build_report(compared, tmp_path, formats=["html", "md", "csv", "tex"])
    assert "How many sets: moving-digits (8x32x32)" in (tmp_path / "index.html").read_text()
    assert all((tmp_path / "tables" / f"count-moving-digits-8x32x32-quick-hard.{suffix}").is_file() for suffix in ("md", "csv", "tex"))


def test_the_package_imports_no_torch_ray_or_mlflow(compared: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys; from harness.report import build_report;"
        f"build_report({str(compared)!r}, {str(tmp_path)!r}, formats=['md', 'png', 'html']);"
        "print(json.dumps([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules]))"
    )
    assert json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) == []
