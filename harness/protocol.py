"""Training protocols: the recipe by which a network is trained on a distilled set and judged. Named in bench.toml."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    batch_times_ipc: bool = False
    """``batch`` holds for IPC 1 and grows with it (Video-DC: 10 x IPC); not for the full split."""
    schedule: Literal["none", "half", "steps", "cosine", "half-cosine"] = "half"
    """none; half: x0.1 once at half of the steps (VDSD); steps: x0.1 at every one of ``drops``; cosine: to 0; half-cosine: a cosine that
    ends at half of the rate (Video-DC)."""
    drops: tuple[float, ...] = ()
    """Where ``schedule = "steps"`` lowers the rate, in fractions of the steps (Video-DC's teacher: 90 and 130 of 150 epochs)."""
    clip_gradient: float = Field(0.0, ge=0)
    """Largest norm of the gradient of a step, over all parameters (Video-DC's teacher: 40; 0: off)."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Fraction of the steps with a linear warm-up."""
    reset_momentum: bool = False
    """Accident of VDSD's released code: the optimiser is made anew at half of the steps, so its momentum is lost."""
    soft_loss: Literal["kl", "mse+ce"] = "kl"
    """Loss on soft labels: KL divergence at ``temperature``, or Video-DC's MSE of the logits + 0.1 CE of the hard label."""
    temperature: float = Field(1.0, gt=0)
    relabel: bool = False
    """Labels "soft": the teacher labels every batch anew, as it is augmented (Video-DC's default), not each clip once."""
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

    @model_validator(mode="after")
    def _drops_belong_to_steps(self) -> TrainingProtocol:
        if (self.schedule == "steps") != bool(self.drops) or not all(0 < drop < 1 for drop in self.drops):
            raise ValueError(f'schedule = "steps" takes drops in (0, 1), and no other does; got {self.schedule!r} with {self.drops}')
        return self

    def on(self, info: DatasetInfo) -> TrainingProtocol:
        """The recipe as it applies to a dataset: flips are off where they change the label."""
        return self if info.flip else self.model_copy(update={"flip": False, "test_flip": False})

    def at(self, ipc: int) -> TrainingProtocol:
        """The recipe as it applies to a distilled set of this IPC: its batch.

        >>> TrainingProtocol(batch=10, batch_times_ipc=True).at(5).batch, TrainingProtocol(batch=10).at(5).batch
        (50, 10)
        """
        return self.model_copy(update={"batch": self.batch * ipc}) if self.batch_times_ipc else self
