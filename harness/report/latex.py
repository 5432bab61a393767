"""Tables and figures as LaTeX: floats that fit one column or the page, and one file that holds all of them and compiles as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from harness.report.document import Report
from harness.report.figures import Picture
from harness.report.tables import Table, TableCell, TableRow, mark
from harness.text import one_line

COLUMN_POINTS, PAGE_POINTS = 234.0, 455.0
"""Widths of a narrow column and of a page, between the classes of the field's venues."""
_CHARACTER, _GAP, _ROWS = 4.0, 8.0, 44
"""Mean width of a character and of the gap between two columns in points, at footnote size; rows that a page holds."""
_SIGNS = {"*": r"^{*}", "≈": r"^{\approx}"}
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "[": "{[}", "]": "{]}",
    "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "—": "---", "–": "--", "·": r"$\cdot$", "Δ": r"$\Delta$", "≥": r"$\geq$",
    "≤": r"$\leq$", "α": r"$\alpha$", "→": r"$\to$", "…": r"\ldots{}", "\u202f": r"\,", "\u00a0": "~",
    "\u200b": r"\allowbreak{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "≈": r"$\approx$", "*": "$*$", "/": r"/\allowbreak{}",
}  # fmt: skip
_LONG_WORD = re.compile(r"(\S{12})(?=\S{8})")
"""Where a word may break that no hyphenation knows: a path, a hash, a list of parameters."""
PREAMBLE = r"""% Everything of the report. Compiles as it is: pdflatex paper.tex. For two columns add `twocolumn` to the class's options.
\documentclass[a4paper,10pt]{article}
\usepackage[margin=2cm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{times}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage[export]{adjustbox}
\usepackage{microtype}
\extrafloats{250}
\emergencystretch=2em
\begin{document}
"""


def tex(text: str) -> str:
    """Text with everything that LaTeX would read as a command made plain; a character that it may not know is a question mark.

    >>> tex("gvd[w_end=0] 50 % ± 1")
    'gvd{[}w\\\\_end=0{]} 50 \\\\% $\\\\pm$ 1'
    """
    return "".join(_TEX.get(char, char if ord(char) < 0x250 else "?") for char in _LONG_WORD.sub("\\1\u200b", one_line(text)))


def to_latex(table: Table) -> str:
    """The table as a float that needs booktabs and adjustbox: one column wide where it fits, else the page (``table*``).

    A table that is too wide for a page goes on below itself, one that is too long goes on in a float of its own. Details become a
    smaller line under their row, but not in a compact table.
    """
    parts = [tuple(chunk) for chunk in _chunks(table.rows, _ROWS)] or [()]
    return "\n".join(_float(replace(table, rows=rows), table, i) for i, rows in enumerate(parts))


def to_paper(report: Report) -> str:
    """The file that includes every table and figure, which lie in tables/ and figures/ beside it."""
    out = [PREAMBLE]
    sections: list[tuple[str, Sequence[Table], Sequence[Picture]]] = [("Overview", report.overview, ())]
    sections += [(section.title, [*section.main, *section.tables], section.figures) for section in report.sections]
    sections += [("Not done", [report.failures] if report.failures else [], ()), ("Published", report.published, ())]
    for title, tables, pictures in sections:
        if tables or pictures:
            out.append(rf"\section*{{{tex(title)}}}")
            out += [rf"\input{{tables/{table.name}.tex}}" for table in tables]
            out += [_figure(picture) for picture in pictures]
            out.append("\\clearpage\n")
    return "\n".join([*out, r"\end{document}", ""])


def _figure(picture: Picture) -> str:
    caption = f"{tex(picture.title)}. {tex(picture.caption)}"
    return "\n".join(
        [
            r"\begin{figure}[!htbp]",
            r"\centering",
            rf"\includegraphics[max width=\linewidth]{{figures/{picture.name}.pdf}}",
            rf"\caption{{{caption}}}",
            rf"\label{{fig:{picture.name}}}",
            r"\end{figure}",
        ]
    )


def _float(part: Table, whole: Table, number: int) -> str:
    """One float. whole: the table that it is a part of, which numbers the footnotes."""
    widths = [_width(part, i) for i in range(-1, len(part.columns))]
    total = sum(widths)
    environment = "table" if total <= 1.15 * COLUMN_POINTS else "table*"
    caption = f"{tex(part.title)}. {tex(part.brief or part.caption)}" if not number else f"{tex(part.title)} (continued)."
    used = {note for row in part.rows for cell in (row.label, *row.cells) for note in cell.notes}
    notes = [rf"\textsuperscript{{{mark(i)}}}~{tex(note)}" for i, note in enumerate(whole.notes) if note in used]
    body: list[str] = []
    for start, end in _blocks(part, widths):
        body += ([r"\par\smallskip"] if body else []) + _tabular(part, whole, start, end)
    return "\n".join(
        [
            "% needs \\usepackage{booktabs} and \\usepackage{adjustbox}",
            rf"\begin{{{environment}}}[!htbp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{caption.strip().replace('. .', '.')}}}",
            rf"\label{{tab:{part.name}{f'-{number + 1}' if number else ''}}}",
            *body,
            *(
                [r"\par\smallskip\begin{minipage}{\linewidth}\raggedright\scriptsize " + "; ".join(notes) + r"\end{minipage}"]
                if notes
                else []
            ),
            rf"\end{{{environment}}}",
            "",
        ]
    )


def _tabular(part: Table, whole: Table, start: int, end: int) -> list[str]:
    """The columns from start to end, with the labels of the rows."""

    def show(cell: TableCell, text: str, size: str = "") -> str:
        body = tex(text)
        if size and text:
            body = f"{{{size}{body}}}"
        elif not size:
            signs = "".join(_SIGNS[sign] for sign in cell.signs)
            body = rf"\textbf{{{body}}}" if cell.bold and text else body
            body += f"${signs.replace('}^{', '')}$" if signs else ""
            body += rf"\textsuperscript{{{whole.marks(cell)}}}" if cell.notes else ""
        return rf"\multicolumn{{{cell.span}}}{{c}}{{{body}}}" if cell.span > 1 else body

    lines: list[str] = []
    for i, row in enumerate(part.rows):
        if i and row.reference != part.rows[i - 1].reference:
            lines.append(r"\midrule")
        cells = (row.label, *_cut(row, start, end))
        lines.append(" & ".join(show(cell, cell.text) for cell in cells) + r" \\")
        for depth in range(0 if part.compact else max(len(cell.details) for cell in cells)):
            small = (show(cell, cell.details[depth] if depth < len(cell.details) else "", r"\scriptsize ") for cell in cells)
            lines.append(" & ".join(small).strip() + r" \\")
    return [
        r"\begin{adjustbox}{max width=\linewidth}",
        rf"\begin{{tabular}}{{{_alignment(part, start, end)}}}",
        r"\toprule",
        *_heads(part, start, end),
        " & ".join([tex(part.corner), *map(tex, part.columns[start:end])]) + r" \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
    ]


def _heads(part: Table, start: int, end: int) -> list[str]:
    """The line over the columns, and a rule under each of its texts."""
    shown, rules, column = [], [], 0
    for text, count in part.heads:
        low, high = max(column, start), min(column + count, end)
        if low < high:
            shown.append(rf"\multicolumn{{{high - low}}}{{c}}{{{tex(text)}}}")
            rules.append(rf"\cmidrule(lr){{{low - start + 2}-{high - start + 1}}}")
        column += count
    return [" & ".join(["", *shown]) + r" \\", " ".join(rules)] if shown else []


def _cut(row: TableRow, start: int, end: int) -> list[TableCell]:
    """The cells of these columns; one that spans more is shown in each part of it."""
    found, column = [], 0
    for cell in row.cells:
        span = min(column + cell.span, end) - max(column, start)
        found += [replace(cell, span=span)] if span > 0 else []
        column += cell.span
    return found


def _column(part: Table, column: int) -> list[TableCell]:
    """The cells that stand in one column alone."""
    wide = {id(row) for row in part.rows if any(cell.span > 1 for cell in row.cells)}
    return [cell for row in part.rows if id(row) not in wide for cell in _cut(row, column, column + 1)]


def _alignment(part: Table, start: int, end: int) -> str:
    """Numbers to the right; a column of sentences breaks into lines."""
    columns = []
    for i in range(start, end):
        longest = max((len(cell.text) for cell in _column(part, i)), default=0)
        columns.append(r"p{4.5cm}" if longest > 40 else "r")
    return "l" + "".join(columns)


def _width(part: Table, column: int) -> float:
    """Points that a column takes; -1 is that of the labels."""
    if column < 0:
        texts = [part.corner, *(row.label.text for row in part.rows)]
    else:
        found = _column(part, column)
        texts = [part.columns[column], *(cell.text + cell.signs + ("" if not cell.notes else "a") for cell in found)]
        if not part.compact:
            texts += [line[: int(0.8 * len(line))] for cell in found for line in cell.details]
    return _CHARACTER * min(34, max(map(len, texts))) + _GAP


def _blocks(part: Table, widths: Sequence[float]) -> list[tuple[int, int]]:
    """Columns that stand beside each other, (start, end), so that no block is much wider than a page."""
    edges, column = set(), 0
    for _, count in part.heads:
        column += count
        edges.add(column)
    blocks, start, used = [], 0, widths[0]
    for i, width in enumerate(widths[1:]):
        if i > start and used + width > 1.2 * PAGE_POINTS:
            # Where columns belong together under one text, they stay together if that leaves anything on the page.
            cut = max((edge for edge in edges if start < edge <= i), default=i)
            blocks.append((start, cut))
            start, used = cut, widths[0] + sum(widths[cut + 1 : i + 1])
        used += width
    return [*blocks, (start, len(part.columns))]


def _chunks(rows: Sequence[TableRow], size: int) -> list[list[TableRow]]:
    rest = iter(rows)
    return list(iter(lambda: list(islice(rest, size)), []))
