"""How arms read CROHME, from the records and the outcomes of readings.

Intervals and differences, by share of the labels, by subset of a split, and by ink masked.

With one seed, an interval is about the expressions alone, and no claim about arms follows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlib.measure.intervals import Interval, interval
from mmlib.measure.recognition import Outcomes
from mmlib.store.files import RunError
from mmlib.study import records, results
from mmlib.study.arms import COMPARED, PROFILE

if TYPE_CHECKING:
    from pandas import DataFrame

NO_RECORD = "no record yet"
HEADLINE = (*COMPARED, "recogniser")  # and one that was trained for longer, where there is one
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

    Columns arm, subset (the share), and an `Interval`'s. Empty for one share, which is no curve.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for labels in sorted(set(records.load().query("profile == @PROFILE").labels)):
        found = seeds_of("valid", labels, PROFILE)
        for arm in (arm for arm in arms if arm in found):
            one = interval(*metric_sums(found[arm].values(), "capped"))
            rows.append({"arm": arm, "subset": f"{labels:.0%}", **vars(one)})
    rows = rows if len({row["subset"] for row in rows}) > 1 else []
    return pd.DataFrame(rows, columns=["arm", "subset", *COLUMNS])


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


# --- parts of a split, and of the ink -------------------------------------------------------------


def by_subset(split: str, by: str, metrics: Sequence[str] = ("ter",),
              arms: Sequence[str] = HEADLINE) -> DataFrame:
    """Columns arm, metric (its title), subset, value, low, high, n: arms on subsets of a split.

    by: 'length' (reference tokens, in bins of about a fifth of the expressions), 'depth' (nesting;
    3 and more together) or 'seen' (whether training has the formula). The last two need the
    split's traits, and give no row without.
    """
    import pandas as pd

    found, known, rows = seeds_of(split), results.traits(split), []
    for metric in metrics:
        for arm in (arm for arm in arms if arm in found):
            seeds = found[arm].values()
            one = next(iter(seeds))
            trait = np.array([known.get(i, {}).get(by, np.nan) for i in one.id])
            subsets = {"unseen": trait == 0, "seen": trait == 1}
            if by == "length":
                subsets = _fifths(one.length)
            elif by == "depth":
                subsets = {str(depth): trait == depth for depth in range(3)}
                subsets["3 and more"] = trait >= 3
            values, weights = metric_sums(seeds, metric)
            for name, member in subsets.items():
                if member.any():
                    of = interval(values[:, member], weights[member], n_boot=1000)
                    rows.append([arm, METRICS[metric], name, of.value, of.low, of.high, of.n])
    return pd.DataFrame(rows, columns=["arm", "metric", "subset", "value", "low", "high", "n"])


def _fifths(length: np.ndarray) -> dict[str, np.ndarray]:
    """Members (n,) of each fifth by length, under a name such as '5 to 9'; none is unreadable."""
    edges = np.unique(np.quantile(length[length > 0], np.linspace(0, 1, 6)).round())
    edges[-1] += 1  # the last fifth holds its end, too
    return {f"{low:.0f} to {high - 1:.0f}": (length >= low) & (length < high)
            for low, high in pairwise(edges)}


def occluded(labels: float) -> DataFrame:
    """Validation read with part of the ink masked: a row for each arm, way and share.

    Columns arm, way ('visible mask' or 'silent removal'), share, an `Interval`'s for the TER, and
    outcomes by seed. A share of 0 is the same in both ways.
    """
    import pandas as pd

    frame, outcomes, rows = scored("valid", labels, PROFILE), results.outcomes("valid"), []
    for way, metric in (("visible mask", "ter"), ("silent removal", "ter:removed")):
        masked = frame[(frame.metric == metric) & (frame.occlusion > 0)]
        whole = frame[frame.arm.isin(masked.arm) & (frame.metric == "ter") & (frame.occlusion == 0)]
        both = pd.concat([whole, masked]).sort_values("seed")
        for (arm, share), own in both.groupby(["arm", "occlusion"], sort=True):
            found = {seed: outcomes[run] for seed, run in zip(own.seed, own.run, strict=True)}
            ter = interval(*metric_sums(found.values(), "ter"))
            rows.append({"arm": arm, "way": way, "share": share, **vars(ter), "outcomes": found})
    return pd.DataFrame(rows, columns=["arm", "way", "share", *COLUMNS, "outcomes"])


def occlusion_areas(labels: float) -> DataFrame:
    """Mean TER over the shares masked (trapezoids): columns arm, way, and an `Interval`'s.

    Of each arm the seeds that were read at every share that any arm was read at; the interval
    resamples the same seeds and expressions for all shares.
    """
    import pandas as pd

    rows = []
    for way, members in occluded(labels).groupby("way", sort=False):
        for arm, own in members.sort_values("share").groupby("arm", sort=False):
            seeds = sorted(set.intersection(*map(set, own.outcomes)))
            if len(own) == members.share.nunique() and seeds:
                sums = [metric_sums([of[seed] for seed in seeds], "ter") for of in own.outcomes]
                errors, length = np.stack([values for values, _ in sums]), sums[0][1]
                mean = np.trapezoid(errors, own.share, axis=0) / np.ptp(own.share)
                rows.append({"arm": arm, "way": way, **vars(interval(mean, length))})
    return pd.DataFrame(rows, columns=["arm", "way", *COLUMNS])
