"""``python -m harness`` and the script ``harness``: signals are taken before anything that takes time is imported."""

from __future__ import annotations

import sys

from harness.stopping import Stop, stoppable, stopped_early


def main() -> None:
    with stoppable():
        try:
            from harness.cli import main as verbs

            verbs()
        except Stop:
            sys.exit(stopped_early())


if __name__ == "__main__":
    main()
