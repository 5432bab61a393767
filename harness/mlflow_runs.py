"""Sweeps and cells as MLflow runs: everything that talks to MLflow's client.

    parent run = sweep (one command), child run = cell (one evaluate record)
"""

from __future__ import annotations

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
from harness.record import Record, Sweep
from harness.rows import Records, Row, cell_rows
from harness.spec import EvaluateSpec, content_hash
from harness.store import Store

KEY, SWEEP, OWNER, CONTENT, DESCRIBED = "harness.key", "harness.sweep", "harness.owner", "harness.content", "harness.metrics"
LATE = frozenset(metric.name for metric in METRICS if metric.place in ("quality", "derived"))
"""What may become known after the cell has ended, from another task: it is added to the cell's run."""
_RUN_STATUS = {"done": "FINISHED", "interrupted": "KILLED"}
"""Status of a record or sweep -> status of its run; all others are FAILED."""
_BATCH, _PARAM_BATCH = 800, 100
"""Metrics and parameters of one request; MLflow takes 1,000 entries of all sorts, and of parameters 100."""
_TAG_LENGTH = 5000
"""Characters of a tag; what servers of all ages take."""


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
        if found is not None:
            return str(found.experiment_id)
        place = artifact_place(self.uri)
        # The kind opens the interface in its model training view instead of asking.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(EXPERIMENT, place.as_uri() if place else None, tags))

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
            tags = {SWEEP: name, "mlflow.runName": name, **(_sweep_tags(sweep) if sweep else {})}
            self.sweeps[name] = self.client.create_run(self.experiment, start_time=started, tags=_clip(tags)).info.run_id
            self._log(self.sweeps[name], params=sweep.config.get("run", {}) if sweep else {})
            self.client.set_terminated(self.sweeps[name], "FINISHED")
        return self.sweeps[name]

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
        from mlflow.entities import Metric

        record = records[row.key]
        made = records.get(record.inputs.get("distill" if record.is_cell else "teacher", ""))
        values = {name: value for name, value in row.values.items() if value is not None}
        settled = {name: value for name, value in values.items() if name not in LATE}
        content = content_hash([record.content(), made.content() if made else None, settled])
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
        tags = _clip({**_cell_tags(row, record), **parent, OWNER: self.owner})
        run_id = self.runs[row.key] = self.client.create_run(self.experiment, start_time=started, tags=tags).info.run_id
        metrics = [Metric(name, value, ended or 0, 0) for name, value in values.items()]
        metrics += [Metric(name, value, ended or 0, step) for name, step, value in _curves(record, made)]
        self._log(run_id, metrics, _params(row, record))
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
            if self.place is None:
                self.client.log_artifacts(run_id, folder)
            else:  # without asking the database, which another process may have settled for its own name of this folder
                shutil.copytree(folder, self.place / run_id / "artifacts", dirs_exist_ok=True)


def _sweep_tags(sweep: Sweep) -> dict[str, Any]:
    """Where a sweep ran, and on what."""
    elsewhere = {"id", "status", "cells", "kept", "config", "packages"}
    tags = {**sweep.model_dump(mode="json", exclude=elsewhere), **_flat("package", sweep.packages)}
    return {**tags, "mlflow.note.content": f"`{sweep.command}`"} if sweep.command else tags


def _cell_tags(row: Row, record: Record) -> dict[str, Any]:
    """How a cell ended, where it comes from, and what its metrics mean: name -> title, unit, better."""
    tags = {KEY: row.key, "mlflow.runName": row.name, "harness.status": row.status, "harness.reason": row.reason}
    tags |= record.provenance.model_dump(mode="json", exclude={"sweep", "started_at", "ended_at", "seconds", "libraries"})
    described = {m.name: (m.heading, m.unit, m.better) for m in (*METRICS, *row.declared) if row.value(m.name) is not None}
    while len(text := json.dumps(described, ensure_ascii=False)) > _TAG_LENGTH:
        described.popitem()  # a plugin with very many numbers: half of a JSON text says nothing
    return {**tags, **_flat("library", row.libraries), DESCRIBED: text}


def _params(row: Row, record: Record) -> dict[str, object]:
    """The seven axes of a cell, then the resolved parameters of its plugins and its protocol."""
    spec = record.spec
    assert isinstance(spec, EvaluateSpec)
    axes = {
        "dataset": row.dataset, "method": row.method_label, "ipc": "all" if row.ipc is None else row.ipc, "labels": row.labels,
        "evaluator": row.evaluator_label, "protocol": row.protocol, "seed": row.seed,
    }  # fmt: skip
    plugins = {"method": spec.method, "evaluator": spec.evaluator, "dataset": spec.dataset}
    resolved: dict[str, str] = {}
    for kind, plugin in plugins.items():
        resolved |= _flat(kind, plugin.params)
    return {**axes, **resolved, **_flat("protocol", spec.protocol.recipe.model_dump(mode="json"))}


def _curves(record: Record, made: Record | None) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) of a cell's training curves and of its method's. The reference's network was trained as an asset: there
    "loss" is what a cell calls "train_loss"."""
    for source, prefix in ((record, ""), (made, "distill." if record.is_cell else "train_")):
        for name, points in source.curves.items() if source is not None else ():
            for step, value in points:
                yield f"{prefix}{name}", step, value


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Nested values as dotted names, as text; without what is None.

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
    """Tags as MLflow takes them: text, not too long, without the empty ones."""
    return {name: str(value)[:_TAG_LENGTH] for name, value in tags.items() if value is not None}


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
