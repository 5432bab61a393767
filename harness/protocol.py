"""Training protocols: the recipe by which a network is trained on a distilled set and judged. Named in bench.toml."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.data.info import DatasetInfo


class TrainingProtocol(BaseModel):
    """One training recipe. Every field is a key of [protocols.NAME] in bench.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    decay_biases: bool = True
    """Whether biases and norm scales are decayed too (Video-DC: no)."""
    epochs: int = Field(500, ge=1)
    """Passes over the set; the last step is what is tested."""
    min_steps: int = Field(0, ge=0)
    """At least so many optimiser steps, by more epochs where the set is small (0: no floor)."""
    batch: int = Field(256, ge=1)
    """Clips a step; the whole set where it is smaller."""
    schedule: Literal["none", "half", "cosine", "half-cosine"] = "half"
    """none; half: x0.1 once at half of the steps (VDSD); cosine: to 0; half-cosine: a cosine that ends at half of the rate (Video-DC)."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Fraction of the steps with a linear warm-up."""
    reset_momentum: bool = False
    """Accident of VDSD's released code: the optimiser is made anew at half of the steps, so its momentum is lost."""
    soft_loss: Literal["kl", "mse+ce"] = "kl"
    """Loss on soft labels: KL divergence at ``temperature``, or Video-DC's MSE of the logits + 0.1 CE of the hard label."""
    temperature: float = Field(1.0, gt=0)
    flip: bool = False
    """Horizontal flips in training, with probability 1/2; switched off for datasets where direction is the label."""
    crop: int = Field(0, ge=0)
    """Random shifts of up to so many pixels in training (borders replicated)."""
    resized_crop: float = Field(0.0, ge=0, le=1)
    """Random resized crops in training: the smallest share of the frame's area (Video-DC: 0.08; 0: off)."""
    standardise_batch: bool = False
    """Accident of VDSD's released code: every mini-batch, also in the test, is re-standardised by its own scalar mean and standard
    deviation. The prediction of a test clip then depends on its batch."""
    test_passes: int = Field(1, ge=1)
    """VDSD's released code tests three times and averages: accuracy and accuracy_top5 become means over so many passes. They differ
    by ``test_flip`` and, with ``standardise_batch``, by their shuffled batches; every test video keeps the one clip of the cache."""
    test_flip: bool = False
    """Accident of VDSD's released code: test clips are flipped with probability 1/2; off where direction is the label."""
    test_batch: int = Field(256, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"

    def keyed(self) -> dict[str, Any]:
        """What differs from the defaults, so that a field that is added later leaves the keys of earlier records valid."""
        return self.model_dump(exclude_defaults=True)

    def on(self, info: DatasetInfo) -> TrainingProtocol:
        """The recipe as it applies to a dataset: flips are off where they change the label."""
        return self if info.flip else self.model_copy(update={"flip": False, "test_flip": False})
