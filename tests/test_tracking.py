from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import urlopen

import pytest

from harness.budget import Budget
from harness.errors import StoreError, UsageError
from harness.metrics import METRICS, Metric
from harness.mlflow_place import EXPERIMENT, quiet_environment, tracking_uri
from harness.mlflow_terms import DESCRIBED, KEY, OWNER, SWEEP
from harness.mlflow_views import TAG
from harness.names import parse_spec
from harness.protocol import TrainingProtocol
from harness.record import Phase, Provenance, Record, Sweep
from harness.spec import (
    AssetSpec,
    Cell,
    DatasetSpec,
    DataSpec,
    DistillSpec,
    EvaluateSpec,
    PluginSpec,
    ProtocolSpec,
    QualitySpec,
    Spec,
    task_identity,
    task_key,
)
from harness.store import Store
from harness.tracking import Mirror, rebuild_mirror, ui_addresses, ui_command
from tests.conftest import Harness

pytest.importorskip("mlflow")

CURVE = [(step, round(1.8 * 0.97**step, 5)) for step in range(0, 60, 5)]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A store whose database two mirrors touched first at the same time, and what they complained of."""
    root = tmp_path_factory.mktemp("fresh")
    errors: list[str] = []
    mirrors = [Mirror(root, report=errors.append) for _ in range(2)]
    for mirror in mirrors:
        mirror.close()
    return root, errors


@pytest.fixture
def results(fresh: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A results folder with a migrated, empty database: migration takes seconds and is done once a session."""
    shutil.copy(fresh[0] / "mlflow.db", tmp_path / "mlflow.db")
    return tmp_path


def opened(results: Path) -> tuple[Any, Any]:
    """MLflow's client of a results folder, and the experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    return client, client.get_experiment_by_name(EXPERIMENT)


def runs(results: Path) -> list[Any]:
    client, experiment = opened(results)
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def cells(results: Path) -> dict[str, Any]:
    return {run.data.tags[KEY]: run for run in runs(results) if KEY in run.data.tags}


class Builder:
    """Typed records in a store, as a run leaves them."""

    dataset = DatasetSpec(name="moving-digits", params={"speed": 2}, label="moving-digits", code="d", digest="d", clip_shape=(8, 1, 32, 32))
    protocol = ProtocolSpec(name="quick", recipe=TrainingProtocol(epochs=60))

    def __init__(self, root: Path) -> None:
        self.store, self.sweep, self.started, self.seconds = Store(root), "20260301-100000-abcd", "2026-03-01T10:00:00+00:00", 0
        self.data = self.write(DataSpec(code="h", dataset=self.dataset), {}, metrics={"native_train_frames": 1200})

    def write(self, spec: Spec, inputs: dict[str, str], **fields: Any) -> str:
        key = task_key(spec, inputs)
        self.seconds += 1
        ended = f"2026-03-01T11:{self.seconds // 60:02d}:{self.seconds % 60:02d}+00:00"
        provenance = Provenance(
            sweep=self.sweep, host="laptop", started_at=self.started, ended_at=ended, harness="0.1.0", git="0123abc", device="cpu",
            libraries={"torch": "2.11.0"},
        )  # fmt: skip
        body = {"status": "done", "name": f"{spec.kind} {key[:6]}", **fields}
        record = Record(
            key=key, identity=task_identity(spec, inputs), kind=spec.kind, spec=spec, inputs=inputs, provenance=provenance, **body
        )
        self.store.write_record(record)
        return key

    def budget(self, ipc: int) -> Budget:
        return Budget(ipc, self.dataset.clip_shape, 6)

    def method(self, label: str) -> PluginSpec:
        name, params = parse_spec(label)
        return PluginSpec(name=name, params=dict(params), label=label, code="m")

    def teacher(self) -> str:
        asset = PluginSpec(name="teacher", params={"evaluator": "convnet3d"}, label="teacher", code="t")
        spec = AssetSpec(code="h", dataset=self.dataset, asset=asset, networks={}, protocol=self.protocol, by_protocol=True)
        phases = {"build": Phase(seconds=80, cpu_seconds=79, peak_cpu_mib=410)}
        return self.write(spec, {"data": self.data}, phases=phases, curves={"loss": CURVE}, metrics={"train_steps": 60})

    def distill(
        self, label: str, ipc: int, seed: int, *, preview: bool = True, metrics: dict[str, float] | None = None, **fields: Any
    ) -> str:
        spec = DistillSpec(
            code="h",
            dataset=self.dataset,
            budget=self.budget(ipc),
            method=self.method(label),
            networks={},
            protocol=self.protocol,
            seed=seed,
        )
        inputs = {"data": self.data}
        numbers = {
            "frames_stored": 48 * ipc,
            "stored_bytes": 49152,
            "label_bytes": 0,
            "videos_trained_on": 6 * ipc,
            "frame_fraction": 0.04 * ipc,
        }
        phases = {"distill": Phase(seconds=4, cpu_seconds=3, peak_cpu_mib=450, baseline_cpu_mib=290)}
        pictures = {"preview.png": b"png", "preview.gif": b"gif"} if preview else {}
        artifacts = {name: self.store.write_artifact(task_key(spec, inputs), name, data) for name, data in pictures.items()}
        body = {"metrics": {**numbers, **(metrics or {})}, "phases": phases, "artifacts": artifacts, **fields}
        return self.write(spec, inputs, **body)

    def quality(self, distilled: str, **metrics: float) -> str:
        record = self.record(distilled)
        assert isinstance(record.spec, DistillSpec)
        spec = QualitySpec(code="h", dataset=self.dataset, budget=record.spec.budget, method=record.spec.method, protocol=self.protocol)
        return self.write(spec, {"data": self.data, "distill": distilled}, metrics=metrics)

    def evaluate(
        self,
        label: str,
        ipc: int | None,
        seed: int,
        upstream: str,
        accuracy: float = 0.5,
        metrics: dict[str, float] | None = None,
        **fields: Any,
    ) -> str:
        network = PluginSpec(name="convnet3d", params={"width": 32, "norm": None}, label="convnet3d", code="e")
        spec = EvaluateSpec(
            code="h", dataset=self.dataset, budget=None if ipc is None else self.budget(ipc), method=self.method(label), labels="hard",
            evaluator=network, protocol=self.protocol, seed=seed,
        )  # fmt: skip
        shown = {"accuracy_top5": 0.9, "accuracy_single_frame": 0.17, "accuracy_shuffled": 0.25, "accuracy_reversed": 0.1, "ece": 0.08}
        done = {
            "metrics": {"accuracy": accuracy, "train_steps": 60, **shown, **(metrics or {})},
            "phases": {"train": Phase(seconds=9, peak_cpu_mib=380), "test": Phase(seconds=1.2, peak_cpu_mib=350)},
            "curves": {"train_loss": CURVE},
        }
        body = fields if "status" in fields else {**done, **fields}
        return self.write(spec, {"data": self.data, ("distill" if ipc else "teacher"): upstream}, **body)

    def record(self, key: str) -> Record:
        record = self.store.read_record(key)
        assert record is not None
        return record

    def planned(self, status: str = "running", **fields: Any) -> Sweep:
        return Sweep.model_validate(
            {"id": self.sweep, "command": "python -m harness run", "started_at": self.started, "cells": (), "status": status, **fields}
        )


class Driver:
    """What the runner does to its observers, without the runner."""

    def __init__(self, results: Path, build: Builder, errors: list[str], executor: str = "ray") -> None:
        self.store, self.build = Store(results), build
        self.state = SimpleNamespace(records={}, cached=set())
        self.mirror = Mirror(results, report=errors.append)
        self.sweep = build.planned(config={"run": {"executor": executor, "ipc": [1, 5]}}, packages={"torch": "2.11.0"})
        self.mirror.start(self.sweep, self.state)  # type: ignore[arg-type]

    def finish(self, key: str) -> None:
        records, _ = self.store.read_records()
        late = ("evaluate", "quality")
        self.state.records.update({k: r for k, r in records.items() if r.kind not in late or k == key})
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
    _, experiment = opened(root)
    assert experiment.artifact_location == (root / "mlartifacts").as_uri()


def test_a_cell_is_a_run_under_its_sweep(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    driver = Driver(results, build, errors)
    upstream = build.distill("gvd[guidance=0]", 5, 0)
    build.evaluate("full", None, 0, build.teacher(), accuracy=0.9)
    key = build.evaluate("gvd[guidance=0]", 5, 0, upstream, accuracy=0.6)
    driver.finish(key)
    driver.mirror.end("done")

    run, record = cells(results)[key], build.record(key)
    assert run.info.status == "FINISHED"
    axes = {
        "dataset": "moving-digits", "method": "gvd[guidance=0]", "ipc": "5", "labels": "hard", "evaluator": "convnet3d",
        "protocol": "quick", "seed": "0",
    }  # fmt: skip
    plugins = {"setting.method.guidance": "0", "setting.evaluator.width": "32", "setting.dataset.speed": "2"}
    assert run.data.params.items() >= {**axes, **plugins, "setting.protocol.lr": "0.01", "setting.protocol.epochs": "60"}.items()
    assert {name for name in run.data.params if not name.startswith("setting.protocol.")} == {*axes, *plugins}
    assert sorted(run.data.params)[: len(axes)] == sorted(axes), "MLflow's comparison begins with the first names of the alphabet"
    assert run.info.run_name == "gvd ipc5 s0 · guidance=0 · convnet3d · hard"
    assert run.data.metrics["accuracy"] == record.metrics["accuracy"] == 0.6
    assert run.data.metrics["peak_cpu_mib"] == 450 and run.data.metrics["train_peak_cpu_mib"] == 380
    unmeasured = {"peak_gpu_mib", "train_peak_gpu_mib", "relative_accuracy", *(m.name for m in METRICS if m.place in ("quality", "tuning"))}
    assert {m.name for m in METRICS} - set(run.data.metrics) == unmeasured, "unmeasured is left out"
    assert set(run.data.metrics) - {m.name for m in METRICS} == {"train_loss", "ipc"} and run.data.metrics["ipc"] == 5
    described = json.loads(run.data.tags[DESCRIBED])
    assert described["accuracy"] == ["top-1", "fraction", "higher"] and set(described) == set(run.data.metrics) - {"train_loss", "ipc"}
    parent = next(r for r in runs(results) if SWEEP in r.data.tags)
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == "FINISHED" and parent.data.params["ipc"] == "[1, 5]" and parent.data.tags["package.torch"] == "2.11.0"
    assert run.info.start_time < run.info.end_time
    assert run.data.tags["git"] == "0123abc" and run.data.tags["library.torch"] == "2.11.0"

    (source,) = run.inputs.dataset_inputs
    assert (source.dataset.name, source.dataset.digest) == ("moving-digits", "d")
    assert [(tag.key, tag.value) for tag in source.tags] == [("mlflow.data.context", "train")]

    client, experiment = opened(results)
    for chosen in ("params.method = 'gvd[guidance=0]'", "tags.method = 'gvd'", "metrics.ipc > 4 AND params.evaluator = 'convnet3d'"):
        assert [r.info.run_id for r in client.search_runs([experiment.experiment_id], chosen)] == [run.info.run_id], chosen
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == record.curves["train_loss"] == CURVE
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"preview.png", "preview.gif", "record.json"}


def test_the_curve_of_the_reference_is_that_of_its_network(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    teacher = build.teacher()
    key = build.evaluate("full", None, 0, teacher, accuracy=0.9, curves={})
    rebuild_mirror(results)
    run = cells(results)[key]
    assert run.data.params["ipc"] == "all" and "ipc" not in run.data.metrics and run.info.run_name == "full s0 · convnet3d · hard"
    assert run.data.metrics["relative_accuracy"] == 1.0
    assert run.data.metrics["train_loss"] == build.record(teacher).curves["loss"][-1][1]
    assert run.data.metrics["train_seconds"] == 80 and run.data.metrics["frames_stored"] == 1200


def test_what_plugins_measure_of_their_own_are_metrics_too(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    declared = (Metric("modes_used", "modes", "count", "higher"),)
    upstream = build.distill(
        "gvd", 1, 0, metrics={"modes_used": 12, "undeclared": 0.5}, declared=declared, curves={"loss": [(0, 2.0), (1, 1.0)]}
    )
    key = build.evaluate("gvd", 1, 0, upstream, metrics={"sharpness": 3.5}, declared=(Metric("sharpness", unit="points"),))
    driver = Driver(results, build, errors)
    driver.finish(key)
    driver.mirror.end("done")
    run = cells(results)[key]
    assert run.data.metrics.items() >= {"modes_used": 12, "undeclared": 0.5, "sharpness": 3.5, "distill.loss": 1.0}.items()
    described = json.loads(run.data.tags[DESCRIBED])
    assert described["modes_used"] == ["modes", "count", "higher"] and described["sharpness"] == ["sharpness", "points", ""]


def test_more_numbers_than_one_request_takes(results: Path) -> None:
    build = Builder(results)
    many = {f"number_{i:03d}": float(i) for i in range(300)}
    long = {f"loss_{i}": [(step, float(step)) for step in range(700)] for i in range(3)}
    key = build.evaluate(f"gvd[{','.join(f'p{i}={i}' for i in range(150))}]", 1, 0, build.distill("gvd", 1, 0), metrics=many, curves=long)
    rebuild_mirror(results)
    run = cells(results)[key]
    assert run.data.metrics.items() >= {**many, "loss_2": 699.0}.items() and run.data.params["setting.method.p149"] == "149"
    described = json.loads(run.data.tags[DESCRIBED])
    assert described["accuracy"] and len(described) < 300, "cut between two metrics, not within one"


def test_the_quality_of_a_set_reaches_cells_that_were_mirrored_before_it(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    driver = Driver(results, build, errors)
    upstream = build.distill("gvd", 1, 0)
    key = build.evaluate("gvd", 1, 0, upstream)
    other = build.evaluate("random", 1, 0, build.distill("random", 1, 0))
    driver.finish(key)
    driver.finish(other)
    driver.finish(build.quality(upstream, coverage=0.7, diversity=1.1))
    driver.mirror.end("done")
    known = cells(results)
    assert known[key].data.metrics["coverage"] == 0.7 and known[key].data.metrics["diversity"] == 1.1
    assert "coverage" not in known[other].data.metrics
    assert rebuild_mirror(results).startswith("0 runs written")


def test_relative_accuracy_reaches_cells_that_were_mirrored_before_full(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    driver = Driver(results, build, errors, executor="inline")
    early = build.evaluate("random", 1, 0, build.distill("random", 1, 0), accuracy=0.3)
    driver.finish(early)
    assert "relative_accuracy" not in cells(results)[early].data.metrics
    full = build.evaluate("full", None, 0, build.teacher(), accuracy=0.9)
    driver.finish(full)
    driver.mirror.end("done")
    known = cells(results)
    accuracy = known[early].data.metrics["accuracy"]
    assert known[early].data.metrics["relative_accuracy"] == accuracy / known[full].data.metrics["accuracy"]


def test_rebuilding_recreates_everything_and_twice_changes_nothing(results: Path) -> None:
    build = Builder(results)
    keys = {build.evaluate("random", 1, s, build.distill("random", 1, s), accuracy=0.3 + s / 10) for s in range(3)}
    build.store.write_sweep(build.planned("done"))
    assert rebuild_mirror(results).startswith("4 runs written, 3 cells mirrored at sqlite:")
    before = {run.info.run_id: run.info.end_time for run in runs(results)}
    assert set(cells(results)) == keys and len(before) == 4
    assert rebuild_mirror(results).startswith("0 runs written, 3 cells")
    assert {run.info.run_id: run.info.end_time for run in runs(results)} == before
    assert rebuild_mirror(results, fresh=True).startswith("4 runs written")
    assert len(runs(results)) == 4 and not {run.info.run_id for run in runs(results)} & set(before)


def test_a_set_that_was_made_again_makes_the_run_of_its_cell_again(results: Path) -> None:
    build = Builder(results)
    key = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    rebuild_mirror(results)
    build.distill("gvd", 1, 0, phases={"distill": Phase(seconds=7)})
    assert rebuild_mirror(results).startswith("1 runs written")
    assert cells(results)[key].data.metrics["distill_seconds"] == 7


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("anew", [False, True])
def test_a_copied_folder_keeps_its_artifacts_to_itself(results: Path, tmp_path_factory: pytest.TempPathFactory, anew: bool) -> None:
    build = Builder(results)
    key = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0), accuracy=0.5)
    same = build.evaluate("random", 1, 0, build.distill("random", 1, 0))
    rebuild_mirror(results)
    before = files(results)
    copy = tmp_path_factory.mktemp("elsewhere") / "a copy"
    shutil.copytree(results, copy)
    changed = build.record(key)
    Store(copy).write_record(changed.model_copy(update={"metrics": {**changed.metrics, "accuracy": 0.75}}))
    rebuild_mirror(copy, fresh=anew)
    assert files(results) == before, "the folder that it was copied from"

    (client, experiment), known = opened(copy), cells(copy)
    assert known[key].data.metrics["accuracy"] == 0.75
    assert experiment.artifact_location == (copy / "mlartifacts").as_uri()
    for cell in (key, same):
        run_id = known[cell].info.run_id
        lies = copy / "mlartifacts" / run_id / "artifacts"
        assert known[cell].info.artifact_uri == lies.as_uri()
        assert (
            {a.path for a in client.list_artifacts(run_id)}
            == {p.name for p in lies.iterdir()}
            == {"preview.png", "preview.gif", "record.json"}
        )
        assert (
            json.loads((lies / "record.json").read_text())["metrics"]
            == json.loads((copy / "records" / f"{cell}.json").read_text())["metrics"]
        )


def test_a_driver_writes_into_its_own_folder_whatever_the_database_says_meanwhile(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    driver = Driver(results, build, errors)
    driver.mirror.flush()
    with sqlite3.connect(results / "mlflow.db") as connection:  # as a process would that sees this folder under another name
        connection.execute("UPDATE experiments SET artifact_location = ?", ((results / "other").as_uri(),))
    key = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    driver.finish(key)
    driver.mirror.end("done")
    run_id = cells(results)[key].info.run_id
    assert (results / "mlartifacts" / run_id / "artifacts" / "record.json").exists() and not (results / "other").exists()


def test_a_store_outside_the_results_keeps_its_artifacts_beside_it(fresh: tuple[Path, list[str]], tmp_path: Path) -> None:
    shared, results = tmp_path / "shared", tmp_path / "results"
    uri = f"sqlite:///{shared / 'mlflow.db'}"
    build = Builder(results)
    key = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    rebuild_mirror(results, uri)
    (run,) = [r for r in runs(shared) if KEY in r.data.tags]
    assert run.data.tags[KEY] == key and run.info.artifact_uri == (shared / "mlartifacts" / run.info.run_id / "artifacts").as_uri()
    assert not (results / "mlartifacts").exists() and not (results / "mlflow.db").exists()


@pytest.mark.slow
def test_the_interface_of_a_copy_serves_the_artifacts_of_the_copy(results: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    build = Builder(results)
    key = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    rebuild_mirror(results)
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(results, copy)
    run_id = cells(results)[key].info.run_id
    (copy / "mlartifacts" / run_id / "artifacts" / "record.json").write_text('{"of": "the copy"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ui_command(Store(copy), "127.0.0.1", port)
    environment = {**os.environ, **quiet_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    address = f"http://127.0.0.1:{port}/get-artifact?run_uuid={run_id}&path=record.json"
    with subprocess.Popen(
        command, env=environment, cwd=copy.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            assert json.loads(fetch(address, server)) == {"of": "the copy"}
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def fetch(address: str, server: subprocess.Popen[bytes], patience: float = 90) -> bytes:
    """The answer of a server that is starting."""
    until = time.monotonic() + patience
    while True:
        try:
            with urlopen(address, timeout=10) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > until or server.poll() is not None:
                raise
            time.sleep(0.5)


def test_a_cell_that_ran_again_replaces_its_run(results: Path) -> None:
    build = Builder(results)
    upstream = build.distill("gvd", 1, 0)
    key = build.evaluate("gvd", 1, 0, upstream, status="failed", reason="NaN in the loss")
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
    mirror.start(build.planned(id="later"), state)
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
    Mirror(results, report=errors.append).close()
    client, experiment = opened(results)
    for name, owner in owners.items():
        client.create_run(experiment.experiment_id, tags={SWEEP: name, OWNER: owner})
    living = Mirror(results, report=errors.append)
    living.start(Builder(results).planned(id="living"), SimpleNamespace(records={}, cached=set()))  # type: ignore[arg-type]
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
    build = Builder(tmp_path)
    complaints: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    driver = Driver(tmp_path, build, complaints, executor="inline")
    for seed in range(2):
        driver.finish(build.evaluate("random", 1, seed, build.distill("random", 1, seed, preview=False)))
    driver.mirror.end("done")
    assert len(complaints) == 1 and complaints[0].startswith("off for this run: ") and "\n" not in complaints[0]
    with pytest.raises(StoreError, match="tracking store"):
        rebuild_mirror(tmp_path)


def test_an_error_in_one_cell_does_not_lose_the_next(results: Path) -> None:
    build = Builder(results)
    complaints: list[str] = []
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


def test_the_interface_is_served_from_the_right_store(tmp_path: Path, fresh: tuple[Path, list[str]]) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="no MLflow store"):
        ui_command(store, "127.0.0.1", 5000)
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(StoreError, match=r"mlflow\.db is not an MLflow store"):
        ui_command(store, "127.0.0.1", 5000)
    shutil.copy(fresh[0] / "mlflow.db", tmp_path / "mlflow.db")
    command = ui_command(store, "127.0.0.1", 5001)
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"
    assert command[command.index("--default-artifact-root") + 1] == (tmp_path / "mlartifacts").as_uri()
    assert command[command.index("--host") + 1] == "127.0.0.1" and command[command.index("--port") + 1] == "5001"
    assert "127.0.0.1:5001" in command[command.index("--allowed-hosts") + 1]


def planned(build: Builder, sweep: str, keys: list[str]) -> None:
    """Leave the file of a sweep that planned these cells."""
    cells = []
    for key in keys:
        spec = build.record(key).spec
        assert isinstance(spec, EvaluateSpec)
        cells.append(
            Cell(
                key=key, identity=key, name=key, dataset="moving-digits", dataset_label="moving-digits", clip_shape=(8, 1, 32, 32),
                method=spec.method.name, method_label=spec.method.label, ipc=spec.ipc, labels=spec.labels, evaluator="convnet3d",
                evaluator_label="convnet3d", protocol="quick", seed=spec.seed,
            )
        )  # fmt: skip
    build.store.write_sweep(build.planned("done", id=sweep, started_at=f"{sweep[:4]}-{sweep[4:6]}-{sweep[6:]}T10:00:00+00:00", cells=cells))


def view(results: Path, address: str) -> dict[str, Any]:
    """The view that an address of the interface opens."""
    query = dict(parse_qsl(urlsplit(urlsplit(address).fragment).query))
    _, experiment = opened(results)
    return dict(json.loads(experiment.tags[TAG + query["viewStateShareKey"]]))


def test_the_last_sweep_with_two_cells_is_offered_for_comparison(results: Path) -> None:
    build = Builder(results)
    made = {}
    for sweep, ipc, labels in (("20260101", 1, ("random", "gvd")), ("20260102", 5, ("random", "dm", "herding")), ("20260103", 9, ("mtt",))):
        build.sweep = sweep
        made[sweep] = [build.evaluate(m, ipc, seed, build.distill(m, ipc, seed, preview=False)) for m in labels for seed in range(2)]
    # the second sweep asked for a cell that the first had made; the third has one cell that is done
    shared = made["20260101"][0]
    for sweep, keys in (("20260101", made["20260101"]), ("20260102", [*made["20260102"], shared]), ("20260103", made["20260103"][:1])):
        planned(build, sweep, keys)
    rebuild_mirror(results)
    (table, every), (title, comparison) = ui_addresses(Store(results), "http://127.0.0.1:5001")
    assert every.startswith("http://127.0.0.1:5001/#/experiments/") and table == "all cells"
    assert title == "comparison of 7 cells of sweep 20260102"
    known = cells(results)
    shown = view(results, comparison)
    chosen = {known[key].info.run_id for key in (*made["20260102"], shared)}
    assert set(re.findall("[0-9a-f]{32}", shown["searchFilter"])) == chosen
    client, experiment = opened(results)
    assert len(client.search_runs([experiment.experiment_id], shown["searchFilter"])) == 7, "a filter that MLflow takes"
    parallel = shown["compareRunCharts"][0]
    assert parallel["type"] == "PARALLEL" and parallel["selectedParams"] + parallel["selectedMetrics"] == ["method", "ipc", "accuracy"]
    names = [run.info.run_name for run in runs(results) if SWEEP in run.data.tags]
    assert sorted(names) == ["mtt · ipc 9 · 20260103", "random, dm, herding · ipc 1, 5 · 20260102", "random, gvd · ipc 1 · 20260101"]


def test_the_interface_of_a_server_that_is_away_is_one_sentence(tmp_path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    asked = harness("ui")
    assert asked.returncode == 1 and asked.stderr.startswith("error: tracking store http://127.0.0.1:9: ")
    assert "Traceback" not in asked.stderr and not asked.stdout
    with pytest.raises(UsageError, match="workspace in a browser"):
        ui_command(Store(tmp_path), "127.0.0.1", 5000, "databricks://profile")


def test_the_table_of_cells_has_columns_that_cells_have_and_no_sweeps(results: Path, errors: list[str]) -> None:
    build = Builder(results)
    build.evaluate("gvd", 5, 0, build.distill("gvd", 5, 0))
    build.evaluate("full", None, 0, build.teacher(), accuracy=0.9)
    rebuild_mirror(results)
    ((_, address),) = ui_addresses(Store(results), "http://127.0.0.1:5001")
    shown = view(results, address)
    client, experiment = opened(results)
    order = f"{shown['orderByKey']} {'ASC' if shown['orderByAsc'] else 'DESC'}"
    found = client.search_runs([experiment.experiment_id], shown["searchFilter"], order_by=[order])
    assert [run.info.run_name for run in found] == ["full s0 · convnet3d · hard", "gvd ipc5 s0 · convnet3d · hard"]
    columns = {*(f"params.`{name}`" for name in found[1].data.params), *(f"metrics.`{name}`" for name in found[1].data.metrics)}
    assert set(shown["selectedColumns"]) - columns == {"metrics.`peak_gpu_mib`"}, "there is no GPU in these records"


def test_a_report_is_attached_to_the_sweep_and_once(results: Path) -> None:
    build = Builder(results)
    planned(build, "20260101", [build.evaluate("gvd", 5, seed, build.distill("gvd", 5, seed)) for seed in range(2)])
    rebuild_mirror(results)
    assert len(ui_addresses(Store(results), "http://127.0.0.1:5001")) == 2
    (results / "report" / "tables").mkdir(parents=True)
    (results / "report" / "index.html").write_text("the page")
    (results / "report" / "tables" / "main.tex").write_text("the table")
    rebuild_mirror(results)
    client, _ = opened(results)
    run = next(r for r in runs(results) if SWEEP in r.data.tags and r.data.tags[SWEEP] == "20260101")
    place = results / "mlartifacts" / run.info.run_id / "artifacts" / "report"
    assert {a.path for a in client.list_artifacts(run.info.run_id, "report")} == {"report/index.html", "report/tables"}
    assert (place / "tables" / "main.tex").read_text() == "the table"
    (place / "index.html").write_text("touched")
    assert ui_addresses(Store(results), "http://127.0.0.1:5001")[2][1].endswith("report/index.html?workflowType=machine_learning")
    assert (place / "index.html").read_text() == "touched", "the same report is not written again"
    (results / "report" / "index.html").write_text("a new page")
    rebuild_mirror(results)
    assert (place / "index.html").read_text() == "a new page"


@pytest.mark.slow
def test_a_shared_server_takes_runs_artifacts_and_the_report(
    fresh: tuple[Path, list[str]], tmp_path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    shared = tmp_path / "server"
    shared.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{shared / 'mlflow.db'}"),
        *("--artifacts-destination", str(shared / "files"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]
    environment = {**os.environ, **quiet_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(
        command, env=environment, cwd=shared, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            fetch(f"{address}/health", server)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            done = harness("run", "--track", "--ipc", "1", "--seeds", "1", "--no-reference")
            assert done.returncode == 0 and "tracking:" not in done.stdout, done.stdout + done.stderr
            assert harness("report").returncode == 0
            tracked = harness("track")
            assert tracked.returncode == 0 and tracked.stdout.startswith("0 runs written, 2 cells mirrored at " + address), tracked.stderr
            opened_at = harness("ui")
            assert opened_at.returncode == 0, opened_at.stderr
            assert [line.partition(": ")[0].split(" of sweep")[0] for line in opened_at.stdout.splitlines()] == [
                "all cells", "comparison of 2 cells", "report",
            ]  # fmt: skip
            assert opened_at.stdout.count(f"{address}/#/experiments/") == 3

            client = MlflowClient(address)
            experiment = client.get_experiment_by_name(EXPERIMENT)
            found = client.search_runs([experiment.experiment_id])
            sweep = next(run for run in found if SWEEP in run.data.tags)
            made = [run for run in found if KEY in run.data.tags]
            assert {run.data.params["method"] for run in made} == {"first", "random"}
            assert {run.data.tags["mlflow.parentRunId"] for run in made} == {sweep.info.run_id}
            assert all(run.info.artifact_uri.startswith("mlflow-artifacts:") for run in found)
            assert "report/index.html" in {a.path for a in client.list_artifacts(sweep.info.run_id, "report")}
            record = json.loads(Path(client.download_artifacts(made[0].info.run_id, "record.json", str(tmp_path))).read_text())
            assert record["key"] == made[0].data.tags[KEY]
            assert not (tmp_path / "results" / "mlflow.db").exists() and not (tmp_path / "results" / "mlartifacts").exists()
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def test_the_module_costs_nothing_until_a_mirror_is_opened() -> None:
    code = "import json, sys, harness.tracking; print(json.dumps([m for m in ('mlflow', 'torch', 'ray', 'pandas') if m in sys.modules]))"
    assert json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) == []
