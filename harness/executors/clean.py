"""A clean process for every task whose memory is a result, forked from a server that has imported the large libraries and no more.

Each worker keeps such a server (multiprocessing's forkserver), so that a task pays a fork and not the import of torch, and its memory
starts from the same baseline whatever ran before it. The process leads a session of its own: what a plugin has started in it ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.connection import Connection

from harness.errors import HarnessError
from harness.executors import Outcome
from harness.job import Job
from harness.record import Record
from harness.worker import TaskTimeout, run_job

PRELOADED = ("torch", "sklearn.cluster", "harness.worker", "harness.tasks.asset", "harness.tasks.distill")
"""What the server imports: all that most methods need, and nothing that touches a GPU."""
_SET_PARENT_DEATH_SIGNAL = 1
_FURTHER, _QUIET_SECONDS = "further", 0.5
"""What a task sends when it got further, and the time between two of these."""


def run_in_clean_process(job: Job) -> Outcome:
    """Run a task in a process of its own, which ends with this one. Once it is done, or got no further for as long as its time limit, all
    that it started is killed.

    Raises what the task's worker raises: StoreError where no record could be written.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(job, sender), name=f"task {job.key[:12]}")
    with _main_left_out():
        process.start()
    sender.close()
    assert process.pid is not None
    answer: Record | HarnessError | str | None = _FURTHER
    try:
        while answer == _FURTHER:
            ready = connection.wait([receiver, process.sentinel], timeout=job.timeout)
            answer = _answer(receiver)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        receiver.close()
    if isinstance(answer, HarnessError):
        raise answer
    if isinstance(answer, Record):
        return Outcome(job.key, answer, answer.status, answer.reason)
    if not ready:
        return Outcome(job.key, None, "timeout", str(TaskTimeout(job.timeout)))
    return Outcome(job.key, None, "failed", f"the worker process died ({_how(process.exitcode)})")


def _answer(receiver: Connection) -> Record | HarnessError | str | None:
    """What the process has sent, ``_FURTHER`` or how it ended; None where it sent nothing."""
    try:
        return receiver.recv() if receiver.poll() else None
    except EOFError:
        return None


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"{signal.Signals(-code).name}: killed, or a crash in native code"
    return f"exit status {code}"


def _run(job: Job, sender: Connection) -> None:
    """In the new process."""
    os.setsid()
    _end_with_parent()
    told = time.monotonic()

    def on_progress() -> None:
        nonlocal told
        if (now := time.monotonic()) - told > _QUIET_SECONDS:
            told = now
            sender.send(_FURTHER)

    try:
        sender.send(run_job(job, on_progress))
    except HarnessError as error:
        sender.send(error)


def _end_with_parent() -> None:
    """A task whose worker was killed ends: at once on Linux, elsewhere as soon as a thread of Python may run."""
    if sys.platform == "linux":
        # The server is this process's parent, and ends with its own: with the worker.
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    parent = multiprocessing.parent_process()

    def wait_for_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


@contextlib.contextmanager
def _main_left_out() -> Iterator[None]:
    """Without this, multiprocessing runs the main script of this process (Ray's worker, pytest) again in the new one."""
    main = sys.modules["__main__"]
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    main.__file__, main.__spec__ = None, None
    try:
        yield
    finally:
        main.__file__, main.__spec__ = file, spec
