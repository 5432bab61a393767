"""What a plugin may leave changed in its process, found and set back, so that no cell spoils another that runs there after it.

Watched are torch's and numpy's modes, the process's own (folder, environment, signals, standard files), and the identity of every function
and method that training and evaluation may call. What decides numbers and is set anew for every task (threads, determinism, seeds) is
not watched. This is a guard against accidents: a plugin runs with the rights of its user and can undo it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

_MODULES = (
    *("torch", "torch.functional", "torch.random", "torch.linalg", "torch.fft", "torch.special", "torch.amp", "torch._tensor"),
    *("torch.cuda", "math", "random", "numpy", "numpy.linalg", "numpy.random"),
)
_PACKAGES = ("torch.nn", "torch.optim", "torch.autograd", "torch.utils.data", "torchvision.transforms", "harness", "methods", "evaluators")
"""Modules, and packages with all that is in them, whose functions and classes are watched once they are loaded."""
_OWN_WRAPPERS = ("/torch/_compile.py", "/torch/_dynamo/", "/torch/optim/optimizer.py")
"""Where torch wraps its own functions as it goes: on the first import of its compiler, and on the first optimiser of a class."""
_DESCRIPTORS = (types.FunctionType, types.BuiltinFunctionType, staticmethod, classmethod, property)
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGCHLD") if hasattr(signal, name))
_UNKNOWN = object()


@dataclass
class _Setting:
    """Something that can be read and set back; ``value`` is what it has to be."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    value: Any = _UNKNOWN

    def now(self) -> Any:
        """The present value; unknown where it cannot be read."""
        try:
            return self.read()
        except Exception:
            return _UNKNOWN


@dataclass
class Guard:
    """The guard of one process. ``found``: what the last block changed. ``stuck``: what could not be set back, ever. ``touched``: whether
    any block changed anything, so that a process that can be thrown away should be."""

    found: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    touched: bool = False
    _modes: list[_Setting] = field(default_factory=list)
    _names: dict[str, dict[str, Any]] = field(default_factory=dict)
    _classes: dict[type, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    _hooks: list[tuple[str, dict[Any, Any], dict[Any, Any]]] = field(default_factory=list)
    _files: dict[int, int] = field(default_factory=dict)

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Whatever runs inside begins in a clean process, and leaves one."""
        self._arm()
        modes = [*self._modes, *_own_modes()]
        for mode in modes:
            if mode.value is _UNKNOWN:
                mode.value = mode.now()
        pid = os.getpid()
        try:
            with warnings.catch_warnings():
                yield
        finally:
            if os.getpid() != pid:
                os._exit(1)  # a plugin forked, and its child came back: there would be two of us
            self.found = self._restore(modes)
            self.touched |= bool(self.found)
            if self.found:
                self.stuck = self._restore(modes)

    def _arm(self) -> None:
        """Learn what a clean process is, or what has been loaded since; what earlier code left changed is set back first."""
        import torch  # noqa: F401 (all that is watched hangs on it)

        if not self._modes:
            self._modes = _torch_modes()
            self._hooks = _global_hooks()
            self._files = {number: os.dup(number) for number in (0, 1, 2) if _is_open(number)}
            for mode in self._modes:
                mode.value = mode.now()
        elif self._restore(self._modes):
            self.touched = True
            self.stuck = self._restore(self._modes)
        self._learn()

    def _learn(self) -> None:
        for name, module in list(sys.modules.items()):
            if name in self._names or not _is_watched(name) or not isinstance(module, ModuleType):
                continue
            self._names[name] = {key: value for key, value in vars(module).items() if callable(value)}
            for cls in self._names[name].values():
                if isinstance(cls, type) and cls not in self._classes and _is_watched(str(cls.__module__)):
                    self._classes[cls] = (len(vars(cls)), _methods(cls))

    def _restore(self, modes: list[_Setting]) -> list[str]:
        """Set back what differs; returns the names of what did."""
        found = list(self._restore_functions())
        for name, hooks, before in self._hooks:
            if len(hooks) != len(before) or any(hooks.get(key) is not value for key, value in before.items()):
                hooks.clear()
                hooks.update(before)
                found.append(name)
        for number, kept in self._files.items():
            if not _is_open(number) or not os.path.sameopenfile(number, kept):
                os.dup2(kept, number)
                found.append(f"file descriptor {number}")
        for mode in modes:
            now = mode.now()
            if mode.value is not _UNKNOWN and not _same(now, mode.value):
                with contextlib.suppress(Exception):
                    mode.write(mode.value)
                found.append(f"{mode.name} ({_short(now)})")
        return found

    def _restore_functions(self) -> Iterator[str]:
        for name, saved in self._names.items():
            module = sys.modules.get(name)
            if module is None:
                continue
            namespace = vars(module)
            for key, value in saved.items():
                now = namespace.get(key, _UNKNOWN)
                if now is value:
                    continue
                if _is_own_wrapper(now, value):
                    saved[key] = now
                    continue
                setattr(module, key, value)
                self._repair_later_imports(key, now, value)
                yield f"{name}.{key}"
        for cls, (size, saved) in self._classes.items():
            members = vars(cls)
            if len(members) == size and all(members.get(key) is value for key, value in saved.items()):
                continue
            present = _methods(cls)
            for key in present.keys() | saved.keys():
                now, value = present.get(key, _UNKNOWN), saved.get(key, _UNKNOWN)
                if now is value:
                    continue
                if _is_own_wrapper(now, getattr(super(cls, cls), key, None) if value is _UNKNOWN else value):
                    saved[key] = now
                    continue
                with contextlib.suppress(AttributeError, TypeError):
                    if value is _UNKNOWN:
                        delattr(cls, key)
                    else:
                        setattr(cls, key, value)
                yield f"{cls.__module__}.{cls.__qualname__}.{key}"
            self._classes[cls] = (len(vars(cls)), saved)

    def _repair_later_imports(self, key: str, wrong: Any, right: Any) -> None:
        """A module that was loaded meanwhile may have imported what stood in a function's place."""
        for name, module in list(sys.modules.items()):
            if name not in self._names and _is_watched(name) and vars(module).get(key, _UNKNOWN) is wrong:
                setattr(module, key, right)


GUARD = Guard()
"""That of this process."""


@functools.cache
def _is_watched(name: str) -> bool:
    return name in _MODULES or name in _PACKAGES or name.startswith(tuple(f"{package}." for package in _PACKAGES))


def _methods(cls: type) -> dict[str, Any]:
    return {key: value for key, value in vars(cls).items() if isinstance(value, _DESCRIPTORS)}


def _is_own_wrapper(now: Any, before: Any) -> bool:
    """Whether torch itself has wrapped a function of its own."""
    code = getattr(now, "__code__", None)
    return code is not None and getattr(now, "__wrapped__", None) is before and any(part in code.co_filename for part in _OWN_WRAPPERS)


def _torch_modes() -> list[_Setting]:
    import numpy as np
    import torch
    from torch import overrides

    kept: list[Any] = []

    def leave_inference(_value: Any) -> None:
        # The plugin's own guard may end at any time and put its mode back, so that ours has to outlive it.
        mode = torch.inference_mode(False)
        mode.__enter__()
        kept.append(mode)

    def pop_function_modes(depth: int) -> None:
        while torch._C._len_torch_function_stack() > depth:
            overrides._pop_mode()
        # set_default_device(None) would ask for the mode that has just been popped.
        torch.utils._device.CURRENT_DEVICE = None
        torch._GLOBAL_DEVICE_CONTEXT.device_context = None

    modes = [
        _Setting("torch's function modes and default device", torch._C._len_torch_function_stack, pop_function_modes),
        _Setting("torch's inference mode", torch.is_inference_mode_enabled, leave_inference),
        _Setting("torch's grad mode", torch.is_grad_enabled, torch._C._set_grad_enabled),
        _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        _Setting("torch's anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        _Setting("torch's matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        _Setting("torch's treatment of denormal numbers", _flushes_denormals, torch.set_flush_denormal),
        _Setting("numpy's treatment of errors", np.geterr, lambda value: np.seterr(**value)),
    ]
    part = functools.partial
    for kind in ("cpu", "cuda"):
        modes += [
            _Setting(f"autocast on {kind}", part(torch.is_autocast_enabled, kind), part(torch.set_autocast_enabled, kind)),
            _Setting(f"dtype of autocast on {kind}", part(torch.get_autocast_dtype, kind), part(torch.set_autocast_dtype, kind)),
        ]
    backends = torch.backends
    for where, name in (
        *((backends.cudnn, "enabled"), (backends.cudnn, "deterministic"), (backends.cudnn, "allow_tf32")),
        *((backends.cuda.matmul, "allow_tf32"), (backends.mkldnn, "enabled"), (backends.opt_einsum, "enabled")),
    ):
        label = f"{getattr(where, '__name__', 'torch.backends.cuda.matmul')}.{name}"
        modes.append(_Setting(label, part(getattr, where, name), part(setattr, where, name)))
    return modes


def _own_modes() -> list[_Setting]:
    """Of the process itself; what they are before a task is what they have to be after it."""
    modes = [
        _Setting("the working folder", os.getcwd, os.chdir),
        _Setting("the environment", _environment, _set_environment),
        _Setting("the mask of new files", _umask, os.umask),
        _Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        _Setting("garbage collection", gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    ]
    part = functools.partial
    for name in ("stdout", "stderr", "stdin", "excepthook"):
        modes.append(_Setting(f"sys.{name}", part(getattr, sys, name), part(setattr, sys, name)))
    if threading.current_thread() is threading.main_thread():
        modes += [_Setting(f"the handler of {s.name}", part(signal.getsignal, s), part(signal.signal, s)) for s in _SIGNALS]
    return modes


def _global_hooks() -> list[tuple[str, dict[Any, Any], dict[Any, Any]]]:
    """(name, hooks, copy) of all that torch calls for every module and every optimiser."""
    modules = [importlib.import_module(name) for name in ("torch.nn.modules.module", "torch.optim.optimizer")]
    return [
        (f"{module.__name__}.{name}", hooks, dict(hooks))
        for module in modules
        for name, hooks in vars(module).items()
        if name.startswith("_global_") and isinstance(hooks, dict)
    ]


def _flushes_denormals() -> bool:
    import torch

    with torch.inference_mode():
        return bool((torch.full((1,), 1e-310, dtype=torch.float64, device="cpu") * 1).item() == 0.0)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _environment() -> dict[str, str]:
    """Without what torch's compiler and scikit-learn tell their own libraries when they are first imported."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TORCHINDUCTOR_", "TRITON_", "KMP_"))}


def _set_environment(value: Mapping[str, str]) -> None:
    for name in _environment():
        if name not in value:
            del os.environ[name]
    for name, text in value.items():
        if os.environ.get(name) != text:
            os.environ[name] = text


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _same(now: Any, before: Any) -> bool:
    return now is before or (type(now) is type(before) and isinstance(now, bool | int | float | str | dict) and now == before)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "changed"
    return "unreadable" if value is _UNKNOWN else repr(value)[:80]
