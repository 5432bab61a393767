"""Where a machine that shares no disk with the driver gets a dataset from, which is told by its digest and not by its path.

In this order: its own cache, where the clips are prepared already; its own videos, below a folder of HARNESS_DATA_ROOT or of the run's
data root; the results URL, where another machine put the prepared clips:

    data/<name>-<hash>/    train.npy test.npy train.csv test.csv, and meta.json last

Settings of a machine: HARNESS_CACHE, the folder of its decoded clips; HARNESS_DATA_ROOT, folders of datasets (separated as in PATH).
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.code import harness_digest
from harness.data.cache import ClipCache, describe
from harness.data.cache_files import SPLITS, read_index
from harness.errors import DataError, HarnessError, StoreError
from harness.job import Job
from harness.lease import Lease
from harness.registry import Registry
from harness.store import Store

CACHE, DATA_ROOT = "HARNESS_CACHE", "HARNESS_DATA_ROOT"
_LARGEST_INDEX = 1 << 30
_LARGEST_HEADER = 1 << 12


def node_cache(job: Job) -> Path:
    """The folder of decoded clips on this machine."""
    return Path(os.environ.get(CACHE) or job.cache)


def settle(job: Job) -> Job | str:
    """The task with the places of this machine in it, so that it can open its dataset; or why that cannot be.

    Clips are fetched from the results where this machine has no other way to them.
    """
    if harness_digest(job.kind) != job.spec.code:
        return "has other code of the harness than the driver: install the same version there"
    job = replace(job, cache=str(node_cache(job)))
    cache, store = ClipCache(job.info, Path(job.cache)), Store(job.results)
    if cache.is_prepared():
        return job
    for root in _roots(job):
        if _is_there(job, root):
            return replace(job, data_root=root)
    try:
        if is_shared(cache, store):
            fetch(cache, store)
            return job
    except StoreError as error:
        return f"cannot get at the clips of {job.info.name}: {error}"
    return f"has no videos of {job.info.name}"


def is_shared(cache: ClipCache, store: Store) -> bool:
    """Whether the prepared clips lie with the results."""
    return store.exists(f"{_folder(cache)}/meta.json")


def share(cache: ClipCache, store: Store) -> None:
    """Put the prepared clips with the results, once. Raises StoreError where that fails."""
    with Lease(store, cache.folder.name).held(lambda: is_shared(cache, store)) as is_held:
        if is_held:
            for split in SPLITS:
                store.put_file(f"{_folder(cache)}/{split}.csv", cache.folder / f"{split}.csv")
                store.put_file(f"{_folder(cache)}/{split}.npy", cache.folder / f"{split}.npy")
            store.put_file(f"{_folder(cache)}/meta.json", cache.folder / "meta.json")


def fetch(cache: ClipCache, store: Store) -> None:
    """Take the prepared clips from the results into the cache; every clip is checked. Raises StoreError where they are damaged."""
    with Lease(Store(cache.root), cache.folder.name).held(cache.is_prepared) as is_held:
        if not is_held:
            return
        beside = ClipCache(cache.info, cache.root / f"fetched-{uuid.uuid4().hex}")
        try:
            beside.folder.mkdir(parents=True)
            for name in ("meta.json", *(f"{split}.csv" for split in SPLITS)):
                store.get_file(f"{_folder(cache)}/{name}", beside.folder / name, _LARGEST_INDEX)
            clip = int(np.prod(cache.info.clip_shape))
            for split in SPLITS:
                rows = len(read_index(beside.folder, split))
                store.get_file(f"{_folder(cache)}/{split}.npy", beside.folder / f"{split}.npy", rows * clip + _LARGEST_HEADER)
            if beside.verify():
                raise DataError("a clip does not match its checksum")
            shutil.rmtree(cache.folder, ignore_errors=True)
            os.replace(beside.folder, cache.folder)
        except DataError as error:
            told = f"{_folder(cache)} in {store.shown} is damaged: remove it, and put it there again with `data prepare --share`"
            raise StoreError(told) from error
        except OSError as error:
            raise StoreError(f"the cache folder {cache.root} cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(beside.root, ignore_errors=True)


def _folder(cache: ClipCache) -> str:
    return f"data/{cache.folder.name}"


def _roots(job: Job) -> list[str]:
    own = [folder for folder in os.environ.get(DATA_ROOT, "").split(os.pathsep) if folder]
    return [*own, job.data_root]


def _is_there(job: Job, root: str) -> bool:
    """Whether this folder holds the dataset that was planned: its lists are read, no clip is decoded."""
    info = job.info
    if root and not Path(root).is_dir():
        return False
    with suppress(HarnessError, OSError):
        plugin = Registry(job.plugins).revive("dataset", job.spec.dataset).create(Path(root) if root else None)
        return describe(plugin, info.name, info.clip_shape, info.code).digest == info.digest
    return False
