"""Eight cells of the study on a cluster's executor, beside the plain runner: equal records.

    python -m scripts.trials.cluster

The plain runner trains and reads small cells one after another. `scripts.cluster` runs a job per
cell, two at a time, through submitit's local executor, with results of its own. Two arms share
stage 1, so jobs meet. One job is killed (SIGKILL) when its training has a checkpoint, and must go
on; one more job fails, and must be named. Compared are records without what times say, and weights,
curves and summaries bit for bit. `python -m scripts.trials.cluster study ...` is `mmlib study ...`
in small.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmlib import cli
from mmlib.store.files import elsewhere, write_atomic
from mmlib.store.machine import commit, hardware, utc, versions
from mmlib.store.run import Run
from mmlib.study import conduct, records
from mmlib.study.arms import Budget, questions
from scripts import cluster
from scripts.trials import OUTCOMES, kept, small_corpus
from scripts.trials.kill import TIMES

ARMS, SEEDS = ("mask-match", "fixed share", "supervised-total", "supervised"), (0, 1)
OPTIONS = "--profile smoke --dataset synthetic --labels 1"
ITSELF = "scripts.trials.cluster"


def small(argv: Sequence[str]) -> int:
    """`mmlib study`, with small budgets and a checkpoint after every step."""
    small_corpus()
    budget = questions(Budget(20, 20, 120))
    chains = {arm: chain for members in budget.values() for arm, chain in members.items()}
    conduct.arms = lambda profile="": chains
    conduct.STAGES = {
        name: SimpleNamespace(run=functools.partial(stage.run, checkpoint_minutes=0))
        for name, stage in conduct.STAGES.items()
    }
    return cli.main(argv)


def kill_once(results: Path, killed: list[str]) -> None:
    """SIGKILL the first process that writes a run with a checkpoint in these results."""
    while not killed:
        time.sleep(0.1)
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it may end while it is looked at
                opened = [Path(os.readlink(link)) for link in (folder / "fd").iterdir()]
                held = [path.parent for path in opened
                        if path.name == ".lock" and path.is_relative_to(results / "runs")]
                if held and any(held[0].glob("checkpoint-*")):
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed.append(held[0].name)
                    return


def found(results: Path) -> tuple[list[str], dict[str, Any]]:
    """Records without what times say, sorted; and what is kept of each training, by its name."""
    with elsewhere("MMLIB_RESULTS", results):
        rows = [{k: v for k, v in row.items() if k not in TIMES} for row in records.rows()]
        every = [Run.load(path.parent) for path in results.glob("runs/*/environment.json")]
        runs = {run.name: kept(run) for run in every if run.stage in conduct.STAGES}
    return sorted(map(str, rows)), runs


def trial(folder: Path) -> dict[str, Any]:
    """Run both, and say what was equal."""
    plain, jobs = folder / "plain", folder / "cluster"
    os.environ |= {"OMP_NUM_THREADS": "1", "MMLIB_CACHE": str(folder / "packs")}
    options = [*OPTIONS.split(), "--seeds", *map(str, SEEDS)]
    with elsewhere("MMLIB_RESULTS", plain):
        command = [sys.executable, "-m", ITSELF, "study", *ARMS, *options]
        subprocess.run(command, check=True, stdout=sys.stderr)
    asked = [(f"{arm.replace(' ', '-')}-{seed}", f"study '{arm}' {OPTIONS} --seeds {seed}")
             for seed, arm in product(SEEDS, ARMS)]
    asked.append(("fails", "study 'no such arm'"))
    killed: list[str] = []
    said = io.StringIO()
    with elsewhere("MMLIB_RESULTS", jobs), contextlib.redirect_stdout(said):
        threading.Thread(target=kill_once, args=(jobs, killed), daemon=True).start()
        failed = cluster.submit(asked, "here", folder / "logs", 2, {}, module=ITSELF)
        cluster.submit(asked[:1], "slurm", folder / "logs", 2, {"timeout_min": 60}, True)
    (ours, alone), (theirs, together) = found(plain), found(jobs)
    return {
        "cells": len(ARMS) * len(SEEDS),
        "records": len(ours), "records equal": sum(a == b for a, b in zip(ours, theirs)),
        "trainings": len(alone),
        "trainings equal": sum(alone[name] == together.get(name) for name in alone),
        "killed in": killed, "failed": failed,
        "Slurm's script shown": "#SBATCH --job-name=" in said.getvalue(),
    }


def main() -> int:
    """Run the command; 0 where all is equal, a killed cell went on, and the failure is named."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = trial(Path(folder))
    outcome |= {"minutes": round((time.monotonic() - started) / 60, 1), "hardware": hardware(),
                "commit": commit(), "versions": versions(), "utc": utc()}
    write_atomic(OUTCOMES / "cluster.json", json.dumps(outcome, indent=1) + "\n")
    print(json.dumps(outcome, indent=1))
    whole = all(outcome[f"{what} equal"] == outcome[what] > 0 for what in ("records", "trainings"))
    return int(not (whole and outcome["killed in"] and outcome["failed"] == ["fails"]))


if __name__ == "__main__":
    sys.exit(small(sys.argv[1:]) if sys.argv[1:] else main())
