"""Methods that do harm: they leave their process changed in one way each, raise what nobody expects, or break the process."""

from __future__ import annotations

import gc
import math
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Budget, Context, DistilledSet, Split, method


def _wrong_loss(*_args: object, **_named: object) -> Tensor:
    return torch.zeros((), requires_grad=True)


def _set(target: object, name: str, value: object) -> Callable[[], object]:
    return lambda: setattr(target, name, value)


class _Lazy(torch.optim.SGD):
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Learns nothing."""


_KEPT: list[object] = []


def _enter(context: object) -> None:
    _KEPT.append(context)
    context.__enter__()  # type: ignore[attr-defined]


POLLUTIONS: dict[str, Callable[[], object]] = {
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "half": lambda: torch.set_default_dtype(torch.bfloat16),
    "grad": lambda: torch.set_grad_enabled(False),
    "inference": lambda: _enter(torch.inference_mode()),
    "device": lambda: torch.set_default_device("meta"),
    "device-mode": lambda: _enter(torch.device("meta")),
    "autocast": lambda: _enter(torch.autocast("cpu", torch.bfloat16)),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "threads": lambda: torch.set_num_threads(7),
    "denormals": lambda: torch.set_flush_denormal(True),
    "matmul": lambda: torch.set_float32_matmul_precision("medium"),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "onednn": _set(torch.backends.mkldnn, "enabled", False),
    "seed": lambda: (torch.manual_seed(13), np.random.seed(13), random.seed(13)),
    "loss": _set(F, "cross_entropy", _wrong_loss),
    "optimiser": _set(torch.optim, "SGD", _Lazy),
    "step": _set(torch.optim.SGD, "step", lambda self, closure=None: None),
    "linear": _set(nn.Linear, "forward", lambda self, x: torch.zeros(len(x), self.out_features, requires_grad=True)),
    "call": _set(nn.Module, "__call__", lambda self, x: self.forward(x * 0)),
    "tensor": _set(torch.Tensor, "mean", lambda self, *a, **k: self.sum(*a, **k)),
    "rand": _set(torch, "randperm", lambda n, **k: torch.arange(n)),
    "numpy": _set(np, "clip", lambda a, *b, **k: a * 0),
    "cos": _set(math, "cos", lambda x: 0.0),
    "training": lambda: setattr(sys.modules["harness.training"], "_loss", _wrong_loss),
    "evaluation": lambda: setattr(sys.modules["harness.tasks.evaluate"], "evaluate_network", lambda *a: ({"accuracy": 1.0}, None, None)),
    "hook": lambda: nn.modules.module.register_module_forward_hook(lambda m, i, o: o * 0),
    "optimiser-hook": lambda: sys.modules["torch.optim.optimizer"].register_optimizer_step_pre_hook(_raise),
    "cwd": lambda: os.chdir("/"),
    "environment": lambda: os.environ.update({"CUDA_VISIBLE_DEVICES": "7", "TMPDIR": "/nowhere", "HOME": "/nowhere"}),
    "errors": lambda: np.seterr(all="raise"),
    "warnings": lambda: warnings.simplefilter("error"),
    "recursion": lambda: sys.setrecursionlimit(sys.getrecursionlimit() - 700),
    "collector": gc.disable,
    "umask": lambda: os.umask(0o777),
    "stdout": lambda: sys.stdout.close(),
    "print": _set(sys, "stdout", None),
    "descriptor": lambda: os.close(2),
    "signals": lambda: [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGTERM, signal.SIGALRM)],
}


def _raise(*_args: object) -> NoReturn:
    raise RuntimeError("a hook that another cell set")


class Unprintable(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Fatal(BaseException):
    """Not an Exception."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "raise": lambda: RuntimeError("a bug"),
    "unprintable": Unprintable,
    "fatal": Fatal,
    "generator-exit": GeneratorExit,
    "exit": lambda: SystemExit(0),
    "interrupt": KeyboardInterrupt,
    "stop-iteration": StopIteration,
    "memory": MemoryError,
    "recursion": RecursionError,
    "surrogate": lambda: ValueError("half \ud800 of a pair"),
    "escape": lambda: ValueError("\x1b]0;owned\x07 =cmd|'/c calc'!A1 <script>alert(1)</script>"),
    "group": lambda: BaseExceptionGroup("two", [Unprintable(), Fatal()]),
}


def _first(train: Split, budget: Budget) -> DistilledSet:
    rows = torch.cat([train.indices_of(label)[: budget.ipc] for label in range(budget.classes)])
    return DistilledSet.of_clips(train.clips(rows), train.labels[rows])


@method("polluter")
class Polluter:
    """Changes its process, then hands back a good set; where ``late`` is set, as the set is materialised for training."""

    what: str = "dtype"
    """Which of POLLUTIONS."""
    late: bool = False
    """In ``materialise`` (the process of an evaluation) instead of ``distill``."""

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        good = _first(train, budget)
        if self.late:
            assert good.clips is not None
            return DistilledSet({"kept": good.clips}, good.labels)
        POLLUTIONS[self.what]()
        return good

    def materialise(self, tensors: Mapping[str, Tensor]) -> Tensor:
        clips = tensors["kept"]
        if self.late:
            POLLUTIONS[self.what]()
        return clips


@method("thrower")
class Thrower:
    """Raises what ``what`` names."""

    what: str = "raise"
    """Which of ERRORS."""

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        raise ERRORS[self.what]()


@method("breaker")
class Breaker:
    """Breaks its process until the file ``marker`` exists; then hands back a good set."""

    what: str = "exit"
    """exit, segfault, kill, fork, flood, hang, leak."""
    marker: str = ""

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        good = _first(train, budget)
        if self.marker and Path(self.marker).exists():
            return good
        if self.what == "exit":
            os._exit(3)
        if self.what in ("segfault", "kill"):
            os.kill(os.getpid(), signal.SIGSEGV if self.what == "segfault" else signal.SIGKILL)
        if self.what == "fork" and os.fork() == 0:
            return good  # the child goes on as if it were the harness
        if self.what == "flood":
            for _ in range(200):
                print("x" * 100_000)  # noqa: T201
        if self.what == "hang":
            time.sleep(600)
        return good
