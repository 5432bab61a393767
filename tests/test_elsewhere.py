"""What a run does when tasks cannot run where they are sent: nodes are lost, lack the data, have to be asked for, or are not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import Session
from harness.executors import Fit, Outcome
from harness.job import Job
from harness.plan import Task
from harness.record import Record, Sweep
from harness.runner import RunState, execute
from harness.status import describe_store
from harness.worker import run_job
from tests.conftest import TINY


class Flaky:
    """An executor that runs tasks in this process, one after the other, after what it is told to do to them. lost, moved: kind -> how often
    a task of it is."""

    def __init__(self, fits: Mapping[str, list[Fit]] | None = None, lost: Mapping[str, int] | None = None, moved: int = 0) -> None:
        self.fits, self.lost, self.moved = {kind: list(fit) for kind, fit in (fits or {}).items()}, lost or {}, moved
        self.queue: list[Job] = []
        self.tries: Counter[str] = Counter()
        self.expected: list[list[str]] = []

    def describe(self) -> str:
        return "here"

    def fit(self, job: Job) -> Fit:
        found = self.fits.get(job.kind)
        if found:
            return found.pop(0) if len(found) > 1 or found[0].when == "asked" else found[0]
        return Fit("now")

    def expect(self, jobs: Sequence[Job]) -> None:
        self.expected.append([job.kind for job in jobs])

    def submit(self, job: Job) -> None:
        self.queue.append(job)

    def wait(self, seconds: float) -> list[Outcome]:
        return [self.run(self.queue.pop(0))] if self.queue else []

    def run(self, job: Job) -> Outcome:
        self.tries[job.kind] += 1
        if self.moved:
            self.moved -= 1
            return Outcome(job.key, None, "failed", "a has no videos", retry="moved")
        if self.tries[job.kind] <= self.lost.get(job.kind, 0):
            return Outcome(job.key, None, "failed", "its node a was lost", retry="lost")
        record = run_job(job)
        return Outcome(job.key, record, record.status, record.reason)

    def notes(self) -> list[str]:
        return []

    def close(self) -> list[str]:
        return []


class Listener:
    """Keeps what a person is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, sweep: Sweep, state: RunState) -> None: ...

    def submitted(self, task: Task) -> None: ...

    def finished(self, task: Task, record: Record) -> None: ...

    def tick(self, running: Sequence[Mapping[str, Any]]) -> None: ...

    def end(self, status: str) -> None: ...

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def session(bench: Path, tmp_path: Path) -> Session:
    options = {"methods": "first", "ipc": [1], "seeds": 1, "reference": False, "plugins": [str(TINY)]}
    return Session.open(bench, results=str(tmp_path / "results"), **options)


def run(session: Session, executor: Flaky) -> tuple[str, dict[str, Record], list[str]]:
    listener = Listener()
    ending = execute(session.config, session.survey(), session.store, executor, [listener], ["run"])
    return ending, {r.kind: r for r in session.store.read_records()[0].values()}, listener.said


def test_a_task_that_is_lost_with_its_node_runs_again_and_says_how_often(session: Session) -> None:
    ending, made, said = run(session, Flaky(lost={"distill": 2}, moved=1))
    assert ending == "done"
    assert {kind: record.status for kind, record in made.items()} == dict.fromkeys(("data", "distill", "evaluate"), "done")
    assert {kind: record.provenance.lost for kind, record in made.items()} == {"data": 0, "distill": 2, "evaluate": 0}
    assert said[0].endswith("runs again: a has no videos")
    assert said[1:] == ["distill first ipc 1 seed 0 runs again: its node a was lost"] * 2
    assert "lost      1 tasks ran again because their node was lost, 2 times in all" in describe_store(session.store.root)
    assert session.store.names("leases") == []


def test_a_task_that_ends_every_node_fails_and_is_tried_again_by_the_same_command(session: Session) -> None:
    executor = Flaky(lost={"distill": 100})
    ending, made, _ = run(session, executor)
    assert ending == "failed" and executor.tries["distill"] == 4
    assert made["distill"].status == "failed" and made["distill"].reason == "its node a was lost, as 3 others before"
    assert made["evaluate"].status == "skipped"
    assert run(session, Flaky())[0] == "done"


def test_what_no_node_can_hold_is_declined_with_the_sentence(session: Session) -> None:
    why = "it needs 2 GPUs on one node, and no node has more than 1"
    ending, made, _ = run(session, Flaky({"distill": [Fit("never", why)]}))
    assert ending == "failed"
    assert made["distill"].status == "skipped" and made["distill"].reason == why
    assert made["evaluate"].status == "skipped" and made["evaluate"].reason == f"distill 'first ipc 1 seed 0' is skipped: {why}"
    assert run(session, Flaky())[0] == "done", "on a cluster that has one"


def test_a_node_that_was_asked_for_is_waited_for(session: Session) -> None:
    executor = Flaky({"distill": [Fit("asked", "no node holds it: the cluster was asked for one")] * 2 + [Fit("now")]})
    grows = session.config.model_copy(update={"run": session.config.run.model_copy(update={"autoscale": True})})
    ending, made, said = run(Session(grows), executor)
    assert ending == "done" and made["distill"].status == "done"
    assert said == ["distill first ipc 1 seed 0 waits: no node holds it: the cluster was asked for one"], "said once"
    assert ["distill"] in executor.expected, "the cluster is told what would run"
