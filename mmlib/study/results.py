"""The committed results: a few tables instead of a folder for each run.

    results/runs.csv                        a row per finished run: what was asked, where, its cost
    results/curves/<stage>.csv              its curves: losses and validation numbers by pictures
    results/outcomes/<dataset>-<split>.csv  a column per expression; four rows per evaluation
    results/records.csv                     every number that is claimed (`mmlib.study.records`)

While a run works it is a folder (`mmlib.store.run`), which git ignores. `collect` adds the rows of
finished runs that the records name; what a table says once stays as it is. No table holds a label.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from mmlib.measure.recognition import Outcomes
from mmlib.store.files import RunError, results_root
from mmlib.store.run import Run
from mmlib.study import records
from mmlib.train.cost import earlier_cost, training_cost, views_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from mmlib.read.reader import Reader

TRAINED = ("pretrain", "attend", "finetune")
COLUMNS = (
    "run", "stage", "profile", "arm", "seed", "dataset", "split", "labels", "start",
    "pictures", "minutes", "total_pictures", "total_minutes", "hardware", "commit", "utc",
    "version", "versions", "inputs", "weights", "config", "summary",
)  # fmt: skip
PARSED = ("versions", "inputs", "config", "summary")  # columns that hold JSON
MEASURES = ("token_errors", "insertions", "structure", "score")  # of an evaluation, by expression
TRAITS = ("depth", "seen")  # of an expression: nesting; whether training has its formula
NOT_KEPT = {"lr", "norm", "skipped"}  # of a row of the curves: no figure shows it


# --- reading ------------------------------------------------------------------------------------


def run_rows() -> dict[str, dict[str, Any]]:
    """The rows of runs.csv by the run's name, as text but for the columns `PARSED`."""
    found = {}
    for row in records.read_table(results_root() / "runs.csv"):
        if set(row) != set(COLUMNS):
            raise RunError(f"{results_root() / 'runs.csv'} does not have the columns {COLUMNS}")
        found[row["run"]] = row | {name: json.loads(row[name] or "{}") for name in PARSED}
    return found


def curves(stage: str, profile: str, keys: Sequence[str], dataset: str = "crohme") -> DataFrame:
    """The curves of the finished runs of a stage, a row for each point that has one of the `keys`.

    Returns:
        columns arm, run, seed, pictures (of this stage; two views are two), minutes,
        total_pictures and total_minutes (with the stages before), and the keys.
    """
    import pandas as pd

    points: dict[str, list[dict[str, str]]] = {}
    for row in records.read_table(results_root() / "curves" / f"{stage}.csv"):
        points.setdefault(row["run"], []).append(row)
    found = []
    for name, run in sorted(run_rows().items()):
        asked = (run["stage"], run["profile"], run["dataset"]) == (stage, profile, dataset)
        if asked and name in points:
            before = [float(run[f"total_{c}"]) - float(run[c]) for c in ("pictures", "minutes")]
            own = {"arm": run["arm"], "run": name, "seed": int(run["seed"])}
            views = views_of(stage, run["config"])
            found.append(_curve(own, points[name], keys, views, before))
    empty = _curve({"arm": "", "run": "", "seed": 0}, [], keys, 1, (0, 0))
    return pd.concat(found or [empty], ignore_index=True)


def curve_of(run: Run, keys: Sequence[str]) -> DataFrame:
    """`curves` of a run that has its folder here, finished or not; its name is its arm."""
    before: Sequence[float] = (np.nan, np.nan)
    with contextlib.suppress(RunError):  # the stages before may not be kept here
        before = earlier_cost(run)
    own = {"arm": run.name, "run": run.name, "seed": run.config["seed"]}
    return _curve(own, run.metrics(), keys, views_of(run.stage, run.config), before)


def outcomes(split: str, dataset: str = "crohme") -> dict[str, Outcomes]:
    """The outcomes of each evaluation of a split, by the run's name. Not to be written to."""
    path = _outcomes_path(split, dataset)
    return _outcomes(path, path.stat().st_mtime_ns) if path.is_file() else {}


def traits(split: str, dataset: str = "crohme") -> dict[str, dict[str, float]]:
    """For each expression its `TRAITS`; NaN where its label is unreadable, empty where not kept."""
    head, *rows = records.read_rows(_outcomes_path(split, dataset)) or [["run", "what"]]
    found: dict[str, dict[str, float]] = {}
    for run, what, *values in rows:
        if not run and what in TRAITS:
            for name, value in zip(head[2:], values, strict=True):
                found.setdefault(name, {})[what] = float(value or "nan")
    return found


def shipped() -> Reader | None:
    """The recogniser that ships, or None where its weights are not there."""
    from mmlib.read.reader import Reader

    try:
        return Reader.load(results_root() / "checkpoints" / "recogniser.safetensors")
    except FileNotFoundError:
        return None


def shipped_arm() -> str | None:
    """The arm of the recogniser that ships; None without one, or where runs.csv lacks its run."""
    reader = shipped()
    row = run_rows().get(reader.run) if reader else None
    return row["arm"] if row else None


def _curve(own: Mapping[str, Any], points: Sequence[Mapping[str, Any]], keys: Sequence[str],
           views: int, before: Sequence[float]) -> DataFrame:
    """The points of a run, which is `own`; before: pictures and minutes of earlier stages."""
    import pandas as pd

    frame = pd.DataFrame(points, columns=["pictures", "minutes", *keys]).apply(pd.to_numeric)
    frame = frame.astype(float).dropna(subset=list(keys), how="all").assign(**own)
    frame["pictures"] *= views
    return frame.assign(total_pictures=frame.pictures + before[0],
                        total_minutes=frame.minutes + before[1])


@lru_cache(maxsize=16)
def _outcomes(path: Path, changed: int) -> dict[str, Outcomes]:
    head, *rows = records.read_rows(path)
    ids, table = np.array(head[2:], dtype=str), {(run, what): values for run, what, *values in rows}

    def column(run: str, what: str) -> np.ndarray:
        return np.array([float(value or "nan") for value in table[run, what]])

    length, found = column("", "length"), {}
    for run in dict.fromkeys(run for run, _ in table if run):
        errors, insertions, structure, score = (column(run, what) for what in MEASURES)
        read = ~np.isnan(structure)  # a run may have been asked about fewer expressions
        counts, right = length[read].astype(np.int64), structure[read].astype(bool)
        found[run] = Outcomes(ids[read], errors[read], insertions[read], counts, right, score[read])
    return found


# --- writing ------------------------------------------------------------------------------------


def record(run: Run, rows: Iterable[Mapping[str, Any]], **about: Any) -> None:
    """Record what a run measured, or what was measured of it, and `collect`.

    Args:
        rows: metric, value, n, and what differs between them. A row with low and high becomes three
            records: of `ratio:digits` the bounds are `ratio_low:digits` and `ratio_high:digits`.
        about: other columns, the same for all.
    """
    shared = {"run": run.name, "stage": run.stage, "profile": run.profile,
              "dataset": Path(run.config["dataset"]).name} | about
    found = []
    for row in rows:
        name, colon, part = row["metric"].partition(":")
        own = {key: value for key, value in row.items() if key not in ("low", "high")}
        for key, end in (("value", ""), ("low", "_low"), ("high", "_high")):
            if key in row:
                metric = f"{name}{end}{colon}{part}"
                found.append({**shared, **own, "metric": metric, "value": row[key]})
    records.append(found)
    collect()


def collect(folder: str | Path | None = None) -> list[str]:
    """Add finished runs to the tables: those that a record names, and all that they started from.

    Args:
        folder: other results (with `runs/` and `records.csv`), whose records join these, too.

    Returns:
        the names of the runs that are new. A run that a table has already stays as it is there.
    """
    source = Path(folder or results_root())
    new_records = records.rows(source / "records.csv")
    about: dict[str, dict[str, str]] = {}
    for record in new_records:  # several records of a run agree in what runs.csv takes from them
        about.setdefault(record["run"], record)
    results_root().mkdir(parents=True, exist_ok=True)
    with FileLock(results_root() / ".tables.lock", timeout=600):
        known, new, pending = run_rows(), {}, list(about)
        while pending:
            name = pending.pop(0)
            path = source / "runs" / name
            if name in known or name in new or not (path / "environment.json").is_file():
                continue
            new[name] = run = Run.load(path)
            if (start := _start(run)) != "none":  # a shared stage goes by the first arm that asks
                about.setdefault(start, about[name])
                pending.append(start)
        add(list(new.values()), about)
    if folder:
        records.append(new_records)  # a run that is known may have been measured again
    return list(new)


def add(runs: Sequence[Run], about: Mapping[str, Mapping[str, str]]) -> None:
    """Add the rows of finished runs, with arm, split and so on from a record of each."""
    if not runs:
        return
    for stage in TRAINED:
        _add_curves(stage, [run for run in runs if run.stage == stage])
    for run in runs:
        if run.stage == "evaluate":
            table = records.read_table(run.folder / "outcomes.csv")
            rows = {(run.name, what): {row["id"]: row[what] for row in table} for what in MEASURES}
            rows["", "length"] = {row["id"]: row["length"] for row in table}
            _merge_outcomes(run.config["split"], Path(run.config["dataset"]).name, rows)
    path = results_root() / "runs.csv"  # written last: a run in it has all its rows
    new = [_row(run, about[run.name]) for run in runs]
    records.write_table(path, COLUMNS, [*records.read_table(path), *new])


def add_traits(split: str, dataset: str, values: Mapping[str, Mapping[str, int]]) -> None:
    """Keep the `TRAITS` of a split's expressions, by id, beside their outcomes."""
    rows = {("", what): {i: str(own[what]) for i, own in values.items()} for what in TRAITS}
    with FileLock(results_root() / ".tables.lock", timeout=600):
        _merge_outcomes(split, dataset, rows)


def _start(run: Run) -> str:
    """The run that this one read, or started from; 'none' for random weights or a weights file."""
    start: str = run.summary.get("trained") or run.inputs.get("init", "none")
    return "none" if start.startswith("recogniser-") else start


def _row(run: Run, about: Mapping[str, Any]) -> dict[str, Any]:
    found, config = run.environment, run.config
    trained = run.stage in TRAINED
    own = {key: about.get(key) for key in ("seed", "split", "labels")}
    if trained:
        pictures, minutes = training_cost(run)
        own = {"seed": config["seed"], "labels": config.get("labels", 0),
               "pictures": run.summary["pictures"] * views_of(run.stage, config),
               "total_pictures": pictures, "total_minutes": minutes}
    row = {
        "run": run.name, "stage": run.stage, "profile": run.profile, "arm": about["arm"],
        "dataset": Path(config["dataset"]).name, "start": _start(run), "minutes": found["minutes"],
        **{name: found[name] for name in ("hardware", "commit", "utc", "weights", "versions")},
        "version": run.version, "inputs": run.inputs, "config": config,
        # Of an evaluation or a probe, outcomes and records say it.
        "summary": found["summary"] if trained else {}, **own,
    }  # fmt: skip
    compact = (",", ":")
    return row | {name: json.dumps(row[name], ensure_ascii=False, separators=compact)
                  for name in PARSED}


def _add_curves(stage: str, runs: Sequence[Run]) -> None:
    path, new = results_root() / "curves" / f"{stage}.csv", []
    for run in runs:
        for row in run.metrics():
            # Losses of steps are many and noisy: five digits do.
            rounded = {key: f"{value:.5g}" for key, value in row.items()
                       if isinstance(value, float) and key not in ("minutes", "pictures")}
            exact = any(key.startswith("valid_") for key in row)
            own = {"run": run.name, "step": ""} | row | ({} if exact else rounded)
            new.append({key: value for key, value in own.items() if key not in NOT_KEPT})
    if new:
        rows = [*records.read_table(path), *new]
        records.write_table(path, list(dict.fromkeys(key for row in rows for key in row)), rows)


def _merge_outcomes(split: str, dataset: str, new: Mapping[tuple[str, str], Mapping[str, str]]
                    ) -> None:
    path = _outcomes_path(split, dataset)
    head, *rows = records.read_rows(path) or [["run", "what"]]
    table = {(run, what): dict(zip(head[2:], values, strict=True)) for run, what, *values in rows}
    # An expression's label and a run's readings never change: a difference is a mistake.
    for key, values in new.items():
        before = table.get(key, {})
        if changed := [i for i, v in values.items() if before.get(i, "") not in ("", v)]:
            what = f"{key[1]} of {changed[0]}"
            raise RunError(f"{path}: {what} is not what it was; move the file away")
        table[key] = before | dict(values)
    ids = list(dict.fromkeys(i for values in table.values() for i in values))
    ordered = sorted(table, key=lambda key: key[0] != "")  # what holds for all runs comes first
    merged = [{"run": key[0], "what": key[1], **table[key]} for key in ordered]
    records.write_table(path, ["run", "what", *ids], merged)


def _outcomes_path(split: str, dataset: str) -> Path:
    return results_root() / "outcomes" / f"{dataset}-{split}.csv"
