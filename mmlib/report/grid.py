"""The grid of ablations: its table, its differences, reading with ink hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmlib import ablate, records
from mmlib.metrics.intervals import Interval, holm, interval, paired_difference
from mmlib.report.arms import NO_RECORD, number, scored
from mmlib.report.outcomes import differences, metric_sums, outcomes_in, outcomes_of, seeds_of
from mmlib.runs import results_root

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

EFFICIENCY = ("mask-match", "contrastive", "simclr", "supervised-total")  # the arms of the label-efficiency plot
# How labels teach: what an arm's name ends with, and a title.
_ENDINGS = {factor: arm.removeprefix("mask-match") for factor, arm in ablate.REFERENCE.items()}
TAUGHT = {"": "labels recombined,\nside losses", _ENDINGS[ablate.PLAIN]: "labels as written,\nside losses",
          _ENDINGS[ablate.SIDELESS]: "labels recombined,\nno side losses"}


def grid_differences(labels: float = 1.0, split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE,
                     metric: str = "ter") -> DataFrame:
    """TER (or another metric) of each recorded arm of the grid minus that of its factor's reference: factor, and the columns of
    `differences`.

    p is there only where both arms have two seeds or more, after Holm's correction over all those (column `p`); with one seed
    the interval is about the expressions alone, and no p-value is given.
    """
    references = {arm: ablate.REFERENCE.get(factor, "mask-match") for factor, arms in ablate.GRID.items() for arm in arms}
    pairs = [(arm, reference) for arm, reference in references.items() if arm != reference]
    found = differences(pairs, split, metric, dataset, labels, profile)
    several = found.seeds.map(min) > 1
    found["p"] = found.p.where(several)
    if several.any():
        found.loc[several, "p"] = holm(found.p[several])
    return found.assign(factor=[factor for a in found.a for factor, arms in ablate.GRID.items() if a in arms])


def grid_table(labels: float = 1.0, split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE) -> DataFrame:
    """The grid of ablations, a row for each arm with a record: its cost, TER (mean, and std over seeds where there are several)
    and `grid_differences` as text, both also capped: with at most as many errors in an expression as its label has tokens."""
    import pandas as pd

    frame, found = scored(split, dataset, labels, profile), seeds_of(split, dataset, labels, profile)
    minus, bounded = (grid_differences(labels, split, dataset, profile, metric).set_index("a") for metric in ("ter", "capped"))
    rows = []
    for factor, arms in ablate.GRID.items():
        for arm in (arm for arm in arms if arm in found):
            own, outcomes = frame[frame.arm == arm], list(found[arm].values())
            ter, capped = (interval(*metric_sums(outcomes, metric)) for metric in ("ter", "capped"))
            row = {"factor": factor, "arm": arm, "seeds": ", ".join(map(str, found[arm])), "n": f"{ter.n:,}",
                   "pictures": f"{own.pictures.mean():,.0f}", "minutes": number(own.minutes.mean(), "{:.0f}"),
                   "TER": f"{ter.value:.3f}" + (f" ± {ter.std:.3f}" if ter.seeds > 1 else ""),
                   "capped": f"{capped.value:.3f}", "ExpRate": number(own[own.metric == "exprate"].value.mean(), "{:.1%}"),
                   "compared with": "", "TER minus its": "", "p (Holm)": "", "capped minus its": ""}
            if arm in minus.index:
                row |= {"compared with": minus.b[arm], "p (Holm)": number(minus.p[arm], "{:.3f}")}
                for name, less in (("TER", minus.loc[arm]), ("capped", bounded.loc[arm])):
                    row[f"{name} minus its"] = f"{less.value:+.3f} [{less.low:+.3f}, {less.high:+.3f}]"
            rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame({"arm": [NO_RECORD]})


def occluded(labels: float = 1.0, split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE) -> DataFrame:
    """The arms read with part of the ink hidden, a row for each arm, way of hiding and share.

    Columns arm, way ('visible covers' or 'silent removal'), share, TER as value, low, high, n, seeds, hallucination (inserted
    tokens over reference tokens) and outcomes, of each seed. A share of 0 is the same in both ways.
    """
    import pandas as pd

    frame = records.load()
    frame = frame[(frame.dataset == dataset) & (frame.split == split) & (frame.labels == labels) & (frame.profile == profile)]
    frame = frame.sort_values("utc", kind="stable").drop_duplicates(["arm", "seed", "metric", "occlusion"], keep="last")
    rows = []
    for way, mark in (("visible covers", ""), ("silent removal", ":removed")):
        hidden = frame[(frame.metric == f"ter{mark}") & (frame.occlusion > 0)]
        kept = frame[frame.arm.isin(hidden.arm) & (frame.metric == "ter") & (frame.occlusion == 0)]
        for (arm, share), own in pd.concat([kept, hidden]).sort_values("seed").groupby(["arm", "occlusion"], sort=True):
            found = [outcomes_in(results_root() / "runs" / run) for run in own.run]
            inserted = sum(np.nansum(one.insertions) for one in found) / sum(one.length.sum() for one in found)
            rows.append({"arm": arm, "way": way, "share": share, **vars(interval(*metric_sums(found, "ter"))),
                         "hallucination": inserted, "outcomes": found})
    return pd.DataFrame(rows, columns=["arm", "way", "share", *Interval.__dataclass_fields__, "hallucination", "outcomes"])


def occlusion_areas(labels: float = 1.0) -> DataFrame:
    """Mean TER from nothing hidden to the largest share (trapezoids), and its ratio to that of the arms' reference.

    Columns arm, way, area, low, high, against, difference, difference_low, difference_high, relative (difference over the
    reference's area), n, seeds. Intervals resample seeds and expressions, the same of each for all shares.
    """
    import pandas as pd

    frame, rows = occluded(labels), []
    reference = ablate.REFERENCE[ablate.COVERED]
    for way, members in frame.groupby("way", sort=False):
        sums = {}
        for arm, own in members.groupby("arm"):
            own = own.sort_values("share")
            weights = np.trapezoid(np.eye(len(own)), own.share, axis=1) / np.ptp(own.share)  # of each share in the mean
            errors = [metric_sums(found, "ter") for found in own.outcomes]
            sums[arm] = sum(weight * values for weight, (values, _) in zip(weights, errors, strict=True)), errors[0][1]
        for arm, (values, length) in sums.items():
            area = interval(values, length)
            row = {"arm": arm, "way": way, "area": area.value, "low": area.low, "high": area.high, "n": area.n,
                   "seeds": area.seeds}
            if reference in sums and arm != reference:
                ours = sums[reference][0]
                less = paired_difference(ours, values, length)
                row |= {"against": reference, "difference": less.value, "difference_low": less.low, "difference_high": less.high,
                        "relative": less.value / area.value}
            rows.append(row)
    return pd.DataFrame(rows, columns=["arm", "way", "area", "low", "high", "against", "difference", "difference_low",
                                       "difference_high", "relative", "n", "seeds"])


def grid_figure(labels: float = 1.0) -> Figure:
    """`grid_differences`, a row for each arm, by factor; filled where both arms have several seeds, hollow with one."""
    import matplotlib.pyplot as plt

    from mmlib import plots

    found = grid_differences(labels)
    fig, ax = plt.subplots(figsize=(8.5, 0.28 * len(found) + 1.1))
    ax.axvline(0, color=plots.GREY, lw=1)
    for y, row in enumerate(found.itertuples()):
        ax.errorbar(row.value, y, xerr=[[row.value - row.low], [row.high - row.value]], fmt="o", color=plots.BLUE, capsize=3,
                    mfc=plots.BLUE if min(row.seeds) > 1 else "white")
        if y and row.factor != found.factor[y - 1]:
            ax.axhline(y - 0.5, color="0.85", lw=0.8, zorder=0)
    names = []
    for row in found.itertuples():
        a = row.a.removesuffix(", " + row.b.partition(", ")[2])  # "a, covers" minus "b, covers" is "a minus b, covers"
        names.append(f"{a} minus {row.b}  ({row.seeds[0]} seed{'s' * (row.seeds[0] > 1)})")
    ax.set(yticks=range(len(found)), yticklabels=names, ylim=(len(found) - 0.5, -0.5))
    # The names leave the axes narrow: these two are longer than it is wide.
    ax.set_xlabel("difference in TER (right: the second reads better)", loc="right")
    ax.set_title(f"validation, {labels:.0%} of the labels, n = {int(found.n.iloc[0]):,} expressions", loc="right")
    return fig


def occlusion_figure(frame: DataFrame) -> Figure:
    """`occluded`: TER against the share of ink hidden, visible covers and silent removal apart; bands are 95 % intervals."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    from mmlib import plots

    ways, chosen = list(dict.fromkeys(frame.way)), plots.looks(dict.fromkeys(frame.arm))
    fig, axes = plt.subplots(1, len(ways), figsize=(3.9 * len(ways), 3.2), sharey=True, squeeze=False)
    for ax, way in zip(axes[0], ways, strict=True):
        for arm, look in chosen.items():
            rows = frame[(frame.arm == arm) & (frame.way == way)]
            ax.plot(rows.share, rows.value, color=look.color, marker=look.marker, ls=look.linestyle, label=arm)
            ax.fill_between(rows.share, rows.low, rows.high, color=look.color, alpha=0.15, lw=0)
        ax.set(xlabel="share of ink hidden", title=way)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set(ylabel="validation TER", ylim=(0, None))
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    plots.annotate_n(axes[0, -1], int(frame.n.iloc[0]), int(frame.seeds.min()))
    return fig


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


def efficiency_figure() -> Figure | None:
    """`efficiency`: TER against the share of the labels, a panel for each way in which they teach; bars are 95 % intervals,
    filled marks rest on several seeds. None where no arm has two shares yet."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

    from mmlib import plots

    frame = efficiency()
    if frame[frame.labels > 0].groupby("arm").labels.nunique().max() < 2 or frame.empty:
        return None
    looks = plots.looks(list(EFFICIENCY))
    fig, axes = plt.subplots(1, len(TAUGHT), figsize=(10, 3.2), sharex=True, sharey=True)
    for ax, (way, title) in zip(axes, TAUGHT.items(), strict=True):
        for arm in EFFICIENCY:
            own, look = frame[frame.arm == arm + way], looks[arm]
            if len(own):
                ax.errorbar(own.labels, own.value, yerr=[own.value - own.low, own.high - own.value], color=look.color, capsize=3,
                            ls=look.linestyle, marker=look.marker, mfc="white", label=arm)
                several = own[own.seeds > 1]
                ax.plot(several.labels, several.value, look.marker, color=look.color, zorder=3)  # over the hollow ones
        none = frame[frame.arm == ablate.SYNTHETIC]
        if len(none):
            ax.axhline(none.value.iloc[0], color=plots.GREY, ls=":", label=f"{ablate.SYNTHETIC}, no label")
        shares = sorted(set(frame.labels[frame.labels > 0]))
        ax.set(xscale="log", xlabel="share of the training labels", title=title)
        ax.xaxis.set(major_locator=FixedLocator(shares), minor_locator=NullLocator(), major_formatter=PercentFormatter(1, 0))
    axes[0].set_ylabel(f"validation TER, n = {int(frame.n.iloc[0]):,}")
    axes[0].set_ylim(bottom=0)
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def taught_figure(labels: float = 0.1) -> Figure | None:
    """TER of the headline arms by how the labels teach, at one share of them; bars are 95 % intervals, filled marks rest on
    several seeds. None where fewer than two ways have records."""
    import matplotlib.pyplot as plt

    from mmlib import plots

    arms = ("mask-match", "contrastive", "simclr", "supervised", "supervised-total")
    found = outcomes_of("valid", labels=labels, profile=ablate.PROFILE)
    titles = TAUGHT | {_ENDINGS[ablate.LONGER]: "recombined, no side\nlosses, 5 x as long",
                       _ENDINGS[ablate.PUBLISHED]: "as written, no side\nlosses, 5 x as long"}
    ways = [way for way in titles if sum(arm + way in found for arm in arms) > 1]
    if len(ways) < 2:
        return None
    fig, ax = plt.subplots(figsize=(10, 3.4))
    for k, (arm, look) in enumerate(plots.looks(arms).items()):
        label: str | None = f"{arm}: same fine-tuning, nothing before" if arm == "supervised" else arm
        for x, way in enumerate(ways):
            if arm + way in found:
                one = interval(*metric_sums(found[arm + way], "ter"))
                ax.errorbar(x + 0.12 * (k - 2), one.value, yerr=[[one.value - one.low], [one.high - one.value]], capsize=3, ms=7,
                            color=look.color, marker=look.marker, mfc=look.color if one.seeds > 1 else "white", ls="",
                            label=label)
                label = None  # one line of the legend
    ax.set(xticks=range(len(ways)), xticklabels=[titles[way] for way in ways], ylabel=f"validation TER, n = {one.n:,}",
           ylim=(0, None), title=f"{labels:.0%} of the labels")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig
