from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.metrics import METRICS
from harness.report.cells import CellResult, Verdict, View, gather, judge
from harness.report.group import Group
from harness.report.load import load
from harness.report.main_table import main_table
from harness.report.tables import DASH, Table, TableCell, TableRow
from harness.rows import Row, with_relative_accuracy
from tests.report.records import Builder

NAMES = {metric.name for metric in METRICS}


def row(method: str, ipc: int | None, seed: int, accuracy: float | None, **fields: Any) -> Row:
    """A row of plausible numbers. fields: metrics, or attributes of the row."""
    values = {
        "accuracy": accuracy,
        "frame_fraction": 0.0198,
        "peak_cpu_mib": 400.0 + seed,
        "peak_gpu_mib": None,
        "distill_seconds": 10.0 + seed,
        "train_seconds": 5.0,
        "label_bytes": 0.0,
        **{name: value for name, value in fields.items() if name in NAMES},
    }
    given: dict[str, Any] = {
        "key": f"{method}-{ipc}-{seed}-{fields.get('evaluator_label', 'net')}-{fields.get('labels', 'hard')}",
        "name": f"{method} {ipc} {seed}",
        "status": "done" if accuracy is not None else "failed",
        "reason": None if accuracy is not None else "NaN in the loss",
        "log": None,
        "dataset": "digits",
        "dataset_label": "digits",
        "dataset_digest": "d",
        "clip_shape": (8, 1, 32, 32),
        "method": method.partition("[")[0],
        "method_label": method,
        "ipc": ipc,
        "labels": "hard",
        "evaluator": "net",
        "evaluator_label": "net",
        "protocol": "quick",
        "seed": seed,
        "params": {},
        "values": values,
        "declared": (),
        "assets": (),
        "distill_key": f"{method}-{ipc}-{seed}",
        "evaluator_digest": "e",
        "recipe_digest": "p",
        "classes": (),
        "per_class_accuracy": (),
        "correct": None,
        "device": "cpu",
        "ended_at": "2026-03-01T10:00:00+00:00",
        "sweep": "s",
        **{name: value for name, value in fields.items() if name not in NAMES},
    }
    return Row(**given)


def column(method: str, ipc: int, values: Sequence[float | None], **fields: Any) -> list[Row]:
    return [row(method, ipc, seed, value, **fields) for seed, value in enumerate(values)]


def table(rows: list[Row], labels: str = "hard", words: dict[str, str] | None = None, marks: dict[str, list[str]] | None = None) -> Table:
    groups = gather(with_relative_accuracy(rows))
    group = next(g for g in groups if g.labels == labels)
    return main_table(View(groups, words or {}, {}, marks or {}), group)


def at(made: Table, method: str, ipc: int) -> TableCell:
    found: TableRow = next(r for r in made.rows if r.label.text == method)
    return found.cells[made.columns.index(f"IPC {ipc}")]


RANDOM, BETTER = [0.50, 0.52, 0.54, 0.51, 0.53], [0.60, 0.63, 0.64, 0.62, 0.63]


def test_a_cell_says_mean_spread_and_number_of_seeds() -> None:
    made = table(column("random", 1, RANDOM) + column("gvd", 1, BETTER))
    cell = at(made, "gvd", 1)
    assert cell.text == f"{100 * np.mean(BETTER):.1f} ± {100 * np.std(BETTER, ddof=1):.1f}" and "over n = 5 seeds" in made.caption
    differences = np.subtract(BETTER, RANDOM)
    interval = stats.ttest_1samp(differences, 0).confidence_interval()
    assert cell.details[0] == f"+{100 * differences.mean():.1f} [+{100 * interval.low:.1f}, +{100 * interval.high:.1f}]"
    assert len(cell.details) == 1 and made.compact, "what it cost stands in a table of its own"
    assert cell.data["gain_p"] == pytest.approx(stats.ttest_rel(BETTER, RANDOM).pvalue)
    assert cell.data["low"] == pytest.approx(stats.ttest_1samp(BETTER, 0).confidence_interval().low)
    assert cell.records == tuple(f"gvd-1-{s}-net-hard" for s in range(5))


def test_the_best_is_bold_and_what_cannot_be_told_from_it_is_marked() -> None:
    close = [0.61, 0.62, 0.64, 0.63, 0.615]
    made = table(column("random", 1, RANDOM) + column("gvd", 1, BETTER) + column("dm", 1, close))
    assert [at(made, m, 1).bold for m in ("random", "dm", "gvd")] == [False, False, True]
    assert [at(made, m, 1).signs for m in ("random", "dm", "gvd")] == ["", "*≈", "*"]
    assert at(made, "dm", 1).data["tied"] == 1 and at(made, "gvd", 1).data["above_random"] == 1


def test_nothing_is_bold_where_nothing_can_be_told_apart() -> None:
    made = table([row("random", 1, 0, 0.5), row("gvd", 1, 0, 0.9), *column("random", 5, RANDOM), *column("gvd", 5, BETTER)])
    assert not at(made, "gvd", 1).bold and at(made, "gvd", 5).bold
    assert "IPC 1: fewer than two seeds are shared, so no method is told from another." in made.caption
    assert at(made, "gvd", 1).text == "90.0 (1)" and at(made, "gvd", 1).details[0] == "+40.0"
    noisy = table(column("random", 1, [0.5, 0.7, 0.6]) + column("gvd", 1, [0.72, 0.6, 0.65]) + column("dm", 1, [0.6, 0.5, 0.7]))
    assert not any(cell.bold or cell.signs for r in noisy.rows for cell in r.cells)
    assert "Nothing is told from the best in IPC 1." in noisy.caption


def test_the_difference_that_the_seeds_could_show_is_printed_and_true() -> None:
    """Worked by hand: two methods are a paired t-test."""
    made = table(column("random", 1, RANDOM) + column("gvd", 1, BETTER))
    d = np.subtract(BETTER, RANDOM)
    least = stats.t.ppf(0.975, 4) * d.std(ddof=1) / np.sqrt(5)
    assert at(made, "gvd", 1).data["least_difference"] == pytest.approx(least, rel=1e-4)
    assert f"Differences show from {100 * least:.1f} (IPC 1) points." in made.caption and made.caption.endswith("Device: cpu.")
    assert "n = 5 seeds" in made.brief and "studentised range" in made.brief and made.brief.endswith("Device: cpu.")


def column_of(rows: list[Row]) -> list[CellResult]:
    return [cell for cells in gather(rows).values() for cell in cells]


def test_the_best_is_chosen_from_the_data_so_all_pairs_count() -> None:
    """A rival that a paired t-test alone would separate is not told from the best among four."""
    best, rival = [0.60, 0.62, 0.61, 0.63], [0.58, 0.61, 0.585, 0.622]
    assert stats.ttest_rel(best, rival).pvalue < 0.05
    others = [rival, [0.60, 0.58, 0.62, 0.57], [0.57, 0.62, 0.585, 0.60]]
    rivals = [r for i, values in enumerate(others) for r in column(f"m{i}", 1, values)]
    assert judge(column_of(rivals + column("top", 1, list(best)))).best is None
    assert judge(column_of(column("m0", 1, rival) + column("top", 1, list(best)))).best == "top"


def test_a_method_with_too_few_seeds_does_not_keep_the_others_from_being_told() -> None:
    rows = column("random", 1, RANDOM) + column("gvd", 1, BETTER) + [row("dm", 1, 4, 0.7)]
    verdict = judge(column_of(rows))
    assert verdict.best == "gvd" and verdict.above == {"gvd"} and verdict.unjudged == ("dm",) and verdict.seeds == 5
    assert "too few shared seeds to judge dm" in table(rows).caption
    assert judge(column_of(column("a", 1, [0.5, 0.5]) + column("b", 1, [0.6, 0.6]))).why == "the seeds do not differ"
    assert judge(column_of(column("a", 1, RANDOM))) == Verdict()


def test_missing_cells_are_dashes_with_a_reason() -> None:
    made = table(
        column("random", 1, RANDOM) + column("random", 5, RANDOM) + column("gvd", 1, [0.6, None, 0.7]) + column("dm", 5, [None, None])
    )
    assert at(made, "gvd", 1).text.endswith("(2)") and at(made, "gvd", 1).notes == ("1 of 3 seeds failed: NaN in the loss",)
    assert at(made, "gvd", 5) == TableCell(DASH, notes=("not run",), data={"status": "absent"})
    assert at(made, "dm", 5).text == DASH and at(made, "dm", 5).notes == ("failed: NaN in the loss",)
    assert at(made, "dm", 5).data["status"] == "failed"


def test_full_is_a_reference_row_over_all_budgets() -> None:
    made = table(column("random", 1, RANDOM) + column("random", 5, RANDOM) + [row("full", None, 0, 0.8)])
    last = made.rows[-1]
    assert last.reference and last.label.text.startswith("full") and last.cells[0].span == 2 and last.cells[0].text == "80.0 (1)"
    assert at(made, "random", 1).details[0] == "65.0 % of full"
    assert last.cells[0].data["relative_accuracy"] == 1.0


def test_relative_accuracy_is_that_of_the_rows() -> None:
    """One formula: a reference on another version of the dataset is none."""
    made = table([*column("random", 1, RANDOM), row("full", None, 0, 0.8, dataset_digest="other")])
    assert at(made, "random", 1).data["relative_accuracy"] is None and at(made, "random", 1).details == ()


def test_a_cell_of_the_table_holds_every_metric_put_together_as_the_metric_says() -> None:
    data = at(table(column("gvd", 1, BETTER)), "gvd", 1).data
    assert {metric.name for metric in METRICS} <= set(data)
    assert data["peak_cpu_mib"] == 404.0 and data["distill_seconds"] == 12.0 and data["peak_gpu_mib"] is None


def test_planned_and_not_run_is_a_dash_with_a_footnote_and_names_no_record() -> None:
    rows = [row("gvd", 1, seed, None, status="missing", reason="planned, not run") for seed in (1, 2)]
    made = table(
        [*column("random", 1, RANDOM), row("gvd", 1, 0, 0.6), *rows, row("dm", 1, 0, None, status="missing", reason="planned, not run")]
    )
    assert at(made, "gvd", 1).notes == ("2 of 3 seeds missing: planned, not run",) and at(made, "gvd", 1).records == ("gvd-1-0-net-hard",)
    assert at(made, "dm", 1) == TableCell(DASH, notes=("missing: planned, not run",), data={"status": "missing"})


def test_footnotes_on_the_code_that_made_a_cell() -> None:
    rows = column("gvd", 1, BETTER)
    stale = "made by other code than the present (harness)"
    marks = {row.key: [stale] for row in rows} | {rows[0].key: ["made by other code than the newest", stale]}
    made = table(column("random", 1, RANDOM) + rows, marks=marks)
    assert at(made, "gvd", 1).notes == ("1 of 5 seeds was made by other code than the newest", stale)
    assert at(made, "random", 1).notes == ()


def test_rows_and_columns_stand_in_natural_order() -> None:
    rows = [r for m in ("gvd[compose=1]", "gvd", "random", "dm") for ipc in (10, 1, 5) for r in column(m, ipc, [0.5])]
    made = table(rows)
    assert made.columns == ("IPC 1", "IPC 5", "IPC 10")
    assert [r.label.text for r in made.rows] == ["random", "dm", "gvd", "gvd[compose=1]"]
    assert [r.reference for r in made.rows] == [True, False, False, False]


def test_methods_are_called_by_their_words_with_the_name_in_a_footnote() -> None:
    made = table(column("random", 1, RANDOM) + column("gvd[guidance=0]", 1, BETTER), words={"gvd[guidance=0]": "unguided diffusion"})
    label = made.rows[1].label
    assert label == TableCell("unguided diffusion", notes=("unguided diffusion: gvd[guidance=0]",))


def test_native_labels_are_completed_by_methods_that_have_none_of_their_own() -> None:
    rows = column("random", 1, RANDOM) + column("gvd", 1, BETTER, labels="native", label_bytes=2048.0) + column("gvd", 1, RANDOM)
    made = table(rows, "native")
    assert [r.label.text for r in made.rows] == ["random", "gvd"]
    assert at(made, "gvd", 1).text.startswith("62.4"), "its native cell, not its hard one"
    assert made.rows[1].label.notes == ("trains on soft labels of its own, up to 2.0 KiB of labels beside the clips",)
    assert at(table(rows, "hard"), "gvd", 1).text.startswith("52.0")


def test_different_devices_and_deterministic_sets_are_said() -> None:
    rows = column("random", 1, RANDOM) + column("k_center", 1, BETTER, distill_key="one", device="NVIDIA H100")
    made = table(rows)
    assert made.caption.endswith("Device: NVIDIA H100, cpu.")
    assert made.rows[1].label.notes == ("one distilled set for all seeds: the spread is that of training alone",)


def test_a_group_of_the_reference_alone_is_a_table_too() -> None:
    made = table([row("full", None, 0, 0.8)])
    assert made.columns == ("accuracy",) and made.rows[0].cells[0].text == "80.0 (1)"


def test_seeds_are_paired_by_number_not_by_position() -> None:
    a = CellResult(Group("d", "s", "e", "p", "hard"), "a", 1, (row("a", 1, 1, 0.5), row("a", 1, 2, 0.7)))
    b = CellResult(a.group, "b", 1, (row("b", 1, 2, 0.6), row("b", 1, 3, 0.1)))
    assert a.differences(b) == pytest.approx([0.1])


def test_a_set_that_makes_more_videos_than_its_budget_says_so() -> None:
    """Two classes: IPC 5 are 10 clips."""
    rows = [
        row("random", 5, 0, 0.5, videos_trained_on=10.0, classes=("a", "b")),
        row("random[layout=grid,compose=4]", 5, 0, 0.6, videos_trained_on=40.0, classes=("a", "b")),
    ]
    made = table(rows)
    plain, composed = (" ".join(r.cells[0].details) for r in made.rows)
    assert "40 videos" in composed and "videos" not in plain


def test_the_caption_says_which_assets_have_one_seed(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    one = build.teacher("convnet3d")
    for seed in range(2):
        own = build.asset("video_diffusion", {"seed": seed})
        build.evaluate("gvd", 1, seed, build.distill("gvd", 1, seed, assets={"teacher": one, "backbone": own}))
        build.evaluate("random", 1, seed, build.distill("random", 1, seed))
    results = load(tmp_path)
    view = View(gather(results.rows), {}, results.records)
    table = main_table(view, view.first)
    said = "One for all seeds: teacher; ± and tests hold nothing of its chance. One for each seed: video diffusion."
    assert said in table.caption and said in table.brief
