"""Who does what is done once: a lease on a name in a store, with an owner and an expiry, so that a dead owner's is taken over.

    leases/<name>.<number>.json    the owner, and a count that it raises every few seconds for as long as it is alive

The highest number holds. It is taken by creating the next one, which only one of several can do: an exclusive create in a folder
(O_EXCL), a conditional one on an object store (If-None-Match on S3, a generation on GCS). On a store that has neither, the last one to
write holds it, seen by reading again after a moment; two that ask in the same moment may then both work, which costs time and no number.

No clock is compared with another's: a lease is over when its file has not changed for so many seconds on the monotonic clock of the one
that waits, or at once where its owner was a process of this machine that is gone. An owner that stood still and wakes up finds that it
lost its lease.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import StoreError
from harness.store import Store

SECONDS = 60.0
"""After which a lease whose file does not change is over. Its owner writes ten times as often."""
_SETTLE_SECONDS = 1.0
"""After which a write is seen by all, on a store that cannot create exclusively."""
_POLL_SECONDS = 0.5
_NUMBER = re.compile(r"\.(\d{8})\.json")


class Lease:
    """One name that one owner holds at a time. seconds: its expiry, the same for all who ask for it.

    Between two calls of ``take`` it remembers what it saw, so that an expiry is waited for by asking again.
    """

    def __init__(self, store: Store, name: str, seconds: float = SECONDS) -> None:
        self._store, self._name, self._seconds = store, name, seconds
        self._owner = uuid.uuid4().hex
        self._number = 0
        self._seen: tuple[int, bytes] | None = None
        self._since = 0.0
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_lost(self) -> bool:
        """Whether another took over what was held here: what it guards is the other's."""
        return self._lost.is_set()

    def take(self) -> bool:
        """Whether it is held here from now on, or already. Does not wait. Raises StoreError where the store cannot be written."""
        if self._thread is not None:
            return not self.is_lost
        number = self._highest()
        if number and not self._is_over(number):
            return False
        self._number = number + 1
        if not self._create(self._place(self._number)):
            return False
        self._ended.clear()
        self._lost.clear()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return True

    def release(self) -> None:
        """Give it up. What is not there any more, or cannot be removed now, is over by itself."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(StoreError, OSError):
            for number in self._numbers():
                if number < self._number or (number == self._number and not self.is_lost):
                    self._store.remove(self._place(number))

    @contextlib.contextmanager
    def held(self, is_done: Callable[[], bool]) -> Iterator[bool]:
        """Wait until it is held here, or until what it guards is done by another; yields whether it is held."""
        while not is_done():
            if self.take():
                try:
                    yield not is_done()
                finally:
                    self.release()
                return
            time.sleep(min(_POLL_SECONDS, self._seconds / 4))
        yield False

    def _place(self, number: int) -> str:
        return f"leases/{self._name}.{number:08}.json"

    def _numbers(self) -> list[int]:
        found = (_NUMBER.fullmatch(name.removeprefix(self._name)) for name in self._store.names("leases") if name.startswith(self._name))
        return sorted(int(match[1]) for match in found if match is not None)

    def _highest(self) -> int:
        return max(self._numbers(), default=0)

    def _is_over(self, number: int) -> bool:
        """Whether the lease of this number is given up, or its owner dead."""
        try:
            content = self._store.read_bytes(self._place(number), 1 << 16)
        except StoreError:
            content = b""
        if _is_dead(content):
            return True
        if self._seen != (number, content):
            self._seen, self._since = (number, content), time.monotonic()
        return time.monotonic() - self._since > self._seconds

    def _content(self, beat: int) -> bytes:
        owner = {"owner": self._owner, "host": socket.gethostname(), "beat": beat, **_this_process()}
        return json.dumps(owner, indent=1, sort_keys=True).encode()

    def _create(self, place: str) -> bool:
        if not self._store.create_bytes(place, self._content(0)):
            return False
        if not self._store.excludes:
            time.sleep(_SETTLE_SECONDS)
            return self._is_mine()
        return True

    def _is_mine(self) -> bool:
        """Whether the file that was written here still stands, and no higher one beside it."""
        if self._highest() != self._number:
            return False
        content = self._store.read_json(self._place(self._number))
        return isinstance(content, dict) and content.get("owner") == self._owner

    def _beat(self) -> None:
        """Say that the owner is alive, until the lease is given up or lost. A store that does not answer is asked again."""
        beat = 0
        while not self._ended.wait(self._seconds / 10):
            with contextlib.suppress(StoreError, OSError):
                if not self._is_mine():
                    self._lost.set()
                    return
                beat += 1
                self._store.write_bytes(self._place(self._number), self._content(beat))


@functools.cache
def _machine() -> str:
    """This machine and its namespace of process ids, since it was started; empty where the system does not say."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process of this machine began, in ticks since the machine did; empty where there is no such process. A pid is used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _this_process() -> dict[str, object]:
    return {"pid": os.getpid(), "began": _began(os.getpid()), "machine": _machine()}


def _is_dead(content: bytes) -> bool:
    """Whether the owner was a process of this machine that is gone."""
    try:
        owner = json.loads(content)
        pid, began, machine = int(owner["pid"]), str(owner["began"]), str(owner["machine"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return machine != "" and machine == _machine() and _began(pid) != began
