from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.report.cells import gather
from harness.report.load import load
from harness.report.warnings import group_warnings, store_warnings
from harness.rows import Row
from tests.report.records import Builder
from tests.report.test_main_table import BETTER, RANDOM, column, row


def warnings(rows: list[Row], labels: str = "hard") -> str:
    groups = gather(rows)
    group = next(g for g in groups if g.labels == labels)
    return "\n".join(group_warnings(group, groups[group]))


def test_a_sound_comparison_has_none() -> None:
    assert warnings(column("random", 1, RANDOM) + column("gvd", 1, BETTER) + [row("full", None, 0, 0.9)]) == ""


def test_missing_references() -> None:
    text = warnings(column("random", 1, RANDOM) + column("gvd", 1, BETTER) + column("gvd", 5, BETTER))
    assert "no result of random at IPC 5" in text and "no result of full" in text
    assert "the grid is incomplete (random at IPC 5)" in text


def test_a_recipe_that_trains_nothing_is_not_taken_for_a_result() -> None:
    rows = [*column("random", 1, RANDOM), row("full", None, 0, 0.26, per_class_accuracy=(0.26,) * 4)]
    assert "full reaches 26.0 % where chance is 25.0 %" in warnings(rows)
    assert warnings([*column("random", 1, RANDOM), row("full", None, 0, 0.4, per_class_accuracy=(0.4,) * 4)]) == ""


def test_seeds() -> None:
    assert "one seed" in warnings([row("random", 1, 0, 0.5), row("gvd", 1, 0, 0.6)])
    assert "2 to 5 seeds" in warnings(column("random", 1, RANDOM) + column("gvd", 1, [0.6, 0.7]))


def test_cells_that_were_not_made_alike() -> None:
    text = warnings(column("random", 1, RANDOM) + column("gvd", 1, BETTER, recipe_digest="other", device="NVIDIA H100"))
    assert "different recipes under the protocol name 'quick'" in text and "different devices (NVIDIA H100, cpu)" in text
    assert "different versions of the dataset" not in text
    assert "different versions of the dataset" in warnings(column("random", 1, RANDOM) + column("gvd", 1, BETTER, dataset_digest="x"))


def test_libraries_that_decide_numbers() -> None:
    old, new = {"torch": "2.9.0", "numpy": "2.3.0"}, {"torch": "2.14.1", "numpy": "2.3.0"}
    text = warnings(column("random", 1, RANDOM, libraries=old) + column("gvd", 1, BETTER, libraries=new))
    assert "cells were made with different versions of torch (2.9.0, 2.14.1)." in text and "numpy" not in text
    assert "different versions" not in warnings(column("random", 1, RANDOM, libraries=old) + column("gvd", 1, BETTER))


def test_labels_that_differ_within_a_column() -> None:
    text = warnings(column("random", 1, RANDOM) + column("gvd", 1, BETTER, labels="native", label_bytes=96.0), "native")
    assert "gvd trained on soft labels and the others on hard ones" in text


def test_methods_that_trained_longer_than_others() -> None:
    rows = column("random", 1, RANDOM, train_steps=500.0) + column("dm", 1, RANDOM, train_steps=500.0)
    assert "optimiser steps" not in warnings(rows)
    assert "optimiser steps" not in warnings(rows + column("random", 5, RANDOM, train_steps=2500.0))
    text = warnings(rows + column("vdsd_dm", 1, BETTER, train_steps=2000.0))
    assert "IPC 1: methods trained with different numbers of optimiser steps (vdsd_dm 2,000, random 500, dm 500)" in text


def test_experts_that_have_learned_nothing() -> None:
    def experts(accuracy: float) -> str:
        rows = column("mtt", 1, BETTER, per_class_accuracy=(0.5,) * 4)
        return warnings([replace(r, values={**r.values, "expert_accuracy": accuracy}) for r in rows])

    assert "the experts of mtt recognise 26.0 % of the clips that they were trained on, where chance is 25.0 %" in experts(0.26)
    assert "experts" not in experts(0.9)


def test_what_concerns_the_whole_store(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    build.digest = "2" * 12
    build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    (tmp_path / "records" / "broken.json").write_text("{")
    build.change(build.data, metrics={**build.records[build.data].metrics, "clips_left_out": 3.0})
    text = "\n".join(store_warnings(load(tmp_path)))
    assert "records/broken.json" in text and "1 older record of cells" in text and "3 clips could not be read" in text


def test_what_other_code_made(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    keys = [build.evaluate("gvd", 1, seed, build.distill("gvd", 1, seed, preview=False)) for seed in range(3)]
    results = load(tmp_path)
    assert not any("other code" in line for line in store_warnings(results))
    stale = {keys[0]: ["harness"], keys[1]: ["harness", "method gvd"], "of a record that is not shown": ["dataset x"]}
    assert "2 cells were made by other code than the present (harness, method gvd); `run` makes them again." in store_warnings(
        results, stale
    )
    assert "1 cell was made by other code than the present (harness); `run` makes it again." in store_warnings(
        results, {keys[0]: ["harness"]}
    )
