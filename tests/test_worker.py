"""What a worker writes, whatever a plugin raises and whoever else works beside it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import Session
from harness.record import Record
from harness.store import Store
from harness.worker import Heartbeat, _done_since, classify
from tests.conftest import TINY
from tests.faults.plugins import ERRORS


@pytest.mark.parametrize("what", sorted(ERRORS))
def test_every_error_has_a_status_and_one_printable_line(what: str) -> None:
    status, reason = classify(ERRORS[what]())
    assert status in ("failed", "oom") and reason and reason.isprintable(), reason
    reason.encode()


def test_a_failure_does_not_replace_what_another_run_has_finished(tmp_path: Path) -> None:
    from tests.test_store import PROVENANCE, K, record

    store = Store(tmp_path)
    store.write_record(record())
    found: Record | None = _done_since(store, K, PROVENANCE.started_at)
    assert found is not None and found.key == K
    assert _done_since(store, K, "2026-01-02T00:00:00+00:00") is None, "it was there before: this run does it anew"
    store.write_record(record(status="failed"))
    assert _done_since(store, K, PROVENANCE.started_at) is None


def test_a_heartbeat_says_how_long_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the speed of this attempt: what an earlier one had done counts for nothing. A call that says nothing new is no progress."""
    now, written, moved = [0.0], [], []
    monkeypatch.setattr("harness.worker.time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: 0.0))
    store: Any = SimpleNamespace(pace=0.5, write_json=lambda name, value: written.append((value["done"], value["left"])))
    job: Any = SimpleNamespace(key="k", name="n")
    beat = Heartbeat(store, job, lambda: moved.append(now[0]))
    for now[0], done in ((10.0, 6), (14.0, 8), (15.0, 8), (20.0, 9)):
        beat(done, 10)
    assert written == [(6, None), (8, 4.0), (9, pytest.approx(10 / 3))]
    assert moved == [10.0, 14.0, 20.0]


def test_a_task_names_the_plugins_that_are_not_built_in(bench: Path, tmp_path: Path) -> None:
    session = Session.open(bench, plugins=[str(TINY)], results=str(tmp_path / "results"))
    foreign = {task.name: task.foreign for task in session.plan().tasks.values()}
    assert foreign["prepare tiny"] == ("dataset tiny",)
    assert foreign["random ipc 1 seed 0"] == ("dataset tiny",)
    assert foreign["first ipc 1 seed 0"] == ("dataset tiny", "method first")
    assert foreign["tiny-net on first ipc 1 hard seed 0"] == ("dataset tiny", "evaluator tiny-net", "method first")
    assert foreign["tiny-net on full seed 0"] == ("dataset tiny", "evaluator tiny-net")
