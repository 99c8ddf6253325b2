"""Where and when a run ran: commit, hardware, versions, time."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from mmlib.store.files import project_root

PACKAGES = ("torch", "torchvision", "numpy", "accelerate", "safetensors")  # they shape a result


def commit() -> str:
    """Short id of the checkout's commit, '+' if mmlib's code differs; 'unknown' without git."""
    git = functools.partial(
        subprocess.run, cwd=project_root(), capture_output=True, text=True, timeout=20
    )
    try:
        head = git(["git", "rev-parse", "--short=7", "HEAD"])
        changed = bool(git(["git", "status", "--porcelain", "--", "mmlib"]).stdout.strip())
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return head.stdout.strip() + "+" * changed if head.returncode == 0 else "unknown"


@functools.cache
def hardware() -> str:
    """What computes, in words: 'NVIDIA H200', '4 x NVIDIA A100', or '2 x AMD EPYC (CPU)'."""
    if torch.cuda.is_available():
        count, name = torch.cuda.device_count(), torch.cuda.get_device_name(0)
        return name if count == 1 else f"{count} x {name}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        name = next(models, name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} x {name} (CPU)"


def utc() -> str:
    """Now, as '2025-08-08T12:00:00Z'."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
