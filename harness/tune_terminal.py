"""Tuning at the terminal: every trial as it ends, what was chosen, and where it stands."""

from __future__ import annotations

import contextlib

from rich.console import Console

from harness.config import Config
from harness.errors import UsageError
from harness.stopping import stoppable
from harness.terminal import EXIT_CODES
from harness.tune import Follower, Inline, Searcher, Study, Trial, Tuning, Verdict
from harness.tune_presets import write_presets
from harness.words import percent, plural, seconds


def tune_methods(config: Config) -> int:
    """Tune the methods of a configuration and write their presets; returns the exit code."""
    console = Console(markup=False, width=None if Console().is_terminal else 250)
    tune, inline = config.tune, config.run.executor == "inline"
    if inline and (tune.search != "random" or tune.scheduler != "none"):
        asked = f"--search {tune.search}" if tune.search != "random" else f"--scheduler {tune.scheduler}"
        raise UsageError(f"{asked} needs Ray Tune: use --executor ray; inline is a random search without a scheduler")
    tuning = Tuning(config)
    studies = tuning.studies()
    tuning.store.check_writable()
    with contextlib.ExitStack() as stack:
        searcher: Searcher = Inline() if inline else stack.enter_context(_ray(config))
        followers: list[Follower] = [_Display(console)]
        if config.run.track:
            from harness.tune_runs import TrialRuns

            runs = TrialRuns(config, lambda text: console.print(f"tracking: {text}", style="yellow", highlight=False))
            followers.append(runs)
        verdicts: list[Verdict] = []
        ending = "interrupted"
        try:
            with stoppable():
                for study in studies:
                    verdicts.append(tuning.tune(study, searcher, followers))
            ending = "failed" if any(verdict.failed for verdict in verdicts) else "done"
        except KeyboardInterrupt:
            console.print("interrupted: the same command goes on where it was", highlight=False)
        finally:
            if config.run.track:
                runs.close({"done": "FINISHED", "failed": "FAILED"}.get(ending, "KILLED"))
    tuned = {verdict.method: verdict.tuned for verdict in verdicts if verdict.tuned is not None}
    if tuned:
        console.print(f"presets: {write_presets(config, tuned)}", highlight=False, soft_wrap=True)
    return EXIT_CODES[ending]


def _ray(config: Config) -> contextlib.AbstractContextManager[Searcher]:
    try:
        import ray.tune  # noqa: F401

        from harness.tune_ray import RayTune

        if config.tune.search == "optuna":
            import optuna  # noqa: F401
    except ImportError as error:
        raise UsageError(f"this needs the package {error.name!r}: install it, or use --executor inline with a random search") from error
    return RayTune(config.run.workers).running()


class _Display:
    """A line for each trial."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, study: Study) -> None:
        space = ", ".join(f"{name} in {domain}" for name, domain in study.space.items())
        self._print(f"{study.method}: {space}" if space else study.method, bold=True)

    def trial(self, study: Study, trial: Trial) -> None:
        setting = ", ".join(f"{name} {value}" for name, value in trial.setting.items())
        result = f"{percent(trial.score)} %" if trial.status == "done" else f"{trial.status}: {trial.reason}"
        if trial.status == "done" and len(trial.scores) < len(study.seeds):
            result += f", stopped after {plural(len(trial.scores), 'seed')}"
        first = " (defaults)" if trial.number == 0 else ""
        self._print(f"  {trial.number:>3}  {result}  {seconds(trial.seconds)}  {setting}{first}")

    def end(self, study: Study, verdict: Verdict) -> None:
        self._print(f"  {verdict.text}")

    def _print(self, text: str, bold: bool = False) -> None:
        self._console.print(text, style="bold" if bold else None, highlight=False, soft_wrap=True)
