"""Glyphs of single-stroke Hershey fonts, bent into many hands."""

from typing import NamedTuple
from zlib import crc32

import numpy as np

from mmlib.synthetic.glyphs import EXTENT, SHAPES, Glyph, GlyphBank

SPACING = 0.1  # between the points of a stroke: 10 to 30 points per symbol, like a pen's samples
_FUNCTIONS = (r"\sin", r"\cos", r"\tan", r"\log", r"\lim")
# Greek letters in the keys of Hershey's "greeks".
_GREEK = {
    r"\beta": "b", r"\gamma": "c", r"\theta": "h", r"\lambda": "k", r"\mu": "l", r"\phi": "u",
    r"\alpha": "a", r"\pi": "p", r"\sigma": "r", r"\Delta": "D", r"\delta": "d", r"\zeta": "f",
    r"\eta": "g", r"\kappa": "j", r"\nu": "m", r"\xi": "n", r"\rho": "q", r"\tau": "s",
    r"\chi": "v", r"\psi": "w", r"\omega": "x", r"\Omega": "X",
}  # fmt: skip
# Neither slanted nor bent much.
_FLAT = ("-", r"\frac", "=", ".", r"\ldots", r"\sqrt", r"\cdot", ":")


class Shape(NamedTuple):
    """One way to draw a symbol."""

    strokes: list[np.ndarray]
    drawn: bool  # one of ours, in a unit box; otherwise a font's, in the font's proportions


class HersheyBank(GlyphBank):
    """Single-stroke Hershey fonts, with small drawings for the symbols that they lack.

    hands: how many writers there are; seed: which ones.

    A hand chooses one shape for each label and keeps it: its own slant, width, bend and rounding of
    that shape. Single samples then differ by what the layout adds.
    """

    def __init__(self, hands: int = 256, seed: int = 0):
        self.hands, self.seed = hands, seed
        self._shapes = _load_shapes()
        self.labels = frozenset(self._shapes) | set(_FUNCTIONS)
        self._cache: dict[tuple[str, str], Glyph] = {}

    def hand(self, rng: np.random.Generator) -> str:
        return f"hershey-{rng.integers(self.hands)}"

    def _draw(self, label: str, rng: np.random.Generator, hand: str) -> Glyph:
        if (hand, label) not in self._cache:
            made = self._word(label, hand) if label in _FUNCTIONS else self._glyph(label, hand)
            self._cache[hand, label] = made
        return self._cache[hand, label]

    def _glyph(self, label: str, hand: str) -> Glyph:
        own = np.random.default_rng([self.seed, crc32(hand.encode())])  # the hand's manner
        slant, wide, small = own.normal(0.12, 0.12), own.normal(1, 0.1), own.normal(1, 0.07)
        rng = np.random.default_rng([self.seed, crc32(hand.encode()), crc32(label.encode())])
        shapes = self._shapes[label]
        # The last shape of a letter is the cursive one; few write capitals so.
        cursive = label.isalpha() and rng.random() < (0.1 if label.isupper() else 0.4)
        chosen = -1 if cursive else rng.integers(len(shapes) - label.isalpha())
        strokes, drawn = shapes[chosen]
        top, bottom, width = EXTENT[label]
        if drawn:
            low, size = np.zeros(2), np.ones(2)
        else:  # a font's own width counts as much as the measured one
            low = np.min([s.min(0) for s in strokes], 0)
            size = np.maximum(np.max([s.max(0) for s in strokes], 0) - low, 1e-3)
            width = (width * size[0] / size[1] * (bottom - top)) ** 0.5
        if bottom - top < 0.75 and label not in ("-", r"\frac", "."):
            top, bottom = top * small, bottom * small  # x-height against digit height
        across, down = width * wide * rng.normal(1, 0.08), (bottom - top) * rng.normal(1, 0.05)
        # A slow bend of the whole shape: two waves along each axis.
        wave, phase = rng.normal(0, 2.2, (2, 2)), rng.uniform(0, 6.3, 2)
        bend = rng.normal(0, 0.04, (2, 2))
        bent, slant = (0.3, 0) if label in _FLAT else (1, slant)
        placed = []
        for stroke in strokes:
            points = (stroke - low) / size * (across, down) + (0, top)
            points = points + (np.sin(points @ wave + phase) @ bend) * bent
            points[:, 0] -= points[:, 1] * slant
            placed.append(_resample(points, SPACING))
        return Glyph.of(placed)

    def _word(self, label: str, hand: str) -> Glyph:
        """The letters of a function's name, closely set."""
        rng = np.random.default_rng([self.seed, crc32(hand.encode()), 1])
        gap, x, strokes = rng.normal(0.12, 0.05), 0.0, []
        for letter in label[1:]:
            glyph = self.draw(letter, rng, hand)
            points = (glyph.points + (x, 0)) * (0.85, 0.95)
            strokes += [points[glyph.stroke == k] for k in range(glyph.stroke[-1] + 1)]
            x += glyph.width + gap
        return Glyph.of(strokes)


def _load_shapes() -> dict[str, list[Shape]]:
    from HersheyFonts import HersheyFonts

    shapes = {label: [_drawn_shape(text) for text in texts] for label, texts in SHAPES.items()}
    keys = {c: c for c in EXTENT if len(c) == 1 and c.isalnum()}
    letters = {c: c for c in keys if c.isalpha()}
    for name, table in (("futural", keys), ("cursive", letters), ("greeks", _GREEK)):
        font = HersheyFonts()
        font.load_default_font(name)
        for label, key in table.items():
            (glyph,) = font.glyphs_for_text(key)
            strokes = [np.array(s, float) / 21 for s in glyph.strokes if len(s) > 1]
            # Resampled first, so that long straight segments are cut near their ends only.
            strokes = [_round_corners(_resample(s, 0.12)) for s in strokes]
            shapes.setdefault(label, []).append(Shape(strokes, drawn=False))
    return shapes


def _drawn_shape(text: str) -> Shape:
    strokes = [[tuple(map(float, p.split(","))) for p in s.split()] for s in text.split(";")]
    return Shape([_round_corners(np.array(s) / 100) for s in strokes], drawn=True)


def _round_corners(points: np.ndarray, times: int = 3) -> np.ndarray:
    """Chaikin's corner cutting; it keeps the ends, and a corner where a point is repeated."""
    for _ in range(times):
        a, b = points[:-1], points[1:]
        cut = np.stack([a + (b - a) / 4, a + (b - a) * 0.75], 1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut, points[-1:]])
    return points


def _resample(points: np.ndarray, step: float) -> np.ndarray:
    """Points at even distances of about `step` along a polyline; both ends are kept."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.linspace(0, along[-1], max(2, round(along[-1] / step) + 1))
    return np.stack([np.interp(at, along, points[:, 0]), np.interp(at, along, points[:, 1])], 1)
