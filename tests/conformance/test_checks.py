"""The checks themselves: each finds the fault that it is there for, says it in a sentence, and needs neither pytest nor this folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.conformance import Result, check_files
from harness.errors import PluginError, UnknownNameError

HEAD = """
import torch
from torch import nn
import numpy as np
from harness import Asset, Clip, DistilledSet, Item, Metric, asset, dataset, evaluator, method

def first(train, budget, ipc=None):
    rows = torch.cat([train.indices_of(c)[: ipc or budget.ipc] for c in range(budget.classes)])
    return DistilledSet.of_clips(train.clips(rows), train.labels[rows])

def drawn(train, budget, context):
    rows = [train.indices_of(c) for c in range(budget.classes)]
    rows = torch.cat([r[torch.randperm(len(r), generator=context.generator)[: budget.ipc]] for r in rows])
    return DistilledSet.of_clips(train.clips(rows), train.labels[rows])

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(8, classes)
    def forward(self, clips):
        return self.head(clips.mean((2, 3, 4)))
"""
METHOD = (
    HEAD
    + '''
@method("bad")
class Bad:
    """A method."""
    {fields}
    def distill(self, train, budget, context):
        {body}
'''
)
EVALUATOR = (
    HEAD
    + '''
{more}

@evaluator("bad")
class Bad:
    """A network."""
    {fields}
    def build(self, clip_shape, classes):
        return {build}
'''
)
DATASET = (
    HEAD
    + '''
@dataset("bad")
class Bad:
    """A dataset."""
    {fields}
    default_shape = (4, 1, 8, 8)
    def classes(self):
        return ("a", "b")
    def items(self, split):
        return [Item(f"{{split}}-{{i}}", i % 2) for i in range(4)]
    def read(self, item, clip_shape):
        return Clip(np.random.default_rng(len(item.id)).integers(0, 255, clip_shape, dtype=np.uint8), 4)
    def digest(self):
        return "1"
    {body}
'''
)
ASSET = (
    HEAD
    + '''
@asset("bad")
class Bad:
    """An asset."""
    {fields}
    def build(self, train, context):
        {body}
    def load(self, tensors, context):
        return tensors
'''
)

Check = Callable[..., dict[str, Result]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """The results of a source text, by check."""

    def run(source: str, **parts: str) -> dict[str, Result]:
        path = tmp_path / "bad.py"
        path.write_text(source.format(**parts), encoding="utf-8")
        return {result.check: result for result in check_files([path])}

    return run


def failed(results: dict[str, Result]) -> dict[str, str]:
    return {name: result.detail for name, result in results.items() if result.status == "failed"}


GOOD = "return drawn(train, budget, context)"


@pytest.mark.parametrize(
    ("fields", "body", "name", "sentence"),
    [
        ("", "return first(train, budget, 6)", "keeps_its_budget[ipc=1]", "the set stores 144 frames, the budget allows 24"),
        ("", "s = first(train, budget); return DistilledSet.of_clips(s.clips[:1], s.labels[:1])", "keeps_its_budget[ipc=1]", "[1, 2]"),
        ("", "return first(train, budget)", "follows_the_seed", "say deterministic = True on the class"),
        ("deterministic = True", GOOD, "follows_the_seed", "deterministic is True, but seeds 0, 1 and 2 do not give one set"),
        ("", "import time; context.generator.manual_seed(time.time_ns()); " + GOOD, "repeats_itself", "draw from context.generator"),
        ("native_labels = 'soft'", GOOD, "says_its_labels[ipc=1]", "native_labels is 'soft', the set has hard labels"),
        ("", "train.labels[0] = 1; " + GOOD, "leaves_the_training_split_alone", "changes labels of the training split"),
        ("", "context.metrics['loss'] = 1.0; " + GOOD, "declares_its_metrics", "context.metrics['loss'] is not declared"),
        ("metrics = (Metric('loss'),)", GOOD, "declares_its_metrics", "metric 'loss' needs a title or a doc"),
        ("metrics = (Metric('accuracy', 'a'),)", GOOD, "declares_its_metrics", "has the name of a metric of the harness"),
        ("", "return first(train, budget).clips", "keeps_its_budget[ipc=1]", "distill must return a DistilledSet, got Tensor"),
        ("", "return DistilledSet({'x': train.clips([0])}, train.labels[:1])", "survives_storage", "Bad has no materialise(tensors)"),
        (
            "materialise = lambda self, t: t['x']; materialise_rows = lambda self, t, rows: t['x'][:2]",
            "s = drawn(train, budget, context); return DistilledSet({'x': s.clips}, s.labels)",
            "makes_rows_as_the_whole",
            "materialise_rows gives other clips than materialise",
        ),
        (
            "",
            "s = drawn(train, budget, context); return DistilledSet.of_clips(s.clips.float(), s.labels)",
            "trains_a_network",
            "[0, 1] is black",
        ),
        ("", "return 1 / 0", "keeps_its_budget[ipc=1]", "ZeroDivisionError: division by zero (bad.py:"),
        ("width: int = 1", GOOD, "documents_every_parameter", "missing under: width"),
        (
            "width: object = frozenset({1}); 'A set.'",
            GOOD,
            "can_be_made",
            "parameters must be numbers, texts, paths, lists or dictionaries",
        ),
        ("skip = lambda self, info, budget: ''", GOOD, "declines_with_a_reason[ipc=1]", "skip must give None or a sentence, got ''"),
    ],
)
def test_faults_of_methods(check: Check, fields: str, body: str, name: str, sentence: str) -> None:
    assert sentence in failed(check(METHOD, fields=fields, body=body))[name]


@pytest.mark.parametrize(
    ("more", "fields", "build", "name", "sentence"),
    [
        ("", "", "Net(classes + 1)", "gives_logits[shape=8x1x32x32]", "logits must have shape (1, 3), got (1, 4)"),
        ("class Deaf(Net):\n    def forward(self, clips): return self.head(clips.detach().mean((2, 3, 4)))", "", "Deaf(classes)",
         "passes_gradients", "no gradient reaches the clips"),
        ("class Noisy(Net):\n    def forward(self, clips): return super().forward(clips) + torch.rand(len(clips), 3)", "", "Noisy(classes)",
         "judges_clips_one_by_one", "the same clips give different logits"),
        ("class Rank(Net):\n    def forward(self, clips): return super().forward(clips - clips.mean(0))", "", "Rank(classes)",
         "judges_clips_one_by_one", "depend on its batch"),
        ("torch.manual_seed(5)\nONE = Net(3).state_dict()\ndef one():\n    n = Net(3); n.load_state_dict(ONE); return n", "", "one()",
         "follows_the_global_seed", "start alike"),
        ("", "skip = lambda self, shape: 1", "Net(classes)", "declines_what_it_cannot_take", "skip must give None or a sentence, got 1"),
        ("", "", "Net(classes)", "declines_what_it_cannot_take", "skip takes clips of 1x1x1x1, but the network does not"),
        ("", "measure = lambda self, model, context: context.metrics.update(norm=1.0)", "Net(classes)",
         "declares_its_metrics", "context.metrics['norm'] is not declared"),
    ],
)  # fmt: skip
def test_faults_of_evaluators(check: Check, more: str, fields: str, build: str, name: str, sentence: str) -> None:
    assert sentence in failed(check(EVALUATOR, more=more, fields=fields, build=build))[name]


@pytest.mark.parametrize(
    ("fields", "body", "name", "sentence"),
    [
        ("", "items = lambda self, split: [Item(str(i), i % 2) for i in range(4)]", "lists_its_videos", "no video may be in both splits"),
        ("", "items = lambda self, split: [Item(split, 0), Item(split, 1)]", "lists_its_videos", "train has 2 videos and 1 ids"),
        ("", "items = lambda self, split: [Item(split, 1)]", "lists_its_videos", "train has none of ['a']"),
        ("", "read = lambda self, item, shape: Clip(np.ones(shape, np.uint8), 1)", "reads_the_same_each_time", "one flat colour"),
        ("", "read = lambda self, i, s: Clip(np.random.default_rng().integers(0, 9, s, np.uint8), 1)", "reads_the_same_each_time", "again"),
        ("", "digest = lambda self: str(id(self))", "describes_itself", "two values"),
        ("root: object = None", "items = lambda self, split: open(self.root)", "names_a_missing_folder", "FileNotFoundError"),
    ],
)
def test_faults_of_datasets(check: Check, fields: str, body: str, name: str, sentence: str) -> None:
    assert sentence in failed(check(DATASET, fields=fields, body=body))[name]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return {}", "got none"),
        ("return {'x': torch.rand(2, generator=torch.Generator().manual_seed(id(context)))}", "different tensors"),
        ("context.metrics['error'] = 1.0; return {'x': torch.rand(2)}", "context.metrics['error'] is not declared"),
    ],
)
def test_faults_of_assets(check: Check, body: str, sentence: str) -> None:
    assert sentence in failed(check(ASSET, fields="", body=body))["builds_stores_and_loads"]


def test_what_is_good_passes(check: Check) -> None:
    results = check(METHOD, fields="metrics = (Metric('loss', 'loss'),)", body="context.metrics['loss'] = 1.0; " + GOOD)
    assert not failed(results) and all(result.status == "ok" for result in results.values())
    assert not failed(
        check(EVALUATOR, more="", fields="skip = lambda self, shape: 'too short' if shape[0] < 8 else None", build="Net(classes)")
    )
    assert not failed(check(DATASET, fields="", body=""))
    assert not failed(check(ASSET, fields="", body="return {'x': torch.rand(2)}"))


def test_a_plugin_that_declines_is_skipped_with_its_reason(check: Check) -> None:
    results = check(METHOD, fields="skip = lambda self, info, budget: 'too small' if budget.ipc == 1 else None", body=GOOD)
    assert not failed(results)
    assert results["keeps_its_budget[ipc=1]"].detail == "it declines IPC 1 of 8x1x32x32: too small"
    assert results["keeps_its_budget[ipc=3]"].status == "ok"


def test_one_fault_is_not_reported_by_every_check(check: Check) -> None:
    results = check(METHOD, fields="", body="raise RuntimeError('no idea')")
    assert set(failed(results)) == {"keeps_its_budget[ipc=1]", "keeps_its_budget[ipc=3]", "takes_colour"}
    assert results["survives_storage"].detail == "there is no set to look at: no idea"


def test_a_plugin_that_cannot_be_made_has_one_result(check: Check) -> None:
    fields = "def __post_init__(self): raise ValueError('never')"
    assert {n: (r.status, r.detail) for n, r in check(METHOD, fields=fields, body=GOOD).items()} == {
        "can_be_made": ("failed", "method 'bad': never")
    }


def test_what_is_left_open_is_small(check: Check) -> None:
    """A teacher that a method leaves to the run is built, and is a small network."""
    fields = """def assets(self, info):
        return {'t': Asset('teacher', {'evaluator': ''}), 'r': Asset('feature_reference', {'teacher': ''})}"""
    body = "assert sum(p.numel() for p in context.assets['t'].parameters()) < 10_000; context.assets['r']; " + GOOD
    assert not failed(check(METHOD, fields=fields, body=body))


def test_small_parameters(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(METHOD.format(fields="steps: int = 9\n    'Steps.'", body="assert self.steps == 1; " + GOOD), encoding="utf-8")
    assert not [result for result in check_files([path], ["bad[steps=1]"]) if result.status == "failed"]
    with pytest.raises(UnknownNameError, match="unknown plugin 'bed'; did you mean 'bad'"):
        next(check_files([path], ["bed[steps=1]"]))


def test_a_file_without_plugins_or_with_an_error_is_refused(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty.py", tmp_path / "broken.py"
    empty.write_text("x = 1", encoding="utf-8")
    broken.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(PluginError, match=r"empty\.py has no plugin: put @method"):
        next(check_files([empty]))
    with pytest.raises(PluginError, match=r"broken\.py cannot be loaded: ZeroDivisionError: division by zero"):
        next(check_files([broken]))


def test_the_checks_need_neither_pytest_nor_the_tests() -> None:
    code = "import sys, harness.conformance; print([m for m in sys.modules if m.split('.')[0] in ('pytest', 'tests', 'ray', 'mlflow')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
