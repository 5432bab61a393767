"""Leases: one of several does what is done once, a dead owner's is taken over, and no clock can break it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.lease import Lease
from harness.store import Store
from tests.conftest import PROJECT, Harness

HOLDER = """
import sys, time
from harness.lease import Lease
from harness.store import Store
assert Lease(Store(sys.argv[1]), "thing", float(sys.argv[2])).take()
print("held", flush=True)
time.sleep(60)
"""
BUILDER = """
import sys, time
from pathlib import Path
from harness.lease import Lease
from harness.store import Store
made = Path(sys.argv[1]) / "made"
with Lease(Store(sys.argv[1]), "thing").held(made.exists) as is_held:
    if is_held:
        time.sleep(0.3)
        made.touch()
        print("built")
"""
SLOW = """
import time
from harness import DistilledSet, method

@method("slow")
class Slow:
    def distill(self, train, budget, context):
        time.sleep(1)
        with open("LOG", "a") as log:
            log.write(f"{budget.ipc}\\n")
        rows = [int(i) for label in range(budget.classes) for i in train.indices_of(label)[: budget.ipc]]
        return DistilledSet.of_clips(train.clips(rows), train.labels[rows])
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=PROJECT, stdout=subprocess.PIPE, text=True)


def holder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    process = start(HOLDER, str(folder), str(seconds))
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def another_machine(folder: Path) -> None:
    """Lets the owner of the one lease look as if it were a process elsewhere, whose end cannot be seen."""
    (path,) = (folder / "leases").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "another"}))


def seconds_until(lease: Lease) -> float:
    begun = time.monotonic()
    while not lease.take():
        assert time.monotonic() - begun < 30
        time.sleep(0.02)
    return time.monotonic() - begun


def test_of_two_processes_that_ask_at_once_one_builds(tmp_path: Path) -> None:
    processes = [start(BUILDER, str(tmp_path)) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert sorted(outputs) == ["", "built\n"]
    assert list((tmp_path / "leases").iterdir()) == [], "nothing is left behind"


def test_a_hundred_ask_at_once_and_one_is_told_yes(tmp_path: Path) -> None:
    leases = [Lease(Store(tmp_path), "thing") for _ in range(100)]
    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(Lease.take, leases)) == 1


def test_a_killed_owner_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    process = holder(tmp_path, 60)
    lease = Lease(Store(tmp_path), "thing")
    assert not lease.take()
    process.kill()
    process.wait()
    assert lease.take()
    lease.release()


def test_a_killed_owner_of_another_machine_is_followed_after_the_expiry(tmp_path: Path) -> None:
    process = holder(tmp_path, 1)
    process.kill()
    process.wait()
    another_machine(tmp_path)
    assert 0.9 <= seconds_until(Lease(Store(tmp_path), "thing", 1)) < 3


def test_an_owner_that_stood_still_learns_that_it_lost(tmp_path: Path) -> None:
    process = holder(tmp_path, 1)
    lease = Lease(Store(tmp_path), "thing", 1)
    os.kill(process.pid, signal.SIGSTOP)
    assert seconds_until(lease) >= 1
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.5)  # it would write now, if it did not see that it has lost
    assert Store(tmp_path).names("leases")[-1] == "thing.00000002.json"
    assert not lease.is_lost
    process.kill()
    process.wait()
    lease.release()
    assert Store(tmp_path).names("leases") == []


def test_a_living_owner_keeps_it_past_its_expiry_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, other = Lease(Store(tmp_path), "thing", 0.4), Lease(Store(tmp_path), "thing", 0.4)
    assert owner.take()
    begun, now = time.monotonic(), time.time()
    while time.monotonic() - begun < 1.5:
        monkeypatch.setattr(time, "time", lambda: now - 1e6 * (time.monotonic() - begun))  # the clock runs backwards, and far
        assert not other.take()
        time.sleep(0.05)
    assert not owner.is_lost
    owner.release()
    assert other.take()
    other.release()


@pytest.mark.slow
def test_two_drivers_on_one_folder_make_each_set_once(harness: Harness, tmp_path: Path) -> None:
    plugin, log = tmp_path / "slow.py", tmp_path / "log"
    plugin.write_text(SLOW.replace("LOG", str(log)))
    arguments = ("run", "--plugin", str(plugin), "--methods", "slow", "--ipc", "1,2", "--seeds", "2", "--labels", "soft")
    with ThreadPoolExecutor(2) as pool:
        drivers = [pool.submit(harness, *arguments) for _ in range(2)]
        for driver in drivers:
            done = driver.result()
            assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(log.read_text().splitlines()) == ["1", "1", "2", "2"], "two seeds of two budgets, each once"
    assert harness("check").returncode == 0
    assert list((tmp_path / "results" / "leases").iterdir()) == []


def test_what_is_no_lease_is_over_after_the_expiry(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "thing.00000007.json").write_bytes(b"\xff{")
    (tmp_path / "leases" / "thing.x.json").write_bytes(b"")
    (tmp_path / "leases" / "thing-else.00000009.json").write_bytes(b"{}")
    lease = Lease(Store(tmp_path), "thing", 0.3)
    assert seconds_until(lease) >= 0.3
    lease.release()
    assert Store(tmp_path).names("leases") == ["thing-else.00000009.json", "thing.x.json"]


def test_a_store_that_cannot_create_exclusively_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.lease._SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(Store, "excludes", False)
    monkeypatch.setattr(Store, "create_bytes", lambda store, name, data: store.write_bytes(name, data) is None)  # the last one wins
    leases = [Lease(Store(tmp_path), "thing") for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        assert sum(pool.map(Lease.take, leases)) == 1


def test_a_url_has_leases_too() -> None:
    store = Store("memory://leases")
    assert store.excludes
    one, two = Lease(store, "thing"), Lease(Store("memory://leases"), "thing")
    assert one.take() and not two.take()
    one.release()
    assert two.take()
    two.release()
