"""A photograph of handwriting to a clean picture: even paper, no ruled lines, level rows.

scikit-image and SciPy do the work; what is here says in which order, and when.
"""

from __future__ import annotations

import numpy as np

LONGEST = 1_600  # pixels of the longer side that is worked on
STEEPEST = 0.2  # radians by which a ruled page may be tilted
DARK = 0.75  # of the paper's light: what is darker may be ink


def is_photo(grey: np.ndarray) -> bool:
    """Whether a grey picture (H, W) uint8 is a photograph: its paper is not of one light."""
    paper = grey if np.median(grey) > 127 else 255 - grey
    low, high = np.quantile(paper, (0.3, 0.95))
    return bool(high - low > 12)


def clean(grey: np.ndarray) -> np.ndarray:
    """A photograph (H, W) uint8 of dark ink on light paper as ink (0) on white (255), (h, w) uint8.

    1. Divide by the paper's light, a wide local maximum: shading and shadows go.
    2. Turn the page level by its ruled lines, which are long and thin and many of one slope.
    3. Keep what is dark (Otsu). Take rules away where no ink crosses, specks, and a margin's line.
    4. Crop to the ink. A page with nothing on it comes as one white pixel.

    Works at the picture's own resolution or, above `LONGEST` pixels, at that.
    """
    from scipy import ndimage
    from skimage.filters import gaussian, threshold_otsu
    from skimage.transform import rescale, rotate

    if max(grey.shape) > LONGEST:
        scale = LONGEST / max(grey.shape)
        grey = (255 * rescale(grey, scale, anti_aliasing=True)).astype(np.uint8)
    side = max(grey.shape)
    # Wider than a stroke and narrower than a shadow, so that ink does not count as dark paper.
    smooth = gaussian(grey, 1.5, preserve_range=True)
    light = ndimage.maximum_filter(smooth, size=side // 25)
    light = gaussian(light, side / 30, preserve_range=True)
    even = np.clip(gaussian(grey, 0.7, preserve_range=True) / np.maximum(light, 1), 0, 1)
    if angle := slope_of_rules(even):
        even = rotate(even, np.degrees(angle), resize=True, cval=1.0)
    ink = without_rules(even < min(threshold_otsu(even), DARK + 0.1))
    # Specks are dust and paper grain; a decimal point is larger.
    area = max(6, round((side / 300) ** 2))
    label, count = ndimage.label(ink, np.ones((3, 3)))
    large = np.bincount(label.ravel(), minlength=count + 1) >= area
    ink = without_margin(ink & large[label])
    if not ink.any() or only_rules(ink):
        return np.full((1, 1), 255, np.uint8)
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    pad = side // 100 + 4
    top, left = max(0, rows[0] - pad), max(0, columns[0] - pad)
    return np.where(ink[top : rows[-1] + pad, left : columns[-1] + pad], 0, 255).astype(np.uint8)


def long_rows(ink: np.ndarray) -> np.ndarray:
    """The ink (H, W) bool in runs as long as a rule: over a fifth of the width."""
    from scipy import ndimage

    length = max(20, ink.shape[1] // 5)
    thick = ndimage.binary_dilation(ink, np.ones((3, 1), bool))
    rows: np.ndarray = ndimage.binary_opening(thick, np.ones((1, length), bool)) & ink
    return rows


def slope_of_rules(even: np.ndarray) -> float:
    """Angle in radians by which to turn a ruled page level; 0 where there are no rules.

    even: (H, W), paper 1. The angle, positive where rows rise to the right, is the one at which ink
    projects on the sharpest rows (Bloomberg et al., 1995), among `STEEPEST` to either side. It is
    taken only where it makes long rows that were not there.
    """
    from skimage.transform import rescale, rotate

    small = 1 - rescale(even, min(1.0, 500 / max(even.shape)), anti_aliasing=True)
    angles = np.linspace(-STEEPEST, STEEPEST, 81)

    def turned(angle: float) -> np.ndarray:
        page: np.ndarray = rotate(small, np.degrees(angle), resize=False, cval=0.0)
        return page

    sharp = [float((np.diff(turned(angle).sum(1)) ** 2).sum()) for angle in angles]
    best = float(angles[int(np.argmax(sharp))])
    # A formula without rules has a sharpest angle, too: turn only what then shows rules.
    ruled = long_rows(turned(best) > 0.12).any(1).sum() >= 2
    sharper = max(sharp) > 1.3 * sharp[len(angles) // 2]
    return best if ruled and sharper and abs(best) > 0.004 else 0.0


def without_rules(ink: np.ndarray) -> np.ndarray:
    """The ink (H, W) bool without ruled lines: long rows that span nearly all of the page.

    What crosses a rule, a stroke above and below it, stays.
    """
    from scipy import ndimage

    # A fraction bar is not as wide as the page.
    filled = long_rows(ink).sum(1) > 0.6 * ink.shape[1]
    if not filled.any():
        return ink
    bands, count = ndimage.label(ndimage.binary_dilation(filled, iterations=2))
    left = ink.copy()
    for band in range(1, count + 1):
        where = np.flatnonzero(bands == band)
        top, bottom = max(where[0] - 1, 0), min(where[-1] + 1, len(ink) - 1)
        crossing = ink[max(top - 1, 0)] & ink[min(bottom + 1, len(ink) - 1)]
        left[top : bottom + 1] &= ndimage.binary_dilation(crossing, iterations=2)
    return left


def without_margin(ink: np.ndarray) -> np.ndarray:
    """The ink (H, W) bool without the line of a margin.

    That is a thin line from edge to edge of the page, with all else on one side of it.
    """
    from scipy import ndimage

    label, _ = ndimage.label(ink, np.ones((3, 3)))
    left, edge = ink.copy(), max(2, round(0.02 * len(ink)))
    for number, (y, x) in enumerate(ndimage.find_objects(label), 1):
        if y.start > edge or y.stop < len(ink) - edge:
            continue
        line = label[y, x] == number
        if line.sum(1).max() > max(6, len(ink) / 50):
            continue
        others = np.flatnonzero((ink & (label != number)).any(0))
        if not len(others) or others.max() < x.start or others.min() >= x.stop:
            left[y, x] &= ~line
    return left


def only_rules(ink: np.ndarray) -> bool:
    """Whether the ink (H, W) bool is what cleaning leaves of an empty ruled page.

    That is flat pieces, the longest over half the page.
    """
    from scipy import ndimage

    pieces = ndimage.find_objects(ndimage.label(ink, np.ones((3, 3)))[0])
    high = np.array([y.stop - y.start for y, _ in pieces])
    wide = np.array([x.stop - x.start for _, x in pieces])
    return bool(wide.max() > ink.shape[1] / 2 and (high < 6 + 0.15 * wide).all())


def imitate(levels: np.ndarray, rng: np.random.Generator, shade: float = 0.5, rules: bool = True,
            tilt: float = 0.06, perspective: float = 0.08) -> np.ndarray:
    """A photograph (h, w) uint8 of a drawing, to measure cleaning by: the truth is then known.

    levels: (H, W) uint8, 255 = ink. The paper is lit from one side (`shade`: the light lost on the
    far side), ruled, tilted (radians), seen at an angle, a little blurred and noisy.
    """
    from skimage.filters import gaussian
    from skimage.transform import ProjectiveTransform, warp

    margin = round(0.25 * levels.shape[0] + 0.05 * levels.shape[1])
    dark = 0.8 * np.pad(levels.astype(float) / 255, margin)
    h, w = dark.shape
    if rules:
        step = max(24, round(h / rng.uniform(4, 6)))
        for y in range(rng.integers(step), h, step):
            dark[y : y + 2] = np.maximum(dark[y : y + 2], 0.35)
    c, s = np.cos(tilt), np.sin(tilt)
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], float)
    middle = corners.mean(0)
    moved = (corners - middle) @ np.array([[c, s], [-s, c]]) + middle
    moved += rng.uniform(-1, 1, moved.shape) * perspective * h / 2
    matrix = ProjectiveTransform.from_estimate(moved, corners)
    dark = warp(dark, matrix, output_shape=(h, w), cval=0.0)
    across, down = np.meshgrid(np.linspace(-1, 1, w), np.linspace(-1, 1, h))
    turn = rng.uniform(0, 2 * np.pi)
    light = 1 - shade * (1 + np.cos(turn) * across / 1.5 + np.sin(turn) * down / 1.5) / 2
    seen = 235 * light * (1 - gaussian(dark, 1.0)) + rng.normal(0, 4.0, dark.shape)
    grey: np.ndarray = np.clip(seen, 0, 255).astype(np.uint8)
    return grey
