"""Digests of code: what changes the meaning counts, what changes the words does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import code
from harness.code import content_digest, digest_of, source_files, syntax_digest
from tests.conftest import PROJECT

SOURCE = '''
"""A module."""
from dataclasses import dataclass
LIMIT = 3

@dataclass
class A:
    """A class."""
    width: int = 4
    """Its width."""

    def area(self, x, y):
        """Twice."""
        return self.width * x + y
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module.", "Another text."),
        ('"""A module."""\n', ""),
        ("A class.", "Reworded."),
        ('        """Twice."""\n', ""),
        ("Its width.", "How wide it is."),
        ('    """Its width."""\n', ""),
        ("LIMIT = 3", "LIMIT = 3  # why"),
        ("LIMIT = 3", "# why\n\n\nLIMIT   =   3"),
        ("LIMIT = 3", "LIMIT = (3)"),
        ("self.width * x + y", "((self.width * x)\n            + y)"),
        ("4", "0x4"),
    ],
)
def test_words_do_not_count(old: str, new: str) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert syntax_digest(changed) == syntax_digest(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("LIMIT = 3", "LIMIT = '3'"),
        ("LIMIT = 3", "LIMIT = None"),
        ("LIMIT = 3", "LIMIT: int = 3"),
        ("LIMIT", "LIMITS"),
        ("width: int = 4", "width: float = 4"),
        ("@dataclass\n", ""),
        ("self, x, y", "self, y, x"),
        ("self.width * x + y", "self.width * (x + y)"),
        ("self.width * x + y", "self.width * x - y"),
        ("return ", "yield "),
        ("from dataclasses import dataclass\nLIMIT = 3", "LIMIT = 3\nfrom dataclasses import dataclass"),
    ],
)
def test_meaning_counts(old: str, new: str) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert syntax_digest(changed) != syntax_digest(SOURCE)


def test_texts_that_are_values_count() -> None:
    assert syntax_digest("x = 'a'") != syntax_digest("x = 'b'")
    assert syntax_digest("f('a')") != syntax_digest("f('b')")


def write(folder: Path, files: dict[str, str]) -> Path:
    """Modules, by their paths without ending; returns the first."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.py"


def names(files: set[Path], folder: Path) -> set[str]:
    return {str(file.relative_to(folder.resolve())) for file in files}


def test_a_method_is_followed_through_its_folder() -> None:
    found = names(source_files(PROJECT / "methods" / "gvd" / "__init__.py"), PROJECT)
    own = {f"methods/gvd/{name}.py" for name in ("__init__", "arrival", "codec", "guidance", "modes", "pipelines", "sampling", "vae")}
    assert own | {"methods/compose.py"} <= found
    assert all(name.startswith("methods/") for name in found), "neither the harness nor an installed package"
    assert "methods/pixels.py" in names(source_files(PROJECT / "methods" / "dm.py"), PROJECT)


def test_every_form_of_import_is_followed(tmp_path: Path) -> None:
    files = {
        "start": "import one, torch, json\nfrom two import x\nfrom pack import inner\nfrom harness import method\nimport not_there",
        "one": "def late():\n    import three",
        "two": "import start",
        "three": "",
        "pack/__init__": "from . import cousin\nfrom .deep import z",
        "pack/inner": "from ..pack.other import y",
        "pack/cousin": "",
        "pack/deep": "",
        "pack/other": "",
    }
    path = write(tmp_path, {**files, "unused": ""})
    found = names(source_files(path, [tmp_path]), tmp_path)
    assert found == {f"{name}.py" for name in files}


def test_an_environment_beside_the_file_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin may lie where its virtual environment lies, and this project may be installed in one."""
    installed = tmp_path / "env" / "site-packages"
    path = write(tmp_path, {"start": "import beside, package", "beside": ""})
    write(installed, {"package": "import inner", "inner": ""})
    monkeypatch.setattr(code, "_installed", lambda: (installed,))
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    assert names(source_files(path, [tmp_path]), tmp_path) == {"start.py", "beside.py"}
    own = write(installed, {"methods/mine": "import methods.other", "methods/other": "", "methods/__init__": ""})
    monkeypatch.setattr(code, "PROJECT", installed)
    assert names(source_files(own), installed) == {f"methods/{name}.py" for name in ("__init__", "mine", "other")}


def test_a_digest_is_that_of_names_and_meanings(tmp_path: Path) -> None:
    first = write(tmp_path, {"a/x": "v = 1", "a/y": "v = 2"})
    again = write(tmp_path, {"b/x": "v = 1  # one", "b/y": "v = 2"})
    renamed = write(tmp_path, {"c/z": "v = 1", "c/y": "v = 2"})
    swapped = write(tmp_path, {"d/x": "v = 2", "d/y": "v = 1"})
    digests = [digest_of(path.parent.iterdir()) for path in (first, again, renamed, swapped)]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    path = tmp_path / "a" / "x.py"
    path.write_text("v = 10", encoding="utf-8")
    assert digest_of(path.parent.iterdir()) != digests[0], "a changed file is read again"


def test_a_digest_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Sets of paths are ordered by a hash that differs from process to process; files of one name must not be."""
    write(tmp_path, {f"p{number}/__init__": f"v = {number}" for number in range(6)})
    program = (
        "import sys; from pathlib import Path; from harness.code import digest_of; print(digest_of(set(Path(sys.argv[1]).rglob('*.py'))))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3", "4")
    }
    assert len(found) == 1


def test_content_digests(tmp_path: Path) -> None:
    folder, copy = tmp_path / "folder", tmp_path / "copy"
    for root in (folder, copy):
        (root / "inner").mkdir(parents=True)
        (root / "inner" / "a.bin").write_bytes(b"one")
        (root / "b.bin").write_bytes(b"two")
    assert content_digest(folder) == content_digest(copy), "where it lies does not count"
    assert content_digest(folder / "b.bin") == content_digest(copy / "b.bin") != content_digest(folder / "inner" / "a.bin")
    digests = {content_digest(folder)}
    (copy / "b.bin").write_bytes(b"twO")
    digests.add(content_digest(copy))
    (copy / "b.bin").rename(copy / "c.bin")
    digests.add(content_digest(copy))
    (copy / "inner" / "a.bin").write_bytes(b"onet")
    (copy / "c.bin").write_bytes(b"wO")  # the same bytes, cut elsewhere
    digests.add(content_digest(copy))
    (copy / "d.bin").write_bytes(b"")
    digests.add(content_digest(copy))
    assert len(digests) == 5
    with pytest.raises(FileNotFoundError):
        content_digest(tmp_path / "nothing")
