"""From a results folder to files: tables (.md, .tex, .csv), figures (.pdf, .png), all cells as one CSV, and one HTML page."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness import metrics
from harness.errors import UsageError, did_you_mean
from harness.record import Record
from harness.report.cells import MISSING, View, gather, methods
from harness.report.compare import gains_table, pairwise_tables, rank_methods, rank_picture, rank_table
from harness.report.document import Report, Section
from harness.report.figures import Palette, Picture, accuracy_figure, cost_figure, make_palette
from harness.report.load import Results, load
from harness.report.main_table import main_table
from harness.report.page import render_page
from harness.report.published import DEFAULT, published_tables
from harness.report.side_tables import controls_tables, cost_table, failures_table, per_class_tables, quality_table, recorded_tables
from harness.report.tables import RENDERERS, Table, md, to_markdown
from harness.report.warnings import group_warnings, store_warnings
from harness.rows import Row
from harness.store import Store
from harness.text import csv_text
from harness.words import in_words

Judge = Callable[[Mapping[str, Record]], Mapping[str, Sequence[str]]]
"""Records -> key of each evaluate record that other code than the present made -> what changed since, such as "method gvd"."""
FORMATS = ("md", "tex", "csv", "pdf", "png", "html")
TABLES: tuple[Callable[[View], list[Table]], ...] = (
    gains_table,
    rank_table,
    pairwise_tables,
    cost_table,
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
ORIGIN = ("device", "ended_at", "sweep", "distill_key", "key")
"""What of a row stands in cells.csv before and after its numbers."""


def build_report(
    store_root: str | Path,
    out_dir: str | Path,
    *,
    datasets: Sequence[str] | None = None,
    formats: Sequence[str] = FORMATS,
    words: Mapping[str, Mapping[str, str]] | None = None,
    published: Path = DEFAULT,
    judge: Judge | None = None,
) -> list[Path]:
    """Write the report of a results folder; returns the files, the page first.

    datasets: only these (names, or labels with parameters). formats: of FORMATS. words: method -> inline assignment -> what it means,
    such as {"gvd": {"guidance=0": "unguided diffusion"}}. judge: says which cells the present code did not make, as
    ``Staleness.stale_cells`` does; these are marked. Raises UsageError when there is nothing to report or a name is unknown.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"unknown report format {name!r}{did_you_mean(name, FORMATS)}")
    report = make_report(store_root, datasets=datasets, words=words, published=published, judge=judge)
    _check_place(report.results.store, Path(out_dir))
    return write_report(report, Path(out_dir), formats)


def _check_place(store: Store, out_dir: Path) -> None:
    """Raise UsageError where a folder in the results folder is a link that leads out: the results may be somebody else's."""
    inside = store.is_local and out_dir.absolute().is_relative_to(store.path)
    if inside and not out_dir.resolve().is_relative_to(Path(store.path).resolve()):
        raise UsageError(f"{out_dir} is a link that leads out of the results folder: remove it, or name another folder with --out")


def make_report(
    store_root: str | Path,
    *,
    datasets: Sequence[str] | None = None,
    words: Mapping[str, Mapping[str, str]] | None = None,
    published: Path = DEFAULT,
    judge: Judge | None = None,
) -> Report:
    """All tables, figures and warnings of a results folder. Pure but for the reading."""
    store = Store(store_root)
    results = load(store)
    if all(row.status == MISSING for row in results.rows):
        raise UsageError(f"no evaluated cell in {store.shown}: run something first (python -m harness run)")
    if datasets:
        known = {row.dataset for row in results.rows} | {row.dataset_label for row in results.rows}
        for name in datasets:
            if name not in known:
                raise UsageError(f"no results of dataset {name!r} in {store.shown}{did_you_mean(name, sorted(known))}")
        results = replace(results, rows=tuple(r for r in results.rows if r.dataset in datasets or r.dataset_label in datasets))
    groups = gather(results.rows)
    everything = {tuple(row.key for row in cell.rows): cell for cells in groups.values() for cell in cells}
    labels = methods(everything.values())
    said = {label: in_words(label, words) for label in labels if "[" in label}
    stale = judge(results.records) if judge is not None else {}
    palette, marks = make_palette(labels), _marks(results, stale)
    stems = dict.fromkeys(group.stem for group in groups)
    views = [View({g: cells for g, cells in groups.items() if g.stem == stem}, said, results.records, marks) for stem in stems]
    sections = [_section(view, palette) for view in views]
    return Report(
        results,
        sections,
        failures_table(list(everything.values()), said),
        published_tables(list(dict.fromkeys(row.dataset for row in results.rows)), published),
        [*store_warnings(results, stale), *(warning for section in sections for warning in section.warnings)],
        said,
    )


def _marks(results: Results, stale: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Key of a row -> footnotes on the code that made it."""
    marks: dict[str, list[str]] = {key: ["made by other code than the newest"] for key in results.other_code}
    for key, changed in stale.items():
        marks.setdefault(key, []).append(f"made by other code than the present ({', '.join(changed)})")
    return marks


def _section(view: View, palette: Palette) -> Section:
    remark = rank_methods(view)
    pictures = [draw(view, palette) for draw in FIGURES]
    return Section(
        view.title,
        main=[main_table(view, group) for group in view.groups],
        figures=[picture for picture in pictures if picture is not None],
        tables=[table for tabulate in TABLES for table in tabulate(view)],
        remarks=[remark] if isinstance(remark, str) else [],
        warnings=[warning for group, cells in view.groups.items() for warning in group_warnings(group, cells)],
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
            write("index.html", render_page(report, out_dir))
        if "md" in formats:
            write("report.md", _markdown(report))
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
