"""SIGKILL at a random moment, then again until done: the end must be the uninterrupted run's.

    python -m scripts.trials.kill --times 50 --seed 0
    python -m scripts.trials.kill --times 20 --targets study notebook --out kill_runners.json

A case trains a stage in small, packs a folder of InkML with two workers (`TARGETS`), or runs two
arms of a study or a notebook that trains (`RUNNERS`). It is killed once, at a random moment of the
time that it takes when left alone, and started again. Compared bit for bit are weights, curves
(without minutes) and summary; a pack's arrays and header; the study's records; what the notebook
printed. A process that outlives the killed one counts as a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

from mmlib.data import prepare
from mmlib.store.run import Run
from mmlib.store.weights import read_tensors
from mmlib.study import conduct, records
from mmlib.study.arms import Budget, questions
from scripts.reproduce import reproduce
from scripts.trials import (
    STAGES,
    Campaign,
    Cases,
    differing,
    exit_code,
    fork,
    kept,
    small_corpus,
    train,
    write_inks,
)

TARGETS = (*STAGES, "pack")
RUNNERS = ("study", "notebook")
CELLS = ("profile: str = 'smoke'", "from scripts.trials import train\nrun = train('pretrain', 60)",
         "print(run.name, run.summary)")
# Columns of records that differ: a reading is named by its weights' file, which says minutes.
TIMES = ("minutes", "utc", "run")


def run_study() -> None:
    """Two arms of the study, in small."""
    small_corpus()
    small = questions(Budget(40, 40, 40))["hypotheses"]
    conduct.arms = lambda profile: small
    conduct.conduct([conduct.Cell("mask-match"), conduct.Cell("supervised")], "synthetic", "smoke")


def run_notebook(path: Path) -> None:
    """A notebook that trains a little."""
    cells = [nbformat.v4.new_code_cell(text) for text in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    reproduce([str(path)])


class Trials:
    """A folder for trials: the uninterrupted runs of each target, a fresh place for each case."""

    def __init__(self, folder: Path, pictures: int, targets: Sequence[str] = TARGETS):
        self.folder, self.pictures, self.targets = folder, pictures, targets
        os.environ["MMLIB_CACHE"] = str(folder / "packs")
        self.inks = write_inks(folder / "inks")
        os.environ["MMLIB_RESULTS"] = str(folder / "first")
        train("pretrain", 1)  # so that a forked process need not import anything
        self.message = folder / "message"
        self.alone: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        self.init: dict[str, str] = {"pretrain": "none"}
        for target in targets:
            place = folder / "alone" / target
            self.earlier(target, place)
            started = time.monotonic()
            if exit_code(fork(self.work(target, place), self.message)):
                raise SystemExit(f"{target} fails when left alone: {self.message.read_text()}")
            self.seconds[target] = time.monotonic() - started
            self.alone[target] = self.result(target, place)
            print(f"{target}: {self.seconds[target]:.1f} s alone", file=sys.stderr, flush=True)
            if target in STAGES[:-1]:
                (run,) = (place / "runs").glob(f"{target}-*")
                self.init[STAGES[STAGES.index(target) + 1]] = run.name

    def earlier(self, target: str, place: Path) -> None:
        """Copy the finished runs that a stage starts from."""
        place.mkdir(parents=True, exist_ok=True)
        for earlier in STAGES[: STAGES.index(target)] if target in STAGES else ():
            there = self.folder / "alone" / earlier / "runs"
            shutil.copytree(there, place / "runs", dirs_exist_ok=True)

    def work(
        self, target: str, place: Path, checkpoint_seconds: float = 0.3
    ) -> Callable[[], object]:
        """What a forked process has to do for a target."""

        def do() -> None:
            os.environ["MMLIB_RESULTS"] = str(place)
            if target == "pack":
                prepare.CHUNK = 30
                quiet = {"workers": 2, "show": lambda text: None}
                prepare.prepare([str(self.inks)], place / "packs", **quiet)
            elif target in RUNNERS:
                with contextlib.redirect_stdout(sys.stderr):  # what they say is no outcome
                    run_study() if target == "study" else run_notebook(place / "trial.ipynb")
            else:
                train(target, self.pictures, self.init[target], checkpoint_seconds)

        return do

    def result(self, target: str, place: Path) -> dict[str, Any]:
        """What must be the same, by name."""
        if target == "pack":
            (report,) = (place / "packs").glob("*.json")
            said = json.loads(report.read_text())
            said.pop("seconds")
            path = place / "packs" / f"{self.inks.name}.safetensors"
            tensors, header = read_tensors(path)
            found = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
            return found | {"report": said, "header": header}
        if target == "study":
            rows = records.rows(place / "records.csv")
            timeless = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
            runs = {run.name: kept(Run.load(run)) for run in (place / "runs").glob("finetune-*")}
            return runs | {"records": sorted(map(str, timeless))}
        if target == "notebook":
            cells = json.loads((place / "executed" / "trial.ipynb").read_text())["cells"]
            left = sorted(p.name for p in place.rglob("*.tmp"))
            return {"printed": cells[-1]["outputs"][0]["text"], "left": left}
        (run,) = (place / "runs").glob(f"{target}-*")
        return kept(Run.load(run)) | {"files": sorted(p.name for p in run.iterdir())}

    def case(self, seed: int, number: int) -> dict[str, Any]:
        """One kill and one resume."""
        target = self.targets[number % len(self.targets)]
        rng = np.random.default_rng([seed, number])
        place, missed = self.folder / "case", 0
        while True:
            shutil.rmtree(place, ignore_errors=True)
            self.earlier(target, place)
            pid = fork(self.work(target, place))
            at = float(rng.uniform(0, self.seconds[target]))
            time.sleep(at)
            os.kill(pid, signal.SIGKILL)
            if exit_code(pid) == -signal.SIGKILL:
                break
            missed += 1  # it was done before
        checkpoints = len(list(place.glob("runs/*/checkpoint-*")))
        if exit_code(fork(self.work(target, place), self.message)):
            different = ["it failed: " + self.message.read_text()]
        else:
            different = differing(self.alone[target], self.result(target, place))
        if outlived(pid):
            different.append("processes outlived the killed one")
        return {
            "target": target, "seconds": round(at, 3), "of": round(self.seconds[target], 3),
            "missed": missed, "checkpoints": checkpoints, "different": different,
        }


def outlived(group: int) -> bool:
    """Whether a process of a killed one's group is still there after a while; it is ended then."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    return True


def summary(cases: Cases) -> dict[str, Any]:
    """Counts, and the cases that ended otherwise."""
    counts = {t: sum(c["target"] == t for c in cases) for t in (*TARGETS, *RUNNERS)}
    return {
        "kills": len(cases),
        "identical": sum(not c["different"] for c in cases),
        "by_target": {target: count for target, count in counts.items() if count},
        "resumed_from_a_checkpoint": sum(c["checkpoints"] > 0 for c in cases),
        "different": [c for c in cases if c["different"]],
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 where every case ended as if nothing had happened."""
    parser = argparse.ArgumentParser("scripts.trials.kill", description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=200, help="budget of each training")
    parser.add_argument("--targets", nargs="+", choices=(*TARGETS, *RUNNERS), default=TARGETS)
    parser.add_argument("--out", type=Path, help="the outcome's file (results/trials/kill.json)")
    args = parser.parse_args(argv)
    chosen = {} if tuple(args.targets) == TARGETS else {"targets": args.targets}
    asked = {"times": args.times, "seed": args.seed, "pictures": args.pictures} | chosen
    campaign = Campaign("kill", asked, args.out)
    if not campaign.content["done"]:
        with tempfile.TemporaryDirectory() as folder:
            trials = Trials(Path(folder), args.pictures, args.targets)
            campaign.run(args.times, lambda number: trials.case(args.seed, number), summary)
    print(json.dumps(campaign.content["summary"], indent=1))
    return int(campaign.content["summary"]["identical"] < args.times)


if __name__ == "__main__":
    sys.exit(main())
