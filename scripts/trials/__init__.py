"""Long trials of what the tests try in short: kills, full disks, fuzzed inputs. Each is resumable and keeps its outcome in
`results/trials/`; run one as `python -m scripts.trials.kill`."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmlib.store.runs import commit, hardware, load_weights, results_root, utc, versions, write_atomic

OUTCOMES = results_root() / "trials"  # before a trial sets its own results folder


class Campaign:
    """Numbered cases whose outcomes are kept in one JSON file; a case is done once.

    asked: what the cases depend on (seed, number of cases); another request starts the file anew.
    """

    def __init__(self, name: str, asked: dict[str, Any], path: Path | None = None):
        self.path = path or OUTCOMES / f"{name}.json"
        self.content: dict[str, Any] = {"campaign": name, "asked": asked, "minutes": 0.0, "done": False, "cases": []}
        if self.path.is_file():
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["asked"] == asked:
                self.content = found

    @property
    def cases(self) -> list[dict[str, Any]]:
        return self.content["cases"]

    def run(self, count: int, case: Callable[[int], dict[str, Any]], summary: Callable[[list[dict[str, Any]]], dict[str, Any]]
            ) -> dict[str, Any]:
        """Do the cases that are not done, saving after each; returns what the file says."""
        for number in range(len(self.cases), count):
            started = time.monotonic()
            self.cases.append(case(number))
            self.content["minutes"] = round(self.content["minutes"] + (time.monotonic() - started) / 60, 3)
            self.save(summary, number + 1 == count)
        return self.content

    def save(self, summary: Callable[[list[dict[str, Any]]], dict[str, Any]], done: bool) -> None:
        self.content |= {"summary": summary(self.cases), "done": done, "hardware": hardware(), "commit": commit(),
                         "versions": versions(), "utc": utc()}
        write_atomic(self.path, json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")


# --- small runs -------------------------------------------------------------------------------------------------

STAGES = ("pretrain", "attend", "finetune")


@functools.cache
def small_corpus() -> None:
    """Few synthetic expressions, packed; one thread."""
    import torch

    from mmlib.data import corpus

    torch.set_num_threads(1)
    corpus.SYNTHETIC = {"train": (160, 1), "test": (20, 2)}
    corpus.load_corpus("synthetic")


def train(name: str, pictures: int, init: str = "none", checkpoint_seconds: float = 0.3) -> Any:
    """A stage's smoke run in small, with a checkpoint every so many seconds; the finished run."""
    import importlib

    from mmlib.train.loop import Loop, OptimConfig

    small_corpus()
    stage = importlib.import_module(f"mmlib.train.{name}")
    stage.Loop = functools.partial(Loop, checkpoint_minutes=checkpoint_seconds / 60)
    few = {"eval_most": 4, "composed": 0.0, "batch_area": 200.0} if name == "finetune" else {"batch_area": 150.0}
    few |= {} if name == "pretrain" else {"init": init}
    config = stage.Config.preset("smoke", pictures=pictures, batch_most=6, eval_pictures=max(1, pictures // 2),
                                 optim=OptimConfig(lr=3e-3, warmup=30), **few)
    return stage.run(config, "smoke", progress=False)


def kept(run: Any) -> dict[str, Any]:
    """What two runs of one configuration must have in common, bit for bit."""
    weights, metadata = load_weights(run.weights)
    timeless = [{key: value for key, value in row.items() if key != "minutes"} for row in (metadata, *run.metrics())]
    return {"weights": {key: value.numpy().tobytes() for key, value in weights.items()}, "metadata": timeless[0],
            "curves": timeless[1:], "summary": run.summary}


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The names under which two such records differ."""
    return [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]


def write_inks(folder: Path, count: int = 240) -> Path:
    """A folder of InkML files of synthetic ink."""
    from mmlib.formula.inkml import write_inkml
    from mmlib.synthetic.compose import synthetic_ink

    folder.mkdir(parents=True)
    for ink in synthetic_ink(count, 5):
        write_inkml(ink, folder / f"{ink.id}.inkml")
    return folder


def fork(work: Callable[[], object], message: Path | None = None) -> int:
    """Run `work` in a forked process of its own group; its pid. It exits with 0, or with 2 and its error in `message`."""
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
