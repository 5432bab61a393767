"""F1, the harmonic mean of precision and recall, over classes (van Rijsbergen, Information Retrieval, 1979)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from harness import Metric, Predictions, metric


@metric("f1")
class F1:
    """F1 of the test clips, averaged over classes alike (macro) and by their clips (weighted)."""

    metrics: ClassVar = (
        Metric("f1_macro", "macro F1", "fraction", "higher", doc="Mean F1 of the classes, each counted once."),
        Metric("f1_weighted", "weighted F1", "fraction", "higher", doc="Mean F1 of the classes, weighted by their test clips."),
    )

    def measure(self, predictions: Predictions) -> dict[str, float]:
        """Over the classes that occur among labels or predictions; a class that is never right has 0."""
        counts = [np.bincount(a, minlength=len(predictions.classes)) for a in (predictions.labels, predictions.predicted)]
        right = np.bincount(predictions.labels[predictions.labels == predictions.predicted], minlength=len(predictions.classes))
        there = counts[0] + counts[1] > 0
        f1 = 2 * right[there] / (counts[0] + counts[1])[there]
        return {"f1_macro": float(f1.mean()), "f1_weighted": float(np.average(f1, weights=counts[0][there]))}
