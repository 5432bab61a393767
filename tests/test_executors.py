"""The Ray executor against the inline one, and what must not happen: a lost worker or a late task costs only itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    methods = f"misbehave[how=die],misbehave[how=sleep],misbehave[how=child,marker={child}],first"
    done = harness("run", "--executor", "ray", "--methods", methods, "--ipc", "1", "--seeds", "1", "--no-reference", "--timeout", "8")
    assert done.returncode == 1, done.stdout + done.stderr
    made = {r["spec"]["method"]["label"]: r for r in records(tmp_path / "results").values() if r["kind"] == "distill"}
    assert made["misbehave[how=die]"]["status"] == "failed" and "worker process died" in made["misbehave[how=die]"]["reason"]
    assert made["misbehave[how=sleep]"]["status"] == "timeout" and "8 s" in made["misbehave[how=sleep]"]["reason"]
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
