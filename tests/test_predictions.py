"""Predictions are kept as asked for, and metrics of a user's own are computed from them: F1 as scikit-learn has it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import confusion_matrix, f1_score, log_loss

from harness import Predictions, Session
from harness.cli import main
from harness.errors import StoreError, UsageError
from harness.predictions import FILE, pack, read_predictions
from harness.record import Record
from harness.report.measured import read_metrics
from harness.scores.confusion import Confusion
from harness.scores.f1 import F1
from harness.store import Store
from tests.conftest import TINY, TINY_BENCH

OWN = '''
from typing import ClassVar

import numpy as np

from harness import Metric, metric


@metric("surprise")
class Surprise:
    """Mean negative log likelihood of the true class."""

    metrics: ClassVar = (Metric("nll", "log loss", "", "lower", doc="Mean negative log likelihood of the true class."),)
    floor: float = 1e-12
    """Smallest probability."""

    def measure(self, predictions):
        if predictions.logits is None:
            return {"nll": None}
        shifted = predictions.logits - predictions.logits.max(1, keepdims=True)
        chance = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
        return {"nll": -float(np.log(np.maximum(chance[np.arange(len(chance)), predictions.labels], self.floor)).mean())}


@metric("clumsy")
class Clumsy:
    """Fails, and tries to spoil what it is given."""

    metrics: ClassVar = (Metric("clumsiness", doc="Nothing."),)

    def measure(self, predictions):
        predictions.labels[:] = 0
        return {"clumsiness": 1.0}
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Session]:
    """A results folder whose evaluations keep logits, a plugin file with metrics, and the session."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "tiny.toml").write_text(TINY_BENCH, encoding="utf-8")
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    session = Session.open(
        folder / "tiny.toml", plugins=[str(TINY)], results=str(folder / "results"), ipc=[1], predictions="logits", methods="first,random"
    )
    assert session.run() == "done"
    return folder / "results", folder / "own.py", session


def drawn(n: int = 200, classes: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels without class 6, and logits that never choose class 5."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 1, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    logits[:, 5] = -100
    return labels, logits.astype(np.float32)


def test_f1_and_confusion_are_those_of_scikit_learn() -> None:
    labels, logits = drawn()
    predictions = Predictions(labels, logits.argmax(1), None, tuple("abcdefg"))
    found = F1().measure(predictions)
    assert found["f1_macro"] == pytest.approx(f1_score(labels, predictions.predicted, average="macro"), abs=1e-12)
    assert found["f1_weighted"] == pytest.approx(f1_score(labels, predictions.predicted, average="weighted"), abs=1e-12)
    matrix = Confusion().matrix(predictions)
    there = [0, 1, 2, 3, 4, 5]
    wanted = 100 * confusion_matrix(labels, predictions.predicted, labels=range(7), normalize="true")
    assert np.allclose(matrix[there], wanted[there]) and np.isnan(matrix[6]).all()


@pytest.mark.parametrize("with_logits", [False, True])
def test_what_is_kept_comes_back_and_its_size_is_as_documented(made: tuple[Path, Path, Session], tmp_path: Path, with_logits: bool) -> None:
    """4 bytes a test clip, and 2 more for each class; a header beside it."""
    labels, logits = drawn(3783, 101)
    logits[0, 0] = 1e6  # beyond half precision
    data = pack(labels, logits, with_logits)
    assert 0 <= len(data) - 3783 * (4 + (2 * 101 if with_logits else 0)) < 400
    store, any_record = Store(tmp_path), next(iter(Store(made[0]).read_records()[0].values()))
    record = any_record.model_copy(update={"artifacts": {FILE: store.write_artifact(any_record.key, FILE, data)}})
    found = read_predictions(store, record, tuple(map(str, range(101))))
    assert found is not None and np.array_equal(found.labels, labels) and np.array_equal(found.predicted, logits.argmax(1))
    assert (found.logits is not None) == with_logits
    if found.logits is not None:
        assert np.isfinite(found.logits).all() and np.allclose(found.logits[1:], logits[1:], atol=0.06)
    with pytest.raises(ValueError, match="read-only"):
        found.labels[0] = 1
    with pytest.raises(StoreError, match="does not fit its dataset of 2 classes"):
        read_predictions(store, record, ("a", "b"))


def cells(results: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((results / "report" / "cells.csv").read_text(encoding="utf-8").splitlines()))


def test_a_report_measures_without_training(made: tuple[Path, Path, Session]) -> None:
    results, own, session = made
    arguments = ["report", "--results", str(results), "--plugin", str(own), "--metrics", "f1,confusion,surprise,clumsy"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    by_key = {row["key"]: row for row in cells(results)}
    for cell in session.plan().cells:
        kept, row = session.predictions(cell), by_key[cell.key]
        assert float(row["f1_macro"]) == pytest.approx(f1_score(kept.labels, kept.predicted, average="macro"))
        assert float(row["accuracy"]) == pytest.approx((kept.labels == kept.predicted).mean())
        assert kept.logits is not None
        chance = np.exp(kept.logits.astype(float)) / np.exp(kept.logits.astype(float)).sum(1, keepdims=True)
        assert float(row["nll"]) == pytest.approx(log_loss(kept.labels, chance, labels=range(3)), rel=1e-4)
        assert row["clumsiness"] == ""
    text = (results / "report" / "report.md").read_text(encoding="utf-8")
    assert "macro F1,\u00a0%" in text and "log loss" in text and "Metric clumsy fails with ValueError" in text
    matrices = sorted(path.stem for path in (results / "report" / "tables").glob("matrix-confusion-*.csv"))
    assert [name.rpartition("-")[2] for name in matrices] == ["first", "full", "random"]
    assert r"\input{tables/matrix-confusion" in (results / "report" / "paper.tex").read_text(encoding="utf-8")


def test_metrics_of_a_named_file_need_no_list_and_may_be_columns(made: tuple[Path, Path, Session], tmp_path: Path) -> None:
    results, own, _ = made
    chosen = ["--only", "recorded", "--columns", "nll", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, ["report", "--results", str(results), "--plugin", str(own), *chosen])
    assert done.exit_code == 0, done.output
    assert "log loss" in (tmp_path / "report.md").read_text(encoding="utf-8") and "f1_macro" not in (tmp_path / "cells.csv").read_text()
    unknown = CliRunner().invoke(main, ["report", "--results", str(results), "--metrics", "f2"])
    assert unknown.exit_code == 2 and "unknown metric 'f2'. Valid: confusion, f1" in unknown.output


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taken.py"
    path.write_text(OWN.replace('Metric("nll"', 'Metric("accuracy"'), encoding="utf-8")
    with pytest.raises(UsageError, match="calls a number 'accuracy', which is a name of the harness"):
        read_metrics([str(path)], None)


def test_without_predictions_a_metric_is_blank_and_the_report_says_so(bench: Path, tmp_path: Path) -> None:
    session = Session.open(
        bench, plugins=[str(TINY)], results=str(tmp_path / "results"), ipc=[1], seeds=1, methods="first", predictions="none"
    )
    assert session.run() == "done"
    assert not any(FILE in record.artifacts for record in session.store.read_records()[0].values())
    done = CliRunner().invoke(main, ["report", "--results", str(tmp_path / "results"), "--metrics", "f1"])
    assert done.exit_code == 0 and {row["f1_macro"] for row in cells(tmp_path / "results")} == {""}
    assert "2 finished cells kept no predictions" in (tmp_path / "results" / "report" / "report.md").read_text(encoding="utf-8")
    with pytest.raises(StoreError, match="has no predictions"):
        session.predictions(session.plan().cells[0])


def test_what_is_kept_is_in_no_key_and_may_be_deleted(made: tuple[Path, Path, Session], tmp_path: Path) -> None:
    """The same cells with and without predictions have the same keys, and a deleted file trains nothing again."""
    session = made[2]
    config = session.config.model_copy(update={"run": session.config.run.model_copy(update={"predictions": "none"})})
    assert [c.key for c in Session(config).plan().cells] == [c.key for c in session.plan().cells]
    cell = session.plan().cells[0]
    kept: Record | None = session.store.read_record(cell.key)
    assert kept is not None
    path = Path(session.store.path) / "artifacts" / cell.key / FILE
    data = path.read_bytes()
    path.unlink()
    try:
        assert Session(config).survey().to_do == {}
    finally:
        path.write_bytes(data)
