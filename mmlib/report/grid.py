"""The grid of ablations: its table, its differences, reading with ink hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmlib.measure.intervals import Interval, holm, interval, paired_difference
from mmlib.report.arms import NO_RECORD, number, scored
from mmlib.report.outcomes import differences, metric_sums, outcomes_in, outcomes_of, seeds_of, ter_of
from mmlib.store import records
from mmlib.store.runs import results_root
from mmlib.study import grid as ablate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from mmlib.show.style import Look

EFFICIENCY = ("mask-match", "contrastive", "simclr", "supervised-total")  # the arms of the label-efficiency plot
# How labels teach: what an arm's name ends with, and a title.
_ENDINGS = {factor: arm.removeprefix("mask-match") for factor, arm in ablate.REFERENCE.items()}
TAUGHT = {"": "labels recombined,\nside losses", _ENDINGS[ablate.PLAIN]: "labels as written,\nside losses",
          _ENDINGS[ablate.SIDELESS]: "labels recombined,\nno side losses"}


def _shares(labels: float) -> tuple[float, ...]:
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
    found = differences(pairs, split, metric, dataset, _shares(labels), profile)
    several = found.seeds.map(min) > 1
    found["p"] = found.p.where(several)
    if several.any():
        found.loc[several, "p"] = holm(found.p[several])
    return found.assign(factor=[factor for a in found.a for factor, arms in ablate.GRID.items() if a in arms])


def grid_table(labels: float = 1.0, split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE) -> DataFrame:
    """The grid of ablations, a row for each arm with a record: its cost, TER (mean, and std over seeds where there are several)
    and `grid_differences` as text, both also capped: with at most as many errors in an expression as its label has tokens."""
    import pandas as pd

    of = split, dataset, _shares(labels), profile
    frame, found = scored(*of), seeds_of(*of)
    frame = frame[frame.metric.isin(["ter", "exprate"])]  # a probe of the arm's encoder had no label, either, and cost less
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
    tokens over reference tokens) and outcomes, by seed. A share of 0 is the same in both ways.
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
    reference = ablate.REFERENCE[ablate.COVERED]
    for way, members in frame.groupby("way", sort=False):
        of = {arm: own.sort_values("share") for arm, own in members.groupby("arm") if len(own) == members.share.nunique()}
        whole = {arm: set.intersection(*map(set, own.outcomes)) for arm, own in of.items()}
        for arm, own in ((arm, own) for arm, own in of.items() if whole[arm]):
            mean, rise, length = _under_covers(own, sorted(whole[arm]))
            area = interval(mean, length)
            row = {"arm": arm, "way": way, "area": area.value, "low": area.low, "high": area.high, "n": area.n,
                   "seeds": area.seeds, "rise": interval(rise, length, n_boot=1).value}
            if arm != reference and (common := sorted(whole[arm] & whole.get(reference, set()))):
                our_mean, our_rise, _ = _under_covers(of[reference], common)
                mean, rise, _ = _under_covers(own, common)
                for name, ours, theirs in (("difference", our_mean, mean), ("rise_difference", our_rise, rise)):
                    less = paired_difference(ours, theirs, length, same_seeds=True)
                    row |= {name: less.value, f"{name}_low": less.low, f"{name}_high": less.high, f"{name}_p": less.p}
                row |= {"against": reference, "relative": row["difference"] / interval(mean, length, n_boot=1).value,
                        "common": len(common)}
            rows.append(row)
    bounds = [name + end for name in ("difference", "rise_difference") for end in ("", "_low", "_high", "_p")]
    return pd.DataFrame(rows, columns=["arm", "way", "area", "low", "high", "rise", "against", *bounds, "relative", "n", "seeds",
                                       "common"])


def _under_covers(own: DataFrame, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Of an arm's rows of `occluded`, by share: token errors (seeds, n) averaged over the shares, those at the last share less
    those at the first, and the labels' lengths; of these seeds."""
    weights = np.trapezoid(np.eye(len(own)), own.share, axis=1) / np.ptp(own.share)  # of each share in the mean
    errors = [metric_sums([found[seed] for seed in seeds], "ter") for found in own.outcomes]
    mean = sum(weight * values for weight, (values, _) in zip(weights, errors, strict=True))
    return np.asarray(mean), errors[-1][0] - errors[0][0], errors[0][1]


def grid_figure(labels: float = 1.0) -> Figure:
    """`grid_differences`, a row for each arm under what it is compared with; filled where both arms have several seeds, hollow
    with one. The grey band of such rows is where the reference's other seeds stand against the one that was compared."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from mmlib.show import style as plots

    found, seeds = grid_differences(labels), seeds_of("valid", labels=_shares(labels), profile=ablate.PROFILE)
    ter = {arm: ter_of(own) for arm, own in seeds.items()}
    places: list[int] = []
    names: list[str] = []
    heads = []
    for (factor, reference), rows in found.groupby(["factor", "b"], sort=False):
        heads.append(len(names))
        places += range(len(names) + 1, len(names) + 1 + len(rows))
        ending = ", " + reference.partition(", ")[2]  # said once, in the heading
        names += [f"{factor}: minus {reference}"]
        names += [f"{row.a.removesuffix(ending)}  ({row.seeds[0]} seed{'s' * (row.seeds[0] > 1)})" for row in rows.itertuples()]
    fig, ax = plt.subplots(figsize=(8.5, 0.2 * len(names) + 1.1))
    ax.axvline(0, color=plots.GREY, lw=1)
    marks: dict[str, Artist] = {  # the legend's: only where there is a band has it a third
        "filled": Line2D([], [], marker="o", color=plots.BLUE, label="several seeds"),
        "hollow": Line2D([], [], marker="o", color=plots.BLUE, mfc="white", label="one seed")}
    for y, row in zip(places, found.itertuples(), strict=True):
        one = min(row.seeds) == 1
        if one and len(ter[row.b]) > 1:
            compared = min(ter[row.a].keys() & ter[row.b].keys())
            band = [value - ter[row.b][compared] for value in ter[row.b].values()]
            ax.fill_betweenx([y - 0.5, y + 0.5], min(band), max(band), color="0.88", lw=0, zorder=0)
            marks["band"] = Patch(color="0.88", label="the reference's other seeds, less the one compared")
        ax.errorbar(row.value, y, xerr=[[row.value - row.low], [row.high - row.value]], fmt="o", color=plots.BLUE, capsize=3,
                    mfc="white" if one else plots.BLUE)
    ax.set(yticks=places, yticklabels=[names[y] for y in places], ylim=(len(names) - 0.5, -0.5),
           xlabel="difference in TER (right: what the heading names reads better)",
           title=f"validation, {labels:.0%} of the labels, n = {int(found.n.iloc[0]):,} expressions")
    fig.legend(handles=[*marks.values()], loc="outside lower center", ncols=3, fontsize="small")
    for y in heads:
        ax.text(0.015, y, names[y], transform=ax.get_yaxis_transform(), va="center", size="small", weight="bold",
                bbox={"color": "white", "pad": 1.5})
    return fig


def occlusion_figure(frame: DataFrame) -> Figure:
    """`occluded`: TER against the share of ink hidden, visible covers and silent removal apart; bands are 95 % intervals."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    from mmlib.show import style as plots

    ending = ablate.REFERENCE[ablate.COVERED].removeprefix("mask-match")
    ways = list(dict.fromkeys(frame.way))
    chosen = plots.looks(arm.removesuffix(ending) for arm in frame.arm)  # as in the other figures
    fig, axes = plt.subplots(1, len(ways), figsize=(3.9 * len(ways), 3.2), sharey=True, squeeze=False)
    for ax, way in zip(axes[0], ways, strict=True):
        for arm, look in chosen.items():
            rows = frame[(frame.arm.str.removesuffix(ending) == arm) & (frame.way == way)]
            ax.plot(rows.share, rows.value, color=look.color, marker=look.marker, ls=look.linestyle, label=arm)
            ax.fill_between(rows.share, rows.low, rows.high, color=look.color, alpha=0.15, lw=0)
        ax.set(xlabel="share of ink hidden", title=way)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set(ylabel="validation TER", ylim=(0, None))
    seeds = int(frame.seeds.min())
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1), alignment="left",
                       title=f"n = {frame.n.iloc[0]:,}, {seeds} seed{'s' * (seeds > 1)}")
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
    """`efficiency`: TER of the headline arms at each share of the labels, a panel for each way in which they teach that has
    several shares; bars are 95 % intervals, filled marks rest on several seeds. None where there is no such way yet."""
    import matplotlib.pyplot as plt

    from mmlib.show import style as plots

    frame = efficiency()
    shares = sorted(set(frame.labels[frame.labels > 0]))
    of = {way: frame[frame.arm.isin([arm + way for arm in EFFICIENCY])] for way in TAUGHT}
    shown = {way: own for way, own in of.items() if own.groupby("arm").labels.nunique().max() > 1}
    if not shown:
        return None
    fig, axes = plt.subplots(1, len(shown), figsize=(1.5 + 4.5 * len(shown), 3.2), sharex=True, sharey=True, squeeze=False)
    for ax, way in zip(axes[0], shown, strict=True):
        for k, (arm, look) in enumerate(plots.looks(list(EFFICIENCY)).items()):
            own = of[way][of[way].arm == arm + way]
            _marks(ax, {shares.index(row.labels) + 0.12 * (k - 1.5): row for row in own.itertuples()}, look, arm)
        for row in frame[frame.arm == ablate.SYNTHETIC].itertuples():
            ax.axhspan(row.low, row.high, color=plots.GREY, alpha=0.2, lw=0)
            ax.axhline(row.value, color=plots.GREY, ls=":", label=f"{ablate.SYNTHETIC},\nno real label")
        ax.set(xticks=range(len(shares)), xticklabels=[f"{share:.0%}" for share in shares], xlabel="share of the training labels",
               ylim=(0, None), title=TAUGHT[way].replace("\n", " "))
    axes[0, 0].set_ylabel(f"validation TER, n = {int(frame.n.iloc[0]):,}")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def _marks(ax: Axes, at: Mapping[float, Interval], look: Look, label: str | None) -> None:
    """A mark with its interval at each x, filled where it rests on several seeds; one line of the legend."""
    for x, one in at.items():
        ax.errorbar(x, one.value, yerr=[[one.value - one.low], [one.high - one.value]], capsize=3, ms=7, color=look.color,
                    marker=look.marker, mfc=look.color if one.seeds > 1 else "white", ls="", label=label)
        label = None


def taught_figure(labels: float = 0.1) -> Figure | None:
    """TER of the headline arms by how the labels teach, at one share of them; bars are 95 % intervals, filled marks rest on
    several seeds. None where fewer than two ways have records."""
    import matplotlib.pyplot as plt

    from mmlib.show import style as plots

    arms = ("mask-match", "contrastive", "simclr", "supervised", "supervised-total")
    found = outcomes_of("valid", labels=labels, profile=ablate.PROFILE)
    titles = TAUGHT | {_ENDINGS[ablate.LONGER]: "recombined, no side\nlosses, 5 x as long",
                       _ENDINGS[ablate.PUBLISHED]: "as written, no side\nlosses, 5 x as long"}
    ways = [way for way in titles if sum(arm + way in found for arm in arms) > 1]
    if len(ways) < 2:
        return None
    fig, ax = plt.subplots(figsize=(10, 3.4))
    for k, (arm, look) in enumerate(plots.looks(arms).items()):
        _marks(ax, {x + 0.12 * (k - 2): interval(*metric_sums(found[arm + way], "ter")) for x, way in enumerate(ways)
                    if arm + way in found}, look, f"{arm}: same fine-tuning, nothing before" if arm == "supervised" else arm)
    n = len(next(iter(found.values()))[0].id)
    ax.set(xticks=range(len(ways)), xticklabels=[titles[way] for way in ways], ylabel=f"validation TER, n = {n:,}",
           ylim=(0, None), title=f"{labels:.0%} of the labels")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig
