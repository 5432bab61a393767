"""The table of faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.damage import FILES, RECORDS, Damage
from tests.faults.plugins import ERRORS, POLLUTIONS
from tests.faults.scene import PATIENCE, Scene, numbers

Numbers = dict[str, tuple]


@dataclass(frozen=True)
class Case:
    """One fault. inject: does it and checks what must hold; returns why it cannot be injected here, or None. finished: begin with a
    finished sweep."""

    name: str
    inject: Callable[[Scene, Numbers], str | None]
    finished: bool = False


def _pollution(what: str, late: bool) -> Case:
    def inject(scene: Scene, good: Numbers) -> None:
        # polluter comes before random, in distillations and in evaluations
        scene.run(f"polluter[what={what},late={late}],random")
        assert numbers(scene.results) == good
        scene.check_sound()

    return Case(f"pollution: {what}{', in an evaluation' if late else ''}", inject)


def _error(what: str) -> Case:
    def inject(scene: Scene, good: Numbers) -> None:
        assert scene.run(f"random,thrower[what={what}]") == "failed"
        assert numbers(scene.results) == good
        for path in (scene.results / "records").glob("*.json"):
            record = json.loads(path.read_text())
            if record["kind"] == "distill" and record["spec"]["method"]["name"] == "thrower":
                assert record["status"] in ("failed", "oom") and record["reason"], record
        scene.look()
        scene.check_sound()

    return Case(f"error: {what}", inject)


def _damage(kind: str, name: str, damage: Damage) -> Case:
    def inject(scene: Scene, good: Numbers) -> None:
        path = scene.record(kind)
        other = next(p for p in sorted(path.parent.glob("*.json")) if p != path)
        damage(path, other)
        scene.look()
        assert scene.run() == "done"
        assert numbers(scene.results) == good
        scene.check_sound()

    return Case(f"{kind} record: {name}", inject, finished=True)


def _damaged_artifact(kind: str, name: str, damage: Damage) -> Case:
    def inject(scene: Scene, good: Numbers) -> None:
        record = scene.record(kind)
        folder = scene.results / "artifacts" / record.stem
        path = folder / ("distilled.safetensors" if kind == "distill" else "asset.safetensors")
        # The other file of its sort: one that no cell of this sweep reads.
        other = scene.folder / "other"
        other.mkdir()
        (other / "other.safetensors").write_bytes(bytes(range(200)))
        damage(path, other / "other.safetensors")
        scene.look()
        # Cells that need it again: their records are gone.
        for file in (scene.results / "records").glob("*.json"):
            if json.loads(file.read_text())["kind"] == "evaluate":
                file.unlink()
        if scene.run() != "done":  # what is damaged inside shows when it is read: that costs its cells, and is then made again
            assert scene.run() == "done"
        assert numbers(scene.results) == good
        scene.check_sound()

    return Case(f"{kind} artifact: {name}", inject, finished=True)


def _signal(number: signal.Signals, seconds: float, executor: str) -> Case:
    def inject(scene: Scene, good: Numbers) -> None:
        process = scene.start("--executor", executor)
        while process.poll() is None and not _handles(process.pid, signal.SIGTERM):
            time.sleep(0.01)  # before it is Python that runs
        time.sleep(seconds)
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=PATIENCE)
        expected = (-9,) if number is signal.SIGKILL else (0, 130)
        assert process.returncode in expected and "Traceback" not in output, (process.returncode, output[-2000:])
        scene.look()
        again = scene.call("--executor", executor)
        assert again.returncode == 0, again.stdout + again.stderr
        assert numbers(scene.results) == good
        if number is not signal.SIGKILL:
            scene.check_sound()

    return Case(f"signal: {number.name} to the driver after {seconds:g} s, {executor}", inject)


def _breaker(what: str, executor: str) -> Case:
    def inject(scene: Scene, good: Numbers) -> None:
        marker = scene.folder / "marker"
        arguments = ("--executor", executor, "--methods", f"breaker[what={what},marker={marker}],random", "--timeout", "10")
        first = scene.call(*arguments)
        assert first.returncode != 0 or what in ("fork", "flood"), first.stdout
        assert "Traceback" not in first.stdout + first.stderr, first.stdout + first.stderr
        marker.touch()
        again = scene.call(*arguments)
        assert again.returncode == 0, again.stdout + again.stderr
        assert numbers(scene.results) == good
        scene.check_sound()

    return Case(f"process: {what}, {executor}", inject)


def _ray_part(part: str) -> Case:
    def inject(scene: Scene, good: Numbers) -> str | None:
        marker = scene.folder / "marker"
        arguments = ("--executor", "ray", "--methods", f"breaker[what=hang,marker={marker}],random")
        process = scene.start(*arguments)
        deadline = time.monotonic() + PATIENCE
        while not any("breaker" in path.read_text() for path in (scene.results / "running").glob("*.json")):
            assert time.monotonic() < deadline and process.poll() is None, "it does not start"
            time.sleep(0.2)
        victims = [pid for pid in _descendants(process.pid) if part in _name(pid)]
        assert victims, f"no {part} below the driver"
        os.kill(victims[0], signal.SIGKILL)
        begun = time.monotonic()
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1 and "Traceback" not in output, (process.returncode, output[-3000:])
        assert time.monotonic() - begun < 60, f"{time.monotonic() - begun:.0f} s"
        marker.touch()
        again = scene.call(*arguments)
        assert again.returncode == 0, again.stdout + again.stderr
        assert numbers(scene.results) == good
        scene.check_sound()
        return None

    return Case(f"ray: kill -9 of {part}", inject)


def _full_disk(scene: Scene, good: Numbers) -> str | None:
    scene.results.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(scene.results)], capture_output=True, text=True)
    if mounted.returncode != 0:
        return f"no tmpfs can be mounted: {mounted.stderr.strip()}"
    try:
        options = ("--set", f"run.cache={scene.folder / 'cache'}")
        first = scene.call(*options)
        output = first.stdout + first.stderr
        assert first.returncode == 1 and "Traceback" not in output and "No space left" in output, (first.returncode, output)
        scene.look()
        subprocess.run(["mount", "-o", "remount,size=16m", str(scene.results)], check=True)
        again = scene.call(*options)
        assert again.returncode == 0, again.stdout + again.stderr
        assert numbers(scene.results) == good
        scene.check_sound()
    finally:
        subprocess.run(["umount", "-l", str(scene.results)], check=True)
    return None


def _handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(line.startswith("SigCgt") and int(line.split()[1], 16) >> (number - 1) & 1 for line in lines)


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *_descendants(child)]
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""


CASES: tuple[Case, ...] = (
    *(_pollution(what, late) for what in POLLUTIONS for late in (False, True)),
    *(_error(what) for what in ERRORS),
    *(_damage(kind, n, d) for kind in ("data", "asset", "distill", "evaluate") for n, d in {**FILES, **RECORDS}.items()),
    *(_damaged_artifact(kind, name, damage) for kind in ("distill", "asset") for name, damage in FILES.items()),
    *(_signal(number, s, "inline") for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) for s in (0.0, 1.0, 2.0, 6.0)),
    *(_signal(signal.SIGKILL, s, "inline") for s in (3.0, 6.0, 9.0)),
    *(_signal(number, 12.0, "ray") for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)),
    *(_breaker(what, "inline") for what in ("exit", "segfault", "kill", "fork", "flood", "hang")),
    *(_breaker(what, "ray") for what in ("exit", "segfault", "kill", "fork", "flood", "hang")),
    *(_ray_part(part) for part in ("raylet", "gcs_server")),
    Case("disk: full under the results", _full_disk),
)
