"""How a command is stopped: Ctrl-C, SIGTERM and a closed terminal (SIGHUP) are one thing, told from what a plugin may raise itself."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

EXIT_CODE = 130
_NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stop(KeyboardInterrupt):
    """The user, or the system, wants this command to end."""


asked = False
"""Whether a signal came: a plugin that catches everything may have swallowed the exception."""


def raise_stop(_number: int, _frame: FrameType | None) -> None:
    """The handler of these signals."""
    global asked
    asked = True
    raise Stop


def check() -> None:
    """Raise Stop where a signal came."""
    if asked:
        raise Stop


@contextmanager
def stoppable(handler: signal.Handlers | object = raise_stop) -> Iterator[None]:
    """These signals raise Stop inside, or what else the handler does; one that was ignored (nohup) stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global asked
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    if raise_stop not in before.values():  # the outermost block: within it a signal that something swallowed is not forgotten
        asked = False
    taken = [number for number in _NUMBERS if before[number] is not signal.SIG_IGN or handler is signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number] or signal.SIG_DFL)


def deaf() -> AbstractContextManager[None]:
    """A block in which these signals do nothing: a second Ctrl-C must not cut the closing short."""
    return stoppable(signal.SIG_IGN)


def stopped_early() -> int:
    """Say it where no run was under way that would; returns the exit code."""
    print("stopped: the same command goes on from here", file=sys.stderr)  # noqa: T201
    return EXIT_CODE
