"""A session at the terminal: its plan or its run, with progress, and what it ends with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.runner import Observer
from harness.session import Session

EXIT_CODES = {"done": 0, "failed": 1, "interrupted": 130}


def run_session(session: Session, arguments: Sequence[str], dry_run: bool) -> int:
    """Run a session, or say what it would do; returns the exit code."""
    console = Console(markup=False)  # names have brackets
    if not console.is_terminal:
        console = Console(width=250, markup=False)  # a log file wraps nothing
    from harness.summary import print_plan, print_summary

    state = session.survey()
    if dry_run:
        print_plan(console, state, session.estimate(state))
        return 0
    session.store.check_writable()
    ending = "done" if state.all_done() else "failed"
    if not state.to_do:
        console.print(f"{len(state.plan.cells)} cells, all of them cached", highlight=False)
    else:
        from harness.progress import Display

        observers: list[Observer] = [Display(console, session)]
        if session.config.run.track:
            from harness.tracking import Mirror

            # The mirror's database is set up before workers start; it takes seconds, so it goes on beside Ray's start.
            report = lambda text: console.print(f"tracking: {text}", style="yellow", highlight=False)  # noqa: E731
            observers.append(Mirror(session.store, report=report))
        ending = session.run(observers, state=state, arguments=arguments)
    print_summary(console, session.store, state)
    return EXIT_CODES[ending]


def check_plugins(files: Sequence[str], small: Sequence[str], data_root: Path | None) -> int:
    """Hold every plugin of these files to the contract on a tiny dataset, and say what was found; returns the exit code."""
    from harness.conformance import check_files

    console = Console(markup=False)
    failed = 0
    for result in check_files(files, small, data_root):
        style = {"ok": "green", "failed": "red", "skipped": "yellow"}[result.status]
        detail = f": {result.detail}" if result.detail else ""
        text = f"{result.status:<8}{result.kind} {result.plugin}: {result.check}{detail}"
        console.print(text, style=style, highlight=False, soft_wrap=True)
        failed += result.status == "failed"
    return 1 if failed else 0
