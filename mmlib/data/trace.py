"""A picture to ink, its skeleton, so that one way of drawing and warping serves both."""

from collections import defaultdict
from typing import Any

import numpy as np

from mmlib.data.errors import DataError
from mmlib.data.pack import MOST_STEPS, RESOLUTION
from mmlib.data.specks import pieces, size_of_boxes
from mmlib.formula.ink import Ink

# Typical component of a picture over typical symbol of its ink: median of CROHME's training set.
COMPONENTS = 1.08


def trace_picture(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Ink levels (H, W) uint8, 255 = ink, to ink: the skeleton's pixels, joined to neighbours.

    Returns points (n, 2) in pixels; stroke (n,): short strokes of two points, one for each pair of
    neighbouring skeleton pixels; and the typical symbol size in pixels. So a picture is drawn again
    with the pen that the recogniser knows, whatever its own resolution and pen. Raises DataError
    where there is no ink.
    """
    from skimage.filters import threshold_otsu
    from skimage.morphology import skeletonize

    levels = np.asarray(levels)
    threshold = threshold_otsu(levels) if levels.min() < levels.max() else 127
    # Thick grey lines have a threshold of their own, but pale ink must not take paper along.
    skeleton = skeletonize(levels > min(threshold, 200))
    if not skeleton.any():
        raise DataError("the picture has no ink")
    padded = np.pad(skeleton, 1)
    pairs = []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        both = padded & np.roll(padded, (-dy, -dx), (0, 1))
        # A diagonal only where no right angle joins the two already: else corners become triangles.
        if dy and dx:
            both &= ~np.roll(padded, -dy, 0) & ~np.roll(padded, -dx, 1)
        y, x = np.nonzero(both)
        pairs.append(np.stack([np.stack([x, y], 1), np.stack([x + dx, y + dy], 1)], 1))
    edges = np.concatenate(pairs)
    joined = np.zeros_like(padded)
    joined[edges[..., 1], edges[..., 0]] = True
    y, x = np.nonzero(padded & ~joined)  # dots
    dots = np.stack([np.stack([x, y], 1)] * 2, 1)
    strokes = np.concatenate([edges, dots]) - 0.5  # the padding off, a pixel's centre at +1/2
    size = size_of_boxes(pieces(skeleton).boxes - (0, 0, 1, 1)) / COMPONENTS
    points = strokes.reshape(-1, 2).astype(np.float32)
    return points, np.repeat(np.arange(len(strokes)), 2), size


def lines(edges: np.ndarray) -> list[np.ndarray]:
    """Lines (k, 2) between the ends and crossings of a skeleton, of its edges (m, 2, 2)."""
    meets: dict[tuple[float, ...], set[tuple[float, ...]]] = defaultdict(set)
    for a, b in (map(tuple, edge) for edge in edges.tolist()):
        meets[a].add(b)
        meets[b].add(a)
    degree = {point: len(others) for point, others in meets.items()}
    found = []
    for start in sorted(meets, key=lambda point: (degree[point] == 2, point)):  # rings last
        while meets[start]:
            line = [start]
            while meets[line[-1]] and (len(line) == 1 or degree[line[-1]] == 2):
                following = min(meets[line[-1]])
                meets[line[-1]].discard(following)
                meets[following].discard(line[-1])
                line.append(following)
            found.append(np.array(line))
    return found


def traced(levels: np.ndarray, **fields: Any) -> tuple[Ink, float]:
    """Ink levels (H, W) as a pack holds them: ink in typical sizes, and that size in pixels.

    fields: others of the `Ink`. Raises DataError where there is no ink, or too much for one
    expression.
    """
    points, stroke, size = trace_picture(levels)
    points -= points.min(0)
    most = MOST_STEPS // RESOLUTION
    if points.max() > min(MOST_STEPS, most * size):
        raise DataError(f"the picture is over {MOST_STEPS:,} pixels or {most} typical symbols "
                        "large; crop it to one formula")
    return Ink((points / size).astype(np.float32), stroke.astype(np.int32), **fields), size
