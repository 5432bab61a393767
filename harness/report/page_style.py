"""The look of the page, and the script that sorts and filters its tables. Both stand inline in it, so that it needs no network."""

from __future__ import annotations

STYLE = """
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
SCRIPT = """
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
    row.hidden = words.length > 0 && row.dataset.reference === undefined
      && !words.some(w => row.cells[0].textContent.toLowerCase().includes(w));
  for (const section of document.querySelectorAll("section")) section.hidden = Boolean(choose.value) && section.id !== choose.value; };
filter.addEventListener("input", show); choose.addEventListener("change", show);
for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", () => { choose.value = ""; show(); });
show();
"""
