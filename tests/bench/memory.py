"""Whether memory grows with the set: peaks of distilling and of evaluating, for sets of 50 classes of 16x3x112x112 at several IPC.

    python -m tests.bench.memory                           # IPC 1, 10, 50, 200: 20 GB of disk, 13 of them at once
    python -m tests.bench.memory --classes 10 --ipc 1,10,50 --methods drawn

Two figures, in MiB. "peak" is what the report shows: the largest resident size of the phase, VmHWM of /proc/self/status,
which counts pages of memory-mapped files that are resident at the moment, though the system takes them back when it needs them.
"anonymous" is the largest RssAnon of the whole command, which makes the set, stores it and evaluates it, looked at every 20 milliseconds
from outside: what the process needs. Every set is made by a process of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.store import Store

PROJECT = Path(__file__).resolve().parents[2]
PLUGINS = Path(__file__).with_name("large.py")
BENCH = """
[run]
executor = "inline"
quality = false
reference = false
track = false
teacher = "frame-means"

[datasets.large]
protocol = "one-pass"

[protocols.one-pass]
epochs = 1
batch = 16
test_batch = 16
"""


def peaks(command: list[str], environment: dict[str, str]) -> float:
    """The largest anonymous memory (MiB) of a command while it runs; raises where it does not end well."""
    process, most = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL), 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        most = max(most, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return most / 1024


def measure(folder: Path, method: str, ipc: int, arguments: argparse.Namespace) -> None:
    """Print the row of one set; it is removed."""
    results = folder / "results"
    per_class = max(map(int, arguments.ipc.split(",")))
    dataset = f"large[classes_={arguments.classes},per_class={per_class}]"
    line = [sys.executable, "-m", "harness", "run", "--config", str(folder / "bench.toml"), "--plugin", str(PLUGINS), "--dataset", dataset]
    line += [
        "--methods",
        method,
        "--evaluators",
        "frame-means",
        "--ipc",
        str(ipc),
        "--results",
        str(results),
        "--set",
        f"run.cache={folder / 'cache'}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    anonymous = peaks([*line, "--seeds", "1"], environment)
    records = Store(results).read_records()[0].values()
    made, tested = (next(r for r in records if r.kind == kind and r.status == "done") for kind in ("distill", "evaluate"))
    figures = [made.artifacts["distilled.safetensors"].bytes / 2**20]
    figures += [record.phases[name].peak_cpu_mib or 0.0 for record, name in ((made, "distill"), (tested, "train"), (tested, "test"))]
    seconds = [record.provenance.seconds for record in (made, tested)]
    print(f"| {method} | {ipc} | {' | '.join(f'{value:.0f}' for value in [*figures, anonymous, *seconds])} |", flush=True)  # noqa: T201
    shutil.rmtree(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=50, help="classes of the dataset")
    parser.add_argument("--ipc", default="1,10,50,200", help="sizes of the sets")
    parser.add_argument("--methods", default="drawn;random;drawn[layout=grid,compose=4]", help="methods, with semicolons between them")
    parser.add_argument("--folder", help="where the files lie; by default in the system's temporary folder")
    arguments = parser.parse_args()
    heads = ("method", "IPC", "set", "peak of distilling", "of training", "of testing", "anonymous", "s to distil", "s to evaluate")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)  # noqa: T201
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        (Path(name) / "bench.toml").write_text(BENCH, encoding="utf-8")
        for method in arguments.methods.split(";"):
            for ipc in map(int, arguments.ipc.split(",")):
                measure(Path(name), method, ipc, arguments)


if __name__ == "__main__":
    main()
