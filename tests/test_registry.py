"""Names, parameters and origins of plugins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.errors import PluginError, UnknownNameError, UsageError
from harness.registry import Registry, parse_spec, split_list
from tests.conftest import TINY

METHOD = """
from dataclasses import dataclass
from harness import method

@method("{name}")
class Some:
    '''A summary.'''

    @dataclass(frozen=True)
    class Config:
        rate: float = 0.5
        '''How fast.'''
        steps: int | None = None
        '''How long.'''
        mode: str = "a"
        '''Which.'''

    def __init__(self, config):
        self.config = config
"""


def write(folder: Path, file: str, name: str) -> Path:
    path = folder / file
    path.write_text(METHOD.format(name=name))
    return path


def test_a_plugin_file_is_described_and_resolved(tmp_path: Path) -> None:
    registry = Registry([write(tmp_path, "some.py", "some")])
    info = next(i for i in registry.infos("method") if i.name == "some")
    rate = info.params[0]
    assert info.summary == "A summary." and (rate.name, rate.default, rate.doc) == ("rate", "0.5", "How fast.")
    resolved = registry.resolve("method", "some[rate=0.25,steps=3]")
    assert resolved.params == {"rate": 0.25, "steps": 3, "mode": "a"} and resolved.label == "some[rate=0.25,steps=3]"
    assert resolved.create().config.rate == 0.25
    assert registry.resolve("method", "some[steps=none,mode=none]").params == {"rate": 0.5, "steps": None, "mode": "none"}


def test_parameters_by_precedence(tmp_path: Path) -> None:
    path = write(tmp_path, "some.py", "some")
    registry = Registry([path], {"method": {"some": {"rate": 1.0, "steps": 1, "mode": "toml"}}})
    resolved = registry.resolve("method", "some[mode=inline]", {"steps": 2, "mode": "protocol"})
    assert resolved.params == {"rate": 1.0, "steps": 2, "mode": "inline"}


def test_two_plugins_of_one_name_are_refused_with_both_origins(tmp_path: Path) -> None:
    first, second = write(tmp_path, "one.py", "same"), write(tmp_path, "two.py", "same")
    with pytest.raises(PluginError) as error:
        Registry([first, second])
    assert str(first) in str(error.value) and str(second) in str(error.value)
    with pytest.raises(PluginError, match=r"methods/random\.py"):
        Registry([write(tmp_path, "three.py", "random")])


def test_unknown_names_are_answered_with_a_suggestion_and_the_list() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'herding'\? Valid: .*random"):
        Registry().load("method", "hering")


def test_a_changed_plugin_has_another_digest_and_is_not_revived(tmp_path: Path) -> None:
    path = write(tmp_path, "some.py", "some")
    planned = Registry([path]).resolve("method", "some")
    path.write_text(path.read_text() + "\n# changed\n")
    with pytest.raises(PluginError, match="changed after the run was planned"):
        Registry([path]).revive("method", planned.spec())


def test_a_digest_covers_the_siblings_that_a_method_imports() -> None:
    from harness.registry import _source_files

    names = {p.name for p in _source_files(Path(__file__).resolve().parent.parent / "methods" / "herding.py")}
    assert "herding.py" in names and len(names) > 1


def test_built_in_plugins_are_described_without_their_import() -> None:
    before = set(sys.modules)
    names = Registry().names("method")
    assert "herding" in names and not {m for m in set(sys.modules) - before if m.startswith(("methods.", "torch"))}


def test_a_built_in_that_lacks_a_package_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.registry as module

    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "needy.py").write_text("import a_package_that_is_not_there\n" + METHOD.format(name="needy"))
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    registry = Registry()
    info = next(i for i in registry.infos("method"))
    assert info.error == "No module named 'a_package_that_is_not_there'"
    with pytest.raises(PluginError, match="is unavailable: No module named"):
        registry.load("method", "needy")


def test_wildcards_expand_in_natural_order() -> None:
    registry = Registry([TINY])
    assert registry.expand("method", ["k_*", "first", "k_center"]) == ["k_center", "k_means_real", "first"]


def test_specs_and_lists() -> None:
    assert split_list("a[x=1,y=2], b ,c[z=[1,2]]") == ["a[x=1,y=2]", "b", "c[z=[1,2]]"]
    assert parse_spec(" a[ x = 1 ] ") == ("a", {"x": "1"})
    for bad in ("a[x]", "a[=1]", "a]", "a[x=1", "[x=1]", "a[x=1,x=2]"):
        with pytest.raises(UsageError):
            parse_spec(split_list(bad)[0])
