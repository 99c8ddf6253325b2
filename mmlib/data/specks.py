"""Connected pieces of ink; how large pen and symbols are, by which dust is told from dots."""

from typing import NamedTuple

import numpy as np

from mmlib.formula.ink import typical_size

FEW = 3  # dots that may stand far from all else
MANY = 10  # specks: more dots than that are dust


class Pieces(NamedTuple):
    """The n connected pieces of ink."""

    label: np.ndarray  # (H, W) int, 1 to n; 0 on paper
    boxes: np.ndarray  # (n, 4) int, top, left, bottom, right
    area: np.ndarray  # (n,) int, pixels

    def pixels(self, chosen: np.ndarray) -> np.ndarray:
        """The pixels (H, W) bool of the pieces `chosen` (n,) bool."""
        return np.asarray(np.concatenate([[False], chosen])[self.label])


def pieces(ink: np.ndarray) -> Pieces:
    """The pieces of ink (H, W) bool; pixels touch at their corners, too."""
    from scipy import ndimage

    label, _ = ndimage.label(ink, np.ones((3, 3)))
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(label)]
    return Pieces(label, np.array(boxes, int).reshape(-1, 4), np.bincount(label.ravel())[1:])


def pen_width(ink: np.ndarray) -> float:
    """Width of the pen in pixels: area of the ink (H, W) bool over the length of its skeleton."""
    from skimage.morphology import skeletonize

    return float(ink.sum() / max(1, skeletonize(ink).sum()))


def symbol_size(ink: np.ndarray) -> float:
    """Typical symbol of the ink (H, W) bool in pixels, as pieces show it; specks do not count."""
    _, boxes, area = pieces(ink)
    return size_of_boxes(boxes[area > 0.02 * np.quantile(area, 0.95)])


def size_of_boxes(boxes: np.ndarray) -> float:
    """Typical symbol in pixels, by the boxes (n, 4) of pieces."""
    # It is defined on strokes: each box stands for one between two of its corners.
    corners = boxes[:, [1, 0, 3, 2]].reshape(-1, 2).astype(np.float32)
    return typical_size(corners, np.repeat(np.arange(len(boxes)), 2))


def without_specks(ink: np.ndarray, found: list[str]) -> np.ndarray:
    """The ink (H, W) bool without dust.

    A dot is as wide as the pen and near to a symbol. Dust is finer; or it is small and far from all
    that is larger; or there are many of it.
    """
    from scipy import ndimage

    own = pieces(ink)
    if not len(own.area):
        return ink
    pen, size = pen_width(ink), symbol_size(ink)
    side = (own.boxes[:, 2:] - own.boxes[:, :2]).max(1)
    dot = side < max(2.0, 0.3 * size)
    dust = dot & (own.area < 0.35 * pen**2)
    if not dot.all():
        distance = ndimage.distance_transform_edt(~own.pixels(~dot))
        middle = ((own.boxes[:, :2] + own.boxes[:, 2:] - 1) / 2).astype(int)
        away = distance[middle[:, 0], middle[:, 1]] / size
        dust |= dot & (away > 4) & (own.area < 3 * pen**2)
        lone = dot & (away > 1.5) & (own.area < 0.6 * pen**2)
        dust |= lone & (lone.sum() > FEW)
    if dust.sum() > MANY:
        dust |= dot & (own.area < 0.8 * pen**2)
    if not dust.any():
        return ink
    found.append(f"{dust.sum()} specks")
    return own.pixels(~dust)
