"""What the grid's records say: its table, its differences, reading with part of the ink masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmlib.measure.intervals import Interval, holm, interval
from mmlib.study import records, results
from mmlib.study.comparisons import (
    NO_RECORD,
    differences,
    metric_sums,
    outcomes_of,
    scored,
    seeds_of,
)
from mmlib.study.grid import GRID, PLAIN, PROFILE, REFERENCE, SIDELESS, SYNTHETIC
from mmlib.study.results import format_number

if TYPE_CHECKING:
    from pandas import DataFrame

EFFICIENCY = ("mask-match", "contrastive", "simclr", "supervised-total")  # at every share of labels
# How labels teach: what an arm's name ends with, and a title.
ENDINGS = {factor: arm.removeprefix("mask-match") for factor, arm in REFERENCE.items()}
TAUGHT = {
    "": "labels recombined,\nside losses",
    ENDINGS[PLAIN]: "labels as written,\nside losses",
    ENDINGS[SIDELESS]: "labels recombined,\nno side losses",
}


def at_share(labels: float) -> tuple[float, ...]:
    """What is read at a share of the labels: that, and what is trained without any."""
    return labels, 0.0


def grid_differences(labels: float = 1.0, metric: str = "ter") -> DataFrame:
    """A metric of each arm with a record minus that of its factor's reference, on validation.

    Columns: factor, and those of `differences`. p is corrected over all differences (Holm), and
    given only where both arms have two seeds or more.
    """
    factor_of = {arm: factor for factor, arms in GRID.items() for arm in arms}
    references = {arm: REFERENCE.get(factor, "mask-match") for arm, factor in factor_of.items()}
    pairs = [(arm, reference) for arm, reference in references.items() if arm != reference]
    found = differences(pairs, "valid", metric, labels=at_share(labels), profile=PROFILE)
    several = found.seeds.map(min) > 1
    found["p"] = found.p.where(several)
    if several.any():
        found.loc[several, "p"] = holm(found.p[several])
    return found.assign(factor=[factor_of[arm] for arm in found.a])


def grid_table(labels: float = 1.0) -> DataFrame:
    """A row for each arm with a record, as text: cost, TER and its difference, also capped.

    Capped: with at most as many errors in an expression as its label has tokens.
    """
    import pandas as pd

    frame = scored("valid", labels=at_share(labels), profile=PROFILE)
    found = seeds_of("valid", labels=at_share(labels), profile=PROFILE)
    frame = frame[frame.metric.isin(["ter", "exprate"])]  # not a probe, which cost less
    minus, bounded = (
        grid_differences(labels, metric).set_index("a") for metric in ("ter", "capped")
    )
    rows = []
    for factor, arm in ((factor, arm) for factor, arms in GRID.items() for arm in arms):
        if arm not in found:
            continue
        own, outcomes = frame[frame.arm == arm], list(found[arm].values())
        ter, capped = (interval(*metric_sums(outcomes, metric)) for metric in ("ter", "capped"))
        row = {
            "factor": factor,
            "arm": arm,
            "seeds": ", ".join(map(str, found[arm])),
            "n": f"{ter.n:,}",
            "pictures": f"{own.pictures.mean():,.0f}",
            "minutes": format_number(own.minutes.mean(), "{:.0f}"),
            "TER": f"{ter.value:.3f}" + (f" ± {ter.std:.3f}" if ter.seeds > 1 else ""),
            "capped": f"{capped.value:.3f}",
            "ExpRate": format_number(own[own.metric == "exprate"].value.mean(), "{:.1%}"),
        } | dict.fromkeys(("compared with", "TER minus its", "p (Holm)", "capped minus its"), "")
        if arm in minus.index:
            p = format_number(minus.p[arm], "{:.3f}")
            row |= {"compared with": minus.b[arm], "p (Holm)": p}
            for name, less in (("TER", minus.loc[arm]), ("capped", bounded.loc[arm])):
                row[f"{name} minus its"] = f"{less.value:+.3f} [{less.low:+.3f}, {less.high:+.3f}]"
        rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame({"arm": [NO_RECORD]})


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


def efficiency() -> DataFrame:
    """TER on validation of the headline arms at each share of the labels with records.

    Columns arm, labels, value, low, high, n, seeds. What learns from synthetic ink alone has the
    share 0.
    """
    import pandas as pd

    frame, rows = records.load(), []
    frame = frame[(frame.profile == PROFILE) & (frame.dataset == "crohme")]
    frame = frame[(frame.metric == "ter") & (frame.split == "valid")]
    arms = [*(arm + way for way in TAUGHT for arm in EFFICIENCY), SYNTHETIC]
    for labels in sorted(set(frame.labels)):
        found = outcomes_of("valid", labels=labels, profile=PROFILE)
        for arm in (arm for arm in arms if arm in found):
            ter = interval(*metric_sums(found[arm], "ter"))
            rows.append({"arm": arm, "labels": labels, **vars(ter)})
    return pd.DataFrame(rows, columns=["arm", "labels", *Interval.__dataclass_fields__])
