"""What can become of a file: each takes a path, and the path of another file of its sort."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from harness.spec import content_hash

Damage = Callable[[Path, Path], object]


def _rewrite(path: Path, change: Callable[[dict], object]) -> None:
    """A record that says something else, with the checksum that fits it."""
    content = json.loads(path.read_text())
    change(content)
    content.pop("content_sha256", None)
    try:
        content["content_sha256"] = content_hash(content)
    except ValueError:  # NaN has no checksum
        content["content_sha256"] = "0" * 64
    path.write_text(json.dumps(content))


def _replace(path: Path, make: Callable[[], object]) -> None:
    path.unlink()
    make()


def _insert(path: Path, value: str) -> None:
    path.write_text(path.read_text().replace('"status"', f'"x": {value}, "status"'))


def _swap(path: Path, other: Path) -> None:
    mine, others = path.read_bytes(), other.read_bytes()
    path.write_bytes(others)
    other.write_bytes(mine)


def _sparse(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(60 << 30)


def _loop(path: Path) -> None:
    second = path.with_name(f"{path.name}.loop")
    path.symlink_to(second)
    second.symlink_to(path)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FILES: dict[str, Damage] = {
    "removed": lambda path, other: path.unlink(),
    "empty": lambda path, other: path.write_bytes(b""),
    "truncated": lambda path, other: path.write_bytes(path.read_bytes()[:100]),
    "garbage": lambda path, other: path.write_bytes(os.urandom(4096)),
    "a bit flipped": lambda path, other: _flip(path),
    "swapped": _swap,
    "copied over": lambda path, other: path.write_bytes(other.read_bytes()),
    "a directory": lambda path, other: _replace(path, path.mkdir),
    "a full directory": lambda path, other: _replace(path, lambda: shutil.copytree(other.parent, path, symlinks=True)),
    "a fifo": lambda path, other: _replace(path, lambda: os.mkfifo(path)),
    "a link loop": lambda path, other: _replace(path, lambda: _loop(path)),
    "a dangling link": lambda path, other: _replace(path, lambda: path.symlink_to("nowhere")),
    "a link outside": lambda path, other: _replace(path, lambda: path.symlink_to("/etc/passwd")),
    "a link to /dev/zero": lambda path, other: _replace(path, lambda: path.symlink_to("/dev/zero")),
    "a sparse file of 60 GiB": lambda path, other: _sparse(path),
}
RECORDS: dict[str, Damage] = {
    "null": lambda path, other: path.write_text("null"),
    "a list": lambda path, other: path.write_text("[]"),
    "NaN": lambda path, other: _rewrite(path, lambda r: r["metrics"].update(accuracy=float("nan"))),
    "nested deeply": lambda path, other: path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000),
    "a list nested deeply": lambda path, other: path.write_text("[" * 900 + "]" * 900),
    "nested in a value": lambda path, other: _insert(path, "[" * 700 + "]" * 700),
    "half a surrogate pair": lambda path, other: _rewrite(path, lambda r: r.update(name="half \ud800")),
    "a wrong type": lambda path, other: _rewrite(path, lambda r: r.update(metrics="many")),
    "a field missing": lambda path, other: _rewrite(path, lambda r: r.pop("provenance")),
    "a field too many": lambda path, other: _rewrite(path, lambda r: r.update(colour="red")),
    "a number of 10,000 digits": lambda path, other: _insert(path, "9" * 10_000),
    "a cycle": lambda path, other: _rewrite(path, lambda r: r["inputs"].update(data=path.stem, distill=path.stem)),
    "another key": lambda path, other: _rewrite(path, lambda r: r.update(key="f" * 64)),
    "another task under its key": lambda path, other: _rewrite(path, lambda r: r.update(spec={**r["spec"], "code": "0" * 16})),
    "a newer format": lambda path, other: _rewrite(path, lambda r: r.update(format=3)),
    "an older schema": lambda path, other: path.write_text(json.dumps({"schema": 1, "content_sha256": content_hash({"schema": 1})})),
    "a file name in it that leads out": lambda path, other: _rewrite(
        path, lambda r: r["artifacts"].update({"../../../../etc/passwd": {"sha256": "0" * 64, "bytes": 10}})
    ),
}
"""Of records alone; FILES apply to artifacts too."""
