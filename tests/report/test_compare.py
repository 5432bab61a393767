from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from harness.report.cells import CellResult, View, gather
from harness.report.compare import gains_table, pairwise_tables, rank_methods, rank_picture, rank_table
from harness.report.figures import make_palette
from harness.report.group import Group
from harness.report.statistics import average_ranks, holm, mcnemar, sign_flip
from harness.report.tables import DASH, Table
from harness.rows import Row
from tests.report.test_main_table import BETTER, RANDOM, column, row

Groups = dict[Group, list[CellResult]]


def grid(
    methods: dict[str, float], *, ipcs: tuple[int, ...] = (1, 5, 10), evaluators: tuple[str, ...] = ("net",), seeds: int = 5
) -> Groups:
    rows: list[Row] = []
    for e, evaluator in enumerate(evaluators):
        for m, (method, level) in enumerate(methods.items()):
            for ipc in ipcs:
                noise = np.random.default_rng([e, ipc]).normal(0, 0.02, seeds) + np.random.default_rng([e, m, ipc]).normal(0, 0.004, seeds)
                rows += column(method, ipc, (level + 0.02 * ipc + noise).tolist(), evaluator_label=evaluator)
    return gather(rows)


def cell(tables: list[Table], method: str, where: str) -> Any:
    (table,) = tables
    return next(r for r in table.rows if r.label.text == method).cells[table.columns.index(where)]


def test_gains_pool_blocks_of_ipc_and_seed_with_holm_over_methods() -> None:
    groups = grid({"random": 0.4, "dm": 0.4, "gvd": 0.5})
    table, cells = gains_table(View(groups)), next(iter(groups.values()))
    by_key = {(c.method, c.ipc): c.accuracy for c in cells}
    differences = {m: [by_key[m, ipc][s] - by_key["random", ipc][s] for ipc in (1, 5, 10) for s in range(5)] for m in ("dm", "gvd")}
    adjusted = holm([sign_flip(d) for d in differences.values()])
    for method, p in zip(differences, adjusted, strict=True):
        shown = cell(table, method, "net")
        assert shown.data["difference"] == pytest.approx(np.mean(differences[method]))
        assert shown.data["p_holm"] == pytest.approx(p) and shown.data["blocks"] == 15
    assert cell(table, "gvd", "net").bold and not cell(table, "dm", "net").bold
    assert cell(table, "gvd", "net").details == ("p < 0.001, ahead in 15 of 15",)


def test_evaluators_that_share_a_set_are_one_block() -> None:
    groups = grid({"random": 0.4, "gvd": 0.5}, evaluators=("a", "b"), ipcs=(1, 5), seeds=4)
    table = gains_table(View(groups))
    assert table[0].columns == ("a", "b", "all evaluators")
    both = cell(table, "gvd", "all evaluators")
    assert both.data["blocks"] == 8, "not 16: two networks on one distilled set are no two draws of it"
    assert both.data["difference"] == pytest.approx(
        (cell(table, "gvd", "a").data["difference"] + cell(table, "gvd", "b").data["difference"]) / 2
    )


def test_too_few_blocks_are_said_to_be_too_few() -> None:
    table = gains_table(View(gather(column("random", 1, RANDOM) + column("gvd", 1, BETTER))))
    shown = cell(table, "gvd", "net")
    assert shown.details == ("n too small, ahead in 5 of 5",) and not shown.bold and shown.data["p_holm"] is None


def test_without_random_there_is_nothing_to_gain() -> None:
    assert gains_table(View(gather(column("gvd", 1, BETTER)))) == []


def test_pairs_use_only_what_both_have() -> None:
    rows = column("random", 1, RANDOM) + column("gvd", 1, BETTER) + column("dm", 5, BETTER) + column("random", 5, RANDOM)
    table = pairwise_tables(View(gather(rows)))
    assert cell(table, "random", "dm").data["blocks"] == 5
    assert cell(table, "dm", "gvd").text == DASH and cell(table, "dm", "gvd").notes == ("no shared block",)
    assert cell(table, "random", "gvd").data["difference"] == pytest.approx(np.mean(np.subtract(RANDOM, BETTER)))


def test_a_single_pair_of_networks_gets_a_test_over_clips() -> None:
    rng = np.random.default_rng(0)
    bits = {m: rng.random(240) < level for m, level in (("random", 0.4), ("dm", 0.5), ("gvd", 0.8))}
    rows = [row(m, 1, 0, float(b.mean()), correct=base64.b64encode(np.packbits(b).tobytes()).decode()) for m, b in bits.items()]
    shown = cell(pairwise_tables(View(gather(rows))), "random", "gvd")
    assert shown.data["p_mcnemar"] == pytest.approx(mcnemar(bits["random"], bits["gvd"]))
    assert shown.details[0].startswith("McNemar p") and not shown.bold, "it speaks of two networks, not of the methods"


def test_ranks_are_refused_below_six_complete_blocks() -> None:
    few = View(grid({"random": 0.4, "dm": 0.42, "gvd": 0.5}, seeds=1, evaluators=("a", "b")))
    refused = rank_methods(few)
    assert isinstance(refused, str) and refused.endswith("in which every method has a result; there are 3.")
    assert rank_table(few) == [] and rank_picture(few, make_palette([])) is None
    assert rank_methods(View(grid({"random": 0.4, "gvd": 0.5}, evaluators=("a", "b")))) is None


def test_ranks_over_complete_blocks() -> None:
    groups = grid({"random": 0.4, "dm": 0.5, "gvd": 0.6}, evaluators=("a", "b"), seeds=3)
    view = View(groups, {"gvd": "guided"})
    (table,), picture = rank_table(view), rank_picture(view, make_palette([]))
    assert [r.label.text for r in table.rows] == ["guided", "dm", "random"]
    per_network = [
        [[c.accuracy[seed] for c in cells if c.ipc == ipc] for ipc in (1, 5, 10) for seed in range(3)] for cells in groups.values()
    ]
    scores = np.mean(per_network, axis=0)
    assert scores.shape == (9, 3) and "9 complete blocks of (IPC, seed), accuracy averaged over 2 evaluators" in table.caption
    assert sorted(float(r.cells[0].data["value"]) for r in table.rows) == sorted(average_ranks(scores).tolist())  # type: ignore[arg-type]
    assert picture is not None and picture.png.startswith(b"\x89PNG")
