"""Tuning: on training clips alone, the same trials for all, resumable, and known as tuned afterwards."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from scipy import stats

from harness.cli import main
from harness.config import Config, load_config
from harness.data.base import Item
from harness.data.cache import ClipCache, read_index
from harness.data.held_out import HeldOutDataset
from harness.errors import UsageError
from harness.guard import Guard
from harness.report.build import make_report
from harness.report.load import load
from harness.session import Session
from harness.space import Choice, Log, Range, draw_settings, search_space
from harness.spec import HeldOut
from harness.store import Store
from harness.tune import Inline, Study, Trial, Tuning, Verdict
from harness.tune_presets import write_presets
from tests.conftest import TINY, TINY_BENCH, Harness
from tests.plugins.tunable import Guarded, Several

TUNABLE = TINY.with_name("tunable.py")
TUNE = """
[datasets.tiny]
protocol = "tiny"
params = { train = 30 }

[datasets.guarded]
protocol = "tiny"

[protocols.tiny]
epochs = 60
lr = 0.1
test_batch = 8

[tune]
trials = 4
ipc = [1]
seeds = 2
confirm = 2
"""


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    path = tmp_path / "tune.toml"
    path.write_text(TINY_BENCH.split("[datasets.tiny]")[0] + TUNE, encoding="utf-8")
    return path


@pytest.fixture
def configure(tmp_path: Path, overlay: Path) -> Callable[..., Config]:
    def make(*assignments: str, **run: Any) -> Config:
        given = {"results": str(tmp_path / "results"), "plugins": [str(TINY), str(TUNABLE)], "methods": ["fog"], **run}
        return load_config(overlay, assignments, given)

    return make


class Watcher:
    """Follows a tuning; may stop it."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.trials: list[Trial] = []
        self.stop_after = stop_after

    def begin(self, study: Study) -> None: ...

    def trial(self, study: Study, trial: Trial) -> None:
        self.trials.append(trial)
        if len(self.trials) == self.stop_after:
            raise KeyboardInterrupt

    def end(self, study: Study, verdict: Verdict) -> None: ...


def tune(config: Config, watcher: Watcher | None = None) -> tuple[Verdict, list[Trial]]:
    """Tune the only method of a configuration in this process."""
    watcher = watcher or Watcher()
    tuning = Tuning(config)
    (study,) = tuning.studies()
    return tuning.tune(study, Inline(), [watcher]), watcher.trials


# Search spaces


def test_draws_have_the_declared_distributions() -> None:
    drawn = draw_settings(search_space(Several), 2000, seed=0)
    rates, counts, kinds = ([setting[name] for setting in drawn] for name in ("rate", "count", "kind"))
    assert stats.kstest(rates, stats.loguniform(1e-3, 1e3).cdf).pvalue > 0.01
    assert stats.chisquare([counts.count(n) for n in (2, 3, 4, 5)]).pvalue > 0.01 and set(counts) == {2, 3, 4, 5}
    assert stats.chisquare([kinds.count(k) for k in "abc"]).pvalue > 0.01
    assert all(isinstance(s["steps"], int) and 1 <= s["steps"] <= 1000 for s in drawn)
    fractions = [s["x"] for s in draw_settings({"x": Range(-1, 3)}, 2000, seed=1)]
    assert stats.kstest(fractions, stats.uniform(-1, 4).cdf).pvalue > 0.01


def test_only_declared_parameters_are_searched() -> None:
    space = search_space(Several)
    assert list(space) == ["rate", "count", "steps", "kind"]
    assert space["count"] == Range(2, 5, whole=True) and space["rate"] == Log(1e-3, 1e3)


@pytest.mark.parametrize("wrong", [lambda: Range(2, 1), lambda: Log(0, 1), lambda: Log(3, 2), lambda: Choice("a")])
def test_a_space_that_makes_no_sense_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="needs"):
        wrong()


def test_list_shows_the_ranges(harness: Harness) -> None:
    listed = harness("list", "methods", "--long", "--plugin", str(TUNABLE)).stdout
    assert "rate: float in Log(0.001, 1000.0) = 1.0" in listed and "fixed: float = 0.5" in listed


# The split


def test_the_split_is_by_class_seeded_and_whole_videos() -> None:
    class Clips(Guarded):
        def items(self, split: str) -> list[Item]:
            broken = [Item("broken", 0, "broken.avi", problem="missing")]
            return broken + [Item(f"{c}-{v}-{p}", c, f"{c}-{v}.avi", part=p) for c in range(3) for v in range(10) for p in range(2)]

    parts = HeldOutDataset(Clips(), HeldOut(share=0.2, seed=0))
    fitting, held = parts.items("train"), parts.items("test")
    assert [sum(i.label == c for i in held) for c in range(3)] == [4, 4, 4]  # 2 of 10 videos, 2 clips of each
    assert {i.source for i in fitting}.isdisjoint(i.source for i in held)
    assert sorted(i.id for i in [*fitting, *held]) == sorted(i.id for i in Clips().items("train"))
    again, other = (HeldOutDataset(Clips(), HeldOut(share=0.2, seed=seed)) for seed in (0, 1))
    assert again.items("test") == held and again.digest() == parts.digest()
    assert other.items("test") != held and other.digest() != parts.digest()


def test_a_class_of_one_video_cannot_be_split() -> None:
    with pytest.raises(UsageError, match="'dark' has 1 training video"):
        HeldOutDataset(Guarded(train=1), HeldOut(share=0.5)).items("test")


def test_no_test_clip_can_be_reached(configure: Callable[..., Config]) -> None:
    config = configure(dataset="guarded", labels=["hard", "soft"])  # soft: a teacher is trained too
    with pytest.raises(AssertionError, match="the test split was listed"):
        Session(config).plan()
    verdict, trials = tune(config)
    assert verdict.tuned is not None and all(trial.status == "done" for trial in trials)
    session = Tuning(config).studies()[0].session({}, [0], "inline")
    found = {split: {row.id for row in read_index(session.cache.folder, split)} for split in ("train", "test")}
    everything = {item.id for item in Guarded().items("train")}
    assert found["train"] | found["test"] == everything and not found["train"] & found["test"] and len(found["test"]) == 6
    caches = list(ClipCache(session.info, session.cache.root).root.glob("*/meta.json"))
    assert len(caches) == 1  # no other clips were decoded


# The search


def test_the_defaults_come_first_and_the_best_is_confirmed(configure: Callable[..., Config]) -> None:
    verdict, trials = tune(configure())
    assert trials[0].number == 0 and trials[0].setting == {"fog": 1.0}
    assert [trial.number for trial in trials] == [0, 1, 2, 3] and all(len(trial.scores) == 2 for trial in trials)
    best = max(trials, key=lambda trial: trial.score)
    assert best.score > trials[0].score  # clips of one grey teach nothing
    assert verdict.tuned is not None and verdict.tuned.better and verdict.tuned.params == best.setting
    assert verdict.tuned.score > verdict.tuned.default and "2 fresh seeds" in verdict.text
    assert verdict.tuned.trials == 4 and verdict.tuned.seconds > sum(trial.seconds for trial in trials)


def test_it_is_said_when_the_defaults_are_not_beaten(configure: Callable[..., Config]) -> None:
    verdict, _ = tune(configure("methods.fog.fog=0.0"))
    assert "tuned is not better than default" in verdict.text
    assert verdict.tuned is not None and not verdict.tuned.better and verdict.tuned.params == {"fog": 0.0}


def test_a_choice_that_does_not_hold_on_fresh_seeds_is_dropped(configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Study, number: int, setting: Mapping[str, Any], seeds: Sequence[int], executor: str = "inline") -> Trial:
        lucky = number == 2 and seeds[0] == 0
        return Trial(number=number, setting=dict(setting), status="done", scores=tuple(0.9 if lucky else 0.5 for _ in seeds))

    monkeypatch.setattr(Study, "run", run)
    # The guard of this process, where earlier tests ran tasks, would set the patch back: it has seen another Study.
    for module in ("registry", "worker"):
        monkeypatch.setattr(f"harness.{module}.GUARD", Guard())
    verdict, _ = tune(configure())
    assert "tuned is not better than default: trial 2 of 4 trials" in verdict.text
    assert verdict.tuned is not None and verdict.tuned.params == {"fog": 1.0} and verdict.tuned.score == 0.5


def test_every_method_has_the_same_number_of_trials(configure: Callable[..., Config]) -> None:
    config = configure(methods=["fog", "several", "first"])
    tuning = Tuning(config)
    counts = {}
    for study in tuning.studies():
        watcher = Watcher()
        counts[study.method] = (tuning.tune(study, Inline(), [watcher]), len(watcher.trials))
    assert counts["fog"][1] == counts["several"][1] == 4
    assert counts["first"] == (Verdict("first", "declares no search space: nothing to tune"), 0)


def test_the_seconds_are_a_limit_that_a_second_command_does_not_renew(configure: Callable[..., Config]) -> None:
    for _ in range(2):
        verdict, trials = tune(configure("tune.seconds=0.000001"))
        assert [trial.number for trial in trials] == [0] and verdict.tuned is not None and verdict.tuned.trials == 1


def test_a_trial_that_fails_costs_itself_alone(configure: Callable[..., Config]) -> None:
    verdict, trials = tune(configure("methods.fog.fails_above=0.6"))
    assert trials[0].status == "failed" and "lost in the fog" in (trials[0].reason or "")
    assert {trial.status for trial in trials} == {"done", "failed"} and verdict.tuned is not None and verdict.tuned.params["fog"] <= 0.6
    verdict, _ = tune(configure("methods.fog.fails_above=-1.0"))
    assert verdict.failed and verdict.tuned is None and "no trial of 4 came to an end" in verdict.text


def test_it_goes_on_where_it_was(configure: Callable[..., Config], tmp_path: Path) -> None:
    marker, whole = tmp_path / "made", tmp_path / "whole"
    assignment = f"methods.fog.marker='{marker}'"
    with pytest.raises(KeyboardInterrupt):
        tune(configure(assignment), Watcher(stop_after=2))
    before = marker.read_text().splitlines()
    assert len(before) == 4  # two trials of two seeds
    verdict, trials = tune(configure(assignment))
    made = marker.read_text().splitlines()
    assert made[:4] == before and len(set(made)) == 4 and len(made) == 4 * 2 + 2 * 2  # and two settings with two fresh seeds
    _, in_one = tune(configure(f"methods.fog.marker='{marker}'", results=str(whole)))
    assert [(t.number, t.setting, t.scores) for t in trials] == [(t.number, t.setting, t.scores) for t in in_one]
    lines = len(marker.read_text().splitlines())
    assert tune(configure(assignment))[0] == verdict and len(marker.read_text().splitlines()) == lines  # nothing is done again
    _, more = tune(configure(assignment, "tune.trials=6"))
    assert more[:4] == trials and len(more) == 6


# What comes of it


def presets_of(config: Config) -> Path:
    verdict, _ = tune(config)
    assert verdict.tuned is not None
    return Path(write_presets(config, {"fog": verdict.tuned}))


def test_presets_make_tuned_rows_beside_untuned_ones(configure: Callable[..., Config], overlay: Path, tmp_path: Path) -> None:
    presets = presets_of(configure())
    bench = tmp_path / "both.toml"
    bench.write_text(f"{overlay.read_text()}\n{presets.read_text()}", encoding="utf-8")  # pasted
    common: dict[str, Any] = {"results": str(tmp_path / "results"), "plugins": [str(TINY), str(TUNABLE)], "ipc": [1], "seeds": 2}
    untuned = Session.open(overlay, methods="fog,first", **common)
    tuned = Session.open(bench, methods="fog", **common)
    assert untuned.run() == "done" and tuned.run() == "done"
    params = tomllib.loads(presets.read_text())["protocols"]["tiny"]["tuned"]["fog"]["params"]
    (cell, *_) = [c for c in tuned.plan().cells if c.ipc]
    assert cell.method_label == "fog (tuned)" and cell.tunable == ("fog",) and cell.tuned is not None and cell.tuned.trials == 4
    rows = {row.method_label: row for row in load(Store(tmp_path / "results")).rows}
    assert set(rows) == {"fog", "fog (tuned)", "first", "full"}
    assert rows["fog (tuned)"].params["fog"] == params["fog"] and rows["fog"].params["fog"] == 1.0
    assert rows["fog"].tuned is None and rows["fog"].tunable == ("fog",) and rows["first"].tunable == ()
    report = make_report(tmp_path / "results")
    notes = {row.label.text: " ".join(row.label.notes) for row in report.sections[0].main[0].rows}
    assert "never tuned" in notes["fog"] and "never tuned" not in notes["first"]
    assert "among 4 trials at IPC 1 on held-out training clips" in notes["fog (tuned)"]
    (cost,) = [table for table in report.sections[0].tables if table.name.startswith("cost-")]
    column = cost.names.index("tuning_seconds")
    shown = {row.label.text: row.cells[column].data["value"] for row in cost.rows}
    assert shown["fog (tuned), IPC 1"] == pytest.approx(cell.tuned.seconds) and shown["fog, IPC 1"] is None


def test_being_tuned_does_not_enter_the_key(configure: Callable[..., Config], overlay: Path, tmp_path: Path) -> None:
    presets = presets_of(configure())
    bench = tmp_path / "both.toml"
    bench.write_text(f"{overlay.read_text()}\n{presets.read_text()}", encoding="utf-8")
    common: dict[str, Any] = {"plugins": [str(TINY), str(TUNABLE)], "ipc": [1], "seeds": 1, "reference": False}
    value = tomllib.loads(presets.read_text())["protocols"]["tiny"]["methods"]["fog"]["fog"]
    (by_presets,) = Session.open(bench, methods="fog", **common).plan().cells
    (by_hand,) = Session.open(overlay, methods=f"fog[fog={value}]", **common).plan().cells
    assert by_presets.key == by_hand.key and by_hand.tuned is None
    (changed,) = Session.open(bench, methods="fog", set=["protocols.tiny.methods.fog.fog=0.123"], **common).plan().cells
    assert changed.method_label == "fog" and changed.tuned is None  # no longer what was chosen


def test_presets_of_another_method_stay(configure: Callable[..., Config]) -> None:
    config = configure()
    verdict, _ = tune(config)
    assert verdict.tuned is not None
    write_presets(config, {"several": verdict.tuned.model_copy(update={"params": {"kind": 'a "b"', "rate": 1e-05, "count": 3}})})
    written = tomllib.loads(Path(write_presets(config, {"fog": verdict.tuned})).read_text())["protocols"]["tiny"]
    assert written["methods"]["several"] == {"kind": 'a "b"', "rate": 1e-05, "count": 3} and set(written["tuned"]) == {"fog", "several"}


# The command line


def test_the_command_line_and_mlflow(harness: Harness, overlay: Path, tmp_path: Path) -> None:
    given = ("--config", str(overlay), "--plugin", str(TINY), "--plugin", str(TUNABLE), "--methods", "fog", "--trials", "2", "--track")
    for _ in range(2):  # the second finds all done, and adds no run
        done = harness("tune", *given)
        assert done.returncode == 0, done.stderr
        assert "(defaults)" in done.stdout and "presets: " in done.stdout and "Traceback" not in done.stderr
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if "tuning" in e.name]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(trials) == 2 and len(runs) == 3 and {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["trial"] for run in trials} == {"0", "1"} and all("held_out_accuracy" in run.data.metrics for run in trials)
    assert "harness.verdict.fog" in parent.data.tags


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--methods", "first"), "nothing to tune: first declares no search space"),
        (("--methods", "fog[fog=0.5]"), "tune takes methods without parameters"),
        (("--methods", "fgo"), "fog"),
        (("--methods", "fog", "--search", "optuna"), "--search optuna needs Ray Tune"),
        (("--methods", "fog", "--scheduler", "asha"), "--scheduler asha needs Ray Tune"),
        (("--methods", "fog", "--ipc", "100"), "IPC 100 is above what a class holds"),
        (("--methods", "fog", "--set", "tune.held_out={share=1.5}"), "held_out.share = 1.5"),
        (("--methods", "fog", "--set", "tune.trails=3"), "unknown key 'trails'"),
    ],
)
def test_bad_input_is_one_sentence(overlay: Path, tmp_path: Path, arguments: Sequence[str], told: str) -> None:
    given = ["tune", "--config", str(overlay), "--plugin", str(TINY), "--plugin", str(TUNABLE), "--results", str(tmp_path / "results")]
    done = CliRunner().invoke(main, [*given, *arguments])
    assert done.exit_code == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.parametrize("options", [(), ("--search", "optuna"), ("--scheduler", "asha")])
def test_ray_tune(harness: Harness, configure: Callable[..., Config], overlay: Path, tmp_path: Path, options: Sequence[str]) -> None:
    given = ("--config", str(overlay), "--plugin", str(TINY), "--plugin", str(TUNABLE), "--methods", "fog", *options)
    done = harness("tune", *given, "--executor", "ray", "--workers", "2", timeout=600)
    assert done.returncode == 0 and not done.stderr, done.stderr
    (log,) = (tmp_path / "results" / "tuning" / "studies").glob("*.json")
    trials = [Trial.model_validate(trial) for trial in json.loads(log.read_text())]
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    if not options:
        _, inline = tune(configure(results=str(tmp_path / "inline")))
        assert [(t.setting, t.scores) for t in trials] == [(t.setting, t.scores) for t in inline]
    again = harness("tune", *given, "--executor", "ray", "--workers", "2", timeout=600)
    assert again.stdout.splitlines()[-2:] == done.stdout.splitlines()[-2:]
