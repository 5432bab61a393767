"""Trials as MLflow runs, in an experiment of their own: the parent run is a tuning (dataset, protocol, budgets), its children are trials.

Like the mirror of cells it is written by the driver alone and never read back for numbers: the same `tune` command writes what is missing.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

from harness.config import Config
from harness.mlflow_place import artifact_place, first_touch, quiet_environment, tracking_uri
from harness.spec import content_hash
from harness.store import Store
from harness.tune import Study, Trial, Verdict

EXPERIMENT = "video-dataset-distillation: tuning"
_TUNING, _TRIAL = "harness.tuning", "harness.trial"
_STATUS = {"done": "FINISHED", "declined": "FINISHED", "failed": "FAILED"}


class TrialRuns:
    """Follows a tuning. report: told of each distinct tracking error, none of which touches the search."""

    def __init__(self, config: Config, report: Callable[[str], None]) -> None:
        self._config, self._report = config, report
        self._told: set[str] = set()
        self._client: Any = None
        with self._reported():
            self._open()

    def begin(self, study: Study) -> None:
        """Nothing: a run is made when its trial has ended."""

    def trial(self, study: Study, trial: Trial) -> None:
        """One run for each trial, whenever it was made."""
        with self._reported():
            name, key = f"{study.method} {trial.number}", f"{study.key} {trial.number}"
            if self._client is None or key in self._known:
                return
            tags = {_TRIAL: key, "mlflow.parentRunId": self._parent, "mlflow.runName": name, "harness.reason": trial.reason or ""}
            run = self._client.create_run(self._experiment, tags={k: v for k, v in tags.items() if v}).info.run_id
            self._known.add(key)
            for key, value in {"method": study.method, "trial": trial.number, **trial.setting}.items():
                self._client.log_param(run, key, value)
            if trial.status == "done":
                self._client.log_metric(run, "held_out_accuracy", trial.score)
                for seed, score in zip(study.seeds, trial.scores, strict=False):
                    self._client.log_metric(run, "held_out_accuracy_by_seed", score, step=seed)
            self._client.log_metric(run, "trial_seconds", trial.seconds)
            self._client.set_terminated(run, _STATUS[trial.status])

    def end(self, study: Study, verdict: Verdict) -> None:
        """What came of a method stands in the parent."""
        with self._reported():
            if self._client is not None:
                self._client.set_tag(self._parent, f"harness.verdict.{study.method}", verdict.text)

    def close(self, status: str) -> None:
        """Close the parent: FINISHED, FAILED or KILLED."""
        with self._reported():
            if self._client is not None:
                self._client.set_terminated(self._parent, status)

    def _open(self) -> None:
        for name, value in quiet_environment().items():
            os.environ.setdefault(name, value)
        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        uri = tracking_uri(Store(self._config.run.results))
        with first_touch(uri):
            client = MlflowClient(tracking_uri=uri)
            found, place = client.get_experiment_by_name(EXPERIMENT), artifact_place(uri)
            self._experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT, place.as_uri() if place else None)
        tuning, name = self._identity()
        parents = client.search_runs([self._experiment], f"tags.`{_TUNING}` = '{tuning}'")
        if parents:
            self._parent = parents[0].info.run_id
        else:
            self._parent = client.create_run(self._experiment, tags={_TUNING: tuning, "mlflow.runName": name}).info.run_id
            for key, value in self._config.tune.model_dump(mode="json").items():
                client.log_param(self._parent, key, value)
        client.update_run(self._parent, status="RUNNING")
        children = client.search_runs([self._experiment], f"tags.`mlflow.parentRunId` = '{self._parent}'", max_results=10_000)
        self._known = {run.data.tags.get(_TRIAL, "") for run in children}
        self._client = client

    def _identity(self) -> tuple[str, str]:
        """What makes two commands one tuning, so that one that goes on, or adds methods or trials, adds to its run."""
        run, tune, (protocol, section) = self._config.run, self._config.tune, self._config.protocol()
        same = tune.model_dump(mode="json", exclude={"trials", "seconds", "confirm"})
        recipe = section.train.keyed()
        axes = [run.dataset, run.evaluators, run.labels, protocol, recipe, same]
        return content_hash(axes)[:16], f"{run.dataset} {protocol} ipc {','.join(map(str, tune.ipc))}"

    @contextlib.contextmanager
    def _reported(self) -> Any:
        try:
            yield
        except Exception as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            if text not in self._told:
                self._told.add(text)
                self._report(text)
