"""The Ray executor against the inline one, and what must not happen: a lost worker or a late task costs only itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.worker import TaskTimeout
from tests.conftest import PROJECT, TINY, Harness

pytest.importorskip("ray")


def records(root: Path) -> dict[str, dict]:
    return {p.stem: json.loads(p.read_text()) for p in (root / "records").glob("*.json")}


def measured(root: Path) -> dict[str, tuple]:
    """What has to be the same wherever a task runs."""
    return {k: (r["status"], r["metrics"], r["arrays"], r["curves"]) for k, r in records(root).items()}


def test_ray_and_inline_give_the_same_numbers(harness: Harness, tmp_path: Path) -> None:
    inline = harness("run", "--executor", "inline")
    assert inline.returncode == 0, inline.stdout + inline.stderr
    (tmp_path / "results").rename(tmp_path / "inline")
    parallel = harness("run", "--executor", "ray")
    assert parallel.returncode == 0, parallel.stdout + parallel.stderr
    assert parallel.stderr == ""
    assert measured(tmp_path / "results") == measured(tmp_path / "inline")


def test_a_dead_worker_and_a_late_task_cost_only_themselves(harness: Harness, tmp_path: Path) -> None:
    child = tmp_path / "child"
    methods = f"misbehave[how=die],misbehave[how=stall],misbehave[how=child,marker={child}],first"
    done = harness("run", "--executor", "ray", "--methods", methods, "--ipc", "1", "--seeds", "1", "--no-reference", "--timeout", "8")
    assert done.returncode == 1, done.stdout + done.stderr
    made = {r["spec"]["method"]["label"]: r for r in records(tmp_path / "results").values() if r["kind"] == "distill"}
    assert made["misbehave[how=die]"]["status"] == "failed" and "worker process died" in made["misbehave[how=die]"]["reason"]
    assert made["misbehave[how=stall]"]["status"] == "timeout" and "8 s" in made["misbehave[how=stall]"]["reason"]
    assert made["first"]["status"] == "done"
    started = made[f"misbehave[how=child,marker={child}]"]
    assert started["status"] == "done"
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text()), 0)  # what a method started ended with its process
    baselines = [r["phases"]["distill"]["baseline_cpu_mib"] for r in (made["first"], started)]
    assert abs(baselines[0] - baselines[1]) < 16, "every distillation starts from the same memory"


def start(bench: Path, results: Path, methods: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", "run", "--config", str(bench), "--plugin", str(TINY), "--results", str(results)]
    command += ["--executor", "ray", "--methods", methods, "--ipc", "1", "--seeds", "1", "--no-reference"]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def wait_for_sleeper(process: subprocess.Popen[str], results: Path) -> None:
    deadline = time.monotonic() + 90
    while not any("sleep" in p.read_text() for p in (results / "running").glob("*.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)


def test_ctrl_c_ends_within_five_seconds(bench: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    process = start(bench, results, "first,misbehave[how=sleep]")
    wait_for_sleeper(process, results)
    os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - started < 5, output
    assert "Traceback" not in output
    made = {r["spec"]["method"]["label"]: r["status"] for r in records(results).values() if r["kind"] == "distill"}
    assert made["misbehave[how=sleep]"] == "interrupted"


def test_kill_9_of_the_driver_and_again(bench: Path, tmp_path: Path, harness: Harness) -> None:
    """What an undisturbed run gives, after a driver that was killed, with the finished work kept."""
    marker = tmp_path / "results" / "marker"
    methods = f"first,random,misbehave[how=slow-once,marker={marker}]"
    process = start(bench, tmp_path / "results", methods)
    deadline = time.monotonic() + 90
    while not any(r["kind"] == "distill" for r in records(tmp_path / "results").values()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
    time.sleep(3)  # workers notice that their driver is gone
    kept = records(tmp_path / "results")
    marker.touch()
    again = harness("run", "--executor", "ray", "--methods", methods, "--ipc", "1", "--seeds", "1", "--no-reference")
    assert again.returncode == 0, again.stdout + again.stderr
    made = records(tmp_path / "results")
    assert all(made[k] == r for k, r in kept.items() if r["status"] == "done")
    (tmp_path / "results").rename(tmp_path / "disturbed")
    marker.parent.mkdir()
    marker.touch()
    calm = harness("run", "--executor", "ray", "--methods", methods, "--ipc", "1", "--seeds", "1", "--no-reference")
    assert calm.returncode == 0
    assert measured(tmp_path / "results") == measured(tmp_path / "disturbed")


def test_a_time_limit_counts_from_the_last_progress_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that goes on for three times its limit, and one that stops going on."""
    from harness.executors import inline

    def run(job: Any, on_progress: Any) -> Any:
        for _ in range(job.steps):
            time.sleep(0.2)
            on_progress()
        time.sleep(job.rest)
        return "a record"

    monkeypatch.setattr(inline, "run_job", run)
    going: Any = SimpleNamespace(timeout=0.5, steps=8, rest=0)
    assert inline._with_time_limit(going) == "a record"
    stalling: Any = SimpleNamespace(timeout=0.5, steps=2, rest=30)
    with pytest.raises(TaskTimeout, match=r"made no progress for 0.5 s"):
        inline._with_time_limit(stalling)


def test_a_time_limit_counts_from_the_last_progress_on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the driver reads of two tasks, one of which gets no further; a task that waits for resources has no time yet."""
    from harness.executors import ray

    now, beats, killed = [1.0], {"a": {"done": 0, "total": 9}, "b": {"done": 0, "total": 9}}, []
    monkeypatch.setattr("harness.executors.ray.time", SimpleNamespace(monotonic=lambda: now[0]))
    executor: Any = object.__new__(ray.RayExecutor)
    executor._busy, executor._ray = {}, SimpleNamespace(kill=killed.append)
    executor._store = SimpleNamespace(read_json=lambda name: beats.get(name[8:-5]), remove=lambda name: None, pace=0.5)
    executor._expired = 0.0
    for name in ("a", "b", "c"):
        job: Any = SimpleNamespace(key=name, timeout=10, kind="evaluate")
        slot: Any = SimpleNamespace(actor=name)
        executor._busy[name] = ray._Running(job, slot)
    outcomes = []
    for step in range(4):
        now[0], beats["a"] = 1 + 6.0 * step, {"done": step, "total": 9}
        outcomes += executor._expire()
    assert killed == ["b"] and set(executor._busy) == {"a", "c"}
    assert [(o.key, o.status, o.reason) for o in outcomes] == [("b", "timeout", "made no progress for 10 s, its limit")]


@pytest.mark.slow
def test_a_task_of_its_own_process_that_gets_further_outlives_its_limit(harness: Harness, tmp_path: Path) -> None:
    """A minute of steps under a limit of eight seconds."""
    done = harness(
        "run", "--executor", "ray", "--methods", "misbehave[how=sleep]", "--ipc", "1", "--seeds", "1", "--no-reference", "--timeout", "8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
