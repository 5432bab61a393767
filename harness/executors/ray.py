"""Tasks as Ray actors, on one node or a cluster named by RAY_ADDRESS.

Ray core and not Ray Tune: a sweep is an enumerated graph with our own cache, not a search. An actor is a place where tasks run one after
the other: distillations and assets, whose memory is a result, each in a clean process that it forks (``executors/clean.py``), all others in
the actor's own, because importing torch takes longer than many evaluations. There, tasks of plugins that are not built in share a process
only with tasks of the same ones, and a process that a plugin has changed is thrown away. Nothing is retried behind our back; a task that
is over its time or whose process dies costs that task alone.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, StoreError
from harness.executors import Outcome
from harness.job import Job
from harness.store import Store
from harness.worker import TaskTimeout

_OWN_PROCESS = ("asset", "distill")
_GRACE_SECONDS = 10.0
_TOKEN = Path.home() / ".ray" / "auth_token"


@dataclass
class _Slot:
    """One actor and what it holds."""

    actor: Any
    shape: tuple[int, float]
    foreign: tuple[str, ...] | None = None
    """Of the tasks that ran in the actor's own process; None: none did."""


@dataclass
class _Running:
    job: Job
    slot: _Slot
    at: tuple[int, int] | None = None
    seen: float = 0.0
    """How far its heartbeat said that it was, and since when: its time limit counts from then, not from the wait for resources."""


class RayExecutor:
    """The executor interface on Ray. workers: tasks at a time, 0 for as many as the resources allow."""

    def __init__(self, store: Store, workers: int = 0) -> None:
        ray, self._own = _connect(workers)
        self._ray, self._store, self._workers = ray, store, workers
        self._parts = _parts_of_this_node(ray) if self._own else {}
        self._lost = ""
        total = ray.cluster_resources()
        self._total = (int(total.get("CPU", 1)), float(total.get("GPU", 0)))
        self._idle: list[_Slot] = []
        self._busy: dict[Any, _Running] = {}

    def describe(self) -> str:
        cpus, gpus = self._total
        nodes = len(self._ray.nodes())
        return f"ray ({nodes} node{'s' if nodes > 1 else ''}, {cpus} CPUs, {gpus:g} GPUs)"

    def can_take(self, job: Job) -> bool:
        if self._workers and len(self._busy) >= self._workers:
            return False
        return self._fits(self._shape(job), [r.slot for r in self._busy.values()])

    def submit(self, job: Job) -> None:
        slot = self._slot(job)
        cpus, gpus = slot.shape
        reference = slot.actor.run.remote(replace(job, cpus=cpus, gpus=gpus))
        self._busy[reference] = _Running(job, slot)

    def wait(self, seconds: float) -> list[Outcome]:
        self._check_parts()
        if not self._busy:
            return []
        finished, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=seconds)
        outcomes = [self._collect(reference) for reference in finished]
        return outcomes + self._expire()

    def close(self) -> list[str]:
        keys = [r.job.key for r in self._busy.values()]
        if self._lost:
            _give_up(self._ray)
            return keys
        for slot in [*(r.slot for r in self._busy.values()), *self._idle]:
            self._ray.kill(slot.actor)
        self._busy.clear()
        self._idle.clear()
        if self._own:
            self._ray.shutdown()
        return keys

    def _check_parts(self) -> None:
        """Raise HarnessError where a part of the Ray that was started here has died: its calls would wait for it for minutes."""
        for name, process in self._parts.items():
            if process.poll() is not None:
                self._lost = name
                raise HarnessError(
                    f"Ray's process {name} has ended (exit status {process.returncode}): what is done is kept, run the same command again"
                )

    def _shape(self, job: Job) -> tuple[int, float]:
        """CPUs and GPUs that a task gets: no more than there are."""
        return min(job.cpus, self._total[0]), min(job.gpus, self._total[1])

    def _fits(self, shape: tuple[int, float], holders: list[_Slot]) -> bool:
        """Whether a task of this shape fits beside the actors that hold resources; fractions of GPUs are summed with a tolerance."""
        cpus, gpus = (held + sum(s.shape[i] for s in holders) for i, held in enumerate(shape))
        return cpus <= self._total[0] and gpus <= self._total[1] + 1e-9

    def _slot(self, job: Job) -> _Slot:
        """An actor for this task; idle ones that hold what it needs, or that may not serve it, are given up."""
        shape, apart = self._shape(job), job.kind in _OWN_PROCESS
        for slot in self._idle:
            if slot.shape == shape and (apart or slot.foreign in (None, job.foreign)):
                self._idle.remove(slot)
                slot.foreign = slot.foreign if apart else job.foreign
                return slot
        busy = [r.slot for r in self._busy.values()]
        while self._idle and not self._fits(shape, [*self._idle, *busy]):
            self._ray.kill(self._idle.pop(0).actor)
        options = {"num_cpus": shape[0], "num_gpus": shape[1], "max_restarts": 0, "max_task_retries": 0}
        return _Slot(self._ray.remote(_Actor).options(**options).remote(), shape, None if apart else job.foreign)

    def _collect(self, reference: Any) -> Outcome:
        running = self._busy.pop(reference)
        job = running.job
        try:
            outcome, is_clean = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(running.slot.actor)
            if (stored := self._stored(job)) is not None:
                return stored
            if isinstance(error, self._ray.exceptions.OutOfMemoryError):
                return Outcome(job.key, None, "oom", "killed by Ray's memory monitor: the node was out of memory")
            if isinstance(error, self._ray.exceptions.RayActorError):
                return Outcome(job.key, None, "failed", "the worker process died (killed, or a crash in native code)")
            return Outcome(job.key, None, "failed", f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
        if is_clean:
            self._idle.append(running.slot)
        else:
            self._ray.kill(running.slot.actor)
        return outcome if outcome.record is not None else self._stored(job) or outcome

    def _stored(self, job: Job) -> Outcome | None:
        """What a worker that was lost had stored before."""
        try:
            stored = self._store.read_record(job.key)
        except StoreError:
            return None
        if stored is None or stored.provenance.sweep != job.sweep:
            return None
        return Outcome(job.key, stored, stored.status, stored.reason)

    def _expire(self) -> list[Outcome]:
        """Kill what made no progress for too long."""
        outcomes = []
        for reference, running in list(self._busy.items()):
            beat = self._store.read_json(f"running/{running.job.key}.json")
            if beat is not None and running.at != (at := (beat["done"], beat["total"])):
                running.at, running.seen = at, time.monotonic()
            grace = _GRACE_SECONDS if running.job.kind in _OWN_PROCESS else 0.0  # such a task ends itself, where it can
            if running.at is not None and time.monotonic() - running.seen > running.job.timeout + grace:
                self._ray.kill(running.slot.actor)
                del self._busy[reference]
                self._store.remove(f"running/{running.job.key}.json")
                outcomes.append(Outcome(running.job.key, None, "timeout", str(TaskTimeout(running.job.timeout))))
        return outcomes


@contextlib.contextmanager
def ray_running(workers: int = 0) -> Iterator[None]:
    """Ray as executors have it, for several of them and for Ray Tune; what was started here ends here."""
    ray, own = _connect(workers)
    try:
        yield
    finally:
        if own:
            ray.shutdown()


def _connect(workers: int) -> tuple[Any, bool]:
    """The module ray, connected, and whether it is this call that did so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if os.environ.get("RAY_ADDRESS") and (os.environ.get("RAY_AUTH_TOKEN") or _TOKEN.exists()):
        # `ray start` of 2.60 protects a cluster by a token, but a driver sends the one it has only in this mode.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    own = not ray.is_initialized()
    if own:
        _start(ray, max(os.cpu_count() or 1, workers))
    return ray, own


def _start(ray: Any, cpus: int) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            # Tensors go through files, so the object store is kept small (Ray's default is 30 % of the memory).
            ray.init(num_cpus=cpus, object_store_memory=128 << 20, include_dashboard=False, **quiet)
    except Exception as error:
        where = os.environ.get("RAY_ADDRESS", "this machine")
        reason = " ".join(str(error).split())[:300]
        raise HarnessError(f"Ray does not start on {where}: {reason}; --executor inline needs no Ray") from error


def _parts_of_this_node(ray: Any) -> dict[str, Any]:
    """Name -> Popen of the processes without which nothing goes on; Ray has no public way to them."""
    node = ray._private.worker._global_node
    found = {} if node is None else node.all_processes
    return {name: infos[0].process for name, infos in found.items() if name in ("raylet", "gcs_server") and infos}


def _give_up(ray: Any) -> None:
    """End what is left of a Ray that lost a part, without asking it: its own shutdown waits for the part that is gone."""
    node = ray._private.worker._global_node
    if node is not None:
        with contextlib.suppress(Exception):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
    atexit.unregister(ray.shutdown)
    atexit.register(_end_without_ray)


def _end_without_ray() -> None:
    """End this process at once: Ray's native part crashes as Python ends, where its node is gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(1)


class _Actor:
    """What runs in the worker process."""

    def run(self, job: Job) -> tuple[Outcome, bool]:
        """How the task ended, and whether this process is as it was before: one that a plugin has changed is thrown away."""
        if job.kind in _OWN_PROCESS:
            from harness.executors.clean import run_in_clean_process

            return run_in_clean_process(job), True
        from harness.guard import GUARD
        from harness.worker import run_job

        record = run_job(job)
        return Outcome(job.key, record, record.status, record.reason), not GUARD.touched
