"""Pens of two colours in one picture: the formula's, and a teacher's tick or a printed line's."""

import numpy as np
from PIL.Image import Image

LONGEST = 1_600  # pixels of the longer side that is worked on
APART = 0.3  # radians between the colours of two pens
SPREAD = 3.5  # times the spread of each: one pen's colours, parted anywhere, are 3.4 apart
FEW = 0.02  # of the ink: what is less is no pen


def main_pen(image: Image) -> tuple[np.ndarray, float] | None:
    """Grey (h, w) uint8 with the ink of one pen alone, that which wrote most; and the shrinking.

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
    # Edges of strokes have the colours of the camera's noise and of the file's compression.
    sure = ink & (strength > 0.8 * ndimage.maximum_filter(strength, 5))
    if sure.sum() < 50:
        return None
    pens = _pens(density[sure] / strength[sure][:, None], int(FEW * sure.sum()))
    if len(pens) < 2:
        return None
    nearest = (density @ pens.T).argmax(-1)
    number = int(np.bincount(nearest[ink]).argmax())
    own, rest = pens[number], np.delete(pens, number, 0)
    # Where two pens cross, their densities add: of all pairs with the main pen, that which fits.
    pairs = [np.stack([own, other]) for other in rest
             if not any(_crossing(other, np.stack([own, third])) for third in rest)]
    parts = np.stack([(density @ np.linalg.pinv(pair)).clip(0) for pair in pairs])
    missed = [np.linalg.norm(density - part @ pair, axis=-1) for part, pair in zip(parts, pairs)]
    share = np.take_along_axis(parts[..., 0], np.argmin(missed, 0)[None], 0)[0]
    # A file keeps colours coarser than light, which leaves a halo around another pen's strokes.
    halo = ndimage.binary_dilation(ink & (nearest != number), np.ones((17, 17)))
    share[halo & (share < 0.5 * np.median(share[ink & (nearest == number)]))] = 0
    return (255 * np.exp(-share)).astype(np.uint8), shrink


def _crossing(colour: np.ndarray, pens: np.ndarray) -> bool:
    """Whether a direction (3,) is that of two pens (2, 3) where they cross."""
    part = colour @ np.linalg.pinv(pens)
    return bool(part.min() > 0.2 and np.linalg.norm(colour - part @ pens) < APART / 2)


def _pens(colours: np.ndarray, least: int) -> np.ndarray:
    """Directions (k, 3) of the groups, of `least` members or more, among unit vectors (n, 3)."""
    middle = colours.mean(0)
    one: np.ndarray = middle[None] / np.linalg.norm(middle)
    if len(colours) < 2 * least:
        return one
    along = (colours - middle) @ np.linalg.eigh(np.cov(colours.T))[1][:, -1]
    order = np.sort(along)
    n = np.arange(1, len(along))
    low, square = np.cumsum(order)[:-1] / n, np.cumsum(order**2)[:-1] / n
    high, squares = -low * n / n[::-1], (np.sum(order**2) - square * n) / n[::-1]
    apart = high - low
    spread = np.sqrt(np.maximum(square - low**2 + squares - high**2, 1e-9) / 2)
    fair = (n >= least) & (n[::-1] >= least) & (apart > APART)
    best = int(np.argmax(np.where(fair, apart / spread, 0)))
    if not fair.any() or apart[best] < SPREAD * spread[best]:
        return one
    first = along <= order[best]
    return np.concatenate([_pens(colours[first], least), _pens(colours[~first], least)])
