from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import metrics, rows
from harness.metrics import METRICS, Metric
from harness.record import Cost
from harness.report.build import cells_csv
from harness.report.cells import View, gather
from harness.report.load import load
from harness.report.side_tables import (
    NO_BREAK,
    controls_tables,
    cost_tables,
    failures_table,
    head,
    per_class_tables,
    quality_table,
    recorded_tables,
)
from harness.report.tables import DASH, Table, TableCell
from tests.report.records import VIDEOS, Builder
from tests.report.test_main_table import column, row


def view_of(root: Path) -> View:
    results = load(root)
    return View(gather(results.rows), {}, results.records)


def at(tables: list[Table], method: str, name: str) -> TableCell:
    """The cell of a row and a metric in the first table that has it."""
    table = next(table for table in tables if name in table.names)
    return next(r for r in table.rows if r.label.text == method).cells[table.names.index(name)]


def test_cost_has_wall_and_cpu_seconds_of_the_set_and_of_its_assets(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    teacher = build.teacher("convnet3d")
    for seed in range(2):
        build.evaluate("gvd", 1, seed, build.distill("gvd", 1, seed, assets={"teacher": teacher, "codec": build.shipped("video_codec")}))
        build.evaluate("random", 1, seed, build.distill("random", 1, seed))
    made = cost_tables(view_of(tmp_path))
    cells = [at(made, "gvd, IPC 1", n) for n in ("distill_seconds", "distill_cpu_seconds", "asset_seconds", "asset_cpu_seconds")]
    assert [cell.data["value"] for cell in cells] == [4.0, 6.0, 80.0 + 4200.0, 120.0 + 8000.0]
    assert cells[2].notes == cells[3].notes == ("video_codec: 1.2 h on 2.3 GHz Xeon, shipped weights, trained by make_weights.py",)
    assert cells[0].notes == () and at(made, "random, IPC 1", "asset_seconds").text == "0 s"
    assert "all of their cost stands here" in made[0].caption and "peak_gpu_mib" not in made[0].names, "what nothing measured has no column"


def test_an_asset_without_cpu_time_leaves_it_unmeasured(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    assets = {
        "a": build.asset("weights", {}, cost=Cost(seconds=60.0)),
        "b": build.teacher("c3d"),
    }
    build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0, assets=assets))
    build.evaluate("random", 1, 0, build.distill("random", 1, 0))
    made = cost_tables(view_of(tmp_path))
    assert at(made, "gvd, IPC 1", "asset_cpu_seconds").text == DASH
    assert at(made, "gvd, IPC 1", "asset_seconds").notes == ("weights: 60 s, made elsewhere",)


def test_quality_shows_every_method_and_where_up_is_better(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    teacher = build.teacher("convnet3d")
    for label, diversity in (("random", 1.0), ("gvd", 0.5)):
        for seed in range(2):
            upstream = build.distill(label, 1, seed)
            build.quality(upstream, teacher, diversity=diversity + seed / 10)
            for evaluator in ("convnet3d", "c3d"):
                build.evaluate(label, 1, seed, upstream, evaluator=evaluator)
    made = quality_table(view_of(tmp_path))
    columns = tuple(column.replace(NO_BREAK, " ") for column in made[0].columns)
    assert columns == ("recognised, % ↑", "confidence, % ↑", "diversity ↑", "coverage, % ↑", "Frechet distance ↓", "motion")
    assert at(made, "gvd, IPC 1", "diversity").data["value"] == pytest.approx(0.55), "a set is not counted per evaluator"
    assert at(made, "random, IPC 1", "teacher_accuracy").text == "80.0"
    assert "Diversity: Mean distance of two clips" in made[0].caption


def test_no_quality_is_no_table(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    build.evaluate("random", 1, 0, build.distill("random", 1, 0))
    assert quality_table(view_of(tmp_path)) == [] and recorded_tables(view_of(tmp_path)) == []


def test_what_plugins_record_stands_under_their_own_title_unit_and_aggregation(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    loss = Metric("depth", "depth of the net", "MiB", "lower", "max", doc="How deep it is.")
    for seed in range(3):
        cell = build.evaluate("gvd", 1, seed, build.distill("gvd", 1, seed))
        build.change(cell, metrics={**build.records[cell].metrics, "depth": 10.0 + seed, "undescribed_number": 0.12345}, declared=(loss,))
    build.evaluate("random", 1, 0, build.distill("random", 1, 0))
    made = recorded_tables(view_of(tmp_path))
    assert set(made[0].columns) == {head(VIDEOS), f"depth of the net{NO_BREAK}↓", "undescribed number"}
    assert at(made, "gvd, IPC 1", "depth").text == "12 MiB" and at(made, "gvd, IPC 1", "undescribed_number").text == "0.1235"
    assert at(made, "gvd, IPC 1", VIDEOS.name).text == "40"
    assert [r.label.text for r in made[0].rows] == ["gvd, IPC 1"], "only who recorded something"


def test_controls_include_the_reference(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    build.evaluate("random", 1, 0, build.distill("random", 1, 0))
    build.evaluate("full", None, 0, build.teacher("convnet3d"), accuracy=0.9, exact=True)
    made = controls_tables(view_of(tmp_path))
    assert [r.reference for r in made[0].rows] == [r.reference for r in made[1].rows] == [False, True]
    assert at(made, "full", "accuracy").text == "90.0" and at(made, "full", "train_seconds").text == "80 s"


def test_every_metric_of_a_cell_a_set_or_its_quality_stands_in_one_table() -> None:
    everything = {metric.name: 1.0 for metric in METRICS if metric.name != "accuracy"}
    view = View(gather([row("gvd", 1, 0, 0.5, **everything)]))
    shown = [name for make in (cost_tables, quality_table, controls_tables) for table in make(view) for name in table.names]
    wanted = [m.name for m in METRICS if m.place in ("cell", "set", "assets", "tuning", "quality")]
    assert sorted(shown) == sorted([*wanted, "train_steps"]), "each once, the steps beside the cost of the set and of the training"


@pytest.mark.parametrize(
    ("metric", "table"),
    [
        (Metric("sharpness", "sharp", "fraction", "higher", doc="How sharp.", place="quality"), quality_table),
        (Metric("energy", "energy", "count", "lower", "max", doc="Joules.", place="set"), cost_tables),
        (Metric("accuracy_mirrored", "mirrored", "fraction", doc="Top-1 on mirrored clips.", place="cell"), controls_tables),
    ],
    ids=["quality", "set", "cell"],
)
def test_a_new_metric_appears_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: Metric, table: Callable[[View], list[Table]]
) -> None:
    for module in (metrics, rows):
        monkeypatch.setattr(module, "METRICS", (*METRICS, metric))
    monkeypatch.setitem(metrics.BY_NAME, metric.name, metric)
    build = Builder(tmp_path)
    for seed in range(2):
        value = {metric.name: 0.25 + seed / 4}
        upstream = build.distill("dm", 1, seed)
        quality = build.quality(upstream, build.teacher("convnet3d"))
        cell = build.evaluate("dm", 1, seed, upstream)
        holder = {"quality": quality, "set": upstream, "cell": cell}[metric.place]
        build.change(holder, metrics={**build.records[holder].metrics, **value})
    made = table(view_of(tmp_path))
    holder_table = next(t for t in made if metric.name in t.names)
    assert head(metric) in holder_table.columns and metric.doc in holder_table.caption
    assert at(made, "dm, IPC 1", metric.name).data["value"] == (0.5 if metric.aggregate == "max" else 0.375)
    assert metric.name in cells_csv(load(tmp_path).rows).splitlines()[0].split(",")


def test_a_class_without_test_clips_is_a_dash() -> None:
    rows_ = column("gvd", 1, [0.5, 0.7], per_class_accuracy=(0.4, None, 0.6), classes=("left", "right", "up"))
    (table,) = per_class_tables(View(gather(rows_)))
    assert [(r.label.text, r.cells[0].text) for r in table.rows] == [("left", "40.0"), ("right", DASH), ("up", "60.0")]


def test_cells_that_fail_alike_share_a_row() -> None:
    rows_ = column("gvd", 1, [None, None, 0.5], log="logs/a.log") + column("gvd", 1, [None], evaluator_label="c3d", log="logs/b.log")
    cells = [cell for cells in gather(rows_).values() for cell in cells]
    made = failures_table(cells, {"gvd": "guided"})
    assert made is not None and len(made.rows) == 1 and made.rows[0].label.text == "guided"
    assert [cell.text for cell in made.rows[0].cells[3:]] == ["c3d, net", "0, 1", "failed", "NaN in the loss", "logs/a.log and 1 more"]
    assert failures_table([cell for cell in cells if not cell.missing], {}) is None
