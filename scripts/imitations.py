"""How much of reading is left when a formula is photographed, scanned or written on odd paper.

    python -m scripts.imitations [KIND ...] --count 30 --record

Inks of the validation split are drawn plain and in each manner below. Printed, and kept with
`--record`: exact readings of each kind as a share of those of the plain drawings, by the recogniser
that ships. Nobody tuned the recogniser on these kinds; the cleaning was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from scipy import ndimage

from mmlib.data.corpus import load_corpus
from mmlib.data.errors import DataError
from mmlib.data.imitate import falling, imitate, on_paper
from mmlib.formula.ink import InkError
from mmlib.read.reader import Reader, recognize
from mmlib.show.ink import drawing
from mmlib.store.files import results_root

Array = np.ndarray


def board(ink: Array, rng: np.random.Generator) -> Array:
    """Chalk, which skips over the grain, on a board."""
    chalk = ink * (0.75 + 0.25 * ndimage.gaussian_filter(rng.random(ink.shape), 1.0))
    return on_paper(chalk, rng, 45, 200, light=falling(ink.shape, rng, 0.6))


def coloured(ink: Array, rng: np.random.Generator) -> Array:
    """Black or white ink on paper of some colour, evenly lit: (H, W, 3)."""
    paper = rng.uniform(60, 200, 3)
    pen = np.full(3, 15.0 if paper.mean() > 110 else 245.0)
    return (paper + (pen - paper) * ink[..., None]).astype(np.uint8)


def colour_pens(ink: Array, rng: np.random.Generator) -> Array:
    """A pen of some colour on white: (H, W, 3)."""
    pen = np.array([(220, 40, 40), (40, 60, 200), (30, 140, 60), (240, 200, 40)])[rng.integers(4)]
    return (255 + (pen - 255.0) * ink[..., None]).astype(np.uint8)


def ticked(ink: Array, rng: np.random.Generator) -> Array:
    """A teacher's red tick, and one of a green page's lines, over a dark pen: (H, W, 3)."""
    high, wide = ink.shape
    x, y = np.arange(wide), np.arange(high)[:, None]
    start, fall = rng.uniform(0.3, 0.6) * wide, rng.uniform(0.3, 0.8)
    tick = (abs(y - 0.9 * high + fall * (x - start) * (high / wide)) < 4) & (x > start)
    line = abs(y - rng.uniform(0.1, 0.9) * high - 0.03 * (x - wide / 2)) < 2
    paper, seen = np.array([236.0, 232, 222]), np.ones((high, wide, 3))
    red, green, black = np.array([(0.9, 0.25, 0.3), (0.35, 0.75, 0.5), (0.2, 0.2, 0.3)])
    for marks, pen in ((tick, red), (line, green), (ink, black)):
        seen *= 1 - ndimage.gaussian_filter(marks.astype(float), 0.8)[..., None] * (1 - pen)
    return np.clip(paper * seen + rng.normal(0, 3, seen.shape), 0, 255).astype(np.uint8)


def dim(ink: Array, rng: np.random.Generator) -> Array:
    """Little light."""
    return on_paper(ink, rng, 60, 22, 2, falling(ink.shape, rng, 0.4))


def dark_on_dark(ink: Array, rng: np.random.Generator) -> Array:
    """Ink a little darker than dark paper, evenly lit."""
    return on_paper(ink, rng, 90, 50, 1.5)


def pencil(ink: Array, rng: np.random.Generator) -> Array:
    """Pale strokes of uneven darkness."""
    uneven = ndimage.gaussian_filter(rng.random(ink.shape), 12)
    uneven = 0.6 + 0.4 * (uneven - uneven.min()) / np.ptp(uneven)
    return on_paper(ink * uneven, rng, 225, 150, 4, falling(ink.shape, rng, 0.25))


def ruled(ink: Array, rng: np.random.Generator, upright: bool = False) -> Array:
    """A scan of ruled paper, whose lines cross the formula."""
    page, step = np.zeros(ink.shape), rng.integers(40, 80)
    for axis in (0, 1) if upright else (0,):
        lines = np.arange(rng.integers(step), ink.shape[axis], step)
        for width in range(2):
            at = np.minimum(lines + width, ink.shape[axis] - 1)
            page[(at, slice(None)) if axis == 0 else (slice(None), at)] = 1
    grey = rng.uniform(120, 180)
    return np.minimum(255 - (255 - grey) * page, 255 - 235 * ink).astype(np.uint8)


def squared(ink: Array, rng: np.random.Generator) -> Array:
    """A scan of squared paper."""
    return ruled(ink, rng, upright=True)


def specks(ink: Array, rng: np.random.Generator) -> Array:
    """Dust of one or two pixels on a scan."""
    dust = rng.random(ink.shape) < 3e-4
    dust |= ndimage.binary_dilation(rng.random(ink.shape) < 1e-4, np.ones((2, 2)))
    return np.where(dust, 0, 255 - 255 * ink).astype(np.uint8)


def frame(ink: Array, rng: np.random.Generator) -> Array:
    """A box, not quite straight, around the formula."""
    framed, (high, wide) = ink.copy(), ink.shape
    width = rng.integers(2, 6)
    top, left, bottom, right = rng.integers(4, 16, 4)
    outer = framed[top : high - bottom, left : wide - right]
    outer[:width] = outer[-width:] = outer[:, :width] = outer[:, -width:] = 1
    return 255 - (255 * framed).astype(np.uint8)


def strays(ink: Array, rng: np.random.Generator) -> Array:
    """A picture cut out of a page so that the feet of the line above are still on it."""
    rows, wide = np.flatnonzero(ink.max(1) > 0.5), ink.shape[1]
    feet = round(rng.uniform(0.1, 0.25) * np.ptp(rows))
    above = np.roll(ink, rng.integers(wide), 1)[rows[-1] - feet : rows[-1] + 1]
    return 255 - (255 * np.concatenate([above, ink[20:]])).astype(np.uint8)


def shadow(ink: Array, rng: np.random.Generator) -> Array:
    """A shadow with a hard edge across the page."""
    high, wide = ink.shape
    turn = rng.uniform(-0.6, 0.6)
    y, x = np.mgrid[:high, :wide]
    dark = (x - wide * rng.uniform(0.3, 0.7)) * np.cos(turn) + (y - high / 2) * np.sin(turn) < 0
    light = 1 - rng.uniform(0.35, 0.6) * ndimage.gaussian_filter(dark.astype(float), 1.5)
    return on_paper(ink, rng, light=light)


def tilted(degrees: float) -> Callable[[Array, np.random.Generator], Array]:
    """A plain page, turned to either side."""
    def turned(ink: Array, rng: np.random.Generator) -> Array:
        side = degrees * rng.choice((-1, 1))
        return 255 - (255 * np.clip(ndimage.rotate(ink, side, order=1), 0, 1)).astype(np.uint8)
    return turned


def photograph(ink: Array, rng: np.random.Generator) -> Array:
    """A ruled page, lit from one side and seen at an angle."""
    return imitate((255 * ink).astype(np.uint8), rng)


def ruled_photograph_turned(ink: Array, rng: np.random.Generator) -> Array:
    """The same, turned by 10 to 25 degrees."""
    tilt = rng.choice((-1, 1)) * rng.uniform(0.17, 0.44)
    return imitate((255 * ink).astype(np.uint8), rng, tilt=tilt, perspective=0.03)


def small(ink: Array, rng: np.random.Generator) -> Array:
    """Twelve pixels per symbol."""
    tiny = np.clip(ndimage.zoom(ndimage.gaussian_filter(ink, 2.0), 0.25, order=1), 0, 1)
    return 255 - (255 * tiny / max(tiny.max(), 0.1)).astype(np.uint8)


def telephone(ink: Array, rng: np.random.Generator) -> Array:
    """A photograph of 12 megapixels or more."""
    seen = on_paper(ink, rng, light=falling(ink.shape, rng, 0.4))
    times = int(np.ceil(np.sqrt(12e6 / seen.size)))
    return seen.repeat(times, 0).repeat(times, 1)


KINDS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "board": board, "coloured paper": coloured, "coloured pens": colour_pens, "ticked": ticked,
    "dim": dim, "dark on dark": dark_on_dark, "pencil": pencil, "ruled": ruled, "squared": squared,
    "specks": specks, "frame": frame, "shadow": shadow, "strays": strays, "photograph": photograph,
    "turned photograph": ruled_photograph_turned, "small": small, "telephone": telephone,
    **{f"turned by {degrees}": tilted(degrees) for degrees in (5, 10, 20, 30)},
}
ROWS = {"rows": 1, "rows in columns": 2}


def rows_exact(truth: list[tuple[tuple[str, ...], Array]], reader: Reader,
               columns: int = 1) -> int:
    """Exact readings of formulas that stand three under another, in columns."""
    exact, many = 0, 3 * columns
    for start in range(0, len(truth), many):
        own, rng = truth[start : start + many], np.random.default_rng(start)
        wide = max(ink.shape[1] for _, ink in own) + 200
        page = np.zeros((sum(ink.shape[0] for _, ink in own) + 100, wide * columns))
        bottom = [20] * columns
        for number, (_, ink) in enumerate(own):
            column = number // 3
            high, across = ink.shape
            left = wide * column + rng.integers(5, 60)
            page[bottom[column] : bottom[column] + high, left : left + across] = ink
            bottom[column] += high - rng.integers(0, 50)  # of the margins, 80 pixels
        found = []
        with contextlib.suppress(DataError, InkError):
            found = recognize(255 - (255 * page).astype(np.uint8), reader=reader, rows=True)
        best = [row.readings[0].tokens for row in found if row.readings]
        exact += sum(a == b for a, (b, _) in zip(best, own)) if len(best) == len(own) else 0
    return exact


def formulas(count: int) -> list[tuple[tuple[str, ...], Array]]:
    """Tokens and drawing, ink (H, W) from 0 to 1, of inks of the validation split."""
    corpus, rng = load_corpus("crohme"), np.random.default_rng(0)
    chosen = [i for i in rng.permutation(corpus.valid) if 5 <= len(corpus.pack.tokens(i)) <= 25]
    return [(tuple(corpus.pack.tokens(i)),
             drawing(corpus.pack[i], margin=40, pen=rng.uniform(3, 7)) / 255)
            for i in chosen[:count]]


def read(picture: Array, reader: Reader) -> tuple[str, ...]:
    """The best reading; nothing where the picture is refused."""
    try:
        return recognize(picture, reader=reader)[0].tokens
    except (DataError, InkError):
        return ()


def main() -> None:
    """Print the shares, and record them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=[*KINDS, *ROWS])
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    truth, reader = formulas(options.count), Reader.load()
    plain = sum(read(255 - (255 * ink).astype(np.uint8), reader) == tokens for tokens, ink in truth)
    print(f"{'plain':20} {plain} of {len(truth)} exact", flush=True)
    exact = {"plain": plain}
    for kind in options.kinds:
        if kind in ROWS:
            exact[kind] = rows_exact(truth, reader, ROWS[kind])
            print(f"{kind:20} {exact[kind]} exact, {exact[kind] / plain:4.0%} of plain", flush=True)
            continue
        drawn = [KINDS[kind](ink, np.random.default_rng(n)) for n, (_, ink) in enumerate(truth)]
        exact[kind] = sum(read(picture, reader) == t for picture, (t, _) in zip(drawn, truth))
        print(f"{kind:20} {exact[kind]} exact, {exact[kind] / plain:4.0%} of plain", flush=True)
    if options.record:
        path = results_root() / "trials" / "imitations.json"
        before = json.loads(path.read_text("utf-8"))
        if before["formulas"] != len(truth) or before["exact"]["plain"] != plain:
            before = {"exact": {}, "commits": {}}  # shares of another plain number
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                                text=True, check=True).stdout.strip()
        commits = before["commits"] | dict.fromkeys(exact, commit)
        kept = {"formulas": len(truth), "beam": 5, "exact": before["exact"] | exact,
                "commits": commits, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
