r"""Glyphs: what the layout asks of a source of pen strokes, and how large symbols are written.

One unit is the height of a digit. A glyph stands on the baseline y = 0, y grows downwards, and it
begins at x = 0. A *hand* is the name of a writer, in whose manner all symbols of an expression can
be drawn. The labels are canonical tokens, and ``\frac`` means the fraction bar.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from mmlib.formula.vocabulary import BEYOND, DOT

# What symbols.tsv says of each symbol; its head explains the columns.
_ROWS = [
    (*line.split("\t"), "", "", "")
    for line in Path(__file__).with_name("symbols.tsv").read_text(encoding="utf-8").splitlines()
    if not line.startswith("# ")
]
EXTENT = {row[0]: (float(row[1]), float(row[2]), float(row[3])) for row in _ROWS}
# Those whose size and place CROHME's ink tells.
MEASURED = EXTENT.keys() - {*BEYOND, DOT}
KIND = {row[0]: row[4] for row in _ROWS}
OFTEN = {row[0]: float(row[5]) for row in _ROWS if row[5]}
SHAPES = {row[0]: row[6].split("|") for row in _ROWS if row[6]}


class Glyph(NamedTuple):
    """One drawn symbol and its box, whose left side is x = 0."""

    points: np.ndarray  # (n, 2) float32
    stroke: np.ndarray  # (n,) int, the stroke of each point
    width: float
    top: float
    bottom: float

    @classmethod
    def of(cls, strokes: Sequence[np.ndarray]) -> "Glyph":
        """The glyph of (m, 2) strokes on the baseline, moved along it to begin at 0."""
        points = np.concatenate(strokes)
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        stroke = np.repeat(np.arange(len(strokes)), [len(s) for s in strokes])
        points = (points - np.array((left, 0), points.dtype)).astype(np.float32)
        return cls(points, stroke, right - left, top, bottom)

    def hook_end(self) -> float:
        """Of a root sign, where the hook ends and the line over the content begins.

        It is the x at which the pen is up again after the lowest point.
        """
        y = self.points[:, 1]
        lowest = int(y.argmax())
        up = np.flatnonzero(y[lowest:] < self.top + 0.25 * (self.bottom - self.top))
        return float(self.points[lowest + up[0], 0]) if len(up) else 0.0


class GlyphBank:
    """A source of pen strokes: a kind of bank gives its `labels`, `hand` and `_draw`."""

    labels: frozenset[str]

    def hand(self, rng: np.random.Generator) -> str:
        """Some hand of this bank."""
        raise NotImplementedError

    def draw(self, label: str, rng: np.random.Generator, hand: str | None = None) -> Glyph:
        """One way to write `label`, by `hand` if one is given; KeyError if not in `labels`."""
        if label not in self.labels:
            labels = " ".join(sorted(self.labels))
            raise KeyError(f"{type(self).__name__} has no glyph for {label!r}; it draws {labels}")
        return self._draw(label, rng, hand or self.hand(rng))

    def _draw(self, label: str, rng: np.random.Generator, hand: str) -> Glyph:
        raise NotImplementedError


class Collected(GlyphBank):
    """Glyphs by label and hand; another bank's hand always writes like the same one of these."""

    def __init__(self, glyphs: dict[str, dict[str, Glyph]]):
        self.glyphs, self.labels = glyphs, frozenset(glyphs)

    def hand(self, rng: np.random.Generator) -> str:
        return str(rng.choice(sorted({hand for made in self.glyphs.values() for hand in made})))

    def _draw(self, label: str, rng: np.random.Generator, hand: str) -> Glyph:
        hands = sorted(self.glyphs[label])
        return self.glyphs[label][hands[crc32(hand.encode()) % len(hands)]]


class Banks(GlyphBank):
    """Several banks as one: the first that has a label draws it, and the first one's hands write.

    So an expression has real ink for what there is, and pen strokes for the rest.
    """

    def __init__(self, *banks: GlyphBank):
        self.banks = banks
        self.labels = frozenset().union(*(bank.labels for bank in banks))

    def hand(self, rng: np.random.Generator) -> str:
        return self.banks[0].hand(rng)

    def _draw(self, label: str, rng: np.random.Generator, hand: str) -> Glyph:
        bank = next(bank for bank in self.banks if label in bank.labels)
        return bank.draw(label, rng, hand)
