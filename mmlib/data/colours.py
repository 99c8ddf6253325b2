"""Pens of two colours in one picture: the formula's, and a teacher's tick or a printed line's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 1_600  # pixels of the longer side that is worked on
APART = 0.3  # radians between the colours of two pens
SPREAD = 3.5  # times the spread of each: one pen's colours, halved anywhere, are 2.7 apart
FEW = 0.02  # of the ink: what is less is no pen


def main_pen(image: Image) -> tuple[np.ndarray, float] | None:
    """Grey (h, w) uint8 with the ink of one pen alone, that which wrote more; and the shrinking.

    image: dark ink on light paper. None where all ink is of one colour. A colour is the direction
    of what ink takes from red, green and blue, as optical densities: it does not depend on how
    thickly the ink lies (the unmixing of stains; Ruifrok and Johnston, 2001).
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    if image.mode != "RGB":
        return None
    shrink = max(1.0, max(image.size) / LONGEST)
    size = [max(1, round(side / shrink)) for side in image.size]
    rgb = np.asarray(image.resize(size, reducing_gap=2.0) if shrink > 1 else image, float)
    side = max(25, max(rgb.shape) // 16)
    smooth = ndimage.gaussian_filter(rgb, (0.7, 0.7, 0))
    paper = ndimage.grey_closing(smooth, size=(side, side, 1), mode="nearest")
    density = np.log((paper + 8) / (smooth + 8))
    strength = np.linalg.norm(density, axis=-1)
    ink = strength > threshold_otsu(strength)
    # Pale edges have the colours of the camera's noise and of the file's compression.
    sure = strength > np.median(strength[ink]) if ink.any() else ink
    if sure.sum() < 50:
        return None
    pens = _two(density[sure] / strength[sure][:, None])
    if pens is None:
        return None
    own = int(np.bincount((density[ink] @ pens.T).argmax(-1), minlength=2).argmax())
    # Where two pens cross, their densities add.
    share = (density @ np.linalg.pinv(pens))[..., own].clip(0)
    return (255 * np.exp(-share)).astype(np.uint8), shrink


def _two(colours: np.ndarray) -> np.ndarray | None:
    """Directions (2, 3) of two groups among unit vectors (n, 3); None where there is but one."""
    middle = colours.mean(0)
    axis = np.linalg.eigh(np.cov(colours.T))[1][:, -1]
    first = (colours - middle) @ axis > 0
    for _ in range(10):
        if not FEW < first.mean() < 1 - FEW:
            return None
        pens = np.stack([colours[first].mean(0), colours[~first].mean(0)])
        pens /= np.linalg.norm(pens, axis=1, keepdims=True)
        first = colours @ pens[0] > colours @ pens[1]
    if not FEW < first.mean() < 1 - FEW:
        return None
    way = pens[0] - pens[1]
    along = colours @ way / np.linalg.norm(way)
    spread = np.sqrt((along[first].var() + along[~first].var()) / 2)
    apart = np.linalg.norm(way)
    return pens if apart > max(APART, SPREAD * spread) else None
