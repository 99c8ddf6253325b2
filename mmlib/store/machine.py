"""Where and when a run ran: commit, hardware, versions, time."""

import contextlib
import ctypes
import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mmlib.store.files import project_root

PACKAGES = ("torch", "torchvision", "numpy", "accelerate", "safetensors")  # they shape a result
AT_START = torch.get_num_threads()  # torch's own choice, one per core, or that of OMP_NUM_THREADS


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
    for package in PACKAGES:  # a run must not fail at its end for the want of one
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def give_back_memory() -> None:
    """Give the system back what is free in the heap, where the C library can (glibc)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


# --- threads --------------------------------------------------------------------------------------


_settled: dict[str, int] = {}  # the number that `settle_threads` found, if it has


def settle_threads(anew: bool = True) -> int:
    """Let torch use as many threads as run a small model fastest, here and now; returns the number.

    Threads wait for one another at each product. On busy cores that costs far more than sharing
    saves, so one thread is the rule, and more have to prove faster. A number that somebody set
    stays: by OMP_NUM_THREADS, or by `torch.set_num_threads`.

    anew: measure even if this process has measured before.
    """
    asked = torch.get_num_threads() != _settled.get("threads", AT_START)
    if "OMP_NUM_THREADS" not in os.environ and not asked and (anew or not _settled):
        _settled["threads"] = fastest(AT_START)
        torch.set_num_threads(_settled["threads"])
    return torch.get_num_threads()


def fastest(most: int, seconds: Callable[[int], float] | None = None) -> int:
    """The number of threads, from 1 doubled up to `most`, after which more are not clearly faster.

    seconds: what some work takes on so many threads; by default, measured.
    """
    threads, seconds = 1, seconds or _seconds
    while threads < most:
        more = min(most, 2 * threads)
        # They take turns, so that what else happens on the machine hits both.
        turns = [(seconds(threads), seconds(more)) for _ in range(3)]
        few, many = (sum(times) for times in zip(*turns))
        if many > 0.8 * few:
            break
        threads = more
    return threads


@torch.no_grad()
def _seconds(threads: int) -> float:
    """A pass through six layers like those of a small encoder."""
    torch.set_num_threads(threads)
    picture, weight = torch.ones(4, 32, 16, 64), torch.full((32, 32, 3, 3), 0.01)
    began = time.perf_counter()
    for _ in range(6):
        picture = torch.nn.functional.conv2d(picture, weight, padding=1).clamp(max=1)
    return time.perf_counter() - began


@contextlib.contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """One thread of torch inside, where `wanted`; the number is the whole process's."""
    threads = torch.get_num_threads()
    # Two Python threads at once would each put back what the other had set.
    wanted = wanted and threading.current_thread() is threading.main_thread()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if wanted:
            torch.set_num_threads(threads)
