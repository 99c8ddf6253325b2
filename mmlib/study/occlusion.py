"""How error grows with the share of ink that is masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmlib.measure.intervals import interval
from mmlib.study import results
from mmlib.study.arms import PROFILE
from mmlib.study.comparisons import COLUMNS, metric_sums, scored

if TYPE_CHECKING:
    from pandas import DataFrame


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
