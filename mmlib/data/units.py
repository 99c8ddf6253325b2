"""Writing units: strokes grouped into what is probably one sign each, without any label.

Masked reading (stage 2) writes an expression down as its units, in the order of the pen. It
needs signs before anybody has named them. Strokes make one unit if they follow one another
closely and touch, cross, or lie on top of each other as the two bars of an equals sign do.
Between neighbouring units stands how the second lies to the first, one of `RELATIONS`.

The rules use no label. Held against the segmentation of CROHME's training ink, nine signs of
ten are exactly one unit. That was a check of the rules: nothing is trained with it.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mmlib.data.sample import Batch, Sample, padded
from mmlib.formula.vocabulary import Vocabulary

# All lengths are in typical symbols.
TOUCH = 0.12  # ink nearer than this belongs together
REACH = 3  # how many strokes later a dot or a bar may come
BAR = 1.6  # wider and flat: a fraction bar or a root's roof, which touches what is not its own
DOT = 0.25  # a smaller stroke is a dot
GAP = 0.7  # from a dot to what it belongs to, and between the bars of an equals sign

RELATIONS = ("right", "up right", "up", "up left", "left", "down left", "down", "down right",
             "inside")


def units(points: np.ndarray, stroke: np.ndarray) -> np.ndarray:
    """The unit (s,) of each stroke, numbered from 0 in the order in which they were begun.

    points: (n, 2) in typical symbols; stroke: (n,) non-decreasing from 0 without gaps.
    """
    strokes = np.split(points, np.flatnonzero(np.diff(stroke)) + 1)
    unit = np.arange(len(strokes))
    for j in range(1, len(strokes)):
        for i in range(max(0, j - REACH), j):
            if unit[i] != unit[j] and _belong(strokes[i], strokes[j], j - i):
                unit[unit == unit[j]] = unit[i]
    return np.unique(unit, return_inverse=True)[1]


def _belong(a: np.ndarray, b: np.ndarray, apart: int) -> bool:
    """Whether two strokes, the second `apart` strokes later, are of one sign."""
    low, high = np.stack([a.min(0), b.min(0)]), np.stack([a.max(0), b.max(0)])
    gap = np.maximum(low.max(0) - high.min(0), 0)  # between the boxes, across and down
    if gap.max() > GAP:
        return False
    wide, tall = (high - low).T
    shared = min(high[:, 0]) - max(low[:, 0])  # width that both have; negative side by side
    flat, dot = tall < 0.3 * wide, np.maximum(wide, tall) < DOT
    bar = flat & (wide > BAR)
    if apart == 1 and flat.all() and not bar.any():  # the two bars of an equals sign
        return bool(shared > 0.5 * wide.max())
    if dot.any() and apart <= 2:  # of an i or a j; two dots are of an ellipsis
        return bool(not dot.all() and not bar.any() and shared > -0.1)
    if bar.any() and not bar.all():
        return False
    if gap.max() >= TOUCH:
        return False
    apart_by = _dense(a)[:, None] - _dense(b)
    return bool(np.square(apart_by).sum(2).min() < TOUCH**2)


def _dense(stroke: np.ndarray) -> np.ndarray:
    """The stroke with points at most `TOUCH` apart: a pack keeps few on straight lines."""
    if len(stroke) < 2:
        return stroke
    length = np.r_[0, np.hypot(*np.diff(stroke, axis=0).T).cumsum()]
    at = np.linspace(0, length[-1], int(length[-1] / TOUCH) + 2)
    return np.stack([np.interp(at, length, axis) for axis in stroke.T], 1)


def relation(a_low: np.ndarray, a_high: np.ndarray, b_low: np.ndarray, b_high: np.ndarray) -> int:
    """How box b lies to box a, as an index into `RELATIONS`: the eighth of the circle in which
    its centre is seen from the centre of a."""
    if (b_low >= a_low).all() and (b_high <= a_high).all():
        return len(RELATIONS) - 1
    dx, dy = (b_low + b_high - a_low - a_high) / 2
    return int(np.round(np.arctan2(-dy, dx) / (np.pi / 4))) % 8


def with_units(sample: Sample, unit: np.ndarray | None = None, named: np.ndarray | None = None
               ) -> Sample:
    """The sample with its units in place of its symbols, and nothing of its label.

    `symbol` (n,) is each point's unit, numbered in the order of the pen; there are no tokens.
    unit: (s,) of each stroke, where it is known; named: each unit's class, -1 if not given.
    """
    unit = units(sample.points, sample.stroke) if unit is None else unit
    none, unknown = np.zeros(0, np.int64), np.full(unit.max(initial=-1) + 1, -1, np.int64)
    return replace(sample, symbol=unit[sample.stroke], tokens=none, token_symbols=none,
                   labels=unknown if named is None else named)


@lru_cache
def unit_vocabulary(prototypes: int) -> Vocabulary:
    """What masked reading writes: the relations, then the prototypes."""
    return Vocabulary([*RELATIONS, *(f"prototype {i}" for i in range(prototypes))])


def write_units(batch: Batch, kept: Tensor, assigned: Tensor, vocabulary: Vocabulary) -> Batch:
    """The batch of samples `with_units`, labelled with what masked reading should write.

    That is prototype, relation, prototype, ..., prototype, in `unit_vocabulary`.

    kept: (n,) bool, ink points that the student's view shows; a unit without is not written.
    assigned: (b, s) int, the prototype of each unit.
    """
    low, high = _boxes(batch, kept, assigned.shape)
    first_relation, first_prototype = vocabulary.encode([RELATIONS[0], "prototype 0"])
    rows, symbols = [], []
    for lows, highs, prototype in zip(low, high, assigned.cpu().numpy(), strict=True):
        shown = np.flatnonzero(np.isfinite(lows[:, 0]))
        row, own = np.empty(2 * len(shown) - 1, np.int64), np.full(2 * len(shown) - 1, -1)
        row[::2], own[::2] = first_prototype + prototype[shown], shown
        row[1::2] = [first_relation + relation(lows[a], highs[a], lows[z], highs[z])
                     for a, z in pairwise(shown)]
        rows.append(row)
        symbols.append(own)
    device = batch.ink.points.device
    return replace(batch, tokens=padded(rows, vocabulary.pad).to(device),
                   token_symbols=padded(symbols, -1).to(device))


def _boxes(batch: Batch, kept: Tensor, shape: torch.Size) -> tuple[np.ndarray, np.ndarray]:
    """Corners (b, s, 2) of the shown ink of each unit; infinite where there is none."""
    ink = batch.ink
    assert ink.symbol is not None
    points = ink.points[kept].cpu().numpy()
    place = (ink.owner * shape[1] + ink.symbol)[kept].cpu().numpy()
    low, high = np.full((*shape, 2), np.inf), np.full((*shape, 2), -np.inf)
    np.minimum.at(low.reshape(-1, 2), place, points)
    np.maximum.at(high.reshape(-1, 2), place, points)
    return low, high
