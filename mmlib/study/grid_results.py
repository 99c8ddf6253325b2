"""The grid of ablations: its table, its differences, reading with ink hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmlib.measure.intervals import Interval, holm, interval, paired_difference
from mmlib.store.runs import results_root
from mmlib.study import grid as ablate
from mmlib.study import records
from mmlib.study.comparisons import (
    NO_RECORD,
    differences,
    metric_sums,
    outcomes_in,
    outcomes_of,
    scored,
    seeds_of,
)
from mmlib.study.results import format_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pandas import DataFrame

EFFICIENCY = ("mask-match", "contrastive", "simclr", "supervised-total")  # the arms of the label-efficiency plot
# How labels teach: what an arm's name ends with, and a title.
ENDINGS = {factor: arm.removeprefix("mask-match") for factor, arm in ablate.REFERENCE.items()}
TAUGHT = {"": "labels recombined,\nside losses", ENDINGS[ablate.PLAIN]: "labels as written,\nside losses",
          ENDINGS[ablate.SIDELESS]: "labels recombined,\nno side losses"}


def at_share(labels: float) -> tuple[float, ...]:
    """What is read at a share of the labels: that, and what is trained without any, which stands beside all of them."""
    return labels, 0.0


def grid_differences(labels: float = 1.0, split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE,
                     metric: str = "ter") -> DataFrame:
    """TER (or another metric) of each recorded arm of the grid minus that of its factor's reference: factor, and the columns of
    `differences`.

    p is there only where both arms have two seeds or more, after Holm's correction over all those (column `p`); with one seed
    the interval is about the expressions alone, and no p-value is given.
    """
    references = {arm: ablate.REFERENCE.get(factor, "mask-match") for factor, arms in ablate.GRID.items() for arm in arms}
    pairs = [(arm, reference) for arm, reference in references.items() if arm != reference]
    found = differences(pairs, split, metric, dataset, at_share(labels), profile)
    several = found.seeds.map(min) > 1
    found["p"] = found.p.where(several)
    if several.any():
        found.loc[several, "p"] = holm(found.p[several])
    return found.assign(factor=[factor for a in found.a for factor, arms in ablate.GRID.items() if a in arms])


def grid_table(labels: float = 1.0, split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE) -> DataFrame:
    """The grid of ablations, a row for each arm with a record: its cost, TER (mean, and std over seeds where there are several)
    and `grid_differences` as text, both also capped: with at most as many errors in an expression as its label has tokens."""
    import pandas as pd

    of = split, dataset, at_share(labels), profile
    frame, found = scored(*of), seeds_of(*of)
    frame = frame[frame.metric.isin(["ter", "exprate"])]  # a probe of the arm's encoder had no label, either, and cost less
    minus, bounded = (grid_differences(labels, split, dataset, profile, metric).set_index("a") for metric in ("ter", "capped"))
    rows = []
    for factor, arms in ablate.GRID.items():
        for arm in (arm for arm in arms if arm in found):
            own, outcomes = frame[frame.arm == arm], list(found[arm].values())
            ter, capped = (interval(*metric_sums(outcomes, metric)) for metric in ("ter", "capped"))
            row = {"factor": factor, "arm": arm, "seeds": ", ".join(map(str, found[arm])), "n": f"{ter.n:,}",
                   "pictures": f"{own.pictures.mean():,.0f}", "minutes": format_number(own.minutes.mean(), "{:.0f}"),
                   "TER": f"{ter.value:.3f}" + (f" ± {ter.std:.3f}" if ter.seeds > 1 else ""),
                   "capped": f"{capped.value:.3f}", "ExpRate": format_number(own[own.metric == "exprate"].value.mean(), "{:.1%}"),
                   "compared with": "", "TER minus its": "", "p (Holm)": "", "capped minus its": ""}
            if arm in minus.index:
                row |= {"compared with": minus.b[arm], "p (Holm)": format_number(minus.p[arm], "{:.3f}")}
                for name, less in (("TER", minus.loc[arm]), ("capped", bounded.loc[arm])):
                    row[f"{name} minus its"] = f"{less.value:+.3f} [{less.low:+.3f}, {less.high:+.3f}]"
            rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame({"arm": [NO_RECORD]})


def occluded(labels: float = 1.0, split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE) -> DataFrame:
    """The arms read with part of the ink hidden, a row for each arm, way of hiding and share.

    Columns arm, way ('visible mask' or 'silent removal'), share, TER as value, low, high, n, seeds, hallucination (inserted
    tokens over reference tokens) and outcomes, by seed. A share of 0 is the same in both ways.
    """
    import pandas as pd

    frame = records.load()
    frame = frame[(frame.dataset == dataset) & (frame.split == split) & (frame.labels == labels) & (frame.profile == profile)]
    frame = frame.sort_values("utc", kind="stable").drop_duplicates(["arm", "seed", "metric", "occlusion"], keep="last")
    rows = []
    for way, mark in (("visible mask", ""), ("silent removal", ":removed")):
        hidden = frame[(frame.metric == f"ter{mark}") & (frame.occlusion > 0)]
        kept = frame[frame.arm.isin(hidden.arm) & (frame.metric == "ter") & (frame.occlusion == 0)]
        for (arm, share), own in pd.concat([kept, hidden]).sort_values("seed").groupby(["arm", "occlusion"], sort=True):
            found = {seed: outcomes_in(results_root() / "runs" / run) for seed, run in zip(own.seed, own.run, strict=True)}
            inserted = sum(np.nansum(one.insertions) for one in found.values()) / sum(one.length.sum() for one in found.values())
            rows.append({"arm": arm, "way": way, "share": share, **vars(interval(*metric_sums([*found.values()], "ter"))),
                         "hallucination": inserted, "outcomes": found})
    return pd.DataFrame(rows, columns=["arm", "way", "share", *Interval.__dataclass_fields__, "hallucination", "outcomes"])


def occlusion_areas(labels: float = 1.0) -> DataFrame:
    """Mean TER from nothing hidden to the largest share (trapezoids), and how much TER rises between the two.

    Columns arm, way, area, low, high, rise, against (the arms' reference), difference, difference_low, difference_high,
    difference_p (area of the reference minus the arm's), relative (that over the arm's area), the same four of rise_difference
    (rise of the reference minus the arm's), n, seeds (of the area), common (seeds that both arms have, of which the differences
    are). Intervals resample seeds and expressions, the same of each for all shares. An arm has the seeds that were read at every
    share that any arm was read at, and no row without any.
    """
    import pandas as pd

    frame, rows = occluded(labels), []
    reference = ablate.REFERENCE[ablate.MASKED]
    for way, members in frame.groupby("way", sort=False):
        of = {arm: own.sort_values("share") for arm, own in members.groupby("arm") if len(own) == members.share.nunique()}
        whole = {arm: set.intersection(*map(set, own.outcomes)) for arm, own in of.items()}
        for arm, own in ((arm, own) for arm, own in of.items() if whole[arm]):
            mean, rise, length = _masked_errors(own, sorted(whole[arm]))
            area = interval(mean, length)
            row = {"arm": arm, "way": way, "area": area.value, "low": area.low, "high": area.high, "n": area.n,
                   "seeds": area.seeds, "rise": interval(rise, length, n_boot=1).value}
            if arm != reference and (common := sorted(whole[arm] & whole.get(reference, set()))):
                our_mean, our_rise, _ = _masked_errors(of[reference], common)
                mean, rise, _ = _masked_errors(own, common)
                for name, ours, theirs in (("difference", our_mean, mean), ("rise_difference", our_rise, rise)):
                    less = paired_difference(ours, theirs, length, same_seeds=True)
                    row |= {name: less.value, f"{name}_low": less.low, f"{name}_high": less.high, f"{name}_p": less.p}
                row |= {"against": reference, "relative": row["difference"] / interval(mean, length, n_boot=1).value,
                        "common": len(common)}
            rows.append(row)
    bounds = [name + end for name in ("difference", "rise_difference") for end in ("", "_low", "_high", "_p")]
    return pd.DataFrame(rows, columns=["arm", "way", "area", "low", "high", "rise", "against", *bounds, "relative", "n", "seeds",
                                       "common"])


def _masked_errors(own: DataFrame, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Of an arm's rows of `occluded`, by share: token errors (seeds, n) averaged over the shares, those at the last share less
    those at the first, and the labels' lengths; of these seeds."""
    weights = np.trapezoid(np.eye(len(own)), own.share, axis=1) / np.ptp(own.share)  # of each share in the mean
    errors = [metric_sums([found[seed] for seed in seeds], "ter") for found in own.outcomes]
    mean = sum(weight * values for weight, (values, _) in zip(weights, errors, strict=True))
    return np.asarray(mean), errors[-1][0] - errors[0][0], errors[0][1]


def efficiency(split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE) -> DataFrame:
    """TER of the headline arms at each share of the labels that has records: columns arm, labels, value, low, high, n, seeds;
    what is trained on synthetic ink alone has the share 0."""
    import pandas as pd

    frame = records.load()
    frame = frame[(frame.profile == profile) & (frame.dataset == dataset) & (frame.split == split) & (frame.metric == "ter")]
    rows = [{"arm": arm, "labels": labels, **vars(interval(*metric_sums(found[arm], "ter")))}
            for labels in sorted(set(frame.labels)) for found in [outcomes_of(split, dataset, labels, profile)]
            for arm in (*(arm + way for way in TAUGHT for arm in EFFICIENCY), ablate.SYNTHETIC) if arm in found]
    return pd.DataFrame(rows, columns=["arm", "labels", *Interval.__dataclass_fields__])
