"""Walks the graph: cache hits out first, then dispatch, statuses, cascades, and a clean end whatever happens."""

from __future__ import annotations

import heapq
import os
import shlex
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from harness.config import Config
from harness.errors import HarnessError, StoreError
from harness.estimate import Estimator
from harness.executors import Executor, Outcome
from harness.job import Job
from harness.lease import Lease
from harness.plan import Plan, Task, walk
from harness.provenance import collect_environment, collect_provenance
from harness.record import Record, Sweep
from harness.spec import KINDS
from harness.stopping import Stop, check, deaf, stoppable
from harness.store import Store
from harness.text import redacted, redacted_json
from harness.worker import now, unfinished

_POLL_SECONDS = 0.5
_LOST_AT_MOST = 3
"""Times that a task is lost with its node before it counts as failed: it may be what ends them."""
_EXPECTED = 200
"""Ready tasks that an executor is told of."""
_LEASED = ("asset", "distill")
"""Kinds of tasks that many cells wait for and that take long: of several drivers on one results folder one does them."""
Ending = Literal["done", "failed", "interrupted"]


class Observer(Protocol):
    """Follows a run: the display, and the MLflow mirror. None of its failures may touch the run, so it must not raise."""

    def start(self, sweep: Sweep, state: RunState) -> None: ...

    def submitted(self, task: Task) -> None: ...

    def finished(self, task: Task, record: Record) -> None: ...

    def tick(self, running: Sequence[Mapping[str, Any]]) -> None: ...

    def note(self, text: str) -> None:
        """Something that a person should know: a node was lost, another driver does a task."""
        ...

    def end(self, status: str) -> None: ...


@dataclass
class RunState:
    """What is known of every task of a run. records holds cache hits and what has ended since.

    other_code: names of the tasks whose results are there but were made by other code than the present one.
    """

    plan: Plan
    to_do: dict[str, Task]
    records: dict[str, Record]
    damaged: list[str]
    other_code: list[str] = field(default_factory=list)
    cached: set[str] = field(default_factory=set)
    where: str = ""
    """Where tasks run, for people."""
    estimator: Estimator = field(default_factory=Estimator)
    """How long tasks take, from what the results folder held."""
    ended: dict[str, str] = field(default_factory=dict)
    """Key -> status of the tasks that ended in this run."""

    def all_done(self) -> bool:
        """Whether every cell is done, but for those that a plugin declined."""
        cells = [self.plan.tasks[c.key] for c in self.plan.cells]
        return all(t.skip is not None or self.status(t.key) == "done" for t in cells)

    def status(self, key: str) -> str | None:
        """How a task ended, now or before; None where there is no record of it."""
        record = self.records.get(key)
        return None if record is None else record.status

    def counts(self) -> dict[str, dict[str, int]]:
        """kind -> {"total", "done", "to_do"} before anything runs: what --dry-run prints."""
        counts: dict[str, dict[str, int]] = {}
        for kind in KINDS:
            tasks = self.plan.of_kind(kind)
            to_do = sum(t.key in self.to_do for t in tasks)
            done = sum(self.status(t.key) == "done" for t in tasks)
            counts[kind] = {"total": len(tasks), "done": done, "to_do": to_do}
        return counts


def survey(plan: Plan, store: Store, rerun: str, stale: str = "rerun") -> RunState:
    """Compare the plan with the store: what is done, and which tasks the unfinished cells still need.

    rerun: "failed" runs all that is not done, "none" only what has no record at all, "all" everything. stale: what other code made is run
    again ("rerun") or stays ("keep"). A cell that is done asks for nothing upstream, so cache hits load no data; but the record of what it
    rests on has to be there, because numbers of its row stand in it: a lost or damaged one is made again, and so is a damaged artifact.
    """
    records, damaged = store.read_records(plan.tasks)
    other_code: list[str] = []
    everything = records
    if any(task.key not in records for task in plan.tasks.values()):
        everything, _ = store.read_records()
        made = _by_identity(everything)
        other_code = [t.name for t in plan.tasks.values() if t.key not in records and t.identity in made]
        if stale == "keep" and other_code:
            absent = {t.identity for t in plan.tasks.values() if t.key not in records}
            plan = plan.keeping({identity: made[identity].key for identity in absent if identity in made})
            records = {key: everything[key] for key in plan.tasks if key in everything}
    damaged = [line for line in damaged if any(key in line for key in plan.tasks)]

    def settled(task: Task) -> bool:
        if task.kept:
            return True
        if rerun == "all":
            return False
        record = records.get(task.key)
        if record is None or task.skip is not None:
            return record is not None and record.status == "skipped"
        if record.status != "done":
            return rerun == "none"
        # Predictions may be deleted to save space: no number rests on them.
        return store.has_artifacts(record, or_none=record.kind == "evaluate")

    wanted = [key for key in plan.leaves if not settled(plan.tasks[key])]
    wanted += [key for key in _upstream(plan, records) if key not in records or not store.has_artifacts(records[key], or_none=True)]
    needed: dict[str, Task] = {}
    stack = [plan.tasks[k] for k in wanted]
    while stack:
        task = stack.pop()
        if task.key in needed:
            continue
        needed[task.key] = task
        if task.skip is None:
            upstream = [plan.tasks[k] for k in task.inputs.values()]
            stack += [t for t in upstream if not settled(t)]
    to_do = {t.key: t for t in walk(plan.tasks, wanted) if t.key in needed}
    state = RunState(plan, to_do, records, damaged, other_code)
    state.cached = {c.key for c in plan.cells if c.key not in to_do}
    if to_do:
        state.estimator = Estimator(everything.values())
    return state


def _upstream(plan: Plan, records: Mapping[str, Record]) -> dict[str, None]:
    """Keys of all that the finished cells rest on, directly or through each other."""
    found: dict[str, None] = {}
    stack = [key for key in plan.leaves if key in records and records[key].status == "done"]
    while stack:
        upstream = [key for key in plan.tasks[stack.pop()].inputs.values() if key not in found]
        found.update(dict.fromkeys(upstream))
        stack += upstream
    return found


def _by_identity(records: Mapping[str, Record]) -> dict[str, Record]:
    """The newest finished record of each identity."""
    done = [r for r in records.values() if r.status == "done"]
    return {r.identity: r for r in sorted(done, key=lambda r: r.provenance.ended_at)}


def execute(
    config: Config, state: RunState, store: Store, executor: Executor, observers: Sequence[Observer], arguments: Sequence[str]
) -> Ending:
    """Run what is to do. Returns "done", "failed" (some cell is not done) or "interrupted"; the executor is closed in every case.

    arguments: those of the command line, kept so that the command can be pasted into a shell.
    """
    state.where = executor.describe()
    status: Ending = "interrupted"
    why = "stopped by the user"
    sweep: Sweep | None = None
    run: _Run | None = None
    try:
        with stoppable():
            sweep = _open_sweep(config, state, store, arguments)
            run = _Run(config, state, store, executor, observers, sweep)
            run.tell("start", sweep, state)
            run.loop()
            status = run.status()
    except Stop:
        status = "interrupted"
    except HarnessError as error:
        status, why = "failed", str(error)
        raise
    finally:
        # A second Ctrl-C must not cut the closing short: it is what keeps the store truthful. What cannot be written is left out.
        with deaf():
            keys = executor.close()
            if run is not None:
                run.release()
            if sweep is not None and run is not None:
                with suppress(StoreError):
                    run.interrupt(keys, why)
                with suppress(StoreError):
                    store.write_sweep(sweep.model_copy(update={"ended_at": now(), "status": status}))
                run.tell("end", status)
    return status


class _Run:
    def __init__(
        self, config: Config, state: RunState, store: Store, executor: Executor, observers: Sequence[Observer], sweep: Sweep
    ) -> None:
        self.config, self.state, self.store, self.executor, self.observers = config, state, store, executor, observers
        self.sweep, self.provenance = sweep, collect_provenance()
        self.running: dict[str, Task] = {}
        order = sorted(state.to_do.values(), key=lambda t: KINDS.index(t.kind))
        self.place = {task.key: number for number, task in enumerate(order)}
        self.users: dict[str, list[Task]] = {}
        self.missing: dict[str, int] = {}
        """Key -> number of inputs that have not ended yet, of every task that has neither been started nor written off."""
        for task in order:
            upstream = {key for key in task.inputs.values() if key in state.to_do}
            self.missing[task.key] = len(upstream)
            for key in upstream:
                self.users.setdefault(key, []).append(task)
        self.ready: list[tuple[int, str]] = []
        self.leases: dict[str, Lease] = {}
        self.elsewhere: dict[str, Task] = {}
        """Tasks that wait for what this run does not do: another driver on the same results folder, or a node that was asked for."""
        self.told: set[str] = set()
        self.lost: Counter[str] = Counter()

    def tell(self, what: str, *arguments: object) -> None:
        """Tell the observers. What they write to may be gone (a closed terminal, a full disk); that does not touch the run."""
        for observer in self.observers:
            with suppress(OSError, ValueError):
                getattr(observer, what)(*arguments)

    def loop(self) -> None:
        for task in list(self.state.to_do.values()):
            self._consider(task)
        last_tick = 0.0
        while self.ready or self.running or self.elsewhere:
            check()
            self._start_what_fits()
            outcomes = self.executor.wait(_POLL_SECONDS)
            for outcome in outcomes:
                self._ended(self.running.pop(outcome.key), outcome)
            for text in self.executor.notes():
                self.tell("note", text)
            if not outcomes and not self.running and (self.ready or self.elsewhere):
                time.sleep(_POLL_SECONDS)  # for others
            if time.monotonic() - last_tick >= self.store.pace:
                last_tick = time.monotonic()
                self._tick()

    def status(self) -> Ending:
        return "done" if self.state.all_done() else "failed"

    def release(self) -> None:
        """Give up all leases."""
        for lease in self.leases.values():
            lease.release()

    def interrupt(self, keys: Sequence[str], why: str) -> None:
        """Close the books on tasks that were stopped; one that had just finished keeps its record."""
        self.users.clear()  # what rests on them has not been tried: it gets no record
        for key in {*keys, *self.running}:
            task = self.running.pop(key, None)
            stored = self._read(key)
            mine = stored is not None and stored.provenance.sweep == self.sweep.id
            if task is not None:
                self._finish(task, Outcome(key, stored if mine else None, "interrupted", why))
            self.store.remove(f"running/{key}.json")

    def _start_what_fits(self) -> None:
        """Start tasks in their order: a small one may not starve the asset that others wait for."""
        while self.ready:
            task = self.state.to_do[self.ready[0][1]]
            job = self._job(task)
            fit = self.executor.fit(job)
            if fit.when == "later":
                return
            heapq.heappop(self.ready)
            if fit.when == "never":
                self._finish(task, Outcome(task.key, None, "skipped", fit.why))
                continue
            if fit.when == "asked":
                self._wait_for(task, fit.why)
                continue
            if not self._take(task):
                self._wait_for(task, "another run makes it")
                continue
            if (done := self._done_meanwhile(task)) is not None:
                self._finish(task, Outcome(task.key, done))
                continue
            self.running[task.key] = task
            self.executor.submit(job)
            self.tell("submitted", task)

    def _take(self, task: Task) -> bool:
        """Whether this driver may do a task, and no other does it now."""
        return task.kind not in _LEASED or self.leases.setdefault(task.key, Lease(self.store, task.key)).take()

    def _wait_for(self, task: Task, why: str) -> None:
        """Put a task aside until the next tick."""
        if task.key not in self.told:
            self.told.add(task.key)
            self.tell("note", f"{task.kind} {task.name} waits: {why}")
        self.elsewhere[task.key] = task

    def _ended(self, task: Task, outcome: Outcome) -> None:
        """Close the books on a task that an executor had, or run it again where that is no fault of its own."""
        self.lost[task.key] += outcome.retry == "lost"
        if self.lost[task.key] > _LOST_AT_MOST:
            outcome = replace(outcome, reason=f"{outcome.reason}, as {_LOST_AT_MOST} others before")
        if outcome.retry is None or self.lost[task.key] > _LOST_AT_MOST:
            self._finish(task, outcome)
            return
        self.tell("note", f"{task.kind} {task.name} runs again: {outcome.reason}")
        heapq.heappush(self.ready, (self.place[task.key], task.key))

    def _consider(self, task: Task) -> None:
        """Put a task among those that can start, or write it off: declined by its plugin, or resting on one that did not end well."""
        if task.key not in self.missing:
            return
        reason = task.skip
        for name, key in task.inputs.items() if reason is None else ():
            upstream = self.state.records.get(key)
            over = key not in self.state.to_do or key in self.state.ended
            if over and upstream is not None and upstream.status != "done":
                reason = f"{name} {self.state.plan.tasks[key].name!r} is {upstream.status}: {upstream.reason}"
                break
        if reason is not None:
            del self.missing[task.key]
            self._finish(task, Outcome(task.key, None, "skipped", reason))
        elif self.missing[task.key] == 0:
            del self.missing[task.key]
            heapq.heappush(self.ready, (self.place[task.key], task.key))

    def _read(self, key: str) -> Record | None:
        """A record; None where there is none, or a damaged one: the survey has said so, and it is written anew."""
        try:
            return self.store.read_record(key)
        except StoreError:
            return None

    def _done_meanwhile(self, task: Task) -> Record | None:
        """The record of a task that another run on the same results folder has finished since the survey."""
        stored = self._read(task.key)
        if stored is None or stored.status != "done" or stored == self.state.records.get(task.key):
            return None
        return stored

    def _finish(self, task: Task, outcome: Outcome) -> None:
        record = outcome.record or self._done_meanwhile(task)
        if record is None:
            record = unfinished(self._job(task), outcome.status, outcome.reason)
            self.store.write_record(record)
        if (lease := self.leases.pop(task.key, None)) is not None:
            lease.release()
        self.state.records[task.key] = record
        self.state.ended[task.key] = record.status
        self.tell("finished", task, record)
        for user in self.users.pop(task.key, ()):
            if user.key in self.missing:
                self.missing[user.key] -= 1
                self._consider(user)

    def _tick(self) -> None:
        beats = [self.store.read_json(f"running/{key}.json") for key in (*self.running, *self.elsewhere)]
        for key in self.elsewhere:
            heapq.heappush(self.ready, (self.place[key], key))
        self.elsewhere.clear()
        if self.config.run.autoscale:
            first = heapq.nsmallest(_EXPECTED, self.ready)
            self.executor.expect([self._job(self.state.to_do[key]) for _, key in first])
        self.tell("tick", [b for b in beats if b is not None])

    def _job(self, task: Task) -> Job:
        run = self.config.run
        return Job(
            key=task.key,
            identity=task.identity,
            kind=task.kind,
            name=task.name,
            spec=task.spec,
            inputs=task.inputs,
            info=self.state.plan.info,
            results=self.store.root,
            cache=cache_folder(config=self.config, store=self.store),
            data_root=os.path.abspath(run.data_root) if run.data_root else "",
            plugins=tuple(os.path.abspath(p) for p in run.plugins),
            cpus=min(task.resources.cpus, os.cpu_count() or 1) if run.executor == "inline" else task.resources.cpus,
            gpus=0.0 if run.device == "cpu" else task.resources.gpus,
            device=run.device,
            deterministic=run.deterministic,
            timeout=run.timeout,
            sweep=self.sweep.id,
            origin={**self.provenance, "executor": run.executor, "concurrency": len(self.running), "lost": self.lost[task.key]},
            foreign=task.foreign,
            keeps=run.stale == "keep",
            predictions=run.predictions,
        )


def cache_folder(config: Config, store: Store) -> str:
    """Where decoded clips and checkpoints lie: a local folder in any case, because clips are memory-mapped."""
    if config.run.cache:
        return os.path.abspath(config.run.cache)
    if store.is_local:
        return os.path.join(store.path, "cache")
    return os.path.join(os.path.expanduser("~"), ".cache", "video-distillation-harness")


def _open_sweep(config: Config, state: RunState, store: Store, arguments: Sequence[str]) -> Sweep:
    started = now()
    sweep = Sweep(
        id=f"{started[:19].replace(':', '').replace('-', '')}-{uuid.uuid4().hex[:6]}",
        command=redacted(shlex.join(["python", "-m", "harness", *arguments])),
        started_at=started,
        cells=state.plan.cells,
        kept=tuple(task.key for task in state.plan.tasks.values() if task.kept),
        config=redacted_json(config.model_dump(mode="json")),
        **collect_provenance(),
        **collect_environment(),
    )
    store.write_sweep(sweep)
    return sweep
