"""No stale number is ever served: what decides a result is in its key, and what other code made is known as such."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import code
from harness.record import Record
from harness.session import Session
from harness.status import describe_store
from harness.store import Store
from tests.conftest import PROJECT, TINY

HELPED = '''
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import DistilledSet, method
from helper import first_rows


@method("helped")
class Helped:
    """The clips that a module beside it chooses."""

    rows: Path | None = None
    """A file with the row that is taken of each class."""

    def distill(self, train, budget, context):
        start = int(self.rows.read_text()) if self.rows else 0
        rows = torch.cat([first_rows(train, c, start, budget.ipc) for c in range(budget.classes)])
        return DistilledSet.of_clips(train.clips(rows), train.labels[rows])
'''
HELPER = '''"""Rows."""


def first_rows(train, label, start, count):
    # the first ones
    return train.indices_of(label)[start : start + count]
'''


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code, to change it."""
    folder = tmp_path / "checkout"
    for name in ("harness", "methods", "evaluators", "tests"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(PROJECT / "bench.toml", folder)
    return folder


LEARNED = """
import torch

from harness import Asset, Budget, Context, DatasetInfo, DistilledSet, Split, asset, method


@asset("level")
class Level:
    def build(self, train: Split, context: Context) -> dict[str, torch.Tensor]:
        return {"level": torch.zeros(1)}

    def load(self, tensors: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        return tensors["level"]


@method("learner")
class Learner:
    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"level": Asset("level")}

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        assert context.assets["level"] == 0
        rows = torch.cat([train.indices_of(label)[: budget.ipc] for label in range(budget.classes)])
        return DistilledSet.of_clips(train.clips(rows), train.labels[rows])
"""


def run_in(checkout: Path, bench: Path, results: Path, *arguments: str, verb: str = "run") -> str:
    command = [sys.executable, "-m", "harness", verb, "--results", str(results), *arguments]
    if verb == "run":
        command += ["--config", str(bench), "--plugin", str(TINY), "--ipc", "1"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_changed_loss_runs_again_and_a_changed_comment_does_not(checkout: Path, bench: Path, tmp_path: Path) -> None:
    results, methods = tmp_path / "results", ("--methods", "first", "--seeds", "2")
    run_in(checkout, bench, results, *methods)
    before = set(Store(results).read_records()[0])
    edit(checkout / "harness" / "training.py", '"""The one training loop', '"""THE one training loop')
    edit(checkout / "harness" / "training.py", "    n = len(labels)\n", "    n = len(labels)  # clips\n")
    assert "3 cells, all of them cached" in run_in(checkout, bench, results, *methods)
    edit(checkout / "harness" / "training.py", 'group["lr"] = protocol.lr *', 'group["lr"] = 0.5 * protocol.lr *')
    told = run_in(checkout, bench, results, verb="status")
    assert "stale     3 cells were made by other code than the present (harness); `run` makes them again" in told
    told = run_in(checkout, bench, results, *methods)
    assert "results were made by other code than the present: they run again" in told
    records = Store(results).read_records()[0]
    again = {k for k, r in records.items() if r.kind == "evaluate"} - before
    assert len(again) == 3
    decoded = [r for r in records.values() if r.kind == "data"]
    assert len(decoded) == 1, "what does not rest on the change stays"
    assert "stale" not in run_in(checkout, bench, results, verb="status").replace("--stale", "")


def test_kept_results_of_other_code_are_marked(checkout: Path, bench: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    run_in(checkout, bench, results, "--methods", "first", "--seeds", "2")
    before = Store(results).read_records()[0]
    edit(checkout / "harness" / "training.py", 'group["lr"] = protocol.lr *', 'group["lr"] = 0.5 * protocol.lr *')
    told = run_in(checkout, bench, results, "--methods", "first", "--seeds", "3", "--stale", "keep")
    assert "they are kept, and the report marks them" in told and "4 cells, 3 of them cached" in told
    after = Store(results).read_records()[0]
    added = [r for k, r in after.items() if k not in before]
    assert [r.spec.seed for r in added if r.kind == "evaluate"] == [2], "only the new seed ran"  # type: ignore[union-attr]
    assert all(after[k] == r for k, r in before.items())
    (kept,) = [s.kept for s in Store(results).read_sweeps() if s.kept]
    assert set(kept) <= set(before) and len([k for k in kept if before[k].kind == "evaluate"]) == 3


def test_a_kept_asset_of_other_code_is_read_by_new_tasks(bench: Path, tmp_path: Path) -> None:
    """What took hours serves another seed, with ``--stale keep``, after the code that made it has changed."""
    plugin, results = tmp_path / "learned.py", tmp_path / "results"
    plugin.write_text(LEARNED, encoding="utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", "run", "--config", str(bench), "--plugin", str(TINY), "--plugin", str(plugin)]
        command += ["--results", str(results), "--methods", "learner", "--ipc", "1", "--no-reference", *arguments]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)

    assert run("--seeds", "1").returncode == 0
    edit(plugin, "torch.zeros(1)", "torch.ones(1)")
    done = run("--seeds", "2", "--stale", "keep")
    assert done.returncode == 0 and "they are kept" in done.stdout, done.stdout + done.stderr
    records = Store(results).read_records()[0].values()
    assert len([r for r in records if r.kind == "asset" and r.name.startswith("level")]) == 1
    assert sorted(r.spec.seed for r in records if r.kind == "distill") == [0, 1]  # type: ignore[union-attr]


def helped(folder: Path) -> Path:
    folder.mkdir()
    (folder / "helper.py").write_text(HELPER)
    (folder / "helped.py").write_text(HELPED)
    return folder / "helped.py"


def run_helped(bench: Path, tmp_path: Path, plugin: Path, method: str = "helped") -> list[Record]:
    """The distillations in the store after a run in a process of its own."""
    command = [sys.executable, "-m", "harness", "run", "--config", str(bench), "--plugin", str(TINY), "--plugin", str(plugin)]
    command += ["--results", str(tmp_path / "results"), "--methods", method, "--ipc", "1", "--seeds", "1", "--no-reference"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return [r for r in Store(tmp_path / "results").read_records()[0].values() if r.kind == "distill"]


def test_a_module_beside_a_plugin_counts_and_its_comments_do_not(bench: Path, tmp_path: Path) -> None:
    plugin = helped(tmp_path / "plugins")
    (first,) = run_helped(bench, tmp_path, plugin)
    edit(plugin.parent / "helper.py", "# the first ones", "# those that come first")
    edit(plugin, "The clips that a module beside it chooses.", "Clips chosen by a module beside it.")
    assert run_helped(bench, tmp_path, plugin) == [first]
    edit(plugin.parent / "helper.py", "[start : start + count]", "[start + 1 : start + 1 + count]")
    both = run_helped(bench, tmp_path, plugin)
    assert len(both) == 2 and first in both
    assert len({r.artifacts["distilled.safetensors"].sha256 for r in both}) == 2


def test_the_content_of_a_file_that_a_parameter_names_counts_and_its_path_does_not(bench: Path, tmp_path: Path) -> None:
    plugin = helped(tmp_path / "plugins")
    rows = tmp_path / "rows.txt"
    rows.write_text("0")
    (first,) = run_helped(bench, tmp_path, plugin, f"helped[rows={rows}]")
    copy = tmp_path / "copy.txt"
    copy.write_text("0")
    assert [r.key for r in run_helped(bench, tmp_path, plugin, f"helped[rows={copy}]")] == [first.key]
    rows.write_text("2")
    both = run_helped(bench, tmp_path, plugin, f"helped[rows={rows}]")
    assert len(both) == 2
    assert len({r.artifacts["distilled.safetensors"].sha256 for r in both}) == 2


def test_every_module_that_a_task_imports_is_known_to_decide_or_not() -> None:
    """So that a new module of the harness cannot decide numbers unnoticed."""
    root = PROJECT / "harness"

    def imported(path: Path) -> set[str]:
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness"):
                parts = (node.module or "").split(".")[1:]
                base = root.joinpath(*parts)
                for file in (base.with_suffix(".py"), base / "__init__.py", *(base / f"{alias.name}.py" for alias in node.names)):
                    if file.is_file():
                        found.add(str(file.relative_to(root)))
        return found

    every = {*code.DECODING, *code.NEUTRAL, *(name for names in code.DECIDING.values() for name in names)}
    assert all((root / name).is_file() for name in every)
    queue, seen = [f"tasks/{kind}.py" for kind in code.DECIDING], set()
    while queue:
        name = queue.pop()
        if name not in seen:
            seen.add(name)
            queue += imported(root / name) if name not in code.NEUTRAL else []
    assert not seen - every, f"{sorted(seen - every)} stand neither in DECIDING nor in NEUTRAL of harness/code.py"
    for kind, deciding in code.DECIDING.items():
        missing = imported(root / "tasks" / f"{kind}.py") - {*deciding, *code.DECODING, *code.NEUTRAL, "tasks/common.py"}
        assert not missing, f"{kind}: {sorted(missing)} must stand in DECIDING[{kind!r}]"


def test_plugins_that_are_not_at_hand_are_not_judged(bench: Path, tmp_path: Path) -> None:
    session = Session.open(bench, plugins=[str(TINY)], results=str(tmp_path / "results"), methods="first", ipc="1", seeds=1)
    assert session.run() == "done"
    assert "stale" not in describe_store(str(tmp_path / "results")), "the tiny plugins are unknown without --plugin"
