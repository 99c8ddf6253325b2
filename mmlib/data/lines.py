"""Lines that nobody wrote: rules, squares, margins and frames."""

from dataclasses import dataclass

import numpy as np

from mmlib.data.specks import pieces, symbol_size

STEEPEST = 32  # degrees by which a ruled page may be turned
STEP = 0.5  # degrees between the slopes that are tried
FILLED = 0.7  # of a line's way across the page: ink on it makes it a line
LONG = 4.0  # typical symbols, at least, that a margin's line measures
AGREED = 0.07  # of slope, between the lines of one page
PALER = 0.75  # of the ink's contrast: a line below it is printed


@dataclass(frozen=True, eq=False)
class Line:
    """One line that runs across a page (H, W), from its left to its right."""

    row: np.ndarray  # (W,) where it is in each column, in pixels
    width: float  # pixels
    slope: float  # pixels down per pixel to the right
    bend: float  # pixels by which it leaves the straight line between its ends
    contrast: float
    whole: bool  # from edge to edge


def without_rules(ink: np.ndarray, weak: np.ndarray, contrast: np.ndarray,
                  found: list[str]) -> tuple[np.ndarray, float, float]:
    """The ink (H, W) bool without printed lines.

    Also by how many degrees these fall to the right, 0 where they do not agree, and the pixels
    between two of them.

    ink, weak: what is ink and what may be a pale line; contrast: (H, W) to the paper. Nothing
    changes where there are no such lines.
    """
    both = across, upright = long_lines(weak, contrast), long_lines(weak.T, contrast.T)
    if not across and not upright:
        return ink, 0.0, 0.0
    rest = ink.copy()
    for line in across:
        rest &= ~_band(line, ink.shape)
    for line in upright:
        rest &= ~_band(line, ink.T.shape).T
    full = float(np.median(contrast[rest])) if rest.any() else 0.0
    across = printed(across, ink, rest, full)
    upright = printed(upright, ink.T, rest.T, full, few=2 if len(across) > 1 else 3)
    if len(upright) > 1 and not across:
        across = printed(both[0], ink, rest, full, few=2)
    if not across and not upright:
        return ink, 0.0, 0.0
    found.append(f"{len(across) + len(upright)} printed lines")
    left = _erased(ink, contrast, across, full)
    left = without_like(_erased(left.T, contrast.T, upright, full).T, contrast, across, full)
    slopes = np.array([line.slope for line in across] or [-line.slope for line in upright])
    angle = float(np.degrees(np.arctan(np.median(slopes))))
    level = len(slopes) < 2 or np.median(np.abs(slopes - np.median(slopes))) > AGREED
    middles = np.sort([line.row[len(line.row) // 2] for line in across])
    between = float(np.median(np.diff(middles))) if len(across) > 2 else 0.0
    return left, 0.0 if level else angle, between


def printed(lines: list[Line], ink: np.ndarray, rest: np.ndarray, full: float,
            few: int = 3) -> list[Line]:
    """Of long lines those that are printed: pale; three or more; or with all ink to one side.

    ink: (H, W) bool; rest: what of it is on no line, of contrast `full`. A fraction bar is one of
    few, as dark as the ink, and has ink on both sides. A letter's stem is short: on a page no
    longer than that, lines are pale and at least `few`.
    """
    if rest.sum() < 0.05 * ink.sum():  # an empty page, if it is no equals sign
        return lines if len(lines) > 2 else []
    long = rest.shape[1] > LONG * symbol_size(rest)
    pale = [line for line in lines if line.contrast < PALER * full]
    if not long:
        return pale if len(pale) >= few else []
    if pale:
        return pale
    straight = [line for line in lines if line.bend < 2 + 0.02 * rest.shape[1]]
    if len(straight) > 2:
        slope = np.median([line.slope for line in straight])
        width = np.median([line.width for line in straight])
        return [line for line in straight
                if abs(line.slope - slope) < AGREED and line.width < 1.5 * width + 1]
    return [line for line in straight
            if line.whole and _at_the_side(ink, line) and _alone(ink, line)]


def long_lines(weak: np.ndarray, contrast: np.ndarray) -> list[Line]:
    """Straight lines over most of the way across a page (H, W) bool, each of a slope of its own.

    A Hough transform in slope and row of each column (Duda and Hart, 1972), on a picture of 500
    pixels; each line then follows the ink, since paper bends.
    """
    from scipy import ndimage
    from skimage.measure import block_reduce

    step = max(1, -(-max(weak.shape) // 500))
    small = block_reduce(weak, step, np.any)
    thick = ndimage.binary_dilation(small, np.ones((3, 1)))
    (high, wide), (y, x) = thick.shape, np.nonzero(thick)
    # Noise and shades fill lines, too.
    if wide < 40 or high < 8 or not 0 < thick.mean() < 0.6:
        return []
    candidates = []
    columns = np.arange(wide)
    for degrees in np.arange(-STEEPEST, STEEPEST + STEP, STEP):
        slope = np.tan(np.radians(degrees))
        offset = int(np.ceil(abs(slope) * wide))
        row = np.rint(y - slope * x).astype(int)
        count = np.bincount(row + offset, minlength=high + 2 * offset)
        rows = np.arange(len(count)) - offset
        # The columns in which a line of this slope is on the page.
        steep = slope if abs(slope) > 1e-9 else 1e-9
        way = np.abs(np.diff(np.clip([-rows / steep, (high - rows) / steep], 0, wide), axis=0))[0]
        good = (way > 0.15 * wide) & (count > FILLED * way)
        candidates += [(way[i] > 0.5 * wide, count[i] / way[i], slope, rows[i])
                       for i in np.flatnonzero(good)]
    lines: list[Line] = []
    for whole, _, slope, start in sorted(candidates, reverse=True)[:3_000]:
        # A short line across a corner of the page is one of several, all of a slope.
        if not whole and sum(abs(line.slope - slope) < 0.05 for line in lines) < 2:
            continue
        at = np.rint(start + slope * columns).astype(int)
        inside = (at >= 0) & (at < high)
        if thick[at[inside], columns[inside]].mean() < FILLED:
            continue
        line = _followed(weak, contrast, step * (start + 0.5), slope, 2 * step + 2)
        for shift in range(-3, 4):
            near = inside & (at + shift >= 0) & (at + shift < high)
            thick[at[near] + shift, columns[near]] = False
        if line:
            lines.append(line)
    return lines


def _followed(weak: np.ndarray, contrast: np.ndarray, row: float, slope: float,
              reach: int) -> Line | None:
    """The line near a straight one, as a parabola through the middle of its pixels."""
    columns = np.arange(weak.shape[1])
    at = row + slope * columns
    for _ in range(3):
        rows = np.rint(at).astype(int)[None] + np.arange(-reach, reach + 1)[:, None]
        inside = (rows >= 0) & (rows < weak.shape[0])
        dark = inside & weak[rows.clip(0, weak.shape[0] - 1), columns]
        width = dark.sum(0)
        some = width > 0
        # Where a stroke crosses, the line looks wide.
        thin = some & (width <= np.median(width[some]) + 1) if some.any() else some
        if thin.sum() < 20:
            return None
        middle = (rows * dark).sum(0)[thin] / width[thin]
        bend = np.polynomial.Polynomial.fit(columns[thin], middle, 2)
        at, reach = bend(columns), max(2, int(np.median(width[thin])) + 1)
    value = contrast[rows.clip(0, weak.shape[0] - 1), columns]
    pale = float(np.median(np.where(dark, value, 0).max(0)[thin]))
    straight = np.linspace(at[0], at[-1], len(at))
    edge, there = 2 + len(at) // 50, np.flatnonzero(some & inside[len(rows) // 2])
    whole = bool(there[0] < edge and there[-1] >= len(at) - edge)
    return Line(at, float(np.median(width[thin])), slope, float(np.abs(at - straight).max()),
                pale, whole)


def _band(line: Line, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels (H, W) bool of a line, and one to each side."""
    rows = np.arange(shape[0])[:, None]
    band: np.ndarray = np.abs(rows - line.row[None]) <= line.width / 2 + 1
    return band


def _erased(ink: np.ndarray, contrast: np.ndarray, lines: list[Line], full: float) -> np.ndarray:
    """The ink (H, W) bool without lines, but with the strokes that cross them."""
    from scipy import ndimage

    left = ink.copy()
    for line in lines:
        band = _band(line, ink.shape)
        if line.contrast < PALER * full:
            left &= ~(band & (contrast < (line.contrast + full) / 2))
            continue
        # A stroke that crosses goes on above and below.
        columns, sides = np.arange(ink.shape[1]), []
        for side in (-1, 1):
            at = np.rint(line.row + side * (line.width / 2 + 2)).astype(int)
            inside = (at >= 0) & (at < ink.shape[0])
            there = inside & ink[at.clip(0, ink.shape[0] - 1), columns]
            sides.append(ndimage.binary_dilation(there, iterations=1 + round(line.width / 2)))
        left &= ~band | (sides[0] & sides[1])[None]
    return left


def without_like(ink: np.ndarray, contrast: np.ndarray, lines: list[Line],
                  full: float) -> np.ndarray:
    """The ink (H, W) bool without pieces of further lines: as level, thin and pale as these are.

    On a turned page a line may be short, where it leaves the picture at a corner.
    """
    if len(lines) < 2 or not ink.any():
        return ink
    slope, width, pale = np.median([(line.slope, line.width, line.contrast) for line in lines], 0)
    if pale > PALER * full:
        return ink
    found, size = pieces(ink), symbol_size(ink)
    like = np.zeros(len(found.boxes), bool)
    for number, (top, left, bottom, right) in enumerate(found.boxes):
        if right - left > 0.7 * size:
            y, x = np.nonzero(found.label[top:bottom, left:right] == number + 1)
            thin = np.ptp(np.quantile(y - slope * x, (0.02, 0.98))) < 2 * width + 2
            like[number] = thin and np.median(contrast[y + top, x + left]) < (pale + full) / 2
    return found.pixels(~like)


def _at_the_side(ink: np.ndarray, line: Line) -> bool:
    """Whether all other ink (H, W) bool lies on one side of a line, and is far smaller than it."""
    others = ink & ~_band(line, ink.shape)
    y, x = np.nonzero(others)
    if not len(y) or ink.shape[1] < LONG * symbol_size(others):
        return False
    below = (y > line.row[x]).mean()
    return bool(below < 0.005 or below > 0.995)


def _alone(ink: np.ndarray, line: Line) -> bool:
    """Whether a line is a piece of ink (H, W) bool of its own."""
    label, band = pieces(ink).label, _band(line, ink.shape)
    own = np.setdiff1d(label[band], 0)
    return bool(len(own) and np.isin(label, own)[~band].sum() < 0.1 * (ink & band).sum())


def without_frame(ink: np.ndarray, found: list[str]) -> np.ndarray:
    """The ink (H, W) bool without a box or ring that is drawn around all the rest."""
    from scipy import ndimage

    label, boxes, areas = pieces(ink)
    large = (boxes[:, 2:] - boxes[:, :2] >= 0.4 * np.array(ink.shape)).all(1)
    for number in np.flatnonzero(large):
        one, others = label == number + 1, ink.sum() - areas[number]
        inside = ndimage.binary_fill_holes(one) & ~one & ink
        # The rest is within it, and it is no letter: nothing is written in an O.
        if others > 0.2 * areas[number] and inside.sum() > 0.9 * others:
            found.append("a frame")
            return without_frame(ink & ~one, found)
    return ink
