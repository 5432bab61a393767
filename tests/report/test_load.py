from __future__ import annotations

from pathlib import Path

from harness.report.load import load, load_rows, superseded
from tests.report.records import NATIVE_FRAMES, Builder


def test_rows_join_what_a_cell_rests_on(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    upstream = build.distill("gvd", 5, 0)
    build.evaluate("gvd", 5, 0, upstream, accuracy=0.5)
    build.evaluate("full", None, 0, build.teacher("convnet3d"), accuracy=0.9, exact=True)
    rows = load_rows(tmp_path)
    gvd = rows[rows["method"] == "gvd"].iloc[0]
    assert gvd["frame_fraction"] == 5 * 6 * 8 / NATIVE_FRAMES
    assert gvd["distill_seconds"] == 20.0 and gvd["peak_cpu_mib"] == 450.0 and gvd["train_seconds"] == 9.0
    assert gvd["relative_accuracy"] == gvd["accuracy"] / 0.9
    assert gvd["shape"] == "8x32x32" and gvd["distill_key"] == upstream


def test_an_empty_store_has_no_rows(tmp_path: Path) -> None:
    assert len(load_rows(tmp_path)) == 0


def test_damaged_records_are_left_out_and_named(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    good = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    bad = build.evaluate("gvd", 1, 1, build.distill("gvd", 1, 1))
    path = tmp_path / "records" / f"{bad}.json"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    results = load(tmp_path)
    assert results.rows["key"].tolist() == [good]
    assert len(results.damaged) == 1 and bad in results.damaged[0]


def test_a_newer_version_of_a_cell_supersedes_all_seeds_of_the_older(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    old = {build.evaluate("gvd", 1, s, build.distill("gvd", 1, s), accuracy=0.9) for s in range(3)}
    other = {build.evaluate("random", 1, s, build.distill("random", 1, s), accuracy=0.2) for s in range(3)}
    build.digest = "2" * 12  # the method's source has changed
    new = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0), accuracy=0.4)
    results = load(tmp_path)
    assert set(results.superseded) == old, "seeds of different code are never averaged"
    assert set(results.rows["key"]) == {new, *other}


def test_a_version_is_also_that_of_the_inputs(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    first = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    # Made from another asset: the evaluation's own specification is the same, that of its input's input is not.
    spec = build.store.read_record(build.distill("gvd", 1, 1))
    assert spec is not None
    upstream = build.write("distill", "x", spec["spec"], {"data": build.data, "teacher": build.teacher("c3d")})
    second = build.evaluate("gvd", 1, 1, upstream)
    records, _ = build.store.read_records()
    assert superseded(records) == {first}
    assert second not in superseded(records)


def test_an_interrupted_attempt_does_not_displace_a_verdict_and_a_failed_one_does(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    done = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0))
    build.digest = "2" * 12
    stopped = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0), status="interrupted", reason="stopped by the user")
    assert set(load(tmp_path).superseded) == {stopped}
    build.digest = "3" * 12
    failed = build.evaluate("gvd", 1, 0, build.distill("gvd", 1, 0), status="failed", reason="NaN", metrics={})
    results = load(tmp_path)
    assert set(results.superseded) == {done, stopped}
    assert results.rows["key"].tolist() == [failed]


def test_a_skipped_cell_tells_the_failure_it_goes_back_to(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    build.fail("gvd", 1, 0, status="oom", reason="out of memory: 24 GiB")
    build.fail("gvd", 1, 1, status="skipped", reason="needs 16 frames")
    rows = load_rows(tmp_path)
    assert rows["status"].tolist() == ["oom", "skipped"]
    assert rows["reason"].tolist() == ["distillation: out of memory: 24 GiB", "distillation: needs 16 frames"]


def test_rows_stand_in_natural_order(tmp_path: Path) -> None:
    build = Builder(tmp_path)
    for label, ipc in (("gvd", 10), ("gvd", 5), ("random", 10), ("dm", 10), ("gvd", 1)):
        build.evaluate(label, ipc, 0, build.distill(label, ipc, 0, preview=False))
    rows = load_rows(tmp_path)
    assert list(zip(rows["ipc"], rows["method"], strict=True)) == [(1, "gvd"), (5, "gvd"), (10, "random"), (10, "dm"), (10, "gvd")]
