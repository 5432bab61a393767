"""Records of another machine come in: checked, once, and without losing what is better."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness import Session
from harness.cli import main
from harness.record import Record
from harness.store import Store
from tests.conftest import TINY


def sweep(bench: Path, results: Path, **options: Any) -> dict[str, Record]:
    given = {"methods": "first", "ipc": "1", "seeds": 1, "reference": False, **options}
    session = Session.open(bench, plugins=[str(TINY)], results=str(results), **given)
    session.run()
    return session.store.read_records()[0]


def take(source: Path, target: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["import", str(source), "--results", str(target)])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def files(folder: Path) -> dict[str, str]:
    """Path -> checksum of everything but decoded clips."""
    kept = (p for p in folder.rglob("*") if p.is_file() and "cache" not in p.relative_to(folder).parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


def test_what_is_new_comes_in_once(bench: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    own, other = sweep(bench, here, seeds=1), sweep(bench, there, seeds=3, labels="hard,soft")
    code, output = take(there, here)
    assert code == 0, output
    assert set(Store(here).read_records()[0]) == {*own, *other}
    assert len(Store(here).read_sweeps()) == 2
    assert f"{len(other.keys() - own.keys())} records added" in output and "1 sweeps; 0 refused" in output
    before = files(here)
    code, output = take(there, here)
    assert code == 0 and "0 records added, 0 replaced" in output and "0 sweeps; 0 refused" in output
    assert files(here) == before
    assert CliRunner().invoke(main, ["check", "--results", str(here)]).exit_code == 0
    again = Session.open(
        bench, plugins=[str(TINY)], results=str(here), methods="first", ipc="1", seeds=3, labels="hard,soft", reference=False
    )
    assert not again.survey().to_do, "nothing of it has to run again"


def test_done_beats_failed_whatever_is_newer(bench: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    method = f"misbehave[how=once,marker={marker}]"
    failed = sweep(bench, tmp_path / "first", methods=method)
    marker.touch()
    done = sweep(bench, tmp_path / "second", methods=method)
    marker.unlink()
    newer = sweep(bench, tmp_path / "third", methods=method)
    key = next(k for k, r in failed.items() if r.kind == "evaluate")
    assert [folder[key].status for folder in (failed, done, newer)] == ["skipped", "done", "skipped"]
    assert take(tmp_path / "second", tmp_path / "first")[0] == 0
    assert Store(tmp_path / "first").read_record(key) == done[key]
    assert take(tmp_path / "third", tmp_path / "first")[0] == 0
    assert Store(tmp_path / "first").read_record(key) == done[key], "a newer failure displaces nothing"


def test_of_two_finished_records_the_newer_stands(bench: Path, tmp_path: Path) -> None:
    old, new = sweep(bench, tmp_path / "old"), sweep(bench, tmp_path / "new")
    assert set(old) == set(new)
    take(tmp_path / "old", tmp_path / "new")
    assert Store(tmp_path / "new").read_records()[0] == new
    take(tmp_path / "new", tmp_path / "old")
    assert Store(tmp_path / "old").read_records()[0] == new


def test_what_is_damaged_stays_out_and_is_named(bench: Path, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    records = sweep(bench, there, seeds=2)
    first, second = [r for r in records.values() if r.kind == "distill"]
    (there / "artifacts" / first.key / "distilled.safetensors").write_bytes(b"torn")
    cell = next(r for r in records.values() if r.inputs.get("distill") == second.key)
    path = there / "records" / f"{cell.key}.json"
    path.write_text(path.read_text().replace('"accuracy":', '"accuracy": 1.0, "old":', 1))
    code, output = take(there, here)
    assert code == 1 and "2 refused" in output
    assert f"artifact distilled.safetensors of {first.key} is damaged" in output
    assert f"records/{cell.key}.json is damaged" in output
    assert set(Store(here).read_records()[0]) == set(records) - {first.key, cell.key}


def test_a_lost_file_comes_back(bench: Path, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    records = sweep(bench, there)
    take(there, here)
    key = next(k for k, r in records.items() if r.kind == "distill")
    (here / "artifacts" / key / "preview.gif").unlink()
    take(there, here)
    assert (here / "artifacts" / key / "preview.gif").is_file()


@pytest.mark.parametrize("name", ["nowhere", "here"])
def test_a_source_must_be_another_results_folder(bench: Path, tmp_path: Path, name: str) -> None:
    sweep(bench, tmp_path / "here")
    code, output = take(tmp_path / name, tmp_path / "here")
    assert code == 2 and ("it holds no records" in output or "is the results folder itself" in output)
