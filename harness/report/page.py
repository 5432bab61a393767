"""The whole report as one HTML page that needs nothing beside it: figures and previews are embedded while they are small enough."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StoreError
from harness.names import natural_key
from harness.record import Record
from harness.report.cells import FULL, MISSING, method_order
from harness.report.document import Report, Section
from harness.report.figures import Picture
from harness.report.tables import escape, to_html
from harness.words import amount, plural

EMBED_FILE, EMBED_TOTAL = 3 * 2**20, 24 * 2**20
"""Largest preview, and sum of all previews, that are embedded; beyond it the page links to the file beside the records."""
_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: #1c2024; margin: 0 auto;
  max-width: 1120px; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; border-top: 1px solid #d5dae0; padding-top: 1.25rem; }
nav a { margin-right: 1rem; }
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
details figure.table > figcaption { display: none; }
summary { cursor: pointer; font-weight: 600; }
.warn { background: #fff6e0; border-left: 4px solid #d98e04; padding: .6rem 1rem; margin: 1rem 0; font-size: .9rem; }
.warn ul { margin: .25rem 0; padding-left: 1.2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.figures figure { margin: .5rem 0; }
.previews { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1.25rem; }
.previews figure { margin: 0; }
.previews img { image-rendering: pixelated; border: 1px solid #d5dae0; }
img { max-width: 100%; height: auto; }
code { font-size: .85em; background: #f1f3f5; padding: .1em .3em; border-radius: 3px; overflow-wrap: anywhere; }
@media print { nav { display: none; } body { max-width: none; } }
"""


def render_page(report: Report, out_dir: Path) -> str:
    """The page. out_dir: where it will lie, for links to files that are too large to embed."""
    rows = report.results.rows
    done = sum(row.status == "done" for row in rows)
    ended = max((row.ended_at for row in rows if row.ended_at), default="never")
    summary = f"{plural(done, 'cell')} done of {len(rows)}, last ended {ended[:16]}"
    anchors = [f"s{i}" for i in range(len(report.sections))]
    links = [(f"#{anchor}", section.title) for anchor, section in zip(anchors, report.sections, strict=True)]
    links += [("#previews", "distilled videos"), *([("#failures", "not done")] if report.failures else []), ("#provenance", "provenance")]
    body = [
        f'<h1>Video dataset distillation: results</h1><p class="muted">{escape(summary)}</p>',
        "<nav>" + "".join(f'<a href="{href}">{escape(text)}</a>' for href, text in links) + "</nav>",
        _warnings(report.warnings),
        *(part for anchor, section in zip(anchors, report.sections, strict=True) for part in _section(anchor, section)),
        _previews(report, out_dir),
    ]
    if report.failures is not None:
        body.append(f'<h2 id="failures">Not done</h2>{to_html(report.failures)}')
    if report.published:
        body += ["<h2>Published numbers</h2>", *map(to_html, report.published)]
    body.append(_provenance(report))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}<title>Video dataset distillation: results</title><style>{_CSS}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _warnings(warnings: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return f'<div class="warn"><b>Before reading</b><ul>{items}</ul></div>' if items else ""


def _section(anchor: str, section: Section) -> list[str]:
    parts = [f'<h2 id="{anchor}">{escape(section.title)}</h2>', *map(to_html, section.main)]
    parts += ['<div class="figures">', *map(_figure, section.figures), "</div>"]
    parts += [f"<details><summary>{escape(table.title)}</summary>{to_html(table)}</details>" for table in section.tables]
    return parts + [f'<p class="muted">{escape(remark)}</p>' for remark in section.remarks]


def _figure(picture: Picture) -> str:
    source, width = _data_uri(picture.png, "png"), round(96 * picture.figure.get_figwidth() * 1.25)
    image = f'<img src="{source}" width="{width}" alt="{escape(picture.title)}">'
    caption = f'<p class="caption" style="max-width:{max(width, 420)}px">{escape(picture.caption)}</p>'
    return f"<figure><figcaption>{escape(picture.title)}</figcaption>{image}{caption}</figure>"


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
        return '<h2 id="previews">Distilled videos</h2><p class="muted">No previews beside the records.</p>'
    note = "The first clips of each class of the largest set of every method, first seed."
    return f'<h2 id="previews">Distilled videos</h2><p class="muted">{note}</p><div class="previews">{"".join(parts)}</div>'


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
        f'<h2 id="provenance">Provenance</h2><ul>{"".join(facts)}</ul><p>Commands:</p><ul>{"".join(items)}</ul>'
        f'<p class="muted">{plural(len(report.results.records), "record")} in <code>{escape(report.results.store.shown)}</code>. '
        f"Reference row: {FULL}. The tooltip of every cell names the records behind it.</p>"
    )


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
