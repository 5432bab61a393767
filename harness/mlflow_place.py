"""Where the MLflow store of a results folder lies, where its artifacts lie, and how an sqlite store begins."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from harness.errors import StoreError, UsageError
from harness.store import Store

EXPERIMENT = "video-dataset-distillation"


def tracking_uri(store: Store, uri: str | None = None) -> str:
    """Where the mirror lies: ``uri``, else MLFLOW_TRACKING_URI, else sqlite under the results (an absolute path).

    Raises UsageError when the results are remote and no URI is given: sqlite needs a local file.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if chosen:
        return chosen
    if not store.is_local:
        raise UsageError(f"results at {store.shown} are not local, so MLflow's sqlite cannot lie beside them: set MLFLOW_TRACKING_URI")
    return f"sqlite:///{Path(store.path) / 'mlflow.db'}"


def database_file(uri: str) -> Path | None:
    """The file of an sqlite store; None for every other store."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def artifact_place(uri: str) -> Path | None:
    """The folder of the artifacts of an sqlite store, beside its file; None where a server decides."""
    database = database_file(uri)
    return None if database is None else database.with_name("mlartifacts")


def own_place(store: Store, uri: str) -> Path | None:
    """The folder of the artifacts where the MLflow store lies in the results folder; None where it lies elsewhere."""
    place = artifact_place(uri)
    return place if place is not None and store.is_local and place.parent.resolve() == Path(store.path).resolve() else None


def settle_artifacts(store: Store, uri: str) -> None:
    """Where the MLflow store lies in the results folder, let it name this folder's artifacts and no other's.

    MLflow keeps the absolute place of a run's artifacts as it was when the experiment was made, so that the database of a folder that was
    copied or moved names the folder it came from. No call of MLflow's changes a place afterwards, and its relative form,
    ``mlflow-artifacts:``, can only be read through a server: the two columns are rewritten in our own file, in one transaction.
    Raises StoreError when the file is no MLflow store.
    """
    place, database = own_place(store, uri), database_file(uri)
    if place is None or database is None or not os.path.lexists(database):
        return
    for file in (database, place):
        if file.is_symlink():
            raise StoreError(f"{file} is a link, and the results folder may be somebody else's: put the file itself there, or remove it")
    root = place.as_uri()
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
            ours = "experiment_id IN (SELECT experiment_id FROM experiments WHERE name = ?)"
            connection.execute(
                f"UPDATE experiments SET artifact_location = ? WHERE {ours} AND artifact_location IS NOT ?", (root, EXPERIMENT, root)
            )
            named = "? || '/' || run_uuid || '/artifacts'"
            connection.execute(
                f"UPDATE runs SET artifact_uri = {named} WHERE {ours} AND artifact_uri IS NOT {named}", (root, EXPERIMENT, root)
            )
    except sqlite3.Error as error:
        raise StoreError(f"{database} is not an MLflow store that can be written: {error}") from error


def quiet_environment() -> dict[str, str]:
    """No telemetry; a server that does not answer is given up after seconds, not minutes."""
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
        "GIT_PYTHON_REFRESH": "quiet",
    }


def _lock_file(path: Path) -> IO[bytes]:
    """The file that is locked. A link in its place is not followed, and nothing is written to it: the folder may be somebody else's."""
    try:
        handle = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666), "r+b", buffering=0)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened as a lock ({error.strerror}): remove it") from error
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise StoreError(f"{path} is not a file: remove it")
    return handle


@contextlib.contextmanager
def first_touch(uri: str) -> Iterator[None]:
    """A sqlite store with all its tables, whatever happens beside us or to us.

    One process at a time creates the tables, because concurrent first touches crash each other (5 of 6 in a trial), and it does so
    under a temporary name, because a file that a killed driver left half migrated would be refused for ever.
    """
    database = database_file(uri)
    if database is None:
        yield
        return
    import fcntl

    from mlflow import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(database.with_name(".mlflow.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            temporary = database.with_name(f".{database.name}.{uuid.uuid4().hex}.tmp")
            try:
                MlflowClient(tracking_uri=f"sqlite:///{temporary}").search_experiments(max_results=1)
                temporary.replace(database)
            finally:
                temporary.unlink(missing_ok=True)
        yield
