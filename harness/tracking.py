"""The MLflow mirror of the store: written by the driver alone, never read back, and rebuilt from the records at any time.

One thread does all that touches MLflow, so that its import (2 s) and the first migration of a fresh sqlite file (3 to 6 s) do not hold
the run up. No tracking error reaches the run: it is reported once per text, and the records stay what they are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError, StoreError, UsageError
from harness.mlflow_place import artifact_place, database_file, quiet_environment, settle_artifacts, tracking_uri
from harness.mlflow_runs import TABLE, RunWriter
from harness.mlflow_terms import KEY
from harness.mlflow_views import RUNS, TAG, comparison_view, view_address
from harness.record import Record, Sweep
from harness.rows import Records
from harness.spec import Cell
from harness.store import Store
from harness.text import printable, redacted

if TYPE_CHECKING:
    from harness.plan import Task
    from harness.runner import RunState

_PATIENCE = 20.0
"""Seconds that a run in this process waits for the mirror before it goes on."""
_log = logging.getLogger("harness.tracking")


class Mirror:
    """The mirror of one results folder; an observer of the runner.

    results: the folder or URL of the store. uri: any MLflow tracking URI; else MLFLOW_TRACKING_URI, else mlflow.db under the results.
    report: told of each distinct tracking error, from the mirror's thread. Nothing here raises into the run. The thread starts at
    once, so that the store is ready before the first cell is.
    """

    def __init__(self, results: Store | str | Path, uri: str | None = None, report: Callable[[str], None] = _log.warning) -> None:
        self.store = results if isinstance(results, Store) else Store(results)
        self._uri, self._tell = uri, report
        self._jobs: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._writer: RunWriter | None = None
        self._told: set[str] = set()
        self._sweep: Sweep | None = None
        self._records: Records = {}
        self._pause = False
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    # The runner's observer

    def start(self, sweep: Sweep, state: RunState) -> None:
        """Open the parent run, and mirror cached cells that an earlier run left out.

        Where tasks run in this process their memory and time are measured here, so that the mirror then keeps still between its calls.
        """
        self._sweep, self._records = sweep, state.records
        self._pause = sweep.config.get("run", {}).get("executor") == "inline"
        known = dict(state.records)
        self._submit(lambda writer: writer.begin(sweep))
        self._submit(lambda writer: writer.cells([key for key in state.cached if key in known], known))
        if self._pause:
            self.flush(_PATIENCE)

    def submitted(self, task: Task) -> None:
        """Nothing: a run is created when its cell has ended, so that a killed driver leaves no half of one."""

    def tick(self, running: Sequence[object]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing: it is for the one who looks on."""

    def finished(self, task: Task, record: Record) -> None:
        """Mirror one ended cell, or what the quality of a set adds to its cells; other tasks are parts of cells."""
        if record.kind not in ("evaluate", "quality"):
            return
        known = dict(self._records)
        self._submit(lambda writer: writer.cells(_touched(record, known), known))
        if self._pause:
            self.flush(_PATIENCE)

    def end(self, status: str) -> None:
        """Close the parent run ("done", "failed", "interrupted") and wait until all is written, but not for ever."""
        if self._sweep is not None:
            sweep = self._sweep.model_copy(update={"status": status})
            self._submit(lambda writer: writer.end(sweep))
        self.close()

    # Without a run

    def rebuild(self, records: Records, sweeps: Sequence[Sweep], fresh: bool = False) -> int:
        """Mirror every cell and sweep that is missing or has changed; a second time changes nothing. Returns the number of runs written.

        fresh: delete the runs of this mirror first.
        """
        written: list[int] = []
        self._submit(lambda writer: written.append(writer.rebuild(records, sweeps, fresh)))
        self._submit(lambda writer: _attach_report(self.store, writer))
        self.flush()
        return sum(written)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was handed over is written. False when ``timeout`` seconds were not enough."""
        done = threading.Event()
        self._jobs.put(done.set)
        return done.wait(timeout)

    def close(self, timeout: float | None = 60.0) -> bool:
        """Write what is left and stop. False when ``timeout`` seconds were not enough; the thread then ends with the process."""
        self._jobs.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._report("the tracking store did not take everything in time; `track` completes it")
        return not self._thread.is_alive()

    def _submit(self, job: Callable[[RunWriter], object]) -> None:
        def attempt() -> None:
            if self._writer is not None:
                job(self._writer)

        self._jobs.put(attempt)

    def _work(self) -> None:
        try:
            self._writer = RunWriter(self.store, tracking_uri(self.store, self._uri))
        except Exception as error:
            self._report(f"off for this run: {_first_line(error)}; `track` mirrors the records later")
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                self._report(_first_line(error))

    def _report(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            with contextlib.suppress(Exception):
                self._tell(printable(redacted(text)))


def rebuild_mirror(results: Store | str | Path, uri: str | None = None, fresh: bool = False) -> str:
    """Bring the mirror up to date with the records, or make it anew (``fresh``); returns one line that says what was done.

    Raises StoreError when the tracking store does not take the records.
    """
    store = results if isinstance(results, Store) else Store(results)
    records, damaged = store.read_records()
    errors: list[str] = []
    mirror = Mirror(store, uri, errors.append)
    written = mirror.rebuild(records, store.read_sweeps(), fresh)
    mirror.close()
    if errors:
        raise StoreError(f"tracking store {redacted(tracking_uri(store, uri))}: {'; '.join(errors)}")
    cells = sum(record.kind == "evaluate" for record in records.values())
    left_out = f", {len(damaged)} damaged records left out" if damaged else ""
    return f"{written} runs written, {cells} cells mirrored at {redacted(tracking_uri(store, uri))}{left_out}"


def serve_ui(
    results: Store | str | Path, host: str = "127.0.0.1", port: int = 5000, uri: str | None = None, announce: Callable[[str], None] = print
) -> None:
    """Become the MLflow server on the store's mirror: this process is replaced by it, so that every signal reaches it.

    announce: told the addresses of ``ui_addresses``. Where the tracking URI is a server that is already running, they are all that is
    done. Raises UsageError when there is no mirror yet.
    """
    store = results if isinstance(results, Store) else Store(results)
    backend = tracking_uri(store, uri)
    if backend.startswith(("http://", "https://")):
        for title, address in ui_addresses(store, backend, uri):
            announce(f"{title}: {address}")
        return
    command = ui_command(store, host, port, uri)
    for title, address in ui_addresses(store, f"http://{host}:{port}", uri):
        announce(f"{title}: {address}")
    sys.stdout.flush()
    os.chdir(tempfile.gettempdir())
    # Without job execution: its seven processes serve features that a mirror has no use for.
    environment = {**os.environ, **quiet_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if redacted(command[place := command.index("--backend-store-uri") + 1]) != command[place]:
        # A command line is shown to every user of the machine, an environment is not.
        environment["MLFLOW_BACKEND_STORE_URI"] = command[place]
        del command[place - 1 : place + 1]
    os.execve(command[0], command, environment)


def ui_addresses(store: Store, root: str, uri: str | None = None) -> list[tuple[str, str]]:
    """(title, address) of the table of cells and, of the last sweep with two cells to compare, of their comparison and of the report.

    root: of the server, such as http://127.0.0.1:5000. The comparison is saved in the MLflow store under the sweep's id, and the report,
    where one was written into the results folder, is attached to the sweep's run. Raises StoreError when the MLflow store does not answer.
    """
    try:
        return _addresses(store, root, RunWriter(store, tracking_uri(store, uri)))
    except HarnessError:
        raise
    except Exception as error:
        raise StoreError(f"tracking store {redacted(tracking_uri(store, uri))}: {_first_line(error)}") from error


def _addresses(store: Store, root: str, writer: RunWriter) -> list[tuple[str, str]]:
    found = [("all cells", view_address(root, writer.experiment, TABLE))]
    sweep, cells = _last_sweep(store, writer)
    if sweep is None:
        return found
    writer.client.set_experiment_tag(writer.experiment, f"{TAG}{sweep}", comparison_view([writer.runs[cell.key] for cell in cells]))
    found.append((f"comparison of {len(cells)} cells of sweep {sweep}", view_address(root, writer.experiment, sweep, charts=True)))
    if _attach_report(store, writer):
        run = f"{root.rstrip('/')}/#/experiments/{writer.experiment}/runs/{writer.sweeps[sweep]}"
        found.append(("report", f"{run}/artifacts/report/index.html?workflowType=machine_learning"))
    return found


def ui_command(store: Store, host: str, port: int, uri: str | None = None) -> list[str]:
    """The command line of the MLflow server for this store, whose artifacts are those of this results folder, also where it is a copy."""
    backend = tracking_uri(store, uri)
    if backend.startswith("databricks"):
        raise UsageError(f"the tracking store {redacted(backend)} has an interface of its own: open its workspace in a browser")
    database, place = database_file(backend), artifact_place(backend)
    if database is not None and not database.exists():
        raise UsageError(f"no MLflow store at {redacted(backend)}: run something first, or mirror the records with `track --rebuild`")
    settle_artifacts(store, backend)
    hosts = f"{host}:{port},localhost:{port},127.0.0.1:{port}"
    artifacts = place.as_uri() if place is not None else tempfile.gettempdir()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend, "--default-artifact-root", artifacts),
        *("--host", host, "--port", str(port), "--workers", "1", "--allowed-hosts", hosts, "--uvicorn-opts", "--log-level warning"),
    ]


def _last_sweep(store: Store, writer: RunWriter) -> tuple[str | None, list[Cell]]:
    """The newest sweep with two cells that are done, and these cells, whichever sweep made them; of too many the first seeds."""
    done = {run.data.tags.get(KEY) for run in writer.search("attributes.status = 'FINISHED'")}
    for sweep in reversed(store.read_sweeps()):
        cells = [cell for cell in sweep.cells if cell.key in done]
        while len(cells) > RUNS and len(seeds := sorted({cell.seed for cell in cells})) > 1:
            cells = [cell for cell in cells if cell.seed != seeds[-1]]
        if len(cells) > 1 and sweep.id in writer.sweeps:
            return sweep.id, cells[:RUNS]
    return None, []


def _attach_report(store: Store, writer: RunWriter) -> bool:
    """Attach the report of the results folder to the last sweep's run; False where there is none."""
    sweep, _ = _last_sweep(store, writer)
    folder = Path(store.path) / "report"
    if sweep is None or not store.is_local or not (folder / "index.html").exists():
        return False
    writer.attach(sweep, folder)
    return True


def _touched(record: Record, records: Records) -> list[str]:
    """The cells that an ended task says something of: itself, or those on the set whose quality it is."""
    if record.kind == "evaluate":
        return [record.key]
    return [key for key, cell in records.items() if cell.is_cell and cell.inputs.get("distill") == record.inputs.get("distill")]


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
