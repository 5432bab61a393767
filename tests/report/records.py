"""A results folder as a run leaves it, made without running anything: records of plausible numbers, drawn from a fixed seed."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.store import Store, content_hash

CLASSES = ("left", "right", "up", "down", "grow", "shrink")
CLIP_SHAPE = [8, 1, 32, 32]
NATIVE_FRAMES = 6 * 300 * 8
TRUE_ACCURACY = {"random": (0.22, 0.51, 0.64), "dm": (0.33, 0.55, 0.65), "gvd": (0.45, 0.66, 0.74), "herding": (0.30, 0.52, 0.63)}
EVALUATORS = {"convnet3d": 0.0, "c3d": -0.06}
FULL_ACCURACY = 0.97
TEST_CLIPS = 240


class Builder:
    """Writes records into a store, keyed as the plan keys them: by a hash of their specification and inputs."""

    def __init__(
        self, root: Path, *, dataset: str = "moving-digits", protocol: str = "quick", started: str = "2026-03-01T10:00:00+00:00"
    ) -> None:
        self.store = Store(root)
        self.dataset = {"name": dataset, "label": dataset, "params": {}, "digest": "d" * 12, "clip_shape": CLIP_SHAPE}
        self.protocol = {"name": protocol, "optimizer": "sgd", "lr": 0.01, "epochs": 60}
        self.started = started
        self.digest = "1" * 12
        self.device = "cpu"
        self.sweep = "20260301-100000-abcd"
        self.minute = 0
        self.data = self.write(
            "data",
            f"prepare {dataset}",
            {"dataset": self.dataset},
            {},
            metrics={"native_train_frames": NATIVE_FRAMES, "train_clips": 1800, "test_clips": TEST_CLIPS, "clips_left_out": 0},
            arrays={"classes": list(CLASSES)},
        )

    def write(self, kind: str, name: str, spec: dict[str, Any], inputs: dict[str, str], **fields: Any) -> str:
        key = content_hash({"kind": kind, "spec": spec, "inputs": inputs})
        self.minute += 1
        record = {
            "schema": 1,
            "key": key,
            "kind": kind,
            "status": "done",
            "reason": None,
            "name": name,
            "spec": spec,
            "inputs": inputs,
            "metrics": {},
            "curves": {},
            "arrays": {},
            "phases": {},
            "artifacts": {},
            "provenance": {
                "harness": "0.1.0",
                "git": "0123abc",
                "git_dirty": False,
                "host": "laptop",
                "device": self.device,
                "threads": 1,
                "concurrency": 2,
                "python": "3.11.9",
                "torch": "2.11.0",
                "platform": "Linux",
                "started_at": self.started,
                "ended_at": f"{self.started[:10]}T{10 + self.minute // 60:02d}:{self.minute % 60:02d}:00+00:00",
                "sweep": self.sweep,
            },
            "log": f"logs/{key}.log",
            **fields,
        }
        self.store.write_record(record)
        return key

    def method(self, label: str) -> dict[str, Any]:
        name, _, rest = label.partition("[")
        params = dict(part.split("=") for part in rest.rstrip("]").split(",") if part)
        return {"name": name, "label": label, "params": params, "digest": self.digest}

    def evaluator(self, name: str) -> dict[str, Any]:
        return {"name": name, "label": name, "params": {"width": 32}, "digest": "e" * 12}

    def teacher(self, evaluator: str, seed: int = 0) -> str:
        spec = {
            "dataset": self.dataset,
            "asset": {"name": "teacher", "label": "teacher", "params": {"evaluator": evaluator, "seed": seed}, "digest": "t"},
        }
        phases = {"build": phase(80.0, 410.0)}
        return self.write("asset", f"teacher[evaluator={evaluator}]", spec, {"data": self.data}, phases=phases, curves={"loss": curve(400)})

    def distill(self, label: str, ipc: int, seed: int, *, preview: bool = True, stored: int = 1024, **fields: Any) -> str:
        frames = ipc * len(CLASSES) * CLIP_SHAPE[0]
        spec = {
            "dataset": self.dataset,
            "budget": budget(ipc),
            "method": self.method(label),
            "networks": {},
            "protocol": self.protocol,
            "seed": seed,
        }
        metrics = {
            "frames_stored": frames,
            "stored_bytes": frames * stored,
            "label_bytes": 0,
            "clips_stored": ipc * len(CLASSES),
            "frame_fraction": frames / NATIVE_FRAMES,
            "teacher_accuracy": 0.8,
        }
        heavy = 0 if label == "random" else 150
        phases = {
            "distil": {**phase(0.05 if label == "random" else 4.0 * ipc, 300.0 + heavy), "baseline_cpu_mib": 290.0},
            "assets": phase(0.2, 300.0),
        }
        key = self.write(
            "distill", f"{label} ipc {ipc} seed {seed}", spec, {"data": self.data}, **{"metrics": metrics, "phases": phases, **fields}
        )
        if preview and fields.get("status", "done") == "done":
            record = self.store.read_record(key)
            assert record is not None
            record["artifacts"] = {
                "preview.png": self.store.write_artifact(key, "preview.png", picture("PNG")),
                "preview.gif": self.store.write_artifact(key, "preview.gif", picture("GIF")),
                "distilled.safetensors": {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": frames * stored},
            }
            self.store.write_record(record)
        return key

    def evaluate(
        self,
        label: str,
        ipc: int | None,
        seed: int,
        upstream: str,
        *,
        evaluator: str = "convnet3d",
        labels: str = "hard",
        accuracy: float = 0.5,
        exact: bool = False,
        **fields: Any,
    ) -> str:
        spec = {
            "dataset": self.dataset,
            "budget": budget(ipc) if ipc else None,
            "method": self.method(label),
            "labels": labels,
            "evaluator": self.evaluator(evaluator),
            "protocol": self.protocol,
            "seed": seed,
        }
        rng = np.random.default_rng([seed, int(1e6 * accuracy)])
        correct = rng.random(TEST_CLIPS) < accuracy
        metrics = {
            "accuracy": float(correct.mean()) if not exact else accuracy,
            "accuracy_top5": min(1.0, accuracy + 0.3),
            "accuracy_single_frame": 0.17,
            "accuracy_shuffled": 0.25,
            "accuracy_reversed": 0.11,
            "ece": 0.08,
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
        return self.write("evaluate", f"{evaluator} on {label} ipc {ipc} {labels} seed {seed}", spec, inputs, **{**body, **fields})

    def fail(self, label: str, ipc: int, seed: int, *, status: str, reason: str, evaluator: str = "convnet3d", labels: str = "hard") -> str:
        upstream = self.distill(label, ipc, seed, status=status, reason=reason, metrics={})
        return self.evaluate(
            label, ipc, seed, upstream, evaluator=evaluator, labels=labels, status="skipped" if status != "skipped" else status,
            reason=f"{label} ipc {ipc} seed {seed} {status}: {reason}", metrics={}, arrays={}, curves={}, phases={},
        )  # fmt: skip


def budget(ipc: int) -> dict[str, Any]:
    return {"ipc": ipc, "clip_shape": CLIP_SHAPE, "classes": len(CLASSES)}


def phase(seconds: float, peak: float, gpu: float | None = None) -> dict[str, float | None]:
    return {"seconds": seconds, "peak_cpu_mib": peak, "baseline_cpu_mib": 280.0, "peak_gpu_mib": gpu, "peak_gpu_reserved_mib": gpu}


def curve(steps: int) -> list[list[float]]:
    return [[step, round(1.8 * 0.97**step + 0.02, 5)] for step in range(0, steps, 5)]


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
    for name, shift in EVALUATORS.items():
        if full:
            build.evaluate("full", None, 0, build.teacher(name), evaluator=name, accuracy=FULL_ACCURACY + shift / 4)
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
                upstream = build.distill(label, ipc, seed, preview=seed == 0)
                for name, shift in EVALUATORS.items():
                    noise = np.random.default_rng([seed, ipc, len(name)]).normal(0, 0.012) + np.random.default_rng(
                        [seed, ipc, len(label)]
                    ).normal(0, 0.006)
                    accuracy = base[i] + shift + noise - (0.06 if "guidance" in label else 0)
                    build.evaluate(label, ipc, seed, upstream, evaluator=name, accuracy=accuracy)
    build.store.write_json(
        f"sweeps/{build.sweep}.json",
        {
            "id": build.sweep,
            "started_at": build.started,
            "command": "python -m harness run --methods random,dm,gvd --ipc 1,5,10",
            "status": "done",
        },
    )
    return build
