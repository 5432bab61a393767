"""Text from elsewhere, made fit for where it goes: no escape sequences on a terminal, no formulas in a CSV, no secrets anywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, what reorders text, and halves of surrogate pairs, which cannot be written."""
_CREDENTIALS = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"@]*(?:@[^/\s'\"@]*)*@")
_QUERY = re.compile(r"([?&][\w.-]*(?:token|secret|password|passwd|key|signature|sig|credential)[\w.-]*=)[^&\s'\"]+", re.IGNORECASE)
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIAL)", re.IGNORECASE)
_SHORTEST_SECRET = 8


def printable(text: str) -> str:
    r"""Text that a terminal shows and does not obey: control characters are spelled out, as Python does.

    >>> printable("a\x1b[31mb") == "a\\x1b[31mb"
    True
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def one_line(text: str) -> str:
    """Printable text without line breaks and tabs."""
    return printable(" ".join(text.splitlines()).replace("\t", " ").replace("\n", " "))


def redacted(text: str) -> str:
    """Text without the credentials of URLs, and without the values of environment variables that are called secrets.

    >>> redacted("--results s3://me:pass@host/bucket?token=abc"), redacted("http://host/a@b")
    ('--results s3://***@host/bucket?token=***', 'http://host/a@b')
    """
    text = _QUERY.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", text))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return text


def redacted_json(value: Any) -> Any:
    """A JSON value whose texts are redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {name: redacted_json(item) for name, item in value.items()}
    return [redacted_json(item) for item in value] if isinstance(value, list | tuple) else value


def csv_text(value: object) -> object:
    """A cell of a CSV that no spreadsheet takes for a formula; numbers stay numbers.

    >>> csv_text("=1+1"), csv_text("-0.5"), csv_text(-0.5), csv_text("−5 points")
    ("'=1+1", '-0.5', -0.5, '−5 points')
    """
    if not isinstance(value, str) or not value or value[0] not in "=+-@\t\r":
        return printable(value) if isinstance(value, str) else value
    try:
        float(value)
    except ValueError:
        return printable(f"'{value}")
    return value
