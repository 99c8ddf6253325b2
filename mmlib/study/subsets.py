"""Metrics on subsets of a split: by length, by nesting, by whether training has the formula."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mmlib.measure.intervals import interval
from mmlib.study import results
from mmlib.study.arms import COMPARED
from mmlib.study.comparisons import METRICS, metric_sums, seeds_of

if TYPE_CHECKING:
    from pandas import DataFrame

HEADLINE = (*COMPARED, "recogniser")  # and one that was trained for longer, where there is one


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
