"""Tasks as Ray actors, on one node or a cluster named by RAY_ADDRESS.

Ray core and not Ray Tune: a sweep is an enumerated graph with our own cache, not a search. An actor is a place where tasks run one after
the other: distillations and assets, whose memory is a result, each in a clean process that it forks (``executors/clean.py``), all others in
the actor's own, because importing torch takes longer than many evaluations. There, tasks of plugins that are not built in share a process
only with tasks of the same ones, and a process that a plugin has changed is thrown away. Nothing is retried behind our back; a task that
is over its time or whose process dies costs that task alone.

Every task is placed on a node by us, because it has to fit on one. When its actor dies, the node is asked for a sign of life: where there
is none the task was lost with its node, which is not its failure, and it runs elsewhere. Nodes may join and leave at any time; a cluster
that autoscales is asked for what is missing. Nodes need not share a disk: plugins travel with their content (harness.shipping), and
datasets are found by digest (harness.data.source).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, StoreError
from harness.executors import Fit, Outcome
from harness.executors.connection import connect, give_up, parts_of_this_node
from harness.executors.nodes import Node, Nodes, Shape
from harness.job import Job
from harness.shipping import Parcel, pack, unpack
from harness.store import Store
from harness.worker import TaskTimeout

_LOOK_SECONDS = 2.0
"""Between two looks at which nodes there are."""
_ASKED_AT_ONCE = 200
"""Tasks whose room an autoscaling cluster is asked for."""
_OWN_PROCESS = ("asset", "distill")
_GRACE_SECONDS = 10.0
_PROCESS_DIED = "the worker process died (killed, or a crash in native code)"


@dataclass
class _Slot:
    """One actor and what it holds."""

    actor: Any
    node: str
    shape: Shape
    foreign: tuple[str, ...] | None = None
    """Of the tasks that ran in the actor's own process; None: none did."""

    @property
    def held(self) -> tuple[str, Shape]:
        return self.node, self.shape


@dataclass
class _Running:
    job: Job
    slot: _Slot
    at: tuple[int, int] | None = None
    seen: float = 0.0
    """How far its heartbeat said that it was, and since when: its time limit counts from then, not from the wait for resources."""


class RayExecutor:
    """The executor interface on Ray. workers: tasks at a time, 0 for as many as the resources allow. autoscale: the cluster adds nodes
    when it is asked."""

    def __init__(self, store: Store, workers: int = 0, autoscale: bool = False) -> None:
        ray, self._own = connect(workers)
        self._ray, self._store, self._workers, self._autoscale = ray, store, workers, autoscale
        self._is_cluster = bool(os.environ.get("RAY_ADDRESS"))
        self._parts = parts_of_this_node(ray) if self._own else {}
        self._lost = ""
        self._nodes, self._looked, self._notes = Nodes(), 0.0, list[str]()
        self._idle: list[_Slot] = []
        self._busy: dict[Any, _Running] = {}
        self._suspects: dict[Any, _Running] = {}
        """What was sent to the node of a process that died -> its task."""
        self._without: dict[str, set[str]] = {}
        """Kind of task -> nodes that said they cannot do it."""
        self._why = ""
        self._asked: list[dict[str, float]] = []
        self._expired = 0.0
        self._parcels: dict[tuple[str, ...], Any] = {}
        self._look()
        self._notes.clear()
        # Machines without the videos get the decoded clips from the results.
        self._shares = self._is_cluster and not store.is_local and (autoscale or len(self._nodes.present) > 1)

    def describe(self) -> str:
        count = len(self._nodes.present)
        return f"ray ({count} node{'s' if count > 1 else ''}, {self._nodes.cpus} CPUs, {self._nodes.gpus} GPUs)"

    def fit(self, job: Job) -> Fit:
        self._look()
        shape = self._shape(job)
        refusal = self._nodes.refusal(shape)
        if refusal is None and not self._nodes.present.keys() - self._without.get(job.kind, set()):
            refusal = f"no node can do it: {self._why}"
        if refusal is not None:
            return Fit("asked", f"{refusal}; the cluster was asked for a node") if self._autoscale else Fit("never", refusal)
        if self._workers and len(self._busy) + len(self._suspects) >= self._workers:
            return Fit("later")
        held = [running.slot.held for running in self._busy.values()]
        return Fit("now" if self._nodes.place(shape, held, without=self._avoided(job)) is not None else "later")

    def expect(self, jobs: Sequence[Job]) -> None:
        if not self._autoscale:
            return
        running = [self._bundle(r.slot.shape) for r in self._busy.values()]
        room = max(0, (self._workers or _ASKED_AT_ONCE) - len(running))
        wanted = running + [self._bundle(self._shape(job)) for job in jobs[:room]]
        if wanted != self._asked:
            self._request(wanted)

    def submit(self, job: Job) -> None:
        slot = self._slot(job)
        job = replace(job, cpus=slot.shape.cpus, gpus=slot.shape.gpus)
        reference = slot.actor.run.remote(job, self._parcel(job), self._shares)
        self._busy[reference] = _Running(job, slot)

    def wait(self, seconds: float) -> list[Outcome]:
        self._check_parts()
        if not self._busy and not self._suspects:
            return []
        finished, _ = self._ray.wait([*self._busy, *self._suspects], num_returns=1, timeout=seconds)
        outcomes = [self._collect(r) if r in self._busy else self._judge(r) for r in finished]
        return [outcome for outcome in outcomes if outcome is not None] + self._expire()

    def notes(self) -> list[str]:
        found, self._notes = self._notes, []
        return found

    def close(self) -> list[str]:
        running = [*self._busy.values(), *self._suspects.values()]
        keys = [r.job.key for r in running]
        if self._lost:
            give_up(self._ray)
            return keys
        if self._asked:
            self._request([])
        for slot in [*(r.slot for r in running), *self._idle]:
            self._ray.kill(slot.actor)
        for held in (self._busy, self._suspects, self._idle):
            held.clear()
        if self._own:
            self._ray.shutdown()
        return keys

    def _look(self) -> None:
        """See which nodes there are; processes on one that left are gone."""
        if time.monotonic() - self._looked < _LOOK_SECONDS and self._looked:
            return
        self._looked = time.monotonic()
        try:
            found = [_node(node) for node in self._ray.nodes() if node["Alive"]]
        except Exception as error:  # whatever Ray's client raises where nothing answers
            self._lost = "head"
            raise HarnessError("the Ray cluster does not answer: what is done is kept, run the same command again") from error
        joined, left = self._nodes.update(found)
        self._notes += [f"node {node.host} joined: {node.cpus} CPUs, {node.gpus} GPUs" for node in joined]
        self._notes += [f"node {node.host} left" for node in left]
        self._idle = [slot for slot in self._idle if slot.node in self._nodes.present]

    def _check_parts(self) -> None:
        """Raise HarnessError where a part of the Ray that was started here has died: its calls would wait for it for minutes."""
        for name, process in self._parts.items():
            if process.poll() is not None:
                self._lost = name
                raise HarnessError(
                    f"Ray's process {name} has ended (exit status {process.returncode}): what is done is kept, run the same command again"
                )

    def _shape(self, job: Job) -> Shape:
        return self._nodes.shape(job.cpus, job.gpus, self._autoscale)

    @staticmethod
    def _bundle(shape: Shape) -> dict[str, float]:
        return {"CPU": shape.cpus, **({"GPU": shape.gpus} if shape.gpus else {})}

    def _request(self, wanted: list[dict[str, float]]) -> None:
        """Ask an autoscaling cluster to be able to hold all of this at once; it stands until the next request."""
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=wanted)
        self._asked = wanted

    def _slot(self, job: Job) -> _Slot:
        """An actor for this task; idle ones that hold what it needs are ended."""
        shape, apart, without = self._shape(job), job.kind in _OWN_PROCESS, self._avoided(job)
        for slot in self._idle:
            if slot.shape == shape and slot.node not in without and (apart or slot.foreign in (None, job.foreign)):
                self._idle.remove(slot)
                slot.foreign = slot.foreign if apart else job.foreign
                return slot
        busy = [running.slot.held for running in self._busy.values()]
        node = self._nodes.place(shape, busy, [slot.held for slot in self._idle], without)
        assert node is not None, "the runner asks before it submits"
        while not self._nodes.fits(node.id, shape, [*busy, *(slot.held for slot in self._idle)]):
            slot = next(slot for slot in self._idle if slot.node == node.id)
            self._idle.remove(slot)
            self._ray.kill(slot.actor)
        options = {"num_cpus": shape.cpus, "num_gpus": shape.gpus, "max_restarts": 0, "max_task_retries": 0}
        actor = self._ray.remote(_Actor).options(**options, scheduling_strategy=self._on(node.id)).remote()
        return _Slot(actor, node.id, shape, None if apart else job.foreign)

    def _avoided(self, job: Job) -> set[str]:
        """Nodes that a task does not go to: they said that they cannot do it, or have to show first that they live."""
        return self._without.get(job.kind, set()) | {running.slot.node for running in self._suspects.values()}

    @staticmethod
    def _on(node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def _parcel(self, job: Job) -> Any:
        """The plugin files, which go to each node once; None on a Ray of this machine's own, whose processes read them where they are."""
        if not self._is_cluster:
            return None
        if job.plugins not in self._parcels:
            self._parcels[job.plugins] = self._ray.put(pack(job.plugins))
        return self._parcels[job.plugins]

    def _collect(self, reference: Any) -> Outcome | None:
        """How a task ended; None where that is not known yet."""
        running = self._busy.pop(reference)
        job = running.job
        try:
            outcome, is_clean = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(running.slot.actor)
            return self._died(running, error)
        if is_clean:
            self._idle.append(running.slot)
        else:
            self._ray.kill(running.slot.actor)
        if outcome.retry == "moved":
            self._without.setdefault(job.kind, set()).add(running.slot.node)
            self._why = f"{self._host(running)} {outcome.reason}"
            return replace(outcome, reason=self._why)
        return outcome if outcome.record is not None else self._stored(job) or outcome

    def _died(self, running: _Running, error: Exception) -> Outcome | None:
        """What became of a task whose actor is gone: it had stored its record, it failed, or its node has to be asked first."""
        job = running.job
        if (stored := self._stored(job)) is not None:
            return stored
        self._store.remove(f"running/{job.key}.json")
        if isinstance(error, self._ray.exceptions.OutOfMemoryError):
            return Outcome(job.key, None, "oom", "killed by Ray's memory monitor: the node was out of memory")
        if isinstance(error, self._ray.exceptions.RayTaskError):
            return Outcome(job.key, None, "failed", f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
        if not self._is_cluster:
            return Outcome(job.key, None, "failed", _PROCESS_DIED)  # the node is this one, and it lives
        probe = self._ray.remote(_sign_of_life).options(num_cpus=0, max_retries=0, scheduling_strategy=self._on(running.slot.node))
        self._suspects[probe.remote()] = running
        return None

    def _judge(self, reference: Any) -> Outcome:
        """Whether a task died alone or with its node."""
        running = self._suspects.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError:
            host = self._host(running)
            self._looked = 0.0
            self._nodes.present.pop(running.slot.node, None)
            return Outcome(running.job.key, None, "failed", f"its node {host} was lost", retry="lost")
        return Outcome(running.job.key, None, "failed", _PROCESS_DIED)

    def _host(self, running: _Running) -> str:
        node = self._nodes.present.get(running.slot.node)
        return running.slot.node[:12] if node is None else node.host

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
        look = time.monotonic() - self._expired >= self._store.pace
        self._expired = time.monotonic() if look else self._expired
        for reference, running in list(self._busy.items()):
            beat = self._store.read_json(f"running/{running.job.key}.json") if look else None
            if beat is not None and running.at != (at := (beat["done"], beat["total"])):
                running.at, running.seen = at, time.monotonic()
            grace = _GRACE_SECONDS if running.job.kind in _OWN_PROCESS else 0.0  # such a task ends itself, where it can
            if running.at is not None and time.monotonic() - running.seen > running.job.timeout + grace:
                self._ray.kill(running.slot.actor)
                del self._busy[reference]
                self._store.remove(f"running/{running.job.key}.json")
                outcomes.append(Outcome(running.job.key, None, "timeout", str(TaskTimeout(running.job.timeout))))
        return outcomes


def _node(found: dict[str, Any]) -> Node:
    """A node as Ray describes it."""
    total = found["Resources"]
    return Node(found["NodeID"], found["NodeManagerHostname"], int(total.get("CPU", 0)), int(total.get("GPU", 0)))


def _sign_of_life() -> None:
    """Runs on a node that lives."""


class _Actor:
    """What runs in the worker process."""

    def run(self, job: Job, parcel: Parcel | None, shares: bool) -> tuple[Outcome, bool]:
        """How the task ended, and whether this process is as it was before: one that a plugin has changed is thrown away.

        parcel: the plugins, or None where this is the driver's machine for sure. shares: put decoded clips with the results.
        """
        if parcel is not None:
            from harness.data.source import node_cache, settle

            settled = settle(replace(job, plugins=unpack(parcel, node_cache(job) / "plugins")))
            if isinstance(settled, str):
                return Outcome(job.key, None, "failed", settled, retry="moved"), True
            job = settled
        if job.kind in _OWN_PROCESS:
            from harness.executors.clean import run_in_clean_process

            return run_in_clean_process(job), True
        from harness.guard import GUARD
        from harness.worker import run_job

        record = run_job(job)
        if shares and job.kind == "data" and record.status == "done":
            from harness.data.cache import ClipCache
            from harness.data.source import share

            share(ClipCache(job.info, Path(job.cache)), Store(job.results))
        return Outcome(job.key, record, record.status, record.reason), not GUARD.touched
