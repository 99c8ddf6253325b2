"""Dust, and how large pen and symbols are, by which dust is told from dots."""

from __future__ import annotations

import numpy as np

from mmlib.formula.ink import typical_size

FEW = 3  # dots that may stand far from all else
MANY = 10  # specks: more dots than that are dust


def pen_width(ink: np.ndarray) -> float:
    """Width of the pen in pixels: area of the ink (H, W) bool over the length of its skeleton."""
    from skimage.morphology import skeletonize

    return float(ink.sum() / max(1, skeletonize(ink).sum()))


def symbol_size(ink: np.ndarray) -> float:
    """Typical symbol of the ink (H, W) bool in pixels, as pieces show it; specks do not count."""
    from scipy import ndimage

    boxes, area = pieces(ndimage.label(ink, np.ones((3, 3)))[0])
    boxes = boxes[area > 0.02 * np.quantile(area, 0.95)]
    corners = np.stack([boxes[:, [1, 0]], boxes[:, [3, 2]]], 1).reshape(-1, 2)
    return typical_size(corners.astype(np.float32), np.repeat(np.arange(len(boxes)), 2))


def pieces(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) as top, left, bottom, right, and areas (n,) of labelled pieces."""
    from scipy import ndimage

    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(label)]
    return np.array(boxes).reshape(-1, 4), np.bincount(label.ravel())[1:]


def without_specks(ink: np.ndarray, found: list[str]) -> np.ndarray:
    """The ink (H, W) bool without dust.

    A dot is as wide as the pen and near to a symbol. Dust is finer; or it is small and far from all
    that is larger; or there are many of it.
    """
    from scipy import ndimage

    label, count = ndimage.label(ink, np.ones((3, 3)))
    if not count:
        return ink
    boxes, area = pieces(label)
    pen, size = pen_width(ink), symbol_size(ink)
    side = (boxes[:, 2:] - boxes[:, :2]).max(1)
    dot = side < max(2.0, 0.3 * size)
    fine = dot & (area < 0.35 * pen**2)
    large = np.concatenate([[False], ~dot])[label]
    if large.any():
        distance = ndimage.distance_transform_edt(~large)
        middle = ((boxes[:, :2] + boxes[:, 2:] - 1) / 2).astype(int)
        away = distance[middle[:, 0], middle[:, 1]] / size
        far = dot & (away > 4) & (area < 3 * pen**2)
        lone = dot & (away > 1.5) & (area < 0.6 * pen**2)
        far |= lone if lone.sum() > FEW else far
    else:
        far = np.zeros(count, bool)
    dust = fine | far
    if dust.sum() > MANY:
        dust |= dot & (area < 0.8 * pen**2)
    if not dust.any():
        return ink
    found.append(f"{dust.sum()} specks")
    left: np.ndarray = ink & ~np.concatenate([[False], dust])[label]
    return left
