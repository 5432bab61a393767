"""What a person sees while a run goes on: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from harness.estimate import clock, side_by_side
from harness.metrics import named
from harness.plan import Task
from harness.record import Record, Sweep
from harness.runner import RunState
from harness.text import one_line

_PLAIN_TICK_SECONDS = 60.0


class Display:
    """An observer of a run. Everything goes to ``console``; nothing is kept."""

    def __init__(self, console: Console, workers: int) -> None:
        self.console, self.workers = console, workers
        self.live: Live | None = None

    def start(self, sweep: Sweep, state: RunState) -> None:
        self.state, self.begun, self.last_plain = state, time.monotonic(), time.monotonic()
        self.total, self.done, self.failed, self.skipped = len(state.to_do), 0, 0, 0
        self.left = dict(state.to_do)
        tasks = list(state.to_do.values())
        self.at_a_time = side_by_side(tasks, self.workers, os.cpu_count() or 1)
        self.estimator = state.estimator
        self.running: Sequence[Mapping[str, Any]] = ()
        cells, cached = len(state.plan.cells), len(state.cached)
        estimate = self.estimator.total(tasks, self.at_a_time)
        self._say(f"{cells} cells, {cached} of them cached; {self.total} tasks to run on {state.where}; time: {estimate}")
        for line in state.damaged:
            self._say(f"warning: {line}; it runs again", "yellow")
        if state.other_code:
            kept = any(task.kept for task in state.plan.tasks.values())
            what = "they are kept, and the report marks them" if kept else "they run again; --stale keep would keep them"
            self._say(f"{len(state.other_code)} results were made by other code than the present: {what}", "yellow")
        if self.console.is_terminal and self.total:
            self.live = Live(get_renderable=self._panel, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def submitted(self, task: Task) -> None:
        """Nothing: a task shows when its worker reports."""

    def finished(self, task: Task, record: Record) -> None:
        self.done += record.status == "done"
        self.skipped += record.status == "skipped"
        self.failed += record.status not in ("done", "skipped")
        self.left.pop(task.key, None)
        self.estimator.learn(record)
        if self.live is None or record.status != "done":
            count = f"[{self.done + self.failed + self.skipped}/{self.total}]"
            tail = f" {_headline(record)}" if record.status == "done" else f": {record.reason}"
            seconds = record.provenance.seconds
            timing = f" ({seconds:.1f} s)" if seconds is not None else ""
            style = None if record.status == "done" else "yellow" if record.status == "skipped" else "red"
            self.console.print(Text(one_line(f"{count} {record.status} {task.kind} {task.name}{timing}{tail}"), style=style or ""))

    def tick(self, running: Sequence[Mapping[str, Any]]) -> None:
        self.running = running
        if self.live is None and time.monotonic() - self.last_plain > _PLAIN_TICK_SECONDS:
            self.last_plain = time.monotonic()
            for beat in running:
                share = f" {100 * beat['done'] // beat['total']} %" if beat["total"] else ""
                self._say(f"... {beat['name']}{share} on {beat['host']}, {_times(beat)}")
            if running:
                self._say(f"... {len(self.left)} tasks left, time: {self.estimator.total(self.left.values(), self.at_a_time)}")

    def note(self, text: str) -> None:
        self._say(text, "yellow")

    def end(self, status: str) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
        elapsed = clock(time.monotonic() - self.begun)
        self._say(f"{status}: {self.done} done, {self.failed} failed, {self.skipped} skipped in {elapsed}")

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(one_line(text), style=style, highlight=False)

    def _panel(self) -> RenderableType:
        ended = self.done + self.failed + self.skipped
        bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=40), TextColumn("{task.completed}/{task.total}"))
        bar.add_task("tasks", total=self.total, completed=ended)
        elapsed, left = clock(time.monotonic() - self.begun), self.estimator.total(self.left.values(), self.at_a_time)
        told = f"{self.done} done, {self.failed} failed, {self.skipped} skipped, {len(self.state.cached)} cells cached"
        lines: list[RenderableType] = [bar, Text(f"{told}; {elapsed} elapsed; left: {left}")]
        for beat in self.running:
            share = f"{100 * beat['done'] // beat['total']:3d} %" if beat["total"] else "  ..."
            where = f"on {beat['host']} pid {beat['pid']}, {_times(beat)}"
            lines.append(Text(one_line(f"  {share}  {beat['name']}  {where}"), style="dim"))
        return Group(*lines)


@contextmanager
def clip_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with clips per second and remaining time on a terminal, a line every ten seconds elsewhere: call it with (done, total)."""
    console, begun = Console(stderr=True, markup=False), time.monotonic()
    first: list[int] = []  # clips that were there already say nothing about the speed
    last = begun
    counts = TextColumn("{task.completed:.0f}/{task.total:.0f} clips, {task.fields[rate]}")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), counts)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None, rate="")

        def update(done: int, total: int) -> None:
            nonlocal last
            first[:] = first or [done]
            now = time.monotonic()
            rate = (done - first[0]) / max(now - begun, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{rate:.1f} clips/s")
            if not console.is_terminal and (now - last > 10 or done == total):
                last = now
                left = clock((total - done) / rate) if rate else "?"
                console.print(f"{what}: {done} of {total} clips, {rate:.1f} clips/s, {left} left", highlight=False)

        yield update


def _times(beat: Mapping[str, Any]) -> str:
    """How long a task has run, and how long it will, from the speed at which it got further."""
    left = "" if beat.get("left") is None else f", about {clock(beat['left'])} left"
    return f"{time.time() - beat['started']:.0f} s{left}"


def _headline(record: Record) -> str:
    accuracy = record.metrics.get("accuracy")
    return "" if accuracy is None else f"accuracy {named('accuracy').format(accuracy)} %"
