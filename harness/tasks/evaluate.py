"""A cell: a network trained on a distilled set by the protocol, and tested. For the reference the network is there, and only tested."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness import predictions
from harness.data.info import DatasetInfo
from harness.evaluation import evaluate_network
from harness.plugin import Context, EvaluatorPlugin
from harness.protocol import TrainingProtocol
from harness.spec import EvaluateSpec
from harness.tasks.common import Work, seed_everything
from harness.training import predict_logits, train_network


def run(work: Work) -> None:
    spec = work.job.spec
    assert isinstance(spec, EvaluateSpec)
    with work.phases.measure("load"):
        data = work.open_data()
    protocol = spec.protocol.recipe.on(data.info)
    seed = work.seed("train", spec.evaluator.name, spec.seed)
    evaluator: EvaluatorPlugin = work.registry.revive("evaluator", spec.evaluator).create()
    context = work.context(data.info, seed, spec.protocol.recipe)
    seed_everything(seed)
    if spec.budget is None:
        with work.phases.measure("assets"):
            model: nn.Module = work.load_asset(work.job.inputs["teacher"])
    else:
        model = train(work, spec, evaluator, protocol, data.info, seed, context)
    evaluator.measure(model, context)
    work.keep(context, evaluator)
    with work.phases.measure("test"), torch.no_grad():
        metrics, arrays, logits = evaluate_network(model, data.test, protocol, work.device, seed)
    work.draft.metrics.update(metrics)
    work.draft.arrays = arrays
    if work.job.predictions != "none":
        work.write_artifact(predictions.FILE, predictions.pack(data.test.labels.numpy(), logits.numpy(), work.job.predictions == "logits"))


def train(
    work: Work, spec: EvaluateSpec, evaluator: EvaluatorPlugin, protocol: TrainingProtocol, info: DatasetInfo, seed: int, context: Context
) -> nn.Module:
    """The network of this cell, trained on its set with its labels, in the steps of the budget's clips."""
    assert spec.budget is not None
    method = work.registry.revive("method", spec.method).create()
    stored, clips = work.distilled(method, info)
    soft: Tensor | None = stored.soft_labels if spec.labels == "native" else None
    teacher: nn.Module | None = work.load_asset(work.job.inputs["teacher"]) if spec.labels == "soft" else None
    if teacher is not None and not protocol.relabel:
        with work.phases.measure("label"):
            soft, teacher = predict_logits(teacher, clips, protocol, work.device), None
    with work.phases.measure("train"):
        trained = train_network(
            lambda: evaluator.build(info.clip_shape, len(info.classes)),
            clips,
            stored.labels,
            protocol.at(spec.budget.ipc),
            seed=seed,
            device=work.device,
            soft_labels=soft,
            planned=spec.budget.clips,
            teacher=teacher,
            progress=work.progress,
        )
    context.curves["train_loss"] = trained.curve
    work.draft.metrics["train_steps"] = trained.steps
    relabelled = 0 if teacher is None else 4 * trained.clips * len(info.classes)  # all that the teacher gave, float32
    work.draft.metrics["label_bytes"] = relabelled if soft is None else soft.numel() * soft.element_size()
    return trained.model
