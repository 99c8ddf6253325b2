"""Figures of the results: learning curves, subsets, attention, the grid, label efficiency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mmlib.measure.intervals import Interval, interval
from mmlib.show import style as plots
from mmlib.study import grid
from mmlib.study.comparisons import metric_sums, outcomes_of, seeds_of, ter_of
from mmlib.study.grid_results import (
    EFFICIENCY,
    ENDINGS,
    TAUGHT,
    at_share,
    efficiency,
    grid_differences,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

MATCH_TERMS = {
    "slots": "slots (InfoNCE)",
    "points": "masked points",
    "agreement": "disagreement of maps",
    "entropy": "entropy",
    "overlap": "overlap",
    "blank": "mass off the ink",
}
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1)}  # a legend right of its panel


def learning_figure(frame: DataFrame,
                    xs: Sequence[str] = ("total_pictures", "total_minutes")) -> Figure:
    """Validation TER (top) and ExpRate (bottom) of each arm against its cost, a column per x."""
    names = {
        "total_pictures": "pictures seen, all stages (thousands)",
        "pictures": "pictures seen in fine-tuning (thousands)",
        "total_minutes": "minutes, all stages",
        "minutes": "minutes of fine-tuning",
    }
    size = (3.6 * len(xs), 4.6)
    fig, axes = plt.subplots(2, len(xs), figsize=size, sharex="col", sharey="row", squeeze=False)
    metrics = {"valid_ter": "validation TER", "valid_exprate": "validation ExpRate"}
    for row, (key, title) in zip(axes, metrics.items()):
        for ax, x in zip(row, xs):
            plots.curve(ax, frame.dropna(subset=[x, key]), x, key)
            ax.get_legend().remove()
            ax.set(xlabel="", ylabel="")
            if "pictures" in x:
                ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}"))
        row[0].set(ylabel=title, ylim=(0, None))
    for ax, x in zip(axes[1], xs):
        ax.set(xlabel=names[x])
    axes[0, -1].legend(**BESIDE)
    if "valid_n" in frame and frame.valid_n.notna().any():
        said = f"n = {frame.valid_n.max():.0f}, read greedily"
        axes[0, -1].set_title(said, loc="right", fontsize="small", color=plots.GREY)
    axes[1, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig


def stages_figure(first: DataFrame, second: DataFrame) -> Figure:
    """Validation curves of stages 1 and 2: retrieval of partners, match losses, shape of maps."""
    matched = {"global_match": "whole expression", "local_match": "ink point"}
    losses, shapes = dict(list(MATCH_TERMS.items())[:3]), dict(list(MATCH_TERMS.items())[3:])
    panels = [(first, matched, "stage 1, partners", "share found on held-out ink"),
              (second, losses, "stage 2, match", "loss on held-out ink"),
              (second, shapes, "stage 2, maps", "loss on held-out ink")]
    fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4))
    for ax, (frame, terms, title, unit) in zip(axes, panels):
        for (key, label), look in zip(terms.items(), plots.looks(terms).values()):
            for number, (_, rows) in enumerate(frame.groupby("run", sort=True)):
                ax.plot(rows.pictures / 1000, rows[f"valid_{key}"], color=look.color,
                        marker=look.marker, markersize=4, label=None if number else label)
        ax.set(xlabel="pictures seen in the stage (thousands)", ylabel=unit, title=title)
        ax.set_ylim(0, None)
        if len(frame):
            ax.legend(loc="upper left", bbox_to_anchor=(0, -0.22))
    return fig


def parts_figure(by: Mapping[str, DataFrame], titles: Mapping[str, str], label: str) -> Figure:
    """A panel for each frame of subsets: points with intervals, the arms side by side."""
    shown = {key: frame for key, frame in by.items() if len(frame)}
    size = (4.2 * len(shown), 3.1)
    fig, axes = plt.subplots(1, len(shown), figsize=size, sharey=True, squeeze=False)
    for ax, (key, frame) in zip(axes[0], shown.items()):
        names = list(dict.fromkeys(frame.subset))
        for rows, offset, options in _side_by_side(frame, 0.14):
            x = np.array([names.index(p) for p in rows.subset]) + offset
            spread = [rows.value - rows.low, rows.high - rows.value]
            ax.errorbar(x, rows.value, yerr=spread, **options)
        counts = frame.drop_duplicates("subset").set_index("subset").n
        ticks = [f"{p}\nn = {counts[p]:,}" for p in names]
        ax.set(xticks=range(len(names)), xticklabels=ticks, xlabel=titles[key])
    axes[0, 0].set_ylabel(label)
    # Only now: the panels share this axis, and setting its end stops it from growing.
    axes[0, 0].set_ylim(bottom=0)
    axes[0, -1].legend(**BESIDE)
    return fig


def ratios_figure(ratios: DataFrame) -> Figure:
    """Saliency ratios: a row for each class of symbols, a marker for each arm and control."""
    names = list(dict.fromkeys(ratios.part))
    fig, ax = plt.subplots(figsize=(7, 0.55 * len(names) + 1))
    ax.axvline(1, color=plots.GREY, lw=1, label="uniform over ink")
    for rows, offset, options in _side_by_side(ratios, 0.12):
        y = np.array([names.index(p) for p in rows.part]) + offset
        spread = [(rows.value - rows.low).fillna(0), (rows.high - rows.value).fillna(0)]
        ax.errorbar(rows.value, y, xerr=spread, **options)
    for edge in range(1, len(names)):
        ax.axhline(edge - 0.5, color="0.9", lw=0.8, zorder=0)
    counts = ratios.groupby("part").n.max()
    ticks = [f"{name} (n = {counts[name]:.0f})" for name in names]
    ax.set(yticks=range(len(names)), yticklabels=ticks, ylim=(len(names) - 0.5, -0.5))
    ax.set_xlabel("share of the saliency on ink / share of the ink, one seed")
    ax.legend(**BESIDE)
    return fig


def _side_by_side(frame: DataFrame, step: float) -> list[tuple[DataFrame, float, dict[str, Any]]]:
    """Each arm's rows, its offset from the middle of a group, and how its points are drawn."""
    chosen = plots.looks(frame.arm)
    middle = (len(chosen) - 1) / 2
    found = []
    for number, (arm, look) in enumerate(chosen.items()):
        options = {"fmt": look.marker, "color": look.color, "ms": 5, "lw": 1, "label": arm}
        found.append((frame[frame.arm == arm], step * (number - middle), options))
    return found


def rivals_figure(losses: DataFrame, speeds: Mapping[str, float]) -> Figure:
    """Validation loss of models against pictures and minutes, a row for each way to train them.

    losses has model, losses, pictures, parameters, expressions and median (nats per token); speeds
    has the pictures per second of 'training step, ' and the model's name.
    """
    hows = list(losses.losses.unique())
    drawn = plots.looks(losses.model.unique())
    size = (8, 2.5 * len(hows))
    fig, axes = plt.subplots(len(hows), 2, figsize=size, sharex="col", sharey="row", squeeze=False)
    for pair, how in zip(axes, hows):
        for model, rows in losses[losses.losses == how].groupby("model", sort=False):
            look, million = drawn[model], rows.parameters.iloc[0] / 1e6
            minutes = rows.pictures / speeds[f"training step, {model}"] / 60
            for ax, x in zip(pair, (rows.pictures / 1_000, minutes)):
                ax.plot(x, rows["median"], color=look.color, marker=look.marker, markersize=4,
                        label=f"{model}, {million:.1f} million")
        pair[0].set_title(how, loc="left")
        pair[0].set(ylabel="validation loss\n(nats per token)", xlim=(0, None))
    axes[-1, 0].set(xlabel="pictures seen (thousands)")
    axes[-1, 1].set(xlabel="minutes at the speeds measured side by side", xlim=(0, None))
    counted = f"n = {losses.expressions.iloc[0]:.0f} expressions, one training each"
    axes[0, 1].set_title(counted, loc="right")
    axes[0, 1].legend(title="parameters")
    return fig


# --- the grid -------------------------------------------------------------------------------------


def grid_figure(labels: float = 1.0) -> Figure:
    """`grid_differences`, a row for each arm under what it is compared with.

    Marks are filled where both arms have several seeds, hollow with one. The grey band of such a
    row shows the reference's other seeds, less the one that was compared.
    """
    found = grid_differences(labels)
    seeds = seeds_of("valid", labels=at_share(labels), profile=grid.PROFILE)
    ter = {arm: ter_of(own) for arm, own in seeds.items()}
    places: list[int] = []
    names: list[str] = []
    heads = []
    for (factor, reference), rows in found.groupby(["factor", "b"], sort=False):
        heads.append(len(names))
        places += range(len(names) + 1, len(names) + 1 + len(rows))
        names.append(f"{factor}: minus {reference}")
        ending = ", " + reference.partition(", ")[2]  # said once, in the heading
        for row in rows.itertuples():
            several = "s" * (row.seeds[0] > 1)
            names.append(f"{row.a.removesuffix(ending)}  ({row.seeds[0]} seed{several})")
    fig, ax = plt.subplots(figsize=(8.5, 0.2 * len(names) + 1.1))
    ax.axvline(0, color=plots.GREY, lw=1)
    marks: dict[str, Artist] = {  # of the legend, which has a third one only where there is a band
        "filled": Line2D([], [], marker="o", color=plots.BLUE, label="several seeds"),
        "hollow": Line2D([], [], marker="o", color=plots.BLUE, mfc="white", label="one seed"),
    }
    for y, row in zip(places, found.itertuples(), strict=True):
        one = min(row.seeds) == 1
        if one and len(ter[row.b]) > 1:
            compared = min(ter[row.a].keys() & ter[row.b].keys())
            band = [value - ter[row.b][compared] for value in ter[row.b].values()]
            ax.fill_betweenx([y - 0.5, y + 0.5], min(band), max(band), color="0.88", lw=0, zorder=0)
            said = "the reference's other seeds, less the one compared"
            marks["band"] = Patch(color="0.88", label=said)
        spread = [[row.value - row.low], [row.high - row.value]]
        fill = "white" if one else plots.BLUE
        ax.errorbar(row.value, y, xerr=spread, fmt="o", color=plots.BLUE, capsize=3, mfc=fill)
    counted = f"validation, {labels:.0%} of the labels, n = {int(found.n.iloc[0]):,} expressions"
    ax.set(yticks=places, yticklabels=[names[y] for y in places], ylim=(len(names) - 0.5, -0.5))
    ax.set(xlabel="difference in TER (right: what the heading names reads better)", title=counted)
    fig.legend(handles=[*marks.values()], loc="outside lower center", ncols=3, fontsize="small")
    box = {"color": "white", "pad": 1.5}
    across = ax.get_yaxis_transform()
    for y in heads:
        ax.text(0.015, y, names[y], transform=across, va="center", size="small", weight="bold",
                bbox=box)
    return fig


def occlusion_figure(frame: DataFrame) -> Figure:
    """`occluded`: TER against the share of ink masked; bands are 95 % intervals.

    Visible mask and silent removal have a panel each.
    """
    ending = grid.REFERENCE[grid.MASKED].removeprefix("mask-match")
    ways = list(dict.fromkeys(frame.way))
    chosen = plots.looks(arm.removesuffix(ending) for arm in frame.arm)  # as in the other figures
    size = (3.9 * len(ways), 3.2)
    fig, axes = plt.subplots(1, len(ways), figsize=size, sharey=True, squeeze=False)
    for ax, way in zip(axes[0], ways):
        for arm, (color, marker, line) in chosen.items():
            rows = frame[(frame.arm.str.removesuffix(ending) == arm) & (frame.way == way)]
            ax.plot(rows.share, rows.value, color=color, marker=marker, ls=line, label=arm)
            ax.fill_between(rows.share, rows.low, rows.high, color=color, alpha=0.15, lw=0)
        ax.set(xlabel="share of ink masked", title=way)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set(ylabel="validation TER", ylim=(0, None))
    seeds = int(frame.seeds.min())
    counted = f"n = {frame.n.iloc[0]:,}, {seeds} seed{'s' * (seeds > 1)}"
    axes[0, -1].legend(**BESIDE, alignment="left", title=counted)
    return fig


def efficiency_figure() -> Figure | None:
    """`efficiency`: TER of the headline arms at each share of the labels.

    A panel for each way of teaching with several shares; None where there is no such way yet. Bars
    are 95 % intervals; filled marks rest on several seeds.
    """
    frame = efficiency()
    shares = sorted(set(frame.labels[frame.labels > 0]))
    of = {way: frame[frame.arm.isin([arm + way for arm in EFFICIENCY])] for way in TAUGHT}
    shown = [way for way, own in of.items() if own.groupby("arm").labels.nunique().max() > 1]
    if not shown:
        return None
    fig, axes = plt.subplots(1, len(shown), figsize=(1.5 + 4.5 * len(shown), 3.2), sharex=True,
                             sharey=True, squeeze=False)
    for ax, way in zip(axes[0], shown):
        for k, (arm, look) in enumerate(plots.looks(EFFICIENCY).items()):
            own = of[way][of[way].arm == arm + way].itertuples()
            at = {shares.index(row.labels) + 0.12 * (k - 1.5): row for row in own}
            _marks(ax, at, look, arm)
        for row in frame[frame.arm == grid.SYNTHETIC].itertuples():
            ax.axhspan(row.low, row.high, color=plots.GREY, alpha=0.2, lw=0)
            said = f"{grid.SYNTHETIC},\nno real label"
            ax.axhline(row.value, color=plots.GREY, ls=":", label=said)
        ax.set(xticks=range(len(shares)), xticklabels=[f"{share:.0%}" for share in shares])
        ax.set(xlabel="share of the training labels", title=TAUGHT[way].replace("\n", " "))
        ax.set_ylim(0, None)
    axes[0, 0].set_ylabel(f"validation TER, n = {int(frame.n.iloc[0]):,}")
    axes[0, -1].legend(**BESIDE)
    return fig


def taught_figure(labels: float = 0.1) -> Figure | None:
    """TER of the headline arms by how the labels teach, at one share of them.

    Bars are 95 % intervals; filled marks rest on several seeds. None where fewer than two ways have
    records.
    """
    arms = ("mask-match", "contrastive", "simclr", "supervised", "supervised-total")
    found = outcomes_of("valid", labels=labels, profile=grid.PROFILE)
    titles = TAUGHT | {ENDINGS[grid.LONGER]: "recombined, no side\nlosses, 5 x as long",
                       ENDINGS[grid.PUBLISHED]: "as written, no side\nlosses, 5 x as long"}
    ways = [way for way in titles if sum(arm + way in found for arm in arms) > 1]
    if len(ways) < 2:
        return None
    fig, ax = plt.subplots(figsize=(10, 3.4))
    for k, (arm, look) in enumerate(plots.looks(arms).items()):
        at = {x + 0.12 * (k - 2): interval(*metric_sums(found[arm + way], "ter"))
              for x, way in enumerate(ways) if arm + way in found}
        alone = f"{arm}: same fine-tuning, nothing before"
        _marks(ax, at, look, alone if arm == "supervised" else arm)
    n = len(next(iter(found.values()))[0].id)
    ax.set(xticks=range(len(ways)), xticklabels=[titles[way] for way in ways], ylim=(0, None))
    ax.set(ylabel=f"validation TER, n = {n:,}", title=f"{labels:.0%} of the labels")
    ax.legend(**BESIDE)
    return fig


def _marks(ax: Axes, at: Mapping[float, Interval], look: plots.Look, label: str | None) -> None:
    """A mark with its interval at each x, filled where it rests on several seeds; one legend."""
    for x, one in at.items():
        fill = look.color if one.seeds > 1 else "white"
        spread = [[one.value - one.low], [one.high - one.value]]
        ax.errorbar(x, one.value, yerr=spread, capsize=3, ms=7, color=look.color,
                    marker=look.marker, mfc=fill, ls="", label=label)
        label = None
