from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest

from harness.errors import StoreError, UsageError
from harness.mlflow_runs import EXPERIMENT, KEY, METRICS, OWNER, PARAMS, SWEEP
from harness.store import Store
from harness.tracking import Mirror, rebuild_mirror, tracking_uri, ui_addresses, ui_command
from tests.report.records import Builder

pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A store whose database two mirrors touched first at the same time, and what they complained of."""
    root, errors = tmp_path_factory.mktemp("fresh"), []
    mirrors = [Mirror(root, report=errors.append) for _ in range(2)]
    for mirror in mirrors:
        mirror.close()
    return root, errors


@pytest.fixture
def results(fresh: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A results folder with a migrated, empty database: migration takes seconds and is done once a session."""
    shutil.copy(fresh[0] / "mlflow.db", tmp_path / "mlflow.db")
    return tmp_path


def runs(results: Path, query: str = "") -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], query, max_results=1000))


def cells(results: Path, query: str = "") -> dict[str, Any]:
    return {run.data.tags[KEY]: run for run in runs(results, query) if KEY in run.data.tags}


class Driver:
    """What the runner does to its observers, without the runner."""

    def __init__(self, results: Path, build: Builder, errors: list[str], executor: str = "ray") -> None:
        self.store, self.build = Store(results), build
        self.state = SimpleNamespace(records={}, cached=set())
        self.mirror = Mirror(results, report=errors.append)
        self.sweep = {
            "id": build.sweep,
            "command": "python -m harness run",
            "started_at": build.started,
            "status": "running",
            "cells": [],
            "config": {"run": {"executor": executor, "ipc": [1, 5]}},
            "packages": {"torch": "2.11.0"},
        }
        self.mirror.start(self.sweep, self.state)  # type: ignore[arg-type]

    def finish(self, key: str) -> None:
        records, _ = self.store.read_records()
        self.state.records.update({k: r for k, r in records.items() if r["kind"] != "evaluate" or k == key})
        self.mirror.finished(SimpleNamespace(key=key), records[key])  # type: ignore[arg-type]


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """Tracking errors of a test; it must have looked at them."""
    found: list[str] = []
    yield found
    assert not found


def test_two_drivers_can_be_the_first_to_touch_a_store(fresh: tuple[Path, list[str]]) -> None:
    root, complaints = fresh
    assert complaints == []
    from mlflow import MlflowClient

    experiment = MlflowClient(f"sqlite:///{root / 'mlflow.db'}").get_experiment_by_name(EXPERIMENT)
    assert experiment.artifact_location == (root / "mlartifacts").as_uri()


def test_a_cell_is_a_run_under_its_sweep(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    driver = Driver(results, build, errors)
    upstream = build.distill("gvd[guidance=0]", 5, 0)
    build.evaluate("full", None, 0, build.teacher("convnet3d"), accuracy=0.9)
    key = build.evaluate("gvd[guidance=0]", 5, 0, upstream, accuracy=0.6)
    driver.finish(key)
    driver.mirror.end("done")

    run, record = cells(results)[key], Store(results).read_record(key)
    assert record is not None
    assert run.info.status == "FINISHED"
    assert {name: run.data.params[name] for name in PARAMS} == {
        "dataset": "moving-digits", "method": "gvd[guidance=0]", "ipc": "5", "labels": "hard", "evaluator": "convnet3d",
        "protocol": "quick", "seed": "0",
    }  # fmt: skip
    assert run.data.params["method.guidance"] == "0" and run.data.params["protocol.lr"] == "0.01"
    assert run.data.metrics["accuracy"] == record["metrics"]["accuracy"]
    assert set(METRICS) - set(run.data.metrics) == {"relative_accuracy", "peak_gpu_mib", "train_peak_gpu_mib"}, "unmeasured is left out"
    assert run.data.metrics["distill.teacher_accuracy"] == 0.8
    parent = next(r for r in runs(results) if SWEEP in r.data.tags)
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == "FINISHED" and parent.data.params["ipc"] == "[1, 5]" and parent.data.tags["package.torch"] == "2.11.0"
    assert run.info.start_time < run.info.end_time
    assert run.data.tags["git"] == "0123abc"

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == [(s, v) for s, v in record["curves"]["train_loss"]]
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"preview.png", "preview.gif", "record.json"}


def test_the_curve_of_the_reference_is_that_of_its_network(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    teacher = build.teacher("convnet3d")
    key = build.evaluate("full", None, 0, teacher, accuracy=0.9, curves={})
    rebuild_mirror(results)
    run = cells(results)[key]
    assert run.data.params["ipc"] == "all"
    assert run.data.metrics["relative_accuracy"] == 1.0
    record = Store(results).read_record(teacher)
    assert record is not None and run.data.metrics["train_loss"] == record["curves"]["loss"][-1][1]


def test_relative_accuracy_reaches_cells_that_were_mirrored_before_full(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    driver = Driver(results, build, errors, executor="inline")
    early = build.evaluate("random", 1, 0, build.distill("random", 1, 0), accuracy=0.3)
    driver.finish(early)
    assert "relative_accuracy" not in cells(results)[early].data.metrics
    full = build.evaluate("full", None, 0, build.teacher("convnet3d"), accuracy=0.9)
    driver.finish(full)
    driver.mirror.end("done")
    known = cells(results)
    accuracy = known[early].data.metrics["accuracy"]
    assert known[early].data.metrics["relative_accuracy"] == accuracy / known[full].data.metrics["accuracy"]


def test_rebuilding_recreates_everything_and_twice_changes_nothing(results: Path) -> None:
    build = Builder(results)
    keys = {build.evaluate("random", 1, s, build.distill("random", 1, s), accuracy=0.3 + s / 10) for s in range(3)}
    build.store.write_json(f"sweeps/{build.sweep}.json", {"id": build.sweep, "started_at": build.started, "status": "done"})
    assert rebuild_mirror(results).startswith("4 runs written, 3 cells mirrored at sqlite:")
    before = {run.info.run_id: run.info.end_time for run in runs(results)}
    assert set(cells(results)) == keys and len(before) == 4
    assert rebuild_mirror(results).startswith("0 runs written, 3 cells")
    assert {run.info.run_id: run.info.end_time for run in runs(results)} == before
    assert rebuild_mirror(results, fresh=True).startswith("4 runs written")
    assert len(runs(results)) == 4 and not {run.info.run_id for run in runs(results)} & set(before)


def test_a_cell_that_ran_again_replaces_its_run(results: Path) -> None:
    build = Builder(results)
    upstream = build.distill("gvd", 1, 0)
    key = build.evaluate("gvd", 1, 0, upstream, status="failed", reason="NaN in the loss", metrics={}, arrays={}, curves={}, phases={})
    rebuild_mirror(results)
    run = cells(results)[key]
    assert run.info.status == "FAILED" and run.data.tags["harness.reason"] == "NaN in the loss" and "accuracy" not in run.data.metrics
    assert build.evaluate("gvd", 1, 0, upstream, accuracy=0.5) == key
    rebuild_mirror(results)
    again = cells(results)[key]
    assert again.info.run_id != run.info.run_id and len(cells(results)) == 1
    assert again.info.status == "FINISHED" and "accuracy" in again.data.metrics and again.data.tags["harness.status"] == "done"
    assert "harness.reason" not in again.data.tags


def test_cached_cells_that_are_not_mirrored_are_completed_at_the_start(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    key = build.evaluate("random", 1, 0, build.distill("random", 1, 0), accuracy=0.3)
    records, _ = Store(results).read_records()
    mirror = Mirror(results, report=errors.append)
    state: Any = SimpleNamespace(records=records, cached={key})
    mirror.start({"id": "later", "started_at": build.started}, state)
    mirror.end("interrupted")
    assert set(cells(results)) == {key}
    assert {r.data.tags["mlflow.runName"]: r.info.status for r in runs(results) if SWEEP in r.data.tags} == {
        "later": "KILLED",
        build.sweep: "FINISHED",
    }


def test_runs_of_dead_drivers_are_closed_and_those_of_living_ones_are_not(results: Path, errors: list[str]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = socket.gethostname()
    owners = {
        "dead": f"{host} {gone.pid} 1",
        "reused pid": f"{host} {os.getpid()} 1",
        "elsewhere": f"another-machine {gone.pid} 1",
    }
    from mlflow import MlflowClient

    Mirror(results, report=errors.append).close()
    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    for name, owner in owners.items():
        client.create_run(experiment, tags={SWEEP: name, OWNER: owner})
    living = Mirror(results, report=errors.append)
    living.start({"id": "living"}, SimpleNamespace(records={}, cached=set()))  # type: ignore[arg-type]
    living.flush()
    Mirror(results, report=errors.append).close()
    assert {run.data.tags[SWEEP]: run.info.status for run in runs(results)} == {
        "dead": "KILLED", "reused pid": "KILLED", "elsewhere": "RUNNING", "living": "RUNNING",
    }  # fmt: skip
    living.end("failed")
    assert {run.data.tags[SWEEP]: run.info.status for run in runs(results)}["living"] == "FAILED"


@pytest.mark.parametrize("uri", ["sqlite:////proc/nowhere/mlflow.db", "nonsense://x", "http://127.0.0.1:9"])
def test_a_store_that_cannot_be_reached_is_reported_once_and_harms_nothing(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    build, complaints = Builder(tmp_path), []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    driver = Driver(tmp_path, build, complaints, executor="inline")
    for seed in range(2):
        driver.finish(build.evaluate("random", 1, seed, build.distill("random", 1, seed, preview=False)))
    driver.mirror.end("done")
    assert len(complaints) == 1 and complaints[0].startswith("off for this run: ") and "\n" not in complaints[0]
    with pytest.raises(StoreError, match="tracking store"):
        rebuild_mirror(tmp_path)


def test_an_error_in_one_cell_does_not_lose_the_next(results: Path) -> None:
    build, complaints = Builder(results), []
    driver = Driver(results, build, complaints)
    broken = build.distill("gvd", 1, 0)
    (results / "artifacts" / broken / "preview.gif").unlink()
    first = build.evaluate("gvd", 1, 0, broken)
    second = build.evaluate("random", 1, 0, build.distill("random", 1, 0))
    driver.finish(first)
    driver.finish(second)
    driver.mirror.end("done")
    assert len(complaints) == 1 and "preview.gif" in complaints[0]
    assert cells(results)[second].info.status == "FINISHED"
    build.distill("gvd", 1, 0)  # the file is there again: what was left half written is completed
    rebuild_mirror(results)
    assert cells(results)[first].info.status == "FINISHED" and len(cells(results)) == 2


def test_where_the_mirror_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    assert tracking_uri(store) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri(store) == "http://tracking:5000"
    assert tracking_uri(store, "sqlite:///x.db") == "sqlite:///x.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_URI"):
        tracking_uri(Store("memory://results"))


def test_the_interface_is_served_from_the_right_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="no MLflow store"):
        ui_command(store, "127.0.0.1", 5000)
    with pytest.raises(UsageError, match="open http://tracking:5000 in a browser"):
        ui_command(store, "127.0.0.1", 5000, "http://tracking:5000")
    (tmp_path / "mlflow.db").touch()
    command = ui_command(store, "127.0.0.1", 5001)
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"
    assert command[command.index("--host") + 1] == "127.0.0.1" and command[command.index("--port") + 1] == "5001"
    assert "127.0.0.1:5001" in command[command.index("--allowed-hosts") + 1]


def test_the_last_sweep_with_cells_is_offered_for_comparison(results: Path) -> None:
    build = Builder(results)
    for sweep, labels in (("20260101", ("random", "gvd")), ("20260102", ("random", "dm", "herding")), ("20260103", ("mtt",))):
        build.sweep = sweep
        for label in labels:
            for seed in range(2):
                build.evaluate(label, 1 if sweep != "20260102" else 5, seed, build.distill(label, 5, seed, preview=False))
    rebuild_mirror(results)
    (_, every), (title, comparison) = ui_addresses(Store(results), "127.0.0.1", 5001)
    assert every.startswith("http://127.0.0.1:5001/#/experiments/") and title == "comparison of 3 cells of sweep 20260102, seed 0"
    named = json.loads(unquote(comparison.partition("runs=")[2].partition("&")[0]))
    expected = {r.info.run_id for r in runs(results) if r.data.params.get("ipc") == "5" and r.data.params["seed"] == "0"}
    assert set(named) == expected and len(named) == 3


def test_the_module_costs_nothing_until_a_mirror_is_opened() -> None:
    code = "import json, sys, harness.tracking; print(json.dumps([m for m in ('mlflow', 'torch', 'ray', 'pandas') if m in sys.modules]))"
    assert json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) == []
