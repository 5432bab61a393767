"""Peaks are those of the phase, not of what came before."""

from __future__ import annotations

import time

import pytest

from harness.measure import Phases, reset_peak_cpu

pytestmark = pytest.mark.skipif(not reset_peak_cpu(), reason="the peak of resident memory cannot be reset on this system")


def test_each_phase_has_its_own_peak_and_seconds() -> None:
    phases = Phases()
    with phases.measure("big"):
        block = bytearray(200 << 20)
        block[:: 4096] = b"x" * len(block[::4096])
        del block
    with phases.measure("small"):
        time.sleep(0.05)
    big, small = phases.results["big"], phases.results["small"]
    assert big.peak_cpu_mib - big.baseline_cpu_mib == pytest.approx(200, abs=20)
    assert small.peak_cpu_mib - small.baseline_cpu_mib < 20
    assert 0.05 <= small.seconds < 5
    assert small.cpu_seconds < 0.05, "sleeping takes no CPU time"


def test_a_failing_phase_keeps_what_was_measured() -> None:
    phases = Phases()
    with pytest.raises(MemoryError), phases.measure("distill"):
        raise MemoryError
    assert phases.results["distill"].peak_cpu_mib > 0


def test_no_gpu_is_null_and_not_zero() -> None:
    import torch

    phases = Phases()
    with phases.measure("p"):
        pass
    if not torch.cuda.is_available():
        assert phases.results["p"].peak_gpu_mib is None and phases.results["p"].peak_gpu_reserved_mib is None
