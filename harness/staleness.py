"""Which records were made by other code than the present one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import lru_cache

from harness import code
from harness.errors import HarnessError
from harness.record import Record
from harness.registry import Registry


class Staleness:
    """Compares the code of records with the installed one. Plugins that are not at hand are not judged."""

    def __init__(self, registry: Registry | None = None) -> None:
        self._registry = registry or Registry()
        self._now = lru_cache(maxsize=None)(self._digest)

    def changed(self, record: Record, records: Mapping[str, Record]) -> list[str]:
        """What of the code that decided a record, or anything that it rests on, is another now: "harness", "method gvd" ..."""
        found: dict[str, None] = {}
        seen: set[str] = set()

        def visit(made: Record) -> None:
            if made.key in seen:
                return
            seen.add(made.key)
            for what, digest in made.spec.codes().items():
                now = self._now(what, made.kind)
                if now is not None and now != digest:
                    found.setdefault(what)
            for key in made.inputs.values():
                if (upstream := records.get(key)) is not None:
                    visit(upstream)

        visit(record)
        return sorted(found)

    def stale_cells(self, records: Mapping[str, Record]) -> dict[str, list[str]]:
        """Key of every finished cell that other code made and the present has not made again -> what changed since."""
        cells = {key: self.changed(r, records) for key, r in records.items() if r.kind == "evaluate" and r.status == "done"}
        present = {records[key].identity for key, changed in cells.items() if not changed}
        return {key: changed for key, changed in cells.items() if changed and records[key].identity not in present}

    def _digest(self, what: str, kind: str) -> str | None:
        plugin, _, name = what.partition(" ")
        if plugin == "harness":
            return code.harness_digest(kind)
        with contextlib.suppress(HarnessError):  # a plugin of somebody's own that was not named now
            return self._registry.digest(plugin, name)
        return None
