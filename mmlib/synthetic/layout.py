"""From a symbol layout tree to ink: where a hand puts the symbols, and how its pen wobbles.

One unit is the height of a digit of the main row, x to the right, y down, the main baseline at y = 0. The
numbers were measured on CROHME's 2014 training set (8,626 expressions whose MathML aligns with their
LaTeX): for each row a size and a baseline were fitted, and distances are in units of the size of the row
that they belong to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import numpy as np

from mmlib.formula.tree import Node
from mmlib.synthetic.glyphs import Glyph, GlyphBank, hook

_OPEN = {"(": ")", "[": "]", r"\{": r"\}", "|": "|"}
_CLOSE = frozenset(_OPEN.values())
_KIND = (
    dict.fromkeys(("=", r"\leq", r"\geq", r"\lt", r"\gt", r"\neq", r"\rightarrow", r"\in"), "relation")
    | dict.fromkeys(("+", "-", r"\times", r"\div", r"\pm"), "operator")
    | dict.fromkeys((r"\sin", r"\cos", r"\tan", r"\log", r"\lim"), "function")
    | dict.fromkeys(("(", "[", r"\{"), "open")
    | dict.fromkeys((")", "]", r"\}"), "close")
    | dict.fromkeys((",", "."), "mark")
    | dict.fromkeys((r"\sum", r"\int"), "big")
    | {r"\frac": "fraction", r"\sqrt": "root"}
)
# Median gap that a kind keeps to its neighbours (the wider wish of the two wins); all others: _LETTER_GAP.
_BEFORE = {"relation": 0.65, "operator": 0.46, "function": 0.5, "open": 0.4, "fraction": 0.42, "mark": 0.27}
_AFTER = {
    "relation": 0.65,
    "operator": 0.46,
    "function": 0.45,
    "close": 0.4,
    "fraction": 0.42,
    "mark": 0.45,
    "big": 0.4,
}
_LETTER_GAP, _BRACKET_GAP = 0.28, 0.19


@dataclass
class Manner:
    """How one hand lays out one expression: medians drawn once; single symbols vary around them."""

    loose: float  # factor on all gaps
    script: float  # size of a script against its row
    part: float  # size of numerators and denominators
    raise_sup: float  # baseline of a superscript above that of its row
    drop_sub: float
    bar_gap: float
    overhang: float  # what a fraction bar adds to its longer part
    slope: float  # of the rows, in units per unit
    sway: float  # amplitude of a baseline that comes and goes
    limits_aside: float  # chance that the limits of an integral stand at its side
    wobble: float  # factor on all small variations

    # median, and spread of the logarithm
    _SPREAD: ClassVar = {
        "loose": (1.0, 0.28), "script": (0.59, 0.22), "part": (0.85, 0.18), "raise_sup": (0.75, 0.13),
        "drop_sub": (0.3, 0.3), "bar_gap": (0.27, 0.25), "overhang": (0.4, 0.5), "wobble": (1.0, 0.25),
    }  # fmt: skip

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Manner":
        z = rng.standard_normal(len(fields(cls))).tolist()
        drawn = {name: median * 2.718281828 ** (spread * z.pop()) for name, (median, spread) in cls._SPREAD.items()}
        drawn["script"] = min(max(drawn["script"], 0.35), 0.9)
        aside = 0.9 if z.pop() > 0 else 0.1
        return cls(**drawn, slope=0.018 * z.pop(), sway=0.05 * abs(z.pop()), limits_aside=aside)


class _Leaf(NamedTuple):
    """A glyph and its place: sizes along x and y, and the offset of its origin."""

    ref: int
    label: str
    glyph: Glyph
    sx: float
    sy: float


def _ref(node: Node) -> int:
    """The number of a node with a label."""
    assert node.ref is not None
    return int(node.ref)


class _Box:
    """Placed content: its extent around the origin (baseline, left edge) and its parts at their offsets."""

    __slots__ = ("bottom", "parts", "top", "width")

    def __init__(self, width: float = 0.0, top: float = 0.0, bottom: float = 0.0) -> None:
        self.width, self.top, self.bottom = width, top, bottom
        self.parts: list[tuple[float, float, _Box | _Leaf]] = []

    def add(self, x: float, y: float, box: "_Box") -> None:
        """Put a box in, growing to hold it; content left of the origin is allowed until `settle`."""
        if not self.parts:
            self.top, self.bottom = y + box.top, y + box.bottom
        self.top, self.bottom = min(self.top, y + box.top), max(self.bottom, y + box.bottom)
        self.width = max(self.width, x + box.width)
        self.parts.append((x, y, box))

    def settle(self) -> "_Box":
        """Shift the content so that none of it is left of the origin."""
        left = min((x for x, _, _ in self.parts), default=0.0)
        if left < 0:
            self.parts = [(x - left, y, part) for x, y, part in self.parts]
            self.width -= left
        return self


class Layout:
    """Lays out trees with glyphs of one hand of a bank; every tree with a new `Layout`."""

    def __init__(self, bank: GlyphBank, hand: str, rng: np.random.Generator) -> None:
        self.bank, self.hand, self.rng = bank, hand, rng
        self.manner = Manner.draw(rng)
        self._normals: list[float] = []

    def normal(self, spread: float) -> float:
        """A small variation."""
        if not self._normals:
            self._normals = self.rng.standard_normal(256).tolist()
        return self._normals.pop() * spread * self.manner.wobble

    def near(self, median: float, spread: float) -> float:
        """A positive number around its median, with a spread of its logarithm."""
        return float(median * 2.718281828 ** self.normal(spread))

    def ink(self, tree: Sequence[Node]) -> tuple[list[np.ndarray], list[tuple[str, int]]]:
        """Strokes, (m, 2) arrays, and each symbol's label and number of strokes, in the order of their `ref`.

        `tree` has a number as `ref` of every node with a label, counting from 0. The fraction bar's label
        is "-", as in CROHME. Raises KeyError for a label that the bank has not, ValueError where there is
        no symbol.
        """
        leaves: list[tuple[float, float, _Leaf]] = []
        pending: list[tuple[float, float, _Box | _Leaf]] = [(0.0, 0.0, self.row(tree, 1.0))]
        while pending:
            x, y, part = pending.pop()
            if isinstance(part, _Leaf):
                leaves.append((x, y, part))
            else:
                pending += [(x + dx, y + dy, inner) for dx, dy, inner in part.parts]
        leaves.sort(key=lambda placed: placed[2].ref)
        if not leaves:
            raise ValueError("a tree without symbols has no ink")
        points, stroke = self._place(leaves)
        symbols = [("-" if leaf.label == r"\frac" else leaf.label, int(leaf.glyph.stroke[-1]) + 1) for _, _, leaf in leaves]
        return np.split(points, np.flatnonzero(np.diff(stroke)) + 1), symbols

    def _place(self, leaves: list[tuple[float, float, _Leaf]]) -> tuple[np.ndarray, np.ndarray]:
        """Points (n, 2) and their strokes: each glyph a little turned and slanted, then all of it wobbled."""
        rng, wobble = self.rng, self.manner.wobble
        counts = [len(leaf.glyph.points) for _, _, leaf in leaves]
        middles = [(g.width / 2, (g.top + g.bottom) / 2) for _, _, (_, _, g, _, _) in leaves]
        own = np.array([(x, y, leaf.sx, leaf.sy, *mid) for (x, y, leaf), mid in zip(leaves, middles)])
        rigid = np.array([leaf.label in (r"\frac", r"\sqrt") for _, _, leaf in leaves])
        turn = rng.normal(0, 0.04 * wobble, len(own)) * np.where(rigid, 0.3 / np.maximum(own[:, 4] * own[:, 2], 1), 1)
        slant = rng.normal(0, 0.06 * wobble, len(own)) * ~rigid
        x, y, sx, sy, cx, cy, turn, slant = np.repeat(np.column_stack([own, turn, slant]), counts, axis=0).T
        points = np.concatenate([leaf.glyph.points for _, _, leaf in leaves])
        across, down = (points[:, 0] - cx) * sx, (points[:, 1] - cy) * sy
        points = np.stack([x + cx * sx + across - slant * down, y + cy * sy + down + turn * across], 1)
        first = np.cumsum([0] + [int(leaf.glyph.stroke[-1]) + 1 for _, _, leaf in leaves])
        stroke = np.concatenate([leaf.glyph.stroke for _, _, leaf in leaves]) + np.repeat(first[:-1], counts)
        # The hand: rows climb or sway, strokes land a little off, all is slowly bent, the pen trembles.
        wave = rng.normal(0, 1.6, (2, 3))
        bend = np.sin(points @ wave + rng.uniform(0, 6.3, 3)) @ rng.normal(0, 0.022 * wobble, (3, 2))
        along = points[:, 0]
        sway = self.manner.sway * np.sin(along * rng.uniform(0.2, 0.7) + rng.uniform(0, 6.3))
        points += bend + np.stack([np.zeros_like(along), self.manner.slope * along + sway], 1)
        size = np.minimum(sy, 1)[:, None]
        points += rng.normal(0, 0.014 * wobble, (int(first[-1]), 2))[stroke] * size
        points += rng.normal(0, 0.004 * wobble, points.shape) * size
        return points.astype(np.float32), stroke.astype(np.int32)

    def glyph(self, node: Node, size: float, height: tuple[float, float] | None = None) -> _Box:
        """A symbol at `size`, or stretched to reach from top to bottom of `height` (in units, not sizes)."""
        if not node.label:
            return _Box(0.0, -0.65 * size, 0.0)
        glyph = self.bank.draw(node.label, self.rng, self.hand)
        sx = sy = size * self.near(1, 0.07)
        y = self.normal(0.04) * size
        if height is not None:
            sy = max(height[1] - height[0], 0.8 * size) / max(glyph.bottom - glyph.top, 0.05)
            y, sx = height[0] - glyph.top * sy, sx * max(sy / sx, 0.5) ** 0.35
        box = _Box(glyph.width * sx, y + glyph.top * sy, y + glyph.bottom * sy)
        box.parts.append((0.0, y, _Leaf(_ref(node), node.label, glyph, sx, sy)))
        return box

    def row(self, nodes: Sequence[Node], size: float) -> _Box:
        """Items side by side; brackets are stretched over what they hold."""
        items: dict[int, _Box] = {}
        partner = _pairs(nodes)
        for i, node in enumerate(nodes):
            if i not in partner:
                items[i] = self.item(node, size)
        for start, end in sorted(partner.items(), key=lambda pair: abs(pair[1] - pair[0])):  # inner ones first
            if start < end:
                inner = [items[i] for i in range(start + 1, end) if i in items]
                top = min((box.top for box in inner), default=-size)
                bottom = max((box.bottom for box in inner), default=0.0)
                spare = 0.24 * size
                top, bottom = min(-1.15 * size, top - spare), max(0.15 * size, bottom + spare / 2)
                for at in (start, end):
                    height = top + self.normal(0.14) * size, bottom + self.normal(0.14) * size
                    items[at] = self.scripts(nodes[at], self.glyph(nodes[at], size, height), size)
        out, x, y = _Box(), 0.0, 0.0
        for i, node in enumerate(nodes):
            if i:
                x += self.gap(nodes[i - 1], node, partner.get(i - 1, -1) > i - 1, -1 < partner.get(i, i) < i) * size
            out.add(x, y, items[i])
            x += items[i].width
            y += (self.normal(0.03) - 0.15 * y / size) * size  # wander, and come back to the line
        return out.settle()

    def gap(self, left: Node, right: Node, opens: bool, closes: bool) -> float:
        """Distance between neighbours; `opens`: the left opens a bracket; `closes`: the right closes one."""
        a, b = _KIND.get(left.label, ""), _KIND.get(right.label, "")
        wish = max(_AFTER.get(a, _LETTER_GAP), _BEFORE.get(b, _LETTER_GAP))
        if b == "open" and a in ("operator", "relation"):
            wish += 0.2
        elif opens or closes or a == "open" or b == "close":
            wish = _BRACKET_GAP
        spread = 0.45 if "relation" in (a, b) else 0.35
        return wish * self.manner.loose * self.near(1, spread) + self.normal(0.1)

    def item(self, node: Node, size: float) -> _Box:
        """A symbol with all that hangs on it."""
        if node.label == r"\frac":
            return self.scripts(node, self.fraction(node, size), size)
        if node.label == r"\sqrt":
            return self.scripts(node, self.root(node, size), size)
        if node.label in (r"\sum", r"\lim", r"\int"):
            return self.operator(node, size)
        return self.scripts(node, self.glyph(node, size), size)

    def scripts(self, node: Node, base: _Box, size: float) -> _Box:
        """Sub- and superscript at the right of a base."""
        sub, sup = node.children.get("Sub"), node.children.get("Sup")
        if not sub and not sup:
            return base
        out, ceiling = _Box(), None
        out.add(0.0, 0.0, base)
        deep = node.label in _CLOSE or node.label in (r"\frac", r"\sqrt")
        if sup:
            box = self.row(sup, size * min(self.near(self.manner.script, 0.18), 0.95))
            rise = max(self.manner.raise_sup * size, -base.top - 0.2 * size) + self.normal(0.14) * size
            if sup[0].label == r"\prime":
                rise = max(-base.top - 0.75 * size, 0)  # a prime is high already
            else:
                rise = max(rise, 0.4 * size, box.bottom + 0.3 * size)  # a tall script stays above the row's middle
            out.add(base.width + (0.16 + self.normal(0.16)) * size, -rise, box)
            ceiling = box.bottom - rise
        if sub:
            box = self.row(sub, size * min(self.near(self.manner.script, 0.18), 0.95))
            fall = max(self.manner.drop_sub * size, base.bottom + (0.05 if deep else -0.25) * size)
            fall = max(fall + self.normal(0.14) * size, 0.12 * size, -box.top - 0.45 * size)
            if ceiling is not None:
                fall = max(fall, ceiling - box.top + 0.08 * size)
            out.add(base.width + (0.16 + self.normal(0.16)) * size, fall, box)
        return out

    def fraction(self, node: Node, size: float) -> _Box:
        manner = self.manner
        sizes = [size * min(self.near(manner.part, 0.1), 1.1) for _ in range(2)]
        parts = [self.row(node.children.get(side, ()), own) for side, own in zip(("Above", "Below"), sizes)]
        widest = max(box.width for box in parts)
        bar = self.bank.draw(r"\frac", self.rng, self.hand)
        width = max(widest + self.near(manner.overhang, 0.4) * size, 0.5 * size)
        axis = (-0.36 + self.normal(0.07)) * size
        sx, sy = width / max(bar.width, 0.05), size
        middle = (bar.top + bar.bottom) / 2 * sy
        thick = min((bar.bottom - bar.top) * sy, 0.25 * size) / 2
        leaf = _Box(width, axis - thick, axis + thick)
        leaf.parts.append((0.0, axis - middle, _Leaf(_ref(node), node.label, bar, sx, sy)))
        out = _Box()
        out.add(0.0, 0.0, leaf)
        for box, up, extra in zip(parts, (True, False), (0.0, 0.05), strict=True):
            gap = max(self.near(manner.bar_gap + extra, 0.3) * size, 0.03 * size)
            y = axis - thick - gap - box.bottom if up else axis + thick + gap - box.top
            out.add((width - box.width) / 2 * (1 + self.normal(0.25)), y, box)
        return out.settle()

    def root(self, node: Node, size: float) -> _Box:
        inside = self.row(node.children.get("Inside", ()), size * self.near(0.95, 0.06))
        glyph = self.bank.draw(r"\sqrt", self.rng, self.hand)
        top = min(inside.top, -0.6 * size) - self.near(0.5, 0.35) * size
        bottom = max(inside.bottom, -0.1 * size) + self.normal(0.12) * size
        sy = (bottom - top) / max(glyph.bottom - glyph.top, 0.1)
        split = hook(glyph)
        # The hook keeps its shape up to a point, the line above the content takes the rest.
        left = min(max(split * sy, 0.6 * size), 1.4 * size) * self.near(1.1, 0.15)
        span = inside.width + (0.25 + self.near(0.3, 0.7)) * size
        shaped = glyph.points.copy()
        x, rest = shaped[:, 0], max(glyph.width - split, 0.05)
        shaped[:, 0] = np.where(x < split, x * (left / split), left + (x - split) * (span / rest))
        glyph = Glyph(shaped, glyph.stroke, left + span, glyph.top, glyph.bottom)
        sign = _Box(left + span, top, bottom)
        sign.parts.append((0.0, top - glyph.top * sy, _Leaf(_ref(node), node.label, glyph, 1.0, sy)))
        out = _Box()
        out.add(0.0, 0.0, sign)
        out.add(left + self.near(0.25, 0.4) * size, 0.0, inside)
        if index := node.children.get("Above"):
            box = self.row(index, size * min(self.near(0.55, 0.15), 0.8))
            out.add(left * 0.5 - box.width * 0.8, top + 0.45 * (bottom - top) - box.bottom, box)
        return out.settle()

    def operator(self, node: Node, size: float) -> _Box:
        """Sum, integral or limit, with its limits above and below or at its side."""
        sub, sup = node.children.get("Sub"), node.children.get("Sup")
        factor, spread = {r"\int": (1.15, 0.22), r"\sum": (1.02, 0.2), r"\lim": (1.0, 0.1)}[node.label]
        glyph = self.glyph(node, size * self.near(factor, spread))
        aside = {r"\int": self.manner.limits_aside, r"\sum": 0.05, r"\lim": 0.0}[node.label]
        if self.rng.random() < aside:
            out, x = _Box(), glyph.width
            out.add(0.0, 0.0, glyph)
            for row, up in ((sub, False), (sup, True)):
                if row:
                    box = self.row(row, size * self.near(0.66, 0.15))
                    middle = glyph.top + 0.1 * size if up else glyph.bottom - 0.15 * size
                    dx = (0.1 + self.normal(0.1) - (0 if up or node.label == r"\sum" else 0.35)) * size
                    out.add(x + dx, middle - (box.top + box.bottom) / 2, box)
            return out.settle()
        out = _Box()
        out.add(0.0, 0.0, glyph)
        for row, up in ((sub, False), (sup, True)):
            if row:
                box = self.row(row, size * self.near(0.66, 0.15))
                gap = self.near(0.26, 0.35) * size
                lean = (0.7 if node.label == r"\int" and up else 0.08) + self.normal(0.15)
                x = (glyph.width - box.width) / 2 + lean * size
                out.add(x, glyph.top - gap - box.bottom if up else glyph.bottom + gap - box.top, box)
        return out.settle()


def _pairs(nodes: Sequence[Node]) -> dict[int, int]:
    """For every bracket of a row that has its partner in the row, the partner's place, both ways."""
    found: dict[int, int] = {}
    stack: list[int] = []
    for i, node in enumerate(nodes):
        label = node.label
        if stack and _OPEN[nodes[stack[-1]].label] == label:
            start = stack.pop()
            found[start], found[i] = i, start
        elif label in _OPEN and not (label == "|" and any(nodes[j].label == "|" for j in stack)):
            stack.append(i)
    return found
