"""A results folder as a run leaves it, made without running anything: records of plausible numbers, drawn from a fixed seed."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.budget import Budget
from harness.metrics import Metric
from harness.names import parse_spec
from harness.protocol import TrainingProtocol
from harness.record import Artifact, Cost, Phase, Provenance, Record, Sweep
from harness.spec import (
    AssetSpec,
    Cell,
    DatasetSpec,
    DataSpec,
    DistillSpec,
    EvaluateSpec,
    Labels,
    PluginSpec,
    ProtocolSpec,
    QualitySpec,
    Spec,
    task_identity,
    task_key,
)
from harness.store import Store

CLASSES = ("left", "right", "up", "down", "grow", "shrink")
CLIP_SHAPE = (8, 1, 32, 32)
NATIVE_FRAMES = 6 * 300 * 8
TRUE_ACCURACY = {"random": (0.22, 0.51, 0.64), "dm": (0.33, 0.55, 0.65), "gvd": (0.45, 0.66, 0.74), "herding": (0.30, 0.52, 0.63)}
EVALUATORS = {"convnet3d": 0.0, "c3d": -0.06}
FULL_ACCURACY = 0.97
TEST_CLIPS = 240
VIDEOS = Metric("videos_generated", "videos made", "count", "lower", doc="Videos that the diffusion model made for the set.")


class Builder:
    """Writes records into a store, keyed as the plan keys them. ``digest`` is that of the method's code, ``code`` that of the harness's."""

    def __init__(
        self, root: Path, *, dataset: str = "moving-digits", protocol: str = "quick", started: str = "2026-03-01T10:00:00+00:00"
    ) -> None:
        self.store = Store(root)
        self.dataset = DatasetSpec(name=dataset, params={}, label=dataset, code="f" * 12, digest="d" * 12, clip_shape=CLIP_SHAPE)
        self.protocol = ProtocolSpec(name=protocol, recipe=TrainingProtocol(lr=0.01, epochs=60))
        self.started = started
        self.digest = "1" * 12
        self.code = "h" * 12
        self.device = "cpu"
        self.libraries = {"torch": "2.11.0", "numpy": "2.3.0"}
        self.sweep = "20260301-100000-abcd"
        self.minute = 0
        self.records: dict[str, Record] = {}
        self.data = self.write(
            f"prepare {dataset}",
            DataSpec(code=self.code, dataset=self.dataset),
            {},
            metrics={"native_train_frames": NATIVE_FRAMES, "train_clips": 1800, "test_clips": TEST_CLIPS, "clips_left_out": 0},
            arrays={"classes": list(CLASSES)},
        )

    def write(self, name: str, spec: Spec, inputs: Mapping[str, str], **fields: Any) -> str:
        """Store the record of a task and return its key. fields: of Record, instead of those of a task that is done."""
        key = task_key(spec, inputs)
        self.minute += 1
        provenance = Provenance(
            sweep=self.sweep,
            host="laptop",
            started_at=self.started,
            ended_at=f"{self.started[:10]}T{10 + self.minute // 60:02d}:{self.minute % 60:02d}:00+00:00",
            harness="0.1.0",
            git="0123abc",
            git_dirty=False,
            platform="Linux",
            executor="ray",
            concurrency=2,
            device=self.device,
            threads=1,
            python="3.11.9",
            libraries=self.libraries,
        )
        given = {"status": "done", "log": f"logs/{key}.log", "provenance": provenance, **fields}
        identity = task_identity(spec, {name: self.records[k].identity for name, k in inputs.items()})
        record = Record(key=key, identity=identity, kind=spec.kind, name=name, spec=spec, inputs=dict(inputs), **given)
        self.records[key] = record
        self.store.write_record(record)
        return key

    def change(self, key: str, **fields: Any) -> None:
        """Store a record again with other fields."""
        self.records[key] = self.records[key].model_copy(update=fields)
        self.store.write_record(self.records[key])

    def method(self, label: str) -> PluginSpec:
        name, params = parse_spec(label)
        return PluginSpec(name=name, params=params, label=label, code=self.digest)

    def evaluator(self, name: str) -> PluginSpec:
        return PluginSpec(name=name, params={"width": 32}, label=name, code="e" * 12)

    def asset(self, name: str, params: Mapping[str, Any], *, inputs: Mapping[str, str] | None = None, **fields: Any) -> str:
        plugin = PluginSpec(name=name, params=dict(params), label=name, code="a" * 12)
        spec = AssetSpec(code=self.code, dataset=self.dataset, asset=plugin, networks={}, protocol=self.protocol, by_protocol=True)
        body: dict[str, Any] = {"phases": {"build": phase(80.0, 410.0)}, "curves": {"loss": curve(400)}}
        shown = ",".join(f"{k}={v}" for k, v in params.items())
        return self.write(f"{name}[{shown}]", spec, {"data": self.data, **(inputs or {})}, **{**body, **fields})

    def teacher(self, evaluator: str, seed: int = 0, **fields: Any) -> str:
        return self.asset("teacher", {"evaluator": evaluator, "seed": seed}, **fields)

    def shipped(self, name: str = "video_diffusion") -> str:
        """An asset whose weights were made elsewhere."""
        cost = Cost(seconds=4200.0, cpu_seconds=8000.0, device="2.3 GHz Xeon", note="shipped weights, trained by make_weights.py")
        return self.asset(name, {}, cost=cost, phases={"build": phase(0.5, 300.0)}, curves={})

    def distill(
        self,
        label: str,
        ipc: int,
        seed: int,
        *,
        preview: bool = True,
        stored: int = 1024,
        assets: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> str:
        frames = ipc * len(CLASSES) * CLIP_SHAPE[0]
        spec = DistillSpec(
            code=self.code,
            dataset=self.dataset,
            budget=budget(ipc),
            method=self.method(label),
            networks={},
            protocol=self.protocol,
            seed=seed,
        )
        metrics = {
            "frames_stored": frames,
            "stored_bytes": frames * stored,
            "label_bytes": 0,
            "videos_trained_on": ipc * len(CLASSES),
            "frame_fraction": frames / NATIVE_FRAMES,
            **({VIDEOS.name: 40.0 * ipc} if label.startswith("gvd") else {}),
        }
        heavy = 0 if label == "random" else 150
        body: dict[str, Any] = {
            "metrics": metrics,
            "declared": (VIDEOS,) if label.startswith("gvd") else (),
            "phases": {
                "distill": phase(0.05 if label == "random" else 4.0 * ipc, 300.0 + heavy, baseline=290.0),
                "assets": phase(0.2, 300.0),
            },
        }
        key = self.write(f"{label} ipc {ipc} seed {seed}", spec, {"data": self.data, **(assets or {})}, **{**body, **fields})
        if preview and fields.get("status", "done") == "done":
            files = {
                "preview.png": self.store.write_artifact(key, "preview.png", picture("PNG")),
                "preview.gif": self.store.write_artifact(key, "preview.gif", picture("GIF")),
                "distilled.safetensors": Artifact(sha256=hashlib.sha256(b"").hexdigest(), bytes=frames * stored),
            }
            self.change(key, artifacts=files)
        return key

    def quality(self, distill: str, teacher: str, **metrics: float) -> str:
        made = self.records[distill].spec
        assert isinstance(made, DistillSpec)
        spec = QualitySpec(code=self.code, dataset=self.dataset, budget=made.budget, method=made.method, protocol=self.protocol)
        numbers = {
            "teacher_accuracy": 0.8,
            "teacher_confidence": 0.7,
            "diversity": 0.9,
            "coverage": 0.4,
            "frechet": 12.5,
            "motion_ratio": 1.1,
        }
        inputs = {"data": self.data, "distill": distill, "teacher": teacher}
        return self.write(f"quality of {self.records[distill].name}", spec, inputs, metrics={**numbers, **metrics})

    def evaluate(
        self,
        label: str,
        ipc: int | None,
        seed: int,
        upstream: str,
        *,
        evaluator: str = "convnet3d",
        labels: Labels = "hard",
        accuracy: float = 0.5,
        exact: bool = False,
        **fields: Any,
    ) -> str:
        spec = EvaluateSpec(
            code=self.code,
            dataset=self.dataset,
            budget=budget(ipc) if ipc else None,
            method=self.method(label),
            labels=labels,
            evaluator=self.evaluator(evaluator),
            protocol=self.protocol,
            seed=seed,
        )
        rng = np.random.default_rng([seed, int(1e6 * accuracy)])
        correct = rng.random(TEST_CLIPS) < accuracy
        metrics = {
            "accuracy": float(correct.mean()) if not exact else accuracy,
            "accuracy_top5": min(1.0, accuracy + 0.3),
            "accuracy_single_frame": 0.17,
            "accuracy_shuffled": 0.25,
            "accuracy_reversed": 0.11,
            "ece": 0.08,
            "train_steps": 60.0,
        }
        if labels != "hard":
            metrics["label_bytes"] = (ipc or 0) * len(CLASSES) ** 2 * 4
        body: dict[str, Any] = {
            "metrics": metrics,
            "phases": {"train": phase(9.0, 380.0), "test": phase(1.2, 350.0)},
            "curves": {"train_loss": curve(60)},
            "arrays": {
                "per_class_accuracy": [float(np.clip(accuracy + d, 0, 1)) for d in np.linspace(-0.2, 0.2, len(CLASSES))],
                "correct": base64.b64encode(np.packbits(correct).tobytes()).decode(),
            },
        }
        inputs = {"data": self.data, ("distill" if ipc else "teacher"): upstream}
        return self.write(f"{evaluator} on {label} ipc {ipc} {labels} seed {seed}", spec, inputs, **{**body, **fields})

    def fail(
        self, label: str, ipc: int, seed: int, *, status: str, reason: str, evaluator: str = "convnet3d", labels: Labels = "hard"
    ) -> str:
        upstream = self.distill(label, ipc, seed, status=status, reason=reason, metrics={}, declared=())
        return self.evaluate(
            label, ipc, seed, upstream, evaluator=evaluator, labels=labels, status="skipped",
            reason=f"{label} ipc {ipc} seed {seed} {status}: {reason}", metrics={}, arrays={}, curves={}, phases={},
        )  # fmt: skip

    def cell(self, label: str, ipc: int | None, seed: int, *, evaluator: str = "convnet3d", labels: Labels = "hard", key: str = "") -> Cell:
        """A planned cell. key: that of its record, if it has one."""
        name = f"{evaluator} on {label} ipc {ipc} {labels} seed {seed}"
        return Cell(
            key=key or hashlib.sha256(name.encode()).hexdigest(),
            identity=self.records[key].identity if key else "",
            name=name,
            dataset=self.dataset.name,
            dataset_label=self.dataset.label,
            clip_shape=CLIP_SHAPE,
            method=parse_spec(label)[0],
            method_label=label,
            ipc=ipc,
            labels=labels,
            evaluator=evaluator,
            evaluator_label=evaluator,
            protocol=self.protocol.name,
            seed=seed,
        )

    def plan(self, cells: Sequence[Cell], kept: Sequence[str] = (), **fields: Any) -> None:
        """Store the sweep of ``sweep`` and ``started``."""
        body: dict[str, Any] = {"command": "python -m harness run --methods random,dm,gvd --ipc 1,5,10", "status": "done"}
        self.store.write_sweep(Sweep(id=self.sweep, started_at=self.started, cells=tuple(cells), kept=tuple(kept), **{**body, **fields}))


def budget(ipc: int) -> Budget:
    return Budget(ipc, CLIP_SHAPE, len(CLASSES))


def phase(seconds: float, peak: float, gpu: float | None = None, *, baseline: float = 280.0) -> Phase:
    return Phase(
        seconds=seconds,
        cpu_seconds=1.5 * seconds,
        peak_cpu_mib=peak,
        baseline_cpu_mib=baseline,
        peak_gpu_mib=gpu,
        peak_gpu_reserved_mib=gpu,
    )


def curve(steps: int) -> list[tuple[int, float]]:
    return [(step, round(1.8 * 0.97**step + 0.02, 5)) for step in range(0, steps, 5)]


@functools.cache
def picture(kind: str) -> bytes:
    rng = np.random.default_rng(0)
    frames = [Image.fromarray((rng.random((24, 60, 3)) * 255).astype(np.uint8)) for _ in range(4)]
    buffer = io.BytesIO()
    if kind == "GIF":
        frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=125, loop=0)
    else:
        frames[0].save(buffer, kind)
    return buffer.getvalue()


def comparison(
    root: Path, *, methods: tuple[str, ...] = ("random", "dm", "gvd", "gvd[guidance=0]"), seeds: int = 5, full: bool = True
) -> Builder:
    """A comparison with everything in it: two evaluators, three budgets, a failed seed, a method that runs out of memory at IPC 10."""
    build = Builder(root)
    teacher = build.teacher("convnet3d")
    for name, shift in EVALUATORS.items():
        if full:
            build.evaluate("full", None, 0, build.teacher(name), evaluator=name, accuracy=FULL_ACCURACY + shift / 4)
    diffusion = {"diffusion": build.shipped()}
    for label in methods:
        base = TRUE_ACCURACY[label.partition("[")[0]]
        for i, ipc in enumerate((1, 5, 10)):
            for seed in range(seeds):
                if label == "dm" and ipc == 10:
                    for name in EVALUATORS:
                        build.fail(label, ipc, seed, status="oom", reason="out of memory: 24.0 GiB asked for", evaluator=name)
                    continue
                if label == "dm" and ipc == 5 and seed == 4:
                    for name in EVALUATORS:
                        build.fail(
                            label, ipc, seed, status="failed", reason="stored tensor 'clips' holds NaN or infinite values", evaluator=name
                        )
                    continue
                assets = diffusion if label.startswith("gvd") else {}
                upstream = build.distill(label, ipc, seed, preview=seed == 0, assets=assets)
                build.quality(upstream, teacher, diversity=0.5 + ipc / 25)
                for name, shift in EVALUATORS.items():
                    noise = np.random.default_rng([seed, ipc, len(name)]).normal(0, 0.012) + np.random.default_rng(
                        [seed, ipc, len(label)]
                    ).normal(0, 0.006)
                    accuracy = base[i] + shift + noise - (0.06 if "guidance" in label else 0)
                    build.evaluate(label, ipc, seed, upstream, evaluator=name, accuracy=accuracy)
    build.plan(())
    return build
