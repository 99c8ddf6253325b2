"""Figures of the results that two notebooks draw, or that want more than a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from mmlib.show.style import Look

MATCH_TERMS = {"slots": "slots (InfoNCE)", "points": "covered points", "agreement": "disagreement of maps", "entropy": "entropy",
               "overlap": "overlap", "blank": "mass off the ink"}


def learning_figure(frame: DataFrame, xs: Sequence[str] = ("total_pictures", "total_minutes")) -> Figure:
    """Validation TER (top) and ExpRate (bottom) of each arm against what it has cost, one column for each of `xs`."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    from mmlib.show import style as plots

    names = {"total_pictures": "pictures seen, all stages (thousands)", "pictures": "pictures seen in fine-tuning (thousands)",
             "total_minutes": "minutes, all stages", "minutes": "minutes of fine-tuning"}
    fig, axes = plt.subplots(2, len(xs), figsize=(3.6 * len(xs), 4.6), sharex="col", sharey="row", squeeze=False)
    for row, (key, title) in enumerate((("valid_ter", "validation TER"), ("valid_exprate", "validation ExpRate"))):
        for column, x in enumerate(xs):
            ax = axes[row, column]
            plots.curve(ax, frame.dropna(subset=[x, key]), x, key)
            ax.get_legend().remove()
            ax.set(xlabel=names[x] if row else "", ylabel=title if not column else "")
            if "pictures" in x:
                ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}"))
        axes[row, 0].set_ylim(bottom=0)
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    if "valid_n" in frame and frame.valid_n.notna().any():
        axes[0, -1].set_title(f"n = {frame.valid_n.max():.0f}, read greedily", loc="right", fontsize="small", color=plots.GREY)
    axes[1, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig


def stages_figure(first: DataFrame, second: DataFrame) -> Figure:
    """Held-out curves of stages 1 and 2: the retrieval of partners, the match's losses, the maps' shape."""
    import matplotlib.pyplot as plt

    from mmlib.show import style as plots

    panels = [(first, {"global_match": "whole expression", "local_match": "ink point"}, "stage 1, partners",
               "share found on held-out ink"),
              (second, dict(list(MATCH_TERMS.items())[:3]), "stage 2, match", "loss on held-out ink"),
              (second, dict(list(MATCH_TERMS.items())[3:]), "stage 2, maps", "loss on held-out ink")]
    fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4))
    for ax, (frame, terms, title, unit) in zip(axes, panels, strict=True):
        for (key, label), look in zip(terms.items(), plots.looks(terms).values(), strict=True):
            for number, (_, rows) in enumerate(frame.groupby("run", sort=True)):
                ax.plot(rows.pictures / 1000, rows[f"valid_{key}"], color=look.color, marker=look.marker, markersize=4,
                        label=label if not number else None)
        ax.set(xlabel="pictures seen in the stage (thousands)", ylabel=unit, title=title, ylim=(0, None))
        if len(frame):
            ax.legend(loc="upper left", bbox_to_anchor=(0, -0.22))
    return fig


def _dots(look: Look) -> dict[str, Any]:
    """A look for points with intervals."""
    return {"fmt": look.marker, "color": look.color, "ms": 5, "lw": 1}


def parts_figure(by: Mapping[str, DataFrame], titles: Mapping[str, str], label: str) -> Figure:
    """A panel for each frame of `parts`: points with intervals, the arms side by side."""
    import matplotlib.pyplot as plt

    from mmlib.show import style as plots

    shown = {key: frame for key, frame in by.items() if len(frame)}
    fig, axes = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.1), sharey=True, squeeze=False)
    for ax, (key, frame) in zip(axes[0], shown.items(), strict=True):
        names, chosen = list(dict.fromkeys(frame.part)), plots.looks(frame.arm)
        for number, (arm, look) in enumerate(chosen.items()):
            rows = frame[frame.arm == arm]
            x = np.array([names.index(p) for p in rows.part]) + 0.14 * (number - (len(chosen) - 1) / 2)
            ax.errorbar(x, rows.value, yerr=[rows.value - rows.low, rows.high - rows.value], label=arm, **_dots(look))
        counts = frame.drop_duplicates("part").set_index("part").n
        ax.set(xticks=range(len(names)), xticklabels=[f"{p}\nn = {counts[p]:,}" for p in names], xlabel=titles[key])
    axes[0, 0].set_ylabel(label)
    axes[0, 0].set_ylim(bottom=0)  # only now: the panels share it, and setting it ends its growth
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def ratios_figure(ratios: DataFrame) -> Figure:
    """Ratios as `attention_report.recorded` has them: a row for each class of symbols, a marker for each arm and control."""
    import matplotlib.pyplot as plt

    from mmlib.show import style as plots

    names, chosen = list(dict.fromkeys(ratios.part)), plots.looks(dict.fromkeys(ratios.arm))
    fig, ax = plt.subplots(figsize=(7, 0.55 * len(names) + 1))
    ax.axvline(1, color=plots.GREY, lw=1, label="uniform over ink")
    for number, (arm, look) in enumerate(chosen.items()):
        rows = ratios[ratios.arm == arm]
        y = np.array([names.index(p) for p in rows.part]) + 0.12 * (number - (len(chosen) - 1) / 2)
        spread = [(rows.value - rows.low).fillna(0), (rows.high - rows.value).fillna(0)]
        ax.errorbar(rows.value, y, xerr=spread, label=arm, **_dots(look))
    for edge in range(1, len(names)):
        ax.axhline(edge - 0.5, color="0.9", lw=0.8, zorder=0)
    counts = ratios.groupby("part").n.max()
    ax.set(yticks=range(len(names)), yticklabels=[f"{name} (n = {counts[name]:.0f})" for name in names],
           ylim=(len(names) - 0.5, -0.5), xlabel="share of the saliency on ink / share of the ink, one seed")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def rivals_figure(looks: DataFrame, speeds: Mapping[str, float]) -> Figure:
    """Validation loss of models against pictures seen and against minutes, a row for each way to train them (`losses`).

    looks has model, losses, pictures, parameters, expressions and median (nats a token); speeds the pictures a second of
    'training step, ' and the model's name.
    """
    import matplotlib.pyplot as plt

    from mmlib.show import style as plots

    hows = list(looks.losses.unique())
    drawn = plots.looks(looks.model.unique())
    fig, axes = plt.subplots(len(hows), 2, figsize=(8, 2.5 * len(hows)), sharex="col", sharey="row", squeeze=False)
    for pair, how in zip(axes, hows, strict=True):
        for model, rows in looks[looks.losses == how].groupby("model", sort=False):
            minutes = rows.pictures / speeds[f"training step, {model}"] / 60
            for ax, x in zip(pair, (rows.pictures / 1_000, minutes), strict=True):
                ax.plot(x, rows["median"], color=drawn[model].color, marker=drawn[model].marker, markersize=4,
                        label=f"{model}, {rows.parameters.iloc[0] / 1e6:.1f} million")
        pair[0].set_title(how, loc="left")
        pair[0].set(ylabel="validation loss\n(nats a token)", xlim=(0, None))
    axes[-1, 0].set(xlabel="pictures seen (thousands)")
    axes[-1, 1].set(xlabel="minutes at the speeds measured side by side", xlim=(0, None))
    axes[0, 1].set_title(f"n = {looks.expressions.iloc[0]:.0f} expressions, one training each", loc="right")
    axes[0, 1].legend(title="parameters")
    return fig
