"""Which arm a run is, what it has cost, and its records: the committed results, read."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlib.store.runs import Run, RunError, earlier_cost, find_runs, results_root, sizes_of, views_of
from mmlib.study import grid as ablate

if TYPE_CHECKING:
    from pandas import DataFrame

    from mmlib.read.reader import Reader

# Choices that do not make another arm: what a run is trained on, by which seed, for how long, and how often it is looked at.
_SAME_ARM = {"dataset", "seed", "init", "labels", "pictures", "full_data", "eval_pictures", "eval_most"}


def arm_of(run: Run) -> str:
    """The arm that a run belongs to: what its evaluation called it, else what its configuration says.

    pretrain: 'simclr', 'dense' or 'contrastive' by its balance, or another objective's name; attend: 'mask-match'; finetune: by
    what it starts from, 'supervised' and, with more than the preset's pictures, 'supervised-total' for random weights. A choice
    that differs from the profile's preset is appended, as in 'mask-match, schedule=fixed'.
    """
    if run.stage == "evaluate":
        return run.summary["arm"] or run.name
    if run.stage == "finetune":
        named: set[str] = {other.summary["arm"] for other in find_runs("evaluate") if other.summary.get("trained") == run.name
                 and other.summary["arm"] and not other.config["without"] and len(sizes_of(other)) == 1}
        if named:  # an arm's run may ship as the recogniser, too
            return min(named, key=lambda name: (name == "recogniser", name))
    config, preset = run.config, json.loads(json.dumps(asdict(ablate.STAGES[run.stage].Config.preset(run.profile))))
    changes = [f"{key}={value}" for key, value in _leaves(config) if dict(_leaves(preset)).get(key) != value
               and key.split(".")[0] not in _SAME_ARM]
    if run.stage == "pretrain":
        changes = [c for c in changes if not (c.startswith("balance=") and config["balance"] in (0, 1))]
        changes = [c for c in changes if not c.startswith("objective=")]
        name = {1.0: "simclr", 0.0: "dense"}.get(config["balance"], "contrastive")
        name = name if config.get("objective", "contrast") == "contrast" else config["objective"]
    elif run.stage == "attend":
        start = _start_arm(run)
        name = "mask-match" if start == "contrastive" else f"mask-match from {start}"
    else:
        more = config["pictures"] > preset["pictures"]
        name = _start_arm(run)
        if config["full_data"]:
            name = "recogniser"
        elif name == "random weights":
            name = "supervised-total" if more else "supervised"
        elif more:
            name += f", {config['pictures']:,} pictures"
    return ", ".join([name, *changes])


def _start_arm(run: Run) -> str:
    """The arm of the run whose weights this one starts from."""
    init: str = run.config["init"]
    if init in ("none", "pretrain", "attend"):
        return {"none": "random weights", "pretrain": "contrastive", "attend": "mask-match"}[init]
    try:
        return arm_of(Run.load(results_root() / "runs" / init))
    except RunError:
        return init


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def curves(stage: str, profile: str, keys: Sequence[str], dataset: str | None = None, runs: Sequence[Run] | None = None,
           done: bool = False) -> DataFrame:
    """The curves of a stage's runs, a row for each look.

    Args:
        stage, profile: which runs; `runs` names them instead.
        keys: what to take from the rows of metrics.jsonl, such as 'valid_ter'; rows without any of them are left out.
        dataset: only runs on this data set.
        done: only finished runs.

    Returns:
        columns arm, run, seed, labels, pictures (of this stage; two views are two), minutes, total_pictures and total_minutes
        (with the stages before), done, and the keys.
    """
    import pandas as pd

    columns = ["arm", "run", "seed", "labels", "pictures", "minutes", "total_pictures", "total_minutes", "done", *keys]
    rows = []
    for run in find_runs(stage, profile, done) if runs is None else runs:
        if dataset and run.config["dataset"] != dataset:
            continue
        views = views_of(stage, run.config)
        pictures: float
        try:
            pictures, minutes = earlier_cost(run)
        except RunError:  # those stages are not kept here
            pictures, minutes = np.nan, np.nan
        start = [arm_of(run), run.name, run.config["seed"], run.config.get("labels", 1.0)]
        for row in run.metrics():
            if any(row.get(key) is not None for key in keys):
                rows.append([*start, row["pictures"] * views, row["minutes"], row["pictures"] * views + pictures,
                             row["minutes"] + minutes, run.done, *(row.get(key) for key in keys)])
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype(dict.fromkeys(["pictures", "minutes", "total_pictures", "total_minutes", *keys], float))


def shipped_arm() -> str | None:
    """The arm of the recogniser that ships; None where it or its run's folder is not there."""
    reader = shipped()
    folder = reader and results_root() / "runs" / reader.run
    return arm_of(Run.load(folder)) if folder and (folder / "config.json").is_file() else None


def shipped() -> Reader | None:
    """The recogniser that ships, or None where its weights are not there yet."""
    return _shipped(results_root())


@functools.lru_cache(maxsize=1)
def _shipped(results: Path) -> Reader | None:
    from mmlib.read.reader import Reader

    try:
        return Reader.load()
    except FileNotFoundError:
        return None


def format_number(value: float, form: str) -> str:
    """A number as text; nothing for none."""
    return "" if value is None or np.isnan(value) else form.format(value)
