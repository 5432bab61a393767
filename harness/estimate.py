"""How long tasks will take, from the records of like tasks. What has no like is unknown, and said to be."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.plan import Task
from harness.record import Record
from harness.spec import Spec, content_hash
from harness.words import plural


@dataclass(frozen=True)
class Estimate:
    """Seconds of wall time that tasks need, and how many of them nothing is known of."""

    seconds: float
    unknown: int

    def __str__(self) -> str:
        """For people.

        >>> str(Estimate(75.0, 0)), str(Estimate(75.0, 2)), str(Estimate(0.0, 3))
        ('about 1:15 min', 'about 1:15 min and 2 tasks of unknown length', 'unknown')
        """
        if not self.seconds:
            return "unknown" if self.unknown else "nothing"
        rest = f" and {plural(self.unknown, 'task')} of unknown length" if self.unknown else ""
        return f"about {clock(self.seconds)}{rest}"


class Estimator:
    """Learns from finished tasks; like tasks differ in their seed, and evaluations in their method too."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._seconds: dict[str, list[float]] = {}
        for record in records:
            self.learn(record)

    def learn(self, record: Record) -> None:
        """Take a finished task into account."""
        if record.status == "done" and record.provenance.seconds is not None:
            self._seconds.setdefault(_likeness(record.spec), []).append(record.provenance.seconds)

    def seconds(self, task: Task) -> float | None:
        """Median seconds of like tasks; None where there are none."""
        found = self._seconds.get(_likeness(task.spec))
        return statistics.median(found) if found else None

    def total(self, tasks: Iterable[Task], at_a_time: int) -> Estimate:
        """Of these tasks, so many side by side."""
        told = [self.seconds(task) for task in tasks if task.skip is None]
        known = [s for s in told if s is not None]
        longest = max(known, default=0.0)
        return Estimate(max(longest, sum(known) / max(1, at_a_time)), len(told) - len(known))


def side_by_side(tasks: Sequence[Task], workers: int, cpus: int) -> int:
    """How many of these tasks run at a time on one machine without GPUs, by the CPUs that they take."""
    widest = max((task.resources.cpus for task in tasks), default=1)
    fitting = max(1, cpus // max(1, min(widest, cpus)))
    return min(fitting, workers) if workers else fitting


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes.

    >>> clock(75), clock(7260)
    ('1:15 min', '2:01 h')
    """
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _likeness(spec: Spec) -> str:
    keyed = spec.keyed(code=False)
    dropped = ("seed",) if spec.kind == "distill" else ("seed", "method")
    return content_hash([spec.kind, {k: v for k, v in keyed.items() if k not in dropped}])
