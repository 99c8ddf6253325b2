"""One look for every figure: style, a colour and a marker for each arm, ink, curves, intervals, tables.

`style()` is a context; `save` writes PNG and SVG that are the same bytes for the same data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.rcsetup import cycler

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmlib.formula.ink import Ink

# Okabe and Ito's palette: told apart by readers with any colour vision.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#7F7F7F"
OVER_MEAN = 3.0  # times a map's mean that the strongest colour of a relative map stands for
_COLOURS = (RED, BLUE, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)  # yellow is too pale for a line
_MARKERS = "osD^vPX*<>hp"


class Look(NamedTuple):
    """How an arm is drawn, in every figure."""

    color: str
    marker: str
    linestyle: str = "-"


ARMS: Mapping[str, Look] = {
    "mask-match": Look(RED, "o"),
    "contrastive": Look(ORANGE, "D"),
    "simclr": Look(SKY, "^"),
    "dense": Look(GREEN, "v"),
    "byol": Look(PURPLE, "P"),
    "mae": Look(GREY, "X"),
    "supervised": Look(BLUE, "s"),
    "supervised-total": Look(BLUE, "D", "--"),
    "random-attention": Look(BLACK, "<", "--"),
    "random-masking": Look(BLACK, ">", ":"),
    "synthetic": Look(GREY, "*", "-."),
}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each arm: the fixed one of `ARMS`, or by order of name one that no other of them has."""
    names = list(dict.fromkeys(names))
    taken = {ARMS[name][:2] for name in names if name in ARMS}
    free = (
        Look(color, _MARKERS[(i + lap) % len(_MARKERS)], ("-", "--", ":", "-.")[lap % 4])
        for lap in range(len(_MARKERS))
        for i, color in enumerate(_COLOURS)
        if (color, _MARKERS[(i + lap) % len(_MARKERS)]) not in taken
    )
    chosen = {name: ARMS.get(name) or next(free) for name in sorted(names)}
    return {name: chosen[name] for name in names}


@contextmanager
def style(**overrides: Any) -> Iterator[None]:
    """The project's rc settings for the figures made inside; `overrides` are further rc settings."""
    import seaborn as sns

    settings: dict[Any, Any] = {  # matplotlib's types know the names alone that its own version has
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper"),
        "axes.prop_cycle": cycler(color=_COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
        "legend.frameon": False,
        "savefig.dpi": 200,
        "svg.hashsalt": "mmlib",
        **overrides,
    }
    with mpl.rc_context(settings):
        yield


def save(fig: Figure, name: str, folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Write ``<name>.png`` (200 dpi) and ``<name>.svg``, without dates; returns both paths.

    folder: default `mmlib.store.runs.figures_root`; made if missing.
    """
    if folder is None:
        from mmlib.store.runs import figures_root

        folder = figures_root()
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder, f"{name}.{kind}") for kind in ("png", "svg")]
    with mpl.rc_context({"svg.hashsalt": "mmlib"}):
        fig.savefig(paths[0], dpi=200, metadata={"Software": None})
        fig.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths


def draw_ink(ax: Axes, ink: Ink, color: str = "order", width: float = 1.5) -> None:
    """Draw the strokes of an ink with equal aspect, y down, no axes.

    color: 'order' (first stroke dark, last bright), 'symbol' (one colour per labelled symbol, grey for none),
    or any matplotlib colour.
    """
    strokes = ink.strokes()
    colors: np.ndarray | list[str]
    if color == "order":
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(strokes)))
    elif color == "symbol":
        colors = shades = [GREY] * len(strokes)
        for i, symbol in enumerate(ink.symbols):
            for s in symbol.strokes:
                shades[s] = _COLOURS[i % (len(_COLOURS) - 1)]
    else:
        colors = [color] * len(strokes)
    dots = [len(s) == 1 or not np.ptp(s, axis=0).any() for s in strokes]
    lines = LineCollection(strokes, colors=colors, linewidths=width, capstyle="round", joinstyle="round")
    ax.add_collection(lines)
    if any(dots):
        at, shade = zip(
            *[(s[0], c) for s, c, dot in zip(strokes, colors, dots, strict=True) if dot], strict=True
        )
        x, y = np.array(at).T
        ax.scatter(x, y, s=(2 * width) ** 2, color=shade, lw=0)
    left, top, right, bottom = ink.bounds()
    margin = 0.04 * max(right - left, bottom - top) or 1.0
    ax.set(xlim=(left - margin, right + margin), ylim=(bottom + margin, top - margin), aspect="equal")
    ax.axis("off")


def heat_over_ink(
    ax: Axes,
    ink: Ink,
    heat: np.ndarray,
    extent: tuple[float, float, float, float] | None = None,
    vmax: float | None = None,
    relative: bool = False,
) -> Any:
    """A map (h, w) on its cells, with the ink on top. Returns the image, for a colour bar.

    extent: left, right, bottom, top of the map in ink units, with bottom > top as y points down (default: the
    bounds of the ink). vmax: the value of the strongest colour (default: the map's own maximum). relative: colours
    are for times the map's mean, up to `OVER_MEAN`, so a flat map is pale all over, and maps compare.
    """
    if relative:
        heat = np.asarray(heat)
        heat, vmax = heat / max(float(heat.mean()), 1e-12), OVER_MEAN
    left, top, right, bottom = ink.bounds()
    draw_ink(ax, ink, color=BLACK, width=1.0)
    limits = ax.get_xlim(), ax.get_ylim()
    image = ax.imshow(
        heat, extent=extent or (left, right, bottom, top), cmap="YlOrRd", vmin=0, vmax=vmax, alpha=0.8,
        interpolation="nearest", zorder=0, aspect="equal",
    )  # fmt: skip
    ax.set(xlim=limits[0], ylim=limits[1])
    return image


def curve(
    ax: Axes, frame: pd.DataFrame, x: str, y: str, arm: str = "arm", seed: str = "seed", markers: bool = True
) -> None:
    """One line per arm, the mean over seeds at each x; a band of one standard deviation if several.

    frame: tidy rows with columns `x`, `y`, `arm` and, if there are several runs, `seed`. The legend states
    each arm's number of seeds.
    """
    for name, look in looks(frame[arm]).items():
        rows = frame[frame[arm] == name]
        points = rows.groupby(x)[y].agg(["mean", "std"]).sort_index()
        seeds = rows[seed].nunique() if seed in rows else 1
        label = f"{name} ({seeds} seed{'s' * (seeds != 1)})"
        ax.plot(
            points.index, points["mean"], color=look.color, linestyle=look.linestyle,
            marker=look.marker if markers else None, markersize=4, label=label,
        )  # fmt: skip
        if seeds > 1:
            low, high = points["mean"] - points["std"], points["mean"] + points["std"]
            ax.fill_between(points.index, low, high, color=look.color, alpha=0.15, lw=0)
    ax.set(xlabel=x, ylabel=y)
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if len(ax.get_lines()) > 5 else {}
    ax.legend(**beside)


def bars_with_intervals(
    ax: Axes,
    frame: pd.DataFrame,
    label: str = "arm",
    value: str = "value",
    low: str = "low",
    high: str = "high",
) -> None:
    """One horizontal bar per row, in the frame's order from the top, with its interval and its number.

    `label` names the row and chooses its look; `low` and `high` may be missing or NaN.
    """
    chosen = looks(frame[label])
    bounds = frame.reindex(columns=[low, high]).to_numpy(float)
    for i, (name, number, (bottom, top)) in enumerate(zip(frame[label], frame[value], bounds, strict=True)):
        ax.barh(i, number, color=chosen[name].color, height=0.7)
        ax.plot([bottom, top], [i, i], color=GREY if chosen[name].color == BLACK else BLACK, lw=1.2)
        ax.annotate(
            f"{number:.3g}",
            (np.nanmax([number, top, 0.0]), i),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    ax.set(yticks=range(len(frame)), yticklabels=list(frame[label]))
    ax.set(ylim=(len(frame) - 0.5, -0.5), xlabel=value)
    ax.margins(x=0.12)


def annotate_n(ax: Axes, n: int, seeds: int = 1) -> None:
    """State in the corner what a panel was computed from."""
    text = f"n = {n:,} expressions, {seeds} seed{'s' * (seeds != 1)}"
    ax.annotate(text, (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize="small", color=GREY)
