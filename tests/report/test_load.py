from __future__ import annotations

from pathlib import Path

from harness.report.load import load, load_rows
from harness.report.versions import superseded
from harness.rows import Row
from harness.spec import DistillSpec
from tests.report.records import NATIVE_FRAMES, Builder


def keys(rows: tuple[Row, ...]) -> list[str]:
    return [row.key for row in rows]


def test_rows_join_what_a_cell_rests_on(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    upstream = build.distill("gvd", 5, 0)
    build.evaluate("gvd", 5, 0, upstream, accuracy=0.5)
    build.evaluate("full", None, 0, build.teacher("convnet3d"), accuracy=0.9, exact=True)
    gvd = next(row for row in load_rows(tmp_path) if row.method == "gvd")
    assert gvd.value("frame_fraction") == 5 * 6 * 8 / NATIVE_FRAMES
    assert (gvd.value("distill_seconds"), gvd.value("distill_cpu_seconds"), gvd.value("peak_cpu_mib")) == (20.0, 30.0, 450.0)
    assert gvd.value("train_seconds") == 9.0 and gvd.value("videos_generated") == 200.0
    assert gvd.accuracy is not None and gvd.value("relative_accuracy") == gvd.accuracy / 0.9
    assert gvd.value("peak_gpu_mib") is None, "unmeasured stays None"
    assert gvd.shape == "8x32x32" and gvd.distill_key == upstream
    full = next(row for row in load_rows(tmp_path) if row.method == "full")
    assert (gvd.value("videos_trained_on"), full.value("videos_trained_on")) == (30, 1800)


def test_an_empty_store_has_no_rows(tmp_path: Path) -> None:
    assert load_rows(tmp_path) == ()


def test_damaged_records_are_left_out_and_named(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    good = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    bad = build.evaluate("gvd", 1, 1, build.distill("gvd", 1, 1))
    path = tmp_path / "records" / f"{bad}.json"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    results = load(tmp_path)
    assert keys(results.rows) == [good]
    assert len(results.damaged) == 1 and bad in results.damaged[0]


def test_a_newer_version_of_a_cell_supersedes_all_seeds_of_the_older(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    old = {build.evaluate("gvd", 1, s, build.distill("gvd", 1, s), accuracy=0.9) for s in range(3)}
    other = {build.evaluate("random", 1, s, build.distill("random", 1, s), accuracy=0.2) for s in range(3)}
    build.digest = "2" * 12  # the method's source has changed
    new = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0), accuracy=0.4)
    results = load(tmp_path)
    assert set(results.superseded) == old, "seeds of different code are never averaged"
    assert set(keys(results.rows)) == {new, *other} and results.other_code == frozenset()


def test_relative_accuracy_knows_only_what_is_shown(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0), accuracy=0.4, exact=True)
    build.evaluate("full", None, 0, build.teacher("convnet3d"), accuracy=0.5, exact=True)
    build.code = "i" * 12
    build.evaluate("full", None, 0, build.teacher("convnet3d"), accuracy=0.8, exact=True)
    assert [row.value("relative_accuracy") for row in load_rows(tmp_path)] == [1.0, 0.5], "not by the mean of both references"


def test_the_seeds_of_a_reference_are_of_one_version(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    for seed in range(2):
        build.evaluate("full", None, seed, build.teacher("convnet3d", seed), accuracy=0.9)
    assert superseded(load(tmp_path).records) == set()


def test_a_version_is_also_that_of_the_inputs(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    first = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    # Made from another asset: the evaluation's own specification is the same, that of its input's input is not.
    spec = build.records[build.distill("gvd", 1, 1)].spec
    assert isinstance(spec, DistillSpec)
    upstream = build.write("x", spec, {"data": build.data, "teacher": build.teacher("c3d")})
    second = build.evaluate("gvd", 1, 1, upstream)
    records, _ = build.store.read_records()
    assert superseded(records) == {first}
    assert second not in superseded(records)


def test_an_interrupted_attempt_does_not_displace_a_verdict_and_a_failed_one_does(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    done = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    build.digest = "2" * 12
    stopped = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0), status="interrupted", reason="stopped by the user")
    build.plan([build.cell("gvd", 1, 0, key=stopped)])
    assert set(load(tmp_path).superseded) == {stopped}, "also where it is the newest that was asked for"
    build.digest = "3" * 12
    failed = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0), status="failed", reason="NaN", metrics={})
    results = load(tmp_path)
    assert set(results.superseded) == {done, stopped}
    assert keys(results.rows) == [failed]


def test_what_the_user_asked_to_keep_counts_with_the_newest_and_is_marked(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    kept = [build.evaluate("gvd", 1, seed, build.distill("gvd", 1, seed)) for seed in range(2)]
    build.digest = "2" * 12
    new = [build.evaluate("gvd", 1, seed, build.distill("gvd", 1, seed)) for seed in range(2, 5)]
    assert set(load(tmp_path).superseded) == set(kept)
    cells = [build.cell("gvd", 1, seed, key=key) for seed, key in enumerate([*kept, *new])]
    build.plan(cells, kept)
    results = load(tmp_path)
    assert results.superseded == () and keys(results.rows) == [*kept, *new]
    assert results.other_code == frozenset(kept)


def test_what_rests_on_a_kept_set_is_kept_with_it(tmp_path: Path) -> None:
    """Another evaluator on sets that were kept: its own code is the present one, that of the sets is not."""
    build = Builder(tmp_path)
    old = build.distill("gvd", 1, 0)
    build.digest = "2" * 12
    new = build.distill("gvd", 1, 1)
    build.digest = "1" * 12
    first = build.evaluate("gvd", 1, 0, old, evaluator="c3d")
    build.digest = "2" * 12
    second = build.evaluate("gvd", 1, 1, new, evaluator="c3d")
    build.plan([build.cell("gvd", 1, seed, evaluator="c3d", key=key) for seed, key in enumerate([first, second])], [old])
    results = load(tmp_path)
    assert results.superseded == () and results.other_code == {first}


def test_a_kept_record_stands_before_a_newer_attempt_that_nobody_asked_for(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    kept = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    build.digest = "2" * 12
    failed = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0), status="failed", reason="NaN", metrics={})
    build.plan([build.cell("gvd", 1, 0, key=kept)], [kept])
    assert load(tmp_path).superseded == (failed,)


def test_only_the_newest_sweep_that_planned_a_cell_says_what_is_kept(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    kept = [build.evaluate("gvd", 1, seed, build.distill("gvd", 1, seed)) for seed in range(2)]
    other = build.evaluate("gvd", 5, 0, build.distill("gvd", 5, 0))
    build.plan(
        [*(build.cell("gvd", 1, seed, key=key) for seed, key in enumerate(kept)), build.cell("gvd", 5, 0, key=other)], [*kept, other]
    )
    build.digest = "2" * 12
    new = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    build.evaluate("gvd", 5, 0, build.distill("gvd", 5, 0))
    build.sweep, build.started = "20260302-100000-abcd", "2026-03-02T10:00:00+00:00"
    build.plan([build.cell("gvd", 1, 0, key=new)])
    results = load(tmp_path)
    assert set(kept) <= set(results.superseded), "the later command ran the cell again with new code"
    assert other not in results.superseded, "the later command did not plan this one"


def test_code_that_was_changed_back_finds_its_results_again(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    first = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    build.digest = "2" * 12
    tried = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    build.plan([build.cell("gvd", 1, 0, key=first)])
    assert load(tmp_path).superseded == (tried,)


def test_what_was_planned_and_never_ran_is_a_row(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    done = [build.evaluate("gvd", 1, seed, build.distill("gvd", 1, seed)) for seed in range(2)]
    cells = [build.cell("gvd", 1, seed, key=done[seed] if seed < 2 else "") for seed in range(4)]
    build.plan([*cells, build.cell("full", None, 0), build.cell("gvd", 5, 0)], status="interrupted")
    rows = load_rows(tmp_path)
    missing = [(row.method, row.ipc, row.seed) for row in rows if row.status == "missing"]
    assert missing == [("full", None, 0), ("gvd", 1, 2), ("gvd", 1, 3), ("gvd", 5, 0)] and len(rows) == 6
    row = next(row for row in rows if row.status == "missing")
    assert row.reason == "planned, not run" and row.accuracy is None and row.value("distill_seconds") is None
    assert row.sweep == build.sweep and row.shape == "8x32x32" and row.dataset_label == "moving-digits"


def test_any_record_of_a_cell_and_seed_answers_its_plan(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    build.fail("gvd", 1, 1, status="failed", reason="NaN")
    build.plan([build.cell("gvd", 1, seed) for seed in range(2)])  # under other keys: the code has changed since
    assert [row.status for row in load_rows(tmp_path)] == ["done", "failed"]


def test_a_narrower_plan_replaces_the_older_one_of_a_cell(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    build.plan([build.cell("gvd", ipc, seed) for ipc in (1, 5) for seed in range(5)])
    build.sweep, build.started = "20260302-100000-abcd", "2026-03-02T10:00:00+00:00"
    build.plan([build.cell("gvd", 1, seed) for seed in range(2)])
    assert [(row.ipc, row.seed) for row in load_rows(tmp_path)] == [(1, 0), (1, 1), *((5, seed) for seed in range(5))]


def test_a_skipped_cell_tells_the_failure_it_goes_back_to(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    build.fail("gvd", 1, 0, status="oom", reason="out of memory: 24 GiB")
    build.fail("gvd", 1, 1, status="skipped", reason="needs 16 frames")
    teacher = build.teacher("convnet3d", status="failed", reason="NaN in the loss", log="logs/teacher.log")
    build.evaluate("full", None, 0, teacher, status="skipped", reason="its input failed", metrics={}, arrays={}, phases={})
    rows = load_rows(tmp_path)
    assert [row.status for row in rows] == ["failed", "oom", "skipped"]
    assert [row.reason for row in rows] == [
        "asset: NaN in the loss",
        "distillation: out of memory: 24 GiB",
        "distillation: needs 16 frames",
    ]
    assert rows[0].log == "logs/teacher.log"


def test_rows_stand_in_natural_order(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    for label, ipc in (("gvd", 10), ("gvd", 5), ("random", 10), ("dm", 10), ("gvd", 1)):
        build.evaluate(label, ipc, 0, build.distill(label, ipc, 0, preview=False))
    assert [(row.ipc, row.method) for row in load_rows(tmp_path)] == [(1, "gvd"), (5, "gvd"), (10, "random"), (10, "dm"), (10, "gvd")]
