"""Figures of the results that two notebooks draw, or that want more than a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlib.measure.intervals import Interval, interval
from mmlib.study import grid as ablate
from mmlib.study.comparisons import metric_sums, outcomes_of, seeds_of, ter_of
from mmlib.study.grid_results import EFFICIENCY, ENDINGS, TAUGHT, at_share, efficiency, grid_differences

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from mmlib.show.style import Look

MATCH_TERMS = {"slots": "slots (InfoNCE)", "points": "masked points", "agreement": "disagreement of maps", "entropy": "entropy",
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


def grid_figure(labels: float = 1.0) -> Figure:
    """`grid_differences`, a row for each arm under what it is compared with; filled where both arms have several seeds, hollow
    with one. The grey band of such rows is where the reference's other seeds stand against the one that was compared."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from mmlib.show import style as plots

    found, seeds = grid_differences(labels), seeds_of("valid", labels=at_share(labels), profile=ablate.PROFILE)
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
    """`occluded`: TER against the share of ink masked, visible mask and silent removal apart; bands are 95 % intervals."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    from mmlib.show import style as plots

    ending = ablate.REFERENCE[ablate.MASKED].removeprefix("mask-match")
    ways = list(dict.fromkeys(frame.way))
    chosen = plots.looks(arm.removesuffix(ending) for arm in frame.arm)  # as in the other figures
    fig, axes = plt.subplots(1, len(ways), figsize=(3.9 * len(ways), 3.2), sharey=True, squeeze=False)
    for ax, way in zip(axes[0], ways, strict=True):
        for arm, look in chosen.items():
            rows = frame[(frame.arm.str.removesuffix(ending) == arm) & (frame.way == way)]
            ax.plot(rows.share, rows.value, color=look.color, marker=look.marker, ls=look.linestyle, label=arm)
            ax.fill_between(rows.share, rows.low, rows.high, color=look.color, alpha=0.15, lw=0)
        ax.set(xlabel="share of ink masked", title=way)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set(ylabel="validation TER", ylim=(0, None))
    seeds = int(frame.seeds.min())
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1), alignment="left",
                       title=f"n = {frame.n.iloc[0]:,}, {seeds} seed{'s' * (seeds > 1)}")
    return fig



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
    titles = TAUGHT | {ENDINGS[ablate.LONGER]: "recombined, no side\nlosses, 5 x as long",
                       ENDINGS[ablate.PUBLISHED]: "as written, no side\nlosses, 5 x as long"}
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

