"""Ray clusters of several nodes, on this machine: where tasks go, what a lost node costs, and nodes that share no disk.

Every cluster has a folder and ports of its own, and its processes are ended one by one: another Ray may run beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.executors import Outcome
from harness.job import Job
from harness.store import Store
from tests.conftest import PROJECT, TINY
from tests.test_ray_books import task
from tests.test_shipping import VIDEOS, videos
from tests.test_store import K, record

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
PATIENCE = 240


class Node:
    """One `ray start`. hides: a folder that it does not see. settings: its environment."""

    def __init__(self, arguments: list[str], hides: Path | None = None, **settings: str) -> None:
        # Ports that are given are not waited for: on a busy machine a node's helpers take longer than Ray's patience.
        names = ("dashboard-agent-grpc-port", "dashboard-agent-listen-port", "runtime-env-agent-port", "metrics-export-port")
        ports = [part for name in names for part in (f"--{name}", str(free_port()))]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory", str(80 << 20), *ports, *arguments]
        line = ray if hides is None else ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hides), *ray]
        environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def kill(self) -> None:
        """End all of its processes at once, as a machine does that loses its power."""
        import psutil

        try:
            everything = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            everything = []
        for process in [*everything, self.process]:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


class RayCluster:
    """Nodes that are started and killed. address: of the head, which does no work but where it is told to."""

    def __init__(self, folder: str) -> None:
        self.folder, self.nodes = folder, list[Node]()
        self.address = f"127.0.0.1:{free_port()}"

    def head(self, *arguments: str, **settings: str) -> Node:
        own = ["--head", "--port", self.address.split(":")[1], "--node-ip-address", "127.0.0.1", "--temp-dir", self.folder]
        return self._start(Node([*own, "--include-dashboard", "false", *arguments], **settings))

    def join(self, *arguments: str, hides: Path | None = None, **settings: str) -> Node:
        return self._start(Node(["--address", self.address, "--node-ip-address", "127.0.0.1", *arguments], hides, **settings))

    def _start(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """Named by RAY_ADDRESS; it has no node yet."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    made = RayCluster(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # a short path: sockets lie in it
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    made.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.2)


def stub() -> type:
    """A worker without the harness's tasks: what it does stands in the task's name. Made here, so that it travels by value."""
    made = record()

    class Actor:
        def run(self, job: Job, parcel: object, shares: bool) -> tuple[Outcome, bool]:
            import os
            import time

            if job.name == "die":
                os._exit(9)
            time.sleep(600 if job.name == "sleep" else 0)
            return Outcome(job.key, made, made.status), True

    return Actor


def test_a_lost_node_is_told_from_a_task_that_ends_its_process(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from harness.executors import ray as module

    cluster.head("--num-cpus", "1", "--num-gpus", "1")
    until(lambda: _answers(cluster.address))
    second = cluster.join("--num-cpus", "2", "--num-gpus", "1")
    monkeypatch.setattr(module, "_Actor", stub())
    executor = module.RayExecutor(Store(tmp_path))
    try:
        until(lambda: executor.fit(task("x", cpus=2)).when == "now" and executor._nodes.cpus == 3)
        assert executor.describe() == "ray (2 nodes, 3 CPUs, 2 GPUs)"
        never = executor.fit(task("two cards", gpus=2.0))
        assert never.when == "never" and never.why.startswith("it needs 2 GPUs on one node, and no node has more than 1")

        def outcome() -> Outcome:
            found: list[Outcome] = []
            until(lambda: found.extend(executor.wait(1.0)) or found)
            return found[0]

        executor.submit(task("die", cpus=2))
        assert outcome() == Outcome(K, None, "failed", "the worker process died (killed, or a crash in native code)")
        until(lambda: executor.fit(task("sleep", cpus=2)).when == "now")
        executor.submit(task("sleep", cpus=2))  # which the second alone can hold
        time.sleep(5)
        second.kill()
        lost = outcome()
        assert lost.retry == "lost" and lost.reason is not None and lost.reason.startswith("its node ")
        assert executor.fit(task("again", cpus=2)).when == "now", "with the one CPU that is left"
        executor.submit(task("again", cpus=2))
        assert outcome().status == "done"
        cluster.join("--num-cpus", "4")
        until(lambda: executor.fit(task("x")).when == "now" and executor._nodes.cpus == 5)
        assert any(text.endswith("joined: 4 CPUs, 0 GPUs") for text in executor.notes())
        executor.submit(task("large", cpus=4))
        assert outcome().status == "done"
        asked: list[list[dict[str, float]]] = []
        monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda bundles: asked.append(bundles))
        growing = module.RayExecutor(Store(tmp_path), autoscale=True)
        two_cards = task("two cards", gpus=2.0)
        assert growing.fit(two_cards).when == "asked" and growing.fit(two_cards).why.endswith("; the cluster was asked for a node")
        for _ in range(2):
            growing.expect([two_cards, task("x")])
        assert asked == [[{"CPU": 1, "GPU": 2.0}, {"CPU": 1}]], "once, until something else is needed"
        growing.close()
        assert asked[1:] == [[]], "what was asked for is taken back"
    finally:
        executor.close()
        ray.shutdown()


def _answers(address: str) -> bool:
    with socket.socket() as client:
        host, port = address.split(":")
        return client.connect_ex((host, int(port))) == 0


SLOW = '''
import time
from harness import method
from helper import first

@method("slow")
class Slow:
    """The first clips of each class, after a while."""

    seconds: float = 4.0

    def distill(self, train, budget, context):
        context.progress(0, 1)
        time.sleep(self.seconds)
        return first(train, budget)
'''
HELPER = '''
import torch
from harness import DistilledSet

def first(train, budget):
    rows = torch.cat([train.indices_of(label)[: budget.ipc] for label in range(budget.classes)])
    return DistilledSet.of_clips(train.clips(rows), train.labels[rows])
'''


@pytest.mark.timeout(1800)
def test_three_nodes_that_share_no_disk(cluster: RayCluster, s3: str, bench: Path, tmp_path: Path) -> None:
    """The driver's folder is hidden from the nodes; a has videos of its own, b has none and is lost on the way, c comes later."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("folders cannot be hidden from processes here: unshare -m is not allowed")
    place = tmp_path / "driver"
    place.mkdir()
    for name, text in (("videos.py", VIDEOS), ("slow.py", SLOW), ("helper.py", HELPER)):
        (place / name).write_text(text)
    shutil.copy(TINY, place / "tiny.py")
    shutil.copy(bench, place / "tiny.toml")
    videos(place / "root")
    shutil.copytree(place / "root", tmp_path / "a" / "root")
    cluster.head("--num-cpus", "0")
    until(lambda: _answers(cluster.address))
    nodes = {
        name: cluster.join("--num-cpus", "1", hides=place, HARNESS_CACHE=str(tmp_path / name / "cache"), HARNESS_DATA_ROOT=root)
        for name, root in (("a", str(tmp_path / "a" / "root")), ("b", ""))
    }
    until(lambda: len(_alive(cluster.address)) == 3)
    line = [sys.executable, "-m", "harness", "run", "--config", str(place / "tiny.toml"), "--dataset", "on-disk", "--protocol", "tiny"]
    line += [part for name in ("tiny", "slow", "videos") for part in ("--plugin", str(place / f"{name}.py"))]
    line += ["--data-root", str(place / "root"), "--methods", "slow,random", "--ipc", "1,2", "--seeds", "2", "--no-track"]
    ours = [*line, "--executor", "ray", "--results", "s3://bench/nodes", "--set", f"run.cache={place / 'cache'}"]
    run = subprocess.Popen(ours, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    store = Store("s3://bench/nodes")
    try:
        # Two sets in the making: one on each node.
        until(lambda: sum("slow ipc" in str(store.read_json(f"running/{name}")) for name in store.names("running")) >= 2 or run.poll())
        nodes["b"].kill()
        cluster.join("--num-cpus", "1", hides=place, HARNESS_CACHE=str(tmp_path / "c" / "cache"), HARNESS_DATA_ROOT="")
        output, _ = run.communicate(timeout=900)
    finally:
        run.kill()
    assert run.returncode == 0, output
    assert "ray (3 nodes, 2 CPUs, 0 GPUs)" in output and "runs again: its node" in output, output
    found = store.read_records()[0]
    assert {r.status for r in found.values()} == {"done"} and sum(r.provenance.lost for r in found.values()) >= 1
    prepared = {name for name in "abc" if list((tmp_path / name / "cache").glob("on-disk-*/meta.json"))}
    assert prepared == {"a", "b", "c"} and not (place / "cache").exists(), "each has clips of its own, and the driver none"
    assert not list((tmp_path / "b" / "cache").glob("**/*.partial"))
    calm = subprocess.run([*line, "--executor", "inline", "--results", str(tmp_path / "calm")], cwd=PROJECT, capture_output=True, text=True)
    assert calm.returncode == 0, calm.stdout + calm.stderr
    alone = Store(tmp_path / "calm").read_records()[0]
    assert {key: (r.metrics, r.curves) for key, r in found.items()} == {key: (r.metrics, r.curves) for key, r in alone.items()}
    for verb in ("status", "check"):
        told = subprocess.run([sys.executable, "-m", "harness", verb, "--results", "s3://bench/nodes"], cwd=PROJECT, capture_output=True)
        assert told.returncode == 0 and os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in told.stdout + told.stderr


def _alive(address: str) -> list[str]:
    """Ids of the nodes, from a process of its own: this one stays without Ray."""
    program = "import ray, json; ray.init(log_to_driver=False); print(json.dumps([n['NodeID'] for n in ray.nodes() if n['Alive']]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else []
