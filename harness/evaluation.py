"""The test of a trained network: accuracy, and the controls that say whether it looks at motion."""

from __future__ import annotations

import base64

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.base import Split
from harness.protocol import TrainingProtocol
from harness.record import Arrays
from harness.training import predict_logits

CALIBRATION_BINS = 15


def evaluate_network(
    model: nn.Module, test: Split, protocol: TrainingProtocol, device: torch.device | str, seed: int
) -> tuple[dict[str, float], Arrays, Tensor]:
    """Test a network on a split.

    Returns (metrics, arrays, logits). Metrics, all in [0, 1]: ``accuracy`` (top-1), ``accuracy_top5``, ``ece`` (15 bins), and top-1 of the
    same network when every test clip is shown as one of its frames repeated (``accuracy_single_frame``), with its frames permuted
    (``accuracy_shuffled``) or backwards (``accuracy_reversed``). Arrays: ``per_class_accuracy`` (None for a class without
    test clips) and ``correct``, the base64 of the packed top-1 bits in test-clip order. Logits: (N, classes), float32 on the CPU.
    With ``protocol.test_passes`` above 1, or ``test_flip``, accuracy and accuracy_top5 are means over such passes; everything else, the
    bitmap and the logits too, comes from one plain pass in order.
    seed: draws the frame that is repeated, the permutation of every clip, and what the passes vary.
    """
    labels, classes = test.labels, len(test.info.classes)
    n, frames = len(test), test.info.clip_shape[0]
    generator = torch.Generator().manual_seed(seed)
    single = torch.randint(frames, (n, 1), generator=generator).expand(n, frames)
    shuffled = torch.rand(n, frames, generator=generator).argsort(1)
    backwards = torch.arange(frames - 1, -1, -1).expand(n, frames)

    logits = predict_logits(model, test, protocol, device)
    correct = logits.argmax(1) == labels
    metrics = {
        "accuracy": mean(correct),
        "accuracy_top5": mean((logits.topk(min(5, classes), 1).indices == labels[:, None]).any(1)),
        "ece": calibration_error(logits, labels),
    }
    for name, order in (("single_frame", single), ("shuffled", shuffled), ("reversed", backwards)):
        shown = predict_logits(model, test, protocol, device, frames=order)
        metrics[f"accuracy_{name}"] = mean(shown.argmax(1) == labels)
    if protocol.test_passes > 1 or protocol.test_flip:
        passes = [varied_pass(model, test, protocol, device, generator) for _ in range(protocol.test_passes)]
        for i, name in enumerate(("accuracy", "accuracy_top5")):
            metrics[name] = sum(p[i] for p in passes) / len(passes)
    return metrics, Arrays(per_class_accuracy=per_class_accuracy(correct, labels, classes), correct=pack_bits(correct)), logits


def varied_pass(
    model: nn.Module, test: Split, protocol: TrainingProtocol, device: torch.device | str, generator: torch.Generator
) -> tuple[float, float]:
    """(top-1, top-5) of one pass as VDSD's released code tests: clips in random order, flipped with probability 1/2 under ``test_flip``."""
    order = torch.randperm(len(test), generator=generator)
    flipped = torch.rand(len(test), generator=generator) < 0.5
    right = torch.zeros(2, dtype=torch.int64)
    for rows in order.split(protocol.test_batch):
        clips = test.clips(rows)
        if protocol.test_flip:
            clips = torch.where(flipped[rows].view(-1, 1, 1, 1, 1), clips.flip(-1), clips)
        # One batch, so that its re-standardisation sees exactly these clips.
        best = predict_logits(model, clips, protocol, device).topk(min(5, len(test.info.classes)), 1).indices == test.labels[rows][:, None]
        right += torch.stack([best[:, 0].sum(), best.any(1).sum()])
    return int(right[0]) / len(test), int(right[1]) / len(test)


def mean(bits: Tensor) -> float:
    """Share of True, exact for any count."""
    return int(bits.sum()) / len(bits)


def per_class_accuracy(correct: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """Share of correct clips of each class; None where a class has none.

    >>> per_class_accuracy(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), 3)
    [0.5, None, 1.0]
    """
    total = labels.bincount(minlength=classes).tolist()
    right = labels[correct].bincount(minlength=classes).tolist()
    return [r / n if n else None for r, n in zip(right, total, strict=True)]


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error over 15 equal bins of confidence: sum of bin share x |accuracy - mean confidence| (Guo et al. 2017).

    >>> round(calibration_error(torch.tensor([[100.0, 0.0], [100.0, 0.0]]), torch.tensor([0, 1])), 3)
    0.5
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    gap = (predicted == labels).double() - confidence
    return float(torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add(0, bins, gap).abs().sum() / len(labels))


def pack_bits(bits: Tensor) -> str:
    """A bitmap as base64 text: ``numpy.packbits`` of the bits in order."""
    return base64.b64encode(np.packbits(bits.numpy()).tobytes()).decode("ascii")


def unpack_bits(text: str, n: int) -> np.ndarray:
    """Inverse of ``pack_bits`` for n bits: (n,) bool.

    >>> unpack_bits(pack_bits(torch.tensor([True, False, True])), 3).tolist()
    [True, False, True]
    """
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=n).astype(bool)
