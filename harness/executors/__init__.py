"""Where tasks run. Every executor has the interface below; the runner knows nothing else of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.job import Job
from harness.record import Record, Status


@dataclass(frozen=True)
class Outcome:
    """How a task ended. record: what the worker stored, or None when the worker itself was lost; then status and reason say why."""

    key: str
    record: Record | None
    status: Status = "done"
    reason: str | None = None


class Executor(Protocol):
    """Submit tasks, iterate outcomes."""

    def describe(self) -> str:
        """Where tasks run, for people: one short line."""
        ...

    def can_take(self, job: Job) -> bool:
        """Whether the task would start now rather than wait for resources."""
        ...

    def submit(self, job: Job) -> None: ...

    def wait(self, seconds: float) -> list[Outcome]:
        """Tasks that ended, waiting for the first of them up to so many seconds."""
        ...

    def close(self) -> list[str]:
        """Stop everything at once; returns the keys of the tasks that were under way."""
        ...
