"""A stage with the stages that it starts from, in this process or, from a notebook, in several.

On the command line `accelerate launch -m mmlib STAGE` starts a process per GPU, and
`ACCELERATE_USE_CPU=yes torchrun --nproc_per_node N -m mmlib STAGE` N processes on a CPU.

Accelerate's own `notebook_launcher` forks the kernel. A fork of a process that has used OpenMP's
threads, as every cell before has, waits for them for ever at its first large operation, so these
processes are spawned.
"""

import importlib
import os
import socket
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn

from mmlib.store.run import Run
from mmlib.train import attend, pretrain
from mmlib.train.profiles import preset

EARLIER = {"pretrain": pretrain, "attend": attend}


def launch(stage: ModuleType, config: Any, profile: str, processes: int = 1, **options: Any) -> Run:
    """Train a stage, or find it trained: `stage.run(config, profile, **options)`.

    A stage that starts from 'pretrain' or 'attend' starts from the profile's own run of it, of the
    same data and seed, which is trained first. Each of several processes draws its own share of
    every batch, on a GPU each, or all on the CPU; losses and gradients are those of the joint
    batch. Raises what `run` raises; of several processes
    torch.multiprocessing.ProcessRaisedException, with the traceback, also at a pause.
    """
    init = getattr(config, "init", "none")
    if init in EARLIER:
        earlier = preset(init, profile, dataset=config.dataset, seed=config.seed)
        start = launch(EARLIER[init], earlier, profile, processes, **options)
        config = replace(config, init=start.name)
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        spawn(_one, (processes, port, stage.__name__, config, profile, options), nprocs=processes)
    return stage.run(config, profile, **options)


def _one(rank: int, processes: int, port: int, name: str, config: Any, profile: str,
         options: Any) -> None:
    """One of the processes; the variables are torchrun's, which Accelerate reads."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "yes"
    importlib.import_module(name).run(config, profile, **options)
