"""Records and artifacts: whole or absent, and what is damaged is said to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.record import Provenance, Record
from harness.spec import DatasetSpec, DataSpec, canonical_json, content_hash, task_key
from harness.store import Store

DATASET = DatasetSpec(name="tiny", params={}, label="tiny", code="c", digest="d", clip_shape=(4, 1, 8, 8))
PROVENANCE = Provenance(sweep="s", host="h", started_at="2026-01-01T00:00:00+00:00", ended_at="2026-01-01T00:00:01+00:00", harness="0.1.0")


def key_of(code: str) -> str:
    return task_key(DataSpec(code=code, dataset=DATASET), {})


K = key_of("h")


def record(code: str = "h", **more: object) -> Record:
    spec, key = DataSpec(code=code, dataset=DATASET), key_of(code)
    fields = {"key": key, "identity": key, "kind": "data", "name": "prepare tiny", "status": "done", "spec": spec, "provenance": PROVENANCE}
    return Record(**{**fields, **more})  # type: ignore[arg-type]


def rewrite(path: Path, **fields: object) -> None:
    """A record with other fields and the checksum that fits them."""
    content = {**json.loads(path.read_text()), **fields}
    content.pop("content_sha256", None)
    path.write_text(json.dumps({**content, "content_sha256": content_hash(content)}))


def test_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = record(metrics={"accuracy": 0.5, "peak_gpu_mib": None}, curves={"loss": [(1, 0.25)]})
    store.write_record(made)
    assert store.read_record(K) == made
    assert store.read_record("other") is None
    assert [p.name for p in (tmp_path / "records").iterdir()] == [f"{K}.json"]


def test_a_url_works_like_a_folder() -> None:
    store = Store("memory://bench")
    store.write_record(record("m"))
    entry = store.write_artifact(key_of("m"), "a.bin", b"abc")
    store.write_record(record("m", artifacts={"a.bin": entry}))
    again = Store("memory://bench")
    assert again.read_artifact(again.read_records()[0][key_of("m")], "a.bin") == b"abc"


def test_damage_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_record(record(metrics={"accuracy": 0.5}))
    path = tmp_path / "records" / f"{K}.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(StoreError, match="does not match its checksum"):
        store.read_record(K)
    path.write_text(path.read_text()[:40])
    found, damaged = store.read_records()
    assert found == {} and len(damaged) == 1 and f"{K}.json" in damaged[0]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"status": "great"}, "field status: Input should be 'done', 'failed'"),
        ({"metrics": {"accuracy": "high"}}, "field metrics.accuracy"),
        ({"curves": {"loss": [[1]]}}, "field curves.loss.0"),
        ({"provenance": {"sweep": "s"}}, "field provenance.host"),
        ({"colour": "red"}, "field colour: Extra inputs are not permitted"),
        ({"spec": {"kind": "data"}}, "field spec.data.code"),
    ],
)
def test_a_record_that_breaks_the_schema_is_named_with_its_field(tmp_path: Path, fields: dict[str, object], sentence: str) -> None:
    store = Store(tmp_path)
    store.write_record(record())
    rewrite(tmp_path / "records" / f"{K}.json", **fields)
    _, (line,) = store.read_records()
    assert line.startswith(f"records/{K}.json breaks the schema of a record: ") and sentence in line


def test_records_of_another_task_or_of_an_older_harness_are_not_taken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_record(record())
    (tmp_path / "records" / "other.json").write_bytes((tmp_path / "records" / f"{K}.json").read_bytes())
    old = {"schema": 1, "key": "old", "status": "done"}
    (tmp_path / "records" / "old.json").write_text(json.dumps({**old, "content_sha256": content_hash(old)}))
    found, damaged = store.read_records()
    assert list(found) == [K]
    assert any(f"other.json is damaged: it is the record of another task, {K}" in line for line in damaged)
    assert any("old.json was written by an older version of the harness (schema 1): run the command again" in line for line in damaged)


def test_artifacts_are_checked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = record(artifacts={"a": store.write_artifact(K, "a", b"abc")})
    assert store.read_artifact(made, "a") == b"abc"
    (tmp_path / "artifacts" / K / "a").write_bytes(b"abd")
    with pytest.raises(StoreError, match="checksum differs"):
        store.read_artifact(made, "a")
    (tmp_path / "artifacts" / K / "a").unlink()
    with pytest.raises(StoreError, match="missing"):
        store.read_artifact(made, "a")


def test_statuses_are_closed_and_nan_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="status"):
        record(status="great")
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            store.write_record(record(metrics={"loss": value}))
    assert store.read_records() == ({}, [])


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    assert content_hash({"a": 1, "b": 2}) == content_hash(json.loads('{"b": 2, "a": 1}'))
