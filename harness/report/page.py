"""The whole report as one HTML page that needs nothing beside it: figures and previews are embedded while they are small enough."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import StoreError
from harness.registry import natural_key
from harness.report.cells import FULL, method_order
from harness.report.figures import Picture
from harness.report.tables import to_html
from harness.report.words import amount, plural

if TYPE_CHECKING:
    from harness.report.build import Report, Section

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
    done = int((rows["status"] == "done").sum())
    summary = (
        f"{plural(done, 'cell')} done of {len(rows)}, last ended {max((str(t) for t in rows['ended_at'].dropna()), default='never')[:16]}"
    )
    anchors = [f"s{i}" for i in range(len(report.sections))]
    links = [(f"#{anchor}", section.title) for anchor, section in zip(anchors, report.sections, strict=True)]
    links += [("#previews", "distilled videos"), *([("#failures", "not done")] if report.failures else []), ("#provenance", "provenance")]
    body = [
        f'<h1>Video dataset distillation: results</h1><p class="muted">{html.escape(summary)}</p>',
        "<nav>" + "".join(f'<a href="{href}">{html.escape(text)}</a>' for href, text in links) + "</nav>",
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
    items = "".join(f"<li>{html.escape(text)}</li>" for text in warnings)
    return f'<div class="warn"><b>Before reading</b><ul>{items}</ul></div>' if items else ""


def _section(anchor: str, section: Section) -> list[str]:
    parts = [f'<h2 id="{anchor}">{html.escape(section.title)}</h2>', *map(to_html, section.main)]
    parts += ['<div class="figures">', *map(_figure, section.figures), "</div>"]
    parts += [f"<details><summary>{html.escape(table.title)}</summary>{to_html(table)}</details>" for table in section.tables]
    return parts + [f'<p class="muted">{html.escape(remark)}</p>' for remark in section.remarks]


def _figure(picture: Picture) -> str:
    source, width = _data_uri(picture.png, "png"), round(96 * picture.figure.get_figwidth() * 1.25)
    image = f'<img src="{source}" width="{width}" alt="{html.escape(picture.title)}">'
    caption = f'<p class="caption" style="max-width:{max(width, 420)}px">{html.escape(picture.caption)}</p>'
    return f"<figure><figcaption>{html.escape(picture.title)}</figcaption>{image}{caption}</figure>"


@dataclass(frozen=True)
class _Preview:
    dataset: str
    method: str
    ipc: int
    key: str


def _previews(report: Report, out_dir: Path) -> str:
    """The moving preview of every method's largest set, with its contact sheet."""
    best: dict[tuple[str, str], _Preview] = {}
    for row in report.results.row_dicts():
        record = report.results.records.get(row.get("distill_key") or "", {})
        if "preview.gif" in record.get("artifacts", {}) or "preview.png" in record.get("artifacts", {}):
            where = f"{row['dataset_label']} ({row['shape']})"
            found = _Preview(where, row["method_label"], int(row["ipc"]), record["key"])
            held = best.get((where, found.method))
            if held is None or found.ipc > held.ipc:
                best[where, found.method] = found
    order = sorted(best.values(), key=lambda p: (natural_key(p.dataset), method_order(p.method)))
    spent, parts = 0, []
    for preview in order:
        record = report.results.records[preview.key]
        images = []
        for name in ("preview.gif", "preview.png"):
            if name in record["artifacts"]:
                size = int(record["artifacts"][name]["bytes"])
                embed = size <= EMBED_FILE and spent + size <= EMBED_TOTAL
                spent += size if embed else 0
                images.append(_preview_image(report, record, name, embed, out_dir))
        said = report.words.get(preview.method, preview.method)
        title = html.escape(f"{said}, IPC {preview.ipc}, {preview.dataset}")
        sheet = f"<details><summary>contact sheet</summary>{images[1]}</details>" if len(images) > 1 else ""
        parts.append(f"<figure><figcaption>{title}</figcaption>{images[0]}{sheet}</figure>")
    if not parts:
        return '<h2 id="previews">Distilled videos</h2><p class="muted">No previews beside the records.</p>'
    note = "The first clips of each class of the largest set of every method, first seed."
    return f'<h2 id="previews">Distilled videos</h2><p class="muted">{note}</p><div class="previews">{"".join(parts)}</div>'


def _preview_image(report: Report, record: Mapping[str, Any], name: str, embed: bool, out_dir: Path) -> str:
    store = report.results.store
    if embed:
        try:
            return f'<img loading="lazy" src="{_data_uri(store.read_artifact(record, name), name[-3:])}" alt="{name}">'
        except StoreError as error:
            return f'<p class="muted">{html.escape(str(error))}</p>'
    path = f"artifacts/{record['key']}/{name}"
    target = os.path.relpath(f"{store.path}/{path}", out_dir) if store.is_local else f"{store.root}/{path}"
    image = f'<img loading="lazy" src="{html.escape(target)}" alt="{name}">' if store.is_local else html.escape(target)
    return f'<a href="{html.escape(target)}">{image}</a><p class="muted">{amount(record["artifacts"][name]["bytes"])}, not embedded</p>'


def _provenance(report: Report) -> str:
    """Where the numbers come from: commands, code, machines."""
    origins = [report.results.records[key].get("provenance") or {} for key in report.results.rows["key"]]
    sweeps = {str(sweep["id"]): sweep for sweep in report.results.store.read_sweeps()}
    used = sorted({str(origin.get("sweep")) for origin in origins if origin.get("sweep")})
    items = []
    for name in used:
        sweep = sweeps.get(name, {})
        count = sum(str(origin.get("sweep")) == name for origin in origins)
        said = f"{name}: {plural(count, 'cell')}" + (f", {sweep['status']}" if sweep.get("status") else "")
        command = f"<br><code>{html.escape(str(sweep['command']))}</code>" if sweep.get("command") else ""
        items.append(f"<li>{html.escape(said)}{command}</li>")
    facts = []
    for name, title in (
        ("harness", "harness"),
        ("git", "commit"),
        ("torch", "torch"),
        ("python", "python"),
        ("device", "device"),
        ("host", "host"),
    ):
        values = sorted({str(origin[name]) for origin in origins if origin.get(name) is not None})
        if values:
            facts.append(f"<li>{title}: {html.escape(', '.join(values))}</li>")
    return (
        f'<h2 id="provenance">Provenance</h2><ul>{"".join(facts)}</ul><p>Commands:</p><ul>{"".join(items)}</ul>'
        f'<p class="muted">{plural(len(report.results.records), "record")} in <code>{html.escape(report.results.store.root)}</code>. '
        f"Reference row: {FULL}. The tooltip of every cell names the records behind it.</p>"
    )


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
