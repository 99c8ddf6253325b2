r"""Where synthetic ink takes its pen strokes from: the Hershey fonts, or symbols cut from real ink.

One unit is the height of a digit; a glyph stands on the baseline y = 0, y grows downwards, and begins at
x = 0. A *hand* is the name of a writer, in whose manner all symbols of an expression can be drawn. The labels
are canonical tokens, and ``\frac`` means the fraction bar.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import NamedTuple, Protocol
from zlib import crc32

import numpy as np

from mmlib.data.pack import Pack
from mmlib.formula.ink import Ink, stroke_boxes
from mmlib.formula.latex import align, to_tree
from mmlib.formula.tree import Node, renumber

# Top, bottom and width of each symbol class as CROHME's writers draw it: medians over the single-row
# expressions of the 2014 training set (18,000 symbols), after fitting baseline, slope and size to each row.
# Classes seen fewer than ten times there are rounded to their like.
_MEASURED = r"""
! -1.12 .11 .09   ( -1.29 .24 .40   ) -1.34 .30 .41   + -.70 -.04 .62   , -.12 .33 .17   - -.42 -.36 .57
. -.20 -.12 .07   / -1.25 .21 .54   0 -.84 -.05 .69   1 -1.02 -.03 .30   2 -.98 -.01 .67   3 -.99 .02 .64
4 -1.05 .03 .54   5 -.98 -.01 .74   6 -1.05 -.01 .56   7 -1.03 0 .74   8 -1.03 .01 .61   9 -1.02 .04 .64
= -.50 -.14 .68   A -1.17 .08 .84   B -1.16 .05 .90   C -1.11 .07 .85   E -1.08 .03 .84   F -1.17 .07 .86
G -1.21 .10 .86   H -1.20 .07 .74   I -1.09 .06 .60   L -1.15 0 .74   M -1.07 .08 1.07   N -1.10 .07 .92
P -1.16 .06 .68   R -1.17 .15 .95   S -1.08 .08 .68   T -1.03 .10 1.00   V -1.16 .13 .85   X -1.07 .05 .79
Y -1.14 .23 .74   [ -1.37 .43 .50   ] -1.37 .43 .50   \{ -1.5 .45 .55   \} -1.5 .45 .55   | -1.40 .35 .06
\Delta -.97 .07 .97   \alpha -.81 .04 .96   \beta -1.10 .40 .82   \div -.88 .09 .91   \exists -1.08 .06 .9
\forall -1.25 .05 .95   \gamma -.84 .40 .84   \geq -1.00 .18 1.00   \gt -.79 .01 .70   \in -1.01 -.01 .9
\infty -.70 -.02 1.46   \int -1.75 .75 .95   \lambda -1.11 .11 .85   \ldots -.17 -.02 1.42
\leq -1.05 .20 1.00   \lt -.79 .01 .75   \mu -.75 .45 .99   \neq -1.00 .30 1.00   \phi -1.30 .46 .89
\pi -.78 -.03 .88   \pm -1.00 .08 .92   \rightarrow -.62 -.03 1.75   \sigma -.71 -.01 .96
\sum -1.35 .30 1.24   \theta -1.03 .04 .82   \times -.64 .05 .61   \prime -1.20 -.75 .18
\sqrt -1.3 .2 1.2   a -.61 .03 .76   b -1.21 .03 .61   c -.67 -.01 .61   d -1.16 .01 .64   e -.71 -.02 .70
f -1.40 .60 .75   g -.62 .75 .74   h -1.27 .05 .72   i -.99 -.04 .33   j -.97 .56 .57   k -1.23 0 .75
l -1.17 .11 .50   m -.62 -.04 1.09   n -.59 -.02 .69   o -.66 .03 .59   p -.67 .56 .59   q -.71 .66 .64
r -.75 .03 .67   s -.73 .04 .50   t -1.10 .01 .60   u -.64 -.01 .75   v -.73 -.02 .85   w -.70 -.03 1.04
x -.67 .02 .82   y -.69 .70 .72   z -.70 .08 .80   \sin -.90 .12 1.93   \cos -.68 .06 1.93
\tan -1.1 .09 2.0   \log -1.19 .72 1.57   \lim -1.1 .04 1.5
"""
_FIELDS = iter(_MEASURED.split())
EXTENT = {label: tuple(float(next(_FIELDS)) for _ in range(3)) for label in _FIELDS}
EXTENT[r"\frac"] = (-0.42, -0.36, 1.0)

_FUNCTIONS = (r"\sin", r"\cos", r"\tan", r"\log", r"\lim")
# Shapes that no single-stroke Hershey font has, or that pens draw otherwise: alternatives separated by "|",
# strokes by ";", points "x,y" in percent of the symbol's box. A repeated point is a corner, all else is
# rounded.
_DRAWN = {
    "(": "90,0 45,12 10,35 5,60 25,85 80,100|70,0 30,15 8,45 15,75 60,100",
    ")": "10,0 55,12 90,35 95,60 75,85 20,100|30,0 70,15 92,45 85,75 40,100",
    "[": "95,0 10,0 10,0 8,100 8,100 95,100|10,0 10,0 8,100 8,100 95,98; 8,2 90,0",
    "]": "5,0 90,0 90,0 92,100 92,100 5,100|5,0 90,0 90,0 92,100; 92,98 5,100",
    r"\{": (
        "95,0 60,2 45,12 55,35 45,45 5,50 5,50 45,55 55,65 45,88 60,98 95,100|90,0 40,5 50,30 40,45 5,50 45,56 50,72 45,95 90,100"
    ),
    r"\}": (
        "5,0 40,2 55,12 45,35 55,45 95,50 95,50 55,55 45,65 55,88 40,98 5,100|"
        "10,0 60,5 50,30 60,45 95,50 55,56 50,72 55,95 10,100"
    ),
    "|": "50,0 40,50 50,100",
    "/": "100,0 52,48 0,100",
    "-": "0,55 50,40 100,50",
    r"\frac": "0,55 30,45 70,52 100,48",
    "+": "0,52 50,48 100,50; 50,0 52,50 48,100|52,0 48,50 50,100; 0,50 50,52 100,47",
    "=": "0,8 50,2 100,5; 0,95 50,100 100,92",
    ".": "20,20 70,10 80,70 30,90 20,30|40,20 60,80",
    ",": "60,0 75,25 55,65 10,100|80,0 20,100",
    "!": "50,0 55,35 50,72; 50,95 60,98 50,100",
    "1": "45,0 50,50 48,100|0,28 60,0 60,0 55,50 58,100|10,25 55,0 55,0 55,100; 0,100 50,98 100,100",
    "0": "55,0 20,8 0,50 15,90 50,100 85,88 100,45 80,8 50,0",
    "4": ("45,0 30,30 0,68 0,68 50,66 100,65; 75,35 72,70 70,100|20,0 8,50 8,50 50,52 95,48; 85,5 82,50 80,100"),
    "7": "0,5 50,2 100,0 100,0 65,40 35,100|0,5 50,2 100,0 100,0 65,40 35,100; 15,52 85,47",
    "x": ("0,0 40,35 65,75 100,100; 100,0 55,45 0,100|0,8 25,0 42,25 45,70 25,98 2,88; 98,8 80,0 60,22 55,70 72,100 100,90"),
    "z": ("5,5 50,2 95,0 95,0 50,50 0,100 0,100 50,98 100,95|5,5 50,2 95,0 95,0 50,50 0,100 0,100 50,98 100,95; 20,52 80,48"),
    "f": "100,12 75,0 55,15 48,50 45,85 25,100 0,90; 10,42 90,38",
    "t": "45,0 42,40 45,85 65,100 95,88; 0,32 90,28|50,0 48,50 50,100; 0,30 100,28",
    "y": "0,0 10,35 45,45 90,5 90,5 80,50 55,90 20,100 0,85|0,0 45,45; 100,0 55,50 10,100",
    "p": "8,5 10,5 5,100; 8,12 45,0 90,12 92,35 50,50 8,42",
    "b": "5,0 5,50 8,98; 8,62 45,48 90,60 92,85 50,100 8,95",
    "r": "5,5 12,50 12,100; 14,45 40,12 75,2 100,12",
    "e": "5,55 50,52 92,38 75,8 40,0 8,30 5,70 35,98 70,98 100,80",
    r"\sum": ("95,8 90,0 5,0 5,0 60,48 60,48 0,98 0,98 60,100 95,95 100,85|100,0 5,2 5,2 55,50 55,50 0,100 0,100 100,98"),
    r"\int": "100,6 85,0 65,8 55,40 45,65 35,92 15,100 0,93",
    r"\infty": "50,50 30,15 8,15 0,50 10,88 30,85 50,50 70,15 92,15 100,50 90,88 70,85 50,50",
    r"\in": "100,5 55,2 15,15 0,50 15,88 55,98 100,95; 2,50 85,50",
    r"\forall": "0,0 50,100 50,100 100,0; 20,42 80,40",
    r"\exists": "0,2 98,0 98,0 100,100 100,100 0,98; 10,50 98,50",
    r"\leq": "95,0 2,38 2,38 98,72; 2,98 50,100 95,95",
    r"\geq": "5,0 98,38 98,38 2,72; 5,98 50,100 98,95",
    r"\lt": "98,0 2,50 2,50 100,100",
    r"\gt": "2,0 98,50 98,50 0,100",
    r"\neq": "0,35 100,32; 0,68 100,66; 85,0 20,100",
    r"\pm": "0,40 100,38; 50,0 50,78; 2,100 98,97",
    r"\times": "0,0 50,48 100,100; 100,0 48,52 0,100",
    r"\div": "0,50 50,48 100,50; 48,2 55,6 48,9; 48,91 55,95 48,99",
    r"\rightarrow": "0,50 50,46 100,50; 72,0 85,25 100,50 100,50 85,72 70,100",
    r"\ldots": "2,50 4,70 2,60; 48,50 50,70 48,60; 95,50 97,70 95,60|0,40 3,40; 48,60 51,60; 96,50 100,50",
    r"\prime": "90,0 55,50 10,100",
    r"\sqrt": ("0,62 8,50 18,100 18,100 32,0 32,0 60,1 100,0|0,55 12,48 12,48 20,100 20,100 34,0 34,0 65,2 99,0 99,0 100,12"),
    r"\Delta": "50,0 0,100 0,100 100,98 100,98 50,0|45,0 0,98 0,98 50,100 100,98 100,98 50,0",
    r"\pi": "0,15 15,2 55,6 100,2; 30,6 28,60 15,100; 68,5 65,60 72,95 90,98",
    r"\sigma": "100,2 50,0 12,20 0,60 25,98 60,95 75,60 60,25 40,5",
    r"\alpha": "100,5 75,55 40,98 8,85 2,45 25,5 50,15 75,70 100,100",
}
# Greek letters in the keys of Hershey's "greeks".
_GREEK = {r"\beta": "b", r"\gamma": "c", r"\theta": "h", r"\lambda": "k", r"\mu": "l", r"\phi": "u",
          r"\alpha": "a", r"\pi": "p", r"\sigma": "r", r"\Delta": "D"}  # fmt: skip

SPACING = 0.1  # between the points of a drawn stroke: about 10 to 30 points per symbol, like a pen's samples


class Glyph(NamedTuple):
    """One drawn symbol: points (n, 2) float32, stroke (n,) int of each point, and its box (x begins at 0)."""

    points: np.ndarray
    stroke: np.ndarray
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


class GlyphBank(Protocol):
    """What the layout asks of a source of pen strokes."""

    labels: frozenset[str]

    def hand(self, rng: np.random.Generator) -> str:
        """Some hand of this bank."""

    def draw(self, label: str, rng: np.random.Generator, hand: str | None = None) -> Glyph:
        """One way to write `label`, by `hand` if one is given. Raises KeyError if it is not in `labels`."""


def _unknown(label: str, bank: GlyphBank) -> KeyError:
    return KeyError(f"{type(bank).__name__} has no glyph for {label!r}; it draws {' '.join(sorted(bank.labels))}")


def _round(points: np.ndarray, times: int = 3) -> np.ndarray:
    """Chaikin's corner cutting, which keeps the ends, and a corner where a point is repeated."""
    for _ in range(times):
        a, b = points[:-1], points[1:]
        points = np.concatenate([points[:1], np.stack([a + (b - a) / 4, a + (b - a) * 0.75], 1).reshape(-1, 2), points[-1:]])
    return points


def _densify(points: np.ndarray, step: float) -> np.ndarray:
    """Points at even distances of about `step` along a polyline; both ends are kept."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.linspace(0, along[-1], max(2, round(along[-1] / step) + 1))
    return np.stack([np.interp(at, along, points[:, 0]), np.interp(at, along, points[:, 1])], 1)


def _drawn(text: str) -> list[np.ndarray]:
    """The strokes of one alternative of `_DRAWN`, in its unit box."""
    strokes = [[tuple(map(float, p.split(","))) for p in s.split()] for s in text.split(";")]
    return [_round(np.array(s) / 100) for s in strokes]


class HersheyBank:
    """Single-stroke Hershey fonts, with small drawings for the symbols that they lack.

    hands: how many writers there are; seed: which. A hand chooses one shape for each label and keeps it:
    its own slant, width, bend and rounding of that shape. Single samples then differ by what the layout
    adds.
    """

    def __init__(self, hands: int = 256, seed: int = 0):
        self.hands, self.seed = hands, seed
        self._shapes = self._load()
        self.labels = frozenset(self._shapes) | set(_FUNCTIONS)
        self._cache: dict[tuple[str, str], Glyph] = {}

    @staticmethod
    def _load() -> dict[str, list[tuple[list[np.ndarray], bool]]]:
        """For each label its shapes: strokes, and whether they are ours, in a unit box."""
        from HersheyFonts import HersheyFonts

        shapes = {label: [(_drawn(t), True) for t in text.split("|")] for label, text in _DRAWN.items()}
        keys = {c: c for c in EXTENT if len(c) == 1 and c.isalnum()}
        letters = {c: k for c, k in keys.items() if c.isalpha()}
        for name, table in (("futural", keys), ("cursive", letters), ("greeks", _GREEK)):
            font = HersheyFonts()
            font.load_default_font(name)
            for label, key in table.items():
                (glyph,) = font.glyphs_for_text(key)
                strokes = [np.array(s, float) / 21 for s in glyph.strokes if len(s) > 1]
                # Long straight segments keep their corners: cut near the ends only.
                shapes.setdefault(label, []).append(([_round(_densify(s, 0.12)) for s in strokes], False))
        return shapes

    def hand(self, rng: np.random.Generator) -> str:
        return f"hershey-{rng.integers(self.hands)}"

    def draw(self, label: str, rng: np.random.Generator, hand: str | None = None) -> Glyph:
        hand = self.hand(rng) if hand is None else hand
        glyph = self._cache.get((hand, label))
        if glyph is None:
            if label not in self.labels:
                raise _unknown(label, self)
            glyph = self._cache[hand, label] = self._make(label, hand)
        return glyph

    def _make(self, label: str, hand: str) -> Glyph:
        if label in _FUNCTIONS:
            return self._word(label, hand)
        own = np.random.default_rng([self.seed, crc32(hand.encode())])  # the hand's manner
        slant, wide, small = own.normal(0.12, 0.12), own.normal(1, 0.1), own.normal(1, 0.07)
        rng = np.random.default_rng([self.seed, crc32(hand.encode()), crc32(label.encode())])  # this shape's
        shapes = self._shapes[label]
        # The last shape of a letter is the cursive one; few write capitals so.
        cursive = label.isalpha() and rng.random() < (0.1 if label.isupper() else 0.4)
        shape, drawn = shapes[-1 if cursive else rng.integers(len(shapes) - label.isalpha())]
        top, bottom, width = EXTENT[label]
        if drawn:
            low, size = np.zeros(2), np.ones(2)
        else:  # a font's own width counts as much as the measured one
            low = np.min([s.min(0) for s in shape], 0)
            size = np.maximum(np.max([s.max(0) for s in shape], 0) - low, 1e-3)
            width = (width * size[0] / size[1] * (bottom - top)) ** 0.5
        if bottom - top < 0.75 and label not in ("-", r"\frac", "."):
            top, bottom = np.array([top, bottom]) * small  # x-height against digit height
        scale = np.array([width * wide * rng.normal(1, 0.08), (bottom - top) * rng.normal(1, 0.05)])
        # A slow bend of the whole shape: two waves along each axis.
        wave, phase, bend = rng.normal(0, 2.2, (2, 2)), rng.uniform(0, 6.3, 2), rng.normal(0, 0.04, (2, 2))
        flat = label in ("-", r"\frac", "=", ".", r"\ldots", r"\sqrt")
        strokes = []
        for s in shape:
            p = (s - low) / size
            p = p * scale + (0, top)
            p = p + (np.sin(p @ wave + phase) @ bend) * (0.3 if flat else 1)
            p[:, 0] -= p[:, 1] * slant * (0 if flat else 1)
            strokes.append(_densify(p, SPACING))
        return Glyph.of(strokes)

    def _word(self, label: str, hand: str) -> Glyph:
        """The letters of a function's name, closely set."""
        rng = np.random.default_rng([self.seed, crc32(hand.encode()), 1])
        gap, x, strokes = rng.normal(0.12, 0.05), 0.0, []
        for letter in label[1:]:
            glyph = self.draw(letter, rng, hand)
            strokes += [(glyph.points[glyph.stroke == k] + (x, 0)) * (0.85, 0.95) for k in range(glyph.stroke[-1] + 1)]
            x += glyph.width + gap
        return Glyph.of(strokes)


class InkBank:
    """Symbols cut from real ink by its segmentation, by writer.

    inks: any sequence of `Ink` (a pack); indices: those that may be used, by default all. Leave out
    whatever is held back for validation. An expression is used where its tokens are aligned with its
    symbols: then the tree tells which row each symbol stands in, the row's other symbols tell its size and
    baseline, and the glyph keeps what it had of its own against both. A hand is a writer (an expression,
    where its writer is unknown); what a writer never wrote is taken from other hands, the same few each
    time. Raises ValueError where nothing is left.
    """

    def __init__(self, inks: Sequence[Ink] | Pack, indices: Iterable[int] | None = None):
        self._glyphs: dict[str, dict[str, list[Glyph]]] = defaultdict(lambda: defaultdict(list))
        for i in range(len(inks)) if indices is None else indices:
            for label, glyph in _cut(ink := inks[int(i)]):
                self._glyphs[label][ink.writer or ink.id].append(glyph)
        if not self._glyphs:
            raise ValueError("none of these inks has symbols aligned with tokens")
        self.labels = frozenset(self._glyphs)
        counts: dict[str, int] = defaultdict(int)
        for hands in self._glyphs.values():
            for hand, glyphs in hands.items():
                counts[hand] += len(glyphs)
        self._hands = sorted(counts)
        share = np.array([counts[hand] for hand in self._hands]) / sum(counts.values())
        self._share = np.cumsum(share)
        # Who stands in for hands that left few symbols.
        self._rich = sorted(counts, key=lambda hand: counts[hand])[-64:]

    def hand(self, rng: np.random.Generator) -> str:
        return self._hands[min(int(np.searchsorted(self._share, rng.random())), len(self._hands) - 1)]

    def draw(self, label: str, rng: np.random.Generator, hand: str | None = None) -> Glyph:
        if label not in self.labels:
            raise _unknown(label, self)
        hands, hand = self._glyphs[label], hand or self.hand(rng)
        if hand not in hands:  # the same few stand in for all that this hand never wrote
            start = crc32(hand.encode()) % len(self._rich)
            order = self._rich[start:] + self._rich[:start]
            hand = next((other for other in order if other in hands), None) or min(hands)
        glyphs = hands[hand]
        return glyphs[int(rng.random() * len(glyphs))]


# Of these the height says nothing about the size of the row: they stretch, or are flat.
_NO_MEASURE = {*"()[]|-=.,!", r"\{", r"\}", r"\frac", r"\sqrt", r"\sum", r"\int", r"\ldots", r"\prime"}
_SHRINK = {"Sub": 0.6, "Sup": 0.6, "Above": 0.86, "Below": 0.86, "Inside": 0.95}


def _cut(ink: Ink) -> Iterator[tuple[str, Glyph]]:
    """Label and glyph of every symbol of an expression whose tokens are aligned with its symbols."""
    if not ink.tokens or ink.token_symbols is None:
        return
    tree = to_tree(ink.tokens)
    renumber(tree)
    strokes, corners = ink.strokes(), np.concatenate(stroke_boxes(ink.points, ink.stroke), 1).tolist()
    parts: dict[str | None, tuple[int, ...]] = {}
    boxes: dict[str | None, tuple[float, float, float, float]] = {}  # left, top, right, bottom
    for ref, symbol in zip(align(ink.tokens, tree) or (), ink.token_symbols, strict=True):
        if ref is not None and symbol >= 0:
            parts[ref] = ink.symbols[symbol].strokes
            lefts, tops, rights, bottoms = zip(*(corners[k] for k in parts[ref]), strict=True)
            boxes[ref] = min(lefts), min(tops), max(rights), max(bottoms)
    pending: list[tuple[list[Node], float | None]] = [(tree, None)]
    while pending:
        row, expected = pending.pop()
        known = [node for node in row if node.ref in boxes and node.label in EXTENT]
        sure = [node for node in known if node.label not in _NO_MEASURE]
        sizes = [_ratio(boxes[node.ref], node.label) for node in sure]
        if expected is not None:  # as good as one more symbol
            sizes.append(expected)
        size = median(sizes or [_ratio(boxes[node.ref], node.label, longer=True) for node in known] or [0])
        if size <= 0:
            continue
        lines = []  # where each symbol stands, and the baseline that it speaks for
        for node in sure or known:
            (left, top, right, bottom), extent = boxes[node.ref], EXTENT[node.label]
            lines.append(((left + right) / 2, (top + bottom - size * (extent[0] + extent[1])) / 2))
        pending += [(inner, size * _SHRINK[side]) for node in row for side, inner in node.children.items()]
        for node in known:
            left, _, right, _ = boxes[node.ref]
            # A row may climb: its baseline at a symbol is the median over the five nearest.
            near = sorted((abs(x - (left + right) / 2), k) for k, (x, _) in enumerate(lines))[:5]
            origin = np.array((left, median(lines[k][1] for _, k in near)), np.float32)
            own = [strokes[k] for k in parts[node.ref]]
            glyph = Glyph.of([(stroke - origin) / size for stroke in own])
            if _plausible(node.label, glyph):
                yield node.label, glyph


def _ratio(box: tuple[float, float, float, float], label: str, longer: bool = False) -> float:
    """Size of a box against what its label has at size 1: by height, or by the longer side."""
    top, bottom, width = EXTENT[label]
    left, up, right, down = box
    return max(down - up, right - left if longer else 0.0) / max(bottom - top, width if longer else 0.0)


def _plausible(label: str, glyph: Glyph) -> bool:
    """No wrong segmentation, no size that was not understood, no root sign that cannot be stretched."""
    top, bottom, width = EXTENT[label]
    if label == r"\sqrt":
        return glyph.width > 0.3 and 0.1 < hook(glyph) / glyph.width < 0.75
    if label == r"\frac":
        return glyph.width > 0.3 and glyph.bottom - glyph.top < 0.35 * glyph.width
    ratio = max(glyph.bottom - glyph.top, glyph.width) / max(bottom - top, width)
    return abs(glyph.top + glyph.bottom - top - bottom) < 0.8 and 0.6 < ratio < 1.7


def hook(glyph: Glyph) -> float:
    """Where the hook of a root sign ends and its line begins: x where the pen is up from the lowest point."""
    y = glyph.points[:, 1]
    lowest = int(y.argmax())
    up = np.flatnonzero(y[lowest:] < glyph.top + 0.25 * (glyph.bottom - glyph.top))
    return float(glyph.points[lowest + up[0], 0]) if len(up) else 0.0
