"""How plugins are named on a command line: lists, parameters in brackets, and the order in which people expect names."""

from __future__ import annotations

import re
from typing import Any

from harness.errors import UsageError


def natural_key(text: str) -> list[Any]:
    """Sort key that puts ipc1, ipc5, ipc10 in that order.

    >>> sorted(["ipc10", "ipc1", "ipc5"], key=natural_key)
    ['ipc1', 'ipc5', 'ipc10']
    """
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", text) if part]


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """Split a plugin spec into its name and inline parameters.

    >>> parse_spec("gvd[guidance=0.2,compose=2]")
    ('gvd', {'guidance': '0.2', 'compose': '2'})

    Raises UsageError when the brackets or an assignment are malformed.
    """
    match = re.fullmatch(r"\s*([^\[\]=,\s]+)\s*(?:\[(.*)\])?\s*", text, re.DOTALL)
    if match is None:
        raise UsageError(f"cannot read {text!r}: write name or name[key=value,key=value]")
    params: dict[str, str] = {}
    for part in split_list(match[2] or ""):
        key, eq, value = part.partition("=")
        if not eq or not key.strip():
            raise UsageError(f"cannot read {part!r} in {text!r}: write name[key=value,key=value]")
        if key.strip() in params:
            raise UsageError(f"parameter {key.strip()!r} is given twice in {text!r}")
        params[key.strip()] = value.strip()
    return match[1], params


def split_list(text: str) -> list[str]:
    """Split at commas that are outside brackets.

    >>> split_list("gvd[guidance=0.2,compose=2],random")
    ['gvd[guidance=0.2,compose=2]', 'random']
    """
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth < 0:
            break
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth != 0:
        raise UsageError(f"unbalanced brackets in {text!r}")
    parts.append(text[start:])
    return [p.strip() for p in parts if p.strip()]


def parse_list(text: str, what: str) -> list[str]:
    """A comma-separated list of the command line. Raises UsageError when it is empty."""
    parts = split_list(text)
    if not parts:
        raise UsageError(f"the list of {what} is empty: name at least one")
    return parts
