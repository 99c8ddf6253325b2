"""The paper profile as one chain: every arm's stages and the reading of the tests, in commands that pause and go on.

    mmlib paper --plan                          # what it does, for how long, on what evidence
    mmlib paper --prepare                       # packs of all that it reads, to carry to a machine without archives
    mmlib paper --max-minutes 8 --out FOLDER    # again and again, until it says that it is done
    mmlib paper --take FOLDER                   # at home: its runs and records join the results

Nothing but torch, torchvision, numpy, accelerate, safetensors and rapidfuzz is imported (a test blocks the rest). A budget is
fixed before the chain begins, and a limit only pauses it.
"""

from __future__ import annotations

import csv
import importlib
import io
import math
import tarfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from mmlib.data.augment import Augmenter
from mmlib.data.corpus import load_corpus, synthetic_pack
from mmlib.data.prepare import load_pack
from mmlib.store.runs import Run, RunError, find_runs, results_root, views_of, write_atomic
from mmlib.study import records
from mmlib.study.evaluate import evaluate
from mmlib.train import finetune
from mmlib.train.loop import Paused
from scripts.benchmark import trained

STAGES = ("pretrain", "attend", "finetune")
KEPT = {".json", ".jsonl", ".csv", ".tsv"}  # of a run's folder
READ = {"crohme": ("valid", "test_2014", "test_2019"), "synthetic": ("valid", "test")}
# Floating-point operations a second that dense training of this kind reaches on one GPU: a fifth of an H100's bfloat16 peak of
# 989e12. An assumption until a run on a GPU puts its own rate into the records.
REACHED = 200e12
COUNTED = 6  # training steps whose operations are counted
DRAWN = 12  # worker processes that draw samples beside a GPU, at most


@dataclass(frozen=True)
class Step:
    """One command of the chain: a stage to train, or a split to read with what the arm's last stage left."""

    arm: str
    stage: str  # of STAGES, or 'evaluate'
    config: Any = None  # the stage's configuration
    split: str = ""

    @property
    def name(self) -> str:
        return f"{self.arm}: {self.stage}" + (f" {self.split}" if self.split else "")

    @property
    def views(self) -> int:
        """Pictures seen in all: stages 1 and 2 draw two views of each expression."""
        return self.config.pictures * views_of(self.stage) if self.config else 0


def chain(dataset: str = "crohme", seed: int = 0, budget: float = 1.0, rehearse: bool = False) -> list[Step]:
    """The steps in order: Mask & Match; random weights with its fine-tuning pictures; random weights with its pictures in all.

    budget: of the preset's pictures, in every stage alike. rehearse: the same chain and the same model on a few pictures.
    """
    presets = {}
    for stage in STAGES:
        config = importlib.import_module(f"mmlib.train.{stage}").Config.preset("paper", dataset=dataset, seed=seed)
        config = replace(config, pictures=round(config.pictures * budget), eval_pictures=round(config.eval_pictures * budget))
        if rehearse:
            config = replace(config, pictures=6, eval_pictures=6, batch_area=60.0, batch_most=3)
            if stage == "finetune":
                config = replace(config, eval_most=2)
        presets[stage] = config
    first, second, third = (presets[stage] for stage in STAGES)
    # Each stage starts from the very run of the step before it, which this chain names, so that a budget is no other run.
    ours = [Step("mask-match", "pretrain", first), Step("mask-match", "attend", second), Step("mask-match", "finetune", third)]
    more = sum(step.views for step in ours)
    supervised = replace(third, init="none")
    steps = []
    for stages in (ours, [Step("supervised", "finetune", supervised)],
                   [Step("supervised-total", "finetune", replace(supervised, pictures=more))]):
        steps += [*stages, *(Step(stages[-1].arm, "evaluate", split=split) for split in READ[dataset])]
    return steps


def packs(dataset: str = "crohme") -> list[Path]:
    """Make whatever the chain reads, and name the files: training, composed and test packs."""
    corpus = load_corpus(dataset)
    found = [corpus.pack.path, corpus.composed(np.sort(corpus.train)).path]
    if dataset == "crohme":
        found += [load_pack(split).path for split in READ[dataset] if split != "valid"]
    else:
        found.append(synthetic_pack("test").path)
    return found


def follow(steps: Iterable[Step], max_minutes: float | None = None, show: Any = print, limit: int | None = None) -> bool:
    """Go through the chain, or on with it; True when all of it is done, False where the time was up.

    What is done is found by its configuration and not done again. limit: read only so many expressions of a split.
    """
    until = time.monotonic() + 60 * (math.inf if max_minutes is None else max_minutes)
    run: Run | None = None
    for step in steps:
        left = (until - time.monotonic()) / 60
        if left <= 0:
            show(f"the time is up before {step.name}; the same command goes on from here")
            return False
        if step.stage == "evaluate":
            assert run is not None  # a chain begins with training
            if not _read(run, step, limit):
                score = evaluate(run.folder, run.config["dataset"], step.split, limit=limit, arm=step.arm, profile="paper")
                show(f"{step.name}: {score}")
            continue
        config = step.config
        if getattr(config, "init", "none") != "none":
            assert run is not None
            config = replace(config, init=run.name)
        try:
            run = importlib.import_module(f"mmlib.train.{step.stage}").run(
                config, "paper", None if max_minutes is None else left)
        except Paused as pause:
            show(f"{step.name}: {pause}")
            return False
        show(f"{step.name}: {run.name}, {run.summary['pictures']:,} pictures, {run.environment['minutes']:.2f} min "
             f"on {run.environment['hardware']}")
    return True


def _read(run: Run, step: Step, limit: int | None) -> bool:
    """Whether the records have this reading of a split with these weights already."""
    if limit is not None:
        return False
    wanted = ("evaluate", "paper", step.arm, step.split)
    reading = {row["run"] for row in records.rows()
               if tuple(row[k] for k in ("stage", "profile", "arm", "split")) == wanted and float(row["occlusion"]) == 0}
    return run.name in {Run.load(results_root() / "runs" / name).summary["trained"] for name in reading}


# --- the plan ---------------------------------------------------------------------------------------------------


def plan(steps: list[Step], seconds_to_draw: float | None = None) -> list[dict[str, Any]]:
    """What each training step costs: pictures, counted operations a picture, pictures a second and minutes expected.

    Operations are counted on a few pictures of this very configuration, forward and backward. The rate expected is the smaller
    of two bounds: arithmetic (`REACHED`), and samples drawn by `DRAWN` processes, whose time is measured here.
    """
    drawn = seconds_to_draw or draw_seconds(steps[0].config.dataset)
    rows, known = [], {}
    for step in steps:
        if step.stage == "evaluate":
            continue
        if step.stage not in known:
            known[step.stage] = operations(step)
        views = views_of(step.stage)
        rate = min(REACHED / known[step.stage], views * DRAWN / drawn)
        rows.append({"step": step.name, "pictures": step.views, "GFLOP a picture": known[step.stage] / 1e9,
                     "bound by arithmetic": REACHED / known[step.stage], "bound by drawing": views * DRAWN / drawn,
                     "pictures/s": rate, "minutes": step.views / rate / 60})
    return rows


def describe(steps: list[Step]) -> str:
    """The plan as text: a line for each step, and what the numbers rest on."""
    rows = {row["step"]: row for row in plan(steps)}
    lines, total = [f"{'step':32}{'pictures':>11}{'GFLOP/pic':>11}{'pictures/s':>12}{'minutes':>9}"], 0.0
    for step in steps:
        row = rows.get(step.name)
        if row is None:
            lines.append(step.name)
            continue
        total += row["minutes"]
        lines.append(f"{step.name:32}{row['pictures']:11,}{row['GFLOP a picture']:11.1f}{row['pictures/s']:12,.0f}"
                     f"{row['minutes']:9.1f}")
    drawing = next(iter(rows.values()))["bound by drawing"]
    return "\n".join([
        *lines, f"{'all training':66}{total:9.1f}",
        f"Pictures/s: the smaller of counted operations at an assumed {REACHED / 1e12:.0f} TFLOP/s, and of what {DRAWN}",
        f"processes like this one draw ({drawing:,.0f} in stage 1). An arm's longer budget goes on from its shorter run, so less",
        "than the sum is trained. Reading comes on top."])


def operations(step: Step) -> float:
    """Floating-point operations a picture (a view is one) of some training steps of a stage, counted."""
    config = replace(step.config, batch_area=120.0, batch_most=8, **({} if step.stage == "pretrain" else {"init": "none"}))
    with FlopCounterMode(display=False) as counter:
        seen = trained(step.stage, config, COUNTED)[:, 2].sum()
    return float(counter.get_total_flops() / (seen * views_of(step.stage)))


def draw_seconds(dataset: str, count: int = 500) -> float:
    """Seconds of one process to draw one of fine-tuning's samples: cut, recombined, or as it is."""
    corpus, config = load_corpus(dataset), finetune.Config.preset("paper")
    augmenter = Augmenter(corpus.pack, corpus.train, config.augment, corpus.vocabulary, corpus.held_formulas())
    started = time.perf_counter()
    for position in range(count):
        augmenter.draw(int(corpus.train[position % len(corpus.train)]), np.random.default_rng([0, 0, 0, position]))
    return (time.perf_counter() - started) / count


# --- there and back ---------------------------------------------------------------------------------------------

ARCHIVE = "results.tar.gz"  # run folders without weights, and the records


def collect(out: str | Path) -> list[Path]:
    """Write what there is of paper runs to a folder: half-precision weights of fine-tuned runs, a file each, and `ARCHIVE`."""
    out, found = Path(out), []
    out.mkdir(parents=True, exist_ok=True)
    runs = [run for run in find_runs(done=False) if run.profile == "paper"]
    for run in runs:
        if run.done and run.stage == "finetune":
            write_atomic(out / f"{run.name}.safetensors", run.weights.read_bytes())
            found.append(out / f"{run.name}.safetensors")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for path in sorted(path for run in runs for path in run.folder.iterdir() if path.suffix in KEPT):
            archive.add(path, f"runs/{path.parent.name}/{path.name}")
        if records.path().is_file():
            archive.add(records.path(), "records.csv")
    write_atomic(out / ARCHIVE, data.getvalue())
    return [*found, out / ARCHIVE]


def take(folder: str | Path) -> list[str]:
    """Let the finished runs of a folder that `collect` wrote, their weights and their records join the results; their names."""
    folder, names = Path(folder), set()
    if not (folder / ARCHIVE).is_file():
        raise RunError(f"{folder} has no {ARCHIVE}: it is not what `mmlib paper --out` writes")
    with tarfile.open(folder / ARCHIVE) as archive:
        members = {member.name: file.read() for member in archive.getmembers()
                   if member.isfile() and (file := archive.extractfile(member)) is not None}
    for name, data in members.items():
        parts = Path(name).parts
        if len(parts) != 3 or parts[0] != "runs" or f"runs/{parts[1]}/environment.json" not in members:
            continue
        if any(part in ("..", "") or "/" in part for part in parts) or Path(name).suffix not in KEPT:
            raise RunError(f"{folder / ARCHIVE}: {name!r} is no file of a run")
        write_atomic(results_root() / name, data)
        names.add(parts[1])
    for name in names:
        weights = folder / f"{name}.safetensors"
        if weights.is_file():
            write_atomic(results_root() / "runs" / name / "weights.safetensors", weights.read_bytes())
    rows = list(csv.DictReader(io.StringIO(members.get("records.csv", b"").decode("utf-8"), newline="")))
    records.append(row for row in rows if row["profile"] == "paper" and row["run"] in names)
    return sorted(names)
