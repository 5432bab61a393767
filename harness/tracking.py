"""The MLflow mirror of the store: written by the driver alone, never read back, and rebuilt from the records at any time.

    parent run = sweep (one command), child run = cell (one evaluate record)

One thread does all that touches MLflow, so that its import (2 s) and the first migration of a fresh sqlite file (3 to 6 s) do not hold
the run up. No tracking error reaches the run: it is reported once per text, and the records stay what they are.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import sys
import tempfile
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness.errors import StoreError, UsageError
from harness.rows import Record, cell_rows
from harness.store import Store, content_hash

if TYPE_CHECKING:
    from harness.plan import Task
    from harness.runner import RunState

EXPERIMENT = "video-dataset-distillation"
KEY, SWEEP, OWNER, CONTENT = "harness.key", "harness.sweep", "harness.owner", "harness.content"
PARAMS = ("dataset", "method", "ipc", "labels", "evaluator", "protocol", "seed")
METRICS = (
    "accuracy", "accuracy_top5", "accuracy_single_frame", "accuracy_shuffled", "accuracy_reversed", "ece", "relative_accuracy",
    "frame_fraction", "frames_stored", "stored_bytes", "label_bytes", "peak_cpu_mib", "peak_gpu_mib", "train_peak_cpu_mib",
    "train_peak_gpu_mib", "distill_seconds", "train_seconds", "test_seconds", "asset_seconds",
)  # fmt: skip
_RUN_STATUS = {"done": "FINISHED", "interrupted": "KILLED"}
"""Status of a record or sweep -> status of its run; all others are FAILED."""
_BATCH = 800
"""Metrics of one request; MLflow takes 1,000 entries of all sorts."""
_COMPARED = 40
"""Runs that one comparison page shows."""
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
        self._writer: _Writer | None = None
        self._told: set[str] = set()
        self._sweep: Mapping[str, Any] = {}
        self._records: Mapping[str, Record] = {}
        self._pause = False
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    # The runner's observer

    def start(self, sweep: Mapping[str, Any], state: RunState) -> None:
        """Open the parent run, and mirror cached cells that an earlier run left out.

        Where tasks run in this process their memory and time are measured here, so that the mirror then keeps still between its calls.
        """
        self._sweep, self._records = sweep, state.records
        self._pause = sweep.get("config", {}).get("run", {}).get("executor") == "inline"
        known = dict(state.records)
        self._submit(lambda writer: writer.begin(sweep))
        self._submit(lambda writer: writer.cells([key for key in state.cached if key in known], known))
        if self._pause:
            self.flush(_PATIENCE)

    def submitted(self, task: Task) -> None:
        """Nothing: a run is created when its cell has ended, so that a killed driver leaves no half of one."""

    def tick(self, running: Sequence[Mapping[str, Any]]) -> None:
        """Nothing."""

    def finished(self, task: Task, record: Mapping[str, Any]) -> None:
        """Mirror one ended cell; other tasks are parts of cells."""
        if record["kind"] == "evaluate":
            known = dict(self._records)
            self._submit(lambda writer: writer.cells([record["key"]], known))
            if self._pause:
                self.flush(_PATIENCE)

    def end(self, status: str) -> None:
        """Close the parent run ("done", "failed", "interrupted") and wait until all is written, but not for ever."""
        sweep = {**self._sweep, "status": status}
        if self._sweep:
            self._submit(lambda writer: writer.end(sweep))
        self.close()

    # Without a run

    def rebuild(self, records: Mapping[str, Record], sweeps: Sequence[Mapping[str, Any]], fresh: bool = False) -> int:
        """Mirror every cell and sweep that is missing or has changed; a second time changes nothing. Returns the number of runs written.

        fresh: delete the runs of this mirror first.
        """
        written: list[int] = []
        self._submit(lambda writer: written.append(writer.rebuild(records, sweeps, fresh)))
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

    def _submit(self, job: Callable[[_Writer], object]) -> None:
        def attempt() -> None:
            if self._writer is not None:
                job(self._writer)

        self._jobs.put(attempt)

    def _work(self) -> None:
        try:
            self._writer = _Writer(self.store, self._uri)
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
                self._tell(text)


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
        raise StoreError(f"tracking store {tracking_uri(store, uri)}: {'; '.join(errors)}")
    cells = sum(record["kind"] == "evaluate" for record in records.values())
    left_out = f", {len(damaged)} damaged records left out" if damaged else ""
    return f"{written} runs written, {cells} cells mirrored at {tracking_uri(store, uri)}{left_out}"


def tracking_uri(store: Store, uri: str | None = None) -> str:
    """Where the mirror lies: ``uri``, else MLFLOW_TRACKING_URI, else sqlite under the results (an absolute path).

    Raises UsageError when the results are remote and no URI is given: sqlite needs a local file.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if chosen:
        return chosen
    if not store.is_local:
        raise UsageError(f"results at {store.root} are not local, so MLflow's sqlite cannot lie beside them: set MLFLOW_TRACKING_URI")
    return f"sqlite:///{Path(store.path) / 'mlflow.db'}"


def serve_ui(
    results: Store | str | Path,
    host: str = "127.0.0.1",
    port: int = 5000,
    uri: str | None = None,
    announce: Callable[[str], None] | None = None,
) -> NoReturn:
    """Become the MLflow server on the store's mirror: this process is replaced by it, so that every signal reaches it.

    announce: told the addresses of the run list and of the comparison of the last sweep. Raises UsageError when there is no mirror yet,
    or when the tracking URI is a server that is already running.
    """
    store = results if isinstance(results, Store) else Store(results)
    command = ui_command(store, host, port, uri)
    if announce is not None:
        for title, address in ui_addresses(store, host, port, uri):
            announce(f"{title}: {address}")
    sys.stdout.flush()
    os.chdir(tempfile.gettempdir())
    # Without job execution: its seven processes serve features that a mirror has no use for.
    os.execve(command[0], command, {**os.environ, **_quiet_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def ui_addresses(store: Store, host: str, port: int, uri: str | None = None) -> list[tuple[str, str]]:
    """(title, address) of the run list and, where there are two cells to compare, of the comparison of the last sweep that has cells."""
    writer = _Writer(store, uri)
    root = f"http://{host}:{port}/#"
    found = [("all runs", f"{root}/experiments/{writer.experiment}/runs")]
    for sweep in sorted(writer.sweeps, reverse=True):
        cells = list(writer.search(f"tags.`mlflow.parentRunId` = '{writer.sweeps[sweep]}'"))
        seeds = sorted({run.data.params.get("seed", "") for run in cells})
        shown = [run for run in cells if run.info.status == "FINISHED" and run.data.params.get("seed") == seeds[0]][:_COMPARED]
        if len(shown) > 1:
            runs = urllib.parse.quote(json.dumps([run.info.run_id for run in shown]))
            experiments = urllib.parse.quote(json.dumps([writer.experiment]))
            title = f"comparison of {len(shown)} cells of sweep {sweep}, seed {seeds[0]}"
            found.append((title, f"{root}/compare-runs?runs={runs}&experiments={experiments}"))
            break
    return found


def ui_command(store: Store, host: str, port: int, uri: str | None = None) -> list[str]:
    """The command line of the MLflow server for this store."""
    backend = tracking_uri(store, uri)
    if backend.startswith(("http://", "https://", "databricks")):
        raise UsageError(f"the tracking store is a server of its own: open {backend} in a browser")
    if backend.startswith("sqlite:///") and not Path(backend.removeprefix("sqlite:///")).exists():
        raise UsageError(f"no MLflow store at {backend}: run something first, or mirror the records with `track --rebuild`")
    hosts = f"{host}:{port},localhost:{port},127.0.0.1:{port}"
    artifacts = _artifact_root(store) if store.is_local else tempfile.gettempdir()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend, "--default-artifact-root", artifacts),
        *("--host", host, "--port", str(port), "--workers", "1", "--allowed-hosts", hosts),
    ]


class _Writer:
    """All that touches MLflow. Lives in the mirror's thread and may raise."""

    def __init__(self, store: Store, uri: str | None) -> None:
        for name, value in _quiet_environment().items():
            os.environ.setdefault(name, value)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.store = store
        self.uri = tracking_uri(store, uri)
        with _first_touch(store, self.uri):
            self.client = MlflowClient(tracking_uri=self.uri)
            self.experiment = self._experiment()
        self.owner = _owner()
        self.sweeps: dict[str, str] = {}
        self.runs: dict[str, str] = {}
        self.content: dict[str, str] = {}
        self.relative: dict[str, float] = {}
        self._survey()

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        root = _artifact_root(self.store) if self.uri.startswith("sqlite:") and self.store.is_local else None
        # The kind opens the interface in its model training view instead of asking.
        return str(self.client.create_experiment(EXPERIMENT, root, {"mlflow.experimentKind": "custom_model_development"}))

    def _survey(self) -> None:
        """Learn what is mirrored already, and close the runs of drivers that are gone."""
        for run in self.search(""):
            tags = run.data.tags
            if run.info.status == "RUNNING" and _is_dead(tags.get(OWNER, "")):
                self.client.set_tag(run.info.run_id, "harness.reason", "the driver ended without closing this run")
                self.client.set_terminated(run.info.run_id, "KILLED")
            self._learn(run)

    def _learn(self, run: Any) -> None:
        tags, run_id = run.data.tags, run.info.run_id
        if KEY in tags:
            self.runs[tags[KEY]] = run_id
            self.content[tags[KEY]] = tags.get(CONTENT, "")
            if "relative_accuracy" in run.data.metrics:
                self.relative[tags[KEY]] = run.data.metrics["relative_accuracy"]
        elif SWEEP in tags:
            self.sweeps[tags[SWEEP]] = run_id

    def search(self, filter_string: str) -> Iterator[Any]:
        """All runs of the experiment that pass an MLflow filter."""
        token = None
        while True:
            page = self.client.search_runs([self.experiment], filter_string, max_results=_BATCH, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    # Sweeps

    def begin(self, sweep: Mapping[str, Any]) -> None:
        """The parent run of a sweep, owned by this process and running."""
        run_id = self._parent(sweep)
        self.client.set_tag(run_id, OWNER, self.owner)
        self.client.update_run(run_id, status="RUNNING")

    def end(self, sweep: Mapping[str, Any]) -> None:
        """Close the parent run of a sweep by the sweep's status; one that says "running" is closed when its process is gone."""
        run_id, status = self._parent(sweep), sweep.get("status")
        if status == "running":
            if not _is_dead(f"{sweep.get('host')} {sweep.get('pid')} ?"):
                return
            status = "interrupted"
        ended = _milliseconds(sweep.get("ended_at"))
        self.client.set_terminated(run_id, _RUN_STATUS.get(str(status), "FAILED"), end_time=ended)

    def _parent(self, sweep: Mapping[str, Any]) -> str:
        from mlflow.entities import Param, RunTag

        name = str(sweep["id"])
        if name not in self.sweeps:
            for run in self.search(f"tags.`{SWEEP}` = '{name}'"):
                self._learn(run)
        if name not in self.sweeps:
            described = {k: v for k, v in sweep.items() if k not in ("cells", "config", "status", "id") and v is not None}
            tags = {SWEEP: name, "mlflow.runName": name, **{k: v for k, v in described.items() if not isinstance(v, Mapping)}}
            tags |= _flat("package", described.get("packages", {}))
            if sweep.get("command"):
                tags["mlflow.note.content"] = f"`{sweep['command']}`"
            run = self.client.create_run(self.experiment, start_time=_milliseconds(sweep.get("started_at")), tags=_clip({SWEEP: name}))
            run_id = self.sweeps[name] = run.info.run_id
            params = [Param(k, str(v)[:6000]) for k, v in sweep.get("config", {}).get("run", {}).items()]
            self.client.log_batch(run_id, params=params[:100], tags=[RunTag(k, v) for k, v in _clip(tags).items()][:100])
            self.client.set_terminated(run_id, "FINISHED")
        return self.sweeps[name]

    # Cells

    def cells(self, keys: Sequence[str], records: Mapping[str, Record]) -> int:
        """Mirror these evaluate records, and the relative accuracies that a reference among them makes known."""
        written = 0
        wanted = set(keys)
        reference = any(not _is_cell(records[key]) for key in keys)
        # Rows are joined for the cells asked for and the reference alone, so that a long run does not join all of them every time.
        shown = records if reference else {k: r for k, r in records.items() if k in wanted or not _is_cell(r)}
        for row in cell_rows(shown):
            if row["key"] in wanted:
                written += self._cell(row, records)
            elif row["relative_accuracy"] is not None and row["key"] in self.runs:
                self._relative(row["key"], row["relative_accuracy"])
        return written

    def rebuild(self, records: Mapping[str, Record], sweeps: Sequence[Mapping[str, Any]], fresh: bool) -> int:
        if fresh:
            for run_id in [run.info.run_id for run in self.search("")]:
                self.client.delete_run(run_id)
            for known in (self.sweeps, self.runs, self.content, self.relative):
                known.clear()
        before = len(self.sweeps)
        for sweep in sweeps:
            if str(sweep["id"]) not in self.sweeps:
                self.end(sweep)
        written = self.cells([key for key, record in records.items() if record["kind"] == "evaluate"], records)
        return written + len(self.sweeps) - before

    def _relative(self, key: str, value: float) -> None:
        if self.relative.get(key) != value:
            self.client.log_metric(self.runs[key], "relative_accuracy", value)
            self.relative[key] = value

    def _cell(self, row: Mapping[str, Any], records: Mapping[str, Record]) -> int:
        """Write one cell into its run; 0 when the run holds this very record already."""
        from mlflow.entities import Metric, Param

        key = row["key"]
        record = records[key]
        content = content_hash({k: v for k, v in record.items() if k != "content_sha256"})
        if key not in self.runs:
            for run in self.search(f"tags.`{KEY}` = '{key}'"):  # another driver may have written it since
                self._learn(run)
        if self.content.get(key) == content:
            if row["relative_accuracy"] is not None:
                self._relative(key, row["relative_accuracy"])
            return 0
        provenance = record.get("provenance") or {}
        started, ended = _milliseconds(provenance.get("started_at")), _milliseconds(provenance.get("ended_at"))
        tags = {KEY: key, "mlflow.runName": record["name"], "harness.status": row["status"], "harness.reason": row["reason"]}
        tags |= {name: value for name, value in provenance.items() if name not in ("sweep", "started_at", "ended_at", "seconds")}
        if provenance.get("sweep"):
            tags["mlflow.parentRunId"] = self._parent({"id": provenance["sweep"]})
        upstream = records.get(record.get("inputs", {}).get("distill" if row["ipc"] is not None else "teacher", ""), {})
        if key in self.runs:
            self.client.delete_run(self.runs.pop(key))  # an older record of this cell, or half of one: its values would mix with these
        run_id = self.client.create_run(self.experiment, start_time=started, tags=_clip({**tags, OWNER: self.owner})).info.run_id
        self.runs[key] = run_id
        params = [Param(name, str(value)[:6000]) for name, value in _params(row, record["spec"]).items()]
        stamp = ended or 0
        metrics = [Metric(name, float(value), stamp, 0) for name, value in _metrics(row, upstream).items()]
        metrics += [Metric(name, float(value), stamp, int(step)) for name, step, value in _curves(record, upstream)]
        self.client.log_batch(run_id, metrics=metrics[:_BATCH], params=params[:100])
        for start in range(_BATCH, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        if row["relative_accuracy"] is not None:
            self.relative[key] = row["relative_accuracy"]
        self._artifacts(run_id, record, upstream)
        self.client.set_terminated(run_id, _RUN_STATUS.get(row["status"], "FAILED"), end_time=ended)
        self.client.set_tag(run_id, CONTENT, content)  # last: a run without it is written again
        self.content[key] = content
        return 1

    def _artifacts(self, run_id: str, record: Record, distilled: Record) -> None:
        """The record itself, so that every run has a file to compare, and the preview of the distilled set."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "record.json").write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
            for name in ("preview.png", "preview.gif"):
                if name in distilled.get("artifacts", {}):
                    (Path(folder) / name).write_bytes(self.store.read_artifact(distilled, name))
            self.client.log_artifacts(run_id, folder)


def _params(row: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """The seven axes of a cell, then the resolved parameters of its plugins."""
    axes = {**row, "method": row["method_label"], "evaluator": row["evaluator_label"], "ipc": "all" if row["ipc"] is None else row["ipc"]}
    params = {name: axes[name] for name in PARAMS}
    for kind in ("dataset", "method", "evaluator"):
        params |= _flat(kind, spec[kind].get("params", {}))
    return params | _flat("protocol", {k: v for k, v in spec["protocol"].items() if k != "name"})


def _metrics(row: Mapping[str, Any], upstream: Record) -> dict[str, float]:
    """The measured numbers of a cell, and what its method recorded of the set; unmeasured ones are left out, not 0."""
    numbers = {name: row[name] for name in METRICS if row.get(name) is not None}
    if row["ipc"] is not None:
        extra = {f"distill.{name}": value for name, value in upstream.get("metrics", {}).items() if name not in METRICS}
        numbers |= {name: value for name, value in extra.items() if value is not None}
    return numbers


def _curves(record: Record, upstream: Record) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) of a cell's training curves and of its method's. The reference's network was trained as an asset: there
    "loss" is what a cell calls "train_loss"."""
    own, made = "", "distill." if _is_cell(record) else "train_"
    for source, prefix in ((record, own), (upstream, made)):
        for name, points in source.get("curves", {}).items():
            for step, value in points:
                yield f"{prefix}{name}", step, value


def _is_cell(record: Record) -> bool:
    """Whether this is the evaluation of a method of the budget, not of the reference."""
    return record["kind"] == "evaluate" and record["spec"].get("budget") is not None


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Nested values as dotted names; lists and None as text.

    >>> _flat("method", {"guidance": 0.1, "codec": {"name": "linear"}, "x": None})
    {'method.guidance': '0.1', 'method.codec.name': 'linear'}
    """
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(f"{prefix}.{name}", value)
        elif value is not None:
            flat[f"{prefix}.{name}"] = str(value)
    return flat


def _clip(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as MLflow takes them: text of at most 5,000 characters, without the empty ones."""
    return {name: str(value)[:5000] for name, value in tags.items() if value is not None}


def _milliseconds(moment: Any) -> int | None:
    """Milliseconds since 1970 of an ISO time or of seconds; None stays None."""
    if moment is None:
        return None
    if isinstance(moment, (int, float)):
        return int(1000 * moment)
    return int(1000 * datetime.fromisoformat(str(moment)).timestamp())


def _artifact_root(store: Store) -> str:
    return (Path(store.path) / "mlartifacts").as_uri()


def _quiet_environment() -> dict[str, str]:
    """No telemetry; a server that does not answer is given up after seconds, not minutes."""
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
        "GIT_PYTHON_REFRESH": "quiet",
    }


@contextlib.contextmanager
def _first_touch(store: Store, uri: str) -> Iterator[None]:
    """A sqlite store with all its tables, whatever happens beside us or to us.

    One process at a time creates the tables, because concurrent first touches crash each other (5 of 6 in a trial), and it does so
    under a temporary name, because a file that a killed driver left half migrated would be refused for ever.
    """
    if not uri.startswith("sqlite:///") or not store.is_local:
        yield
        return
    import fcntl

    from mlflow import MlflowClient

    Path(store.path).mkdir(parents=True, exist_ok=True)
    with open(Path(store.path) / ".mlflow.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        database = Path(uri.removeprefix("sqlite:///"))
        if not database.exists():
            temporary = database.with_name(f".{database.name}.{uuid.uuid4().hex}.tmp")
            try:
                MlflowClient(tracking_uri=f"sqlite:///{temporary}").search_experiments(max_results=1)
                temporary.replace(database)
            finally:
                temporary.unlink(missing_ok=True)
        yield


def _owner() -> str:
    """This process, so that another can tell whether it still lives: host, pid, start."""
    return f"{socket.gethostname()} {os.getpid()} {_process_start(os.getpid())}"


def _is_dead(owner: str) -> bool:
    """Whether the process of an owner tag is gone from this host; one of another host cannot be judged and counts as alive."""
    try:
        host, pid, start = owner.rsplit(" ", 2)
        number = int(pid)
    except ValueError:
        return False
    if host != socket.gethostname():
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return start not in ("?", _process_start(number))


def _process_start(pid: int) -> str:
    """Start of a process in clock ticks, so that a reused pid is not taken for its former owner; empty where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
