"""A rule for the methods of this repository, beside what is required of every plugin: their files read like their papers."""

from __future__ import annotations

import ast
import re

import pytest

from harness.registry import PluginInfo, Registry

NO_PAPER = {"random", "full"}


@pytest.mark.parametrize("info", Registry().infos("method"), ids=lambda info: info.name)
def test_method_files_read_like_their_papers(info: PluginInfo) -> None:
    assert info.path is not None
    text = ast.get_docstring(ast.parse(info.path.read_text(encoding="utf-8"))) or ""
    assert "python -m harness run" in text, "one command that runs it"
    assert "Reported" in text, "what the paper reports, confirmed numbers only"
    if info.name not in NO_PAPER:
        assert re.search(r"\b(19|20)\d\d\b|arXiv", text), "its citation"
