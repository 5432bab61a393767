"""Phases of a task: seconds, CPU seconds, peak CPU memory, peak GPU memory.

CPU: VmHWM of this process, reset when a phase begins (``ru_maxrss`` would carry the parent's peak), with the resident size at that
moment as the baseline. GPU: the allocator's peak, allocated and reserved, maximum over devices; None without a GPU, never 0.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.record import Phase

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Phases:
    """Measured phases by name; ``results`` goes into the record."""

    def __init__(self) -> None:
        self.results: dict[str, Phase] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure one phase; what was measured is kept also when it raises, so that an out-of-memory row tells its peak."""
        _synchronise_gpu(reset=True)
        resettable = reset_peak_cpu()
        baseline = _memory_mib("VmRSS")
        start, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            _synchronise_gpu()
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
            allocated, reserved = _peak_gpu()
            self.results[name] = Phase(
                seconds=seconds,
                cpu_seconds=cpu_seconds,
                peak_cpu_mib=_memory_mib("VmHWM") if resettable else None,
                baseline_cpu_mib=baseline,
                peak_gpu_mib=allocated,
                peak_gpu_reserved_mib=reserved,
            )


def reset_peak_cpu() -> bool:
    """Set VmHWM back to the present resident size. False where the system has no such thing; the peak is then unmeasured."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def release_memory() -> None:
    """Give freed memory back to the system, so that the next task of this process starts from a low baseline.

    What has outlived a collection (modules, mostly: half a second's worth where MLflow and Ray are loaded) is not looked through again.
    """
    gc.collect()
    gc.freeze()
    _unfreeze_at_exit()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@functools.cache
def _unfreeze_at_exit() -> None:
    """Native libraries complain of objects that are still there when Python ends."""
    atexit.register(gc.unfreeze)


def _memory_mib(field: str) -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return None


def _cuda() -> Any:
    """torch.cuda where torch is loaded and has a GPU in use, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def _synchronise_gpu(reset: bool = False) -> None:
    cuda = _cuda()
    if cuda is None:
        return
    for device in range(cuda.device_count()):
        cuda.synchronize(device)
        if reset:
            cuda.empty_cache()
            cuda.reset_peak_memory_stats(device)


def _peak_gpu() -> tuple[float | None, float | None]:
    cuda = _cuda()
    if cuda is None:
        return None, None
    devices = range(cuda.device_count())
    return max(cuda.max_memory_allocated(d) for d in devices) / 2**20, max(cuda.max_memory_reserved(d) for d in devices) / 2**20
