"""From a results folder to files: tables (.md, .tex, .csv), figures (.pdf, .png), all cells as one CSV, and one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError, did_you_mean
from harness.report import compare, figures, side_tables
from harness.report.cells import CellResult, Group, gather, methods
from harness.report.load import Results, load
from harness.report.main_table import main_table
from harness.report.page import render_page
from harness.report.published import DEFAULT, published_tables
from harness.report.tables import RENDERERS, Table, to_markdown
from harness.report.warnings import group_warnings, store_warnings
from harness.report.words import in_words
from harness.store import Store

FORMATS = ("md", "tex", "csv", "pdf", "png", "html")


@dataclass
class Section:
    """What is compared under one dataset, clip shape, protocol and label mode: a table for each evaluator, figures for all of them."""

    title: str
    main: list[Table] = field(default_factory=list)
    figures: list[figures.Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Everything a report says, before it is written in any format."""

    results: Results
    sections: list[Section]
    failures: Table | None
    published: list[Table]
    warnings: list[str]
    words: Mapping[str, str]

    @property
    def tables(self) -> list[Table]:
        found = [table for section in self.sections for table in (*section.main, *section.tables)]
        return [*found, *([self.failures] if self.failures else []), *self.published]

    @property
    def figures(self) -> list[figures.Picture]:
        return [picture for section in self.sections for picture in section.figures]


def build_report(
    store_root: str | Path,
    out_dir: str | Path,
    *,
    datasets: Sequence[str] | None = None,
    formats: Sequence[str] = FORMATS,
    words: Mapping[str, Mapping[str, str]] | None = None,
    published: Path = DEFAULT,
) -> list[Path]:
    """Write the report of a results folder; returns the files, the page first.

    datasets: only these (names, or labels with parameters). formats: of FORMATS. words: method -> inline assignment -> what it means,
    such as {"gvd": {"guidance=0": "unguided diffusion"}}. Raises UsageError when there is nothing to report or a name is unknown.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"unknown report format {name!r}{did_you_mean(name, FORMATS)}")
    report = make_report(store_root, datasets=datasets, words=words, published=published)
    return write_report(report, Path(out_dir), formats)


def make_report(
    store_root: str | Path,
    *,
    datasets: Sequence[str] | None = None,
    words: Mapping[str, Mapping[str, str]] | None = None,
    published: Path = DEFAULT,
) -> Report:
    """All tables, figures and warnings of a results folder. Pure but for the reading."""
    store = Store(store_root)
    results = load(store)
    rows = results.row_dicts()
    if not rows:
        raise UsageError(f"no evaluated cell in {store.root}: run something first (python -m harness run)")
    if datasets:
        known = {str(row["dataset"]) for row in rows} | {str(row["dataset_label"]) for row in rows}
        for name in datasets:
            if name not in known:
                raise UsageError(f"no results of dataset {name!r} in {store.root}{did_you_mean(name, sorted(known))}")
        rows = [row for row in rows if row["dataset"] in datasets or row["dataset_label"] in datasets]
    groups = gather(rows)
    everything = {cell.keys: cell for cells in groups.values() for cell in cells}
    labels = methods(list(everything.values()))
    said = {label: in_words(label, words) for label in labels if "[" in label}
    palette = figures.make_palette(labels)
    stems = dict.fromkeys(group.stem for group in groups)
    sections = [_section({g: cells for g, cells in groups.items() if g.stem == stem}, results, palette, said) for stem in stems]
    return Report(
        results,
        sections,
        side_tables.failures_table(list(everything.values()), said),
        published_tables([str(name) for name in dict.fromkeys(row["dataset"] for row in rows)], published),
        [*store_warnings(results), *(warning for section in sections for warning in section.warnings)],
        said,
    )


def _section(groups: Mapping[Group, Sequence[CellResult]], results: Results, palette: figures.Palette, words: Mapping[str, str]) -> Section:
    first = next(iter(groups))
    section = Section(f"{first.dataset} ({first.shape}), protocol {first.protocol}, {first.labels} labels")
    everything = [cell for cells in groups.values() for cell in cells]
    for group, cells in groups.items():
        section.main.append(main_table(group, cells, words))
        section.warnings += group_warnings(group, cells)
    for picture in (figures.accuracy_figure(groups, palette, words), figures.cost_figure(first, everything, palette, words)):
        if picture is not None:
            section.figures.append(picture)
    if any(cell.ipc is not None for cell in everything):
        _add_comparisons(section, groups, words)
        section.tables.append(side_tables.cost_table(first, everything, words))
        _add(section, side_tables.quality_table(first, everything, results.records, words))
    for group, cells in groups.items():
        section.tables.append(side_tables.controls_table(group, cells, words))
    for group, cells in groups.items():
        _add(section, side_tables.per_class_table(group, cells, _class_names(cells, results), words))
    return section


def _add_comparisons(section: Section, groups: Mapping[Group, Sequence[CellResult]], words: Mapping[str, str]) -> None:
    _add(section, compare.gains_table(groups, words))
    ranks = compare.rank_table(groups, words)
    if isinstance(ranks, str):
        section.remarks.append(ranks)
    elif ranks is not None:
        section.tables.append(ranks[0])
        section.figures.append(ranks[1])
    for group, cells in groups.items():
        _add(section, compare.pairwise_table(group, cells, words))


def _add(section: Section, table: Table | None) -> None:
    if table is not None:
        section.tables.append(table)


def _class_names(cells: Sequence[CellResult], results: Results) -> list[str]:
    """Names of the classes as the data record keeps them; empty where it does not."""
    for cell in cells:
        for key in cell.keys:
            data = results.records.get(results.records[key].get("inputs", {}).get("data", ""), {})
            names = data.get("arrays", {}).get("classes")
            if names:
                return [str(name) for name in names]
    return []


def write_report(report: Report, out_dir: Path, formats: Sequence[str]) -> list[Path]:
    """Write a report in these formats; returns the files, the page first. Raises UsageError when the folder cannot be written."""
    written: list[Path] = []

    def write(name: str, data: str | bytes) -> None:
        path = out_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        written.append(path)

    try:
        if "html" in formats:
            write("index.html", render_page(report, out_dir))
        if "md" in formats:
            write("report.md", _markdown(report))
        if "csv" in formats:
            rows = report.results.rows.drop(columns=["correct", "per_class_accuracy"]).astype({"ipc": "Int64"})  # `full` has none
            write("cells.csv", rows.to_csv(index=False))
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


def _markdown(report: Report) -> str:
    parts = ["# Report", *(f"- {warning}" for warning in report.warnings)]
    for section in report.sections:
        parts += ["", f"## {section.title}", ""]
        parts += [to_markdown(table) for table in section.main]
        parts += [f"![{picture.title}](figures/{picture.name}.png)\n\n{picture.caption}\n" for picture in section.figures]
        parts += [to_markdown(table) for table in section.tables]
        parts += section.remarks
    if report.failures is not None:
        parts += ["", "## Not done", "", to_markdown(report.failures)]
    if report.published:
        parts += ["", "## Published", "", *(to_markdown(table) for table in report.published)]
    return "\n".join(parts) + "\n"
