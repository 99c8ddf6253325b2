"""Training and reading the arms of the study: a cell is an arm by a seed, at a share of the labels.

It pauses and goes on: what has a record is not done again. By default it reads validation alone,
greedily; the tests are for the headline runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.data.corpus import load_corpus, synthetic_pack
from mmlib.data.prepare import load_pack
from mmlib.store.files import RunError
from mmlib.store.run import Run
from mmlib.study import records
from mmlib.study.arms import MASKED, OCCLUSION, PROFILE, Budget, Chain, Changes, arms, questions
from mmlib.study.evaluate import Config, evaluate
from mmlib.train import attend, finetune, pretrain, profiles
from mmlib.train.cost import views_of
from mmlib.train.loop import Paused

STAGES = {"pretrain": pretrain, "attend": attend, "finetune": finetune}
TESTS = {"crohme": ("test_2014", "test_2016", "test_2019"), "synthetic": ("test",)}


@dataclass(frozen=True)
class Cell:
    """One cell of the study: an arm by a seed, at a share of the labels."""

    arm: str
    seed: int = 0
    labels: float = 1.0

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.seed}, {self.labels:.0%} of labels"


def cells(names: Sequence[str] = (), seeds: Sequence[int] = (0,), labels: Sequence[float] = (1.0,)
          ) -> list[Cell]:
    """The cells of these arms or questions, seed by seed; without names, of all arms.

    Raises RunError for an unknown name.
    """
    asked = questions(Budget.of())
    known = {arm: [arm] for arm in arms()} | {name: [*members] for name, members in asked.items()}
    if unknown := [name for name in names if name not in known]:
        raise RunError(f"the study has no {unknown[0]!r}; questions: {'; '.join(asked)}. "
                       f"Arms: {'; '.join(arms())}")
    chosen = dict.fromkeys(arm for name in names or asked for arm in known[name])
    return [Cell(arm, seed, share) for share, seed, arm in product(labels, seeds, chosen)]


def changed(config: Any, changes: Changes) -> Any:
    """A configuration with some fields changed; a mapping changes a part of it.

    Raises TypeError for an unknown field.
    """
    values = {}
    for name, value in changes.items():
        part = isinstance(value, Mapping)
        values[name] = changed(getattr(config, name), value) if part else value
    return replace(config, **values)


def configs(cell: Cell, chain: Chain, profile: str = PROFILE, dataset: str = "crohme",
            preset: Mapping[str, Changes] = {}) -> dict[str, Any]:
    """The configuration of each stage of a chain, but for the run that it starts from.

    preset: changes to the profile's presets, for all arms alike.
    """
    found = {}
    for name in STAGES:
        if name in chain:
            own = {"labels": cell.labels, "init": "none"} if name == "finetune" else {}
            common = profiles.preset(name, profile, dataset=dataset, seed=cell.seed, **own)
            found[name] = changed(changed(common, preset.get(name, {})), chain[name])
    return found


def train(cell: Cell, chain: Chain, profile: str = PROFILE, dataset: str = "crohme",
          preset: Mapping[str, Changes] = {}, progress: bool = True,
          max_minutes: Callable[[], float | None] = lambda: None) -> dict[str, Run]:
    """Train a chain, or find it trained here; the run of each stage. Arguments as for `configs`.

    Raises Paused when `max_minutes()` are over; the same call goes on.
    """
    done: dict[str, Run] = {}
    for name, config in configs(cell, chain, profile, dataset, preset).items():
        if done:
            config = replace(config, init=next(reversed(done.values())).name)
        done[name] = STAGES[name].run(config, profile, max_minutes(), progress=progress)
    return done


def conduct(cells: Sequence[Cell], dataset: str = "crohme", profile: str = PROFILE,
            tests: bool = False, max_minutes: float | None = None) -> None:
    """Train and read each cell that has no record yet; prints what is done and what is left.

    tests: read the tests, too, with beam 5.

    Raises Paused when the minutes are over; the same call goes on. A failure stops it.
    """
    began = time.monotonic()

    def left() -> float | None:
        spent = (time.monotonic() - began) / 60
        return None if max_minutes is None else max(0.0, max_minutes - spent)

    known, done = arms(profile), recorded_cells(dataset, profile)
    todo = [cell for cell in cells if cell not in done]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} of them done")
    for number, cell in enumerate(todo):
        since = time.monotonic()
        chain = train(cell, known[cell.arm], profile, dataset, max_minutes=left)
        said = _read(cell, chain["finetune"], dataset, profile, tests, left)
        spent, rest = (time.monotonic() - since) / 60, len(todo) - number - 1
        left_over = f"{rest} to go, {rest * spent:.0f} minutes at this rate"
        print(f"{cell}: {said}; {spent:.1f} minutes; {left_over}", flush=True)


def recorded_cells(dataset: str = "crohme", profile: str = PROFILE, split: str = "valid"
                   ) -> set[Cell]:
    """The cells that have their record of a split, read without a mask."""
    wanted = {"profile": profile, "dataset": dataset, "split": split, "stage": "evaluate"}
    wanted |= {"metric": "ter", "occlusion": "0"}
    return {Cell(row["arm"], int(row["seed"]), float(row["labels"]))
            for row in records.rows() if wanted.items() <= row.items()}


def plan(cells: Sequence[Cell], dataset: str = "crohme", profile: str = PROFILE) -> str:
    """What is done and what is to do, a line per cell; runs that cells share are counted once."""
    chains, done, known, lines = arms(profile), recorded_cells(dataset, profile), set(), []
    for cell in sorted(cells, key=lambda cell: cell not in done):
        cost, chain = [], ""
        for name, config in configs(cell, chains[cell.arm], profile, dataset).items():
            chain += str(config)
            if chain not in known:
                known.add(chain)
                cost.append(f"{name} {config.pictures * views_of(name, vars(config)):,}")
        ahead = f"to do  {cell}: {', '.join(cost)} pictures"
        lines.append(f"done   {cell}" if cell in done else ahead)
    return "\n".join(lines)


def packs(dataset: str = "crohme") -> list[Path]:
    """Make all packs that the study reads, to carry to a machine without archives; their files."""
    corpus = load_corpus(dataset)
    found = [corpus.pack.path, corpus.composed(np.sort(corpus.train)).path]
    if dataset == "synthetic":
        return [*found, synthetic_pack("test").path]
    return [*found, *(load_pack(split).path for split in TESTS[dataset])]


def _read(cell: Cell, run: Run, dataset: str, profile: str, tests: bool,
          left: Callable[[], float | None]) -> str:
    """Read what the cell's run is read on and has no record of; the last reading in words."""
    masks = [(0.0, False)]
    if cell.arm.endswith(MASKED):
        masks = [(share, removal) for share in OCCLUSION for removal in (False, True)] + masks
    # Validation comes last: it marks the cell as done.
    for split in (*(TESTS[dataset] if tests else ()), "valid"):
        if cell in recorded_cells(dataset, profile, split):
            continue
        for share, removal in masks:
            if left() == 0:
                raise Paused(f"{cell} is trained and not read yet; the same command goes on")
            config = Config(dataset, split, 5 if tests else 1, occlusion=share, removal=removal)
            score = evaluate(run.folder, config, arm=cell.arm, profile=profile)
    return f"TER {score.ter:.3f}, ExpRate {score.exprate:.1%}, n = {score.n}"
