"""Intervals and differences of arms, from the records and the outcomes of their evaluations.

With one seed, an interval is about the expressions alone, and no claim about arms follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmlib.measure.intervals import SETTLED, Interval, interval, paired_difference
from mmlib.measure.recognition import Outcomes
from mmlib.store.files import RunError
from mmlib.study import records, results
from mmlib.study.arms import COMPARED, PROFILE

if TYPE_CHECKING:
    from pandas import DataFrame

NO_RECORD = "no record yet"
STUDIES = (PROFILE, "pilot", "ablate")  # 'ablate' is the first study's
HEADLINE = (*COMPARED, "recogniser")  # and one that was trained for longer, where there is one
METRICS = {
    "ter": "TER",
    "exprate": "ExpRate",
    "within1": "≤1",
    "within2": "≤2",
    "within3": "≤3",
    "structure": "structure",
    "hallucination": "hallucinated",
}
MOST_ERRORS = {"exprate": 0, "within1": 1, "within2": 2, "within3": 3}


def scored(split: str, dataset: str = "crohme", labels: float | Sequence[float] = 1.0,
           profile: str | None = None) -> DataFrame:
    """Records of a split read without a mask: for each arm, seed and metric the newest.

    Args:
        labels: one share of the labels or several.
        profile: by default all but those of the studies, whose budgets do not compare.
    """
    frame = records.load()
    frame = frame[frame.profile == profile if profile else ~frame.profile.isin(STUDIES)]
    kept = frame[(frame.dataset == dataset) & (frame.split == split) & (frame.occlusion == 0)]
    kept = kept[kept.labels.isin(np.atleast_1d(labels))].sort_values("utc", kind="stable")
    return kept.drop_duplicates(["arm", "seed", "metric"], keep="last")


def runs_of(split: str, dataset: str = "crohme", labels: float | Sequence[float] = 1.0,
            profile: str | None = None) -> dict[str, dict[int, str]]:
    """For each arm with a record the names of its evaluations by seed."""
    found: dict[str, dict[int, str]] = {}
    rows = scored(split, dataset, labels, profile)
    for row in rows[rows.metric == "ter"].sort_values(["arm", "seed"]).itertuples():
        found.setdefault(row.arm, {})[int(row.seed)] = row.run
    return found


def seeds_of(split: str, dataset: str = "crohme", labels: float | Sequence[float] = 1.0,
             profile: str | None = None) -> dict[str, dict[int, Outcomes]]:
    """For each arm with a record its outcomes by seed, in order, where they are kept."""
    kept, found = results.outcomes(split, dataset), {}
    for arm, runs in runs_of(split, dataset, labels, profile).items():
        if own := {seed: kept[run] for seed, run in runs.items() if run in kept}:
            found[arm] = own
    return found


def outcomes_of(split: str, dataset: str = "crohme", labels: float = 1.0,
                profile: str | None = None) -> dict[str, list[Outcomes]]:
    """`seeds_of` without the seeds' numbers."""
    found = seeds_of(split, dataset, labels, profile)
    return {arm: [*own.values()] for arm, own in found.items()}


def ter_of(seeds: Mapping[int, Outcomes], capped: bool = False) -> dict[int, float]:
    """TER of each seed of an arm."""
    found = {}
    for seed, one in seeds.items():
        errors = np.minimum(one.token_errors, one.length) if capped else one.token_errors
        found[seed] = float(np.nansum(errors) / one.length.sum())
    return found


def metric_sums(seeds: Sequence[Outcomes], metric: str, rows: np.ndarray | None = None
                ) -> tuple[np.ndarray, np.ndarray | None]:
    """A metric as values (seeds, n) and weights (n,), or None for a plain mean.

    Args:
        metric: 'ter'; 'capped', the TER with at most as many errors in an expression as its label
            has tokens; 'exprate', 'within1' to 'within3'; 'structure'.
        rows: which expressions (default: all).

    Raises:
        RunError: the evaluations hold different expressions.
    """
    if any(not np.array_equal(one.id, seeds[0].id) for one in seeds):
        raise RunError("the evaluations of an arm do not hold the same expressions")
    chosen = slice(None) if rows is None else rows
    errors = np.stack([one.token_errors for one in seeds])[:, chosen]
    length = seeds[0].length[chosen]
    if metric == "ter":
        return errors, length
    if metric == "capped":
        return np.minimum(errors, length), length
    if metric == "structure":
        return np.stack([one.structure for one in seeds])[:, chosen].astype(float), None
    return (errors <= MOST_ERRORS[metric]).astype(float), None


def intervals(split: str, metric: str = "ter", arms: Sequence[str] | None = None,
              dataset: str = "crohme") -> DataFrame:
    """Columns arm, value, low, high, std, n, seeds: 95 % intervals of arms with outcomes."""
    import pandas as pd

    found, rows = outcomes_of(split, dataset), []
    for arm in (arm for arm in arms or found if arm in found):
        rows.append({"arm": arm, **vars(interval(*metric_sums(found[arm], metric)))})
    return pd.DataFrame(rows, columns=["arm", *Interval.__dataclass_fields__])


def by_labels(arms: Sequence[str], metric: str = "capped", split: str = "valid",
              dataset: str = "crohme", profile: str = PROFILE) -> DataFrame:
    """Arms at each share of the labels with records: columns arm, labels, and an `Interval`'s."""
    import pandas as pd

    frame, rows = records.load(), []
    frame = frame[(frame.profile == profile) & (frame.dataset == dataset)]
    for labels in sorted(set(frame.labels[(frame.split == split) & (frame.metric == "ter")])):
        found = outcomes_of(split, dataset, labels, profile)
        for arm in (arm for arm in arms if arm in found):
            sums = metric_sums(found[arm], metric)
            rows.append({"arm": arm, "labels": labels, **vars(interval(*sums))})
    return pd.DataFrame(rows, columns=["arm", "labels", *Interval.__dataclass_fields__])


def differences(pairs: Iterable[tuple[str, str]], split: str, metric: str = "ter",
                dataset: str = "crohme", labels: float | Sequence[float] = 1.0,
                profile: str | None = None, seeds: Sequence[int] | None = None) -> DataFrame:
    """Arm a minus arm b on the same expressions: a, b, value, low, high, p, n, seeds (of a, of b).

    The seeds that both arms have (of `seeds`, where given) are compared pair by pair, and no other:
    a pair of arms without a common seed has no row.
    """
    import pandas as pd

    found, rows = seeds_of(split, dataset, labels, profile), []
    for a, b in pairs:
        common = sorted(found.get(a, {}).keys() & found.get(b, {}).keys())
        if common := [seed for seed in common if seeds is None or seed in seeds]:
            own, theirs = ([found[arm][seed] for seed in common] for arm in (a, b))
            if not np.array_equal(own[0].id, theirs[0].id):
                raise RunError(f"{a} and {b} were not evaluated on the same expressions of {split}")
            (one, weights), (other, _) = metric_sums(own, metric), metric_sums(theirs, metric)
            less = paired_difference(one, other, weights, same_seeds=True)
            rows.append({"a": a, "b": b, **vars(less)})
    return pd.DataFrame(rows, columns=["a", "b", "value", "low", "high", "p", "n", "seeds"])


def verdict(a: str, b: str, split: str, metric: str = "ter", dataset: str = "crohme") -> str:
    """What the records say of arm a against arm b, and no more than they carry, in a sentence.

    Two readings with the same weights are no matter of seeds: there one seed may settle it.
    """
    found, title = differences([(a, b)], split, metric, dataset), METRICS[metric]
    if found.empty:
        return f"{title} of {a} against {b} on {split}: {NO_RECORD}."
    row = found.iloc[0]
    text = (
        f"{title} of {a} minus {b} on {split}: {row.value:+.3f}, 95 % interval {row.low:+.3f} to "
        f"{row.high:+.3f}, n = {row.n:,} expressions, {row.seeds[0]} seed"
        f"{'s' * (row.seeds[0] > 1)} each."
    )
    if min(row.seeds) == 1 and not _same_weights(a, b, split, dataset):
        return text + (
            " One seed: the interval is about the expressions, another seed may turn the sign,"
            " so no claim follows."
        )
    if row.low <= 0 <= row.high:
        return text + " The interval holds 0: no difference was found."
    if min(row.seeds) > 1 and row.p >= SETTLED:
        few = "yet so few seeds do not settle it"
        return text + f" The interval leaves out 0, {few} (p {row.p:.3f})."
    better = (row.value < 0) == (metric in ("ter", "capped"))
    return text + f" The interval leaves out 0: {a} is {'better' if better else 'worse'}."


def _same_weights(a: str, b: str, split: str, dataset: str) -> bool:
    """Whether the evaluations of two arms read the same weights, in each seed that both have."""
    rows, runs = scored(split, dataset), results.run_rows()
    rows = rows[rows.metric == "ter"]
    read: dict[str, dict[int, str]] = {a: {}, b: {}}
    for row in rows[rows.arm.isin([a, b])].itertuples():
        read[row.arm][row.seed] = runs[row.run]["inputs"]["weights"]
    common = read[a].keys() & read[b].keys()
    return bool(common) and all(read[a][seed] == read[b][seed] for seed in common)
