"""The guides: they build without a warning, name verbs that exist, and the commands marked ``<!-- run -->`` do what the pages say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from tests.conftest import PROJECT

DOCS = PROJECT / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("*.md"))
BLOCK = re.compile(r"<!-- (?:(run)|file: (\S+)) -->\n```\w+\n(.*?)```", re.DOTALL)


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_verbs_that_exist(page: str) -> None:
    assert set(re.findall(r"python -m harness ([a-z]+)", text_of(page))) <= set(main.commands)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- run -->" in text_of(page)])
def test_the_commands_of_a_page_run(page: str, tmp_path: Path) -> None:
    """In order, each by a shell that stops at the first that fails, in an empty folder."""
    place = tmp_path / "work"
    place.mkdir()
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    for run, file, body in BLOCK.findall(text_of(page)):
        if file:
            (place / file).write_text(body, encoding="utf-8")
        elif run:
            done = subprocess.run(["bash", "-euc", body], cwd=place, env=environment, capture_output=True, text=True, timeout=280)
            assert done.returncode == 0, f"{body}\n{done.stdout}\n{done.stderr}"


def test_the_guides_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(DOCS), str(tmp_path / "html")]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    assert {path.stem for path in (tmp_path / "html").glob("*.html")} >= set(PAGES)
