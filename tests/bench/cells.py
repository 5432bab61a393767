"""What a cell costs beside its own work: sweeps of cells that do nothing, their plan, and their resumption.

    python -m tests.bench.cells                    # 100 and 1,000 cells inline; plan and resumption of 10,000
    python -m tests.bench.cells --cells 20,120 --planned 1000

The cost of a cell is the slope between the two sweeps, so that what a process costs once is in neither; seconds are CPU seconds of the
command and its children, because the wall time is that of a busy machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PLUGINS = Path(__file__).with_name("plugins.py")
BENCH = """
[run]
dataset = "nothing"
methods = ["no-op-shared"]
ipc = [1]
evaluators = ["one-layer"]
teacher = "one-layer"
executor = "inline"
quality = false
reference = false
track = false

[datasets.nothing]
protocol = "nothing"

[protocols.nothing]
epochs = 1
test_batch = 8
"""


def command(folder: Path, *arguments: str) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of `harness run` with these arguments; raises where it does not end well."""
    (folder / "bench.toml").write_text(BENCH, encoding="utf-8")
    line = [sys.executable, "-m", "harness", "run", "--config", str(folder / "bench.toml"), "--plugin", str(PLUGINS), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(line, cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="100,1000", help="sizes of the sweeps that run, the smaller first")
    parser.add_argument("--planned", type=int, default=10000, help="cells of the sweep that is planned")
    parser.add_argument("--options", default="", help="more options of `run`, such as '--track' or '--methods no-op'")
    arguments = parser.parse_args()
    options = arguments.options.split()
    print("| what | cells | CPU s | wall s | CPU ms a cell |\n|---|---:|---:|---:|---:|")  # noqa: T201
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        last: tuple[int, float] | None = None
        for cells in map(int, arguments.cells.split(",")):
            results = ("--results", str(folder / f"results-{cells}"), "--seeds", str(cells), *options)
            cpu, wall = command(folder, *results)
            slope = f"{1000 * (cpu - last[1]) / (cells - last[0]):.0f}" if last else ""
            print(f"| run inline | {cells} | {cpu:.1f} | {wall:.1f} | {slope} |", flush=True)  # noqa: T201
            last = (cells, cpu)
            cpu, wall = command(folder, *results)
            print(f"| resume, all done | {cells} | {cpu:.1f} | {wall:.1f} | |", flush=True)  # noqa: T201
        cpu, wall = command(folder, "--results", str(folder / "none"), "--seeds", str(arguments.planned), "--dry-run", *options)
        print(f"| plan (--dry-run) | {arguments.planned} | {cpu:.1f} | {wall:.1f} | |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
