"""What the Ray executor does with actors, nodes and outcomes, against a Ray that is played: no process is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.data.info import DatasetInfo
from harness.executors import Fit, Outcome
from harness.executors import ray as module
from harness.job import Job
from harness.store import Store
from tests.test_store import K, record


def task(name: str, **more: object) -> Job:
    info = DatasetInfo("tiny", ("a",), (1, 1, 1, 1), (1,), (1,), True, "d")
    spec = record().spec
    fields: dict[str, object] = {"key": K, "identity": K, "kind": "distill", "name": name, "spec": spec, "inputs": {}, "info": info}
    places = {"results": "", "cache": "", "data_root": "", "plugins": (), "device": "cpu", "deterministic": True}
    return Job(**{**fields, **places, "cpus": 1, "gpus": 0.0, "timeout": 600.0, "sweep": "s", "origin": {}, **more})  # type: ignore[arg-type]


class RayError(Exception): ...


class Gone(RayError):
    """What a call ends with whose actor, or node, is gone."""


class PlayedRay:
    """Nodes by name with (CPUs, GPUs); results that calls end with, in their order. killed, made: what was done, by node."""

    exceptions = SimpleNamespace(RayError=RayError, OutOfMemoryError=type("O", (RayError,), {}), RayTaskError=type("T", (RayError,), {}))

    def __init__(self, **sizes: tuple[int, int]) -> None:
        self.sizes, self.results, self.made, self.killed = dict(sizes), list[Any](), list[str](), list[str]()

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "Alive": True, "NodeManagerHostname": f"host-{name}", "Resources": {"CPU": cpus, "GPU": gpus}}
            for name, (cpus, gpus) in self.sizes.items()
        ]

    def remote(self, what: Any) -> Any:
        def options(scheduling_strategy: str, **_: object) -> Any:
            def start(*arguments: object) -> Any:
                if isinstance(what, type):
                    self.made.append(scheduling_strategy)
                    return SimpleNamespace(node=scheduling_strategy, run=SimpleNamespace(remote=lambda *_: Reference()))
                return Reference()

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.node)

    def put(self, value: object) -> object:
        return value

    def shutdown(self) -> None: ...


class Reference:
    """A call that is under way."""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def begin(cluster: bool = True, autoscale: bool = False, **sizes: tuple[int, int]) -> tuple[PlayedRay, module.RayExecutor]:
        ray = PlayedRay(**sizes)
        monkeypatch.setattr(module, "connect", lambda workers: (ray, True))
        monkeypatch.setattr(module, "parts_of_this_node", lambda ray: {})
        monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
        monkeypatch.setattr(module.RayExecutor, "_on", staticmethod(lambda node: node))
        monkeypatch.setenv("RAY_ADDRESS", "x") if cluster else monkeypatch.delenv("RAY_ADDRESS", raising=False)
        return ray, module.RayExecutor(Store(tmp_path), autoscale=autoscale)

    return begin


def done(job: Any, clean: bool = True) -> tuple[Outcome, bool]:
    return Outcome(job.key, None, "failed", "as it is"), clean


def test_actors_are_kept_reused_and_given_up_on_this_machine(start: Any) -> None:
    ray, executor = start(cluster=False, a=(2, 0))
    one, large = task("one", kind="evaluate"), task("large", kind="evaluate", cpus=2)
    for job in (one, one):
        assert executor.fit(job) == Fit("now")
        executor.submit(job)
        ray.results = [done(job)]
        assert executor.wait(0) == [done(job)[0]]
    assert (ray.made, ray.killed) == (["a"], []), "the second uses the first one's process"
    executor.submit(large)
    assert (ray.made, ray.killed) == (["a", "a"], ["a"]), "an idle process is ended for the room that it holds"
    assert executor.fit(one) == Fit("later")
    ray.results = [done(large, clean=False)]
    executor.wait(0)
    assert ray.killed == ["a", "a"], "a process that was changed is thrown away"
    executor.submit(one)
    ray.results = [Gone()]
    assert executor.wait(0) == [Outcome(one.key, None, "failed", "the worker process died (killed, or a crash in native code)")]
    assert executor.close() == []


def test_plugins_that_are_not_built_in_share_a_process_with_their_own_alone(start: Any) -> None:
    ray, executor = start(a=(1, 0))
    for foreign in (("method x",), ("method x",), ("method y",), ()):
        job = task("one", kind="evaluate", foreign=foreign)
        executor.submit(job)
        ray.results = [done(job)]
        executor.wait(0)
    assert len(ray.made) == 3 and len(ray.killed) == 2


def test_a_node_is_asked_before_a_task_is_blamed(start: Any) -> None:
    ray, executor = start(a=(1, 0), b=(2, 0))
    job = task("one", cpus=2)
    executor.submit(job)
    assert ray.made == ["b"]
    ray.results = [Gone()]
    assert executor.wait(0) == [], "not known yet"
    assert executor.fit(job) == Fit("later"), "nothing goes to a node that may be gone"
    assert executor.fit(task("small")) == Fit("now"), "on the other node"
    ray.results = [None]
    assert executor.wait(0)[0].retry is None, "it gave a sign of life"
    executor.submit(job)
    ray.results = [Gone(), Gone()]
    assert executor.wait(0) == []
    del ray.sizes["b"]
    assert executor.wait(0) == [Outcome(job.key, None, "failed", "its node host-b was lost", retry="lost")]
    assert executor.fit(job) == Fit("now"), "with the CPUs that the other has"
    executor.submit(job)
    assert ray.made[-1] == "a"
    assert executor.close() == [job.key]


def test_nodes_that_cannot_do_a_kind_of_task_are_left_out(start: Any) -> None:
    ray, executor = start(a=(1, 0), b=(1, 0))
    job = task("one")
    for node in ("a", "b"):
        assert executor.fit(job) == Fit("now")
        executor.submit(job)
        assert ray.made[-1] == node
        ray.results = [(Outcome(job.key, None, "failed", "has no videos of tiny", retry="moved"), True)]
        assert executor.wait(0) == [Outcome(job.key, None, "failed", f"host-{node} has no videos of tiny", retry="moved")]
    assert executor.fit(job) == Fit("never", "no node can do it: host-b has no videos of tiny")
    assert executor.fit(task("other", kind="evaluate")) == Fit("now")
    ray.sizes["c"] = (1, 0)
    assert executor.fit(job) == Fit("now") and executor.notes() == ["node host-c joined: 1 CPUs, 0 GPUs"]


def test_what_is_missing_is_asked_for_once_and_taken_back(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[dict[str, float]]] = []

    def request(executor: module.RayExecutor, wanted: list[dict[str, float]]) -> None:
        asked.append(wanted)
        executor._asked = wanted

    monkeypatch.setattr(module.RayExecutor, "_request", request)
    _, fixed = start(a=(1, 0))
    fixed.expect([task("one")])
    fixed.close()
    assert asked == [], "a cluster of a fixed size is asked for nothing"
    ray, executor = start(autoscale=True, a=(1, 0))
    cards = task("two cards", gpus=2.0)
    fit = executor.fit(cards)
    assert fit.when == "asked" and fit.why == "it needs 2 GPUs on one node, and no node has more than 0; the cluster was asked for a node"
    for _ in range(2):
        executor.expect([cards, task("one")])
    assert asked == [[{"CPU": 1, "GPU": 2.0}, {"CPU": 1}]]
    ray.sizes["b"] = (4, 2)
    assert executor.fit(cards) == Fit("now")
    executor.submit(cards)
    executor.expect([])
    assert asked[1:] == [[{"CPU": 1, "GPU": 2.0}]], "what runs is needed still"
    executor.close()
    assert asked[-1] == []
