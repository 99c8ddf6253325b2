"""Whatever one can give to `recognize`, as ink: refused where it is no single formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.data.colours import main_pen
from mmlib.data.errors import DataError, NothingError, existing_file
from mmlib.data.photo import Seen, see
from mmlib.data.pictures import grey_of, image_of_array, opened, upright
from mmlib.data.trace import trace_picture
from mmlib.formula.ink import Ink, InkError, stroke_boxes, typical_size
from mmlib.formula.inkfile import is_ink, read_ink

MOST_POINTS = 200_000  # ink points of one expression: a page of scribble, not a formula
MOST_AREA = 4_000  # square typical symbols: several times the longest expression of CROHME
# Typical symbols of blank paper between two lines. Of CROHME's 11,019 formulas 5 have as much, all
# of them tall.
GAP = 1.5


Strokes = tuple[np.ndarray, np.ndarray, float]  # points (n, 2), stroke (n,), typical symbol size


def ink_of(source: Any, photo: bool | None = None) -> Strokes:
    """Points (n, 2), strokes (n,) and typical symbol size of whatever `recognize` takes.

    Raises InkError, DataError or FileNotFoundError, naming the source.
    """
    seen = seen_in(source, photo)
    return strokes_of(seen, source)


def seen_in(source: Any, photo: bool | None = None) -> Seen | Ink:
    """What is seen in a picture, or the ink of a file or object of ink.

    Raises InkError, DataError or FileNotFoundError, naming the source.
    """
    if isinstance(source, str | Path):
        content = existing_file(source).read_bytes()
        if is_ink(content, str(source)):
            return read_ink(content, str(source))
    if isinstance(source, Ink):
        return source
    try:
        if isinstance(source, str | Path):
            image = opened(content)
        elif isinstance(source, np.ndarray):
            image = image_of_array(source)
        elif hasattr(source, "convert"):
            image = upright(source)
        else:
            raise DataError(f"cannot read a {type(source).__name__}; "
                            "give a path, a PIL image, an array or an Ink")
        seen = see(grey_of(image), photo)
        return seen if photo is False else replace(seen, others=(*_of_one_pen(image), *seen.others))
    except DataError as error:
        raise type(error)(f"{named(source, 'picture')}: {error}") from None


def _of_one_pen(image: Any) -> list[Seen]:
    """What the picture shows of the pen that wrote most, where there are two of them."""
    if (found := main_pen(image)) is None:
        return []
    grey, shrink = found
    try:
        alone = see(grey, photo=True)
    except NothingError:
        return []
    return [replace(way, found=(*way.found, "without ink of another colour"), others=(),
                    to_picture=np.diag([shrink, shrink, 1.0]) @ way.to_picture)
            for way in (alone, *alone.others)]


def strokes_of(seen: Seen | Ink, source: Any = None) -> Strokes:
    """The strokes of one formula. Raises InkError, naming the source, where it is none."""
    name = named(source, "the ink")
    if isinstance(seen, Ink):
        points, stroke = seen.points, seen.stroke
        size = typical_size(points, stroke)
    else:
        points, stroke, size = trace_picture(seen.levels)
    if len(points) > MOST_POINTS:
        raise InkError(f"{name}: {len(points):,} points are too many for one expression; "
                       "crop the picture to it")
    wide, high = np.ptp(points, axis=0) / size
    if (wide + 1) * (high + 1) > MOST_AREA:
        raise InkError(f"{name}: {wide:.0f} x {high:.0f} typical symbols are too much for one "
                       "expression; crop it, or give a picture without specks")
    if rows := several_rows(points, stroke, size):
        raise InkError(f"{name}: {rows} rows of ink with blank paper between them; "
                       "crop it to one formula, or ask for rows")
    return points, stroke, size


def named(source: Any, otherwise: str) -> str:
    """The path of a source that is a file."""
    return str(source) if isinstance(source, str | Path) else otherwise


def several_rows(points: np.ndarray, stroke: np.ndarray, size: float) -> int:
    """Rows of ink, each of a formula's size, that `GAP` of blank paper parts; 0 for a single one.

    Lines closer than that pass: they could be the two halves of a fraction.
    """
    low, high = stroke_boxes(points, stroke)
    order = np.argsort(low[:, 1])
    low, high = low[order] / size, high[order] / size
    gaps = low[1:, 1] - np.maximum.accumulate(high[:, 1])[:-1]
    starts = np.flatnonzero(gaps > GAP) + 1
    pieces = zip(np.split(low, starts), np.split(high, starts), strict=True)
    sides = [bottom.max(0) - top.min(0) for top, bottom in pieces]
    rows = sum(wide > 2 and tall > 0.5 for wide, tall in sides)
    return rows if rows > 1 else 0
