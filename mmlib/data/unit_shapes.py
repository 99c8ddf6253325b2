"""What writing units look like: a description of each unit's ink, and classes of alike ones.

Masked reading needs a name for each unit, and nobody has named any. HuBERT (arXiv:2106.07447)
names frames of speech by clusters of plain acoustic features, before it has learned any of its own.
The same here: a unit's ink, scaled to its box, is described by where its strokes run in which
direction, as readers of handwriting did before they learned features. k-means over the units of the
training ink then makes the classes. No label takes part.
"""

import numpy as np

from mmlib.data.units import units

GRID = 8  # cells across and down a unit's box
DIRECTIONS = 4  # of a line without a head, from level to level
STEP = 0.03  # of the box, between the points at which a stroke is looked at
SIZE = 0.3  # weight of a unit's size and number of strokes beside its shape
LEAST = 0.15  # typical symbols: a smaller unit, such as a dot, is not scaled up to fill the box


def describe(points: np.ndarray, stroke: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Descriptions (u, 8 * 8 * 4 + 3) of an expression's u units.

    points: (n, 2) in typical symbols; stroke: (n,) from 0; unit: (s,) of each stroke, from 0.
    """
    of, u = unit[stroke], int(unit.max()) + 1
    low, high = np.full((u, 2), np.inf), np.full((u, 2), -np.inf)
    np.minimum.at(low, of, points)
    np.maximum.at(high, of, points)
    side = np.maximum((high - low).max(1), LEAST)
    begun = np.flatnonzero(stroke[1:] == stroke[:-1])  # of the straight pieces between points
    move = (points[begun + 1] - points[begun]) / side[of[begun], None]
    length = np.hypot(*move.T)
    steps = np.maximum(1, np.ceil(length / STEP)).astype(int)
    piece = np.repeat(np.arange(len(begun)), steps)
    number = np.arange(len(piece)) - np.repeat(np.cumsum(steps) - steps, steps)
    along = (number + 0.5) / steps[piece]
    own = of[begun][piece]
    middle = (low + high)[own] / 2
    start = (points[begun][piece] - middle) / side[own, None] + 0.5
    at = np.clip(start + along[:, None] * move[piece], 0, 1) * (GRID - 1)
    angle = (np.arctan2(*move.T[::-1]) % np.pi)[piece] * DIRECTIONS / np.pi
    table = _spread(own, angle, at, (length / steps)[piece], u)
    for axis in (2, 3):  # blurred, so that a stroke a little beside still counts as there
        padded = np.insert(table, (0, GRID), 0, axis)
        before, here, after = (padded.take(range(i, i + GRID), axis) for i in range(3))
        table = (before + 2 * here + after) / 4
    shape = np.sqrt(table.reshape(u, -1))
    shape /= np.maximum(np.linalg.norm(shape, axis=1, keepdims=True), 1e-9)
    strokes = np.bincount(unit, minlength=u)
    return np.column_stack([shape, SIZE * np.log(high - low + 0.05), SIZE * strokes])


def _spread(own: np.ndarray, angle: np.ndarray, at: np.ndarray, weight: np.ndarray, u: int
            ) -> np.ndarray:
    """A table (u, DIRECTIONS, GRID, GRID) of weights (m,), each shared by its eight neighbours."""
    table = np.zeros(u * DIRECTIONS * GRID * GRID)
    places = np.column_stack([angle, at[:, 1], at[:, 0]])
    whole = np.floor(places).astype(int)
    rest = places - whole
    for corner in np.ndindex(2, 2, 2):
        share = np.where(corner, rest, 1 - rest).prod(1)
        direction, row, column = (whole + corner).T
        cell = np.minimum(row, GRID - 1) * GRID + np.minimum(column, GRID - 1)
        index = (own * DIRECTIONS + direction % DIRECTIONS) * GRID * GRID + cell
        table += np.bincount(index, weight * share, len(table))
    return table.reshape(u, DIRECTIONS, GRID, GRID)


def clusters(described: np.ndarray, k: int, rng: np.random.Generator, rounds: int = 30
             ) -> np.ndarray:
    """Centres (k, d) of k-means over descriptions (n, d), n at least k.

    In double precision, so that every machine finds the same ones.
    """
    centres = described[rng.choice(len(described), k, replace=False)].astype(np.float64)
    for _ in range(rounds):
        order = np.argsort(named := nearest(described, centres), kind="stable")
        taken, first = np.unique(named[order], return_index=True)
        sums = np.add.reduceat(described[order], first)
        centres[taken] = sums / np.diff(np.append(first, len(order)))[:, None]
        if lost := sorted(set(range(k)) - set(taken)):  # nothing is near them: anew, elsewhere
            centres[lost] = described[rng.choice(len(described), len(lost), replace=False)]
    return centres


def nearest(described: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre (n,) of each description (n, d)."""
    closeness = described @ centres.T - np.square(centres).sum(1) / 2
    found: np.ndarray = closeness.argmax(1)
    return found


def clustered_units(points: np.ndarray, stroke: np.ndarray, centres: np.ndarray
                    ) -> tuple[np.ndarray, np.ndarray]:
    """The unit (s,) of each stroke of an expression, and the cluster (u,) of each unit."""
    unit = units(points, stroke)
    return unit, nearest(describe(points, stroke, unit), centres)
