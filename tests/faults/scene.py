"""A small sweep, what it gives when nothing disturbs it, and what must hold after whatever was done to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from harness import Session
from harness.errors import HarnessError
from harness.report.load import load
from harness.status import check_store, describe_store
from harness.store import Store

PROJECT = Path(__file__).resolve().parents[2]
PLUGINS = (PROJECT / "tests" / "plugins" / "tiny.py", Path(__file__).with_name("plugins.py"))
BENCH = """
[run]
dataset = "tiny"
methods = ["random"]
ipc = [1]
evaluators = ["tiny-net"]
seeds = 2
teacher = "tiny-net"
executor = "inline"
quality = false
track = false
device = "cpu"

[datasets.tiny]
protocol = "tiny"

[protocols.tiny]
epochs = 3
lr = 0.1
test_batch = 8
"""
PATIENCE = 120
"""Seconds after which something hangs."""


class Scene:
    """The folder of one fault. ``good``: the numbers of the undisturbed sweep, by key."""

    def __init__(self, folder: Path, template: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.results, self.template = folder, folder / "results", template
        self.bench = folder / "bench.toml"
        self.bench.write_text(BENCH, encoding="utf-8")
        if template is not None:
            shutil.copytree(template, self.results)

    def run(self, methods: str = "random", **options: object) -> str:
        """The sweep in this process; returns how it ended."""
        with limit():
            return self.session(methods, **options).run()

    def session(self, methods: str = "random", **options: object) -> Session:
        plugins = [str(path) for path in PLUGINS]
        return Session.open(self.bench, methods=methods, results=str(self.results), plugins=plugins, **options)

    def command(self, *arguments: str, verb: str = "run") -> list[str]:
        line = [sys.executable, "-m", "harness", verb, "--results", str(self.results), "--config", str(self.bench)]
        if verb == "run":
            line += [part for path in PLUGINS for part in ("--plugin", str(path))]
        return [*line, *arguments]

    def call(self, *arguments: str, verb: str = "run") -> subprocess.CompletedProcess[str]:
        """The command in a process of its own."""
        line = self.command(*arguments, verb=verb)
        return subprocess.run(line, cwd=PROJECT, env=environment(), capture_output=True, text=True, timeout=2 * PATIENCE)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        line = self.command(*arguments)
        return subprocess.Popen(
            line, cwd=PROJECT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def record(self, kind: str) -> Path:
        """The file of the first record of this kind."""
        store = Store(self.results)
        records, _ = store.read_records()
        key = min(key for key, record in records.items() if record.kind == kind)
        return self.results / "records" / f"{key}.json"

    def look(self) -> None:
        """All that only reads: it must end, in time, with what there is or with one sentence."""
        with limit():
            describe_store(str(self.results))
            check_store(str(self.results))
            try:
                load(str(self.results))
            except HarnessError as error:
                assert "\n" not in str(error), error

    def check_sound(self) -> None:
        problems, summary = check_store(str(self.results))
        assert not problems, f"check: {problems[0]} ({summary})"
        left = [path for path in self.results.rglob("*") if path.name.endswith(".tmp") or path.parent.name == "running"]
        assert not left, f"left behind: {left[0]}"


def numbers(results: Path, methods: Sequence[str] = ("random", "full")) -> dict[str, tuple]:
    """What has to be the same after a fault: every number of the cells of these methods, and of what they rest on."""
    found: dict[str, tuple] = {}
    for path in (results / "records").glob("*.json"):
        record = json.loads(path.read_text())
        name = record["spec"].get("method", {}).get("name")
        if name is None or name in methods:
            found[record["key"]] = (record["status"], record["metrics"], record["curves"], record["arrays"])
    return found


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}


@contextmanager
def limit(seconds: int = PATIENCE) -> Iterator[None]:
    """What hangs is an error."""

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"hangs: {seconds} s")

    before = signal.signal(signal.SIGUSR1, expire)
    timer = subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -USR1 {os.getpid()}"], start_new_session=True)  # SIGALRM is the tasks'
    try:
        yield
    finally:
        os.killpg(timer.pid, signal.SIGKILL)
        timer.wait()
        signal.signal(signal.SIGUSR1, before)
