"""The confusion matrix: what clips of each class are taken for."""

from __future__ import annotations

import numpy as np

from harness import Predictions, metric


@metric("confusion")
class Confusion:
    """Share of the clips of each class (row) that are taken for each class (column), in %."""

    def matrix(self, predictions: Predictions) -> np.ndarray:
        """(classes, classes) in %; the row of a class without test clips is NaN."""
        classes = len(predictions.classes)
        pairs = predictions.labels * classes + predictions.predicted
        counts = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
        total = counts.sum(axis=1, keepdims=True).astype(float)
        return 100 * counts / np.where(total, total, np.nan)
