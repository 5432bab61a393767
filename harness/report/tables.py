"""Table: rows and cells that remember which records they aggregate; one object, rendered to Markdown, CSV and HTML (LaTeX: latex.py)."""

from __future__ import annotations

import csv
import functools
import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.text import csv_text, one_line, printable

DASH = "—"
BEATS_RANDOM, TIED = "*", "≈"
"""Signs behind a number: told to be better than random; cannot be told from the best."""
LONG = 40
"""Characters from which on a cell is a sentence: it may break into lines."""


@dataclass(frozen=True)
class TableCell:
    """One cell.

    text: what is shown. bold: as the caption says. signs: of BEATS_RANDOM and TIED. details: smaller lines under it. notes: footnotes.
    data: the unrounded numbers behind the text, for the CSV. records: keys of the records that it aggregates. span: columns it covers.
    """

    text: str = ""
    bold: bool = False
    details: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    data: Mapping[str, object] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    span: int = 1
    signs: str = ""


@dataclass(frozen=True)
class TableRow:
    """A labelled row; a reference row is set apart from the methods by a rule."""

    label: TableCell
    cells: tuple[TableCell, ...]
    reference: bool = False


@dataclass(frozen=True)
class Table:
    """One table.

    name: file stem. corner: header of the label column. columns: headers. across: what the columns are ("IPC"), for the CSV.
    names: headers for the CSV, where they are not those for people. heads: (text, columns) over the columns, where several belong together.
    brief: what the caption says in a paper; empty: the caption. compact: a paper leaves out the details.
    """

    name: str
    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    caption: str = ""
    across: str = "column"
    names: tuple[str, ...] = ()
    heads: tuple[tuple[str, int], ...] = ()
    brief: str = ""
    compact: bool = False

    @property
    def flat(self) -> tuple[str, ...]:
        """Columns that say alone what they are: with the text over them."""
        over = [text for text, count in self.heads for _ in range(count)]
        return tuple(f"{head} {name}".strip() for head, name in zip(over, self.columns, strict=True)) if over else self.columns

    @functools.cached_property
    def notes(self) -> tuple[str, ...]:
        """Footnotes in order of first appearance, each once."""
        return tuple(dict.fromkeys(note for row in self.rows for cell in (row.label, *row.cells) for note in cell.notes))

    @property
    def records(self) -> tuple[str, ...]:
        """Keys of every record behind this table, each once."""
        return tuple(dict.fromkeys(key for row in self.rows for cell in row.cells for key in cell.records))

    def marks(self, cell: TableCell) -> str:
        """The footnote marks of a cell: "a", "a,b"."""
        return ",".join(mark(self.notes.index(note)) for note in cell.notes)


def slug(text: str) -> str:
    """Text as a file stem.

    >>> slug("gvd[w_end=0], IPC 5")
    'gvd-w_end-0-IPC-5'
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")


def mark(index: int) -> str:
    """Footnote mark of a 0-based index: a to z, then aa, ab ...

    >>> mark(0), mark(25), mark(26)
    ('a', 'z', 'aa')
    """
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[index] if index < 26 else letters[index // 26 - 1] + letters[index % 26]


# ---------------------------------------------------------------------------------------------------------------- Markdown


def to_markdown(table: Table) -> str:
    """The table as GitHub Markdown: title, table, caption, footnotes."""

    def show(cell: TableCell) -> list[str]:
        text = md(cell.text)
        text = (f"**{text}**" if cell.bold and text else text) + md(cell.signs)
        if cell.notes:
            text += f"<sup>{table.marks(cell)}</sup>"
        lines = [text, *(f"<sub>{md(line)}</sub>" for line in cell.details)]
        return ["<br>".join(lines), *[""] * (cell.span - 1)]

    def line(parts: list[str]) -> str:
        return "| " + " | ".join(parts) + " |"

    out = [f"### {md(table.title)}", "", line([md(table.corner), *map(md, table.flat)])]
    out.append("|" + "|".join(["---", *["---:"] * len(table.columns)]) + "|")
    out += [line([*show(row.label), *(part for cell in row.cells for part in show(cell))]) for row in table.rows]
    if table.caption:
        out += ["", md(table.caption)]
    if table.notes:
        out += ["", "<br>".join(f"<sup>{mark(i)}</sup> {md(note)}" for i, note in enumerate(table.notes))]
    return "\n".join(out) + "\n"


def md(text: str) -> str:
    r"""Text that Markdown shows as it is: no emphasis, no HTML, no link and no picture.

    >>> md("gvd[guidance=0.2] <script>, [x](http://h), ![y](z)") == r"gvd[guidance=0.2] \<script>, [x]\(http://h), !\[y]\(z)"
    True
    """
    return re.sub(r"([|*\\`]|<(?=[A-Za-z/!?])|(?<=\])[(\[]|(?<=!)\[)", r"\\\1", one_line(text))


# --------------------------------------------------------------------------------------------------------------------- CSV


def to_csv(table: Table) -> str:
    """The numbers, unrounded. One line per cell where cells hold several numbers, one line per row where they hold one ("value")."""
    names = list(dict.fromkeys(name for row in table.rows for cell in row.cells for name in cell.data))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if set(names) <= {"value"}:
        writer.writerow(list(map(csv_text, (table.corner, *(table.names or table.flat)))))
        for row in table.rows:
            values = [[_plain(cell.data.get("value", cell.text)), *[""] * (cell.span - 1)] for cell in row.cells]
            writer.writerow([csv_text(row.label.text), *(csv_text(text) for texts in values for text in texts)])
        return out.getvalue()
    writer.writerow([table.corner, table.across, *names, "notes", "records"])
    for row in table.rows:
        column = 0
        for cell in row.cells:
            across = table.flat[column] if cell.span == 1 else ""
            numbers = [_plain(cell.data.get(name)) for name in names]
            notes, records = "; ".join((*row.label.notes, *cell.notes)), " ".join(key[:12] for key in cell.records)
            writer.writerow(list(map(csv_text, (row.label.text, across, *numbers, notes, records))))
            column += cell.span
    return out.getvalue()


def _plain(value: object) -> str:
    return "" if value is None or value == DASH else str(value)


# -------------------------------------------------------------------------------------------------------------------- HTML


def escape(text: str) -> str:
    """Text as HTML shows it, also in an attribute."""
    return html.escape(printable(text))


def to_html(table: Table, links: str = "") -> str:
    """The table as an HTML fragment; the tooltip of a cell names the records behind it. links: HTML that follows the title."""

    def show(cell: TableCell, tag: str) -> str:
        text = escape(cell.text)
        text = (f"<b>{text}</b>" if cell.bold and text else text) + escape(cell.signs)
        if cell.notes:
            text += f"<sup>{table.marks(cell)}</sup>"
        text += "".join(f'<div class="detail">{escape(line)}</div>' for line in cell.details)
        span = f' colspan="{cell.span}"' if cell.span > 1 else ""
        keys = ", ".join(key[:12] for key in cell.records[:6]) + (", ..." if len(cell.records) > 6 else "")
        title = f' title="{len(cell.records)} records: {escape(keys)}"' if keys else ""
        wide = ' class="long"' if len(cell.text) > LONG else ""
        number = cell.data.get("accuracy", cell.data.get("value"))
        value = f' data-value="{number:.6g}"' if isinstance(number, (int, float)) else ""
        return f"<{tag}{span}{wide}{title}{value}>{text}</{tag}>"

    over = "".join(f'<th colspan="{count}">{escape(text)}</th>' for text, count in table.heads)
    head = "".join(f"<th>{escape(name)}</th>" for name in (table.corner, *table.columns))
    out = [f'<figure class="table" id="{escape(table.name)}"><figcaption>{escape(table.title)}{links}</figcaption>']
    top = f'<tr class="over"><th></th>{over}</tr>' if over else ""
    out.append(f'<div class="scroll"><table><thead>{top}<tr>{head}</tr></thead><tbody>')
    for i, row in enumerate(table.rows):
        rule = ' class="rule"' if i and row.reference != table.rows[i - 1].reference else ""
        fixed = " data-reference" if row.reference else ""
        out.append(f"<tr{rule}{fixed}>{show(row.label, 'th')}{''.join(show(cell, 'td') for cell in row.cells)}</tr>")
    out.append("</tbody></table></div>")
    if table.caption:
        out.append(f"<p>{escape(table.caption)}</p>")
    if table.notes:
        notes = (f"<li><sup>{mark(i)}</sup> {escape(note)}</li>" for i, note in enumerate(table.notes))
        out.append(f'<ul class="notes">{"".join(notes)}</ul>')
    out.append("</figure>")
    return "\n".join(out)
