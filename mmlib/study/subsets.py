"""A metric on subsets of a split: by length, by nesting, by whether training has the formula."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mmlib.measure.intervals import interval
from mmlib.study import results
from mmlib.study.comparisons import METRICS, metric_sums, outcomes_of

if TYPE_CHECKING:
    from pandas import DataFrame


def by_subset(split: str, by: str, metric: str = "ter", arms: Sequence[str] | None = None,
              dataset: str = "crohme") -> DataFrame:
    """A metric on subsets of a split, with intervals: columns arm, subset, value, low, high, n.

    by: 'length' (reference tokens, in bins of about a fifth of the expressions), 'depth' (nesting;
    3 and more together) or 'seen' (whether training has the formula). The last two need the
    split's traits, and give no row without.
    """
    import pandas as pd

    found, known, rows = outcomes_of(split, dataset), results.traits(split, dataset), []
    for arm in arms or found:
        if arm not in found or (by != "length" and not known):
            continue
        one = found[arm][0]
        if by == "length":
            subsets = _fifths(one.length)
        else:
            values = np.array([known.get(i, {}).get(by, np.nan) for i in one.id])
            subsets = {"unseen": values == 0, "seen": values == 1}
            if by == "depth":
                subsets = {str(depth): values == depth for depth in range(3)}
                subsets["3 and more"] = values >= 3
        for name, member in subsets.items():
            if member.any():
                sums = metric_sums(found[arm], metric, np.flatnonzero(member))
                of = interval(*sums, n_boot=1000)
                rows.append([arm, name, of.value, of.low, of.high, of.n])
    return pd.DataFrame(rows, columns=["arm", "subset", "value", "low", "high", "n"])


def seen_unseen(split: str, arms: Sequence[str] | None = None, dataset: str = "crohme"
                ) -> DataFrame:
    """TER and ExpRate on formulas that training has and on those it does not: see `by_subset`."""
    import pandas as pd

    frames = [
        by_subset(split, "seen", metric, arms, dataset).assign(metric=METRICS[metric])
        for metric in ("ter", "exprate")
    ]
    return pd.concat(frames, ignore_index=True)


def _fifths(length: np.ndarray) -> dict[str, np.ndarray]:
    """Members (n,) of each fifth by length, under a name such as '5 to 9'."""
    values = length.astype(float)
    values[values == 0] = np.nan  # unreadable labels
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, 6)).round())
    found = {}
    for low, high in pairwise(edges):
        if high == edges[-1]:
            found[f"{low:.0f} to {high:.0f}"] = (values >= low) & (values <= high)
        else:
            found[f"{low:.0f} to {high - 1:.0f}"] = (values >= low) & (values < high)
    return found
