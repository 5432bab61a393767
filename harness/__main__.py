"""``python -m harness`` and the script ``harness``: signals are taken before anything that takes time is imported."""

from __future__ import annotations

import sys

from harness import stopping


def main() -> None:
    with stopping.stoppable():
        try:
            from harness.cli import main as verbs

            verbs()
        except (Exception, KeyboardInterrupt):
            if not stopping.asked:
                raise
            sys.exit(stopping.stopped_early())


if __name__ == "__main__":
    main()
