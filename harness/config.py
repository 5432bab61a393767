"""bench.toml, --config, --set and the command line -> one validated, frozen Config."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.errors import ConfigError, UsageError, did_you_mean
from harness.names import parse_list
from harness.protocol import TrainingProtocol
from harness.spec import HeldOut, Keep, Kind, Tuned

if TYPE_CHECKING:
    from harness.registry import Registry

M = TypeVar("M", bound=BaseModel)
_PROJECT_BENCH = Path(__file__).resolve().parent.parent / "bench.toml"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunConfig(_Section):
    """[run]: what to run and how. The comments of bench.toml explain each key."""

    dataset: str
    data_root: str
    methods: tuple[str, ...] = Field(min_length=1)
    ipc: tuple[int, ...] = Field(min_length=1)
    evaluators: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    labels: tuple[Literal["native", "hard", "soft"], ...] = Field(min_length=1)
    protocol: str
    teacher: str
    reference: bool
    quality: bool
    results: str
    cache: str
    executor: Literal["ray", "inline"]
    workers: int = Field(ge=0)
    autoscale: bool = False
    timeout: float = Field(gt=0)
    rerun: Literal["failed", "none", "all"]
    stale: Literal["rerun", "keep"]
    asset_seeds: Literal["one", "run"] = "one"
    track: bool
    predictions: Keep = "classes"
    device: Literal["auto", "cpu", "cuda"]
    deterministic: bool
    plugins: tuple[str, ...]

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_to_seeds(cls, value: Any) -> Any:
        """A number n stands for seeds 0..n-1."""
        if isinstance(value, bool):
            raise ValueError("write a number of seeds or a list of seeds")
        if isinstance(value, int):
            if value < 1:
                raise ValueError("at least one seed is needed")
            return tuple(range(value))
        return value

    @field_validator("seeds", "ipc")
    @classmethod
    def _no_negatives(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(v < 0 for v in value):
            raise ValueError("negative numbers are not valid")
        return tuple(dict.fromkeys(value))

    @field_validator("ipc")
    @classmethod
    def _at_least_one(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(v < 1 for v in value):
            raise ValueError("IPC (instances per class) must be 1 or more")
        return value


class TuneConfig(_Section):
    """[tune]: the search for method parameters. The comments of bench.toml explain each key."""

    trials: int = Field(ge=1)
    seconds: float = Field(ge=0)
    ipc: tuple[int, ...] = Field(min_length=1)
    seeds: int = Field(ge=1)
    confirm: int = Field(ge=2)
    held_out: HeldOut
    search: Literal["random", "optuna"]
    scheduler: Literal["none", "asha"]


class Resources(_Section):
    """CPUs and GPUs of one task."""

    cpus: int = Field(1, ge=1)
    gpus: float = Field(0, ge=0)

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("parts of one GPU, or a whole number of them")
        return value


class ResourcesConfig(_Section):
    """[resources]: one entry for each kind of task."""

    data: Resources
    asset: Resources
    distill: Resources
    quality: Resources
    evaluate: Resources

    def of(self, kind: Kind) -> Resources:
        """What a task of this kind gets."""
        return {"data": self.data, "asset": self.asset, "distill": self.distill, "quality": self.quality, "evaluate": self.evaluate}[kind]


class DatasetConfig(_Section):
    """[datasets.NAME]: clip shape, default protocol, and the plugin's own parameters."""

    frames: int | None = Field(default=None, ge=1)
    """Frames of a clip; none: the dataset's default."""
    size: int | None = Field(default=None, ge=4)
    """Height and width of a clip in pixels; none: the dataset's default."""
    protocol: str = ""
    """Where none is asked for; none: the command has to name one."""
    params: Mapping[str, Any] = Field(default_factory=dict)
    """Parameters of the dataset plugin."""


class ProtocolConfig(_Section):
    """[protocols.NAME]: a training recipe, with overrides."""

    train: TrainingProtocol
    full: TrainingProtocol
    """The recipe for training on the whole training split: ``train`` with the overrides of [protocols.NAME.full]."""
    methods: Mapping[str, Mapping[str, Any]]
    """Method parameters under this protocol."""
    tuned: Mapping[str, Tuned]
    """How those of a method were chosen, as `tune` writes it."""


class Config(_Section):
    """Everything that decides a run. Frozen and complete."""

    run: RunConfig
    tune: TuneConfig
    resources: ResourcesConfig
    datasets: Mapping[str, DatasetConfig]
    protocols: Mapping[str, ProtocolConfig]
    methods: Mapping[str, Mapping[str, Any]]
    evaluators: Mapping[str, Mapping[str, Any]]
    assets: Mapping[str, Mapping[str, Any]]
    words: Mapping[str, Mapping[str, str]] = Field(default_factory=dict)

    @property
    def plugin_defaults(self) -> dict[str, Mapping[str, Mapping[str, Any]]]:
        """What bench.toml says of plugin parameters, for the registry."""
        return {
            "method": self.methods,
            "evaluator": self.evaluators,
            "asset": self.assets,
            "dataset": {name: section.params for name, section in self.datasets.items()},
        }

    def dataset(self) -> DatasetConfig:
        """The section of the run's dataset; all defaults where there is none."""
        return self.datasets.get(self.run.dataset.partition("[")[0], DatasetConfig())

    def protocol(self) -> tuple[str, ProtocolConfig]:
        """Name and recipe of the run's protocol. Raises ConfigError when there is no such section."""
        name = self.run.protocol or self.dataset().protocol
        if not name:
            dataset, valid = self.run.dataset.partition("[")[0], ", ".join(self.protocols)
            raise ConfigError(f"dataset {dataset!r} has no protocol of its own: choose one with --protocol. Valid: {valid}")
        if name not in self.protocols:
            raise ConfigError(f"unknown protocol {name!r}{did_you_mean(name, self.protocols)}")
        return name, self.protocols[name]


def load_config(
    overlay: str | Path | None = None, assignments: tuple[str, ...] = (), run: Mapping[str, Any] | None = None, base: Path | None = None
) -> Config:
    """Read and validate the configuration.

    base: the bench.toml; by default that of the current folder, else the project's own. overlay: a --config file. assignments: the
    --set options. run: keys of [run] from the command line (None: not given). Raises ConfigError with file, key and valid values.
    """
    if base is None:
        base = Path("bench.toml") if Path("bench.toml").is_file() else _PROJECT_BENCH
    tree = _read(base)
    where = str(base)
    if overlay is not None:
        tree = _merge(tree, _read(Path(overlay)))
        where = f"{base} with {overlay}"
    for text in assignments:
        tree = _merge(tree, _assignment(text))
    given = {k: v for k, v in (run or {}).items() if v is not None}
    return build_config(_merge(tree, {"run": given}), where)


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of [run] whose lists may be text, as the command line takes them; None is left out.

    >>> read_options({"methods": "gvd[steps=4,cfg=1],random", "ipc": "1,5", "seeds": "3", "device": None})
    {'methods': ['gvd[steps=4,cfg=1]', 'random'], 'ipc': [1, 5], 'seeds': 3}
    >>> read_options({"seeds": "5,"}), read_options({"seeds": 2})
    ({'seeds': [5]}, {'seeds': 2})
    """
    read = {name: value for name, value in options.items() if value is not None}
    for name in ("methods", "evaluators", "labels", "ipc", "seeds"):
        if isinstance(text := read.get(name), str):
            parts = parse_list(text, name)
            read[name] = [_whole_number(part, name) for part in parts] if name in ("ipc", "seeds") else parts
            if name == "seeds" and len(parts) == 1 and "," not in text:
                read[name] = read[name][0]
    return read


def _whole_number(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--{what}: {text!r} is not a whole number") from None


def build_config(tree: Mapping[str, Any], where: str) -> Config:
    """A Config from the merged tables; ``where`` names their origin in errors."""
    _check_keys(tree, Config.model_fields, where)
    datasets = {}
    for name, section in tree.get("datasets", {}).items():
        own = {k: v for k, v in section.items() if k in DatasetConfig.model_fields}
        params = {k: v for k, v in section.items() if k not in DatasetConfig.model_fields}
        datasets[name] = _validate(DatasetConfig, {**own, "params": {**own.get("params", {}), **params}}, f"[datasets.{name}]", where)
    protocols = {}
    for name, section in tree.get("protocols", {}).items():
        recipe = {k: v for k, v in section.items() if k not in ("full", "methods", "tuned")}
        section_name = f"[protocols.{name}]"
        tuned = section.get("tuned", {})
        protocols[name] = ProtocolConfig(
            train=_validate(TrainingProtocol, recipe, section_name, where),
            full=_validate(TrainingProtocol, {**recipe, **section.get("full", {})}, f"[protocols.{name}.full]", where),
            methods=section.get("methods", {}),
            tuned={method: _validate(Tuned, found, f"[protocols.{name}.tuned.{method}]", where) for method, found in tuned.items()},
        )
    return Config(
        run=_validate(RunConfig, tree.get("run", {}), "[run]", where),
        tune=_validate(TuneConfig, tree.get("tune", {}), "[tune]", where),
        resources=_validate(ResourcesConfig, tree.get("resources", {}), "[resources]", where),
        datasets=datasets,
        protocols=protocols,
        methods=tree.get("methods", {}),
        evaluators=tree.get("evaluators", {}),
        assets=tree.get("assets", {}),
        words=_words(tree.get("words", {}), where),
    )


def check_sections(config: Config, registry: Registry) -> None:
    """Raise ConfigError when a section configures a plugin that does not exist."""
    for kind, sections in config.plugin_defaults.items():
        for name in sections:
            if name not in registry.names(kind):
                raise ConfigError(f"[{kind}s.{name}] configures an unknown {kind}{did_you_mean(name, registry.names(kind))}")


def _words(sections: Mapping[str, Any], where: str) -> Mapping[str, Mapping[str, str]]:
    """[words.METHOD]: inline assignment -> what the report calls it."""
    for name, phrases in sections.items():
        if not isinstance(phrases, Mapping) or not all(isinstance(text, str) for text in phrases.values()):
            raise ConfigError(f'[words.{name}] of {where} must hold texts, such as "guidance=0" = "unguided diffusion"')
    return sections


def _validate(model: type[M], values: Mapping[str, Any], section: str, where: str) -> M:
    _check_keys(values, model.model_fields, f"{section} of {where}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise ConfigError(f"{section} of {where} lacks the key {key!r}") from error
        raise ConfigError(f"{key} = {first['input']!r} in {section} is not valid: {message}") from error


def _check_keys(values: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key {key!r} in {where}{did_you_mean(key, known)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _assignment(text: str) -> dict[str, Any]:
    """``section.key=value`` as nested tables; the value is TOML, or else text.

    >>> _assignment("protocols.quick.epochs=20")
    {'protocols': {'quick': {'epochs': 20}}}
    """
    path, eq, value = text.partition("=")
    keys = [k.strip() for k in path.split(".")]
    if not eq or len(keys) < 2 or not all(keys):
        raise ConfigError(f"cannot read --set {text!r}: write section.key=value, such as protocols.quick.epochs=20")
    try:
        leaf: Any = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        leaf = value.strip()
    for key in reversed(keys):
        leaf = {key: leaf}
    return leaf  # type: ignore[no-any-return]
