"""From a results folder to files: tables (.md, .tex, .csv), figures (.pdf, .png), cells as one CSV, one HTML page, one LaTeX file."""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness import metrics
from harness.errors import UsageError, did_you_mean
from harness.plugin import MetricPlugin
from harness.record import Record
from harness.report.cells import MISSING, CellResult, View, gather, methods
from harness.report.choice import Choice, select
from harness.report.compare import gains_table, pairwise_tables, rank_methods, rank_picture, rank_table
from harness.report.ddranking import ddranking_tables
from harness.report.document import Report, Section
from harness.report.figures import Palette, Picture, accuracy_figure, cost_figure, make_palette
from harness.report.group import Group
from harness.report.latex import to_latex, to_paper
from harness.report.layouts import ablation_tables, cross_tables, overview_tables
from harness.report.load import Results, load
from harness.report.main_table import main_table
from harness.report.measured import Measurer, matrix_tables
from harness.report.page import render_page
from harness.report.published import DEFAULT, gather_published, published_tables
from harness.report.side_tables import controls_tables, cost_tables, failures_table, per_class_tables, quality_table, recorded_tables
from harness.report.tables import Table, md, to_csv, to_markdown
from harness.report.warnings import store_warnings, view_warnings
from harness.rows import Row
from harness.store import Store
from harness.text import csv_text
from harness.words import in_words

Judge = Callable[[Mapping[str, Record]], Mapping[str, Sequence[str]]]
"""Records -> key of each evaluate record that other code than the present made -> what changed since, such as "method gvd"."""
RENDERERS = {"md": to_markdown, "tex": to_latex, "csv": to_csv}
"""File suffix -> renderer, for the tables that are written as files of their own."""
PUBLISHED = "published.toml"
"""The user's own published numbers, in the results folder."""
FORMATS = ("md", "tex", "csv", "pdf", "png", "html")
TABLES: tuple[Callable[[View], list[Table]], ...] = (
    gains_table,
    cross_tables,
    ablation_tables,
    ddranking_tables,
    rank_table,
    pairwise_tables,
    cost_tables,
    quality_table,
    recorded_tables,
    controls_tables,
    per_class_tables,
)
"""The tables of a section under its main ones, in order. A new one is a function that is named here; it returns [] where it has nothing."""
FIGURES: tuple[Callable[[View, Palette], Picture | None], ...] = (accuracy_figure, cost_figure, rank_picture)
AXES = (
    *("dataset", "dataset_label", "shape", "method", "method_label", "ipc", "labels", "evaluator", "evaluator_label", "protocol", "seed"),
    *("status", "reason"),
)
ORIGIN = ("device", "ended_at", "sweep", "distill_key", "key", "rerun")
"""What of a row stands in cells.csv before and after its numbers."""


def build_report(
    store_root: str | Path,
    out_dir: str | Path,
    *,
    choice: Choice | None = None,
    formats: Sequence[str] = FORMATS,
    words: Mapping[str, Mapping[str, str]] | None = None,
    published: Path = DEFAULT,
    judge: Judge | None = None,
    measures: Mapping[str, MetricPlugin] | None = None,
) -> list[Path]:
    """Write the report of a results folder; returns the files, the page first.

    choice: of results and outputs. formats: of FORMATS. words: method -> inline assignment -> what it means, such as
    {"gvd": {"guidance=0": "unguided diffusion"}}. judge: says which cells the present code did not make, as ``Staleness.stale_cells``
    does; these are marked. measures: label -> metric of predictions. Raises UsageError when there is
    nothing to report or a name is unknown.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"unknown report format {name!r}{did_you_mean(name, FORMATS)}")
    draw = not {"pdf", "png", "html"}.isdisjoint(formats)
    report = make_report(store_root, choice=choice, words=words, published=published, judge=judge, draw=draw, measures=measures)
    _check_place(report.results.store, Path(out_dir))
    return write_report(report, Path(out_dir), formats)


def _check_place(store: Store, out_dir: Path) -> None:
    """Raise UsageError where a folder in the results folder is a link that leads out: the results may be somebody else's."""
    inside = store.is_local and out_dir.absolute().is_relative_to(store.path)
    if inside and not out_dir.resolve().is_relative_to(Path(store.path).resolve()):
        raise UsageError(f"{out_dir} is a link that leads out of the results folder: remove it, or name another folder with --out")


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection inside: thousands of records hold no cycles, and walking over them again and again takes its time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_uncollected()
def make_report(
    store_root: str | Path,
    *,
    choice: Choice | None = None,
    words: Mapping[str, Mapping[str, str]] | None = None,
    published: Path = DEFAULT,
    judge: Judge | None = None,
    draw: bool = True,
    measures: Mapping[str, MetricPlugin] | None = None,
) -> Report:
    """All tables, figures and warnings of a results folder. Pure but for the reading. draw: with figures."""
    choice, store = choice or Choice(), Store(store_root)
    every = load(store)
    if all(row.status == MISSING for row in every.rows):
        raise UsageError(f"no evaluated cell in {store.shown}: run something first (python -m harness run)")
    measurer = Measurer(store, every.records, measures or {})
    results = select(measurer.measure(every), choice)
    groups = gather(results.rows, choice.order)
    if choice.evaluators:
        groups = dict(sorted(groups.items(), key=lambda item: _wanted_place(item[1][0].rows[0], choice.evaluators)))
    everything = {tuple(row.key for row in cell.rows): cell for cells in groups.values() for cell in cells}
    said = {label: in_words(label, words) for label in methods(everything.values()) if "[" in label}
    stale = judge(results.records) if judge is not None else {}
    palette, marks = make_palette(sorted({row.method_label for row in every.rows})), _marks(results, stale)
    own = [Path(store.path) / PUBLISHED] if store.is_local else []
    numbers = gather_published([published, *own, *choice.published])
    stems: dict[str, list[Group]] = {}
    for group in groups:
        stems.setdefault(group.stem, []).append(group)
    beside: dict[str, list[CellResult]] = {}
    for cell in everything.values():
        beside.setdefault(cell.group.dataset_stem, []).append(cell)
    views = [
        View(
            {g: groups[g] for g in members}, said, results.records, marks, numbers, choice.digits, choice.columns, choice.names,
            beside[members[0].dataset_stem],
        )
        for members in stems.values()
    ]
    sections = [_section(view, palette if draw else None, choice, measurer) for view in views]
    failures = failures_table(list(everything.values()), {**said, **choice.names})
    datasets = list(dict.fromkeys(row.dataset for row in results.rows))
    return Report(
        results,
        sections,
        [table for table in overview_tables(views) if choice.shows(table.name)],
        failures if choice.wants("failures") else None,
        published_tables(datasets, numbers, choice.digits) if choice.wants("published") else [],
        [*store_warnings(results, stale), *measurer.warnings(), *(warning for section in sections for warning in section.warnings)],
        {**said, **choice.names},
        choice.wants("previews"),
    )


def _wanted_place(row: Row, wanted: Sequence[str]) -> int:
    return next((i for i, name in enumerate(wanted) if name in (row.evaluator, row.evaluator_label)), len(wanted))


def _marks(results: Results, stale: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Key of a row -> footnotes on the code that made it."""
    marks: dict[str, list[str]] = {key: ["made by other code than the newest"] for key in results.other_code}
    for key, changed in stale.items():
        marks.setdefault(key, []).append(f"made by other code than the present ({', '.join(changed)})")
    return marks


def _section(view: View, palette: Palette | None, choice: Choice, measurer: Measurer) -> Section:
    remarks = []
    if choice.wants("ranks") and isinstance(remark := rank_methods(view), str):
        remarks.append(remark)
    tables = [table for tabulate in TABLES for table in tabulate(view) if choice.wants(table.name.partition("-")[0])]
    if choice.wants("matrix"):
        tables += matrix_tables(view, measurer)
    pictures = [] if palette is None else [draw(view, palette) for draw in FIGURES]
    return Section(
        view.title,
        main=[main_table(view, group) for group in view.groups] if choice.wants("main") else [],
        figures=[picture for picture in pictures if picture is not None and choice.shows(picture.name)],
        tables=tables,
        remarks=remarks,
        warnings=view_warnings(view),
    )


def write_report(report: Report, out_dir: Path, formats: Sequence[str]) -> list[Path]:
    """Write a report in these formats; returns the files, the page first. Raises UsageError when the folder cannot be written."""
    written: list[Path] = []

    def write(name: str, data: str | bytes) -> None:
        path = out_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(out_dir.resolve()):
            raise UsageError(f"{path.parent} is a link that leads out of {out_dir}: remove it")
        # A file under a new name, put in the place of what is there: a link is replaced and not followed.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_bytes(data.encode(errors="backslashreplace") if isinstance(data, str) else data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        written.append(path)

    try:
        if "html" in formats:
            write("index.html", render_page(report, out_dir, formats))
        if "md" in formats:
            write("report.md", _markdown(report))
        if "tex" in formats and "pdf" in formats:
            write("paper.tex", to_paper(report))
        if "csv" in formats:
            write("cells.csv", cells_csv(report.results.rows))
        for table in report.tables:
            for suffix, render in RENDERERS.items():
                if suffix in formats:
                    write(f"tables/{table.name}.{suffix}", render(table))
        for picture in report.figures:
            if "pdf" in formats:
                write(f"figures/{picture.name}.pdf", picture.pdf)
            if "png" in formats:
                write(f"figures/{picture.name}.png", picture.png)
    except OSError as error:
        raise UsageError(f"cannot write the report to {out_dir}: {error.strerror or error}") from error
    return written


def cells_csv(rows: Sequence[Row]) -> str:
    """One line per cell and seed: its axes, how it ended, every metric of the harness and of plugins (unrounded), where it came from."""
    declared = dict.fromkeys(metric.name for row in rows for metric in row.declared)
    names = list(dict.fromkeys([*(metric.name for metric in metrics.METRICS), *declared]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(list(map(csv_text, (*AXES, *names, *ORIGIN))))
    for row in rows:
        said, origin = [getattr(row, name) for name in AXES], [getattr(row, name) for name in ORIGIN]
        writer.writerow([*map(csv_text, said), *(row.value(name) for name in names), *map(csv_text, origin)])
    return out.getvalue()


def _markdown(report: Report) -> str:
    parts = ["# Report", *(f"- {md(warning)}" for warning in report.warnings)]
    if report.overview:
        parts += ["", "## Overview", "", *(to_markdown(table) for table in report.overview)]
    for section in report.sections:
        parts += ["", f"## {md(section.title)}", ""]
        parts += [to_markdown(table) for table in section.main]
        parts += [f"![{md(picture.title)}](figures/{picture.name}.png)\n\n{md(picture.caption)}\n" for picture in section.figures]
        parts += [to_markdown(table) for table in section.tables]
        parts += map(md, section.remarks)
    if report.failures is not None:
        parts += ["", "## Not done", "", to_markdown(report.failures)]
    if report.published:
        parts += ["", "## Published", "", *(to_markdown(table) for table in report.published)]
    return "\n".join(parts) + "\n"
