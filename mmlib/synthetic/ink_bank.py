"""Glyphs cut from real ink by its segmentation into symbols."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from statistics import median
from zlib import crc32

import numpy as np

from mmlib.formula.ink import Ink
from mmlib.formula.latex import align, to_tree
from mmlib.formula.tree import Node, renumber
from mmlib.synthetic.glyphs import EXTENT, MEASURED, Glyph, GlyphBank

# The height of these says nothing about the size of the row: they stretch, or are flat.
_NO_MEASURE = {*"()[]|-=.,!", r"\{", r"\}", r"\frac", r"\sqrt", r"\sum", r"\int", r"\ldots"}
_NO_MEASURE.add(r"\prime")
# Size of a row against that of the row it hangs on.
_SHRINK = {"Sub": 0.6, "Sup": 0.6, "Above": 0.86, "Below": 0.86, "Inside": 0.95}
Box = tuple[float, float, float, float]  # left, top, right, bottom


class InkBank(GlyphBank):
    """Symbols cut from real ink, by writer.

    An expression is used where its tokens are aligned with its symbols. Then the tree tells which
    row each symbol stands in, the row's other symbols tell its size and baseline, and the glyph
    keeps what it had of its own against both. A hand is a writer (an expression, where its writer
    is unknown). What a writer never wrote is taken from other hands, the same few each time.

    Raises ValueError where nothing is left.
    """

    def __init__(self, inks: Iterable[Ink]):
        self._glyphs: dict[str, dict[str, list[Glyph]]] = defaultdict(lambda: defaultdict(list))
        for ink in inks:
            for label, glyph in _cut(ink):
                self._glyphs[label][ink.writer or ink.id].append(glyph)
        if not self._glyphs:
            raise ValueError("none of these inks has symbols aligned with tokens")
        self.labels = frozenset(self._glyphs)
        counts: Counter[str] = Counter()
        for hands in self._glyphs.values():
            counts.update({hand: len(glyphs) for hand, glyphs in hands.items()})
        self._hands = sorted(counts)
        share = np.array([counts[hand] for hand in self._hands]) / counts.total()
        self._share = np.cumsum(share)
        # Who stands in for hands that left few symbols.
        self._rich = sorted(counts, key=lambda hand: counts[hand])[-64:]

    def hand(self, rng: np.random.Generator) -> str:
        place = int(np.searchsorted(self._share, rng.random()))
        return self._hands[min(place, len(self._hands) - 1)]

    def _draw(self, label: str, rng: np.random.Generator, hand: str) -> Glyph:
        hands = self._glyphs[label]
        if hand not in hands:
            start = crc32(hand.encode()) % len(self._rich)
            order = self._rich[start:] + self._rich[:start]
            hand = next((other for other in order if other in hands), None) or min(hands)
        glyphs = hands[hand]
        return glyphs[int(rng.random() * len(glyphs))]


def _cut(ink: Ink) -> Iterator[tuple[str, Glyph]]:
    """Label and glyph of every symbol, if the expression's tokens are aligned with its symbols."""
    if not ink.tokens or ink.token_symbols is None:
        return
    tree = to_tree(ink.tokens)
    renumber(tree)
    strokes = ink.strokes()
    strokes_of: dict[str | None, tuple[int, ...]] = {
        ref: ink.symbols[symbol].strokes
        for ref, symbol in zip(align(ink.tokens, tree) or (), ink.token_symbols, strict=True)
        if ref is not None and symbol >= 0
    }
    boxes: dict[str | None, Box] = {}
    for ref, own in strokes_of.items():
        points = np.concatenate([strokes[k] for k in own])
        boxes[ref] = (*points.min(0).tolist(), *points.max(0).tolist())
    pending: list[tuple[list[Node], float | None]] = [(tree, None)]
    while pending:
        row, expected = pending.pop()
        known = [node for node in row if node.ref in boxes and node.label in MEASURED]
        sure = [node for node in known if node.label not in _NO_MEASURE]
        size = _row_size(known, sure, boxes, expected)
        if size <= 0:
            continue
        pending += [(inner, size * _SHRINK[side])
                    for node in row for side, inner in node.children.items()]
        middles = []  # of symbols, each with the baseline that it speaks for
        for node in sure or known:
            left, top, right, bottom = boxes[node.ref]
            extent = EXTENT[node.label]
            middles.append(((left + right) / 2,
                            (top + bottom - size * (extent[0] + extent[1])) / 2))
        for node in known:
            left, _, right, _ = boxes[node.ref]
            # A row may climb: its baseline at a symbol is the median over the five nearest.
            near = sorted((abs(x - (left + right) / 2), k) for k, (x, _) in enumerate(middles))[:5]
            baseline = median(middles[k][1] for _, k in near)
            origin = np.array((left, baseline), np.float32)
            glyph = Glyph.of([(strokes[k] - origin) / size for k in strokes_of[node.ref]])
            if _plausible(node.label, glyph):
                yield node.label, glyph


def _row_size(known: list[Node], sure: list[Node], boxes: dict[str | None, Box],
              expected: float | None) -> float:
    """Size of a row by its symbols and by the row that it hangs on; 0 where nothing tells it."""
    sizes = [_ratio(boxes[node.ref], node.label) for node in sure]
    if expected is not None:  # as good as one more symbol
        sizes.append(expected)
    if not sizes:
        sizes = [_ratio(boxes[node.ref], node.label, longer=True) for node in known]
    return median(sizes or [0])


def _ratio(box: Box, label: str, longer: bool = False) -> float:
    """Size of a box against what its label has at size 1: by height, or by the longer side."""
    top, bottom, width = EXTENT[label]
    left, up, right, down = box
    side = max(down - up, right - left if longer else 0.0)
    return side / max(bottom - top, width if longer else 0.0)


def _plausible(label: str, glyph: Glyph) -> bool:
    """No wrong segmentation, no misjudged size, no root sign that cannot be stretched."""
    top, bottom, width = EXTENT[label]
    if label == r"\sqrt":
        return glyph.width > 0.3 and 0.1 < glyph.hook_end() / glyph.width < 0.75
    if label == r"\frac":
        return glyph.width > 0.3 and glyph.bottom - glyph.top < 0.35 * glyph.width
    ratio = max(glyph.bottom - glyph.top, glyph.width) / max(bottom - top, width)
    return abs(glyph.top + glyph.bottom - top - bottom) < 0.8 and 0.6 < ratio < 1.7
