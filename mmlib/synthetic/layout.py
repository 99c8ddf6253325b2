"""From a symbol layout tree to ink: where a hand puts the symbols, and how its pen wobbles.

One unit is the height of a digit of the main row, x to the right, y down, the main baseline at
y = 0. The numbers were measured on CROHME's 2014 training set (8,626 expressions whose MathML
aligns with their LaTeX): for each row a size and a baseline were fitted, and distances are in units
of the size of the row that they belong to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mmlib.formula.ink import Symbol
from mmlib.formula.tree import Node
from mmlib.synthetic.glyphs import KIND, Glyph, GlyphBank

CLOSING = {"(": ")", "[": "]", r"\{": r"\}", "|": "|"}  # what closes a bracket
# Median gaps that a kind keeps before and after itself; the wider wish of two neighbours wins.
_GAPS = {
    "relation": (0.65, 0.65), "operator": (0.46, 0.46), "function": (0.5, 0.45),
    "open": (0.4, 0.28), "close": (0.28, 0.4), "fraction": (0.42, 0.42), "mark": (0.27, 0.45),
    "big": (0.28, 0.4),
}  # fmt: skip
_LETTER_GAP, _BRACKET_GAP = (0.28, 0.28), 0.19  # of all other kinds; inside brackets
# Of big operators: median size and its spread, and how often limits stand at the side.
_BIG_SIZE = {r"\int": (1.15, 0.22), r"\sum": (1.02, 0.2), r"\lim": (1.0, 0.1),
             r"\prod": (1.02, 0.2)}
_E = 2.718281828  # as written here, the ink of a seed stays what it was


class Manner:
    """How one hand lays out one expression: medians drawn once; symbols vary around them."""

    def __init__(self, rng: np.random.Generator) -> None:
        z = rng.standard_normal(11).tolist()

        def drawn(median: float, spread: float) -> float:
            """With a spread of its logarithm."""
            return float(median * _E ** (spread * z.pop()))

        self.spacing = drawn(1.0, 0.28)  # factor on all gaps
        self.script = min(max(drawn(0.59, 0.22), 0.35), 0.9)  # size of a script against its row
        self.fraction = drawn(0.85, 0.18)  # size of numerators and denominators
        self.rise = drawn(0.75, 0.13)  # baseline of a superscript above that of its row
        self.drop = drawn(0.3, 0.3)  # baseline of a subscript below that of its row
        self.bar_gap = drawn(0.27, 0.25)
        self.overhang = drawn(0.4, 0.5)  # what a fraction bar adds to its longer side
        self.wobble = drawn(1.0, 0.25)  # factor on all small variations
        # Chance that the limits of an integral stand at its side.
        self.limits_aside = 0.9 if z.pop() > 0 else 0.1
        self.slope = 0.018 * z.pop()  # of the rows, in units per unit
        self.sway = 0.05 * abs(z.pop())  # amplitude of a baseline that comes and goes


class _Leaf(NamedTuple):
    """A symbol's glyph, and its sizes along x and y."""

    node: Node
    glyph: Glyph
    sx: float
    sy: float


@dataclass(slots=True)
class _Box:
    """Placed content: its extent around the origin (baseline, left edge), and what is in it."""

    width: float = 0.0
    top: float = 0.0
    bottom: float = 0.0
    content: list[tuple[float, float, "_Box | _Leaf"]] = field(default_factory=list)  # x, y, what

    def add(self, x: float, y: float, box: "_Box") -> "_Box":
        """Put a box in and grow; content left of the origin is allowed until `settle`."""
        if not self.content:
            self.top, self.bottom = y + box.top, y + box.bottom
        self.top, self.bottom = min(self.top, y + box.top), max(self.bottom, y + box.bottom)
        self.width = max(self.width, x + box.width)
        self.content.append((x, y, box))
        return self

    def settle(self) -> "_Box":
        """Shift the content so that none of it is left of the origin."""
        left = min((x for x, _, _ in self.content), default=0.0)
        if left < 0:
            self.content = [(x - left, y, inner) for x, y, inner in self.content]
            self.width -= left
        return self

    def leaves(self, x: float = 0.0, y: float = 0.0) -> Iterator[tuple[float, float, _Leaf]]:
        """The symbols inside, with their places."""
        for dx, dy, inner in self.content:
            if isinstance(inner, _Leaf):
                yield x + dx, y + dy, inner
            else:
                yield from inner.leaves(x + dx, y + dy)


class Layout:
    """Lays out a tree with glyphs of one hand of a bank; each tree needs a new `Layout`."""

    def __init__(self, bank: GlyphBank, hand: str, rng: np.random.Generator) -> None:
        self.bank, self.hand, self.rng = bank, hand, rng
        self.manner = Manner(rng)
        self._normals: list[float] = []

    def ink(self, tree: Sequence[Node]) -> tuple[list[np.ndarray], tuple[Symbol, ...]]:
        """Strokes (m, 2) and symbols, in the order of the tree's numbers (`renumber`).

        The fraction bar's label is "-", as in CROHME. Raises KeyError for a label that the bank
        lacks, ValueError where there is no symbol.
        """
        leaves = list(self.row(tree, 1.0).leaves())
        leaves.sort(key=lambda placed: int(placed[2].node.ref or 0))
        if not leaves:
            raise ValueError("a tree without symbols has no ink")
        counts = [int(leaf.glyph.stroke[-1]) + 1 for _, _, leaf in leaves]
        first = np.cumsum([0, *counts])
        points, stroke = self._pen(leaves, first)
        labels = ("-" if leaf.node.label == r"\frac" else leaf.node.label for _, _, leaf in leaves)
        symbols = (Symbol(label, tuple(range(*own)), str(number))
                   for number, (label, own) in enumerate(zip(labels, pairwise(first.tolist()))))
        return np.split(points, np.flatnonzero(np.diff(stroke)) + 1), tuple(symbols)

    def _pen(self, leaves: list[tuple[float, float, _Leaf]], first: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray]:
        """Points (n, 2) and their strokes: glyphs a little turned and slanted, then all wobbled.

        first: (s + 1,) number of each leaf's first stroke, and of all strokes.
        """
        rng, wobble = self.rng, self.manner.wobble
        counts = [len(leaf.glyph.points) for _, _, leaf in leaves]
        own = np.array([
            (x, y, leaf.sx, leaf.sy, leaf.glyph.width / 2, (leaf.glyph.top + leaf.glyph.bottom) / 2)
            for x, y, leaf in leaves
        ])  # fmt: skip
        # Bars and roots are long: they keep their angle, or their ends would move far.
        long = (r"\frac", r"\sqrt", r"\overline")
        rigid = np.array([leaf.node.label in long for _, _, leaf in leaves])
        turn = rng.normal(0, 0.04 * wobble, len(own))
        turn = turn * np.where(rigid, 0.3 / np.maximum(own[:, 4] * own[:, 2], 1), 1)
        slant = rng.normal(0, 0.06 * wobble, len(own)) * ~rigid
        per_point = np.repeat(np.column_stack([own, turn, slant]), counts, axis=0).T
        x, y, sx, sy, cx, cy, turn, slant = per_point
        points = np.concatenate([leaf.glyph.points for _, _, leaf in leaves])
        across, down = (points[:, 0] - cx) * sx, (points[:, 1] - cy) * sy
        points = np.stack([x + cx * sx + across - slant * down,
                           y + cy * sy + down + turn * across], 1)
        stroke = np.concatenate([leaf.glyph.stroke for _, _, leaf in leaves])
        stroke = stroke + np.repeat(first[:-1], counts)
        # The hand: rows climb or sway, strokes land a little off, all is bent, the pen trembles.
        wave = rng.normal(0, 1.6, (2, 3))
        bend = np.sin(points @ wave + rng.uniform(0, 6.3, 3))
        bend = bend @ rng.normal(0, 0.022 * wobble, (3, 2))
        along = points[:, 0]
        sway = np.sin(along * rng.uniform(0.2, 0.7) + rng.uniform(0, 6.3))
        rows = self.manner.slope * along + self.manner.sway * sway
        points += bend + np.stack([np.zeros_like(along), rows], 1)
        size = np.minimum(sy, 1)[:, None]
        points += rng.normal(0, 0.014 * wobble, (int(first[-1]), 2))[stroke] * size
        points += rng.normal(0, 0.004 * wobble, points.shape) * size
        return points.astype(np.float32), stroke.astype(np.int32)

    def row(self, nodes: Sequence[Node], size: float) -> _Box:
        """Items side by side; brackets are stretched over what they hold."""
        partner = _partners(nodes)
        items = {i: self.item(node, size) for i, node in enumerate(nodes) if i not in partner}
        # Inner brackets first: outer ones hold them.
        for start, end in sorted(partner.items(), key=lambda pair: abs(pair[1] - pair[0])):
            if start < end:
                inner = [items[i] for i in range(start + 1, end) if i in items]
                top = min((box.top for box in inner), default=-size)
                bottom = max((box.bottom for box in inner), default=0.0)
                spare = 0.24 * size
                top, bottom = min(-1.15 * size, top - spare), max(0.15 * size, bottom + spare / 2)
                for at in (start, end):
                    ends = top + self.normal(0.14) * size, bottom + self.normal(0.14) * size
                    items[at] = self.scripts(nodes[at], self.glyph(nodes[at], size, ends), size)
        out, x, y = _Box(), 0.0, 0.0
        for i, node in enumerate(nodes):
            if i:
                opens, closes = partner.get(i - 1, -1) > i - 1, -1 < partner.get(i, i) < i
                x += self.gap(nodes[i - 1], node, opens, closes) * size
            out.add(x, y, items[i])
            x += items[i].width
            y += (self.normal(0.03) - 0.15 * y / size) * size  # wander, and come back to the line
        return out.settle()

    def item(self, node: Node, size: float) -> _Box:
        """A symbol with all that hangs on it."""
        if node.label in _BIG_SIZE:
            return self.big_operator(node, size)
        made = {r"\frac": self.fraction, r"\sqrt": self.root, r"\overline": self.overlined}
        return self.scripts(node, made.get(node.label, self.glyph)(node, size), size)

    def glyph(self, node: Node, size: float, ends: tuple[float, float] | None = None) -> _Box:
        """A symbol at `size`, or stretched between two heights (in units, not sizes)."""
        if not node.label:
            return _Box(0.0, -0.65 * size, 0.0)
        glyph = self.bank.draw(node.label, self.rng, self.hand)
        sx = sy = size * self.near(1, 0.07)
        y = self.normal(0.04) * size
        if ends is not None:
            sy = max(ends[1] - ends[0], 0.8 * size) / max(glyph.bottom - glyph.top, 0.05)
            y, sx = ends[0] - glyph.top * sy, sx * max(sy / sx, 0.5) ** 0.35
        leaf = (0.0, y, _Leaf(node, glyph, sx, sy))
        return _Box(glyph.width * sx, y + glyph.top * sy, y + glyph.bottom * sy, [leaf])

    def gap(self, left: Node, right: Node, opens: bool, closes: bool) -> float:
        """Distance between neighbours: `left` opens a bracket, `right` closes one, or neither."""
        a, b = KIND.get(left.label, ""), KIND.get(right.label, "")
        wish = max(_GAPS.get(a, _LETTER_GAP)[1], _GAPS.get(b, _LETTER_GAP)[0])
        if b == "open" and a in ("operator", "relation"):
            wish += 0.2
        elif opens or closes or a == "open" or b == "close":
            wish = _BRACKET_GAP
        spread = 0.45 if "relation" in (a, b) else 0.35
        return wish * self.manner.spacing * self.near(1, spread) + self.normal(0.1)

    def scripts(self, node: Node, base: _Box, size: float) -> _Box:
        """Sub- and superscript at the right of a base."""
        sub, sup = node.children.get("Sub"), node.children.get("Sup")
        if not sub and not sup:
            return base
        out, ceiling = _Box().add(0.0, 0.0, base), None
        if sup:
            box = self.row(sup, size * min(self.near(self.manner.script, 0.18), 0.95))
            rise = max(self.manner.rise * size, -base.top - 0.2 * size) + self.normal(0.14) * size
            if sup[0].label == r"\prime":
                rise = max(-base.top - 0.75 * size, 0)  # a prime is high already
            else:  # a tall script stays above the row's middle
                rise = max(rise, 0.4 * size, box.bottom + 0.3 * size)
            out.add(base.width + (0.16 + self.normal(0.16)) * size, -rise, box)
            ceiling = box.bottom - rise
        if sub:
            box = self.row(sub, size * min(self.near(self.manner.script, 0.18), 0.95))
            deep = node.label in CLOSING.values() or node.label in (r"\frac", r"\sqrt")
            drop = max(self.manner.drop * size, base.bottom + (0.05 if deep else -0.25) * size)
            drop = max(drop + self.normal(0.14) * size, 0.12 * size, -box.top - 0.45 * size)
            if ceiling is not None:
                drop = max(drop, ceiling - box.top + 0.08 * size)
            out.add(base.width + (0.16 + self.normal(0.16)) * size, drop, box)
        return out

    def fraction(self, node: Node, size: float) -> _Box:
        """Numerator and denominator, centred over and under a bar at the height of a minus."""
        manner, children = self.manner, node.children
        sizes = [size * min(self.near(manner.fraction, 0.1), 1.1) for _ in range(2)]
        above, below = (self.row(children.get(side, ()), own)
                        for side, own in zip(("Above", "Below"), sizes))
        bar = self.bank.draw(r"\frac", self.rng, self.hand)
        widest = max(above.width, below.width)
        width = max(widest + self.near(manner.overhang, 0.4) * size, 0.5 * size)
        axis = (-0.36 + self.normal(0.07)) * size
        sx, sy = width / max(bar.width, 0.05), size
        middle = (bar.top + bar.bottom) / 2 * sy
        thick = min((bar.bottom - bar.top) * sy, 0.25 * size) / 2
        leaf = (0.0, axis - middle, _Leaf(node, bar, sx, sy))
        out = _Box().add(0.0, 0.0, _Box(width, axis - thick, axis + thick, [leaf]))
        for box, up, extra in ((above, True, 0.0), (below, False, 0.05)):
            gap = max(self.near(manner.bar_gap + extra, 0.3) * size, 0.03 * size)
            y = axis - thick - gap - box.bottom if up else axis + thick + gap - box.top
            out.add((width - box.width) / 2 * (1 + self.normal(0.25)), y, box)
        return out.settle()

    def root(self, node: Node, size: float) -> _Box:
        """A root sign stretched over its content, with its index at the hook."""
        inside = self.row(node.children.get("Inside", ()), size * self.near(0.95, 0.06))
        glyph = self.bank.draw(r"\sqrt", self.rng, self.hand)
        top = min(inside.top, -0.6 * size) - self.near(0.5, 0.35) * size
        bottom = max(inside.bottom, -0.1 * size) + self.normal(0.12) * size
        sy = (bottom - top) / max(glyph.bottom - glyph.top, 0.1)
        hook = glyph.hook_end()
        # The hook keeps its shape up to a point, the line above the content takes the rest.
        left = min(max(hook * sy, 0.6 * size), 1.4 * size) * self.near(1.1, 0.15)
        span = inside.width + (0.25 + self.near(0.3, 0.7)) * size
        shaped = glyph.points.copy()
        x, rest = shaped[:, 0], max(glyph.width - hook, 0.05)
        shaped[:, 0] = np.where(x < hook, x * (left / hook), left + (x - hook) * (span / rest))
        glyph = Glyph(shaped, glyph.stroke, left + span, glyph.top, glyph.bottom)
        leaf = (0.0, top - glyph.top * sy, _Leaf(node, glyph, 1.0, sy))
        out = _Box().add(0.0, 0.0, _Box(left + span, top, bottom, [leaf]))
        out.add(left + self.near(0.25, 0.4) * size, 0.0, inside)
        if index := node.children.get("Above"):
            box = self.row(index, size * min(self.near(0.55, 0.15), 0.8))
            y = top + 0.45 * (bottom - top) - box.bottom
            out.add(left * 0.5 - box.width * 0.8, y, box)
        return out.settle()

    def overlined(self, node: Node, size: float) -> _Box:
        """A row under a bar, which is drawn like that of a fraction."""
        out = self.row(node.children["Inside"], size)
        bar = self.bank.draw(r"\frac", self.rng, self.hand)
        sx = max(out.width + self.normal(0.2) * size, 0.4 * size) / max(bar.width, 0.05)
        thick = min((bar.bottom - bar.top) * size, 0.2 * size)
        top = out.top - self.near(0.2, 0.4) * size - thick
        leaf = (0.0, top - bar.top * size, _Leaf(node, bar, sx, size))
        x = (out.width - bar.width * sx) / 2 + self.normal(0.08) * size
        return out.add(x, 0.0, _Box(bar.width * sx, top, top + thick, [leaf])).settle()

    def big_operator(self, node: Node, size: float) -> _Box:
        """Sum, integral or limit, with its limits above and below or at its side."""
        integral = node.label == r"\int"
        glyph = self.glyph(node, size * self.near(*_BIG_SIZE[node.label]))
        chance = {r"\int": self.manner.limits_aside, r"\lim": 0.0}.get(node.label, 0.05)
        aside = self.rng.random() < chance
        out = _Box().add(0.0, 0.0, glyph)
        for relation in ("Sub", "Sup"):
            up = relation == "Sup"
            if not (row := node.children.get(relation)):
                continue
            box = self.row(row, size * self.near(0.66, 0.15))
            if aside:
                shift = 0.35 if integral and not up else 0  # under an integral's upper end
                x = glyph.width + (0.1 + self.normal(0.1) - shift) * size
                middle = glyph.top + 0.1 * size if up else glyph.bottom - 0.15 * size
                y = middle - (box.top + box.bottom) / 2
            else:
                gap = self.near(0.26, 0.35) * size
                lean = (0.7 if integral and up else 0.08) + self.normal(0.15)
                x = (glyph.width - box.width) / 2 + lean * size
                y = glyph.top - gap - box.bottom if up else glyph.bottom + gap - box.top
            out.add(x, y, box)
        return out.settle()

    def normal(self, spread: float) -> float:
        """A small variation."""
        if not self._normals:  # many at once: single draws are slow
            self._normals = self.rng.standard_normal(256).tolist()
        return self._normals.pop() * spread * self.manner.wobble

    def near(self, median: float, spread: float) -> float:
        """A positive number around its median, with a spread of its logarithm."""
        return float(median * _E ** self.normal(spread))


def _partners(nodes: Sequence[Node]) -> dict[int, int]:
    """For every bracket of a row that has its partner in the row, the partner's place."""
    found: dict[int, int] = {}
    stack: list[int] = []
    for i, node in enumerate(nodes):
        label = node.label
        if stack and CLOSING[nodes[stack[-1]].label] == label:
            start = stack.pop()
            found[start], found[i] = i, start
        elif label in CLOSING and not (label == "|" and any(nodes[j].label == "|" for j in stack)):
            stack.append(i)
    return found
