"""A session at the terminal: its plan or its run, with progress, and what it ends with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.errors import UsageError
from harness.runner import Observer
from harness.session import Session
from harness.words import p_value, points

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

        observers: list[Observer] = [Display(console, session.config.run.workers)]
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


def show_comparison(
    folders: Sequence[str], methods: str | None, since: str | None, by_code: bool, form: str, out: Path | None, limit: float | None
) -> int:
    """Compare what the command line names, show it or write it, and return the exit code: 1 for a regression beyond ``limit`` points."""
    from harness import compare
    from harness.names import parse_list
    from harness.store import Store

    stores = [Store(folder) for folder in folders]
    match len(stores), methods, since, by_code:
        case 2, None, None, False:
            found = compare.compare_folders(*stores)
        case 1, str(), None, False:
            pair = parse_list(methods, "methods")
            if len(pair) != 2:
                raise UsageError(f"--methods takes two methods, got {len(pair)}")
            found = compare.compare_methods(stores[0], *pair)
        case 1, None, str(), False:
            found = compare.compare_times(stores[0], since)
        case 1, None, None, True:
            found = compare.compare_codes(stores[0])
        case _:
            raise UsageError("name two results folders, or one with --methods X,Y, --since DATE or --by-code")
    console = Console(markup=False)
    text = {"md": compare.as_markdown, "csv": compare.as_csv}.get(form, lambda f: compare.as_text(f, max(console.width, 120)))(found)
    if out is None:
        console.out(text, end="", highlight=False)
    else:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {out}: {error.strerror or error}") from error
    worse = found.regressions(limit) if limit is not None else []
    for d in worse:
        console.print(f"regression: {d.where}: {points(d.mean)} points, {p_value(d.adjusted or 0.0)}", highlight=False, soft_wrap=True)
    return 1 if worse else 0
