"""A results folder from somebody else may be looked at without harm, and secrets of one's own stay out of what is stored and shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import StoreError, UsageError
from harness.mlflow_place import first_touch
from harness.record import Artifact
from harness.report import build_report
from harness.report.build import make_report, write_report
from harness.status import check_store
from harness.store import Store
from tests.conftest import PROJECT, Harness
from tests.report.records import Builder

NASTY = "=1+1\x1b]0;owned\x07<script>alert(1)</script>![x](http://h)"


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder whose texts are what its maker liked."""
    build = Builder(tmp_path / "theirs")
    upstream = build.distill("random", 1, 0)
    picture = next(name for name, entry in build.records[upstream].artifacts.items() if build.store.exists(f"artifacts/{upstream}/{name}"))
    build.change(upstream, artifacts={picture: build.records[upstream].artifacts[picture]})
    build.evaluate("random", 1, 0, upstream, accuracy=0.5)
    build.fail("dm", 1, 0, status="failed", reason=NASTY)
    build.plan((), command=NASTY)
    return tmp_path / "theirs"


def test_a_report_follows_no_link_out_of_its_folder(stranger: Path, tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "index.html").write_text("precious")
    out = stranger / "report"
    out.mkdir()
    (out / "index.html").symlink_to(outside / "index.html")
    report = make_report(stranger)
    write_report(report, out, ("html",))
    assert (outside / "index.html").read_text() == "precious" and not (out / "index.html").is_symlink()
    (out / "tables").symlink_to(outside)
    with pytest.raises(UsageError, match="a link that leads out"):
        write_report(report, out, ("html", "csv"))
    assert [p.name for p in outside.iterdir()] == ["index.html"]
    out.rename(stranger / "old")
    out.symlink_to(outside)
    with pytest.raises(UsageError, match="a link that leads out of the results folder"):
        build_report(stranger, out, formats=("md",))
    assert [p.name for p in outside.iterdir()] == ["index.html"]


def test_what_a_stranger_wrote_is_text(stranger: Path, tmp_path: Path) -> None:
    build_report(stranger, tmp_path / "out", formats=("md", "tex", "csv", "html"))
    for path in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        text = path.read_text()
        assert "\x1b" not in text and "\x07" not in text, path.name
        assert "<script>alert" not in text.replace("\\<script>", "") or path.suffix in (".tex", ".csv"), path.name
        assert "![x](" not in text or path.suffix in (".html", ".csv", ".tex"), path.name
        if path.suffix == ".csv":
            assert not any(line.startswith("=") or ",=" in line for line in text.splitlines()), path.name


def test_a_terminal_is_told_no_escape_sequences(stranger: Path) -> None:
    for verb in ("status", "check"):
        line = [sys.executable, "-m", "harness", verb, "--results", str(stranger)]
        done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=120)
        assert "\x1b" not in done.stdout + done.stderr and "\x07" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "\\x1b]0;owned" in done.stdout or verb == "check"


@pytest.mark.parametrize("name", ["../../../secret", "a/../../../../secret"])
def test_names_of_artifacts_stay_in_the_folder(stranger: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    store = Store(stranger)
    record = next(r for r in store.read_records()[0].values() if r.kind == "distill")
    theirs = record.model_copy(update={"artifacts": {name: Artifact(sha256="0" * 64, bytes=6)}})
    store.write_record(theirs)
    assert any("names a file that is not its own" in line for line in store.read_records()[1])
    with pytest.raises(StoreError, match="not a name of a file"):
        store.read_artifact(theirs, name)
    with pytest.raises(StoreError, match="not a name of a file"):
        store.write_artifact(record.key, name, b"x")
    problems, _ = check_store(str(stranger))
    assert any("names a file that is not its own" in line for line in problems)


def test_nothing_is_read_or_written_through_links_that_lead_out(stranger: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store = Store(stranger)
    record = next(r for r in store.read_records()[0].values() if r.kind == "distill" and r.status == "done")
    folder = stranger / "artifacts" / record.key
    folder.rename(outside / "set")
    folder.symlink_to(outside / "set")
    with pytest.raises(StoreError, match="a link that leads out"):
        store.read_artifact(record, next(iter(record.artifacts)))
    with pytest.raises(StoreError, match="a link that leads out"):
        store.write_artifact(record.key, "preview.png", b"x")
    (stranger / "moved").mkdir()
    folder.unlink()
    (outside / "set").rename(stranger / "moved" / "set")
    folder.symlink_to(stranger / "moved" / "set")
    assert store.read_artifact(record, next(iter(record.artifacts)))  # inside, a link is as good as a folder


def test_a_file_larger_than_memory_is_not_read(stranger: Path) -> None:
    store = Store(stranger)
    record = next(r for r in store.read_records()[0].values() if r.kind == "distill" and r.status == "done")
    name = next(iter(record.artifacts))
    with open(stranger / "artifacts" / record.key / name, "r+b") as file:
        file.truncate(1 << 42)
    theirs = record.model_copy(update={"artifacts": {name: Artifact(sha256="0" * 64, bytes=1 << 42)}})
    with pytest.raises(StoreError, match="more than this machine's memory"):
        store.read_artifact(theirs, name)


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_the_lock_of_the_mirror_is_a_file_of_this_folder(tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    lock = tmp_path / ".mlflow.lock"
    lock.symlink_to(precious) if kind == "link" else os.mkfifo(lock)
    with pytest.raises(StoreError, match="remove it"), first_touch(f"sqlite:///{tmp_path}/mlflow.db"):
        pass
    assert precious.read_text() == "precious"


def test_secrets_stay_out_of_what_is_stored_and_shown(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2hunter2@127.0.0.1:9/")
    monkeypatch.setenv("SOME_API_TOKEN", "tok-1234567890")
    done = harness("run", "--track", "--methods", "random", "--ipc", "1", "--seeds", "1", "--set", "words.gvd.a=tok-1234567890")
    assert done.returncode == 0, done.stdout + done.stderr
    stored = b"".join(p.read_bytes() for p in (tmp_path / "results").rglob("*") if p.is_file())
    for secret in ("hunter2hunter2", "tok-1234567890"):
        assert secret not in done.stdout + done.stderr and secret.encode() not in stored
    shown = harness("track")
    assert shown.returncode == 1 and "hunter2" not in shown.stdout + shown.stderr and "127.0.0.1:9" in shown.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_a_command_that_is_stopped_as_it_starts_says_so(bench: Path, tmp_path: Path, number: signal.Signals, seconds: float) -> None:
    line = [sys.executable, "-m", "harness", "run", "--config", str(bench), "--results", str(tmp_path / "results")]
    line += ["--plugin", str(PROJECT / "tests" / "plugins" / "tiny.py")]
    process = subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not any(
        text.startswith("SigCgt") and int(text.split()[1], 16) >> (signal.SIGTERM - 1) & 1
        for text in Path(f"/proc/{process.pid}/status").read_text().splitlines()
    ):
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopped: the same command goes on from here" in output and "Traceback" not in output and "Aborted" not in output
