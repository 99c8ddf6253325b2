"""Intervals and differences of arms on CROHME, from the records and the outcomes of readings.

With one seed, an interval is about the expressions alone, and no claim about arms follows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmlib.measure.intervals import Interval, interval
from mmlib.measure.recognition import Outcomes
from mmlib.store.files import RunError
from mmlib.study import records, results
from mmlib.study.arms import PROFILE

if TYPE_CHECKING:
    from pandas import DataFrame

NO_RECORD = "no record yet"
STUDIES = (PROFILE, "pilot", "ablate")  # 'ablate' is the first study's
METRICS = {"ter": "TER", "exprate": "ExpRate", "within1": "≤1", "within2": "≤2", "within3": "≤3",
           "structure": "structure", "hallucination": "hallucinated"}
MOST_ERRORS = {"exprate": 0, "within1": 1, "within2": 2, "within3": 3}
COLUMNS = [*Interval.__dataclass_fields__]


def scored(split: str, labels: float = 1.0, profile: str | None = None) -> DataFrame:
    """Records of a split: for each arm, seed, metric and share of ink masked the newest.

    profile: by default all but those of the studies, whose budgets do not compare.
    """
    frame = records.load().sort_values("utc", kind="stable")
    kept = frame.profile == profile if profile else ~frame.profile.isin(STUDIES)
    kept &= (frame.dataset == "crohme") & (frame.split == split) & (frame.labels == labels)
    # An arm that was read again, say after a repair of the search, has older records beside newer.
    return frame[kept].drop_duplicates(["arm", "seed", "metric", "occlusion"], keep="last")


def runs_of(split: str, labels: float = 1.0, profile: str | None = None
            ) -> dict[str, dict[int, str]]:
    """For each arm that was read without a mask the names of its evaluations by seed, in order."""
    rows, found = scored(split, labels, profile), {}
    rows = rows[(rows.metric == "ter") & (rows.occlusion == 0)].sort_values(["arm", "seed"])
    for arm, own in rows.groupby("arm"):
        found[arm] = dict(zip(own.seed.astype(int), own.run, strict=True))
    return found


def seeds_of(split: str, labels: float = 1.0, profile: str | None = None
             ) -> dict[str, dict[int, Outcomes]]:
    """For each arm with a record its outcomes by seed, in order, where they are kept."""
    kept, found = results.outcomes(split), {}
    for arm, runs in runs_of(split, labels, profile).items():
        if own := {seed: kept[run] for seed, run in runs.items() if run in kept}:
            found[arm] = own
    return found


def metric_sums(seeds: Collection[Outcomes], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """A metric as values (seeds, n) and weights (n,): what `interval` takes.

    metric: 'ter'; 'capped', the TER with at most as many errors in an expression as its label has
    tokens; 'exprate', 'within1' to 'within3'.

    Raises RunError where the evaluations hold different expressions.
    """
    first, *others = seeds
    if any(not np.array_equal(one.id, first.id) for one in others):
        raise RunError("the evaluations of an arm do not hold the same expressions")
    errors = np.stack([one.token_errors for one in seeds])
    if metric in MOST_ERRORS:
        return (errors <= MOST_ERRORS[metric]).astype(float), np.ones(len(first))
    return np.minimum(errors, first.length) if metric == "capped" else errors, first.length


def by_labels(arms: Sequence[str]) -> DataFrame:
    """Capped TER on validation at each share of the labels with records, in the study.

    Columns arm, labels, and an `Interval`'s.
    """
    import pandas as pd

    rows = []
    for labels in sorted(set(records.load().query("profile == @PROFILE").labels)):
        found = seeds_of("valid", labels, PROFILE)
        for arm in (arm for arm in arms if arm in found):
            one = interval(*metric_sums(found[arm].values(), "capped"))
            rows.append({"arm": arm, "labels": labels, **vars(one)})
    return pd.DataFrame(rows, columns=["arm", "labels", *COLUMNS])


def differences(pairs: Iterable[tuple[str, str]], split: str, metric: str = "ter",
                labels: float = 1.0, profile: str | None = None,
                seeds: Collection[int] | None = None) -> DataFrame:
    """Arm a minus arm b on the same expressions: a, b, by_seed, and an `Interval`'s columns.

    The seeds that both arms have (of `seeds`, where given) are compared pair by pair, and no other:
    a pair of arms without a common seed has no row. `by_seed` holds each seed's own difference.
    """
    import pandas as pd

    found, rows = seeds_of(split, labels, profile), []
    for a, b in pairs:
        # A seed also chooses which expressions have labels: only within a pair does that cancel.
        common = sorted(found.get(a, {}).keys() & found.get(b, {}).keys())
        if common := [seed for seed in common if seeds is None or seed in seeds]:
            own, theirs = ([found[arm][seed] for seed in common] for arm in (a, b))
            if not np.array_equal(own[0].id, theirs[0].id):
                raise RunError(f"{a} and {b} were not evaluated on the same expressions of {split}")
            (one, weights), (other, _) = metric_sums(own, metric), metric_sums(theirs, metric)
            by_seed = dict(zip(common, np.nansum(one - other, 1) / weights.sum(), strict=True))
            less = interval(one - other, weights)
            rows.append({"a": a, "b": b, "by_seed": by_seed, **vars(less)})
    return pd.DataFrame(rows, columns=["a", "b", "by_seed", *COLUMNS])
