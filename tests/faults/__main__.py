# ruff: noqa: T201 (a script that prints)
"""Injects faults into small sweeps, one after the other, and prints fault, times and outcome.

    python -m tests.faults --count 300           # all kinds in turn until so many have been injected
    python -m tests.faults --only pollution      # those whose name begins so

After each fault: nothing but a sentence is said, what only reads ends in time, the same command completes, the records are sound, and every
number equals that of an undisturbed sweep. Exit code 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.faults.cases import CASES, Case
from tests.faults.scene import Scene, numbers


def inject(case: Case, folder: Path, template: Path, good: dict[str, tuple]) -> str:
    """Inject one fault; returns "held", "skipped: why", or what did not hold."""
    try:
        skipped = case.inject(Scene(folder, template if case.finished else None), good)
    except Exception as error:
        return "".join(traceback.format_exception(error)).strip()
    return "held" if skipped is None else f"skipped: {skipped}"


def make_template(folder: Path) -> tuple[Path, dict[str, tuple]]:
    """The results of the undisturbed sweep, and its numbers."""
    scene = Scene(folder)
    assert scene.run() == "done"
    return scene.results, numbers(scene.results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=0, help="faults to inject; 0: each once")
    parser.add_argument("--only", default="", help="only faults whose name begins so")
    arguments = parser.parse_args()
    cases = [case for case in CASES if case.name.startswith(arguments.only)]
    times: Counter[str] = Counter()
    held: Counter[str] = Counter()
    said: dict[str, str] = {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        template, good = make_template(Path(name) / "template")
        for number in range(arguments.count or len(cases)):
            case = cases[number % len(cases)]
            outcome = inject(case, Path(name) / str(number), template, good)
            times[case.name] += not outcome.startswith("skipped")
            held[case.name] += outcome == "held"
            if outcome != "held":
                said[case.name] = outcome
            print(f"{time.monotonic() - begun:7.1f} s  {case.name}: {outcome.splitlines()[-1]}", file=sys.stderr, flush=True)
    print("| fault | times | held |\n|---|---:|---:|")
    for case in cases:
        print(f"| {case.name} | {times[case.name]} | {held[case.name]} |")
    for case_name, outcome in said.items():
        print(f"\n{case_name}:\n{outcome}")
    print(f"\n{sum(times.values())} faults injected, {sum(held.values())} held")
    return int(sum(held.values()) < sum(times.values()))


if __name__ == "__main__":
    sys.exit(main())
