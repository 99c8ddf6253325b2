"""Long trials of what the tests try in short: kills, full disks, fuzzed inputs.

Each is resumable and keeps its outcome in `results/trials/`; `python -m scripts.trials.kill` runs
one.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmlib.data import corpus
from mmlib.formula.inkml import write_inkml
from mmlib.store.files import results_root, write_atomic
from mmlib.store.machine import commit, hardware, utc, versions
from mmlib.store.run import Run
from mmlib.store.weights import load_weights
from mmlib.synthetic.compose import synthetic_ink
from mmlib.train.optimiser import OptimConfig
from mmlib.train.profiles import preset

OUTCOMES = results_root() / "trials"  # before a trial sets its own results folder
STAGES = ("pretrain", "attend", "finetune")
Cases = list[dict[str, Any]]


class Campaign:
    """Numbered cases whose outcomes are kept in one JSON file; a case is done once.

    asked: what the cases depend on (seed, number of cases); another request starts the file anew.
    """

    def __init__(self, name: str, asked: dict[str, Any], path: Path | None = None):
        self.path = path or OUTCOMES / f"{name}.json"
        self.content: dict[str, Any] = {
            "campaign": name, "asked": asked, "minutes": 0.0, "done": False, "cases": [],
        }
        if self.path.is_file():
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["asked"] == asked:
                self.content = found

    @property
    def cases(self) -> Cases:
        return self.content["cases"]

    def run(self, count: int, case: Callable[[int], dict[str, Any]],
            summary: Callable[[Cases], dict[str, Any]]) -> dict[str, Any]:
        """Do the cases that are not done, saving after each; returns what the file says."""
        for number in range(len(self.cases), count):
            started = time.monotonic()
            self.cases.append(case(number))
            minutes = self.content["minutes"] + (time.monotonic() - started) / 60
            self.content |= {"minutes": round(minutes, 3), "summary": summary(self.cases),
                             "done": number + 1 == count, "hardware": hardware(),
                             "commit": commit(), "versions": versions(), "utc": utc()}
            text = json.dumps(self.content, indent=1, ensure_ascii=False)
            write_atomic(self.path, text + "\n")
        return self.content


# --- small runs -----------------------------------------------------------------------------------


@functools.cache
def small_corpus() -> None:
    """Few synthetic expressions, packed; one thread."""
    torch.set_num_threads(1)
    corpus.SYNTHETIC = {"train": (160, 1), "test": (20, 2)}
    corpus.load_corpus("synthetic")


def train(name: str, pictures: int, init: str = "none", checkpoint_seconds: float = 0.3) -> Run:
    """A stage's smoke run in small, with a checkpoint every so many seconds; the finished run."""
    small_corpus()
    stage = importlib.import_module(f"mmlib.train.{name}")
    options: dict[str, Any] = {"batch_area": 150.0} if name == "pretrain" else {"init": init}
    if name == "finetune":
        options |= {"composed": 0.0, "batch_area": 200.0}
    optim = OptimConfig(lr=3e-3, warmup=30)
    config = preset(name, "smoke", pictures=pictures, batch_most=6, optim=optim, eval_most=4,
                    eval_pictures=max(1, pictures // 2), **({"batch_area": 150.0} | options))
    run: Run = stage.run(config, "smoke", progress=False,
                         checkpoint_minutes=checkpoint_seconds / 60)
    return run


def kept(run: Run) -> dict[str, Any]:
    """What two runs of one configuration must have in common, bit for bit."""
    weights, metadata = load_weights(run.weights)
    rows = [metadata, *run.metrics()]
    timeless = [{key: row[key] for key in row if key != "minutes"} for row in rows]
    found: dict[str, Any] = {name: value.numpy().tobytes() for name, value in weights.items()}
    return found | {"metadata": timeless[0], "curves": timeless[1:], "summary": run.summary}


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The names under which two such records differ."""
    return [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]


def write_inks(folder: Path, count: int = 240) -> Path:
    """A folder of InkML files of synthetic ink."""
    folder.mkdir(parents=True)
    for ink in synthetic_ink(count, 5):
        write_inkml(ink, folder / f"{ink.id}.inkml")
    return folder


def fork(work: Callable[[], object], message: Path | None = None) -> int:
    """Run `work` in a forked process, a group of its own; returns its pid.

    It exits with 0, or with 2 and its error in `message`.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        work()
        code = 0
    except BaseException as error:
        code = 2
        if message:
            message.write_text(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    """Wait for a process; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
