"""One task, run where an executor puts it: reload plugins, measure, run, write artifacts and the record.

The worker writes its own record, so that a finished task survives the driver. Nothing here knows Ray or MLflow.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import math
import os
import platform
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from harness.errors import DamagedError, HarnessError, StoreError, TaskError
from harness.guard import GUARD
from harness.job import Job
from harness.measure import Phases, release_memory
from harness.record import Provenance, Record, Status
from harness.registry import Registry
from harness.stopping import Stop
from harness.store import Store
from harness.text import one_line, redacted

if TYPE_CHECKING:
    from harness.tasks.common import Draft, Work

_LONGEST_REASON, _LONGEST_LOG = 2000, 2 << 20
"""Characters of a reason; bytes at the beginning, and at the end, of a log."""
_LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "diffusers", "transformers", "timm", "pytorchvideo", "av")
"""What decides numbers beside our own code: their versions stand in every record."""


class TaskTimeout(TaskError):
    """A task made no progress for as long as its time limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"made no progress for {seconds:g} s, its limit")


def run_job(job: Job, on_progress: Callable[[], None] | None = None) -> Record:
    """Run one task and store its record; returns the record. Only a stop of the whole command passes through, whatever a plugin raises.

    on_progress: called whenever the task says that it got further. Raises StoreError where the record cannot be written.
    """
    store, phases = Store(job.results), Phases()
    beat, log = Heartbeat(store, job, on_progress), _Log(store, job.key)
    work: Work | None = None
    status: Status = "interrupted"
    reason: str | None = None
    started, begun = now(), time.perf_counter()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic matrix products; read when a GPU is first used
    try:
        with log.capture():
            try:
                beat(0, 0)
                with GUARD.around():
                    work = _prepare(job, store, phases, beat)
                    importlib.import_module(f"harness.tasks.{job.kind}").run(work)
                status = "done"
            except Stop:
                raise
            except BaseException as error:
                status, reason = classify(error)
                if isinstance(error, DamagedError):
                    store.set_aside(error.name)
                    reason = f"{reason}; it was set aside: run the same command again"
                with contextlib.suppress(Exception):
                    traceback.print_exc()
            _tell_what_was_changed()
    finally:
        # Checkpoints of what takes long are kept until it is done.
        if work is not None and (status == "done" or job.kind in ("evaluate", "quality")):
            work.clear_scratch()
        name = log.save()
        store.remove(f"running/{job.key}.json")
        release_memory()
    if status != "done" and (other := _done_since(store, job.key, started)) is not None:
        return other
    provenance = _provenance(job, started, time.perf_counter() - begun)
    draft = None if work is None else work.draft
    try:
        record = _record(job, status, reason, provenance, draft, phases, name)
        store.write_record(record)
    except (ValueError, TypeError) as error:  # a metric that is no JSON number: NaN, infinity
        reason = f"the task recorded a value that is not finite: {_message(error)}"
        record = _record(job, "failed", reason, provenance, None, phases, name)
        store.write_record(record)
    return record


def _done_since(store: Store, key: str, started: str) -> Record | None:
    """What another run on the same results folder has finished while this task ran: a failure does not replace it."""
    try:
        stored = store.read_record(key)
    except StoreError:
        return None
    return stored if stored is not None and stored.status == "done" and stored.provenance.ended_at >= started else None


def unfinished(job: Job, status: Status, reason: str | None) -> Record:
    """The record of a task that its worker could not write: it was stopped, killed, or never started."""
    moment = now()
    provenance = Provenance(sweep=job.sweep, host=socket.gethostname(), started_at=moment, ended_at=moment, **job.origin)  # type: ignore[arg-type]
    return _record(job, status, reason, provenance, None, Phases(), None)


def classify(error: BaseException) -> tuple[Status, str]:
    """Status and reason of an exception: out of memory is a status of its own."""
    kind, text = type(error).__name__, _message(error)
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "oom", f"out of memory: {text[:300] or kind}"
    if isinstance(error, TaskTimeout):
        return "timeout", text
    return "failed", text if isinstance(error, HarnessError) else f"{kind}: {text}"


def _message(error: BaseException) -> str:
    """The text of an exception in one line, without secrets; one whose text cannot be had says so."""
    try:
        text = str(error)
    except BaseException as second:
        return f"(its text cannot be printed: {type(second).__name__})"
    return redacted(one_line(" ".join(text.split())))[:_LONGEST_REASON]


def _tell_what_was_changed() -> None:
    if GUARD.found:
        print(f"This task left its process changed; it was set back: {', '.join(GUARD.found)}")  # noqa: T201 (into its log)


def now() -> str:
    """UTC time, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Heartbeat:
    """Where a task runs and how far it is, for the driver's display and its timeouts; also the plugins' progress callback."""

    def __init__(self, store: Store, job: Job, on_progress: Callable[[], None] | None = None) -> None:
        self._store, self._key, self._on_progress = store, job.key, on_progress
        self._state = {"key": job.key, "name": job.name, "host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        self._written = -math.inf
        self._told = (-1, -1)
        self._begun = (0, 0.0)
        """How much was done, and when, as the present count began: an interrupted attempt may have done some of it."""

    def __call__(self, done: int, total: int) -> None:
        moment = time.monotonic()
        if (done, total) == self._told:
            return
        if total != self._told[1] or done < self._told[0]:
            self._begun = (done, moment)
        self._told = (done, total)
        if self._on_progress is not None:
            self._on_progress()
        if moment - self._written >= self._store.pace:
            self._written = moment
            first, begun = self._begun
            left = (total - done) * (moment - begun) / (done - first) if done > first else None
            with contextlib.suppress(StoreError):  # it only shows where the task is
                state = {**self._state, "done": int(done), "total": int(total), "left": left}
                self._store.write_json(f"running/{self._key}.json", state)


def _prepare(job: Job, store: Store, phases: Phases, beat: Heartbeat) -> Work:
    import torch

    from harness.tasks.common import Work

    torch.set_num_threads(job.cpus)
    wants_gpu = job.device == "cuda" or (job.device == "auto" and job.gpus > 0 and torch.cuda.is_available())
    if wants_gpu and not torch.cuda.is_available():
        raise TaskError("device cuda was asked for, but torch sees no GPU here")
    _make_deterministic(job.deterministic)
    return Work(job, store, Registry(job.plugins), torch.device("cuda" if wants_gpu else "cpu"), phases, beat)


def _record(
    job: Job, status: Status, reason: str | None, provenance: Provenance, draft: Draft | None, phases: Phases, log: str | None
) -> Record:
    found: dict[str, Any] = {}
    if draft is not None:
        found = {
            "metrics": draft.metrics,
            "declared": tuple(draft.declared.values()),
            "curves": draft.curves,
            "arrays": draft.arrays,
            "artifacts": draft.artifacts,
            "cost": draft.cost,
        }
    return Record(
        key=job.key,
        identity=job.identity,
        kind=job.kind,
        name=job.name,
        status=status,
        reason=reason,
        spec=job.spec,
        inputs=dict(job.inputs),
        phases=phases.results,
        log=log,
        provenance=provenance,
        **found,
    )


def _provenance(job: Job, started: str, seconds: float) -> Provenance:
    torch = sys.modules.get("torch")
    uses_gpu = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return Provenance(
        sweep=job.sweep,
        host=socket.gethostname(),
        started_at=started,
        ended_at=now(),
        seconds=seconds,
        device=torch.cuda.get_device_name() if torch is not None and uses_gpu else cpu_name(),
        threads=job.cpus,
        python=platform.python_version(),
        libraries=_library_versions(),
        **job.origin,  # type: ignore[arg-type]
    )


@functools.lru_cache(maxsize=1)
def _library_versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class _Log:
    """What a task prints, kept as logs/<key>.log; nothing is stored where it printed nothing. A log is never why a task fails."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._name = store, f"logs/{key}.log"
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by save)

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        # A descriptor of its own, because a plugin may close what it prints to.
        stream = open(os.dup(self._file.fileno()), "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        try:
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                yield
        finally:
            with contextlib.suppress(OSError, ValueError):
                stream.close()

    def save(self) -> str | None:
        """Store the log and return its name, or None. Of a very long one the beginning and the end are kept."""
        with self._file as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            data = file.read(_LONGEST_LOG)
            if size > _LONGEST_LOG:
                rest = min(size - _LONGEST_LOG, _LONGEST_LOG)
                file.seek(-rest, os.SEEK_END)
                data += f"\n... {size - _LONGEST_LOG - rest:,} bytes are left out ...\n".encode() + file.read(rest)
        if not data:
            return None
        try:
            self._store.write_bytes(self._name, redacted(data.decode("utf-8", errors="replace")).encode())
        except StoreError:
            return None
        return self._name


def _make_deterministic(deterministic: bool) -> None:
    import torch

    # What use_deterministic_algorithms(..., warn_only=True) does, without the import of torch's compiler (2.6 s), which is not used here.
    torch.set_deterministic_debug_mode("warn" if deterministic else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that writes every new tensor twice
    torch.backends.cudnn.benchmark = not deterministic


@functools.lru_cache(maxsize=1)
def cpu_name() -> str:
    """What this machine's processor calls itself."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return f"cpu ({line.partition(':')[2].strip()})"
    return f"cpu ({platform.processor() or platform.machine()})"
