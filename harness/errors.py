"""What can go wrong, as one tree.

    HarnessError
    ├── UsageError            the command or a file it names is wrong: exit code 2, nothing was started
    │   ├── ConfigError       bench.toml, --config or --set
    │   ├── UnknownNameError  no such method, evaluator, dataset, protocol
    │   ├── PluginError       a plugin cannot be loaded, or two claim one name
    │   └── DataError         a data folder, annotation file or video
    ├── StoreError            a record or artifact is missing, damaged or cannot be written
    │   └── DamagedError      an artifact is there and is not what was written
    └── TaskError             one task fails: a failed row with this text as its reason
        ├── BudgetError       a distilled set is over its budget
        └── DistilledSetError a distilled set is malformed: shape, range, NaN, labels

Every message is one sentence that says what is wrong, where, and what is valid.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of every error that is reported by its text alone, without a traceback."""


class UsageError(HarnessError):
    """The command line, or something that it names, is wrong."""


class ConfigError(UsageError):
    """bench.toml, a --config file or a --set option is wrong."""


class UnknownNameError(UsageError):
    """A name that no plugin or section has."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, self.known)}")


class PluginError(UsageError):
    """A plugin cannot be loaded, or two plugins claim one name."""


class DataError(UsageError):
    """A data folder, an annotation file or a video is missing or unusable."""


class StoreError(HarnessError):
    """A record or an artifact is missing, damaged, or cannot be written."""


class DamagedError(StoreError):
    """An artifact is not what was written. name: its name in the store."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


class TaskError(HarnessError):
    """One task fails; the text becomes the reason in its record."""


class BudgetError(TaskError):
    """A distilled set stores more than its budget allows."""


class DistilledSetError(TaskError):
    """A distilled set is malformed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest valid name, then all of them.

    >>> did_you_mean("randm", ["gvd", "random"])
    "; did you mean 'random'? Valid: gvd, random"
    >>> did_you_mean("zzz", ["gvd"])
    '. Valid: gvd'
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Valid: {', '.join(known) or '(none)'}"
