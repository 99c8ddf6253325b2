"""Intervals and differences of arms, from the outcomes of their evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmlib.measure.intervals import SETTLED, Interval, interval, paired_difference
from mmlib.measure.recognition import Outcomes
from mmlib.store.runs import Run, RunError, results_root
from mmlib.study import grid as ablate
from mmlib.study import records

if TYPE_CHECKING:
    from pandas import DataFrame

NO_RECORD = "no record yet"
COMPARED = ("mask-match", "supervised", "supervised-total")
HEADLINE = (*COMPARED, "recogniser")  # and one that was trained for longer, where there is one
METRICS = {"ter": "TER", "exprate": "ExpRate", "within1": "≤1", "within2": "≤2", "within3": "≤3", "structure": "structure",
           "hallucination": "hallucinated"}


def scored(split: str, dataset: str = "crohme", labels: float | Sequence[float] = 1.0, profile: str | None = None) -> DataFrame:
    """Records of a split without occlusion: for each arm, seed and metric the newest. Of one share of the labels or of several;
    of one profile, or of all but the ablations', whose budgets are not comparable with the others'."""
    frame = records.load()
    frame = frame[frame.profile == profile if profile else frame.profile != ablate.PROFILE]
    kept = frame[(frame.dataset == dataset) & (frame.split == split) & frame.labels.isin(np.atleast_1d(labels))]
    kept = kept[kept.occlusion == 0]
    return kept.sort_values("utc", kind="stable").drop_duplicates(["arm", "seed", "metric"], keep="last")


def outcomes_in(folder: Path) -> Outcomes:
    """The outcomes that an evaluation's folder keeps; read once, since many tables ask for the same. Not to be written to."""
    path = folder / "outcomes.csv"
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1024)
def _read(path: Path, changed: int) -> Outcomes:
    return Outcomes.read_csv(path)


def outcomes_of(split: str, dataset: str = "crohme", labels: float = 1.0, profile: str | None = None
                ) -> dict[str, list[Outcomes]]:
    """For each recorded arm the outcomes of its evaluations, by seed, where the run folders keep them."""
    return {arm: list(own.values()) for arm, own in seeds_of(split, dataset, labels, profile).items()}


def seeds_of(split: str, dataset: str = "crohme", labels: float | Sequence[float] = 1.0, profile: str | None = None
             ) -> dict[str, dict[int, Outcomes]]:
    """For each recorded arm its outcomes by seed, in order, where the run folders keep them."""
    found: dict[str, dict[int, Outcomes]] = {}
    rows = scored(split, dataset, labels, profile)
    for row in rows[rows.metric == "ter"].sort_values(["arm", "seed"]).itertuples():
        folder = results_root() / "runs" / row.run
        if (folder / "outcomes.csv").is_file():
            found.setdefault(row.arm, {})[int(row.seed)] = outcomes_in(folder)
    return found


def ter_of(seeds: Mapping[int, Outcomes]) -> dict[int, float]:
    """TER of each seed of an arm."""
    return {seed: float(one.token_errors.sum() / one.length.sum()) for seed, one in seeds.items()}


def metric_sums(seeds: Sequence[Outcomes], metric: str, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (seeds, n) and weights of a metric: 'ter', 'capped' (TER with at most as many errors as the label has tokens),
    'exprate', 'within1' to 'within3', 'structure'."""
    if any(not np.array_equal(one.id, seeds[0].id) for one in seeds):
        raise RunError("the evaluations of an arm do not hold the same expressions")
    errors = np.stack([one.token_errors for one in seeds])
    length = np.broadcast_to(seeds[0].length, errors.shape)
    if metric == "structure":
        values, weights = np.stack([one.structure for one in seeds]).astype(float), None
    elif metric in ("ter", "capped"):
        values, weights = errors if metric == "ter" else np.minimum(errors, length), length
    else:
        values, weights = (errors <= {"exprate": 0, "within1": 1, "within2": 2, "within3": 3}[metric]).astype(float), None
    if rows is not None:
        values, weights = values[:, rows], None if weights is None else weights[:, rows]
    return values, None if weights is None else weights[0]


def intervals(split: str, metric: str = "ter", arms: Sequence[str] | None = None, dataset: str = "crohme",
              labels: float = 1.0) -> DataFrame:
    """Columns arm, value, low, high, std, n, seeds: 95 % intervals of the arms whose outcomes are kept."""
    import pandas as pd

    found = outcomes_of(split, dataset, labels)
    rows = [{"arm": arm, **vars(interval(*metric_sums(found[arm], metric)))} for arm in arms or found if arm in found]
    return pd.DataFrame(rows, columns=["arm", *Interval.__dataclass_fields__])


def differences(pairs: Iterable[tuple[str, str]], split: str, metric: str = "ter", dataset: str = "crohme",
                labels: float | Sequence[float] = 1.0, profile: str | None = None) -> DataFrame:
    """Arm a minus arm b on the same expressions: a, b, value, low, high, p, n, seeds (of a, of b).

    The seeds that both arms have are compared pair by pair, and no other: a pair without a seed in common has no row.
    """
    import pandas as pd

    found, rows = seeds_of(split, dataset, labels, profile), []
    for a, b in pairs:
        if common := sorted(found.get(a, {}).keys() & found.get(b, {}).keys()):
            own, theirs = ([found[arm][seed] for seed in common] for arm in (a, b))
            if not np.array_equal(own[0].id, theirs[0].id):
                raise RunError(f"{a} and {b} were not evaluated on the same expressions of {split}")
            (one, weights), (other, _) = metric_sums(own, metric), metric_sums(theirs, metric)
            rows.append({"a": a, "b": b, **vars(paired_difference(one, other, weights, same_seeds=True))})
    return pd.DataFrame(rows, columns=["a", "b", "value", "low", "high", "p", "n", "seeds"])


def one_training(a: str, b: str, split: str, dataset: str = "crohme") -> bool:
    """Whether the recorded evaluations of two arms read the same weights, in each seed that both have."""
    rows = scored(split, dataset)
    read: list[dict[int, str]] = []
    for arm in (a, b):
        own = rows[(rows.arm == arm) & (rows.metric == "ter")]
        folders = {int(row.seed): results_root() / "runs" / row.run for row in own.itertuples()}
        read.append({seed: Run.load(folder).inputs["weights"] for seed, folder in folders.items()
                     if (folder / "config.json").is_file()})
    common = read[0].keys() & read[1].keys()
    return bool(common) and all(read[0][seed] == read[1][seed] for seed in common)


def verdict(a: str, b: str, split: str, metric: str = "ter", dataset: str = "crohme") -> str:
    """What the records say of arm a against arm b, in a sentence that claims no more than they carry. Other seeds are no part of
    one training read in two ways."""
    found = differences([(a, b)], split, metric, dataset)
    title = METRICS[metric]
    if found.empty:
        return f"{title} of {a} against {b} on {split}: {NO_RECORD}."
    row = found.iloc[0]
    text = (f"{title} of {a} minus {b} on {split}: {row.value:+.3f}, 95 % interval {row.low:+.3f} to {row.high:+.3f}, "
            f"n = {row.n:,} expressions, {row.seeds[0]} seed{'s' * (row.seeds[0] > 1)} each.")
    if min(row.seeds) == 1 and not one_training(a, b, split, dataset):
        return text + " One seed: the interval is about the expressions, another seed may turn the sign, so no claim follows."
    if row.low > 0 or row.high < 0:
        if min(row.seeds) > 1 and row.p >= SETTLED:
            return text + f" The interval leaves out 0, yet so few seeds do not settle it (p {row.p:.3f})."
        better = (row.value < 0) == (metric in ("ter", "capped"))
        return text + f" The interval leaves out 0: {a} is {'better' if better else 'worse'}."
    return text + " The interval holds 0: no difference was found."
