"""Table: rows and cells that remember which records they aggregate; one object, rendered to Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.text import csv_text, one_line, printable

DASH = "—"
LONG = 40
"""Characters from which on a cell is a sentence: it may break into lines."""


@dataclass(frozen=True)
class TableCell:
    """One cell.

    text: what is shown. bold: best, or not separable from the best. details: smaller lines under it. notes: footnotes.
    data: the unrounded numbers behind the text, for the CSV. records: keys of the records that it aggregates. span: columns it covers.
    """

    text: str = ""
    bold: bool = False
    details: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    data: Mapping[str, object] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    span: int = 1


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
    names: headers for the CSV, where they are not those for people.
    """

    name: str
    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    caption: str = ""
    across: str = "column"
    names: tuple[str, ...] = ()

    @property
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
        text = f"**{text}**" if cell.bold and text else text
        if cell.notes:
            text += f"<sup>{table.marks(cell)}</sup>"
        lines = [text, *(f"<sub>{md(line)}</sub>" for line in cell.details)]
        return ["<br>".join(lines), *[""] * (cell.span - 1)]

    def line(parts: list[str]) -> str:
        return "| " + " | ".join(parts) + " |"

    out = [f"### {md(table.title)}", "", line([md(table.corner), *map(md, table.columns)])]
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


# ------------------------------------------------------------------------------------------------------------------- LaTeX

_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "[": "{[}", "]": "{]}",
    "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "—": "---", "–": "--", "·": r"$\cdot$", "Δ": r"$\Delta$", "≥": r"$\geq$",
    "≤": r"$\leq$", "α": r"$\alpha$", "→": r"$\to$", "…": r"\ldots{}", "\u202f": r"\,", "\u00a0": "~",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip


def tex(text: str) -> str:
    """Text with everything that LaTeX would read as a command made plain.

    >>> tex("gvd[w_end=0] 50 % ± 1")
    'gvd{[}w\\\\_end=0{]} 50 \\\\% $\\\\pm$ 1'
    """
    return "".join(_TEX.get(char, char) for char in one_line(text))


def to_latex(table: Table) -> str:
    """The table as a LaTeX ``table`` float; needs \\usepackage{booktabs}. Details become a smaller line under their row."""

    def show(cell: TableCell, text: str, size: str = "") -> str:
        body = tex(text)
        if size and text:
            body = f"{{{size}{body}}}"
        elif not size:
            body = rf"\textbf{{{body}}}" if cell.bold and text else body
            body += rf"\textsuperscript{{{table.marks(cell)}}}" if cell.notes else ""
        return rf"\multicolumn{{{cell.span}}}{{c}}{{{body}}}" if cell.span > 1 else body

    body: list[str] = []
    for i, row in enumerate(table.rows):
        if i and row.reference != table.rows[i - 1].reference:
            body.append(r"\midrule")
        cells = (row.label, *row.cells)
        body.append(" & ".join(show(cell, cell.text) for cell in cells) + r" \\")
        for depth in range(max(len(cell.details) for cell in cells)):
            lines = (show(cell, cell.details[depth] if depth < len(cell.details) else "", r"\scriptsize ") for cell in cells)
            body.append(" & ".join(lines).strip() + r" \\")
    notes = [rf"\textsuperscript{{{mark(i)}}}~{tex(note)}" for i, note in enumerate(table.notes)]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}[t]",
            r"\centering\small",
            rf"\caption{{{tex(table.title)}. {tex(table.caption)}}}".replace(". }", ".}"),
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            " & ".join([tex(table.corner), *map(tex, table.columns)]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\smallskip\footnotesize " + "; ".join(notes)] if notes else []),
            r"\end{table}",
            "",
        ]
    )


# --------------------------------------------------------------------------------------------------------------------- CSV


def to_csv(table: Table) -> str:
    """The numbers, unrounded. One line per cell where cells hold several numbers, one line per row where they hold one ("value")."""
    names = list(dict.fromkeys(name for row in table.rows for cell in row.cells for name in cell.data))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if set(names) <= {"value"}:
        writer.writerow(list(map(csv_text, (table.corner, *(table.names or table.columns)))))
        for row in table.rows:
            values = [[_plain(cell.data.get("value", cell.text)), *[""] * (cell.span - 1)] for cell in row.cells]
            writer.writerow([csv_text(row.label.text), *(csv_text(text) for texts in values for text in texts)])
        return out.getvalue()
    writer.writerow([table.corner, table.across, *names, "notes", "records"])
    for row in table.rows:
        column = 0
        for cell in row.cells:
            across = table.columns[column] if cell.span == 1 else ""
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


def to_html(table: Table) -> str:
    """The table as an HTML fragment; the tooltip of a cell names the records behind it."""

    def show(cell: TableCell, tag: str) -> str:
        text = escape(cell.text)
        text = f"<b>{text}</b>" if cell.bold and text else text
        if cell.notes:
            text += f"<sup>{table.marks(cell)}</sup>"
        text += "".join(f'<div class="detail">{escape(line)}</div>' for line in cell.details)
        span = f' colspan="{cell.span}"' if cell.span > 1 else ""
        keys = ", ".join(key[:12] for key in cell.records[:6]) + (", ..." if len(cell.records) > 6 else "")
        title = f' title="{len(cell.records)} records: {escape(keys)}"' if keys else ""
        wide = ' class="long"' if len(cell.text) > LONG else ""
        return f"<{tag}{span}{wide}{title}>{text}</{tag}>"

    head = "".join(f"<th>{escape(name)}</th>" for name in (table.corner, *table.columns))
    out = [f'<figure class="table" id="{escape(table.name)}"><figcaption>{escape(table.title)}</figcaption>']
    out.append(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>')
    for i, row in enumerate(table.rows):
        rule = ' class="rule"' if i and row.reference != table.rows[i - 1].reference else ""
        out.append(f"<tr{rule}>{show(row.label, 'th')}{''.join(show(cell, 'td') for cell in row.cells)}</tr>")
    out.append("</tbody></table></div>")
    if table.caption:
        out.append(f"<p>{escape(table.caption)}</p>")
    if table.notes:
        notes = (f"<li><sup>{mark(i)}</sup> {escape(note)}</li>" for i, note in enumerate(table.notes))
        out.append(f'<ul class="notes">{"".join(notes)}</ul>')
    out.append("</figure>")
    return "\n".join(out)


RENDERERS = {"md": to_markdown, "tex": to_latex, "csv": to_csv}
"""File suffix -> renderer, for the tables that are written as files of their own."""
