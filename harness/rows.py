"""Records -> one typed row per cell, joined with the records that it rests on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from harness.metrics import METRICS, Metric
from harness.record import Phase, Record
from harness.spec import AssetSpec, EvaluateSpec, Tuned

Records = Mapping[str, Record]


@dataclass(frozen=True)
class AssetCost:
    """What one asset cost to make, wherever it was made. elsewhere: how it came about, where it was not made in a task of its own.
    key: of its record."""

    name: str
    seconds: float
    cpu_seconds: float | None
    device: str
    elsewhere: str = ""
    key: str = ""


@dataclass(frozen=True)
class Row:
    """One cell and seed. ipc is None for the reference ``full``. None stands for what was not measured.

    values: by the names of harness.metrics and of the plugins' own metrics, which ``declared`` describes. evaluator_digest and
    recipe_digest tell whether two rows of one name were made alike. distill_key: the set; several evaluators share one. tunable, tuned: as
    the newest command that planned the cell has them; a record does not know.
    """

    key: str
    name: str
    status: str
    reason: str | None
    log: str | None
    dataset: str
    dataset_label: str
    dataset_digest: str
    clip_shape: tuple[int, int, int, int]
    method: str
    method_label: str
    ipc: int | None
    labels: str
    evaluator: str
    evaluator_label: str
    protocol: str
    seed: int
    params: Mapping[str, object]
    values: Mapping[str, float | None]
    declared: tuple[Metric, ...]
    assets: tuple[AssetCost, ...]
    distill_key: str | None
    evaluator_digest: str
    recipe_digest: str
    classes: tuple[str, ...]
    per_class_accuracy: tuple[float | None, ...]
    correct: str | None
    device: str | None
    ended_at: str
    sweep: str
    libraries: Mapping[str, str] = field(default_factory=dict)
    tunable: tuple[str, ...] = ()
    tuned: Tuned | None = None

    def value(self, name: str) -> float | None:
        """A metric of this row; None where it was not measured."""
        return self.values.get(name)

    @property
    def accuracy(self) -> float | None:
        """Top-1 in [0, 1]."""
        return self.values.get("accuracy")

    @property
    def rerun(self) -> str:
        """The command that makes this cell again; empty where it never ran."""
        return f"python -m harness rerun {self.key[:12]}" if self.ended_at else ""

    @property
    def shape(self) -> str:
        """Frames x height x width of a clip."""
        frames, _, height, width = self.clip_shape
        return f"{frames}x{height}x{width}"


def cell_rows(records: Records) -> list[Row]:
    """One row per evaluate record, in the order of the records, with relative accuracies."""
    quality = _quality_by_set(records)
    return with_relative_accuracy(cell_row(record, records, quality) for record in records.values() if record.kind == "evaluate")


def with_relative_accuracy(rows: Iterable[Row]) -> list[Row]:
    """The rows with ``relative_accuracy``: accuracy over the mean accuracy of the reference rows (method ``full``) of the same dataset,
    evaluator and protocol; None where there is none."""
    rows = list(rows)
    reference: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if row.ipc is None and row.accuracy is not None:
            reference.setdefault(_reference_key(row), []).append(row.accuracy)
    done = []
    for row in rows:
        full = reference.get(_reference_key(row))
        relative = row.accuracy / (sum(full) / len(full)) if full and row.accuracy is not None and sum(full) > 0 else None
        done.append(replace(row, values={**row.values, "relative_accuracy": relative}))
    return done


def cell_row(record: Record, records: Records, quality: Records) -> Row:
    """The row of one evaluate record, without its relative accuracy, which needs the reference rows. quality: by the key of the set."""
    spec = record.spec
    assert isinstance(spec, EvaluateSpec)
    joined = _Joined(record, records, quality)
    return Row(
        key=record.key,
        name=record.name,
        status=record.status,
        reason=record.reason,
        log=record.log,
        dataset=spec.dataset.name,
        dataset_label=spec.dataset.label,
        dataset_digest=spec.dataset.digest,
        clip_shape=spec.dataset.clip_shape,
        method=spec.method.name,
        method_label=spec.method.label,
        ipc=spec.ipc,
        labels=spec.labels,
        evaluator=spec.evaluator.name,
        evaluator_label=spec.evaluator.label,
        protocol=spec.protocol.name,
        seed=spec.seed,
        params=spec.method.params,
        values=joined.values(),
        declared=joined.declared,
        assets=joined.assets,
        distill_key=record.inputs.get("distill"),
        evaluator_digest=spec.evaluator.model_dump_json(exclude={"label"}),
        recipe_digest=spec.protocol.recipe.model_dump_json(exclude_defaults=True),
        classes=tuple((joined.data.arrays.classes if joined.data else None) or ()),
        per_class_accuracy=tuple(record.arrays.per_class_accuracy or ()),
        correct=record.arrays.correct,
        device=record.provenance.device,
        ended_at=record.provenance.ended_at,
        sweep=record.provenance.sweep,
        libraries=record.provenance.libraries,
    )


def root_cause(record: Record, records: Records) -> Record:
    """The record that decides why a cell is missing: itself, or the failed input that it was skipped for."""
    if record.status == "skipped":
        for key in record.inputs.values():
            upstream = records.get(key)
            if upstream is not None and upstream.status != "done":
                return root_cause(upstream, records)
    return record


def asset_costs(record: Record | None, records: Records) -> tuple[AssetCost, ...]:
    """What every asset cost that a record rests on, directly or through another asset; shared by all cells that use it."""
    found: dict[str, AssetCost] = {}

    def visit(key: str) -> None:
        upstream = records.get(key)
        if key in found or upstream is None or not isinstance(upstream.spec, AssetSpec):
            return
        found[key] = _asset_cost(upstream)
        for inner in upstream.inputs.values():
            visit(inner)

    for key in record.inputs.values() if record is not None else ():
        visit(key)
    return tuple(found.values())


def _asset_cost(record: Record) -> AssetCost:
    assert isinstance(record.spec, AssetSpec)
    name, device = record.spec.asset.name, record.provenance.device or ""
    phases = list(record.phases.values())
    seconds, cpu = sum(p.seconds for p in phases), total([p.cpu_seconds for p in phases])
    if record.cost is None:
        return AssetCost(name, seconds, cpu, device, key=record.key)
    made = record.cost
    return AssetCost(name, made.seconds, made.cpu_seconds, made.device, made.note or "made elsewhere", record.key)


def total(values: Sequence[float | None]) -> float | None:
    """The sum; None where one of them was not measured.

    >>> total([1.0, 2.0]), total([1.0, None]), total([])
    (3.0, None, 0.0)
    """
    known = [v for v in values if v is not None]
    return float(sum(known)) if len(known) == len(values) else None


class _Joined:
    """An evaluate record with the records that it rests on."""

    def __init__(self, record: Record, records: Records, quality: Records) -> None:
        self.cell = record
        self.is_reference = not record.is_cell
        # The reference's network was trained as an asset; it has no set.
        self.made = records.get(record.inputs.get("teacher" if self.is_reference else "distill", ""))
        self.data = records.get(record.inputs.get("data", ""))
        self.quality = quality.get(record.inputs.get("distill", ""))
        self.assets = () if self.is_reference else asset_costs(self.made, records)

    def values(self) -> dict[str, float | None]:
        own = {metric.name: self._read(metric) for metric in METRICS}
        return {**{metric.name: self._recorded(metric.name) for metric in self.declared}, **own}

    @cached_property
    def declared(self) -> tuple[Metric, ...]:
        """What plugins recorded of this cell's set and network beside the harness's own metrics."""
        known, found = {metric.name for metric in METRICS}, dict[str, Metric]()
        for record in (self.cell, None if self.is_reference else self.made):
            if record is not None:
                described = {metric.name: metric for metric in record.declared}
                found |= {name: described.get(name, Metric(name)) for name in record.metrics if name not in known}
        return tuple(found.values())

    def _recorded(self, name: str) -> float | None:
        for record in (self.cell, self.made):
            if record is not None and name in record.metrics:
                return record.metrics[name]
        return None

    def _read(self, metric: Metric) -> float | None:
        source = metric.field or metric.name
        match metric.place:
            case "derived" | "tuning":
                return None
            case "assets":
                if self.made is None or self.is_reference:
                    return None
                return total([cost.seconds if source == "seconds" else cost.cpu_seconds for cost in self.assets])
            case "quality":
                return None if self.quality is None else self.quality.metrics.get(source)
            case "cell":
                if metric.phase:
                    return _measured(self._trained() if metric.phase == "train" else self.cell.phases.get(metric.phase), source)
                found = self.cell.metrics.get(source)
                return found if found is not None or self.made is None else self.made.metrics.get(source)
            case _:
                return self._of_the_reference(source) if self.is_reference else self._of_the_set(metric, source)

    def _trained(self) -> Phase | None:
        if not self.is_reference:
            return self.cell.phases.get("train")
        return self.made.phases.get("build") if self.made is not None else None

    def _of_the_set(self, metric: Metric, source: str) -> float | None:
        if self.made is None:
            return None
        return _measured(self.made.phases.get(metric.phase), source) if metric.phase else self.made.metrics.get(source)

    def _of_the_reference(self, source: str) -> float | None:
        if self.data is None:
            return None
        of_data = {"frames_stored": "native_train_frames", "videos_trained_on": "train_clips"}
        return 1.0 if source == "frame_fraction" else self.data.metrics.get(of_data.get(source, ""))


def _measured(phase: Phase | None, name: str) -> float | None:
    return None if phase is None else getattr(phase, name)


def _quality_by_set(records: Records) -> dict[str, Record]:
    """Key of a set -> its quality record; of several, measured by different teachers, the newest."""
    found = [r for r in records.values() if r.kind == "quality" and r.status == "done"]
    return {r.inputs["distill"]: r for r in sorted(found, key=lambda r: r.provenance.ended_at)}


def _reference_key(row: Row) -> tuple[str, ...]:
    return (row.dataset, row.dataset_digest, row.evaluator_label, row.protocol)

