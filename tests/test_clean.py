"""A task in a clean process: its time limit counts from what it last said, and what does not go on is killed."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from harness.executors import Outcome, clean
from tests.test_store import record

LIMIT = 4.0


def goes_on(job: Any, sender: Any) -> None:
    """Half as long again as the limit, with progress."""
    os.setsid()
    for _ in range(6):
        time.sleep(LIMIT / 4)
        sender.send(clean._FURTHER)
    sender.send(record())


def stops(job: Any, sender: Any) -> None:
    os.setsid()
    sender.send(clean._FURTHER)
    time.sleep(600)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "status"), [(goes_on, "done"), (stops, "timeout")])
def test_a_time_limit_counts_from_the_last_progress(task: Any, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "_run", task)
    monkeypatch.setattr(clean, "PRELOADED", ())
    job: Any = SimpleNamespace(key="k", timeout=LIMIT)
    outcome: Outcome = clean.run_in_clean_process(job)
    assert outcome.status == status
    assert (outcome.reason == "made no progress for 4 s, its limit") is (status == "timeout")
