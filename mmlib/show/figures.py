"""Figures of the results: learning curves, subsets, attention, the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mmlib.measure.intervals import Interval
from mmlib.show import style as plots
from mmlib.study.arms import MASKED

if TYPE_CHECKING:
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
    metrics = {"valid_ter": "validation TER\n(lower is better)",
               "valid_exprate": "validation ExpRate\n(higher is better)"}
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
    panels = [(first, matched, "stage 1, partners found", "share (higher is better)"),
              (second, losses, "stage 2, match, as masks grow", "loss (lower is better)"),
              (second, shapes, "stage 2, shape of the maps", "loss (lower is better)")]
    fig, axes = plt.subplots(3, 1, figsize=(6, 6.6))
    for ax, (frame, terms, title, unit) in zip(axes, panels):
        for (key, label), look in zip(terms.items(), plots.looks(terms).values()):
            for number, (_, rows) in enumerate(frame.groupby("run", sort=True)):
                ax.plot(rows.pictures / 1000, rows[f"valid_{key}"], color=look.color,
                        marker=look.marker, markersize=4, label=None if number else label)
        if len(frame):
            key, label = next(iter(terms.items()))
            start, end = frame[f"valid_{key}"].iloc[[0, -1]]
            title = f"{title}: {label} from {start:.2f} to {end:.2f}"
            ax.legend(**BESIDE)
        ax.set(ylabel=unit, title=title, ylim=(0, None))
    axes[-1].set(xlabel="pictures seen in the stage (thousands); held-out ink, one seed")
    return fig


def parts_figure(by: Mapping[str, DataFrame], titles: Mapping[str, str], label: str) -> Figure:
    """A panel for each frame of subsets: points with intervals, the arms side by side."""
    shown = {key: frame for key, frame in by.items() if len(frame)}
    size = (6, 2.7 * len(shown))
    fig, axes = plt.subplots(len(shown), 1, figsize=size, sharey=True, squeeze=False)
    for ax, (key, frame) in zip(axes[:, 0], shown.items()):
        names = list(dict.fromkeys(frame.subset))
        for rows, offset, options in _side_by_side(frame, 0.14):
            x = np.array([names.index(p) for p in rows.subset]) + offset
            spread = [rows.value - rows.low, rows.high - rows.value]
            ax.errorbar(x, rows.value, yerr=spread, **options)
        counts = frame.drop_duplicates("subset").set_index("subset").n
        ticks = [f"{p}\nn = {counts[p]:,}" for p in names]
        ax.set(xticks=range(len(names)), xticklabels=ticks, xlabel=titles[key], ylabel=label)
    # Only now: the panels share this axis, and setting its end stops it from growing.
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].legend(**BESIDE)
    return fig


def ratios_figure(ratios: DataFrame, title: str = "") -> Figure:
    """Ratios of maps: a row for each class of symbols, a marker for each arm and control."""
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
    ax.set(xlabel="a map's share on these symbols / their share of the ink, one seed", title=title)
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


# --- the study ------------------------------------------------------------------------------------


def differences_figure(frame: DataFrame, label: str) -> Figure:
    """`comparisons.differences`, a row each with its interval; hollow marks rest on one seed."""
    names = [f"{row.a} minus {row.b}  ({row.seeds} seed{'s' * (row.seeds > 1)})"
             for row in frame.itertuples()]
    fig, ax = plt.subplots(figsize=(8, 0.3 * len(names) + 1.1))
    ax.axvline(0, color=plots.GREY, lw=1)
    for y, row in enumerate(frame.itertuples()):
        fill = "white" if row.seeds == 1 else plots.BLUE
        spread = [[row.value - row.low], [row.high - row.value]]
        ax.errorbar(row.value, y, xerr=spread, fmt="o", color=plots.BLUE, capsize=3, mfc=fill)
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5),
           xlabel=label, title=f"n = {int(frame.n.iloc[0]):,} expressions")
    return fig


def occlusion_figure(frame: DataFrame) -> Figure:
    """`occluded`: TER against the share of ink masked; bands are 95 % intervals.

    Visible mask and silent removal have a panel each.
    """
    ending = f", {MASKED}"
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


def labels_figure(frame: DataFrame) -> Figure:
    """Error of arms at each share of the labels: columns arm, labels and those of an `Interval`.

    Bars are 95 % intervals; filled marks rest on several seeds.
    """
    shares = sorted(set(frame.labels))
    fig, ax = plt.subplots(figsize=(6, 3.2))
    for k, (arm, look) in enumerate(plots.looks(frame.arm).items()):
        at = {shares.index(row.labels) + 0.12 * (k - 1): row
              for row in frame[frame.arm == arm].itertuples()}
        _marks(ax, at, look, arm)
    ax.set(xticks=range(len(shares)), xticklabels=[f"{share:.0%}" for share in shares])
    ax.set(xlabel="share of the training labels", ylim=(0, None),
           ylabel=f"capped TER (lower is better), n = {int(frame.n.iloc[0]):,}")
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
