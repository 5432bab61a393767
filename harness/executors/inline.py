"""Tasks one after the other in this process: for debugging, and for machines without Ray."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType

from harness.errors import HarnessError
from harness.executors import Fit, Outcome
from harness.guard import GUARD
from harness.job import Job
from harness.record import Record
from harness.worker import TaskTimeout, run_job


class InlineExecutor:
    """The executor interface without any other process. Memory baselines are those of the whole program."""

    def __init__(self) -> None:
        self._queue: list[Job] = []
        self._running: Job | None = None

    def describe(self) -> str:
        return "inline (this process)"

    def fit(self, job: Job) -> Fit:
        return Fit("later" if self._queue else "now")

    def expect(self, jobs: Sequence[Job]) -> None:
        """Nothing: there is no more room."""

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def wait(self, seconds: float) -> list[Outcome]:
        if not self._queue:
            return []
        if GUARD.stuck:
            changed = ", ".join(GUARD.stuck)
            raise HarnessError(f"a plugin changed this process for good ({changed}): run the same command again, what is done is kept")
        self._running = job = self._queue.pop(0)
        try:
            record = _with_time_limit(job)
        except TaskTimeout as error:  # as the task was being closed
            self._running = None
            return [Outcome(job.key, None, "timeout", str(error))]
        self._running = None
        return [Outcome(job.key, record, record.status, record.reason)]

    def notes(self) -> list[str]:
        return []

    def close(self) -> list[str]:
        keys = [self._running.key] if self._running else []
        self._queue.clear()
        self._running = None
        return keys


def _with_time_limit(job: Job) -> Record:
    """Run a task; an exception is raised inside of it, at its next Python instruction, where it makes no progress for too long."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        return run_job(job)

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise TaskTimeout(job.timeout)

    def restart() -> None:
        signal.setitimer(signal.ITIMER_REAL, job.timeout)

    before = signal.signal(signal.SIGALRM, expire)
    restart()
    try:
        return run_job(job, restart)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
