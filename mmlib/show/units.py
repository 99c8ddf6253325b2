"""What masked reading sees of an expression: its units, their clusters, and the sequence."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from mmlib.data.pack import Indices, Pack
from mmlib.data.sample import Sample, from_pack
from mmlib.data.unit_shapes import clustered_units
from mmlib.data.units import RELATIONS, relation
from mmlib.formula.ink import Ink
from mmlib.show import style
from mmlib.show.ink import draw_ink, gallery

ARROWS = dict(zip(RELATIONS, "→↗↑↖←↙↓↘⊙", strict=True))


def unit_inks(sample: Sample, centres: np.ndarray) -> list[tuple[int, Ink]]:
    """The cluster and the ink of each unit of a sample, in the order in which they are written."""
    strokes = np.split(sample.points, np.flatnonzero(np.diff(sample.stroke)) + 1)
    unit, named = clustered_units(sample.points, sample.stroke, centres)
    return [(int(name), Ink.from_strokes([strokes[s] for s in np.flatnonzero(unit == u)]))
            for u, name in enumerate(named)]


def sequence_figure(sample: Sample, centres: np.ndarray) -> Figure:
    """An expression in the colours of its units, and under it the sequence to write: of each unit
    the number of its cluster, between two units how the second lies to the first."""
    found = unit_inks(sample, centres)
    with style.style():
        fig, (above, below) = plt.subplots(2, 1, figsize=(8, 3.2), height_ratios=(3, 1))
        for k, (name, ink) in enumerate(found):
            color = style.COLOURS[k % len(style.COLOURS)]
            draw_ink(above, ink, color)
            left, _, right, bottom = ink.bounds()
            above.text((left + right) / 2, bottom + 0.15, str(name), ha="center", va="top",
                       color=color, fontsize=10, weight="bold")
        above.autoscale()
        above.margins(0.03, 0.15)
        above.set_title("units, and the cluster of each unit's ink")
        boxes = [np.reshape(ink.bounds(), (2, 2)) for _, ink in found]
        words = [str(found[0][0])]
        for (a, b), (name, _) in zip(pairwise(boxes), found[1:], strict=True):
            words += [ARROWS[RELATIONS[relation(*a, *b)]], str(name)]
        below.text(0.5, 0.5, "  ".join(words), ha="center", va="center", fontsize=12,
                   fontfamily="DejaVu Sans", wrap=True, transform=below.transAxes)
        below.set_title("the sequence that the student writes, forwards")
        below.axis("off")
    return fig


def clusters_figure(pack: Pack, indices: Indices, centres: np.ndarray, rows: int = 6,
                    columns: int = 12) -> Figure:
    """Units of other expressions, a row for each of the largest clusters."""
    members: dict[int, list[Ink]] = defaultdict(list)
    for i in indices:
        for name, ink in unit_inks(from_pack(pack, int(i)), centres):
            members[name].append(ink)
    inks, titles = [], []
    for name in sorted(members, key=lambda name: (-len(members[name]), name))[:rows]:
        # Spread over the expressions: neighbours may be one hand's.
        spread = np.linspace(0, len(members[name]) - 1, columns).astype(int)
        inks += [members[name][k] for k in spread]
        titles += [f"cluster {name}\n{len(members[name])} units", *[""] * (columns - 1)]
    return gallery(inks, titles, columns, style.BLACK, height=0.85, width=0.72 * columns)
