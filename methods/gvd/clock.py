"""How long what takes long will take, said once, after the first of it. Decides nothing."""

from __future__ import annotations

import sys
import time


class Clock:
    """Times the first ``unit``s of a task called ``what``, from its construction on."""

    def __init__(self, what: str, unit: str) -> None:
        self.what, self.unit = what, unit
        self.begun = time.monotonic()
        self.is_told = False

    def tell(self, made: int, left: int) -> None:
        """Say, after so many units, what one takes and how long those that are left will."""
        if not self.is_told and left:
            seconds = (time.monotonic() - self.begun) / made
            sys.stdout.write(f"{self.what}: {seconds:.3g} s a {self.unit}, {left:,} to go: about {seconds * left / 60:.3g} min\n")
        self.is_told = True
