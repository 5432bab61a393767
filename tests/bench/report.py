"""How long a report of many records takes: tables alone, then figures and page too, of synthetic records that nothing made.

    python -m tests.bench.report                   # 5,000 records in a temporary folder
    python -m tests.bench.report --records 20000 --keep /tmp/many

Seconds are CPU seconds of a process of its own, its start included, because the wall time is that of a busy machine; both are printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.report.records import Builder

PROJECT = Path(__file__).resolve().parents[2]
METHODS = ("random", "herding", "dm", "mtt", "gvd", "gvd[guidance=0]", "gvd[compose=4]", "rded", "frepo", "vdsd_dm")
EVALUATORS = ("convnet3d", "c3d", "i3d")
IPCS = (1, 5, 10)


def make(root: Path, records: int) -> int:
    """Write a results folder of about so many records, two datasets alike; returns how many there are."""
    built = [Builder(root, dataset="moving-digits")]
    built.append(Builder(root, dataset="ucf101"))
    teachers = [build.teacher("convnet3d") for build in built]
    for build in built:
        for evaluator in EVALUATORS:
            build.evaluate("full", None, 0, build.teacher(evaluator), evaluator=evaluator, accuracy=0.97)
    seed = 0
    while sum(len(build.records) for build in built) < records:
        for build, teacher in zip(built, teachers, strict=True):
            for m, method in enumerate(METHODS):
                for i, ipc in enumerate(IPCS):
                    upstream = build.distill(method, ipc, seed, preview=seed == 0)
                    build.quality(upstream, teacher)
                    for e, evaluator in enumerate(EVALUATORS):
                        build.evaluate(method, ipc, seed, upstream, evaluator=evaluator, accuracy=0.3 + 0.03 * m + 0.1 * i - 0.02 * e)
        seed += 1
    return sum(len(build.records) for build in built)


def measure(root: Path, formats: str) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of a report of these formats."""
    arguments = f"{str(root)!r}, {str(root / 'report')!r}, formats={formats.split(',')}"
    program = f"from harness.report import build_report; build_report({arguments})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    before, begun = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT, env=environment)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return cpu, time.perf_counter() - begun


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--records", type=int, default=5000, help="at least so many")
    options.add_argument("--keep", type=Path, help="a folder for the records, kept; one that has records is not filled again")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = given.keep or Path(scratch)
        count = len(list((root / "records").glob("*.json"))) or make(root, given.records)
        for what, formats in (("tables", "md,tex,csv"), ("tables, figures and page", "md,tex,csv,pdf,png,html")):
            cpu, wall = measure(root, formats)
            print(f"{count:,} records: {what} in {cpu:.1f} CPU seconds ({wall:.1f} s of wall time)")  # noqa: T201


if __name__ == "__main__":
    main()
