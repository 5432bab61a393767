"""Sweeps and cells as MLflow runs: everything that talks to MLflow's client.

    parent run = sweep (one command), child run = cell (one evaluate record)
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.rows import Record, cell_rows
from harness.store import Store, content_hash

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


class RunWriter:
    """Writes runs to the MLflow store at ``uri``, and knows which are there. Lives in the mirror's thread and may raise."""

    def __init__(self, store: Store, uri: str) -> None:
        for name, value in quiet_environment().items():
            os.environ.setdefault(name, value)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.store = store
        self.uri = uri
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
        root = artifact_root(self.store) if self.uri.startswith("sqlite:") and self.store.is_local else None
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


def artifact_root(store: Store) -> str:
    return (Path(store.path) / "mlartifacts").as_uri()


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
