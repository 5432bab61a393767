"""The benchmark from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness import Session
from harness.errors import StoreError, UsageError
from harness.estimate import Estimator
from harness.store import Store
from tests.conftest import TINY

NOVEL = '''
from typing import ClassVar

from harness import DistilledSet, Metric, evaluator, method
from tests.plugins.tiny import _first, TinyNet


@method("novel")
class Novel:
    """The first clips, with a number of its own."""

    deterministic = True
    metrics = (Metric("brightness", "mean brightness", "fraction", "higher", doc="Mean of all pixels."),)

    def distill(self, train, budget, context):
        stored = _first(train, budget)
        context.metrics["brightness"] = float(stored.clips.float().mean() / 255)
        return stored


@evaluator("novel-net")
class NovelNet(TinyNet):
    """The tiny network, with a number of its own."""

    metrics = (Metric("weight_norm", "norm of the weights", "", "lower"),)

    def measure(self, model, context):
        context.metrics["weight_norm"] = float(sum(p.detach().square().sum() for p in model.parameters()) ** 0.5)
'''


def session(bench: Path, tmp_path: Path, **run: Any) -> Session:
    plugins = [str(TINY), *run.pop("plugins", [])]
    return Session.open(bench, **{"results": str(tmp_path / "results"), "plugins": plugins, "ipc": [1], "seeds": 2, **run})


def test_a_small_sweep_from_a_notebook(bench: Path, tmp_path: Path) -> None:
    bench_session = session(bench, tmp_path, methods="first,random")
    plan = bench_session.plan()
    assert [(c.method_label, c.ipc, c.seed) for c in plan.cells if c.ipc] == [(m, 1, s) for m in ("first", "random") for s in (0, 1)]
    assert bench_session.rows() == []
    assert bench_session.run() == "done"
    frame = bench_session.frame()
    assert len(frame) == len(plan.cells) == 5 and set(frame["status"]) == {"done"}
    assert frame["accuracy"].between(0, 1).all() and frame.loc[frame["method"] == "full", "relative_accuracy"].eq(1).all()
    made = bench_session.distilled(next(c for c in plan.cells if c.method == "first"))
    assert made.clips.shape == (3, 4, 1, 8, 8) and made.labels.tolist() == [0, 1, 2] and made.classes == ("dark", "grey", "bright")
    with pytest.raises(StoreError, match="has no distilled set"):
        bench_session.distilled(next(c for c in plan.cells if c.method == "full"))


def test_options_are_checked_like_the_command_line(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'random'"):
        session(bench, tmp_path, methods="randm").plan()
    with pytest.raises(UsageError, match="unknown key 'metods'"):
        session(bench, tmp_path, metods="random")


def test_the_quality_of_every_set_is_measured_apart_from_its_distillation(bench: Path, tmp_path: Path) -> None:
    bench_session = session(bench, tmp_path, methods="first,random", quality=True, seeds=1)
    assert bench_session.run() == "done"
    records = Store(tmp_path / "results").read_records()[0].values()
    assert [r.kind for r in records].count("quality") == 2
    assert all("quality" not in r.phases for r in records if r.kind == "distill")
    for row in bench_session.rows():
        known = [row.value(name) is not None for name in ("teacher_accuracy", "coverage", "frechet", "motion_ratio")]
        assert all(known) if row.ipc else not any(known)
    again = session(bench, tmp_path, methods="first,random", quality=True, seeds=1).survey()
    assert not again.to_do


def test_a_metric_of_a_plugin_needs_one_file(bench: Path, tmp_path: Path) -> None:
    """Said once beside what records it, it stands in rows, in MLflow and in the report."""
    plugin = tmp_path / "novel.py"
    plugin.write_text(NOVEL)
    run = {"methods": "novel,first", "evaluators": "novel-net", "teacher": "novel-net", "seeds": 1}
    bench_session = session(bench, tmp_path, plugins=[str(plugin)], **run)
    assert bench_session.run() == "done"
    row = next(row for row in bench_session.rows() if row.method == "novel")
    assert 0 < (row.value("brightness") or 0) < 1 and (row.value("weight_norm") or 0) > 0
    assert [(m.name, m.heading, m.unit, m.better) for m in row.declared if m.name == "brightness"] == [
        ("brightness", "mean brightness", "fraction", "higher")
    ]
    from harness.tracking import rebuild_mirror

    rebuild_mirror(bench_session.store)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "video-dataset-distillation"]
    logged = {name for run in client.search_runs([experiment.experiment_id]) for name in run.data.metrics}
    assert {"brightness", "weight_norm", "accuracy"} <= logged
    from harness.report import build_report

    build_report(tmp_path / "results", tmp_path / "report", formats=("md", "csv", "html"))
    for name in ("report.md", "index.html"):
        text = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert "mean brightness" in text and "norm of the weights" in text, name
    assert "brightness" in (tmp_path / "report" / "cells.csv").read_text(encoding="utf-8")


def test_scratch_is_removed(bench: Path, tmp_path: Path) -> None:
    assert session(bench, tmp_path, methods="first", labels="hard,soft").run() == "done"
    scratch = tmp_path / "results" / "cache" / "scratch"
    assert not scratch.exists() or not list(scratch.iterdir())


def test_the_time_of_a_run_is_known_from_like_tasks(bench: Path, tmp_path: Path) -> None:
    first = session(bench, tmp_path, methods="first", seeds=1)
    state = first.survey()
    assert str(first.estimate(state)) == "unknown"
    assert first.run() == "done"
    more = session(bench, tmp_path, methods="first", seeds=3)
    state = more.survey()
    estimator = Estimator(Store(tmp_path / "results").read_records()[0].values())
    told = [estimator.seconds(task) for task in state.to_do.values()]
    assert told and None not in told
    assert more.estimate(state).unknown == 0 and more.estimate(state).seconds > 0


def test_loading_an_asset_leaves_the_random_state_alone() -> None:
    from harness.tasks.common import seeded

    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with seeded(5):
        torch.rand(7)
    assert torch.equal(torch.rand(2), expected)


def test_what_was_planned_and_is_missing_is_named(bench: Path, tmp_path: Path) -> None:
    from harness.record import Sweep
    from harness.status import describe_store

    bench_session = session(bench, tmp_path, methods="first", seeds=1, reference=False)
    assert bench_session.run() == "done"
    wider = session(bench, tmp_path, methods="first,random", seeds=2, reference=False)
    store = Store(tmp_path / "results")
    store.write_sweep(Sweep(id="x", command="c", started_at="2100-01-01T00:00:00+00:00", status="interrupted", cells=wider.plan().cells))
    told = describe_store(str(tmp_path / "results"))
    assert "sweep x: interrupted, 1 of 4 cells done" in told
    assert "missing   3 planned cells have no result: tiny-net on first ipc 1 hard seed 1" in told
