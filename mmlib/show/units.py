"""What masked reading sees of an expression: its units, their clusters, and the sequence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle, pairwise, zip_longest
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

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


def sequence_figure(sample: Sample, centres: np.ndarray, masked: Sequence[int] = ()) -> Figure:
    """An expression in the colours of its clusters, and under it the sequence to write: of each
    unit the number of its cluster, between two units how the second lies to the first.

    Units `masked` lie under a box, and their clusters stand out in the sequence.
    """
    found = unit_inks(sample, centres)
    box: dict[str, Any] = {"color": style.ORANGE, "alpha": 0.75, "lw": 0}
    names = dict.fromkeys(name for name, _ in found)
    plain = [colour for colour in style.COLOURS if colour != style.ORANGE]  # that is the mask's
    colours = dict(zip(names, cycle([*plain, "#7A3E00"])))
    with style.style():
        fig, (above, below) = plt.subplots(2, 1, figsize=(8, 3.2), height_ratios=(3, 1))
        for k, (name, ink) in enumerate(found):
            color = colours[name]
            draw_ink(above, ink, color)
            left, top, right, bottom = ink.bounds()
            if k in masked:
                above.add_patch(Rectangle((left - 0.1, top - 0.1), right - left + 0.2,
                                          bottom - top + 0.2, zorder=3, **box))
            above.text((left + right) / 2, bottom + 0.15, str(name), ha="center", va="top",
                       color=color, fontsize=10, weight="bold")
        above.autoscale()
        above.margins(0.03, 0.15)
        above.set_title("units, coloured by the cluster of their ink"
                        + "; the student does not see what lies under a box" * bool(masked))
        boxes = [np.reshape(ink.bounds(), (2, 2)) for _, ink in found]
        arrows = [ARROWS[RELATIONS[relation(*a, *b)]] for a, b in pairwise(boxes)]
        words = [word for (name, _), arrow in zip_longest(found, arrows) for word in (name, arrow)]
        for place, word in enumerate(words[:-1]):
            hidden = place % 2 == 0 and place // 2 in masked
            below.text((place + 0.5) / (len(words) - 1), 0.5, str(word), ha="center", va="center",
                       fontsize=12, fontfamily="DejaVu Sans", transform=below.transAxes,
                       bbox=box if hidden else None)
        below.set_title("the sequence to write, forwards"
                        + "; orange: to be guessed from the neighbours" * bool(masked))
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
