"""The one schema of a record: what is stored of a task, field by field, with units.

    record
      key identity kind name        which task it is
      status reason log             how it ended
      spec inputs                   what was planned, and the keys of what it read
      metrics declared              named numbers, and what a plugin says of its own
      curves arrays                 series over steps; values for every class or test clip
      phases cost                   what was measured; what an asset cost that was made elsewhere
      artifacts                     files, with their checksums
      provenance                    code, versions, machine, time
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import StoreError
from harness.metrics import Metric
from harness.spec import FORMAT, Cell, EvaluateSpec, Kind, Spec

Status = Literal["done", "failed", "oom", "timeout", "skipped", "interrupted"]
STATUSES: tuple[Status, ...] = ("done", "failed", "oom", "timeout", "skipped", "interrupted")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Phase(_Part):
    """One measured phase. What could not be measured is None, never 0."""

    seconds: float
    """Wall time."""
    cpu_seconds: float | None = None
    """CPU time of the process, all threads: beside the wall time it shows how busy the machine was."""
    peak_cpu_mib: float | None = None
    """Largest resident size in MiB during the phase (VmHWM, reset at its start)."""
    baseline_cpu_mib: float | None = None
    """Resident size in MiB as it began."""
    peak_gpu_mib: float | None = None
    """Largest size in MiB that the GPU's allocator handed out, maximum over devices."""
    peak_gpu_reserved_mib: float | None = None
    """Largest size in MiB that it held."""


class Cost(_Part):
    """What it took to make something that was not made in this task: shipped weights."""

    seconds: float
    """Wall time."""
    cpu_seconds: float | None = None
    """CPU time, where it is known."""
    device: str = ""
    """The machine."""
    note: str = ""
    """One line on how it came about."""


class Artifact(_Part):
    """A file of a task."""

    sha256: str
    bytes: int


class Arrays(_Part):
    """Values of every class or test clip."""

    classes: list[str] | None = None
    """Class names in label order, of a dataset."""
    per_class_accuracy: list[float | None] | None = None
    """Top-1 in [0, 1] of each class; None where it has no test clip."""
    correct: str | None = None
    """base64 of the packed top-1 bits in test-clip order."""


class Provenance(_Part):
    """Where a number comes from."""

    sweep: str
    """Id of the command that made it."""
    host: str
    started_at: str
    """UTC, ISO 8601."""
    ended_at: str
    harness: str
    """Version of the harness."""
    git: str | None = None
    """Commit of its checkout."""
    git_dirty: bool | None = None
    platform: str = ""
    executor: str = ""
    concurrency: int = 0
    """Tasks that ran beside it when it began."""
    lost: int = 0
    """How often it was lost with its node before."""
    seconds: float | None = None
    """Wall time of the whole task."""
    device: str | None = None
    """Name of the GPU or CPU."""
    threads: int | None = None
    python: str | None = None
    libraries: dict[str, str] = Field(default_factory=dict)
    """Versions of what decides numbers: torch, numpy, scikit-learn, diffusers ..."""


class Record(_Part):
    """What is stored of one task."""

    format: Literal[2] = FORMAT
    key: str
    identity: str
    """The key as it would be if code did not count."""
    kind: Kind
    name: str
    status: Status
    reason: str | None = None
    """Why it is not done; one sentence."""
    spec: Spec
    inputs: dict[str, str] = Field(default_factory=dict)
    """Name -> key of the task whose result was read."""
    metrics: dict[str, float | None] = Field(default_factory=dict)
    declared: tuple[Metric, ...] = ()
    """Title, unit and direction of the metrics that a plugin recorded."""
    curves: dict[str, list[tuple[int, float]]] = Field(default_factory=dict)
    """Name -> (step, value)."""
    arrays: Arrays = Arrays()
    phases: dict[str, Phase] = Field(default_factory=dict)
    cost: Cost | None = None
    """Of an asset that was made elsewhere."""
    artifacts: dict[str, Artifact] = Field(default_factory=dict)
    log: str | None = None
    """Name of the file with what the task printed."""
    provenance: Provenance

    def content(self) -> dict[str, Any]:
        """The JSON form."""
        return self.model_dump(mode="json")

    @property
    def is_cell(self) -> bool:
        """Whether this is the evaluation of a method of the budget, not of the reference."""
        return isinstance(self.spec, EvaluateSpec) and self.spec.budget is not None


class Sweep(_Part):
    """One command: what it planned, and where it ran. Stored beside the records."""

    id: str
    command: str
    """As it can be pasted into a shell."""
    started_at: str
    ended_at: str | None = None
    status: Literal["running", "done", "failed", "interrupted"] = "running"
    cells: tuple[Cell, ...]
    kept: tuple[str, ...] = ()
    """Keys of records that were made by other code than the present and were kept because the user asked for it."""
    config: dict[str, Any] = Field(default_factory=dict)
    host: str = ""
    pid: int = 0
    python: str = ""
    cpus: int | None = None
    packages: dict[str, str | None] = Field(default_factory=dict)
    harness: str = ""
    git: str | None = None
    git_dirty: bool | None = None
    platform: str = ""


def parse_record(content: Any, where: str) -> Record:
    """A record from its JSON form. Raises StoreError that names the file and the first field that breaks the schema."""
    if isinstance(content, dict) and "schema" in content and "format" not in content:
        raise StoreError(f"{where} was written by an older version of the harness (schema {content['schema']}): run the command again")
    try:
        return Record.model_validate(content)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise StoreError(f"{where} is damaged: it is nested too deeply") from error
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise StoreError(f"{where} breaks the schema of a record: field {field}: {first['msg']}") from error
