"""Sweeps and cells as MLflow runs: everything that talks to MLflow's client.

    parent run = sweep (one command), child run = cell (one evaluate record)
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.metrics import METRICS
from harness.mlflow_place import EXPERIMENT, artifact_place, first_touch, own_place, quiet_environment, settle_artifacts
from harness.mlflow_terms import (
    CONTENT,
    KEY,
    OWNER,
    SWEEP,
    cell_curves,
    cell_metrics,
    cell_params,
    cell_tags,
    clip,
    dataset_input,
    run_name,
    sweep_name,
    sweep_tags,
)
from harness.mlflow_views import TAG, table_view
from harness.record import Record, Sweep
from harness.rows import Records, Row, cell_rows
from harness.spec import content_hash
from harness.store import Store

TABLE = "cells"
"""The view of every cell."""
LATE = frozenset(metric.name for metric in METRICS if metric.place in ("quality", "derived"))
"""What may become known after the cell has ended, from another task: it is added to the cell's run."""
_RUN_STATUS = {"done": "FINISHED", "interrupted": "KILLED"}
"""Status of a record or sweep -> status of its run; all others are FAILED."""
_REPORT = "harness.report"
"""Tag of a sweep with the digest of the report that is attached to it."""
_BATCH, _PARAM_BATCH = 800, 100
"""Metrics and parameters of one request; MLflow takes 1,000 entries of all sorts, and of parameters 100."""


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
        self.place = own_place(store, uri)
        with first_touch(uri):
            settle_artifacts(store, uri)
            self.client = MlflowClient(tracking_uri=uri)
            self.experiment = self._experiment()
        self.owner = _owner()
        self.sweeps: dict[str, str] = {}
        self.runs: dict[str, str] = {}
        self.content: dict[str, str] = {}
        self.late: dict[str, dict[str, float]] = {}
        self._survey()

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            place = artifact_place(self.uri)
            # The kind opens the interface in its model training view instead of asking.
            tags = {"mlflow.experimentKind": "custom_model_development", f"{TAG}{TABLE}": table_view()}
            return str(self.client.create_experiment(EXPERIMENT, place.as_uri() if place else None, tags))
        if found.tags.get(f"{TAG}{TABLE}") != table_view():
            self.client.set_experiment_tag(found.experiment_id, f"{TAG}{TABLE}", table_view())
        return str(found.experiment_id)

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
            self.late[tags[KEY]] = {name: value for name, value in run.data.metrics.items() if name in LATE}
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

    def begin(self, sweep: Sweep) -> None:
        """The parent run of a sweep, owned by this process and running."""
        run_id = self._parent(sweep.id, sweep)
        self.client.set_tag(run_id, OWNER, self.owner)
        self.client.update_run(run_id, status="RUNNING")

    def end(self, sweep: Sweep) -> None:
        """Close the parent run of a sweep by the sweep's status; one that says "running" is closed when its process is gone."""
        run_id, status = self._parent(sweep.id, sweep), sweep.status
        if status == "running":
            if not _is_dead(f"{sweep.host} {sweep.pid} ?"):
                return
            status = "interrupted"
        self.client.set_terminated(run_id, _RUN_STATUS.get(status, "FAILED"), end_time=_milliseconds(sweep.ended_at))

    def _parent(self, name: str, sweep: Sweep | None = None) -> str:
        """The run of a sweep, made where there is none; of a sweep that is not at hand its id is known."""
        if name not in self.sweeps:
            for run in self.search(f"tags.`{SWEEP}` = '{name}'"):
                self._learn(run)
        if name not in self.sweeps:
            started = _milliseconds(sweep.started_at) if sweep else None
            tags: dict[str, Any] = {SWEEP: name, "mlflow.runName": name}
            if sweep is not None:
                tags |= {**sweep_tags(sweep), "mlflow.runName": sweep_name(sweep)}
            self.sweeps[name] = self.client.create_run(self.experiment, start_time=started, tags=clip(tags)).info.run_id
            self._log(self.sweeps[name], params=sweep.config.get("run", {}) if sweep else {})
            self.client.set_terminated(self.sweeps[name], "FINISHED")
        return self.sweeps[name]

    def attach(self, sweep: str, folder: Path) -> bool:
        """Put the files of a report under a sweep's run. False where they are there already."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digest = content_hash([(str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
        run_id = self.sweeps[sweep]
        if self.client.get_run(run_id).data.tags.get(_REPORT) == digest:
            return False
        self._upload(run_id, folder, "report")
        self.client.set_tag(run_id, _REPORT, digest)
        return True

    # Cells

    def cells(self, keys: Collection[str], records: Records) -> int:
        """Mirror these evaluate records, and the relative accuracies that a reference among them makes known."""
        written = 0
        wanted = set(keys)
        reference = any(not records[key].is_cell for key in wanted)
        # Rows are joined for the cells asked for and the reference alone, so that a long run does not join all of them every time.
        shown = records if reference else {k: r for k, r in records.items() if k in wanted or not r.is_cell}
        for row in cell_rows(shown):
            if row.key in wanted:
                written += self._cell(row, records)
            elif row.key in self.runs:
                self._complete(row)
        return written

    def rebuild(self, records: Records, sweeps: Sequence[Sweep], fresh: bool) -> int:
        if fresh:
            for run_id in [run.info.run_id for run in self.search("")]:
                self.client.delete_run(run_id)
            for known in (self.sweeps, self.runs, self.content, self.late):
                known.clear()
        before = len(self.sweeps)
        for sweep in sweeps:
            if sweep.id not in self.sweeps:
                self.end(sweep)
        written = self.cells([key for key, record in records.items() if record.kind == "evaluate"], records)
        return written + len(self.sweeps) - before

    def _complete(self, row: Row) -> None:
        """Add what has become known of a cell since its run was written."""
        known = self.late.setdefault(row.key, {})
        for name in LATE:
            value = row.value(name)
            if value is not None and known.get(name) != value:
                self.client.log_metric(self.runs[row.key], name, value)
                known[name] = value

    def _cell(self, row: Row, records: Records) -> int:
        """Write one cell into its run; 0 when the run holds this very cell already."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

        record = records[row.key]
        made = records.get(record.inputs.get("distill" if record.is_cell else "teacher", ""))
        values, params = cell_metrics(row), cell_params(row, record)
        settled = {name: value for name, value in values.items() if name not in LATE}
        content = content_hash([record.content(), made.content() if made else None, settled, run_name(row), params])
        if row.key not in self.runs:
            for run in self.search(f"tags.`{KEY}` = '{row.key}'"):  # another driver may have written it since
                self._learn(run)
        if self.content.get(row.key) == content:
            self._complete(row)
            return 0
        parent = {"mlflow.parentRunId": self._parent(row.sweep)} if row.sweep else {}
        if row.key in self.runs:
            self.client.delete_run(self.runs.pop(row.key))  # an older record of this cell, or half of one: its values would mix with these
        origin = record.provenance
        started, ended = _milliseconds(origin.started_at), _milliseconds(origin.ended_at)
        tags = clip({**cell_tags(row, record), **parent, OWNER: self.owner})
        run_id = self.runs[row.key] = self.client.create_run(self.experiment, start_time=started, tags=tags).info.run_id
        metrics = [Metric(name, value, ended or 0, 0) for name, value in values.items()]
        metrics += [Metric(name, value, ended or 0, step) for name, step, value in cell_curves(record, made)]
        self._log(run_id, metrics, params)
        source = DatasetInput(Dataset(**dataset_input(row)), [InputTag("mlflow.data.context", "train")])
        self.client.log_inputs(run_id, datasets=[source])
        self.late[row.key] = {name: value for name, value in values.items() if name in LATE}
        self._artifacts(run_id, record, made)
        self.client.set_terminated(run_id, _RUN_STATUS.get(row.status, "FAILED"), end_time=ended)
        self.client.set_tag(run_id, CONTENT, content)  # last: a run without it is written again
        self.content[row.key] = content
        return 1

    def _log(self, run_id: str, metrics: Sequence[Any] = (), params: Mapping[str, Any] | None = None) -> None:
        """Metrics (MLflow's entities) and parameters, in requests of a size that MLflow takes."""
        from mlflow.entities import Param

        texts = [Param(name, str(value)[:6000]) for name, value in (params or {}).items()]
        for start in range(0, len(texts), _PARAM_BATCH):
            self.client.log_batch(run_id, params=texts[start : start + _PARAM_BATCH])
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def _artifacts(self, run_id: str, record: Record, made: Record | None) -> None:
        """The record itself, so that every run has a file to compare, and the previews of the distilled set."""
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(record.content(), indent=1, sort_keys=True)
            (Path(folder) / "record.json").write_text(text, encoding="utf-8")
            for name in ("preview.png", "preview.gif", "stored.png", "stored.gif"):
                if made is not None and name in made.artifacts:
                    (Path(folder) / name).write_bytes(self.store.read_artifact(made, name))
            self._upload(run_id, Path(folder))

    def _upload(self, run_id: str, folder: Path, under: str = "") -> None:
        if self.place is None:
            self.client.log_artifacts(run_id, str(folder), under or None)
        else:  # without asking the database, which another process may have settled for its own name of this folder
            shutil.copytree(folder, self.place / run_id / "artifacts" / under, dirs_exist_ok=True)


def _milliseconds(moment: str | None) -> int | None:
    """Milliseconds since 1970 of an ISO time; None stays None."""
    return int(1000 * datetime.fromisoformat(moment).timestamp()) if moment else None


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
