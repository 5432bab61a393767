"""Results on S3: a server that speaks it, on 127.0.0.1 and started here (moto)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import Session
from harness.errors import StoreError, UsageError
from harness.lease import Lease
from harness.merge import import_results
from harness.record import Record
from harness.status import check_store, describe_store
from harness.store import Store
from tests.conftest import S3_SETTINGS, TINY
from tests.test_store import K, key_of, record

SECRET = S3_SETTINGS["AWS_SECRET_ACCESS_KEY"]


@pytest.fixture
def url(s3: str, request: pytest.FixtureRequest) -> str:
    return f"s3://bench/{request.node.name.partition('[')[0]}"


def test_records_and_artifacts(url: str) -> None:
    store = Store(url)
    store.check_writable()
    assert store.read_records() == ({}, [])
    made: list[Record] = []
    for code in ("a", "b"):
        entry = store.write_artifact(key_of(code), "a.bin", code.encode())
        made.append(record(code, artifacts={"a.bin": entry}))
        store.write_record(made[-1])
    again = Store(url)
    assert again.read_records() == ({r.key: r for r in made}, [])
    assert again.read_records([made[0].key])[0] == {made[0].key: made[0]}
    assert again.read_artifact(made[1], "a.bin") == b"b"
    assert again.has_artifacts(made[1])
    store.write_bytes(f"artifacts/{made[1].key}/a.bin", b"c")
    with pytest.raises(StoreError, match="checksum differs"):
        again.verify_artifact(made[1], "a.bin")
    again.set_aside(f"artifacts/{made[1].key}/a.bin")
    assert not store.has_artifacts(made[1])
    store.write_bytes(f"records/{K}.json", b"{")
    store.write_bytes("records/[x].json", b"{}")
    found, damaged = again.read_records()
    assert len(found) == 2 and len(damaged) == 2
    store.remove(f"records/{K}.json")
    assert again.read_record(K) is None
    assert sorted(store.names("records")) == sorted([*(f"{r.key}.json" for r in made), "[x].json"])


def test_one_of_several_holds_a_lease(url: str) -> None:
    store = Store(url)
    assert store.excludes
    assert store.create_bytes("leases/x", b"1") and not Store(url).create_bytes("leases/x", b"2")
    leases = [Lease(Store(url), "thing", 0.5) for _ in range(5)]
    assert [lease.take() for lease in leases] == [True, False, False, False, False]
    leases[0].release()
    assert [lease.take() for lease in leases[1:]] == [True, False, False, False]
    leases[1].release()
    assert store.names("leases") == []


def test_what_cannot_be_reached_is_told_in_a_sentence(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot write to the results folder s3://nowhere/x: The specified bucket does not exist"):
        Store("s3://nowhere/x").check_writable()
    assert Store("s3://nowhere/x").read_records() == ({}, [])
    with pytest.raises(UsageError, match=r"results at zz://\*\*\*@host cannot be reached"):
        Store("zz://me:secret@host")
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(fsspec.filesystem("s3").__class__, "retries", 1)
    fsspec.filesystem("s3").__class__.clear_instance_cache()
    with pytest.raises(UsageError, match="cannot write to the results folder s3://bench/x: Could not connect to the endpoint URL"):
        Store("s3://bench/x").check_writable()
    fsspec.filesystem("s3").__class__.clear_instance_cache()


def test_a_sweep_runs_resumes_and_is_reported(
    url: str, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.report import build_report
    from harness.terminal import run_session

    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def session(**options: object) -> Session:
        return Session.open(bench, results=url, plugins=[str(TINY)], ipc=[1], **options)

    arguments = ["run", "--results", f"{url}?token={SECRET}"]
    assert run_session(session(seeds=1), arguments, dry_run=False) == 0
    assert run_session(session(seeds=2), arguments, dry_run=False) == 0
    assert f"--results {url}" in capsys.readouterr().out
    assert not session(seeds=2).survey().to_do
    status = describe_store(url)
    assert "evaluate  5 done" in status and status.count("sweep ") == 2
    problems, summary = check_store(url)
    assert problems == [] and summary.endswith("sound")
    report = tmp_path / "report"
    build_report(url, report, formats=("md", "csv", "html"))
    assert import_results(Store(url), Store(tmp_path / "home")).refused == []
    fs = Store(url).fs
    everything = b"".join(fs.cat_file(path) for path in fs.find(url)) + b"".join(p.read_bytes() for p in report.rglob("*") if p.is_file())
    shown = status + summary + capsys.readouterr().out
    for value in (SECRET, S3_SETTINGS["AWS_ACCESS_KEY_ID"]):
        assert value.encode() not in everything and value not in shown
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET, "it was there to be found"
    assert Store(url).names("leases") == [] and Store(url).names("running") == []
