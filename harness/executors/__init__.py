"""Where tasks run. Every executor has the interface below; the runner knows nothing else of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from harness.job import Job
from harness.record import Record, Status


@dataclass(frozen=True)
class Outcome:
    """How a task ended. record: what the worker stored, or None when the worker itself was lost; then status and reason say why.

    retry: why it is run again elsewhere, for no fault of its own: "lost" with its node, or "moved" from one that lacks its data.
    """

    key: str
    record: Record | None
    status: Status = "done"
    reason: str | None = None
    retry: Literal["lost", "moved"] | None = None


@dataclass(frozen=True)
class Fit:
    """When a task could start. later: when others have ended; asked: when a node joins that was asked for; never: there is no node for it.

    why: a sentence, for the last two.
    """

    when: Literal["now", "later", "asked", "never"]
    why: str = ""


class Executor(Protocol):
    """Submit tasks, iterate outcomes."""

    def describe(self) -> str:
        """Where tasks run, for people: one short line."""
        ...

    def fit(self, job: Job) -> Fit:
        """When the task could start."""
        ...

    def expect(self, jobs: Sequence[Job]) -> None:
        """Tasks that could start if there were room, the first of them first: a cluster that can grow is asked for it."""
        ...

    def submit(self, job: Job) -> None:
        """Start a task that fits now."""
        ...

    def wait(self, seconds: float) -> list[Outcome]:
        """Tasks that ended, waiting for the first of them up to so many seconds."""
        ...

    def notes(self) -> list[str]:
        """What a person should know of the place where tasks run, since the last call: one line each."""
        ...

    def close(self) -> list[str]:
        """Stop everything at once; returns the keys of the tasks that were under way."""
        ...
