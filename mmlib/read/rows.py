"""Several formulas in one picture, one under another or in columns: each with its box."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mmlib.data.photo import Seen
from mmlib.data.specks import pieces, symbol_size
from mmlib.formula.ink import Ink

# In typical symbols:
BETWEEN_ROWS = 0.3  # blank paper, at least, between two rows
BETWEEN_COLUMNS = 2.5  # and between two columns of several rows each
FLAT = 0.3  # height of a group that is a bar
SMALL = 0.6  # height of a group that is part of its neighbour: limits, a dot, an exponent
TALL = 5.0  # a row above this may be several that touch


def rows_of(seen: Seen) -> list[Seen]:
    """Each formula of a picture, from the top of the first column; a single one comes as it is.

    Pieces of ink belong together unless blank paper runs between them all the way across, and no
    fraction bar lies beside that paper (an X-Y cut; Nagy and Seth, 1984). A slanted page is turned
    where that shows more rows.
    """
    ways = [seen, *(other for other in seen.others if other.levels.shape != seen.levels.shape)]
    cut = [_cut(way) for way in ways]
    return max(cut, key=len)


def box_of(part: Seen | Ink) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a formula in pixels of the upright picture, or in ink's unit."""
    if isinstance(part, Ink):
        left, top, right, bottom = part.bounds()
        return round(left), round(top), round(right), round(bottom)
    high, wide = part.levels.shape
    corners = part.to_picture @ np.array([[0, wide, 0, wide], [0, 0, high, high], [1, 1, 1, 1]])
    (left, top), (right, bottom) = corners[:2].min(1), corners[:2].max(1)
    return round(left), round(top), round(right), round(bottom)


def touching(part: Seen | Ink) -> bool:
    """Whether a formula is so tall that it may be rows that touch: a fraction has a long bar."""
    if isinstance(part, Ink):
        return False
    ink = part.levels > 100
    boxes = pieces(ink).boxes
    high, wide = (boxes[:, 2:] - boxes[:, :2]).T
    bar = (high < FLAT * wide) & (wide > 0.3 * ink.shape[1])
    return bool(len(ink) > TALL * symbol_size(ink) and not bar.any())


def _cut(seen: Seen) -> list[Seen]:
    from scipy import ndimage

    ink = seen.levels > 100
    label, boxes, area = pieces(ink)
    if len(area) < 2:
        return [seen]
    groups = _blocks(boxes / symbol_size(ink), np.arange(len(area)))
    if len(groups) < 2:
        return [seen]
    # The grey edge of a stroke is nearest to its own piece.
    nearest = ndimage.distance_transform_edt(label == 0, return_distances=False,
                                             return_indices=True)
    owner = label[tuple(nearest)]
    return [_part(seen, np.isin(owner, group + 1), boxes[group]) for group in groups]


def _part(seen: Seen, own: np.ndarray, boxes: np.ndarray) -> Seen:
    """What was seen, of these pieces alone."""
    (top, left), (bottom, right) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    where = slice(top, bottom), slice(left, right)
    shift = np.array([[1.0, 0, left], [0, 1, top], [0, 0, 1]])
    return Seen(np.where(own[where], seen.levels[where], 0).astype(np.uint8), seen.found,
                seen.to_picture @ shift)


def _blocks(boxes: np.ndarray, own: np.ndarray) -> list[np.ndarray]:
    """The pieces `own` of boxes (n, 4), in typical symbols, parted into columns and rows."""
    columns = _parted(boxes, own, 1, BETWEEN_COLUMNS)
    rows = [_joined(boxes, _parted(boxes, column, 0, BETWEEN_ROWS)) for column in columns]
    # Wide blank paper within one formula is no column.
    if len(columns) > 1 and sum(len(r) > 1 for r in rows) > 1:
        return [block for column in columns for block in _blocks(boxes, column)]
    found = _joined(boxes, _parted(boxes, own, 0, BETWEEN_ROWS))
    if len(found) == 1:
        return found
    return [block for row in found for block in _blocks(boxes, row)]


def _parted(boxes: np.ndarray, own: np.ndarray, axis: int, gap: float) -> list[np.ndarray]:
    """The pieces in groups that `gap` of blank parts along an axis, in order."""
    order = own[np.argsort(boxes[own, axis])]
    reach = np.maximum.accumulate(boxes[order, axis + 2])
    return np.split(order, np.flatnonzero(boxes[order[1:], axis] - reach[:-1] > gap) + 1)


def _joined(boxes: np.ndarray, groups: list[np.ndarray]) -> list[np.ndarray]:
    """Groups one under another, with those joined that belong to one formula."""
    groups = list(groups)
    while len(groups) > 1:
        sides = [(*boxes[g, :2].min(0), *boxes[g, 2:].max(0)) for g in groups]
        for i, (above, below) in enumerate(pairwise(sides)):
            if _together(above, below, boxes[groups[i]], boxes[groups[i + 1]]):
                groups[i : i + 2] = [np.concatenate(groups[i : i + 2])]
                break
        else:
            break
    return groups


def _together(above: tuple[float, ...], below: tuple[float, ...], upper: np.ndarray,
              lower: np.ndarray) -> bool:
    """Whether a group and the one below it are parts of one formula.

    They are where one is small or narrow (limits of a sum), or ends in the bar of a fraction.
    """
    gap = below[0] - above[2]
    heights, widths = ([side[2 + axis] - side[axis] for side in (above, below)] for axis in (0, 1))
    if min(heights) < SMALL and gap < 1.0:
        return True
    if min(widths) < 0.4 * max(widths) and min(heights) < 1.2 and gap < 0.6:
        return True
    return gap < 1.5 and (_is_bar(upper[upper[:, 2].argmax()], upper)
                          or _is_bar(lower[lower[:, 0].argmin()], lower))


def _is_bar(piece: np.ndarray, group: np.ndarray) -> bool:
    """Whether a piece is a fraction bar, with ink of its group only to one side of it."""
    wide = piece[3] - piece[1]
    if piece[2] - piece[0] > FLAT + 0.15 * wide or wide < 0.8:
        return False
    over = (group[:, 1] < piece[3]) & (group[:, 3] > piece[1])
    return bool(over.sum() > 1 or len(group) == 1)
