"""What a number's origin is made of: code, versions, machine. Collected once per command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness

_PACKAGES = (
    *("torch", "torchvision", "diffusers", "timm", "pytorchvideo", "ray", "mlflow"),
    *("scikit-learn", "numpy", "pandas", "av", "safetensors"),
)


def git_state() -> dict[str, Any]:
    """Commit of the harness's own checkout and whether it is dirty; None where it is not a checkout."""
    folder = Path(harness.__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"git": commit, "git_dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"git": None, "git_dirty": None}


def collect_provenance() -> dict[str, Any]:
    """What goes into every record of a command."""
    return {"harness": harness.__version__, **git_state(), "platform": platform.platform()}


def collect_environment() -> dict[str, Any]:
    """What goes into the sweep: package versions, machine, owner."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "packages": versions,
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
