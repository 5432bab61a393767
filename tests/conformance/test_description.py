"""What ``list`` and the documentation show of a plugin."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from harness.registry import PluginInfo, Registry

NO_PAPER = {"random", "full"}


def test_says_what_it_is(plugin_info: PluginInfo) -> None:
    assert plugin_info.error is None, f"{plugin_info.name} is unavailable: {plugin_info.error}"
    assert plugin_info.summary, f"{plugin_info.origin}: the class of {plugin_info.name!r} needs a docstring"


def test_every_parameter_is_documented(plugin_info: PluginInfo) -> None:
    undocumented = [p.name for p in plugin_info.params if not p.doc]
    assert not undocumented, f"{plugin_info.origin}: a line of text under each field of Config; missing: {undocumented}"
    without_default = [p.name for p in plugin_info.params if p.default == "(required)"]
    assert not without_default, f"{plugin_info.origin}: fields of Config need defaults; missing: {without_default}"


def test_config_is_a_frozen_dataclass(plugin_info: PluginInfo, registry: Registry) -> None:
    config = registry.load(plugin_info.kind, plugin_info.name).Config  # type: ignore[attr-defined]
    assert dataclasses.is_dataclass(config)
    names = [f.name for f in dataclasses.fields(config)]
    assert sorted(names) == sorted(p.name for p in plugin_info.params) or not plugin_info.params
    if names:
        instance = config()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(instance, names[0], getattr(instance, names[0]))


def test_method_files_read_like_their_papers(plugin_info: PluginInfo) -> None:
    if plugin_info.kind != "method" or plugin_info.path is None or not plugin_info.origin.startswith("methods"):
        pytest.skip("a rule for the methods of this repository")
    text = ast.get_docstring(ast.parse(Path(plugin_info.path).read_text(encoding="utf-8"))) or ""
    assert "python -m harness run" in text, "one command that runs it"
    assert "Reported" in text, "what the paper reports, confirmed numbers only"
    if plugin_info.name not in NO_PAPER:
        assert re.search(r"\b(19|20)\d\d\b|arXiv", text), "its citation"
