"""A photograph of handwriting to a clean picture: even paper, no ruled lines, level rows. Well-kept tools (scikit-image, SciPy)
do the work; what is here says in which order, and when."""

from __future__ import annotations

import numpy as np

LONGEST = 1_600  # pixels of the longer side that is worked on
DARK = 0.75  # of the paper's light: what is darker may be ink


def is_photo(grey: np.ndarray) -> bool:
    """Whether a grey picture (H, W) uint8 is a photograph and not a drawing: its paper is not of one light."""
    paper = grey if np.median(grey) > 127 else 255 - grey
    low, high = np.quantile(paper, (0.3, 0.95))
    return bool(high - low > 12)


def clean(grey: np.ndarray) -> np.ndarray:
    """A photograph (H, W) uint8 of dark ink on light paper as dark ink (0) on white (255), (h, w) uint8 at its own resolution or,
    above `LONGEST` pixels, at that.

    1. Divide by the paper's light, a wide local maximum: shading and shadows go. 2. Keep what is dark (Otsu), and of that what
    is no speck. 3. Find ruled lines, long and thin and many of one slope: turn the page level by them, and take them away where
    no ink crosses; so a margin's line. 4. Crop to the ink. A page with nothing on it comes as one white pixel.
    """
    from scipy import ndimage
    from skimage.filters import gaussian, threshold_otsu
    from skimage.transform import rescale, rotate

    if max(grey.shape) > LONGEST:
        grey = (255 * rescale(grey, LONGEST / max(grey.shape), anti_aliasing=True)).astype(np.uint8)
    side = max(grey.shape)
    light = ndimage.maximum_filter(gaussian(grey, 1.5, preserve_range=True), size=side // 25)
    light = gaussian(light, side / 30, preserve_range=True)
    even = np.clip(gaussian(grey, 0.7, preserve_range=True) / np.maximum(light, 1), 0, 1)
    angle = slope_of_rules(even)
    if angle:
        even = rotate(even, np.degrees(angle), resize=True, cval=1.0)
    level = min(threshold_otsu(even), DARK + 0.1)
    ink = even < level
    ink = without_rules(ink)
    area = max(6, round((side / 300) ** 2))
    label, count = ndimage.label(ink, np.ones((3, 3)))
    ink = without_margin(ink & (np.bincount(label.ravel(), minlength=count + 1) >= area)[label])
    if not ink.any() or only_rules(ink):
        return np.full((1, 1), 255, np.uint8)
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    pad = side // 100 + 4
    ink = ink[max(0, rows[0] - pad) : rows[-1] + pad, max(0, columns[0] - pad) : columns[-1] + pad]
    return np.where(ink, 0, 255).astype(np.uint8)


def long_rows(ink: np.ndarray) -> np.ndarray:
    """The ink (H, W) bool that belongs to runs as long as a rule: over a fifth of the width, bridging small gaps."""
    from scipy import ndimage

    length = max(20, ink.shape[1] // 5)
    thick = ndimage.binary_dilation(ink, np.ones((3, 1), bool))
    rows: np.ndarray = ndimage.binary_opening(thick, np.ones((1, length), bool)) & ink
    return rows


def slope_of_rules(even: np.ndarray, most: float = 0.2) -> float:
    """Angle in radians, positive where rows rise to the right, by which to turn a ruled page level; 0 where there are no rules.

    even: (H, W), paper 1. The angle at which ink projects on the sharpest rows (as in Bloomberg et al., 1995), among `most` to
    either side; taken only where it makes long rows that were not there.
    """
    from skimage.transform import rescale, rotate

    small = 1 - rescale(even, min(1.0, 500 / max(even.shape)), anti_aliasing=True)
    angles = np.linspace(-most, most, 81)

    def sharpness(angle: float) -> float:
        rows = rotate(small, np.degrees(angle), resize=False, cval=0.0).sum(1)
        return float((np.diff(rows) ** 2).sum())

    sharp = [sharpness(angle) for angle in angles]
    best = angles[int(np.argmax(sharp))]
    turned = rotate(small, np.degrees(best), resize=False, cval=0.0) > 0.12
    covered = long_rows(turned).any(1).sum()
    return float(best) if covered >= 2 and abs(best) > 0.004 and max(sharp) > 1.3 * sharp[len(angles) // 2] else 0.0


def without_rules(ink: np.ndarray) -> np.ndarray:
    """The ink (H, W) bool without ruled lines: long rows that repeat over the page, or span nearly all of it. What crosses a
    rule, a stroke above and below it, stays."""
    from scipy import ndimage

    rows = long_rows(ink)
    filled = rows.sum(1) > 0.6 * ink.shape[1]  # a fraction bar is not as wide as the page
    if not filled.any():
        return ink
    bands, count = ndimage.label(ndimage.binary_dilation(filled, iterations=2))
    left = ink.copy()
    for band in range(1, count + 1):
        where = np.flatnonzero(bands == band)
        top, bottom = max(where[0] - 1, 0), min(where[-1] + 1, len(ink) - 1)
        crossing = ink[max(top - 1, 0)] & ink[min(bottom + 1, len(ink) - 1)]
        crossing = ndimage.binary_dilation(crossing, iterations=2)
        left[top : bottom + 1] &= crossing
    return left


def without_margin(ink: np.ndarray) -> np.ndarray:
    """The ink (H, W) bool without the line of a margin: thin, from edge to edge of the page, with all else on one side of it."""
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
    """Whether the ink (H, W) bool is what cleaning leaves of an empty ruled page: flat pieces, the longest over half the page."""
    from scipy import ndimage

    sizes = [(y.stop - y.start, x.stop - x.start) for y, x in ndimage.find_objects(ndimage.label(ink, np.ones((3, 3)))[0])]
    return max(wide for _, wide in sizes) > ink.shape[1] / 2 and all(high < 6 + 0.15 * wide for high, wide in sizes)


def imitate(levels: np.ndarray, rng: np.random.Generator, shade: float = 0.5, blur: float = 1.0, rules: bool = True,
            tilt: float = 0.06, perspective: float = 0.08, noise: float = 4.0) -> np.ndarray:
    """A photograph of a drawing, for tests: ink levels (H, W) uint8, 255 = ink, on paper that is lit from one side (`shade`, the
    light lost on the far side), ruled, tilted (radians), seen at an angle, blurred (pixels) and noisy. (h, w) uint8."""
    from skimage.filters import gaussian
    from skimage.transform import ProjectiveTransform, warp

    h, w = levels.shape
    margin = round(0.25 * h + 0.05 * w)
    page = np.pad(levels.astype(float) / 255, margin)
    H, W = page.shape
    dark = 0.8 * page
    if rules:
        step = max(24, round(H / rng.uniform(4, 6)))
        for y in range(rng.integers(step), H, step):
            dark[y : y + 2] = np.maximum(dark[y : y + 2], 0.35)
    c, s = np.cos(tilt), np.sin(tilt)
    corners = np.array([[0, 0], [W, 0], [W, H], [0, H]], float)
    middle = corners.mean(0)
    moved = (corners - middle) @ np.array([[c, s], [-s, c]]) + middle
    moved += rng.uniform(-1, 1, moved.shape) * perspective * H / 2
    matrix = ProjectiveTransform.from_estimate(moved, corners)
    dark = warp(dark, matrix, output_shape=(H, W), cval=0.0)
    across, down = np.meshgrid(np.linspace(-1, 1, W), np.linspace(-1, 1, H))
    turn = rng.uniform(0, 2 * np.pi)
    light = 1 - shade * (1 + np.cos(turn) * across / 1.5 + np.sin(turn) * down / 1.5) / 2
    seen = 235 * light * (1 - gaussian(dark, blur)) + rng.normal(0, noise, page.shape)
    grey: np.ndarray = np.clip(seen, 0, 255).astype(np.uint8)
    return grey
