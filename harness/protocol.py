"""Training protocols: the recipe by which a network is trained on a distilled set and judged. Named in bench.toml."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingProtocol(BaseModel):
    """One training recipe. Every field is a key of [protocols.NAME] in bench.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    epochs: int = Field(500, ge=1)
    """Passes over the set; the last step is what is tested."""
    min_steps: int = Field(0, ge=0)
    """At least so many optimiser steps, by more epochs where the set is small (0: no floor)."""
    batch: int = Field(256, ge=1)
    """Clips a step; the whole set where it is smaller."""
    schedule: Literal["none", "half", "cosine"] = "half"
    """none; half: x0.1 once at half of the steps (VDSD); cosine: to 0 with a linear warm-up over the first ``warmup`` of the steps."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Fraction of the steps with a linear warm-up."""
    soft_loss: Literal["kl", "mse+ce"] = "kl"
    """Loss on soft labels: KL divergence at ``temperature``, or Video-DC's MSE of the logits + 0.1 CE of the hard label."""
    temperature: float = Field(1.0, gt=0)
    flip: bool = False
    """Horizontal flips in training; refused for datasets where direction is the label."""
    crop: int = Field(0, ge=0)
    """Random shifts of up to so many pixels in training (zero padding)."""
    standardise_batch: bool = False
    """VDSD: every mini-batch, also in the test, is re-standardised by its own scalar mean and std. The prediction of a test clip then
    depends on its batch."""
    test_batch: int = Field(256, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
