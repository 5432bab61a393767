"""The whole report as one HTML page that needs nothing beside it: figures and previews are embedded while they are small enough."""

from __future__ import annotations

import base64
import html
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
from harness.report.tables import Table, to_html
from harness.words import amount, plural

EMBED_FILE, EMBED_TOTAL = 3 * 2**20, 24 * 2**20
"""Largest preview, and sum of all previews, that are embedded; beyond it the page links to the file beside the records."""
LINKED = {"csv": "numbers", "tex": "LaTeX", "md": "Markdown", "pdf": "PDF", "png": "PNG"}
_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: #1c2024; margin: 0 auto;
  max-width: 1120px; padding: 1.5rem 1.25rem 4rem; }
*, *::before, *::after { box-sizing: border-box; }
h1, h2, figcaption, p, li, summary { overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; border-top: 1px solid #d5dae0; padding-top: 1.25rem; }
nav { font-size: .9rem; }
nav a { margin-right: 1rem; display: inline-block; max-width: 100%; overflow-wrap: anywhere; }
.tools { position: sticky; top: 0; z-index: 2; background: #fff; display: flex; flex-wrap: wrap; gap: .5rem; padding: .6rem 0;
  border-bottom: 1px solid #d5dae0; margin-top: 1rem; }
.tools input, .tools select { font: inherit; font-size: .9rem; padding: .3rem .5rem; min-width: 0; max-width: 100%; flex: 1 1 14rem; }
.files { font-weight: 400; font-size: .78rem; margin-left: .6rem; white-space: nowrap; }
.files a { margin-right: .4rem; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: inherit; }
th[aria-sort=ascending] button::after { content: " \\25B2"; font-size: .7em; }
th[aria-sort=descending] button::after { content: " \\25BC"; font-size: .7em; }
tr.over th { text-align: center; border-bottom: 1px solid #9aa4b0; }
[hidden] { display: none !important; }
a { color: #0b5cad; }
.muted, p.caption, figure.table p, .detail, ul.notes { color: #566070; }
figure { margin: 1.25rem 0; }
figure.table p, p.caption, ul.notes { font-size: .82rem; margin: .5rem 0 0; max-width: 95ch; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem;
  border-top: 1.5px solid #1c2024; border-bottom: 1.5px solid #1c2024; }
th, td { padding: .35rem .8rem; text-align: right; vertical-align: top; }
td { white-space: nowrap; }
td[colspan] { text-align: center; }
td.long { white-space: normal; text-align: left; min-width: 14rem; overflow-wrap: anywhere; }
th:first-child { text-align: left; font-weight: 600; }
thead th { border-bottom: 1px solid #1c2024; }
tr.rule > * { border-top: 1px solid #9aa4b0; }
tbody tr:hover { background: #f4f7fa; }
.detail { font-size: .78rem; line-height: 1.35; }
sup { font-size: .7em; line-height: 0; }
ul.notes { list-style: none; padding: 0; }
details { margin: .75rem 0; }
details figure.table > figcaption { font-size: .85rem; font-weight: 400; }
table.sorted tr.rule > * { border-top: 0; }
summary { cursor: pointer; font-weight: 600; }
.warn { background: #fff6e0; border-left: 4px solid #d98e04; padding: .6rem 1rem; margin: 1rem 0; font-size: .9rem; }
.warn ul { margin: .25rem 0; padding-left: 1.2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.figures figure { margin: .5rem 0; min-width: 0; max-width: 100%; }
.previews { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); gap: 1.25rem; }
.previews figure { margin: 0; min-width: 0; }
.previews img { image-rendering: pixelated; border: 1px solid #d5dae0; }
img { max-width: 100%; height: auto; }
code { font-size: .85em; background: #f1f3f5; padding: .1em .3em; border-radius: 3px; overflow-wrap: anywhere; }
@media (max-width: 640px) { body { padding: 1rem .75rem 3rem; } th, td { padding: .3rem .5rem; } td.long { min-width: 10rem; } }
@media print { .tools { display: none; } nav { display: none; } body { max-width: none; } }
"""
_SCRIPT = """
const number = text => { const found = text.replace("\\u2212", "-").replace(/,/g, "").match(/[-+]?[0-9.]+(e[-+]?[0-9]+)?/);
  return found ? parseFloat(found[0]) : NaN; };
const units = { "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "B": 1, "KiB": 1024, "MiB": 1048576, "GiB": 1073741824 };
const value = cell => { const given = cell.dataset.value;
  if (given !== undefined) return parseFloat(given);
  const text = cell.firstChild ? cell.textContent.trim() : "", unit = text.match(/ (ms|s|min|h|B|KiB|MiB|GiB)$/);
  return number(text) * (unit ? units[unit[1]] : 1); };
for (const table of document.querySelectorAll("figure.table table")) {
  const heads = table.tHead.rows[table.tHead.rows.length - 1].cells, body = table.tBodies[0];
  [...body.rows].forEach((row, i) => { row.dataset.place = i; });
  [...heads].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button"; button.title = "sort"; button.append(...head.childNodes); head.append(button);
    button.addEventListener("click", () => {
      const was = head.getAttribute("aria-sort"), next = was === "descending" ? "ascending" : was === "ascending" ? "" : "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const key = row => { let seen = 0; for (const cell of row.cells) { seen += cell.colSpan; if (seen > column) return cell; } };
      const rows = [...body.rows].sort((a, b) => {
        if (!next) return a.dataset.place - b.dataset.place;
        const x = value(key(a)), y = value(key(b));
        if (column && !(isNaN(x) && isNaN(y))) return isNaN(x) ? 1 : isNaN(y) ? -1 : sign * (x - y) || a.dataset.place - b.dataset.place;
        return sign * key(a).textContent.localeCompare(key(b).textContent, undefined, { numeric: true }); });
      table.classList.toggle("sorted", Boolean(next));
      body.append(...rows); }); }); }
const filter = document.getElementById("filter"), choose = document.getElementById("choose");
const show = () => {
  const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("figure.table tbody tr"))
    row.hidden = words.length > 0 && row.dataset.reference === undefined && !words.some(w => row.cells[0].textContent.toLowerCase().includes(w));
  for (const section of document.querySelectorAll("section")) section.hidden = Boolean(choose.value) && section.id !== choose.value; };
filter.addEventListener("input", show); choose.addEventListener("change", show);
for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", () => { choose.value = ""; show(); });
show();
"""


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
    links = "".join(f'<a href="#{anchor}">{html.escape(title)}</a>' for anchor, title, _ in parts)
    options = "".join(f'<option value="{anchor}">{html.escape(title)}</option>' for anchor, title, _ in parts)
    body = [
        f'<h1>Video dataset distillation: results</h1><p class="muted">{html.escape(summary)}{files.of_report()}</p>',
        f"<nav>{links}</nav>",
        '<div class="tools"><input id="filter" type="search" placeholder="methods, such as gvd random" aria-label="filter rows">'
        f'<select id="choose" aria-label="section"><option value="">everything</option>{options}</select></div>',
        _warnings(report.warnings),
        *(f'<section id="{anchor}"><h2>{html.escape(title)}</h2>{content}</section>' for anchor, title, content in parts),
        f"<script>{_SCRIPT}</script>",
    ]
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}<title>Video dataset distillation: results</title><style>{_CSS}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _warnings(warnings: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in warnings)
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
            f'<a href="{html.escape(path)}" title="{LINKED[suffix]}">.{suffix}</a>' for suffix, path in paths if suffix in self.formats
        ]
        return f'<span class="files">{" ".join(shown)}</span>' if shown else ""


def _section(section: Section, files: _Files) -> str:
    parts = [to_html(table, files.of_table(table)) for table in section.main]
    parts += ['<div class="figures">', *(_figure(picture, files) for picture in section.figures), "</div>"]
    parts += [
        f"<details><summary>{html.escape(table.title)}</summary>{to_html(table, files.of_table(table))}</details>"
        for table in section.tables
    ]
    parts += [f'<p class="muted">{html.escape(remark)}</p>' for remark in section.remarks]
    return "\n".join(parts)


def _figure(picture: Picture, files: _Files) -> str:
    source, width = _data_uri(picture.png, "png"), round(96 * picture.figure.get_figwidth() * 1.4)
    image = f'<img src="{source}" width="{width}" alt="{html.escape(picture.title)}">'
    caption = f'<p class="caption" style="max-width:{width}px">{html.escape(picture.caption)}</p>'
    title = f'<figcaption style="max-width:{width}px">{html.escape(picture.title)}{files.of_picture(picture)}</figcaption>'
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
        for name in ("preview.gif", "preview.png"):
            file = preview.record.artifacts.get(name)
            if file is not None:
                embed = file.bytes <= EMBED_FILE and spent + file.bytes <= EMBED_TOTAL
                spent += file.bytes if embed else 0
                images.append(_preview_image(report, preview.record, name, embed, out_dir))
        said = report.words.get(preview.method, preview.method)
        title = html.escape(f"{said}, IPC {preview.ipc}, {preview.dataset}")
        sheet = f"<details><summary>contact sheet</summary>{images[1]}</details>" if len(images) > 1 else ""
        parts.append(f"<figure><figcaption>{title}</figcaption>{images[0]}{sheet}</figure>")
    if not parts:
        return '<p class="muted">No previews beside the records.</p>'
    note = "The first clips of each class of the largest set of every method, first seed."
    return f'<p class="muted">{note}</p><div class="previews">{"".join(parts)}</div>'


def _preview_image(report: Report, record: Record, name: str, embed: bool, out_dir: Path) -> str:
    store = report.results.store
    if embed:
        try:
            return f'<img loading="lazy" src="{_data_uri(store.read_artifact(record, name), name[-3:])}" alt="{name}">'
        except StoreError as error:
            return f'<p class="muted">{html.escape(str(error))}</p>'
    path = f"artifacts/{record.key}/{name}"
    target = os.path.relpath(f"{store.path}/{path}", out_dir) if store.is_local else f"{store.root}/{path}"
    image = f'<img loading="lazy" src="{html.escape(target)}" alt="{name}">' if store.is_local else html.escape(target)
    return f'<a href="{html.escape(target)}">{image}</a><p class="muted">{amount(record.artifacts[name].bytes)}, not embedded</p>'


def _provenance(report: Report) -> str:
    """Where the numbers come from: commands, code, machines."""
    origins = [report.results.records[row.key].provenance for row in report.results.rows if row.status != MISSING]
    sweeps = {sweep.id: sweep for sweep in report.results.sweeps}
    items = []
    for name, count in sorted(Counter(origin.sweep for origin in origins).items()):
        sweep = sweeps.get(name)
        said = f"{name}: {plural(count, 'cell')}" + (f", {sweep.status}" if sweep is not None else "")
        command = f"<br><code>{html.escape(sweep.command)}</code>" if sweep is not None else ""
        items.append(f"<li>{html.escape(said)}{command}</li>")
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
            facts.append(f"<li>{title}: {html.escape(', '.join(values))}</li>")
    return (
        f'<ul>{"".join(facts)}</ul><p>Commands:</p><ul>{"".join(items)}</ul>'
        f'<p class="muted">{plural(len(report.results.records), "record")} in <code>{html.escape(report.results.store.root)}</code>. '
        f"Reference row: {FULL}. The tooltip of every cell names the records behind it.</p>"
    )


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
