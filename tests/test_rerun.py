"""One cell again, alone: equal to the digit, or told why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from harness import Session
from harness.cli import main
from harness.record import Record
from harness.store import Store
from tests.conftest import TINY


def sweep(bench: Path, tmp_path: Path, plugin: Path = TINY, **options: object) -> dict[str, Record]:
    """A sweep over labels and seeds; returns its evaluations by name."""
    given = {"methods": "random,first", "ipc": "1,2", "seeds": 2, "labels": "hard,soft", **options}
    session = Session.open(bench, plugins=[str(plugin)], results=str(tmp_path / "results"), **given)
    assert session.run() == "done"
    return {r.name: r for r in session.store.read_records()[0].values() if r.kind == "evaluate"}


def rerun(tmp_path: Path, key: str, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["rerun", key, "--results", str(tmp_path / "results"), *options])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_a_cell_is_made_again_to_the_digit(bench: Path, tmp_path: Path) -> None:
    made = sweep(bench, tmp_path)
    before = {p: p.read_bytes() for p in (tmp_path / "results" / "records").iterdir()}
    for name in ("tiny-net on random ipc 2 soft seed 1", "tiny-net on full seed 0"):
        code, output = rerun(tmp_path, made[name].key[:10])
        assert code == 0, output
        assert f"{name}: all {len(made[name].metrics)} metrics are equal to the digit" in output
        again = Store(tmp_path / "results" / "rerun" / made[name].key[:12]).read_records()[0]
        assert [r.name for r in again.values() if r.kind == "evaluate"] == [name], "alone"
        assert all(r.provenance.sweep != made[name].provenance.sweep for r in again.values()), "made, not copied"
    assert {p: p.read_bytes() for p in (tmp_path / "results" / "records").iterdir()} == before


def test_other_code_and_versions_are_named_where_numbers_differ(bench: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "plugins" / "mine.py"
    plugin.parent.mkdir()
    plugin.write_text(TINY.read_text(encoding="utf-8"), encoding="utf-8")
    made = sweep(bench, tmp_path, plugin, methods="random", labels="hard", reference=False)
    record = made["tiny-net on random ipc 1 hard seed 0"]
    store = Store(tmp_path / "results")
    old = record.provenance.model_copy(update={"libraries": {**record.provenance.libraries, "torch": "1.0"}, "device": "abacus"})
    store.write_record(record.model_copy(update={"provenance": old}))
    code, output = rerun(tmp_path, record.key)
    assert code == 0 and "equal to the digit" in output
    assert "also: other version of torch:" in output and ", was 1.0" in output and ", was abacus" in output
    plugin.write_text(plugin.read_text(encoding="utf-8").replace("nn.Tanh()", "nn.ReLU()"), encoding="utf-8")
    code, output = rerun(tmp_path, record.key)
    assert code == 1, output
    assert "metrics differ" in output and "what may be why: other code of evaluator tiny-net" in output
    assert f"ece: {record.metrics['ece']} then, " in output


def test_a_plugin_that_has_moved_is_named_again(bench: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(TINY.read_text(encoding="utf-8"), encoding="utf-8")
    record = sweep(bench, tmp_path, plugin, methods="random", labels="hard", ipc="1", seeds=1)["tiny-net on random ipc 1 hard seed 0"]
    plugin.rename(tmp_path / "moved.py")
    code, output = rerun(tmp_path, record.key)
    assert code == 2 and "mine.py does not exist" in output
    code, output = rerun(tmp_path, record.key, "--plugin", str(tmp_path / "moved.py"))
    assert code == 0 and "equal to the digit" in output, output


def test_what_cannot_be_found_is_said(bench: Path, tmp_path: Path) -> None:
    record = sweep(bench, tmp_path, methods="random", labels="hard", ipc="1", seeds=1)["tiny-net on random ipc 1 hard seed 0"]
    code, output = rerun(tmp_path, "zzz")
    assert code == 2 and "no cell in" in output and "'zzz'" in output
    code, output = rerun(tmp_path, record.key, "--scratch", str(tmp_path / "results"))
    assert code == 2 and "holds records already" in output
    (path,) = (tmp_path / "results" / "sweeps").iterdir()
    path.unlink()
    code, output = rerun(tmp_path, record.key)
    assert code == 2 and "its configuration is lost" in output


@pytest.mark.parametrize("key", [""])
def test_an_empty_key_is_no_cell(bench: Path, tmp_path: Path, key: str) -> None:
    sweep(bench, tmp_path, methods="random", labels="hard", ipc="1", seeds=1)
    assert rerun(tmp_path, key)[0] == 2
