"""Two results against each other, from records whose accuracies are known."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from harness.cli import main
from harness.report.statistics import holm
from harness.spec import DataSpec
from tests.conftest import PROJECT
from tests.report.records import Builder

SEEDS = 6
NOISE = np.random.default_rng(0).normal(0, 0.01, (3, SEEDS))
"""Of the sets; shared by both folders."""


def folder(root: Path, gains: dict[str, float], *, seeds: int = SEEDS, jitter: int = 1, started: str = "2026-03-01T10:00:00+00:00") -> Path:
    """A results folder: method -> accuracy above 0.5; two evaluators, IPC 1 and 5. jitter: seed of noise of its own."""
    build = Builder(root, started=started)
    own = np.random.default_rng(jitter).normal(0, 0.004, (2, 2, SEEDS))
    for name, gain in gains.items():
        for i, ipc in enumerate((1, 5)):
            for seed in range(seeds):
                upstream = build.distill(name, ipc, seed, preview=False)
                for e, evaluator in enumerate(("convnet3d", "c3d")):
                    accuracy = 0.5 + 0.1 * i + gain + NOISE[i, seed] + own[e, i, seed]
                    build.evaluate(name, ipc, seed, upstream, evaluator=evaluator, accuracy=float(accuracy), exact=True)
    return root


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["compare", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def rows(*arguments: object) -> list[dict[str, str]]:
    code, output = run(*arguments, "--format", "csv")
    assert code == 0, output
    return list(csv.DictReader(io.StringIO(output)))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("before"), {"random": 0.0, "dm": 0.05})


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dm is 3 points worse; random is the same but for noise."""
    return folder(tmp_path_factory.mktemp("after"), {"random": 0.0, "dm": 0.02}, jitter=2)


def test_differences_are_those_of_scipy(before: Path, after: Path) -> None:
    found = rows(before, after)
    cells, pooled = ([r for r in found if r["scope"] == scope] for scope in ("cell", "pooled"))
    assert len(cells) == 8 and len(pooled) == 2
    a, b = (np.random.default_rng(jitter).normal(0, 0.004, (2, 2, SEEDS)) for jitter in (1, 2))
    ps = []
    for cell in cells:
        e, i = ["convnet3d", "c3d"].index(cell["evaluator"]), [1, 5].index(int(cell["ipc"]))
        d = b[e, i] - a[e, i] - (0.03 if cell["method"] == "dm" else 0.0)
        test = stats.ttest_1samp(d, 0)
        low, high = test.confidence_interval()
        assert float(cell["difference"]) == pytest.approx(d.mean())
        assert (float(cell["low"]), float(cell["high"])) == pytest.approx((low, high))
        assert float(cell["p"]) == pytest.approx(test.pvalue)
        assert (int(cell["ahead"]), int(cell["tied"]), int(cell["behind"])) == ((d > 0).sum(), 0, (d < 0).sum())
        ps.append(test.pvalue)
    assert [float(cell["p_holm"]) for cell in cells] == pytest.approx(holm(ps))
    for pool in pooled:
        # 12 blocks of (IPC, seed), the two evaluators of a block averaged
        d = (b - a).mean(0).reshape(-1) - (0.03 if pool["method"] == "dm" else 0.0)
        exact = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert int(pool["n"]) == 12 and float(pool["difference"]) == pytest.approx(d.mean())
        assert float(pool["p"]) == pytest.approx(exact.pvalue)


def test_a_regression_fails_beyond_its_points(before: Path, after: Path) -> None:
    assert run(before, after)[0] == 0, "only on request"
    code, output = run(before, after, "--fail-on-regression")
    assert code == 1 and "regression: dm, hard labels" in output and "regression: random" not in output
    assert run(before, after, "--fail-on-regression=2")[0] == 1
    assert run(before, after, "--fail-on-regression=9")[0] == 0
    assert run(after, before, "--fail-on-regression")[0] == 0, "better is no regression"
    assert run(before, before, "--fail-on-regression")[0] == 0


def test_a_drop_that_n_cannot_show_is_not_called_a_regression(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", {"dm": 0.05}, seeds=1), folder(tmp_path / "b", {"dm": 0.0}, seeds=1)
    code, output = run(a, b, "--fail-on-regression")
    assert code == 0 and "n too small" in output


def test_the_same_is_equal_to_the_digit(before: Path) -> None:
    found = rows(before, before)
    assert {(r["difference"], r["tied"]) for r in found if r["scope"] == "cell"} == {("0.0", str(SEEDS))}
    assert "equal to the digit in 8" in run(before, before)[1]


def test_what_is_missing_is_named_for_its_side(before: Path, tmp_path: Path) -> None:
    fewer = folder(tmp_path / "fewer", {"random": 0.0, "gvd": 0.1}, seeds=4)
    missing = [
        (r["method"], r["notes"].partition(": seed ")[2], str(before) in r["notes"]) for r in rows(before, fewer) if r["scope"] == "missing"
    ]
    assert set(missing) == {("dm", "0, 1, 2, 3, 4, 5", False), ("random", "4, 5", False), ("gvd", "0, 1, 2, 3", True)}
    code, output = run(before, fewer, "--format", "md")
    assert code == 0 and "### Finished on one side only" in output and "8 cells are" not in output


def test_two_methods_of_a_folder(before: Path) -> None:
    found = rows(before, "--methods", "random,dm")
    assert [r["method"] for r in found] == [""] * 5
    assert all(float(r["difference"]) == pytest.approx(0.05) for r in found)
    code, output = run(before, "--methods", "random,dmm")
    assert code == 2 and "no results of method 'dmm'" in output and "did you mean 'dm'" in output


def test_one_folder_before_and_since_a_change_of_code(tmp_path: Path) -> None:
    root = folder(tmp_path / "both", {"dm": 0.05})
    build = Builder(root, started="2026-04-01T10:00:00+00:00")
    build.digest = "2" * 12
    for seed in range(SEEDS):
        upstream = build.distill("dm", 1, seed, preview=False)
        build.evaluate("dm", 1, seed, upstream, accuracy=0.4 + 0.001 * seed, exact=True)
    found = rows(root, "--since", "2026-03-15")
    (cell,) = [r for r in found if r["scope"] == "cell"]
    old = 0.55 + NOISE[0] + np.random.default_rng(1).normal(0, 0.004, (2, 2, SEEDS))[0, 0]
    assert float(cell["difference"]) == pytest.approx(np.mean(0.4 + 0.001 * np.arange(SEEDS) - old))
    assert len([r for r in found if r["scope"] == "missing"]) == 3
    assert run(root, "--since", "2026-03-15", "--fail-on-regression")[0] == 1
    code, output = run(root, "--since", "spring")
    assert code == 2 and "is no date; write 2026-11-25" in output


def test_one_folder_by_its_code(tmp_path: Path) -> None:
    """The newest code against the code before, cell by cell and seed by seed; what only one code made is left out."""
    root = folder(tmp_path / "both", {"dm": 0.05, "random": 0.0})
    for month, digest, low in (("04", "2" * 12, 0.4), ("05", "3" * 12, 0.45)):
        build = Builder(root, started=f"2026-{month}-01T10:00:00+00:00")
        build.digest = digest
        for seed in range(3):
            build.evaluate("dm", 1, seed, build.distill("dm", 1, seed, preview=False), accuracy=low + 0.001 * seed, exact=True)
    (cell,) = [r for r in rows(root, "--by-code") if r["scope"] == "cell"]
    assert (float(cell["a"]), float(cell["b"]), cell["n"]) == (pytest.approx(0.401), pytest.approx(0.451), "3")
    assert cell["method"] == "dm" and cell["ipc"] == "1" and cell["notes"] == "other code of method dm"
    build.code = "j" * 12
    build.data = build.write("data", DataSpec(code=build.code, dataset=build.dataset), {}, arrays={"classes": ["a"] * 6})
    for seed in range(3):
        build.evaluate("dm", 1, seed, build.distill("dm", 1, seed, preview=False), accuracy=0.5, exact=True)
    (cell,) = [r for r in rows(root, "--by-code") if r["scope"] == "cell"]
    assert float(cell["a"]) == pytest.approx(0.451) and "other code of the harness for distill" in cell["notes"]


def test_what_else_differs_is_a_note(before: Path, tmp_path: Path) -> None:
    build = Builder(tmp_path / "gpu")
    build.device, build.libraries = "H100", {"torch": "2.15.0", "numpy": "2.3.0"}
    upstream = build.distill("dm", 1, 0, preview=False)
    build.evaluate("dm", 1, 0, upstream, accuracy=0.5)
    (cell,) = [r for r in rows(before, tmp_path / "gpu") if r["scope"] == "cell"]
    assert cell["notes"] == "other device; other library versions"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name two results folders, or one with --methods X,Y, --since DATE or --by-code"),
        (("BEFORE",), "name two results folders"),
        (("BEFORE", "BEFORE", "--methods", "a,b"), "name two results folders"),
        (("BEFORE", "--by-code", "--since", "2026-03-15"), "name two results folders"),
        (("BEFORE", "--by-code"), "was made by two versions of the code"),
        (("BEFORE", "--methods", "dm"), "--methods takes two methods, got 1"),
        (("BEFORE", "/nowhere"), "/nowhere has no finished cell to compare"),
    ],
)
def test_bad_input_is_one_sentence(before: Path, arguments: tuple[str, ...], sentence: str) -> None:
    code, output = run(*(str(before) if a == "BEFORE" else a for a in arguments))
    assert code == 2 and sentence in output


def test_it_needs_no_torch_ray_or_mlflow(before: Path, after: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'ray', 'mlflow'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from harness.cli import main\n"
        f"main(['compare', {str(before)!r}, {str(after)!r}, '--format', 'md', '--out', {str(tmp_path / 'c.md')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "c.md").read_text(encoding="utf-8")
    assert "# B against A" in text and "**−" in text
