"""One task, run where an executor puts it: reload plugins, seed, measure, run, write artifacts and the record.

The worker writes its own record, so that a finished task survives the driver. Nothing here knows Ray or MLflow.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import DistilledSetError, HarnessError, TaskError
from harness.measure import Phases, release_memory
from harness.plugin import DatasetInfo
from harness.registry import Registry
from harness.store import SCHEMA, Store

_HEARTBEAT_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """A task with all that is not in its key: where things are, and what it may use. Plain data, so that it travels to any worker."""

    key: str
    kind: str
    name: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, str]
    info: DatasetInfo
    results: str
    cache: str
    data_root: str
    plugins: tuple[str, ...]
    cpus: int
    gpus: float
    device: str
    deterministic: bool
    timeout: float
    sweep: str
    provenance: Mapping[str, Any]


def run_job(job: Job) -> dict[str, Any]:
    """Run one task and store its record; returns the record. Only KeyboardInterrupt and the like pass through."""
    store = Store(job.results)
    record = new_record(job)
    phases = Phases()
    beat = _Heartbeat(store, job)
    log = _Log(store, job.key)
    started = time.perf_counter()
    beat(0, 0)
    try:
        with log.capture():
            try:
                _Worker(job, store, phases, beat, record).run()
                record["status"] = "done"
            except Exception as error:
                record["status"], record["reason"] = classify(error)
                traceback.print_exc()
    finally:
        record["phases"] = phases.results
        record["provenance"]["seconds"] = time.perf_counter() - started
        record["provenance"]["ended_at"] = now()
        record["log"] = log.save()
        store.remove(f"running/{job.key}.json")
        release_memory()
    try:
        store.write_record(record)
    except ValueError as error:  # a metric that is no JSON number: NaN, infinity
        record.update(status="failed", reason=f"the task recorded a value that is not finite: {error}", metrics={}, arrays={}, curves={})
        store.write_record(record)
    return record


def new_record(job: Job) -> dict[str, Any]:
    """The record of a task before anything is known of its outcome."""
    return {
        "schema": SCHEMA,
        "key": job.key,
        "kind": job.kind,
        "name": job.name,
        "status": "failed",
        "reason": None,
        "spec": dict(job.spec),
        "inputs": dict(job.inputs),
        "metrics": {},
        "curves": {},
        "arrays": {},
        "phases": {},
        "artifacts": {},
        "log": None,
        "provenance": {**job.provenance, "sweep": job.sweep, "host": socket.gethostname(), "started_at": now(), "ended_at": now()},
    }


def classify(error: BaseException) -> tuple[str, str]:
    """Status and reason of an exception: out of memory is a status of its own."""
    kind = type(error).__name__
    text = " ".join(str(error).split())
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "oom", f"out of memory: {text[:300] or kind}"
    if isinstance(error, TaskTimeout):
        return "timeout", text
    return "failed", text if isinstance(error, HarnessError) else f"{kind}: {text}"


class TaskTimeout(TaskError):
    """A task ran past its time limit."""


def now() -> str:
    """UTC time, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class _Worker:
    def __init__(self, job: Job, store: Store, phases: Phases, beat: _Heartbeat, record: dict[str, Any]) -> None:
        import torch

        self.job, self.store, self.phases, self.beat, self.record = job, store, phases, beat, record
        self.registry = Registry(job.plugins)
        torch.set_num_threads(job.cpus)
        wants_gpu = job.device == "cuda" or (job.device == "auto" and job.gpus > 0 and torch.cuda.is_available())
        if wants_gpu and not torch.cuda.is_available():
            raise TaskError("device cuda was asked for, but torch sees no GPU here")
        self.device = torch.device("cuda" if wants_gpu else "cpu")
        name = torch.cuda.get_device_name() if wants_gpu else _cpu_name()
        record["provenance"].update(device=name, threads=job.cpus, torch=torch.__version__, python=platform.python_version())
        _make_deterministic(job.deterministic)

    def run(self) -> None:
        getattr(self, f"_{self.job.kind}")()

    def _data(self) -> None:
        with self.phases.measure("load"):
            data = self._open()
        self.record["metrics"] = {
            "native_train_frames": data.native_train_frames,
            "native_test_frames": int(data.test.native_frames.sum()),
            "train_clips": len(data.train),
            "test_clips": len(data.test),
            "clips_left_out": len(data.left_out),
        }
        self.record["arrays"] = {"classes": list(data.info.classes)}

    def _asset(self) -> None:
        from safetensors.torch import save

        with self.phases.measure("load"):
            train = self._open().train
        plugin = self.registry.revive("asset", self.job.spec["asset"]).create()
        # An asset is shared by all methods and seeds: its randomness is decided by its own parameters.
        context = self._context(train.info, self._seed("asset", self.job.spec["asset"]["name"]), self.job.spec, self.job.inputs)
        with self.phases.measure("build"):
            tensors = plugin.build(train, context)
        self._keep(context)
        data = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
        self.record["metrics"]["asset_bytes"] = len(data)
        self.record["artifacts"]["asset.safetensors"] = self.store.write_artifact(self.job.key, "asset.safetensors", data)
        shutil.rmtree(context.scratch, ignore_errors=True)

    def _distill(self) -> None:
        from harness.budget import Budget, audit
        from harness.distilled import DistilledSet

        spec = self.job.spec
        with self.phases.measure("load"):
            data = self._open()
            train, native_frames = data.train, data.native_train_frames
            del data  # the test split never reaches a method
        resolved = self.registry.revive("method", spec["method"])
        plugin = resolved.create()
        budget = Budget(spec["budget"]["ipc"], tuple(spec["budget"]["clip_shape"]), spec["budget"]["classes"])
        seed = self._seed("distil", spec["method"]["name"], budget.ipc, spec["seed"])
        context = self._context(train.info, seed, spec, self.job.inputs)
        with self.phases.measure("assets"):
            for name in context.assets:
                context.assets[name]
        _seed_everything(seed)  # assets seed themselves as they load
        with self.phases.measure("distil"):
            stored = plugin.distill(train, budget, context)
        if not isinstance(stored, DistilledSet):
            raise DistilledSetError(f"{type(plugin).__name__}.distill must return a DistilledSet, got {type(stored).__name__}")
        self._keep(context)
        stored.validate(budget.clip_shape, budget.classes)
        self.record["metrics"].update(audit(stored, budget))
        self.record["metrics"]["frame_fraction"] = self.record["metrics"]["frames_stored"] / native_frames
        self.record["artifacts"]["distilled.safetensors"] = self.store.write_artifact(
            self.job.key, "distilled.safetensors", stored.to_bytes()
        )
        self._preview(materialise(plugin, stored, budget.clip_shape), stored.labels, train.info.classes)
        shutil.rmtree(context.scratch, ignore_errors=True)

    def _evaluate(self) -> None:
        import torch

        from harness.distilled import DistilledSet
        from harness.evaluation import evaluate_network
        from harness.protocol import TrainingProtocol
        from harness.training import predict_logits, train_network

        spec = self.job.spec
        with self.phases.measure("load"):
            data = self._open()
        info = data.info
        evaluator = self.registry.revive("evaluator", spec["evaluator"])
        protocol = TrainingProtocol(**{k: v for k, v in spec["protocol"].items() if k != "name"}).on(info)
        seed = self._seed("train", spec["evaluator"]["name"], spec["seed"])
        context = self._context(info, seed, spec, {})
        if spec["budget"] is None:
            with self.phases.measure("assets"):
                model = self._load_asset(self.job.inputs["teacher"])
        else:
            method = self.registry.revive("method", spec["method"]).create()
            made = self._input("distill")
            stored = DistilledSet.from_bytes(self.store.read_artifact(made, "distilled.safetensors"))
            clips = materialise(method, stored, info.clip_shape)
            soft = stored.soft_labels if spec["labels"] == "native" else None
            if spec["labels"] == "soft":
                with self.phases.measure("label"):
                    soft = predict_logits(self._load_asset(self.job.inputs["teacher"]), clips, protocol, self.device)
            self.record["metrics"]["label_bytes"] = 0 if soft is None else soft.numel() * soft.element_size()
            plugin = evaluator.create()
            with self.phases.measure("train"):
                trained = train_network(
                    lambda: plugin.build(info.clip_shape, len(info.classes)),
                    clips,
                    stored.labels,
                    protocol,
                    seed=seed,
                    device=self.device,
                    soft_labels=soft,
                    progress=self.beat,
                )
            model = trained.model
            context.curves["train_loss"] = trained.curve
            context.metrics["train_steps"] = trained.steps
        self._keep(context)
        with self.phases.measure("test"), torch.no_grad():
            metrics, arrays = evaluate_network(model, data.test, protocol, self.device, seed)
        self.record["metrics"].update(metrics)
        self.record["arrays"].update(arrays)

    # What the tasks share

    def _open(self) -> Any:
        """The dataset, from the cache; its lists are read again only where its clips must be decoded."""
        from harness.data.cache import describe, is_prepared, load_dataset, open_dataset

        info, cache = self.job.info, Path(self.job.cache)
        if is_prepared(info, cache):
            return load_dataset(info, cache)
        spec = self.job.spec["dataset"]
        resolved = self.registry.resolve_exactly("dataset", spec["name"], spec["params"])
        plugin = resolved.create(Path(self.job.data_root) if self.job.data_root else None)
        if describe(plugin, info.name, info.clip_shape).digest != info.digest:
            raise TaskError(f"dataset {info.name!r} changed after the run was planned: run the command again")
        return open_dataset(plugin, info, cache, workers=self.job.cpus, progress=self.beat)

    def _seed(self, role: str, *axes: object) -> int:
        from harness.plan import derive_seed

        return derive_seed(role, self.job.spec["dataset"]["name"], *axes)

    def _context(self, info: Any, seed: int, spec: Mapping[str, Any], inputs: Mapping[str, str]) -> Any:
        import torch

        from harness.plugin import Context
        from harness.protocol import TrainingProtocol

        _seed_everything(seed)
        builders = {name: self._network(info, network) for name, network in spec.get("networks", {}).items()}
        scratch = Path(self.job.cache) / "scratch" / self.job.key
        scratch.mkdir(parents=True, exist_ok=True)
        return Context(
            device=self.device,
            generator=torch.Generator().manual_seed(seed),
            seed=seed,
            info=info,
            assets=_Assets({n: k for n, k in inputs.items() if n != "data"}, self._load_asset),
            networks=builders,
            protocol=TrainingProtocol(**{k: v for k, v in spec["protocol"].items() if k != "name"}),
            scratch=scratch,
            progress=self.beat,
        )

    def _network(self, info: Any, spec: Mapping[str, Any]) -> Callable[[], Any]:
        plugin = self.registry.revive("evaluator", spec).create()
        return lambda: plugin.build(info.clip_shape, len(info.classes))

    def _load_asset(self, key: str) -> Any:
        from safetensors.torch import load

        record = self.store.read_record(key)
        if record is None:
            raise TaskError(f"asset {key} has no record: run the command again")
        plugin = self.registry.revive("asset", record["spec"]["asset"]).create()
        context = self._context(self.job.info, self._seed("asset", record["spec"]["asset"]["name"]), record["spec"], record["inputs"])
        return plugin.load(load(self.store.read_artifact(record, "asset.safetensors")), context)

    def _input(self, name: str) -> dict[str, Any]:
        record = self.store.read_record(self.job.inputs[name])
        if record is None or record["status"] != "done":
            raise TaskError(f"input {name!r} of this task is not done: run the command again")
        return record

    def _keep(self, context: Any) -> None:
        """Metrics and curves that the plugin put into its context."""
        self.record["metrics"].update({name: None if value is None else float(value) for name, value in context.metrics.items()})
        self.record["curves"].update({name: [[int(s), float(v)] for s, v in points] for name, points in context.curves.items()})

    def _preview(self, clips: Any, labels: Any, classes: tuple[str, ...]) -> None:
        from harness.preview import animation, contact_sheet, pick_rows

        rows = pick_rows(labels)
        shown, names = clips[rows], [classes[int(labels[r])] for r in rows]
        for name, data in (("preview.png", contact_sheet(shown, names)), ("preview.gif", animation(shown))):
            self.record["artifacts"][name] = self.store.write_artifact(self.job.key, name, data)


class _Assets(Mapping[str, Any]):
    """Assets by the names a plugin gave them, each loaded on first access."""

    def __init__(self, keys: Mapping[str, str], load: Callable[[str], Any]) -> None:
        self._keys, self._load = dict(keys), load
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._load(self._keys[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def materialise(plugin: Any, stored: Any, clip_shape: tuple[int, int, int, int]) -> Any:
    """The clips that a network is trained on, (N, T, C, H, W): the stored ones, or what the method makes of its tensors."""
    from harness.distilled import check_clips

    if stored.clips is not None:
        return stored.clips
    if not hasattr(plugin, "materialise"):
        raise TaskError(f"the set has no tensor 'clips' and {type(plugin).__name__} has no materialise(tensors): one of them is needed")
    clips = plugin.materialise(dict(stored.tensors))
    check_clips(clips, len(stored.labels), clip_shape)
    return clips


class _Heartbeat:
    """Where a task runs and how far it is, for the driver's display and its timeouts; also the plugins' progress callback."""

    def __init__(self, store: Store, job: Job) -> None:
        self._store, self._key = store, job.key
        self._state = {"key": job.key, "name": job.name, "host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        self._written = 0.0

    def __call__(self, done: int, total: int) -> None:
        now_ = time.monotonic()
        if now_ - self._written >= _HEARTBEAT_SECONDS:
            self._written = now_
            self._store.write_json(f"running/{self._key}.json", {**self._state, "done": int(done), "total": int(total)})


class _Log:
    """What a task prints, kept as logs/<key>.log; nothing is stored where it printed nothing."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._name = store, f"logs/{key}.log"
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by save)

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        with contextlib.redirect_stdout(self._file), contextlib.redirect_stderr(self._file):
            yield

    def save(self) -> str | None:
        """Store the log and return its name, or None."""
        with self._file:
            self._file.seek(0)
            text = self._file.read()
        if not text:
            return None
        self._store.write_bytes(self._name, text.encode())
        return self._name


def _seed_everything(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _make_deterministic(deterministic: bool) -> None:
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that writes every new tensor twice
    torch.backends.cudnn.benchmark = not deterministic


def _cpu_name() -> str:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return f"cpu ({line.partition(':')[2].strip()})"
    return f"cpu ({platform.processor() or platform.machine()})"
