from __future__ import annotations

import numpy as np
import pytest

from harness.report.cells import View, gather
from harness.report.layouts import ablation_tables, cross_tables, overview_tables
from harness.report.published import Published
from harness.report.tables import DASH, TableCell
from tests.report.test_main_table import BETTER, RANDOM, column, row

LOW = [value - 0.1 for value in BETTER]


def views(*datasets: str) -> list[View]:
    found = []
    for i, dataset in enumerate(datasets):
        rows = []
        for evaluator in ("net", "other"):
            fields = {"dataset": dataset, "dataset_label": dataset, "evaluator": evaluator, "evaluator_label": evaluator}
            rows += [r for ipc in (1, 5)[: 2 - i] for r in column("random", ipc, RANDOM, **fields) + column("gvd", ipc, BETTER, **fields)]
            rows += [row("full", None, 0, 0.9, **fields)]
        if not i:
            rows += column("dm", 1, LOW, dataset=dataset, dataset_label=dataset)
        found.append(View(gather(rows), published=[Published(dataset, "P", "net", 1, "top-1", 0.2, "S")]))
    return found


def test_datasets_stand_side_by_side_under_their_names() -> None:
    board, table, _ = overview_tables(views("miniucf", "hmdb51"))
    assert table.heads == (("miniucf (8x32x32)", 2), ("hmdb51 (8x32x32)", 1))
    assert table.columns == ("IPC 1", "IPC 5", "IPC 1") and table.flat[2] == "hmdb51 (8x32x32) IPC 1"
    cells = {r.label.text: r.cells for r in table.rows}
    assert cells["gvd"][0].bold and cells["gvd"][0].text == "62.4 ± 1.5" and cells["dm"][2].text == DASH
    assert [c.span for c in cells["full (whole training split)"]] == [2, 1]
    assert [c.text for c in cells["P, published"]] == ["20.0", DASH, "20.0"]
    assert board.columns == ("miniucf (8x32x32)", "hmdb51 (8x32x32)", "mean rank")
    assert [r.label.text for r in board.rows][:2] == ["gvd", "random"] and board.rows[0].cells[-1].text == "1.00"
    assert overview_tables(views("miniucf")) == []


def test_across_architectures_the_drop_is_from_the_first_network_paired_by_seed() -> None:
    rows = column("gvd", 1, BETTER) + column("random", 1, RANDOM)
    for name, shift in (("b", 0.1), ("c", 0.2)):
        rows += column("gvd", 1, [v - shift for v in BETTER], evaluator_label=name)
    (table,) = cross_tables(View(gather(rows), digits=2))
    groups = list(gather(rows))
    assert table.columns == ("b", "c", "net", "drop") and len(groups) == 3
    gvd = next(r for r in table.rows if r.label.text == "gvd")
    first, second, third = (np.mean(BETTER) - s for s in (0.1, 0.2, 0.0))
    assert gvd.cells[3].data["drop"] == pytest.approx(first - (second + third) / 2)
    assert gvd.cells[0].text == f"{100 * first:.2f} ± {100 * np.std(BETTER, ddof=1):.2f}"
    assert next(r for r in table.rows if r.label.text == "random").cells[3] == TableCell(DASH, data={"drop": None})
    assert cross_tables(View(gather(column("gvd", 1, BETTER)))) == []


def test_variants_are_told_from_their_method_over_sets() -> None:
    rows = [
        r
        for ipc in (1, 5)
        for name in ("net", "other")
        for r in column("gvd", ipc, BETTER, evaluator_label=name) + column("gvd[guidance=0]", ipc, LOW, evaluator_label=name)
    ]
    (table,) = ablation_tables(View(gather(rows), {"gvd[guidance=0]": "unguided"}))
    assert [r.label.text for r in table.rows] == ["gvd", "unguided"] and table.columns == ("IPC 1", "IPC 5", "against gvd")
    told = table.rows[1].cells[2]
    assert told.data["blocks"] == 10 and told.data["difference"] == pytest.approx(-0.1) and told.bold
    assert ablation_tables(View(gather(column("gvd", 1, BETTER)))) == []
