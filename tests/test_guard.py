"""The guard around a task: what torch does to itself is no change, what a plugin does is found and set back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.guard import GUARD
from tests.faults.plugins import POLLUTIONS

UNWATCHED = {"seed", "threads", "deterministic", "stdout", "print", "warnings"}
"""Set anew for every task, or part of how its output is kept."""


def test_training_as_such_changes_nothing() -> None:
    with GUARD.around():
        model = nn.Linear(2, 2)
        for kind in (torch.optim.SGD, torch.optim.AdamW):
            optimizer = kind(model.parameters(), lr=0.1)
            F.cross_entropy(model(torch.zeros(1, 2)), torch.zeros(1, dtype=torch.long)).backward()
            optimizer.step()
    with GUARD.around():
        pass
    assert GUARD.found == [] and GUARD.stuck == []


@pytest.mark.parametrize("what", sorted(POLLUTIONS.keys() - UNWATCHED))
def test_a_change_is_found_and_set_back(what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import harness.tasks.evaluate  # noqa: F401 (what is loaded is watched)

    monkeypatch.chdir(tmp_path)
    with GUARD.around():
        POLLUTIONS[what]()
    assert GUARD.found, f"{what} was not noticed"
    assert GUARD.stuck == []
    with GUARD.around():
        pass
    assert GUARD.found == []
    assert torch.zeros(1).dtype is torch.float32 and torch.zeros(1).device.type == "cpu"
    assert nn.Linear(1, 1)(torch.ones(1, 1)).requires_grad and Path.cwd() == tmp_path


def test_a_function_that_a_later_module_imported_is_set_right(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    right = F.cross_entropy
    with GUARD.around():
        F.cross_entropy = F.mse_loss  # type: ignore[assignment]
        late = ModuleType("methods.imported_late")
        late.cross_entropy = F.cross_entropy  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "methods.imported_late", late)
    assert late.cross_entropy is right and F.cross_entropy is right  # type: ignore[attr-defined]


def test_what_ends_by_an_error_is_set_back_too() -> None:
    with pytest.raises(SystemExit), GUARD.around():
        os.environ["LEFT_BEHIND"] = "1"
        raise SystemExit
    assert "LEFT_BEHIND" not in os.environ
