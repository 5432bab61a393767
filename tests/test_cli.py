"""The command line as a user drives it: exit codes and sentences."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import main
from tests.conftest import PROJECT, TINY, Harness


def records(tmp_path: Path) -> dict[str, dict]:
    return {p.stem: json.loads(p.read_text()) for p in (tmp_path / "results" / "records").glob("*.json")}


def invoke(bench: Path, tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """In this process, for what ends before any work."""
    command = ["run", "--config", str(bench), "--plugin", str(TINY), "--results", str(tmp_path / "results"), *arguments]
    result = CliRunner().invoke(main, command)
    return result.exit_code, result.output


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list"]])
def test_help_and_list_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom harness.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'matplotlib', 'numpy', 'diffusers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_list_answers_within_half_a_second() -> None:
    seconds = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "harness", "list"], cwd=PROJECT, check=True, capture_output=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5


def test_run_then_cached_then_extended(harness: Harness, tmp_path: Path) -> None:
    first = harness("run")
    assert first.returncode == 0, first.stdout + first.stderr
    made = records(tmp_path)
    kinds = sorted(r["kind"] for r in made.values())
    # full: 1 seed; 2 methods x 2 IPC x 2 seeds, each with its own set
    assert kinds.count("evaluate") == 9 and kinds.count("distill") == 8 and kinds.count("asset") == 1 and kinds.count("data") == 1
    assert all(r["status"] == "done" for r in made.values())
    again = harness("run")
    assert again.returncode == 0 and "9 cells, all of them cached" in again.stdout
    assert records(tmp_path) == made
    more = harness("run", "--ipc", "1,2,3")
    assert more.returncode == 0 and "13 cells, 9 of them cached" in more.stdout
    assert {k: v for k, v in records(tmp_path).items() if k in made} == made


def test_the_table_names_methods_and_networks_with_their_brackets(harness: Harness) -> None:
    both = ("--evaluators", "tiny-net,tiny-net[width=2]", "--ipc", "1")
    done = harness("run", "--methods", "gvd[teacher=tiny-net[width=2]],first", *both, "--dry-run")
    assert "method gvd[teacher=tiny-net[width=2]]:" in done.stdout
    done = harness("run", "--methods", "k_means_real[teacher=tiny-net[width=2]],first", *both)
    lines = [" ".join(line.replace("│", " ").split()) for line in done.stdout.splitlines()]
    shown = [line.split(" 1 hard ") for line in lines if " 1 hard " in line and "done" not in line]
    methods, networks = ("first", "k_means_real[teacher=tiny-net[width=2]]"), ("tiny-net", "tiny-net[width=2]")
    assert [(m, rest.split()[0]) for m, rest in shown] == [(m, n) for m in methods for n in networks], done.stdout + done.stderr


def test_the_command_of_a_sweep_can_be_pasted_into_a_shell(harness: Harness, tmp_path: Path) -> None:
    arguments = ["run", "--methods", "first,random", "--ipc", "1", "--set", "run.teacher=tiny-net[width=4]"]
    assert harness(*arguments).returncode == 0
    (path,) = (tmp_path / "results" / "sweeps").glob("*.json")
    command = shlex.split(json.loads(path.read_text())["command"])
    assert command[:3] == ["python", "-m", "harness"]
    given = iter(command)
    assert all(argument in given for argument in arguments), command  # in this order


def test_frame_fraction_counts_native_frames(harness: Harness, tmp_path: Path) -> None:
    assert harness("run", "--ipc", "2", "--seeds", "1").returncode == 0
    fractions = {r["metrics"]["frame_fraction"] for r in records(tmp_path).values() if r["kind"] == "distill"}
    assert fractions == {3 * 2 * 4 / (18 * 10)}


def test_dry_run_counts_and_writes_nothing(harness: Harness, tmp_path: Path) -> None:
    done = harness("run", "--dry-run")
    assert done.returncode == 0
    assert not (tmp_path / "results").exists()
    lines = [" ".join(line.replace("│", " ").split()) for line in done.stdout.splitlines()]
    assert "distill 8 0 8" in lines and "evaluate 9 0 9" in lines and "asset 1 0 1" in lines
    assert "width=4" in done.stdout and "epochs=3" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--methods", "randm"], "unknown method 'randm'; did you mean 'random'?"),
        (["--methods", "zzz*"], "unknown method 'zzz*'"),
        (["--methods", ","], "the list of methods is empty"),
        (["--methods", "first["], "unbalanced brackets"),
        (["--methods", "misbehave[hwo=1]"], "has no parameter 'hwo'; did you mean 'how'?"),
        (["--methods", "gvd[shift=0]"], "method 'gvd': shift must be above 0, got 0.0"),
        (["--evaluators", "tiny-net[width=wide]"], "parameter 'width' = 'wide' is not valid"),
        (["--evaluators", "c4d"], "unknown evaluator 'c4d'"),
        (["--dataset", "tinny"], "unknown dataset 'tinny'; did you mean 'tiny'?"),
        (["--protocol", "quik"], "unknown protocol 'quik'"),
        (["--labels", "warm"], "'warm'"),
        (["--ipc", "0"], "IPC (instances per class) must be 1 or more"),
        (["--ipc", "-1"], "negative numbers are not valid"),
        (["--ipc", "five"], "'five' is not a whole number"),
        (["--ipc", "7"], "'dark' of 'tiny' has 6 training clips. Valid: 1 to 6"),
        (["--ipc", ""], "the list of ipc is empty"),
        (["--seeds", "0"], "at least one seed is needed"),
        (["--data-root", "/nowhere/at/all"], "data root /nowhere/at/all does not exist"),
        (["--plugin", "/nowhere.py"], "plugin file /nowhere.py does not exist"),
        (["--set", "run.colour=red"], "unknown key 'colour'"),
        (["--set", "nonsense"], "write section.key=value"),
        (["--set", "protocols.tiny.epochs=0"], "epochs = 0 in [protocols.tiny] is not valid"),
        (["--set", "methods.frist.x=1"], "[methods.frist] configures an unknown method; did you mean 'first'?"),
        (["--config", "/nowhere.toml"], "cannot read /nowhere.toml"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(bench: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    code, output = invoke(bench, tmp_path, *arguments)
    assert code == 2, output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and sentence in lines[0]
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()


def test_malformed_toml(bench: Path, tmp_path: Path) -> None:
    bench.write_text("[run\n", encoding="utf-8")
    code, output = invoke(bench, tmp_path)
    assert code == 2 and "is not valid TOML" in output and str(bench) in output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_results(bench: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results").chmod(stat.S_IRUSR | stat.S_IXUSR)
    code, output = invoke(bench, tmp_path)
    assert code == 2 and "cannot write to the results folder" in output


def test_results_that_is_a_file(bench: Path, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    code, output = invoke(bench, tmp_path)
    assert code == 2 and "cannot write to the results folder" in output


BAD = {
    "raise": ("failed", "RuntimeError: a plugin bug"),
    "nan": ("failed", "holds NaN or infinite values"),
    "shape": ("failed", "clips must have shape (3, 4, 1, 8, 8)"),
    "frames": ("failed", "the set stores 24 frames, the budget allows 12 (3 classes x IPC 1 x 4 frames)"),
    "labels": ("failed", "labels must be in [0, 3), got 5 to 7"),
    "nonfinite": ("failed", "a value that is not finite"),
    "none": ("failed", "must return a DistilledSet"),
    "oom": ("oom", "out of memory"),
}


def test_failures_cost_only_their_own_cells(harness: Harness, tmp_path: Path) -> None:
    methods = ",".join(["first", *(f"misbehave[how={how}]" for how in BAD), "misbehave[how=decline]"])
    done = harness("run", "--methods", methods, "--ipc", "1", "--seeds", "1", "--no-reference")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    by_label = {(r["kind"], r["spec"]["method"]["label"]): r for r in records(tmp_path).values() if "method" in r["spec"]}
    for how, (status, reason) in BAD.items():
        made = by_label["distill", f"misbehave[how={how}]"]
        assert made["status"] == status and reason in made["reason"], made["reason"]
        cell = by_label["evaluate", f"misbehave[how={how}]"]
        assert cell["status"] == "skipped" and f"is {status}" in cell["reason"]
        assert reason.split("(")[0] in done.stdout
    declined = by_label["evaluate", "misbehave[how=decline]"]
    assert declined["status"] == "skipped" and declined["reason"] == "declines on principle"
    assert by_label["evaluate", "first"]["status"] == "done"
    log = tmp_path / "results" / by_label["distill", "misbehave[how=raise]"]["log"]
    assert "a plugin bug" in log.read_text() and "Traceback" in log.read_text()


def test_a_declined_cell_is_no_failure(harness: Harness) -> None:
    done = harness("run", "--methods", "first,misbehave[how=decline]", "--ipc", "1", "--seeds", "1")
    assert done.returncode == 0 and "declines on principle" in done.stdout


def test_failures_are_not_cached_and_rerun_chooses(harness: Harness, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    arguments = ("--methods", f"misbehave[how=once,marker={marker}]", "--ipc", "1", "--seeds", "1", "--no-reference")
    assert harness("run", *arguments).returncode == 1
    marker.touch()
    kept = harness("run", *arguments, "--rerun", "none")
    assert kept.returncode == 1 and "all of them cached" in kept.stdout
    assert harness("run", *arguments).returncode == 0
    before = {k: r["provenance"]["ended_at"] for k, r in records(tmp_path).items()}
    assert harness("run", *arguments, "--rerun", "all").returncode == 0
    after = {k: r["provenance"]["ended_at"] for k, r in records(tmp_path).items()}
    assert after.keys() == before.keys() and all(after[k] > before[k] for k in after)


def test_the_same_cell_twice_gives_identical_metrics(harness: Harness, tmp_path: Path) -> None:
    arguments = ("--methods", "random", "--ipc", "2", "--seeds", "1", "--labels", "hard,soft")
    assert harness("run", *arguments).returncode == 0
    first = {k: (r["metrics"], r["arrays"], r["curves"]) for k, r in records(tmp_path).items()}
    assert harness("run", *arguments, "--rerun", "all").returncode == 0
    assert {k: (r["metrics"], r["arrays"], r["curves"]) for k, r in records(tmp_path).items()} == first


def test_inline_without_tracking_needs_neither_ray_nor_mlflow(bench: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['ray'] = sys.modules['mlflow'] = None; from harness.cli import main; main(sys.argv[1:])"
    command = ["run", "--config", str(bench), "--plugin", str(TINY), "--results", str(tmp_path / "results"), "--ipc", "1", "--seeds", "1"]
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(r["status"] == "done" for r in records(tmp_path).values())


def test_timeout_inline(harness: Harness, tmp_path: Path) -> None:
    done = harness("run", "--methods", "misbehave[how=stall],first", "--ipc", "1", "--seeds", "1", "--no-reference", "--timeout", "6")
    assert done.returncode == 1
    statuses = {r["spec"]["method"]["label"]: r["status"] for r in records(tmp_path).values() if r["kind"] == "distill"}
    assert statuses == {"misbehave[how=stall]": "timeout", "first": "done"}


def test_ctrl_c_marks_and_resumes(bench: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command = [sys.executable, "-m", "harness", "run", "--config", str(bench), "--plugin", str(TINY), "--results", str(results)]
    command += ["--methods", "first,misbehave[how=sleep]", "--ipc", "1", "--seeds", "1", "--no-reference"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not any("sleep" in p.read_text() for p in (results / "running").glob("*.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - started < 5, output
    assert "Traceback" not in output
    statuses = {(r["kind"], r["spec"]["method"]["label"]): r["status"] for r in records(tmp_path).values() if "method" in r["spec"]}
    assert statuses["distill", "misbehave[how=sleep]"] == "interrupted"
    assert not list((results / "running").glob("*.json"))


def start_beside(bench: Path, tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, dict]]:
    """A run that sleeps in its evaluation, and the records after another run on the same results folder did that. Sets and assets are
    leased, so that no two runs make them."""
    marker, results = tmp_path / "marker", tmp_path / "results"
    command = [sys.executable, "-m", "harness", "run", "--config", str(bench), "--plugin", str(TINY), "--results", str(results)]
    command += ["--methods", "first", "--evaluators", f"tiny-net[marker={marker}],tiny-net", "--ipc", "1", "--seeds", "1", "--no-reference"]
    process = subprocess.Popen([*command, *arguments], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not Path(f"{marker}.sleeps").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    marker.touch()
    other = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert other.returncode == 0, other.stdout + other.stderr
    return process, records(tmp_path)


def test_ctrl_c_leaves_what_another_run_has_done(bench: Path, tmp_path: Path) -> None:
    process, done = start_beside(bench, tmp_path)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert records(tmp_path) == done


def test_what_another_run_has_done_is_not_done_again(bench: Path, tmp_path: Path) -> None:
    process, done = start_beside(bench, tmp_path, "--timeout", "25")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output  # its evaluation came too late, but all cells are there
    cells = {k: r for k, r in done.items() if r["kind"] == "evaluate"}
    assert len(cells) == 2
    assert {k: r for k, r in records(tmp_path).items() if r["kind"] == "evaluate"} == cells


def test_a_broken_plugin_is_listed_and_breaks_nothing(harness: Harness, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name\n")
    listed = harness("list", "methods", "--plugin", str(broken))
    assert listed.returncode == 0 and "unavailable: ModuleNotFoundError" in listed.stdout and "random" in listed.stdout
    used = harness("run", "--methods", "broken", "--plugin", str(broken))
    assert used.returncode == 2 and "nothing_of_this_name" in used.stderr


def test_check_finds_damage(harness: Harness, tmp_path: Path) -> None:
    assert harness("run", "--ipc", "1", "--seeds", "1").returncode == 0
    sound = harness("check")
    assert sound.returncode == 0 and "sound" in sound.stdout
    artifact = next((tmp_path / "results" / "artifacts").glob("*/distilled.safetensors"))
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"!")
    others = sorted(p for p in (tmp_path / "results" / "records").glob("*.json") if p.stem != artifact.parent.name)
    record = others[0]
    record.write_text(record.read_text().replace('"done"', '"doen"', 1))
    found = harness("check")
    assert found.returncode == 1 and "its checksum differs" in found.stdout and "does not match its checksum" in found.stdout


def test_status_tells_what_is_there(harness: Harness) -> None:
    assert "nothing yet" in harness("status").stdout
    harness("run", "--ipc", "1", "--seeds", "1")
    told = harness("status").stdout
    assert "evaluate  3 done" in told and "sweep" in told


def test_list_long_says_what_bench_toml_sets() -> None:
    """Assets, the recipe of the whole split where it differs, and the parameters that protocols set."""
    listed = CliRunner().invoke(main, ["list", "--long", "--set", "assets.teacher.seed=3"]).output
    assert all(f"\n{kind}\n" in f"\n{listed}" for kind in ("methods", "evaluators", "datasets", "assets", "metrics", "protocols"))
    assert "full.epochs = 5\n" in listed and "methods.gvd.compose = 1\n" in listed and "full.crop" not in listed
    assert "  but 1 (quick, small-video)\n" in listed, "of gvd's compose"
    assert "  but 3 (all protocols)\n" in listed, "of the teacher's seed"
