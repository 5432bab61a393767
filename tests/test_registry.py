"""Names, parameters, files and origins of plugins."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import plugin
from harness.errors import PluginError, UnknownNameError, UsageError
from harness.registry import Registry, Resolved
from tests.conftest import PROJECT, TINY

METHOD = '''
from pathlib import Path
from harness import method

SCALE = 1.5

@method("{name}")
class Some:
    """A summary.

    More of it.
    """

    rate: float = 0.5
    """How fast."""
    steps: int | None = None
    """How long."""
    mode: str = "a"
    """Which."""
    file: Path | None = None
    """A file or folder."""
    model: Path | str = "org/model"
    """A file, a folder, or a name."""

    def __post_init__(self):
        if self.rate <= 0:
            raise ValueError(f"rate must be above 0, got {{self.rate}}")
'''


def write(folder: Path, file: str, name: str) -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(METHOD.format(name=name), encoding="utf-8")
    return path


@pytest.fixture
def some(tmp_path: Path) -> Path:
    """The file of a method ``some``."""
    return write(tmp_path, "some.py", "some")


@pytest.fixture(autouse=True)
def imports(tmp_path: Path) -> Iterator[None]:
    """Modules and folders that plugin files bring in are forgotten after a test."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def resolve(path: Path, spec: str = "some", **given: Any) -> Resolved:
    return Registry([path]).resolve("method", spec, given)


# Parameters


def test_a_plugin_file_is_described_and_resolved(some: Path) -> None:
    registry = Registry([some])
    info = next(i for i in registry.infos("method") if i.name == "some")
    rate = info.params[0]
    assert info.summary == "A summary." and (rate.name, rate.type, rate.default, rate.doc) == ("rate", "float", "0.5", "How fast.")
    assert [p.name for p in info.params] == ["rate", "steps", "mode", "file", "model"]
    resolved = registry.resolve("method", "some[rate=0.25,steps=3]")
    expected = {"rate": 0.25, "steps": 3, "mode": "a", "file": None, "model": "org/model"}
    assert resolved.spec.params == expected and resolved.label == "some[rate=0.25,steps=3]"
    assert resolved.create().rate == 0.25 and resolved.create().steps == 3
    none = registry.resolve("method", "some[steps=none,mode=none]").spec.params
    assert none["steps"] is None and none["mode"] == "none"


def test_parameters_without_the_future_import_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "optional.py"
    text = (
        METHOD.format(name="some")
        .replace("int | None", "Optional[int]")
        .replace("import method", "import method\nfrom typing import Optional")
    )
    for future in ("", "from __future__ import annotations\n"):
        path.write_text(future + text, encoding="utf-8")
        resolved = resolve(path, "some[steps=none]", file=str(path))
        assert resolved.spec.params["steps"] is None and set(resolved.spec.files) == {"file"}


def test_parameters_by_precedence(some: Path) -> None:
    registry = Registry([some], {"method": {"some": {"rate": 1.0, "steps": 1, "mode": "toml"}}})
    resolved = registry.resolve("method", "some[mode=inline]", {"steps": 2, "mode": "protocol"})
    assert (resolved.create().rate, resolved.create().steps, resolved.create().mode) == (1.0, 2, "inline")
    assert registry.resolve_exactly("method", "some", {"steps": 2}).create().rate == 0.5, "bench.toml does not count"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("some[rat=1]", "method 'some' has no parameter 'rat'; did you mean 'rate'?"),
        ("some[rate=fast]", "method 'some': parameter 'rate' = 'fast' is not valid"),
        ("some[rate=0]", "method 'some': rate must be above 0, got 0.0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(some: Path, spec: str, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(some, spec)
    assert sentence in str(error.value)


def test_the_root_of_a_dataset_is_no_parameter(tmp_path: Path) -> None:
    registry = Registry()
    assert "root" not in [p.name for p in next(i for i in registry.infos("dataset") if i.name == "ucf101").params]
    resolved = registry.resolve("dataset", "ucf101")
    assert "root" not in resolved.spec.params and resolved.create(tmp_path).root == tmp_path
    assert registry.resolve("dataset", "moving-digits").create(tmp_path) is not None, "it declares none and is handed none"
    with pytest.raises(UsageError, match="has no parameter 'root'"):
        registry.resolve("dataset", "ucf101[root=/]")


def test_inherited_parameters_are_listed_without_an_import() -> None:
    program = """
import sys
from harness.registry import Registry
params = {p.name: p.doc for p in next(i for i in Registry().infos("dataset") if i.name == "ucf101").params}
assert "train_clips" in params and "stride" in params and all(params.values()), params
assert not {"torch", "numpy", "harness.data.listed", "harness.data.ucf101"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)


def test_parameters_inherited_from_a_module_beside_the_file(tmp_path: Path) -> None:
    base = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Base:\n    width: int = 4\n    'Its width.'\n"
    (tmp_path / "base_beside.py").write_text(base, encoding="utf-8")
    path = tmp_path / "child.py"
    path.write_text("from harness import method\nfrom base_beside import Base\n@method('child')\nclass Child(Base):\n    depth: int = 1\n")
    registry = Registry([path])
    info = next(i for i in registry.infos("method") if i.name == "child")
    assert [(p.name, p.doc) for p in info.params] == [("width", "Its width."), ("depth", "")]
    assert registry.resolve("method", "child[width=2]").create().width == 2


# The contract


def test_a_constructor_is_refused() -> None:
    with pytest.raises(PluginError, match=r"method 'old': Old has a constructor; its annotated attributes are its parameters"):

        @plugin.method("old")
        class Old:
            def __init__(self, config: object) -> None:
                self.config = config


def test_what_no_dataclass_takes_is_refused() -> None:
    with pytest.raises(PluginError, match=r"method 'bad': mutable default <class 'list'> for field sizes"):

        @plugin.method("bad")
        class Bad:
            sizes: list[int] = []


@pytest.mark.parametrize(
    ("mark", "hooks"),
    [
        (plugin.method, plugin.MethodPlugin),
        (plugin.evaluator, plugin.EvaluatorPlugin),
        (plugin.dataset, plugin.DatasetPlugin),
        (plugin.asset, plugin.AssetPlugin),
    ],
)
def test_every_hook_is_there(mark: Any, hooks: type) -> None:
    @mark("empty")
    class Empty:
        metrics = ("own",)

    made = Empty()
    for hook in vars(hooks):
        if not hook.startswith("__"):
            assert hasattr(made, hook), hook
    assert made.metrics == ("own",), "a default does not replace what the class has"


def test_a_required_hook_that_is_missing_says_so(some: Path) -> None:
    with pytest.raises(PluginError, match=r"Some has no distill\(train, budget, context\)"):
        resolve(some).create().distill(None, None, None)


# Names


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


def test_a_name_of_a_file_that_cannot_be_imported_is_answered_with_its_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import a_package_that_is_not_there\n" + METHOD.format(name="mine"), encoding="utf-8")
    registry = Registry([path])
    assert "random" in registry.names("method"), "it breaks nothing else"
    with pytest.raises(PluginError) as error:
        registry.resolve("method", "mine")
    reason = "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"
    assert str(error.value) == f"method 'mine' is not there, and a plugin file cannot be loaded: {reason} ({path})"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"nothing\.py does not exist"):
        Registry([tmp_path / "nothing.py"])


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
    with pytest.raises(UnknownNameError, match=r"unknown method 'zz\*'"):
        registry.expand("method", ["zz*"])


# Code


def test_what_changes_a_digest(some: Path) -> None:
    before = resolve(some).spec.code
    text = some.read_text()
    some.write_text(text.replace("A summary.", "Other words.").replace("How fast.", "The rate.") + "\n# a comment\n")
    assert resolve(some).spec.code == before, "words do not count"
    some.write_text(text.replace("SCALE = 1.5", "SCALE = 2.5"))
    assert resolve(some).spec.code != before


def test_a_module_beside_the_file_is_imported_and_counts(tmp_path: Path) -> None:
    beside = tmp_path / "beside_one.py"
    beside.write_text('"""Words."""\nFACTOR = 2\n', encoding="utf-8")
    path = write(tmp_path, "some.py", "some")
    path.write_text(path.read_text().replace("SCALE = 1.5", "from beside_one import FACTOR"), encoding="utf-8")
    resolved = resolve(path)
    assert sys.modules[resolved.cls.__module__].FACTOR == 2
    beside.write_text('"""Other words."""\n\nFACTOR = 2  # why\n', encoding="utf-8")
    assert resolve(path).spec.code == resolved.spec.code
    beside.write_text('"""Words."""\nFACTOR = 30\n', encoding="utf-8")
    assert resolve(path).spec.code != resolved.spec.code


@pytest.mark.parametrize("beside", ["twin.py", "twin/__init__.py"])
def test_modules_of_one_name_beside_two_files_are_refused(tmp_path: Path, beside: str) -> None:
    paths = []
    for folder in ("one", "two"):
        path = write(tmp_path / folder, "p.py", folder)
        path.write_text("import twin\n" + path.read_text(), encoding="utf-8")
        (tmp_path / folder / beside).parent.mkdir(exist_ok=True)
        (tmp_path / folder / beside).write_text(f"NAME = {folder!r}", encoding="utf-8")
        paths.append(path)
    registry = Registry(paths)
    assert registry.load("method", "one") is not None
    sentence = f"it imports 'twin' from beside it, but a module of that name came from {tmp_path / 'one' / beside}: rename one"
    with pytest.raises(PluginError) as error:
        registry.load("method", "two")
    assert sentence in str(error.value)


def test_a_module_that_hides_the_one_beside_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest would cover the one, and its code would use the other."""
    for folder in ("first", "own"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hidden_one.py").write_text(f"NAME = {folder!r}", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "first")
    path = write(tmp_path / "own", "p.py", "some")
    path.write_text("import hidden_one\n" + path.read_text(), encoding="utf-8")
    with pytest.raises(PluginError, match=r"it imports 'hidden_one' from beside it, but .* came from .*first/hidden_one\.py: rename one"):
        resolve(path)


def test_changed_code_is_not_revived(some: Path) -> None:
    planned = resolve(some, "some[rate=0.1]").spec
    assert Registry([some]).revive("method", planned).create().rate == 0.1
    some.write_text(some.read_text() + "\n# only a comment\n")
    Registry([some]).revive("method", planned)
    some.write_text(some.read_text().replace("1.5", "2.5"))
    with pytest.raises(PluginError, match="method 'some' changed after the run was planned"):
        Registry([some]).revive("method", planned)


# Files that parameters name


def keyed(resolved: Resolved) -> str:
    return json.dumps(resolved.spec.keyed(code=True), sort_keys=True)


def test_a_file_counts_by_its_content(some: Path, tmp_path: Path) -> None:
    one, copy = tmp_path / "one.bin", tmp_path / "elsewhere.bin"
    one.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    first = resolve(some, f"some[file={one}]")
    assert first.create().file == one and set(first.spec.files) == {"file"}
    assert str(one) not in keyed(first) and keyed(first) == keyed(resolve(some, f"some[file={copy}]"))
    copy.write_bytes(b"weighty")
    second = resolve(some, f"some[file={copy}]")
    assert second.spec.files != first.spec.files and keyed(second) != keyed(first)
    assert keyed(resolve(some)) != keyed(first), "no file is another thing than a file"


def test_a_folder_counts_by_the_files_in_it(some: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.bin").write_bytes(b"1")
    before = keyed(resolve(some, f"some[model={folder}]"))
    assert str(folder) not in before
    (folder / "inner" / "a.bin").write_bytes(b"2")
    assert keyed(resolve(some, f"some[model={folder}]")) != before


def test_a_missing_file_is_named(some: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"method 'some': parameter 'file' names .*/gone\.bin: No such file or directory"):
        resolve(some, f"some[file={tmp_path / 'gone.bin'}]")


def test_a_name_that_is_no_file_stays_text(some: Path) -> None:
    resolved = resolve(some, "some[model=org/other]")
    assert resolved.create().model == "org/other" and resolved.spec.files == {} and "org/other" in keyed(resolved)


def test_paths_are_absolute_for_workers_elsewhere(some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.bin").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    spec = resolve(some, "some[file=w.bin,model=w.bin]").spec
    assert spec.params["file"] == spec.params["model"] == str(tmp_path / "w.bin")
    monkeypatch.chdir("/")
    made = Registry([some]).revive("method", spec).create()
    assert made.file == tmp_path / "w.bin" and Path(made.model) == tmp_path / "w.bin"


def test_a_changed_file_is_not_revived(some: Path, tmp_path: Path) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(b"1")
    spec = resolve(some, f"some[model={file}]").spec
    file.write_bytes(b"2")
    with pytest.raises(PluginError, match=r"method 'some': .*/w\.bin changed after the run was planned"):
        Registry([some]).revive("method", spec)
    file.unlink()
    with pytest.raises(PluginError, match=r"method 'some': .*/w\.bin changed after the run was planned"):
        Registry([some]).revive("method", spec)


def test_several_files_in_one_parameter_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.py"
    path.write_text(
        "from pathlib import Path\nfrom harness import method\n@method('many')\nclass Many:\n    files: tuple[Path, ...] = ()\n"
    )
    with pytest.raises(PluginError, match=r"parameter 'files' is a tuple\[.*Path, \.\.\.\]: a file is named by Path"):
        resolve(path, "many")
