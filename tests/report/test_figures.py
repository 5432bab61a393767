from __future__ import annotations

import re
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import seaborn as sns

from harness.report.cells import View, gather, methods
from harness.report.figures import COLOURS, COLUMN_INCHES, accuracy_figure, cost_figure, make_palette, rank_figure
from tests.report.test_compare import grid
from tests.report.test_main_table import BETTER, RANDOM, column, row

LABELS = ["random", "dm", "gvd"]
LEVELS = {"random": 0.3, "dm": 0.4, "gvd": 0.5}


def lines(axes: Any) -> dict[str, np.ndarray]:
    """Label -> points (n, 2) of the drawn lines; error bars are containers of their own."""
    drawn = {container.get_label(): container.lines[0] for container in axes.containers}
    drawn |= {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    return {label: np.column_stack(line.get_data()) for label, line in drawn.items()}


def test_accuracy_has_a_panel_for_each_evaluator_and_a_point_for_each_budget() -> None:
    groups = grid(LEVELS, evaluators=("a", "b"))
    picture = accuracy_figure(View(groups, {"gvd": "guided"}), make_palette(LABELS))
    assert picture is not None
    panels = picture.figure.axes
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    assert len({axes.get_ylim() for axes in panels}) == 1, "panels share their scale"
    for axes, cells in zip(panels, groups.values(), strict=True):
        drawn = lines(axes)
        assert {"random", "dm", "guided"} <= set(drawn)
        means = [100 * (c.mean or 0) for c in cells if c.method == "gvd"]
        assert drawn["guided"][:, 1] == pytest.approx(means)
        assert np.allclose(drawn["guided"][:, 0], [1, 5, 10], rtol=0.12)
        assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "5", "10"]
    assert "5 seeds" in picture.caption and "sample standard deviation" in picture.caption


def test_long_names_in_the_legend_take_no_room_from_the_panels() -> None:
    heights = []
    for length in (0, 90):
        levels = {"random": 0.3} | {f"m{i}" + "x" * length: 0.4 for i in range(9)}
        groups = grid(levels, evaluators=("a", "b", "c"))
        picture = accuracy_figure(View(groups), make_palette(list(levels)))
        assert picture is not None
        assert picture.png  # the layout is made when it is drawn
        heights.append(picture.figure.axes[0].get_window_extent().height / picture.figure.dpi)
    assert heights[0] > 1.1 and heights[1] == pytest.approx(heights[0], rel=0.1)


def test_reference_lines() -> None:
    rows = [*column("random", 1, RANDOM, per_class_accuracy=(0.5,) * 4), row("full", None, 0, 0.9)]
    picture = accuracy_figure(View(gather(rows)), make_palette(LABELS))
    assert picture is not None
    drawn = lines(picture.figure.axes[0])
    assert set(drawn["full"][:, 1]) == {90.0} and set(drawn["chance"][:, 1]) == {25.0}


def test_cost_has_one_point_for_each_set_however_many_evaluators_it_served() -> None:
    groups = grid(LEVELS, evaluators=("a", "b", "c"))
    picture = cost_figure(View(groups), make_palette(LABELS))
    assert picture is not None
    assert [axes.get_ylabel() for axes in picture.figure.axes] == ["peak CPU (MiB)", "distillation (s)"]
    assert all(points.shape == (3, 2) for axes in picture.figure.axes for points in lines(axes).values())


def test_gpu_memory_gets_a_panel_where_it_was_measured() -> None:
    groups = gather(column("random", 1, RANDOM, peak_gpu_mib=800.0) + column("gvd", 1, BETTER, peak_gpu_mib=900.0))
    picture = cost_figure(View(groups), make_palette(LABELS))
    assert picture is not None and picture.figure.axes[0].get_ylabel() == "peak GPU (MiB)"


def test_nothing_to_draw_is_no_figure() -> None:
    groups = gather(column("gvd", 1, [None]))
    assert accuracy_figure(View(groups), make_palette(LABELS)) is None
    assert cost_figure(View(groups), make_palette(LABELS)) is None


@pytest.mark.parametrize("evaluators", [("a",), ("a", "b", "c", "d", "e")], ids=len)
def test_figures_are_one_column_wide(evaluators: tuple[str, ...]) -> None:
    picture = accuracy_figure(View(grid(LEVELS, evaluators=evaluators)), make_palette(LABELS))
    assert picture is not None and picture.figure.get_figwidth() == COLUMN_INCHES
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", picture.pdf)
    assert box is not None and float(box[1]) == pytest.approx(72 * COLUMN_INCHES), (
        "the file is as wide as the column, its fonts as large as said"
    )


def test_fonts_are_embedded_and_those_of_papers() -> None:
    picture = accuracy_figure(View(grid(LEVELS)), make_palette(LABELS))
    assert picture is not None
    assert b"/FontFile2" in picture.pdf and b"STIXGeneral" in picture.pdf and b"/Type3" not in picture.pdf


def test_a_line_at_100_percent_is_drawn_whole() -> None:
    picture = accuracy_figure(View(gather([*column("random", 1, RANDOM), row("full", None, 0, 1.0)])), make_palette(LABELS))
    assert picture is not None and picture.figure.axes[0].get_ylim()[1] > 101


def test_the_memory_before_the_distillation_is_that_of_the_methods_own_process() -> None:
    rows = column("random", 1, RANDOM, peak_cpu_mib=300.0, baseline_cpu_mib=290.0)
    rows += column("gvd", 1, BETTER, peak_cpu_mib=900.0, baseline_cpu_mib=700.0)
    picture = cost_figure(View(gather(rows)), make_palette(LABELS))
    assert picture is not None
    drawn = [np.asarray(line.get_ydata()) for line in picture.figure.axes[0].lines]
    stems = {tuple(ys.tolist()) for ys in drawn if len(ys) == 2}
    assert stems == {(290.0, 300.0), (700.0, 900.0)}


def test_the_rank_diagram_has_its_bar_and_its_axis_named() -> None:
    picture = rank_figure("r", "t", {"a": 1.2, "b": 1.9, "c": 2.9}, 0.8, "", {})
    texts = [text.get_text() for text in picture.figure.axes[0].texts]
    assert "critical difference 0.80" in texts and "mean rank (1 is best)" in texts
    (bar,) = [line for line in picture.figure.axes[0].lines if line.get_marker() == "|"]
    assert np.diff(np.asarray(bar.get_xdata())) == pytest.approx(0.8)


def test_twenty_methods_look_different() -> None:
    labels = ["random", *(f"m{i}" for i in range(20))]
    palette = make_palette(labels)
    assert len({repr(sorted(look.items(), key=lambda item: item[0])) for look in palette.values()}) == 21


def test_a_colour_belongs_to_a_name_and_not_to_the_number_of_methods() -> None:
    names = ["dm", "gvd", "herding", "k_center"]
    every = make_palette([*names, "gvd[guidance=0]"])
    assert [make_palette([name])[name]["color"] for name in ("gvd", "herding")] == [every[name]["color"] for name in ("gvd", "herding")]
    assert every["gvd[guidance=0]"]["color"] == every["gvd"]["color"] and every["gvd[guidance=0]"] != every["gvd"]
    assert len({every[name]["color"] for name in names}) == 4
    assert set(COLOURS) <= {colour.lower() for colour in sns.color_palette("colorblind").as_hex()}


def test_the_callers_settings_are_left_alone() -> None:
    before = dict(mpl.rcParams)
    picture = accuracy_figure(View(grid(LEVELS)), make_palette(methods(View(grid(LEVELS)).cells)))
    assert picture is not None and picture.png.startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before
