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
from mmlib.study.arms import LABELS_ALONE, MASKED, OURS
from mmlib.study.attention_report import FEW

MATCH_TERMS = {
    "slots": "slots (InfoNCE)", "points": "masked points", "agreement": "disagreement of maps",
    "entropy": "entropy", "overlap": "overlap", "blank": "mass off the ink",
}  # fmt: skip
TERM_LOOKS = dict(zip(MATCH_TERMS, map(plots.Look, plots.COLOURS, "osD^vP")))  # in every figure
CONTROLS = {
    "mask-match": "stage 2", "untrained": "untrained weights", "encoder-norm": "length of features",
    "position-only": "stage 2, mean by position", "flat": "even over paper",
    "shuffled": "shuffled over ink",
}  # fmt: skip
TITLES = {
    OURS: f"Mask & Match\n({OURS})", LABELS_ALONE: f"labels alone\n({LABELS_ALONE})",
    "supervised": "labels alone, fewer\npictures (supervised)",
}  # fmt: skip
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
    if frame.arm.nunique() > 1:
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
        label = f"{TITLES.get(name, name)}, {seeds} seed{'s' * (seeds != 1)}"
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
    """A panel for each frame of subsets: points with 95 % intervals, the arms side by side."""
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
    """Ratios of maps: a row for each class of symbols, a marker for each arm and control."""
    fig, ax = plt.subplots(figsize=(7, 0.55 * ratios.part.nunique() + 1.2))
    ax.axvline(1, color=plots.GREY, lw=1, label="uniform over ink")
    names = _intervals(ax, ratios, "part", 0.12, True, CONTROLS)
    counts = ratios.groupby("part").n.max()
    for edge in range(1, len(names)):
        ax.axhline(edge - 0.5, color="0.9", lw=0.8, zorder=0)
    ticks = [f"{name}\n{counts[name]:.0f} expressions" for name in names]
    ax.set(yticklabels=ticks,
           xlabel="the class's share of the map / of the ink\n95 % intervals, one seed")
    fig.suptitle(title, x=0.02, ha="left")
    ax.legend(**BESIDE)
    return fig


def _intervals(ax: Axes, frame: DataFrame, group: str, step: float, across: bool = False,
               titles: Mapping[str, str] = TITLES) -> list[str]:
    """Values with their intervals, the arms of a group `step` apart. Returns the groups.

    `across`: along x. Hollow marks rest on one seed, where the frame has a column that tells it.
    Pale ones rest on fewer than `FEW` expressions: nothing is concluded of them.
    """
    names, arms = list(dict.fromkeys(frame[group])), plots.looks(frame.arm)
    for k, (arm, look) in enumerate(arms.items()):
        label: str | None = titles.get(arm, arm)
        rows = frame[frame.arm == arm].sort_values("n", ascending=False, kind="stable")
        for row in rows.itertuples():
            at = names.index(getattr(row, group)) + step * (k - (len(arms) - 1) / 2)
            spread = np.nan_to_num([[row.value - row.low], [row.high - row.value]])
            place: dict[str, Any] = {"x": at, "y": row.value, "yerr": spread}
            if across:
                place = {"x": row.value, "y": at, "xerr": spread}
            fill = "white" if getattr(row, "seeds", None) == 1 else look.color
            ax.errorbar(**place, fmt=look.marker, color=look.color, mfc=fill, ms=5, lw=1,
                        label=label, alpha=1 if row.n >= FEW else 0.35)
            label = None
    if across:
        ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    return names


def rivals_figure(losses: DataFrame) -> Figure:
    """Validation loss of models against pictures and minutes, a row for each way to train them.

    losses has model (the first is ours), losses, pictures, minutes, parameters, expressions and
    median (nats per token).
    """
    hows, models = list(losses.losses.unique()), losses.model.unique()
    drawn = dict(zip(models, map(plots.Look, plots.COLOURS, "osD^vP")))
    size = (6.4, 2.4 * len(hows) + 0.8)
    fig, axes = plt.subplots(len(hows), 2, figsize=size, sharex="col", sharey="row", squeeze=False)
    for pair, how in zip(axes, hows):
        for model, rows in losses[losses.losses == how].groupby("model", sort=False):
            look, million = drawn[model], rows.parameters.iloc[0] / 1e6
            for ax, x in zip(pair, (rows.pictures / 1_000, rows.minutes)):
                ax.plot(x, rows["median"], color=look.color, marker=look.marker, markersize=4,
                        label=f"{model}, {million:.1f} million weights")
        pair[0].set(title=how, ylabel="validation loss\n(lower is better)", xlim=(0, None),
                    ylim=(0, None))
    axes[-1, 0].set(xlabel="pictures seen (thousands)")
    axes[-1, 1].set(xlabel="minutes at the speeds\nmeasured side by side", xlim=(0, None))
    axes[0, 1].set_title(f"n = {losses.expressions.iloc[0]:.0f}, one training each", loc="right")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left",
               title="loss in nats per token of", alignment="left")
    return fig


def pilot_figure(frame: DataFrame, rival: str) -> Figure:
    """`claims.pilot_intervals`, a row each, fewest errors first; line and band are the rival's."""
    frame = frame.sort_values("value").reset_index(drop=True)
    short = frame.arm.str.removeprefix("Mask & Match, ").str.replace("stage ", "stage\N{NBSP}")
    names = [fill(name, 31, break_on_hyphens=False) for name in short]
    alone, ours = frame.arm == "Mask & Match, match alone", frame.arm.str.startswith("Mask & Match")
    kinds = np.select([alone, ours], ["match alone", OURS], LABELS_ALONE)
    titles = {OURS: "our extension of the match", LABELS_ALONE: "labels alone",
              "match alone": "the match alone, as the abstract has it"}
    (line,) = frame[frame.arm == rival].itertuples()
    fig, ax = plt.subplots(figsize=(5.8, 0.36 * len(names) + 2.2))
    ax.axvspan(line.low, line.high, color=plots.BLUE, alpha=0.12, lw=0)
    ax.axvline(line.value, color=plots.BLUE, lw=1, ls="--", label=rival)
    _intervals(ax, frame.assign(arm=kinds, pair=names), "pair", 0, across=True, titles=titles)
    ax.set_xlabel(f"capped TER (lower is better), 95 % intervals, n = {line.n:,}")
    beside, spent = ax.twinx(), [f"{round(count, -3):,.0f}" for count in frame.pictures]
    beside.set(yticks=ax.get_yticks(), yticklabels=spent, ylim=ax.get_ylim(),
               ylabel="pictures in all")
    beside.tick_params(right=False)
    said = f"Fewest errors: {titles[kinds[0]]}"
    for row in frame[alone].itertuples():
        said += "; without it no difference found" * (row.less_low < 0 < row.less_high)
    fig.suptitle(f"{said}\nBest of {ours.sum()} forms, one seed", x=0.02, ha="left")
    fig.legend(loc="outside lower left")
    return fig


def differences_figure(frame: DataFrame, label: str) -> Figure:
    """`comparisons.differences`, a row each with its interval; hollow marks rest on one seed."""
    names = [f"{TITLES.get(a, a)}, {seeds} seed{'s' * (seeds > 1)}"
             for a, seeds in zip(frame.a, frame.seeds)]
    ours = TITLES.get(frame.b.iloc[0], frame.b.iloc[0]).partition("\n")[0]
    if len(frame) == 1:
        less = np.array([*frame.by_seed.iloc[0].values()])
        said = (f"{ours}, with our extension: fewer errors than\n{frame.a.iloc[0]} on "
                f"{(less > 0).sum()} of {len(less)} seeds")
    else:
        said = f"{ours} has fewer errors than {(frame.low > 0).sum()} of {len(frame)} arms"
    fig, ax = plt.subplots(figsize=(6, 0.34 * len(names) + 1.4))
    ax.axvline(0, color=plots.GREY, lw=1)
    _intervals(ax, frame.assign(arm=frame.a, pair=names), "pair", 0, across=True)
    ax.set_xlabel(f"{label}, arm minus {ours}\n(right of 0: {ours} has fewer errors)\n"
                  f"95 % interval, n = {frame.n.iloc[0]:,.0f} expressions")
    fig.suptitle(said, x=0.02, ha="left")
    return fig


def occlusion_figure(frame: DataFrame) -> Figure:
    """`occluded`: TER against the share of ink masked; bands are 95 % intervals.

    Visible mask and silent removal have a panel each.
    """
    # Without the ending, arms look as they do in the other figures.
    frame = frame.assign(arm=frame.arm.str.removesuffix(f", {MASKED}"))
    ways = list(dict.fromkeys(frame.way))
    fig, axes = plt.subplots(1, len(ways), figsize=(3.9 * len(ways), 3.2), sharey=True,
                             squeeze=False)
    for ax, way in zip(axes[0], ways):
        for arm, (color, marker, line) in plots.looks(frame.arm).items():
            rows = frame[(frame.arm == arm) & (frame.way == way)]
            ax.plot(rows.share, rows.value, color=color, marker=marker, ls=line,
                    label=TITLES.get(arm, arm))
            ax.fill_between(rows.share, rows.low, rows.high, color=color, alpha=0.15, lw=0)
        ax.set(xlabel="share of ink masked", title=way)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set(ylabel="validation TER", ylim=(0, None))
    seeds = int(frame.seeds.min())
    counted = f"n = {frame.n.iloc[0]:,}, {seeds} seed{'s' * (seeds > 1)}"
    axes[0, -1].legend(**BESIDE, alignment="left", title=counted)
    return fig
