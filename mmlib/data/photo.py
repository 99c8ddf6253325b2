"""A picture to the ink in it: which side is ink, even light, level, without what nobody wrote.

`see` is one pipeline for every picture: photographs, scans and drawings. Each step says what it
finds, and changes nothing where it finds nothing, so that a clean drawing comes through unchanged.
scikit-image, SciPy and Pillow do the work; what is here says in which order, and when.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from mmlib.data.errors import NothingError
from mmlib.data.lines import STEEPEST, without_frame, without_rules
from mmlib.data.pictures import ink_is_light
from mmlib.data.specks import pen_width, pieces, symbol_size, without_specks

LONGEST = 1_600  # pixels of the longer side that is worked on
SMALLEST = 40  # pixels per symbol below which a picture is enlarged
UNEVEN = 12  # grey levels by which the paper of a drawing may differ from place to place
SLANTED = 4  # degrees by which a line may rise or fall and still be read as it is
PROFILE = 0.15  # of a typical symbol: bins of the profiles by which slanted ink is found
# How much entropy (nats) profiles must lose before ink is turned unasked. Of 250 level formulas of
# CROHME's validation split none loses as much.
SURE = 0.6
INK = 25  # a pixel with a tenth of full ink counts as ink where a picture is cropped
FAINTEST = 0.06  # of the paper's light: what differs less is not ink


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen in a picture."""

    levels: np.ndarray  # (h, w) uint8, 255 = ink on 0, cropped to the ink
    found: tuple[str, ...]  # what the steps found, in words
    to_picture: np.ndarray  # (3, 3), from pixels (x, y, 1) of `levels` to those of the picture
    # What the picture may be instead, if the first does not read well: turned, or without strays.
    others: tuple[Seen, ...] = ()


def see(grey: np.ndarray, photo: bool | None = None) -> Seen:
    """The ink of a picture, (H, W) uint8, of any kind: dark on light or light on dark.

    1. Shrink what is large; decide which side is ink; enlarge symbols of few pixels.
    2. Divide by the paper's light: shading, shadows and the paper's colour go.
    3. Keep what differs from the paper enough, by a threshold that follows the pen's darkness.
    4. Take away printed lines, for which the page is turned level, frames, and specks.
    5. Crop to the ink.

    photo: True treats the picture as a photograph even if its light is even; False takes it as it
    is, and only decides which side is ink; by default what is found decides. Raises NothingError
    where there is no ink.
    """
    found: list[str] = []
    to_picture = np.eye(3)
    if (shrink := max(grey.shape) / LONGEST) > 1:
        grey, to_picture = _resized(grey, shrink)
    if light := ink_is_light(grey):
        found.append("light ink on dark")
    if photo is False:
        return _cropped(grey if light else 255 - grey, found, to_picture)
    contrast, plain = even(grey, light)
    plain = plain and not photo
    ink = threshold(contrast, plain)
    enlarge = min(4.0, 1.4 * SMALLEST / symbol_size(ink)) if ink.any() else 1.0
    if enlarge > 1.4:
        found.append(f"small symbols, enlarged {enlarge:.1f} times")
        grey, back = _resized(grey, 1 / enlarge)
        to_picture = to_picture @ back
        contrast, _ = even(grey, light)
        ink = threshold(contrast, plain)
    if not plain:
        found.append("a photograph or scan")
    blurred = not plain or enlarge > 1.4
    levels, ink, fall = _cleaned(contrast, ink, plain, blurred, found)
    if abs(fall) > 1:
        found.append(f"a page turned by {fall:.0f} degrees")
        levels, turn = turned(levels, fall)
        return _cropped(levels, found, to_picture @ turn)
    return _with_others(levels, ink, found, to_picture)


def _resized(grey: np.ndarray, by: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture, its sides divided by a number; and the way back, (3, 3), in pixels."""
    size = [max(1, round(side / by)) for side in grey.shape[::-1]]
    how = Image.Resampling.BOX if by > 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(grey).resize(size, how)), np.diag([by, by, 1.0])


def _cleaned(contrast: np.ndarray, ink: np.ndarray, plain: bool, blurred: bool,
             found: list[str]) -> tuple[np.ndarray, np.ndarray, float]:
    """Levels (H, W) uint8 and ink without what nobody wrote; degrees by which the page falls."""
    from scipy import ndimage

    if not ink.any():
        raise NothingError("the picture is blank")
    contrast = contrast / min(1.0, float(contrast.max()))
    drawn, weak = ink, ink | (contrast > 0.5 * float(np.median(contrast[ink])))
    ink = without_frame(ink, found)
    ink, fall, between = without_rules(ink, weak & (ink | ~drawn), contrast, found)
    ink = without_specks(ink if plain and not between else without_dirt(ink), found)
    boxes = pieces(ink).boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    if not ink.any() or sides.max() < 0.35 * between:  # what rules leave of an empty page
        raise NothingError("the picture is blank")
    # Of a clean drawing the grey levels stay: its own threshold is better than any of ours.
    beyond = (contrast > 0.1) & ~ndimage.binary_dilation(ink, np.ones((9, 9)))
    untouched = not blurred and ink is drawn and not beyond.any()
    ink = narrowed(ink, contrast) if blurred else ink
    soft = np.clip(contrast, 0, 1)
    levels = soft if untouched else ink * (soft if plain else 1.0)
    return np.rint(255 * levels).astype(np.uint8), ink, fall


def _with_others(levels: np.ndarray, ink: np.ndarray, found: list[str],
                 to_picture: np.ndarray) -> Seen:
    """What was seen, and what it may be instead: turned, or without strays at the edges."""
    from scipy import ndimage

    first, others = _cropped(levels, found, to_picture), []
    angles, agreed = slants(ink)
    for degrees in angles:
        other, turn = turned(levels, degrees)
        says = [*found, f"ink that falls to the right by {degrees:.0f} degrees"]
        others.append(_cropped(other, says, to_picture @ turn))
    if agreed:
        first, others[0] = others[0], first
    for strays in at_the_edges(ink):
        near = ndimage.binary_dilation(strays, np.ones((5, 5)))
        says = [*found, "perhaps ink of another line at the edge"]
        others.append(_cropped(np.where(near, 0, levels), says, to_picture))
    return replace(first, others=tuple(others))


def narrowed(ink: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """The ink (H, W) bool without what is half as dark as the ink nearby: blur, which fills loops.

    contrast: (H, W) to the paper.
    """
    from scipy import ndimage

    side = 2 * int(np.ceil(pen_width(ink))) + 1
    dark = ndimage.maximum_filter(np.where(ink, contrast, 0), side)
    return np.asarray(ink & (contrast > 0.5 * dark))


def without_dirt(ink: np.ndarray) -> np.ndarray:
    """The ink (H, W) bool of a photograph without what its edge cuts off: shades, and small pieces.

    Where the edge of a shadow meets the picture's, no paper is left to tell its light from.
    """
    if not ink.any():
        return ink
    own, size = pieces(ink), symbol_size(ink)
    low, high = own.boxes[:, :2], own.boxes[:, 2:]
    sides, cut = high - low, (low == 0) | (high == ink.shape)  # (n, 2), across and along
    shallow = (cut & (sides < 0.3 * size) & (sides[:, ::-1] > 3 * sides)).any(1)
    return own.pixels(~(shallow | cut.any(1) & (sides.max(1) < 0.5 * size)))


def turned(levels: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Levels (h, w) uint8 turned counter-clockwise, and the way back, (3, 3), in pixels."""
    from skimage.transform import rotate

    result = np.rint(rotate(levels, degrees, resize=True, preserve_range=True)).astype(np.uint8)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    back = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    before, after = ((np.array(a.shape[::-1]) - 1) / 2 for a in (levels, result))
    back[:2, 2] = before - back[:2, :2] @ after
    return result, back


def even(grey: np.ndarray, light: bool) -> tuple[np.ndarray, bool]:
    """By how much of the paper's light each pixel differs, (H, W) float; and whether it is plain.

    The paper is a closing, wider than a pen: it fills ink and follows shades and the edges of
    shadows. A plain picture has even light and no grain: it is a drawing.
    """
    from scipy import ndimage

    dark = 255.0 - grey if light else grey.astype(float)
    side = max(25, max(grey.shape) // 16)
    # Grain would raise the paper to the brightest of its grains.
    smooth = ndimage.gaussian_filter(dark, 1.5, mode="nearest")
    paper = ndimage.grey_closing(smooth, size=(side, side), mode="nearest")
    paper = ndimage.gaussian_filter(paper, 2.0, mode="nearest")
    low, high = np.quantile(paper, (0.05, 0.95))
    grain = np.median(np.abs(dark - ndimage.median_filter(dark, 3)))
    plain = bool(high - low <= UNEVEN and grain <= 1)
    if plain:
        paper, smooth = np.full_like(dark, np.median(paper)), dark
    else:
        smooth = ndimage.gaussian_filter(dark, 0.7, mode="nearest")
    lit = np.maximum(255.0 - paper if light and not plain else paper, 40.0)
    contrast = (paper - smooth) / lit
    if not plain:  # the closing follows the lightest of the grain
        contrast -= np.median(contrast)
    return contrast, plain


def threshold(contrast: np.ndarray, plain: bool) -> np.ndarray:
    """Ink (H, W) bool, of what differs from paper; none on blank paper.

    Where the picture is not plain, full ink is what it is nearby: pencil is pale, and light on a
    board falls off. Strong ink takes along the weaker that it touches (hysteresis; Canny, 1986).
    """
    from scipy import ndimage
    from skimage.filters import apply_hysteresis_threshold, threshold_otsu

    blank = np.zeros(contrast.shape, bool)
    # What is lighter than most of the paper shows how far its grain goes.
    faint = max(FAINTEST, -3 * float(np.quantile(contrast, 0.1)))
    contrast = np.clip(contrast, 0, None)
    if contrast.max() < faint:
        return blank
    cut = threshold_otsu(contrast)
    full = float(np.median(contrast[contrast > cut]))
    if full < faint:
        return blank
    if plain:
        return np.asarray(contrast > min(cut, 200 / 255))
    side = max(contrast.shape) // 8
    smooth = ndimage.gaussian_filter(contrast, 1.0)
    near = ndimage.gaussian_filter(ndimage.maximum_filter(smooth, side), side / 4)
    scaled = np.clip(contrast / np.maximum(near, 0.5 * full), 0, 1)
    cut = float(np.clip(threshold_otsu(scaled), 0.3, 0.6))
    return np.asarray(apply_hysteresis_threshold(scaled, 0.75 * cut, cut))


def slants(ink: np.ndarray) -> tuple[list[float], bool]:
    """Degrees by which the ink (H, W) bool may fall to the right: two at most, the likeliest first.

    Also whether that one is sure, and steep. What is level lies in rows and columns: its profiles
    across and along have the least entropy (Postl, 1986, with entropy in place of variance).
    """
    from scipy.signal import find_peaks
    from scipy.stats import entropy

    every = np.argwhere(ink)
    points = every[:: 1 + len(every) // 5_000] / (PROFILE * symbol_size(ink))
    angles, mixed = np.arange(-STEEPEST - 4, STEEPEST + 5, 2), []
    for c, s in zip(np.cos(np.radians(angles)), np.sin(np.radians(angles)), strict=True):
        bins = points @ np.array([[c, s], [-s, c]])
        bins = (bins - bins.min(0)).astype(int)
        mixed.append(sum(entropy(np.bincount(profile)) for profile in bins.T))
    lowest = sorted(find_peaks(-np.array(mixed))[0], key=lambda i: mixed[i])[:2]
    found = [float(angles[i]) for i in lowest if abs(angles[i]) > SLANTED]
    sure = found and mixed[len(angles) // 2] - min(mixed) > SURE
    return found, bool(sure and abs(found[0]) > 2 * SLANTED and lowest[0] == np.argmin(mixed))


def at_the_edges(ink: np.ndarray) -> list[np.ndarray]:
    """Ink (H, W) bool of small pieces that the picture's upper edge cuts, or its lower."""
    own = pieces(ink)
    top, bottom = own.boxes[:, 0], own.boxes[:, 2]
    small = bottom - top < 0.7 * symbol_size(ink)
    cut = [small & (top == 0), small & (bottom == len(ink))]
    return [own.pixels(c) for c in cut if c.any() and not c.all()]


def _cropped(levels: np.ndarray, found: list[str], to_picture: np.ndarray) -> Seen:
    """What was seen, cropped to the ink."""
    rows, columns = (np.flatnonzero((levels > INK).any(axis)) for axis in (1, 0))
    if not len(rows):
        raise NothingError("the picture is blank")
    top, left = rows[0], columns[0]
    levels = np.ascontiguousarray(levels[top : rows[-1] + 1, left : columns[-1] + 1])
    shift = np.array([[1.0, 0, left], [0, 1, top], [0, 0, 1]])
    return Seen(levels, tuple(found), to_picture @ shift)
