"""What travels to a worker: a task, and all that is not in its key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.data.info import DatasetInfo
from harness.spec import Keep, Kind, Spec


@dataclass(frozen=True)
class Job:
    """A task with where things are, and what it may use. Plain data, so that it goes to any worker.

    results: folder or URL of the store. cache: folder of decoded clips. timeout: seconds without getting further.
    sweep: id of the command that runs it.
    origin: what the driver knows of its provenance: version, commit, platform, executor, concurrency. foreign: the plugins that it and
    its inputs rest on and that are not built in; only tasks of the same ones share a process. predictions: what an evaluation keeps.
    keeps: its inputs may have been made by other code than the present.
    """

    key: str
    identity: str
    kind: Kind
    name: str
    spec: Spec
    inputs: Mapping[str, str]
    info: DatasetInfo
    results: str
    cache: str
    data_root: str
    plugins: tuple[str, ...]
    cpus: int
    gpus: float
    device: str
    deterministic: bool
    timeout: float
    sweep: str
    origin: Mapping[str, object]
    foreign: tuple[str, ...] = ()
    predictions: Keep = "none"
    keeps: bool = False
