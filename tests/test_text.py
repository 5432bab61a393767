"""Text from elsewhere: harmless on a terminal, in a spreadsheet, in Markdown, LaTeX and HTML; and without secrets."""

from __future__ import annotations

import csv
import io

import pytest

from harness.report.latex import to_latex
from harness.report.tables import Table, TableCell, TableRow, to_csv, to_html, to_markdown
from harness.text import csv_text, one_line, printable, redacted, redacted_json

NASTY = "=HYPERLINK(1)\x1b]0;owned\x07<script>alert(1)</script>![x](http://h)\u202e\ud800\nnext|cell"


def test_a_terminal_gets_no_control_characters() -> None:
    shown = printable("a\x1b[2J\x9b31m\x07\r\u202eb\ud800\nc\td")
    assert shown == "a\\x1b[2J\\x9b31m\\x07\\r\\u202eb\\ud800\nc\td"
    assert one_line("a\nb\u2028c\td") == "a b c d"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/path", "s3://***@bucket/path"),
        ("postgresql+psycopg2://u:p%40ss@db:5432/x", "postgresql+psycopg2://***@db:5432/x"),
        ("http://u:p@ss@host/x", "http://***@host/x"),
        ("http://token@host", "http://***@host"),
        ("https://host/a?x=1&access_token=abc&y=2", "https://host/a?x=1&access_token=***&y=2"),
        ("python -m harness run --results 's3://a:b@c/d' --ipc 1", "python -m harness run --results 's3://***@c/d' --ipc 1"),
        ("mail me@host, gvd[a=1]", "mail me@host, gvd[a=1]"),
        ("s3://bucket/at@sign", "s3://bucket/at@sign"),
    ],
)
def test_credentials_of_urls_are_left_out(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_secrets_of_the_environment_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("MODE_TOKEN", "short")
    config = {"run": {"results": "s3://a:b@c", "plugins": ["x wJalrXUtnFEMI y"], "seeds": [0, 1]}, "short": None}
    assert redacted_json(config) == {"run": {"results": "s3://***@c", "plugins": ["x *** y"], "seeds": [0, 1]}, "short": None}


def test_numbers_stay_numbers_and_formulas_become_text() -> None:
    assert [csv_text(v) for v in (-0.5, "-0.5", "+1e-3", None, 3)] == [-0.5, "-0.5", "+1e-3", None, 3]
    for text in ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1"):
        assert str(csv_text(text)).startswith("'")


def test_a_table_of_strangers_is_harmless_in_every_format() -> None:
    cell = TableCell(NASTY, details=(NASTY,), notes=(NASTY,), data={"value": NASTY})
    table = Table("name", NASTY, NASTY, (NASTY,), (TableRow(TableCell(NASTY), (cell,)),), caption=NASTY)
    for render in (to_markdown, to_latex, to_html, to_csv):
        text = render(table)
        assert not any(char in text for char in "\x1b\x07\u202e\ud800"), render.__name__
        text.encode()
    assert "<script>" not in to_html(table)
    markdown = to_markdown(table)
    assert "<script>" not in markdown.replace("\\<script>", "") and "![x](" not in markdown and "](http" not in markdown
    assert all(not field.startswith(("=", "+", "@")) for row in csv.reader(io.StringIO(to_csv(table))) for field in row)
