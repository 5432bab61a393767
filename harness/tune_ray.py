"""Trials by Ray Tune: its searchers, its schedulers, its placement on one node or a cluster.

Its own resume is not used: ``Tuner.restore`` cannot add trials, and the records of tasks and the log of a study tell all that it would.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.space import Choice, Domain, Log, short
from harness.tune import Study, Trial

_SCORE, _TRIAL = "score", "trial"
"""What a trial reports: its mean so far, which Tune goes by, and all of it, as JSON."""


@dataclass
class RayTune:
    """A searcher on Ray Tune. Enter it once for all methods: it starts Ray, or joins the cluster of RAY_ADDRESS."""

    workers: int = 0
    """Trials at a time; 0: as many as the CPUs or GPUs allow."""

    @contextlib.contextmanager
    def running(self) -> Iterator[RayTune]:
        from harness.executors.connection import ray_running

        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # plugins may name files relative to the current folder
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # the first Ctrl-C ends it
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the other one prints tables with verbose=0 too
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # MLflow is told by us
        with ray_running(self.workers):
            yield self

    def search(self, study: Study, past: Sequence[Trial], settings: Mapping[int, Mapping[str, Any]], tell: Callable[[Trial], None]) -> None:
        from ray import tune

        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        asked = study.config.tune
        space: dict[str, Any]
        if asked.search == "optuna":
            space, searcher = {}, _optuna(study, past)
            count = asked.trials - len(past)
        else:
            space, searcher = {_TRIAL: tune.grid_search([{"number": n, "setting": dict(s)} for n, s in settings.items()])}, None
            count = 1
        asha = tune.schedulers.ASHAScheduler(max_t=asked.seeds, grace_period=1, reduction_factor=2) if asked.scheduler == "asha" else None
        spent = _Spent(asked.seconds, sum(trial.seconds for trial in past))
        with tempfile.TemporaryDirectory(prefix="harness-tune-") as folder:
            tuner = tune.Tuner(
                tune.with_resources(tune.with_parameters(_trainable(), study=study), self._resources(study)),
                param_space=space,
                tune_config=tune.TuneConfig(
                    metric=_SCORE,
                    mode="max",
                    search_alg=searcher,
                    scheduler=asha,
                    num_samples=count,
                    max_concurrent_trials=self.workers or None,
                    trial_name_creator=lambda trial: f"{study.method}_{trial.trial_id}",
                ),
                run_config=tune.RunConfig(
                    name=study.method,
                    storage_path=folder,
                    stop=_stopper(spent),
                    callbacks=[_callback(_Ended(past, spent, tell))],
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            tuner.fit()

    @staticmethod
    def _resources(study: Study) -> dict[str, float]:
        """What a trial holds: the most that one of its tasks is given."""
        import ray

        total, of = ray.cluster_resources(), study.config.resources
        kinds = (of.asset, of.distill, of.evaluate)
        gpus = 0.0 if study.config.run.device == "cpu" else min(max(kind.gpus for kind in kinds), total.get("GPU", 0.0))
        return {"cpu": min(max(kind.cpus for kind in kinds), total.get("CPU", 1.0)), "gpu": gpus}


class _Ended:
    """Tells of trials as Tune's driver learns that they ended; one that ran out of time is not told, and is done again."""

    def __init__(self, past: Sequence[Trial], spent: _Spent, tell: Callable[[Trial], None]) -> None:
        self.numbers = {trial.number for trial in past}
        self.spent, self.tell = spent, tell

    def result(self, result: Mapping[str, Any] | None) -> None:
        if not result or _TRIAL not in result or (self.spent.stop_all() and not result["done"]):
            return
        trial = Trial.model_validate_json(result[_TRIAL])
        self._tell(trial)

    def error(self, config: Mapping[str, Any], reason: str) -> None:
        """Of a trial whose process died; what goes wrong in a task is a result."""
        number, setting = drawn(config)
        self._tell(Trial(number=number, setting=setting, status="failed", reason=reason))

    def _tell(self, trial: Trial) -> None:
        if trial.number < 0:
            trial = trial.model_copy(update={"number": max(self.numbers) + 1})
        self.numbers.add(trial.number)
        self.tell(trial)


class _Spent:
    """The seconds of all trials of a method, and whether that is as many as it may have. limit 0: there is none."""

    def __init__(self, limit: float, before: float) -> None:
        self.limit, self.before = limit, before
        self.seconds: dict[str, float] = {}

    def stop_all(self) -> bool:
        return self.limit > 0 and self.before + sum(self.seconds.values()) >= self.limit


def _optuna(study: Study, past: Sequence[Trial]) -> Any:
    """A searcher that knows how earlier trials did; defaults outside of the searched range teach it nothing."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def distribution(domain: Domain) -> Any:
        if isinstance(domain, Choice):
            return CategoricalDistribution(domain.options)
        if domain.whole:
            return IntDistribution(round(domain.low), round(domain.high), log=isinstance(domain, Log))
        return FloatDistribution(domain.low, domain.high, log=isinstance(domain, Log))

    known = [t for t in past if all(domain.contains(t.setting[name]) for name, domain in study.space.items())]
    return OptunaSearch(
        {name: distribution(domain) for name, domain in study.space.items()},
        metric=_SCORE,
        mode="max",
        seed=study.config.tune.held_out.seed + len(past),
        points_to_evaluate=[t.setting for t in known],
        evaluated_rewards=[t.score for t in known],
    )


def _stopper(spent: _Spent) -> Any:
    from ray import tune

    class Stopper(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            spent.seconds[trial_id] = result["seconds"]
            return False

        def stop_all(self) -> bool:
            return spent.stop_all()

    return Stopper()


def _callback(ended: _Ended) -> Any:
    from ray import tune

    class Callback(tune.Callback):
        def __init__(self, ended: _Ended | None) -> None:
            self.ended = ended

        def __reduce__(self) -> tuple[Any, ...]:
            return type(self), (None,)  # Tune keeps a copy for its own resume; a display cannot be copied

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            if self.ended is not None:
                self.ended.result(trial.last_result)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            if self.ended is not None:
                self.ended.error(trial.config, f"its process ended: {_last_line(trial)}")

    return Callback(ended)


def drawn(config: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Number and setting of a trial, from what Tune gives it; a searcher of its own mind does not count, and the number is -1."""
    if _TRIAL in config:
        return config[_TRIAL]["number"], dict(config[_TRIAL]["setting"])
    return -1, {name: short(value) for name, value in config.items()}


def _last_line(trial: Any) -> str:
    lines = str(trial.get_error() or "").strip().splitlines()
    return lines[-1][:300] if lines else "no reason known"


def _trainable() -> type:
    from ray import tune

    class Trainable(tune.Trainable):  # type: ignore[misc]
        """A trial, seed by seed: what it reports after each is its mean so far, so that a scheduler may stop it."""

        def setup(self, config: dict[str, Any], study: Study) -> None:  # type: ignore[override]
            self.study = study
            self.number, self.setting = drawn(config)

        def step(self) -> dict[str, Any]:
            seeds = self.study.seeds[: self.iteration + 1]
            trial = self.study.run(self.number, self.setting, seeds)
            over = len(seeds) == len(self.study.seeds) or trial.status != "done"
            return {_SCORE: trial.score, "seconds": trial.seconds, _TRIAL: trial.model_dump_json(), "done": over}

    return Trainable
