"""What masked reading sees of an expression: its units, their clusters, and the sequence."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection

from mmlib.data.sample import Sample, from_pack
from mmlib.data.unit_shapes import clustered_units
from mmlib.data.units import RELATIONS, relation, units
from mmlib.show import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmlib.data.pack import Indices, Pack

Strokes = list[np.ndarray]  # (n, 2) points each, in typical symbols
ARROWS = dict(zip(RELATIONS, "→↗↑↖←↙↓↘⊙", strict=True))


def unit_strokes(sample: Sample, unit: np.ndarray | None = None) -> list[Strokes]:
    """The strokes of each unit of a sample, in the order in which masked reading writes them.

    unit: (s,) of each stroke, where it is known.
    """
    strokes = np.split(sample.points, np.flatnonzero(np.diff(sample.stroke)) + 1)
    unit = units(sample.points, sample.stroke) if unit is None else unit
    return [[strokes[s] for s in np.flatnonzero(unit == u)] for u in range(unit.max() + 1)]


def sequence_figure(sample: Sample, centres: np.ndarray) -> Figure:
    """An expression in the colours of its units, and under it the sequence to write: of each unit
    the number of its cluster, between two units how the second lies to the first."""
    unit, named = clustered_units(sample.points, sample.stroke, centres)
    found = unit_strokes(sample, unit)
    boxes = [(np.concatenate(own).min(0), np.concatenate(own).max(0)) for own in found]
    with style.style():
        fig, (above, below) = plt.subplots(2, 1, figsize=(8, 3.2), height_ratios=(3, 1))
        for i, (own, (low, high)) in enumerate(zip(found, boxes, strict=True)):
            color = style.COLOURS[i % (len(style.COLOURS) - 1)]
            _draw(above, own, color)
            at = (low[0] + high[0]) / 2, high[1] + 0.15
            above.annotate(str(named[i]), at, ha="center", va="top", color=color, fontsize=9)
        above.autoscale()
        above.margins(0.03, 0.15)
        above.invert_yaxis()
        above.set_aspect("equal")
        above.set_title("units, and the cluster of each unit's ink")
        words = [str(named[0])]
        for (a, b), name in zip(pairwise(boxes), named[1:], strict=True):
            words += [ARROWS[RELATIONS[relation(*a, *b)]], str(name)]
        below.text(0.5, 0.5, "  ".join(words), ha="center", va="center", fontsize=12,
                   fontfamily="DejaVu Sans", wrap=True, transform=below.transAxes)
        below.set_title("the sequence that the student writes")
        for ax in (above, below):
            ax.axis("off")
    return fig


def clusters_figure(pack: Pack, indices: Indices, centres: np.ndarray, rows: int = 6,
                    columns: int = 12) -> Figure:
    """Units of other expressions, a row for each of the largest clusters."""
    members: dict[int, list[Strokes]] = defaultdict(list)
    for i in indices:
        sample = from_pack(pack, int(i))
        unit, named = clustered_units(sample.points, sample.stroke, centres)
        for name, own in zip(named.tolist(), unit_strokes(sample, unit), strict=True):
            members[name].append(own)
    largest = sorted(members, key=lambda name: (-len(members[name]), name))[:rows]
    with style.style():
        fig, axes = plt.subplots(rows, columns, figsize=(0.6 * columns, 0.6 * rows + 0.4),
                                 squeeze=False)
        for ax in axes.flat:
            ax.axis("off")
        for line, name in zip(axes, largest, strict=False):
            line[0].set_title(f"cluster {name}", loc="left", fontsize=8, pad=2)
            # Spread over the expressions: neighbours may be one hand's.
            chosen = np.linspace(0, len(members[name]) - 1, columns).astype(int)
            for ax, at in zip(line, dict.fromkeys(chosen.tolist()), strict=False):
                _draw(ax, members[name][at], style.BLACK)
                ax.autoscale()
                ax.margins(0.1)
                ax.invert_yaxis()
                ax.set_aspect("equal", adjustable="datalim")
    return fig


def _draw(ax: Axes, strokes: Strokes, color: str) -> None:
    """Strokes of one colour; a stroke without length becomes a dot."""
    ax.add_collection(LineCollection(strokes, colors=color, linewidths=1.5, capstyle="round"))
    dots = np.array([stroke[0] for stroke in strokes if not np.ptp(stroke, axis=0).any()])
    if len(dots):
        ax.scatter(dots[:, 0], dots[:, 1], s=9, color=color, lw=0)
