"""Shared fixtures: the tiny plugins with a bench.toml of their own, and a way to drive the command line as a user does."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread only waits

PROJECT = Path(__file__).resolve().parent.parent
TINY = PROJECT / "tests" / "plugins" / "tiny.py"
REAL_DATA = Path(os.environ.get("HARNESS_REAL_DATA", PROJECT.parent / "shared" / "data" / "utd_mhad_depth"))
TINY_BENCH = """
[run]
dataset = "tiny"
methods = ["first", "random"]
ipc = [1, 2]
evaluators = ["tiny-net"]
seeds = 2
teacher = "tiny-net"
executor = "inline"
quality = false
track = false

[datasets.tiny]
protocol = "tiny"

[protocols.tiny]
epochs = 3
lr = 0.1
test_batch = 8
"""


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A --config file for the tiny dataset."""
    path = tmp_path / "tiny.toml"
    path.write_text(f"{TINY_BENCH}\n", encoding="utf-8")
    return path


@pytest.fixture
def real_data() -> Path:
    """The folder of real videos in UCF101's layout; the test is skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real videos at {REAL_DATA} (HARNESS_REAL_DATA names another folder)")
    return REAL_DATA


S3_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server on 127.0.0.1 with the empty bucket ``bench``; the environment names it."""
    pytest.importorskip("s3fs", reason="results on S3 need s3fs: pip install '.[s3]'")
    moto = pytest.importorskip("moto.server", reason="the S3 server of the tests is moto: pip install 'moto[server]'")
    import fsspec

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in S3_SETTINGS.items():
            patch.setenv(name, value)
        running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        address = "http://{}:{}".format(*running.get_host_and_port())
        patch.setenv("AWS_ENDPOINT_URL", address)
        fsspec.filesystem("s3").__class__.clear_instance_cache()
        files = fsspec.filesystem("s3", use_listings_cache=False)
        if files.exists("bench"):
            files.rm("bench", recursive=True)
        files.mkdir("bench")
        yield address
        running.stop()


Harness = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def harness(tmp_path: Path, bench: Path) -> Harness:
    """``harness("run", ...)``: the command line in a process of its own, on the tiny plugins, with results in a temporary folder."""

    def call(verb: str, *arguments: str, tiny: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", verb, *arguments]
        if tiny and verb == "run":
            command += ["--config", str(bench), "--plugin", str(TINY)]
        if verb != "list":
            command += ["--results", str(tmp_path / "results")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=timeout)

    return call
