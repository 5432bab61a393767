"""What a user wants of a report: which results, which outputs, in which order, under which names, to how many digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import metrics
from harness.errors import UsageError, did_you_mean
from harness.names import natural_key, parse_list, split_list
from harness.report.load import Results
from harness.rows import Row

OUTPUTS = (
    *("main", "datasets", "leaderboard", "accuracy", "gains", "cross", "ablation", "ddranking", "cost", "storage", "quality", "recorded"),
    *("controls", "training", "classes", "matrix", "ranks", "pairs", "failures", "published", "previews"),
)
"""What ``only`` names: kinds of tables and figures."""


@dataclass(frozen=True)
class Choice:
    """Empty means all, or as it is.

    datasets, methods, evaluators: names, which stand for all parameters, or labels such as ``gvd[guidance=0]``; the reference ``full``
    always stays. The order of the evaluators counts: the first is the one that the drop of the others is told from. only: of OUTPUTS.
    order: methods that come first. names: label of a method, evaluator or dataset -> what it is called. digits: decimals of accuracies
    in %. columns: metrics of the tables of metrics. published: files of published numbers beside those of the project and of the results
    folder.
    """

    datasets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    evaluators: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    ipc: tuple[int, ...] = ()
    only: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    digits: int = 1
    columns: tuple[str, ...] = ()
    published: tuple[Path, ...] = ()

    def wants(self, output: str) -> bool:
        return not self.only or output in self.only

    def shows(self, output: str) -> bool:
        """Whether a table or figure of this file stem is wanted; the main tables have stems of their own."""
        kind = output.partition("-")[0]
        return self.wants(kind if kind in OUTPUTS else "main")


def read_choice(
    *,
    datasets: Sequence[str] = (),
    methods: str | None = None,
    evaluators: str | None = None,
    protocol: str | None = None,
    labels: str | None = None,
    ipc: str | None = None,
    only: str | None = None,
    order: str | None = None,
    names: Sequence[str] = (),
    digits: int = 1,
    columns: str | None = None,
    published: Sequence[str] = (),
) -> Choice:
    """The options of the command line as a choice. Raises UsageError on what cannot be read."""

    def parts(text: str | None, what: str) -> tuple[str, ...]:
        return () if text is None else tuple(parse_list(text, what))

    try:
        budgets = tuple(int(part) for part in parts(ipc, "IPC"))
    except ValueError:
        raise UsageError(f"IPC is a list of numbers, such as 1,5,10; got {ipc!r}") from None
    for path in published:
        if not Path(path).is_file():
            raise UsageError(f"no file of published numbers at {path}")
    return Choice(
        datasets=tuple(name for text in datasets for name in split_list(text)),
        methods=parts(methods, "methods"),
        evaluators=parts(evaluators, "evaluators"),
        protocols=parts(protocol, "protocols"),
        labels=parts(labels, "label modes"),
        ipc=budgets,
        only=tuple(_known("output", part, OUTPUTS) for part in parts(only, "outputs")),
        order=parts(order, "methods"),
        names=dict(_read_name(text) for text in names),
        digits=digits,
        columns=parts(columns, "columns"),
        published=tuple(map(Path, published)),
    )


def select(results: Results, choice: Choice) -> Results:
    """The results that were chosen. Raises UsageError where a name is none of the results'."""
    rows = results.rows
    for what, wanted, read in _AXES:
        chosen = tuple(map(str, getattr(choice, wanted)))
        if not chosen:
            continue
        known = sorted({name for row in rows for name in read(row)}, key=natural_key)
        for name in chosen:
            if name not in known:
                raise UsageError(f"no results of {what} {name!r} in {results.store.shown}{did_you_mean(name, known)}")
        # The reference has no IPC and no label mode, and belongs to every selection of methods.
        exempt = wanted in ("methods", "ipc", "labels")
        rows = tuple(row for row in rows if (exempt and row.ipc is None) or not set(chosen).isdisjoint(read(row)))
    every = {row.method_label for row in rows}
    labels = every | {label for row in rows for label in (row.evaluator_label, row.dataset_label)}
    for name in choice.order:
        _known("method", name, sorted(every, key=natural_key))
    for name in choice.names:
        _known("method, evaluator or dataset", name, sorted(labels, key=natural_key))
    measured = dict.fromkeys([*(m.name for m in metrics.METRICS), *(m.name for row in rows for m in row.declared)])
    for name in choice.columns:
        _known("column", name, list(measured))
    return replace(results, rows=rows)


def _names(name: str, label: str) -> tuple[str, ...]:
    return (name, label)


_AXES: tuple[tuple[str, str, Callable[[Row], tuple[str, ...]]], ...] = (
    ("dataset", "datasets", lambda row: _names(row.dataset, row.dataset_label)),
    ("method", "methods", lambda row: _names(row.method, row.method_label)),
    ("evaluator", "evaluators", lambda row: _names(row.evaluator, row.evaluator_label)),
    ("protocol", "protocols", lambda row: (row.protocol,)),
    ("label mode", "labels", lambda row: (row.labels,)),
    ("IPC", "ipc", lambda row: () if row.ipc is None else (str(row.ipc),)),
)


def _known(what: str, name: str, valid: Sequence[str]) -> str:
    if name not in valid:
        raise UsageError(f"unknown {what} {name!r}{did_you_mean(name, valid)}")
    return name


def _read_name(text: str) -> tuple[str, str]:
    """Split at the first equals sign outside brackets.

    >>> _read_name("gvd[guidance=0]=unguided"), _read_name("dm = DM")
    (('gvd[guidance=0]', 'unguided'), ('dm', 'DM'))
    """
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if char == "=" and depth == 0 and text[:i].strip() and text[i + 1 :].strip():
            return text[:i].strip(), text[i + 1 :].strip()
    raise UsageError(f"cannot read the name {text!r}: write label=name, such as 'gvd[guidance=0]=unguided'")
