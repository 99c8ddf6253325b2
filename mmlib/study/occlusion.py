"""How error grows with the share of ink that is masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmlib.measure.intervals import Interval, interval
from mmlib.study import records, results
from mmlib.study.arms import PROFILE
from mmlib.study.comparisons import metric_sums

if TYPE_CHECKING:
    from pandas import DataFrame


def occluded(labels: float = 1.0, split: str = "valid", dataset: str = "crohme") -> DataFrame:
    """The arms read with part of the ink masked, a row for each arm, way and share.

    Columns arm, way ('visible mask' or 'silent removal'), share, TER as value, low, high, n and
    seeds, and outcomes by seed. A share of 0 is the same in both ways.
    """
    import pandas as pd

    frame, outcomes = records.load(), results.outcomes(split, dataset)
    frame = frame[(frame.dataset == dataset) & (frame.split == split) & (frame.labels == labels)]
    frame = frame[(frame.profile == PROFILE)].sort_values("utc", kind="stable")
    frame = frame.drop_duplicates(["arm", "seed", "metric", "occlusion"], keep="last")
    rows = []
    for way, mark in (("visible mask", ""), ("silent removal", ":removed")):
        masked = frame[(frame.metric == f"ter{mark}") & (frame.occlusion > 0)]
        whole = frame[frame.arm.isin(masked.arm) & (frame.metric == "ter") & (frame.occlusion == 0)]
        both = pd.concat([whole, masked]).sort_values("seed")
        for (arm, share), own in both.groupby(["arm", "occlusion"], sort=True):
            found = {seed: outcomes[run] for seed, run in zip(own.seed, own.run, strict=True)}
            ter = interval(*metric_sums([*found.values()], "ter"))
            rows.append({"arm": arm, "way": way, "share": share, **vars(ter), "outcomes": found})
    columns = ["arm", "way", "share", *Interval.__dataclass_fields__, "outcomes"]
    return pd.DataFrame(rows, columns=columns)


def occlusion_areas(labels: float = 1.0) -> DataFrame:
    """Mean TER over the shares masked (trapezoids), and how much it rises from none to the largest.

    Columns arm, way, area, low, high, n, seeds, rise, rise_low, rise_high. Of each arm the seeds
    that were read at every share that any arm was read at; intervals resample the same seeds and
    expressions for all shares.
    """
    import pandas as pd

    rows = []
    for way, members in occluded(labels).groupby("way", sort=False):
        for arm, own in members.sort_values("share").groupby("arm", sort=False):
            seeds = sorted(set.intersection(*map(set, own.outcomes)))
            if len(own) < members.share.nunique() or not seeds:
                continue
            sums = [metric_sums([of[seed] for seed in seeds], "ter") for of in own.outcomes]
            errors, length = np.stack([values for values, _ in sums]), sums[0][1]
            mean = np.trapezoid(errors, own.share, axis=0) / np.ptp(own.share)
            area, rise = interval(mean, length), interval(errors[-1] - errors[0], length)
            rows.append({
                "arm": arm, "way": way, "area": area.value, "low": area.low, "high": area.high,
                "n": area.n, "seeds": area.seeds,
                "rise": rise.value, "rise_low": rise.low, "rise_high": rise.high,
            })  # fmt: skip
    columns = ["arm", "way", "area", "low", "high", "n", "seeds", "rise", "rise_low", "rise_high"]
    return pd.DataFrame(rows, columns=columns)
