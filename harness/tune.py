"""The search for method parameters: the same trials for every method, on held-out training clips, and a confirmation with fresh seeds.

A trial is an ordinary run of one method on a dataset that is made of the training split alone (harness.data.held_out): its sets are
distilled from one part and its networks tested on the other. Its tasks are keyed and stored like all others, under tuning/ in the results
folder, so that what is finished is never done again. The defaults are the first trial; what all trials share, such as a teacher, is made
with it. The other settings are run here one after the other, or by Ray Tune (harness.tune_ray).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from harness.config import Config, RunConfig
from harness.errors import UsageError, did_you_mean
from harness.names import parse_spec
from harness.registry import Registry
from harness.report.statistics import t_interval
from harness.rows import root_cause
from harness.runner import RunState, cache_folder
from harness.session import Session
from harness.space import Domain, draw_settings, search_space
from harness.spec import Tuned, content_hash
from harness.store import Store
from harness.words import percent, plural, points, seconds

FOLDER = "tuning"
"""Of the results folder: records of trials, and what was chosen."""
Ending = Literal["done", "failed", "declined"]


class Trial(BaseModel):
    """One setting of a method, and how it did.

    number: 0 is the defaults. setting: the parameters of the search space. scores: mean accuracy in [0, 1] on the held-out clips for each
    seed; one that a scheduler stopped has fewer. seconds: of the phases of its own tasks, without what the first trial made for all.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    setting: dict[str, Any]
    status: Ending
    scores: tuple[float, ...] = ()
    seconds: float = 0.0
    reason: str | None = None

    @property
    def score(self) -> float:
        """Mean over the seeds; 0 for one that failed."""
        return sum(self.scores) / len(self.scores) if self.status == "done" and self.scores else 0.0


@dataclass(frozen=True)
class Study:
    """One method under one protocol, ready for trials wherever they run.

    config: that of every trial. space: what is searched; defaults: the values of these parameters as they are. shared: keys of the tasks
    of the first trial, which are no other trial's cost. key: what the trials of it are stored under.
    """

    config: Config
    method: str
    space: Mapping[str, Domain]
    defaults: Mapping[str, Any]
    shared: frozenset[str] = frozenset()
    key: str = ""

    def session(self, setting: Mapping[str, Any], seeds: Sequence[int], executor: str) -> Session:
        """The run that a trial is."""
        name, protocol = self.config.protocol()
        methods = {**protocol.methods, self.method: {**protocol.methods.get(self.method, {}), **setting}}
        protocols = {**self.config.protocols, name: protocol.model_copy(update={"methods": methods, "tuned": {}})}
        run = self.config.run.model_copy(update={"methods": (self.method,), "seeds": tuple(seeds), "executor": executor})
        return Session(self.config.model_copy(update={"run": run, "protocols": protocols}), self.config.tune.held_out)

    def run(self, number: int, setting: Mapping[str, Any], seeds: Sequence[int], executor: str = "inline") -> Trial:
        """Do what is missing of a trial. Raises KeyboardInterrupt when it was stopped."""
        session = self.session(setting, seeds, executor)
        state = session.survey()
        if session.run(state=state) == "interrupted":
            raise KeyboardInterrupt
        return _judge(state, number, setting, self.shared)

    @property
    def seeds(self) -> range:
        """Of every trial."""
        return range(self.config.tune.seeds)

    @property
    def fresh_seeds(self) -> range:
        """Of the confirmation."""
        return range(self.config.tune.seeds, self.config.tune.seeds + self.config.tune.confirm)


class Searcher(Protocol):
    """Runs trials until ``seconds`` of them are spent, and tells each that ended. One call for each method."""

    def search(self, study: Study, past: Sequence[Trial], settings: Mapping[int, Mapping[str, Any]], tell: Callable[[Trial], None]) -> None:
        """past: what ended before. settings: number -> what is to be tried; a searcher of its own mind takes only their numbers."""
        ...


class Follower(Protocol):
    """Is told of every method and trial: the display, and MLflow."""

    def begin(self, study: Study) -> None: ...

    def trial(self, study: Study, trial: Trial) -> None: ...

    def end(self, study: Study, verdict: Verdict) -> None: ...


@dataclass(frozen=True)
class Verdict:
    """What came of a method. tuned: None where there was nothing to choose from. failed: whether that is a fault."""

    method: str
    text: str
    tuned: Tuned | None = None
    failed: bool = False


@dataclass
class Inline:
    """The settings one after the other, in this process."""

    def search(self, study: Study, past: Sequence[Trial], settings: Mapping[int, Mapping[str, Any]], tell: Callable[[Trial], None]) -> None:
        limit, spent = study.config.tune.seconds, sum(trial.seconds for trial in past)
        for number, setting in settings.items():
            if limit and spent >= limit:
                return
            trial = study.run(number, setting, study.seeds)
            spent += trial.seconds
            tell(trial)


@dataclass
class Tuning:
    """The search for all methods of a configuration. Nothing is run before it is asked for."""

    config: Config
    store: Store = field(init=False)
    trial_config: Config = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(f"{Store(self.config.run.results).root}/{FOLDER}")
        self.trial_config = _for_trials(self.config, self.store.root)

    def studies(self) -> list[Study]:
        """One for each method that was named. Raises UsageError where none of them declares a search space."""
        registry = Registry(self.config.run.plugins, self.config.plugin_defaults)
        found = []
        for spec in registry.expand("method", self.config.run.methods):
            name, inline = parse_spec(spec)
            if inline:
                raise UsageError(f"tune takes methods without parameters, got {spec!r}: fix one with --set methods.{name}.KEY=VALUE")
            method = registry.resolve("method", name, self.config.protocol()[1].methods.get(name))
            space = search_space(method.cls)
            defaults = {key: method.spec.params[key] for key in space}
            found.append(Study(self.trial_config, name, space, defaults))
        if not any(study.space for study in found):
            tunable = [n for n in registry.names("method") if search_space(registry.load("method", n))]
            named = ", ".join(study.method for study in found)
            raise UsageError(f"nothing to tune: {named} declares no search space{did_you_mean('', tunable)}")
        return found

    def tune(self, study: Study, searcher: Searcher, followers: Sequence[Follower] = ()) -> Verdict:
        """Search, confirm, and say what came of it. Raises KeyboardInterrupt; the same call goes on where it was."""
        for follower in followers:
            follower.begin(study)
        verdict = self._tune(study, searcher, followers)
        for follower in followers:
            follower.end(study, verdict)
        return verdict

    def _tune(self, study: Study, searcher: Searcher, followers: Sequence[Follower]) -> Verdict:
        if not study.space:
            return Verdict(study.method, "declares no search space: nothing to tune")
        default_session = study.session({}, study.seeds, self.config.run.executor)
        log = _Log(self.store, study, [cell.key for cell in default_session.plan().cells])
        study = replace(study, key=log.key)

        def tell(trial: Trial) -> None:
            for follower in followers:
                follower.trial(study, trial)

        def ended(trial: Trial) -> None:
            log.add(trial)
            tell(trial)

        if 0 in log.trials:
            tell(log.trials[0])
        else:
            ended(study.run(0, study.defaults, study.seeds, self.config.run.executor))
        if log.trials[0].status == "declined":
            return Verdict(study.method, f"declined: {log.trials[0].reason}")
        study = replace(study, shared=frozenset(default_session.plan().tasks))
        count = study.config.tune.trials
        past = [trial for number, trial in sorted(log.trials.items()) if number < count]
        for trial in past[1:]:
            tell(trial)
        waiting = {n: s for n, s in self._settings(study).items() if n not in log.trials}
        limit = study.config.tune.seconds
        if waiting and not (limit and sum(trial.seconds for trial in past) >= limit):
            searcher.search(study, past, waiting, ended)
        return self._choose(study, [trial for number, trial in sorted(log.trials.items()) if number < count])

    @staticmethod
    def _settings(study: Study) -> dict[int, dict[str, Any]]:
        """Number -> setting of all random trials but the first; none is tried twice."""
        tune = study.config.tune
        drawn = draw_settings(study.space, tune.trials - 1, tune.held_out.seed)
        known = [dict(study.defaults), *drawn]
        return {n: setting for n, setting in enumerate(known) if setting not in known[:n]}

    def _choose(self, study: Study, trials: Sequence[Trial]) -> Verdict:
        """The best trial against the defaults, with fresh seeds on the same held-out clips."""
        done = [trial for trial in trials if trial.status == "done"]
        if not done:
            return Verdict(study.method, f"no trial of {len(trials)} came to an end: {trials[0].reason}", failed=True)
        first, best = trials[0], max(done, key=lambda trial: (len(trial.scores), trial.score, -trial.number))
        spent = sum(trial.seconds for trial in trials)
        dataset = study.config.run.dataset

        def tuned(better: bool, score: float, default: float) -> Tuned:
            tune = study.config.tune
            params = dict(best.setting if better else study.defaults)
            known = {"trials": len(trials), "seconds": round(spent, 1), "score": round(score, 4), "default": round(default, 4)}
            return Tuned(params=params, better=better, **known, ipc=tune.ipc, dataset=dataset, search=tune.search)

        said = f"{plural(len(trials), 'trial')}, {seconds(spent)}"
        if best is first:
            text = f"tuned is not better than default: of {said} the defaults are the best, {percent(first.score)} %"
            return Verdict(study.method, text, tuned(False, first.score, first.score))
        fresh = [study.run(t.number, t.setting, study.fresh_seeds, self.config.run.executor) for t in (first, best)]
        spent += sum(trial.seconds for trial in fresh)
        default, chosen = fresh
        if chosen.status != "done":
            return Verdict(study.method, f"trial {best.number} was the best but did not end well again: {chosen.reason}", failed=True)
        if default.status != "done":
            text = f"trial {best.number} reaches {percent(chosen.score)} % on fresh seeds; the defaults do not run: {default.reason}"
            return Verdict(study.method, text, tuned(True, chosen.score, 0.0))
        differences = [b - a for a, b in zip(default.scores, chosen.scores, strict=True)]
        mean, interval = sum(differences) / len(differences), t_interval(differences)
        within = f" [{points(interval[0])}, {points(interval[1])}]" if interval else ""
        text = (
            f"trial {best.number} of {said}: {percent(chosen.score)} % against {percent(default.score)} % on "
            f"{plural(len(differences), 'fresh seed')}, {points(mean)}{within} points"
        )
        if mean <= 0:
            return Verdict(study.method, f"tuned is not better than default: {text}", tuned(False, default.score, default.score))
        if interval is None or interval[0] <= 0:
            text += "; the interval includes 0"
        return Verdict(study.method, text, tuned(True, chosen.score, default.score))


class _Log:
    """The trials of a study that have ended, as they are stored: what a searcher went by, and what a scheduler stopped."""

    def __init__(self, store: Store, study: Study, cells: Sequence[str]) -> None:
        tune = study.config.tune
        space = {name: repr(domain) for name, domain in study.space.items()}
        digest = content_hash([study.method, sorted(cells), space, tune.search, tune.scheduler, tune.held_out.seed])
        self.key = f"{study.method}-{digest[:16]}"
        self._store, self._name = store, f"studies/{self.key}.json"
        stored = store.read_json(self._name) or []
        self.trials = {trial.number: trial for trial in map(Trial.model_validate, stored)}

    def add(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self._store.write_json(self._name, [t.model_dump(mode="json") for _, t in sorted(self.trials.items())])


def _judge(state: RunState, number: int, setting: Mapping[str, Any], shared: frozenset[str]) -> Trial:
    """How a trial did, from the records of its tasks."""
    tasks = state.plan.tasks
    told: dict[str, Any] = {"number": number, "setting": dict(setting)}
    cells = [cell for cell in state.plan.cells if tasks[cell.key].skip is None]
    if not cells:
        return Trial(**told, status="declined", reason=tasks[state.plan.cells[0].key].skip)
    own = [record for key, record in state.records.items() if key in tasks and key not in shared]
    told["seconds"] = sum(phase.seconds for record in own for phase in record.phases.values())
    by_seed: dict[int, list[float]] = {}
    for cell in cells:
        record = state.records[cell.key]
        accuracy = record.metrics.get("accuracy")
        if record.status != "done" or accuracy is None:
            return Trial(**told, status="failed", reason=root_cause(record, state.records).reason)
        by_seed.setdefault(cell.seed, []).append(accuracy)
    return Trial(**told, status="done", scores=tuple(sum(found) / len(found) for _, found in sorted(by_seed.items())))


def _for_trials(config: Config, results: str) -> Config:
    """The configuration that all trials share: budgets of [tune], no extras, and no path that depends on the current folder."""
    run = config.run
    update: dict[str, Any] = {
        "results": results,
        "cache": cache_folder(config=config, store=Store(run.results)),
        "data_root": os.path.abspath(run.data_root) if run.data_root else "",
        "plugins": tuple(os.path.abspath(path) for path in run.plugins),
        "protocol": config.protocol()[0],
        "ipc": config.tune.ipc,
        "quality": False,
        "reference": False,
        "track": False,
        "rerun": "failed",
        "stale": "rerun",
    }
    return config.model_copy(update={"run": RunConfig.model_validate({**run.model_dump(), **update})})
