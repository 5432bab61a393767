"""Training by a fixed number of steps: checkpoints that it resumes from, a loss curve, and a word on how long it will take.

No clock decides what it makes: every step draws from a generator of its own, so that a run that was killed and resumed ends with the same
weights as one that was not.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness import Context, TaskError
from methods.gvd.clock import Clock

CHECKPOINT_SECONDS = 60.0
TIMED_STEPS = 5
"""Steps, after the first, whose time tells how long training will take."""
CURVE_STEPS = 50
"""Steps that one point of the loss curve is the mean of."""


class Stepwise(ABC):
    """What trains: ``take_step`` is one step of the optimiser, ``state`` and ``restore`` are all that it changes.

    name: what it is called; lr: its peak learning rate, linear warm-up over 2 % of the steps and cosine to 0.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, name: str, steps: int, lr: float, seed: int, device: torch.device) -> None:
        self.name, self.steps, self.lr, self.seed, self.device = name, steps, lr, seed, device
        self.step = 0
        self.losses: list[Tensor] = []  # since the last point of the curve
        self.curve: list[tuple[int, float]] = []

    @abstractmethod
    def take_step(self, generator: torch.Generator) -> Tensor:
        """Train a step; returns its loss."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Weights and the optimiser's state."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None: ...

    def run(self, context: Context) -> None:
        """Train to the last step, from the last checkpoint on. Raises TaskError where the loss is not finite."""
        path = context.scratch / "checkpoint.pt"
        if path.is_file():
            self._resume(path)
        first = self.step
        saved, clock = time.monotonic(), None
        while self.step < self.steps:
            # Of this step: a resumed run draws the same. Hashed, because torch takes the low 32 bits of a seed alone.
            generator = torch.Generator().manual_seed(int(np.random.SeedSequence((self.seed, self.step)).generate_state(1)[0]))
            self.losses.append(self.take_step(generator))
            self.step += 1
            if self.step - first in (1, 1 + TIMED_STEPS):
                self.losses[-1].item()  # waits for a GPU
            if clock is None:
                clock = Clock(self.name, "step")
            elif self.step - first == 1 + TIMED_STEPS:
                clock.tell(TIMED_STEPS, self.steps - self.step)
            if self.step % CURVE_STEPS == 0 or self.step == self.steps:
                self._close_point()
            context.progress(self.step, self.steps)
            if (now := time.monotonic()) - saved > CHECKPOINT_SECONDS:
                self._save(path)
                saved = now

    def set_rate(self) -> None:
        """The learning rate of the present step."""
        done = self.step / self.steps
        warmed = min(1.0, done / 0.02 + 0.01)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * warmed * 0.5 * (1 + math.cos(math.pi * done))

    def _close_point(self) -> None:
        self.curve.append((self.step, float(torch.stack(self.losses).mean())))
        self.losses.clear()
        if not math.isfinite(self.curve[-1][1]):
            raise TaskError(f"{self.name}: the loss is not finite at step {self.step}; lower lr (it is {self.lr})")

    def _save(self, path: Path) -> None:
        state = {**self.state(), "optimizer": self.optimizer.state_dict(), "step": self.step, "losses": self.losses, "curve": self.curve}
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.restore(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses, self.curve = state["step"], state["losses"], state["curve"]
