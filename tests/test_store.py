"""Records and artifacts: whole or absent, and what is damaged is said to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.store import Store, canonical_json, content_hash


def record(key: str = "k", **more: object) -> dict:
    return {"key": key, "status": "done", "artifacts": {}, **more}


def test_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_record(record(metrics={"accuracy": 0.5, "peak_gpu_mib": None}))
    assert store.read_record("k") == record(metrics={"accuracy": 0.5, "peak_gpu_mib": None})
    assert store.read_record("other") is None
    assert [p.name for p in (tmp_path / "records").iterdir()] == ["k.json"]


def test_a_url_works_like_a_folder() -> None:
    store = Store("memory://bench")
    store.write_record(record("m"))
    entry = store.write_artifact("m", "a.bin", b"abc")
    store.write_record(record("m", artifacts={"a.bin": entry}))
    again = Store("memory://bench")
    assert again.read_artifact(again.read_records()[0]["m"], "a.bin") == b"abc"


def test_damage_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_record(record(metrics={"accuracy": 0.5}))
    path = tmp_path / "records" / "k.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(StoreError, match="does not match its checksum"):
        store.read_record("k")
    path.write_text(path.read_text()[:40])
    found, damaged = store.read_records()
    assert found == {} and len(damaged) == 1 and "k.json" in damaged[0]


def test_artifacts_are_checked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = record(artifacts={"a": store.write_artifact("k", "a", b"abc")})
    assert store.read_artifact(made, "a") == b"abc"
    (tmp_path / "artifacts" / "k" / "a").write_bytes(b"abd")
    with pytest.raises(StoreError, match="checksum differs"):
        store.read_artifact(made, "a")
    (tmp_path / "artifacts" / "k" / "a").unlink()
    with pytest.raises(StoreError, match="missing"):
        store.read_artifact(made, "a")


def test_statuses_are_closed_and_nan_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="unknown status"):
        store.write_record({**record(), "status": "great"})
    with pytest.raises(ValueError):
        store.write_record(record(metrics={"loss": float("nan")}))
    assert store.read_records() == ({}, [])


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    assert content_hash({"a": 1, "b": 2}) == content_hash(json.loads('{"b": 2, "a": 1}'))
