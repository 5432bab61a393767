"""A connection to Ray: to the cluster that RAY_ADDRESS names, or to one that is started on this machine; and its end, clean or not."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import HarnessError

_TOKEN = Path.home() / ".ray" / "auth_token"


@contextlib.contextmanager
def ray_running(workers: int = 0) -> Iterator[None]:
    """Ray as executors have it, for several of them and for Ray Tune; what was started here ends here."""
    ray, own = connect(workers)
    try:
        yield
    finally:
        if own:
            ray.shutdown()


def connect(workers: int) -> tuple[Any, bool]:
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


def parts_of_this_node(ray: Any) -> dict[str, Any]:
    """Name -> Popen of the processes without which nothing goes on; Ray has no public way to them."""
    node = ray._private.worker._global_node
    found = {} if node is None else node.all_processes
    return {name: infos[0].process for name, infos in found.items() if name in ("raylet", "gcs_server") and infos}


def give_up(ray: Any) -> None:
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
