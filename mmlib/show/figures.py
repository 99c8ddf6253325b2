"""Figures of the results: learning curves, subsets, attention, the study."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from pandas import DataFrame

from mmlib.show import style as plots
from mmlib.study.arms import MASKED
from mmlib.study.attention_report import FEW

MATCH_TERMS = {
    "slots": "slots (InfoNCE)", "points": "masked points", "agreement": "disagreement of maps",
    "entropy": "entropy", "overlap": "overlap", "blank": "mass off the ink",
}  # fmt: skip
TERM_LOOKS = dict(zip(MATCH_TERMS, map(plots.Look, plots.COLOURS, "osD^vP")))  # in every figure
CONTROLS = {
    "mask-match": "stage 2",
    "untrained": "untrained weights",
    "encoder-norm": "length of features",
    "position-only": "its mean by position",
    "flat": "even over paper",
    "shuffled": "shuffled over ink",
}
# A legend right of its panel.
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}


def learning_figure(frame: DataFrame) -> Figure:
    """Validation TER (top) and ExpRate (bottom) of each arm against pictures and minutes."""
    costs = {"total_pictures": "pictures, all stages (thousands)",
             "total_minutes": "minutes, all stages"}
    metrics = {"valid_ter": "validation TER\n(lower is better)",
               "valid_exprate": "validation ExpRate\n(higher is better)"}
    fig, axes = plt.subplots(2, 2, figsize=(7.2, 4.6), sharex="col", sharey="row")
    for row, (key, title) in zip(axes, metrics.items()):
        for ax, x in zip(row, costs):
            curve(ax, frame.dropna(subset=[x, key]), x, key)
        row[0].set(ylabel=title, ylim=(0, None))
    for ax, name in zip(axes[1], costs.values()):
        ax.set_xlabel(name)
    axes[1, 0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}"))
    axes[1, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 1].legend(**BESIDE)
    if "valid_n" in frame and frame.valid_n.notna().any():
        said = f"n = {frame.valid_n.max():.0f}, read greedily"
        axes[0, 1].set_title(said, loc="right", fontsize="small", color=plots.GREY)
    return fig


def curve(ax: Axes, frame: DataFrame, x: str, y: str) -> None:
    """One line per arm, the mean over seeds at each x; a band of one standard deviation if several.

    frame: tidy rows with columns `x`, `y`, `arm` and `seed`. Labels state each arm's seeds.
    """
    for name, look in plots.looks(frame.arm).items():
        rows = frame[frame.arm == name]
        seeds, found = rows.seed.nunique(), rows.groupby(x)[y].agg(["mean", "std"])
        label = f"{name} ({seeds} seed{'s' * (seeds != 1)})"
        ax.plot(found.index, found["mean"], color=look.color, linestyle=look.linestyle,
                marker=look.marker, markersize=4, label=label)
        if seeds > 1:
            low, high = found["mean"] - found["std"], found["mean"] + found["std"]
            ax.fill_between(found.index, low, high, color=look.color, alpha=0.15, lw=0)


def stages_figure(first: DataFrame, second: DataFrame) -> Figure:
    """Validation curves of stages 1 and 2: retrieval of partners, match losses, shape of maps."""
    matched = {"global_match": "whole expression", "local_match": "ink point"}
    losses, shapes = dict(list(MATCH_TERMS.items())[:3]), dict(list(MATCH_TERMS.items())[3:])
    panels = [(first, matched, "stage 1: partners found in the batch", "share (higher is better)"),
              (second, losses, "stage 2: match, as masks grow", "loss (lower is better)"),
              (second, shapes, "stage 2: shape of the maps", "value, from 0 to 1")]
    fig, axes = plt.subplots(3, 1, figsize=(6, 6.6))
    looks = plots.looks(matched) | TERM_LOOKS
    for ax, (frame, terms, title, unit) in zip(axes, panels):
        for key, label in terms.items():
            for number, (_, rows) in enumerate(frame.groupby("run", sort=True)):
                ax.plot(rows.pictures / 1000, rows[f"valid_{key}"], color=looks[key].color,
                        marker=looks[key].marker, markersize=4, label=None if number else label)
        if len(frame):
            ax.legend(**BESIDE)
        ax.set(ylabel=unit, title=title, ylim=(0, None))
    for stage, ax in enumerate(axes[::2], 1):
        ax.set_xlabel(f"pictures seen in stage {stage} (thousands); held-out ink")
    return fig


def parts_figure(by: Mapping[str, DataFrame], titles: Mapping[str, str], label: str) -> Figure:
    """A panel for each frame of subsets: points with intervals, the arms side by side."""
    shown = {key: frame for key, frame in by.items() if len(frame)}
    size = (6, 2.7 * len(shown))
    fig, axes = plt.subplots(len(shown), 1, figsize=size, sharey=True, squeeze=False)
    for ax, (key, frame) in zip(axes[:, 0], shown.items()):
        names, counts = _intervals(ax, frame, "subset", 0.14), frame.groupby("subset").n.first()
        ticks = [f"{name}\nn = {counts[name]:,}" for name in names]
        ax.set(xticks=range(len(names)), xticklabels=ticks, xlabel=titles[key], ylabel=label)
    # Only now: the panels share this axis, and setting its end stops it from growing.
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].legend(**BESIDE)
    return fig


def ratios_figure(ratios: DataFrame, title: str = "") -> Figure:
    """Ratios of maps: a row for each class of symbols, a marker for each arm and control.

    A class that few expressions have is pale: nothing is concluded of it.
    """
    fig, ax = plt.subplots(figsize=(7, 0.55 * ratios.part.nunique() + 1))
    ax.axvline(1, color=plots.GREY, lw=1, label="uniform over ink")
    names, counts = _intervals(ax, ratios, "part", 0.12, True), ratios.groupby("part").n.max()
    for edge in range(1, len(names)):
        ax.axhline(edge - 0.5, color="0.9", lw=0.8, zorder=0)
    for k in (k for k, name in enumerate(names) if counts[name] < FEW):
        ax.axhspan(k - 0.45, k + 0.45, color="white", alpha=0.7, lw=0, zorder=5)
    ticks = [f"{name}\n{counts[name]:.0f} expressions" for name in names]
    ax.set(yticks=range(len(names)), yticklabels=ticks, ylim=(len(names) - 0.5, -0.5), title=title,
           xlabel="their share of the map / their share of the ink; 95 % intervals, one seed")
    for text in ax.legend(**BESIDE).get_texts():
        text.set_text(CONTROLS.get(text.get_text(), text.get_text()))
    return fig


def _intervals(ax: Axes, frame: DataFrame, group: str, step: float, across: bool = False
               ) -> list[str]:
    """Values with their intervals, the arms of a group `step` apart. Returns the groups.

    `across`: along x. Hollow marks rest on one seed, where the frame has a column that tells it.
    """
    names, arms = list(dict.fromkeys(frame[group])), plots.looks(frame.arm)
    for k, (arm, look) in enumerate(arms.items()):
        label: str | None = arm
        for row in frame[frame.arm == arm].itertuples():
            at = names.index(getattr(row, group)) + step * (k - (len(arms) - 1) / 2)
            spread = np.nan_to_num([[row.value - row.low], [row.high - row.value]])
            place: dict[str, Any] = {"x": at, "y": row.value, "yerr": spread}
            if across:
                place = {"x": row.value, "y": at, "xerr": spread}
            fill = "white" if getattr(row, "seeds", None) == 1 else look.color
            ax.errorbar(**place, fmt=look.marker, color=look.color, mfc=fill,
                        ms=5, lw=1, label=label)
            label = None
    return names


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
        pair[0].set(ylabel="validation loss\n(nats per token)", xlim=(0, None), ylim=(0, None))
    axes[-1, 0].set(xlabel="pictures seen (thousands)")
    axes[-1, 1].set(xlabel="minutes at the speeds measured side by side", xlim=(0, None))
    counted = f"n = {losses.expressions.iloc[0]:.0f} expressions, one training each"
    axes[0, 1].set_title(counted, loc="right")
    axes[-1, 1].legend(title="model, its parameters")
    return fig


# --- the study ------------------------------------------------------------------------------------


def pilot_figure(frame: DataFrame, rival: str) -> Figure:
    """`claims.pilot_intervals`, a row each, fewest errors first; line and band are the rival's.

    Marks are hollow: each rests on one seed.
    """
    frame = frame.sort_values("value").reset_index(drop=True)
    names = [fill(arm.removeprefix("Mask & Match, "), 27) for arm in frame.arm]
    (line,), best = frame[frame.arm == rival].itertuples(), frame.iloc[0]
    fig, ax = plt.subplots(figsize=(5.4, 0.38 * len(names) + 1.1))
    ax.axvline(line.value, color=plots.BLUE, lw=1, ls="--")
    ax.axvspan(line.low, line.high, color=plots.BLUE, alpha=0.12, lw=0)
    ours = frame.arm.str.startswith("Mask & Match")
    for rows, color, title in ((frame[ours], plots.RED, "Mask & Match"),
                               (frame[~ours], plots.BLUE, "labels alone")):
        spread = [rows.value - rows.low, rows.high - rows.value]
        ax.errorbar(rows.value, rows.index, xerr=spread, fmt="o", color=color, mfc="white",
                    capsize=3, label=title)
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5),
           xlabel=f"capped TER (lower is better), n = {best.n:,}, one seed")
    fig.suptitle(f"Fewest errors: {best.arm.removeprefix('Mask & Match, ')}\n"
                 f"Line and band: {rival}, 95 % interval", x=0.02, ha="left", fontsize="large")
    ax.legend(loc="lower left")
    return fig


def differences_figure(frame: DataFrame, label: str) -> Figure:
    """`comparisons.differences`, a row each with its interval; hollow marks rest on one seed."""
    names = [f"{row.a} minus {row.b}  ({row.seeds} seed{'s' * (row.seeds > 1)})"
             for row in frame.itertuples()]
    fig, ax = plt.subplots(figsize=(8, 0.3 * len(names) + 1.1))
    ax.axvline(0, color=plots.GREY, lw=1)
    _intervals(ax, frame.assign(arm=frame.a, pair=names), "pair", 0, across=True)
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5),
           xlabel=label, title=f"n = {int(frame.n.iloc[0]):,} expressions")
    return fig


def occlusion_figure(frame: DataFrame) -> Figure:
    """`occluded`: TER against the share of ink masked; bands are 95 % intervals.

    Visible mask and silent removal have a panel each.
    """
    # Without the ending, arms look as they do in the other figures.
    frame = frame.assign(arm=frame.arm.str.removesuffix(f", {MASKED}"))
    ways = list(dict.fromkeys(frame.way))
    size = (3.9 * len(ways), 3.2)
    fig, axes = plt.subplots(1, len(ways), figsize=size, sharey=True, squeeze=False)
    for ax, way in zip(axes[0], ways):
        for arm, (color, marker, line) in plots.looks(frame.arm).items():
            rows = frame[(frame.arm == arm) & (frame.way == way)]
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
    fig, ax = plt.subplots(figsize=(6, 3.2))
    shares = _intervals(ax, frame.sort_values("labels"), "labels", 0.12)
    ax.set(xticks=range(len(shares)), xticklabels=[f"{share:.0%}" for share in shares],
           xlabel="share of the training labels", ylim=(0, None),
           ylabel=f"capped TER (lower is better), n = {int(frame.n.iloc[0]):,}")
    ax.legend(**BESIDE)
    return fig
