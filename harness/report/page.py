"""The whole report as one HTML page that needs nothing beside it: figures and previews are embedded while they are small enough."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StoreError
from harness.names import natural_key
from harness.record import Record
from harness.report.cells import FULL, MISSING, method_order
from harness.report.document import Report, Section
from harness.report.figures import Picture
from harness.report.page_style import SCRIPT, STYLE
from harness.report.tables import Table, escape, to_html
from harness.words import amount, plural

EMBED_FILE, EMBED_TOTAL = 3 * 2**20, 24 * 2**20
"""Largest preview, and sum of all previews, that are embedded; beyond it the page links to the file beside the records."""
LINKED = {"csv": "numbers", "tex": "LaTeX", "md": "Markdown", "pdf": "PDF", "png": "PNG"}


def render_page(report: Report, out_dir: Path, formats: Sequence[str] = ()) -> str:
    """The page. out_dir: where it will lie, for links to files that are too large to embed. formats: of the files that lie beside it."""
    rows = report.results.rows
    done = sum(row.status == "done" for row in rows)
    ended = max((row.ended_at for row in rows if row.ended_at), default="never")
    summary = f"{plural(done, 'cell')} done of {len(rows)}, last ended {ended[:16]}"
    files = _Files(formats)
    parts: list[tuple[str, str, str]] = []
    if report.overview:
        parts.append(("overview", "Several datasets", "".join(to_html(table, files.of_table(table)) for table in report.overview)))
    parts += [(f"s{i}", section.title, _section(section, files)) for i, section in enumerate(report.sections)]
    if report.previews:
        parts.append(("previews", "Distilled videos", _previews(report, out_dir)))
    if report.failures is not None:
        parts.append(("failures", "Not done", to_html(report.failures, files.of_table(report.failures))))
    if report.published:
        parts.append(("published", "Published numbers", "".join(to_html(table, files.of_table(table)) for table in report.published)))
    parts.append(("provenance", "Provenance", _provenance(report)))
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title, _ in parts)
    options = "".join(f'<option value="{anchor}">{escape(title)}</option>' for anchor, title, _ in parts)
    body = [
        f'<h1>Video dataset distillation: results</h1><p class="muted">{escape(summary)}{files.of_report()}</p>',
        f"<nav>{links}</nav>",
        '<div class="tools"><input id="filter" type="search" placeholder="methods, such as gvd random" aria-label="filter rows">'
        f'<select id="choose" aria-label="section"><option value="">everything</option>{options}</select></div>',
        _warnings(report.warnings),
        *(f'<section id="{anchor}"><h2>{escape(title)}</h2>{content}</section>' for anchor, title, content in parts),
        f"<script>{SCRIPT}</script>",
    ]
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}<title>Video dataset distillation: results</title><style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _warnings(warnings: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return f'<div class="warn"><b>Before reading</b><ul>{items}</ul></div>' if items else ""


class _Files:
    """Links to the files that lie beside the page, where they are written."""

    def __init__(self, formats: Sequence[str]) -> None:
        self.formats = formats

    def of_table(self, table: Table) -> str:
        return self._links([(suffix, f"tables/{table.name}.{suffix}") for suffix in ("csv", "tex", "md")])

    def of_picture(self, picture: Picture) -> str:
        return self._links([(suffix, f"figures/{picture.name}.{suffix}") for suffix in ("pdf", "png")])

    def of_report(self) -> str:
        found = [("csv", "cells.csv"), ("md", "report.md")] + ([("tex", "paper.tex")] if "pdf" in self.formats else [])
        return self._links(found)

    def _links(self, paths: Sequence[tuple[str, str]]) -> str:
        shown = [
            f'<a href="{escape(path)}" title="{LINKED[suffix]}">.{suffix}</a>' for suffix, path in paths if suffix in self.formats
        ]
        return f'<span class="files">{" ".join(shown)}</span>' if shown else ""


def _section(section: Section, files: _Files) -> str:
    parts = [to_html(table, files.of_table(table)) for table in section.main]
    parts += ['<div class="figures">', *(_figure(picture, files) for picture in section.figures), "</div>"]
    parts += [
        f"<details><summary>{escape(table.title)}</summary>{to_html(table, files.of_table(table))}</details>"
        for table in section.tables
    ]
    parts += [f'<p class="muted">{escape(remark)}</p>' for remark in section.remarks]
    return "\n".join(parts)


def _figure(picture: Picture, files: _Files) -> str:
    source, width = _data_uri(picture.png, "png"), round(96 * picture.figure.get_figwidth() * 1.4)
    image = f'<img src="{source}" width="{width}" alt="{escape(picture.title)}">'
    caption = f'<p class="caption" style="max-width:{width}px">{escape(picture.caption)}</p>'
    title = f'<figcaption style="max-width:{width}px">{escape(picture.title)}{files.of_picture(picture)}</figcaption>'
    return f"<figure>{title}{image}{caption}</figure>"


@dataclass(frozen=True)
class _Preview:
    dataset: str
    method: str
    ipc: int
    record: Record


def _previews(report: Report, out_dir: Path) -> str:
    """The moving preview of every method's largest set, with its contact sheet."""
    best: dict[tuple[str, str], _Preview] = {}
    for row in report.results.rows:
        record = report.results.records.get(row.distill_key or "")
        if record is not None and row.ipc is not None and not {"preview.gif", "preview.png"}.isdisjoint(record.artifacts):
            where = f"{row.dataset_label} ({row.shape})"
            held = best.get((where, row.method_label))
            if held is None or row.ipc > held.ipc:
                best[where, row.method_label] = _Preview(where, row.method_label, row.ipc, record)
    order = sorted(best.values(), key=lambda p: (natural_key(p.dataset), method_order(p.method)))
    spent, parts = 0, []
    for preview in order:
        images = []
        for name, said in (("preview.gif", "moving"), ("preview.png", "contact sheet"), ("stored.gif", "as stored")):
            file = preview.record.artifacts.get(name)
            if file is not None:
                embed = file.bytes <= EMBED_FILE and spent + file.bytes <= EMBED_TOTAL
                spent += file.bytes if embed else 0
                images.append((said, _preview_image(report, preview.record, name, embed, out_dir)))
        said = report.words.get(preview.method, preview.method)
        title = escape(f"{said}, IPC {preview.ipc}, {preview.dataset}")
        folded = "".join(f"<details><summary>{said}</summary>{image}</details>" for said, image in images[1:])
        parts.append(f"<figure><figcaption>{title}</figcaption>{images[0][1]}{folded}</figure>")
    if not parts:
        return '<p class="muted">No previews beside the records.</p>'
    note = "Clips of every class (of 120 at most) of the largest set of every method, first seed."
    return f'<p class="muted">{note}</p><div class="previews">{"".join(parts)}</div>'


def _preview_image(report: Report, record: Record, name: str, embed: bool, out_dir: Path) -> str:
    store = report.results.store
    if embed:
        try:
            return f'<img loading="lazy" src="{_data_uri(store.read_artifact(record, name), name[-3:])}" alt="{name}">'
        except StoreError as error:
            return f'<p class="muted">{escape(str(error))}</p>'
    path = f"artifacts/{record.key}/{name}"
    target = os.path.relpath(f"{store.path}/{path}", out_dir) if store.is_local else f"{store.shown}/{path}"
    image = f'<img loading="lazy" src="{escape(target)}" alt="{name}">' if store.is_local else escape(target)
    return f'<a href="{escape(target)}">{image}</a><p class="muted">{amount(record.artifacts[name].bytes)}, not embedded</p>'


def _provenance(report: Report) -> str:
    """Where the numbers come from: commands, code, machines."""
    origins = [report.results.records[row.key].provenance for row in report.results.rows if row.status != MISSING]
    sweeps = {sweep.id: sweep for sweep in report.results.sweeps}
    items = []
    for name, count in sorted(Counter(origin.sweep for origin in origins).items()):
        sweep = sweeps.get(name)
        said = f"{name}: {plural(count, 'cell')}" + (f", {sweep.status}" if sweep is not None else "")
        command = f"<br><code>{escape(sweep.command)}</code>" if sweep is not None else ""
        items.append(f"<li>{escape(said)}{command}</li>")
    libraries = {f"{name} {version}" for origin in origins for name, version in origin.libraries.items()}
    facts = []
    for title, found in (
        ("harness", {origin.harness for origin in origins}),
        ("commit", {origin.git for origin in origins}),
        ("libraries", libraries),
        ("python", {origin.python for origin in origins}),
        ("device", {origin.device for origin in origins}),
        ("host", {origin.host for origin in origins}),
    ):
        values = sorted((value for value in found if value), key=natural_key)
        if values:
            facts.append(f"<li>{title}: {escape(', '.join(values))}</li>")
    return (
        f"<ul>{''.join(facts)}</ul><p>Commands:</p><ul>{''.join(items)}</ul>"
        f'<p class="muted">{plural(len(report.results.records), "record")} in <code>{escape(report.results.store.shown)}</code>. '
        f"Reference row: {FULL}. The tooltip of every cell names the records behind it; "
        "<code>python -m harness rerun KEY</code> makes one again, and cells.csv has that command for each.</p>"
    )


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
