"""What a person sees while a run goes on: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from harness.plan import Task
from harness.runner import RunState

_PLAIN_TICK_SECONDS = 60.0


class Display:
    """An observer of a run. Everything goes to ``console``; nothing is kept."""

    def __init__(self, console: Console, where: str) -> None:
        self.console, self.where = console, where
        self.live: Live | None = None

    def start(self, sweep: Mapping[str, Any], state: RunState) -> None:
        self.state, self.begun, self.last_plain = state, time.monotonic(), time.monotonic()
        self.total, self.done, self.failed, self.skipped = len(state.to_do), 0, 0, 0
        self.seconds: list[float] = []
        self.running: Sequence[Mapping[str, Any]] = ()
        cells, cached = len(state.plan.cells), len(state.cached)
        self.console.print(f"{cells} cells, {cached} of them cached; {self.total} tasks to run on {self.where}", highlight=False)
        for line in state.damaged:
            self.console.print(f"warning: {line}; it runs again", style="yellow", highlight=False)
        if self.console.is_terminal and self.total:
            self.live = Live(get_renderable=self._panel, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def submitted(self, task: Task) -> None:
        """Nothing: a task shows when its worker reports."""

    def finished(self, task: Task, record: Mapping[str, Any]) -> None:
        status = record["status"]
        self.done += status == "done"
        self.skipped += status == "skipped"
        self.failed += status not in ("done", "skipped")
        seconds = record["provenance"].get("seconds")
        if seconds is not None:
            self.seconds.append(seconds)
        if self.live is None or status != "done":
            count = f"[{self.done + self.failed + self.skipped}/{self.total}]"
            tail = f" {_headline(record)}" if status == "done" else f": {record['reason']}"
            timing = f" ({seconds:.1f} s)" if seconds is not None else ""
            style = None if status == "done" else "yellow" if status == "skipped" else "red"
            self.console.print(Text(f"{count} {status} {task.kind} {task.name}{timing}{tail}", style=style or ""))

    def tick(self, running: Sequence[Mapping[str, Any]]) -> None:
        self.running = running
        if self.live is None and time.monotonic() - self.last_plain > _PLAIN_TICK_SECONDS:
            self.last_plain = time.monotonic()
            for beat in running:
                share = f" {100 * beat['done'] // beat['total']} %" if beat["total"] else ""
                self.console.print(f"... {beat['name']}{share} on {beat['host']}, {time.time() - beat['started']:.0f} s", highlight=False)

    def end(self, status: str) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
        elapsed = _clock(time.monotonic() - self.begun)
        self.console.print(f"{status}: {self.done} done, {self.failed} failed, {self.skipped} skipped in {elapsed}", highlight=False)

    def _panel(self) -> RenderableType:
        elapsed = time.monotonic() - self.begun
        ended = self.done + self.failed + self.skipped
        left = f", about {_clock(elapsed / ended * (self.total - ended))} left" if ended else ""
        bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=40), TextColumn("{task.completed}/{task.total}"))
        bar.add_task("tasks", total=self.total, completed=ended)
        lines: list[RenderableType] = [bar]
        cached = len(self.state.cached)
        lines.append(
            Text(f"{self.done} done, {self.failed} failed, {self.skipped} skipped, {cached} cells cached; {_clock(elapsed)} elapsed{left}")
        )
        for beat in self.running:
            share = f"{100 * beat['done'] // beat['total']:3d} %" if beat["total"] else "  ..."
            where = f"on {beat['host']} pid {beat['pid']}, {time.time() - beat['started']:.0f} s"
            lines.append(Text(f"  {share}  {beat['name']}  {where}", style="dim"))
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
                left = _clock((total - done) / rate) if rate else "?"
                console.print(f"{what}: {done} of {total} clips, {rate:.1f} clips/s, {left} left", highlight=False)

        yield update


def _headline(record: Mapping[str, Any]) -> str:
    accuracy = record["metrics"].get("accuracy")
    return "" if accuracy is None else f"accuracy {100 * accuracy:.1f} %"


def _clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> _clock(75)
    '1:15'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
