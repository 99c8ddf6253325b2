"""A stage in several processes from within a notebook; on the command line, `accelerate launch -m mmlib STAGE` does it, a GPU
each, and `ACCELERATE_USE_CPU=yes torchrun --nproc_per_node N -m mmlib STAGE` on a CPU.

Accelerate's own `notebook_launcher` forks the kernel. A fork of a process that has used OpenMP's threads, as every cell before
has, waits for them for ever at its first large operation, so these processes are spawned.
"""

from __future__ import annotations

import importlib
import os
import socket
from types import ModuleType
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn

from mmlib.store.run import Run


def launch(stage: ModuleType, config: Any, profile: str, processes: int = 1, **options: Any) -> Run:
    """Train a stage, or find it trained: `stage.run(config, profile, **options)`, in this process or in several, a GPU each, or
    all on the CPU where there is none.

    Each process draws its own share of every batch; losses and gradients are those of the joint batch. Raises
    torch.multiprocessing.ProcessRaisedException, with the traceback, where one fails, a pause at a limit among them.
    """
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (processes, port, stage.__name__, config, profile, options)
        spawn(_one, arguments, nprocs=processes)
    run: Run = stage.run(config, profile, **options)
    return run


def _one(rank: int, processes: int, port: int, name: str, config: Any, profile: str, options: dict[str, Any]) -> None:
    """One of the processes; the variables are torchrun's, which Accelerate reads."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                   "LOCAL_WORLD_SIZE": str(processes), "MASTER_PORT": str(port)}
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "yes"
    importlib.import_module(name).run(config, profile, **options)
