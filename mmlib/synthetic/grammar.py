r"""Random expressions as symbol layout trees; lengths, nesting and symbols follow CROHME's training set.

A number of symbols is drawn first, from CROHME's own distribution, and then spent: relations split it into
sides, operators into terms, terms into factors, and a factor may be a fraction, a root, a bracket, a
function or a big operator with less to spend inside. Nothing is a template beyond the customs of the
notation (a sum runs from ``i = 1``, an integral ends in ``d x``), and rare symbols come up more often than
in CROHME (counts to the power 0.7): what is wanted is a recogniser that reads, not one that remembers.
"""

from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from mmlib.formula.tree import Node, renumber
from mmlib.formula.vocabulary import CROHME_CLASSES

# Symbols in an expression of CROHME's 2014 training set, at these quantiles (all 8,834, copies included).
_QUANTILES = (0.0, 0.06, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_LENGTHS = (1.0, 1.4, 2.4, 4.5, 8.5, 13.5, 19.5, 23.5, 34.5, 46.0)
# How often each class is met there (per thousand symbols).
_LETTERS = r"""
    x 58.6 a 28.8 n 26.1 y 20.6 b 18.6 z 12.5 d 6 i 11.2 c 11 t 8 f 5 k 7.2 p 6.6 r 5.7 m 5.6 e 5.4 g 4
    u 3.7 q 3.6 j 3.5 v 3.3 X 3.2 A 3.2 h 3.1 C 3 B 2.8 s 2.7 R 2.2 F 2 l 1.8 E 1.7 o 1.7 w 1.6 L 1.6 N
    1.6 Y 1.4 S 1.4 V 1.2 P 1.2 H 1.2 M 1.2 T 1.1 G 1 I .8 \theta 6.3 \pi 5.8 \alpha 4.5 \beta 3.4
    \gamma 1 \phi 1 \sigma .6 \mu .5 \Delta .4 \lambda .3
"""
_DIGITS = "1 72 2 72 3 28.6 0 20.8 4 19 5 11.7 6 9.3 7 8.7 9 8.5 8 8.5"
_OPERATORS = r"+ 63 - 42 \times 6.9 \pm 1.8 \div 1.8 / 2.3"
_RELATIONS = r"= 42 \leq 2.6 \geq 1.7 \neq 1.3 \lt 1.2 \gt .7 \rightarrow 1 \in .2"
_BRACKETS = r"( 46 [ 3.9 | 2.6 \{ .8"
_FUNCTIONS = r"\sin 9.1 \cos 6.7 \tan 3.3 \log 3.1"
_CLOSING = {"(": ")", "[": "]", r"\{": r"\}", "|": "|"}
_FLATTEN = 0.7
# Kinds of factors: how often (where what is left to spend allows it), the fewest symbols, what they need.
_FACTORS = {
    "atom": (1.0, 1, ()),
    "number": (0.6, 1, ()),
    "sup": (1.3, 2, ()),
    "sub": (0.74, 2, ()),
    "both": (0.1, 3, ()),
    "prime": (0.012, 2, (r"\prime",)),
    "factorial": (0.014, 2, ("!",)),
    "fraction": (2.4, 3, (r"\frac",)),
    "root": (0.36, 2, (r"\sqrt",)),
    "bracket": (4.4, 4, ("(", ")")),
    "call": (1.0, 4, ("(", ")")),
    "function": (0.46, 2, (r"\sin",)),
    "sum": (0.15, 2, (r"\sum",)),
    "integral": (0.15, 2, (r"\int",)),
    "limit": (0.5, 5, (r"\lim", r"\rightarrow")),
}
_NEVER_ALONE = {*"()[]|!.,", r"\{", r"\}", r"\frac", r"\sqrt", r"\prime"}


class _Table:
    """Labels with cumulative weights, of those that are allowed."""

    def __init__(self, weights: Iterable[tuple[str, float]]) -> None:
        kept = [(label, weight) for label, weight in weights if weight > 0]
        self.labels = [label for label, _ in kept]
        self.cumulative = list(accumulate(weight for _, weight in kept))

    @classmethod
    def read(cls, text: str, allowed: frozenset[str], power: float = _FLATTEN) -> "_Table":
        words = text.split()
        pairs = zip(words[::2], map(float, words[1::2]), strict=True)
        return cls((label, weight**power) for label, weight in pairs if label in allowed)

    def __bool__(self) -> bool:
        return bool(self.labels)


class Grammar:
    """Draws expressions over `labels`: canonical tokens, default CROHME's classes and ``\\frac``.

    Raises ValueError where `labels` are too few: letters, all digits, ``+`` and ``=`` are the least.
    """

    def __init__(self, labels: Iterable[str] | None = None) -> None:
        allowed = frozenset((*CROHME_CLASSES, r"\frac")) if labels is None else frozenset(labels)
        allowed = allowed.intersection((*CROHME_CLASSES, r"\frac"))
        self.labels = allowed
        self.letters, self.digits = _Table.read(_LETTERS, allowed), _Table.read(_DIGITS, allowed, 0.9)
        self.operators = _Table.read(_OPERATORS, allowed, 0.85)
        self.relations = _Table.read(_RELATIONS, allowed)
        self.functions = _Table.read(_FUNCTIONS, allowed)
        closed = frozenset(o for o, c in _CLOSING.items() if {o, c} <= allowed)
        self.brackets = _Table.read(_BRACKETS, closed, 1.0)
        self.singles = _Table((label, 1.0) for label in sorted(allowed.difference(_NEVER_ALONE)))
        if not self.letters or not allowed.issuperset("0123456789+="):
            raise ValueError("a grammar needs letters, all digits, '+' and '='")
        usable = {kind: least for kind, (_, least, needs) in _FACTORS.items() if allowed.issuperset(needs)}
        # By what may be spent (beyond 6 symbols everything can be paid for) and by depth.
        self.factors = {
            (most, depth): _Table(
                (kind, _FACTORS[kind][0] * _thin(kind, depth)) for kind, least in usable.items() if least <= most
            )
            for most in range(1, 7)
            for depth in range(4)
        }

    def tree(self, rng: np.random.Generator) -> list[Node]:
        """One expression; the `ref` of every node is its number, in the order in which tokens name them."""
        return _Draw(self, rng).tree()


def _thin(kind: str, depth: int) -> float:
    """How much rarer a kind of factor is inside scripts and parts than on the main row."""
    if kind in ("sup", "sub", "both"):
        return (1.0, 0.75, 0.35, 0.1)[depth]
    if kind in ("fraction", "root"):
        return (1.0, 1.3, 1.0, 0.4)[depth]
    if kind in ("sum", "integral", "limit", "function", "call", "bracket"):
        return (1.0, 0.7, 0.45, 0.2)[depth]
    return 1.0


class _Draw:
    """One expression in the making."""

    def __init__(self, grammar: Grammar, rng: np.random.Generator) -> None:
        self.g, self.rng = grammar, rng
        self.pool: list[float] = []
        # Formulas use few letters again and again; a third of ours do not.
        own = 1 + int(self.uniform() * 5)
        self.own = [self.pick(grammar.letters) for _ in range(own)] if self.uniform() < 0.67 else []
        self.index = self.pick(_INDEX if grammar.labels.issuperset(_INDEX.labels) else grammar.letters)

    def uniform(self) -> float:
        if not self.pool:
            self.pool = self.rng.random(256).tolist()
        return self.pool.pop()

    def pick(self, table: _Table) -> str:
        cumulative = table.cumulative
        return table.labels[min(bisect(cumulative, self.uniform() * cumulative[-1]), len(cumulative) - 1)]

    def split(self, total: int, parts: int) -> list[int]:
        """`parts` positive numbers that sum to `total`."""
        cuts = sorted(self.uniform() for _ in range(parts - 1))
        spare, last, out = total - parts, 0, []
        for cut in (*cuts, 1.0):
            at = round(cut * spare)
            out.append(1 + at - last)
            last = at
        return out

    def tree(self) -> list[Node]:
        length = max(1, int(np.interp(self.uniform(), _QUANTILES, _LENGTHS)))
        tree = self.expression(length)
        renumber(tree)
        return tree

    def expression(self, n: int) -> list[Node]:
        if n == 1:
            return [Node(self.pick(self.g.singles if self.uniform() < 0.7 else self.g.letters))]
        u = self.uniform()
        if n >= 5 and u < 0.05 and "," in self.g.labels:
            return self.enumeration(n)
        if n >= 3 and u < min(0.22 + 0.06 * n, 0.74):
            count = 2 if n >= 9 and self.uniform() < 0.2 else 1
            sides = self.split(n - count, count + 1)
            if self.uniform() < 0.5 and sides[0] > sides[-1]:  # what is defined is mostly shorter
                sides.reverse()
            row = self.sum(sides[0], 0)
            for side in sides[1:]:
                row += [Node(self.pick(self.g.relations)), *self.sum(side, 0)]
            return row
        return self.sum(n, 0)

    def enumeration(self, n: int) -> list[Node]:
        """Items between commas, perhaps with dots."""
        count = 2 + int(self.uniform() * min(3, (n - 3) // 2))
        row: list[Node] = []
        for k, part in enumerate(self.split(n - count + 1, count)):
            row += [Node(",")] if k else []
            dots = 0 < k < count - 1 and r"\ldots" in self.g.labels and self.uniform() < 0.6
            row += [Node(r"\ldots")] if dots else self.sum(part, 1)
        return row

    def sum(self, n: int, depth: int) -> list[Node]:
        """Terms and operators, `n` symbols in all."""
        row: list[Node] = []
        if n >= 2 and self.uniform() < 0.05 and "-" in self.g.labels:
            row, n = [Node("-")], n - 1
        count = 1
        while 2 * count + 1 <= n and self.uniform() < min(0.17 + 0.055 * n / count, 0.75):
            count += 1
        for k, part in enumerate(self.split(n - count + 1, count)):
            if k:
                dots = r"\ldots" in self.g.labels and k < count - 1 and part == 1 and self.uniform() < 0.13
                row += [Node(self.pick(self.g.operators))]
                if dots:
                    row.append(Node(r"\ldots"))
                    continue
            row += self.term(part, depth)
        return row

    def term(self, n: int, depth: int) -> list[Node]:
        row: list[Node] = []
        while n:
            most = n if self.uniform() < 0.55 else 1 + int(self.uniform() * n)
            made, cost = self.factor(most, depth)
            # Numbers lead their term: two side by side would read as one, and few write x2.
            if row and made[0].label.isdigit() and (row[-1].label.isdigit() or self.uniform() < 0.75):
                made, cost = [Node(self.letter())], 1
            row += made
            n -= cost
        return row

    def letter(self) -> str:
        if self.own and self.uniform() < 0.85:
            return self.own[int(self.uniform() * len(self.own))]
        return self.pick(self.g.letters)

    def atom(self) -> Node:
        if self.uniform() < 0.28:
            return Node(self.pick(self.g.digits))
        if self.uniform() < 0.012 and r"\infty" in self.g.labels:
            return Node(r"\infty")
        return Node(self.letter())

    def factor(self, most: int, depth: int) -> tuple[list[Node], int]:
        """A factor of at most `most` symbols, and how many it has."""
        kind = self.pick(self.g.factors[min(most, 6), min(depth, 3)])
        made = getattr(self, "_" + kind)(most, depth)
        return made, _count(made)

    def _atom(self, most: int, depth: int) -> list[Node]:
        return [self.atom()]

    def _number(self, most: int, depth: int) -> list[Node]:
        digits = [Node(self.pick(self.g.digits)) for _ in range(min(most, 1 + int(self.uniform() ** 3 * 4)))]
        if 2 <= len(digits) < most and "." in self.g.labels and self.uniform() < 0.6:
            digits.insert(max(1, len(digits) - 1 - int(self.uniform() * 2)), Node("."))
        if len(digits) > 1 and digits[0].label == "0" and digits[1].label != ".":
            digits[0].label = self.pick(_NONZERO)
        if digits[-1].label == ".":
            digits[-1].label = self.pick(self.g.digits)
        return digits

    def _base(self) -> Node:
        return Node(self.letter() if self.uniform() < 0.85 else self.pick(self.g.digits))

    def _script(self, n: int, up: bool, depth: int) -> list[Node]:
        if n == 1:
            u = self.uniform()
            if up and u < 0.45:
                return [Node("2")]
            if u < 0.6:
                return [Node(self.pick(self.g.digits))]
            return [Node(self.index if u < 0.8 else self.letter())]
        if n == 2 and not up and self.uniform() < 0.6:
            return [
                Node(self.index),
                Node(self.pick(self.g.digits) if self.uniform() < 0.3 else self.letter()),
            ]
        return self.sum(n, depth + 1)

    def _size(self, most: int) -> int:
        """Symbols of a script: mostly one, seldom many."""
        return min(most, 1 + int(self.uniform() ** 2.8 * 6))

    def _sup(self, most: int, depth: int) -> list[Node]:
        base = self._base()
        base.children["Sup"] = self._script(self._size(most - 1), True, depth)
        return [base]

    def _sub(self, most: int, depth: int) -> list[Node]:
        base = Node(self.letter())
        base.children["Sub"] = self._script(self._size(most - 1), False, depth)
        return [base]

    def _both(self, most: int, depth: int) -> list[Node]:
        base = Node(self.letter())
        base.children["Sub"] = self._script(self._size(min(most - 2, 2)), False, depth)
        base.children["Sup"] = self._script(1, True, depth)
        return [base]

    def _prime(self, most: int, depth: int) -> list[Node]:
        marks = [Node(r"\prime") for _ in range(2 if most > 2 and self.uniform() < 0.2 else 1)]
        return [Node(self.letter(), children={"Sup": marks})]

    def _fraction(self, most: int, depth: int) -> list[Node]:
        above, below = self.split(most - 1, 2)
        return [Node(r"\frac", children={"Above": self.sum(above, depth + 1), "Below": self.sum(below, depth + 1)})]

    def _root(self, most: int, depth: int) -> list[Node]:
        children = {}
        if most >= 3 and self.uniform() < 0.06:
            children["Above"] = [Node(self.pick(self.g.digits) if self.uniform() < 0.6 else self.index)]
            most -= 1
        return [Node(r"\sqrt", children={**children, "Inside": self.sum(most - 1, depth + 1)})]

    def _bracket(self, most: int, depth: int, parens: bool = False) -> list[Node]:
        sup = 1 if most >= 4 and self.uniform() < 0.2 else 0
        start = "(" if parens else self.pick(self.g.brackets)
        inside = self.sum(most - 2 - sup, depth + 1)
        end = Node(_CLOSING[start], children={"Sup": self._script(1, True, depth)} if sup else {})
        return [Node(start), *inside, end]

    def _call(self, most: int, depth: int) -> list[Node]:
        """f(x), P(a, b)."""
        usual = self.uniform() < 0.6 and self.g.labels.issuperset(_CALLED.labels)
        name = Node(self.pick(_CALLED) if usual else self.letter())
        most = min(most, 4 + int(self.uniform() ** 2 * 5))
        if most >= 6 and "," in self.g.labels and self.uniform() < 0.35:
            inside = [self.atom(), Node(","), *self.sum(most - 5, depth + 1)]
        else:
            inside = self.sum(most - 3, depth + 1)
        return [name, Node("("), *inside, Node(")")]

    def _function(self, most: int, depth: int) -> list[Node]:
        name = Node(self.pick(self.g.functions))
        left = most - 1
        if left >= 2 and self.uniform() < 0.2:
            side = "Sub" if name.label == r"\log" else "Sup"
            name.children[side] = [Node(self.pick(self.g.digits) if self.uniform() < 0.7 else self.letter())]
            left -= 1
        if left >= 3 and "(" in self.g.brackets.labels and self.uniform() < 0.5:
            return [name, *self._bracket(left, depth, parens=True)]
        return [name, *self.term(min(left, 1 + int(self.uniform() ** 2 * 4)), depth + 1)]

    def _bound(self, n: int) -> list[Node]:
        if n == 1:
            u = self.uniform()
            if u < 0.25 and r"\infty" in self.g.labels:
                return [Node(r"\infty")]
            return [Node(self.pick(self.g.digits) if u < 0.5 else self.letter())]
        return self.sum(n, 2)

    def _sum(self, most: int, depth: int) -> list[Node]:
        sign, left = Node(r"\sum"), most - 1
        if left >= 4 and self.uniform() < 0.75:
            sign.children["Sub"] = [Node(self.index), Node("="), Node(self.pick(self.g.digits))]
            left -= 3
            if left >= 2 and self.uniform() < 0.85:
                above = self._bound(2 if left >= 6 and self.uniform() < 0.2 else 1)
                sign.children["Sup"], left = above, left - _count(above)
        elif left >= 2 and self.uniform() < 0.5:
            sign.children["Sub"], left = [Node(self.index)], left - 1
        return [sign, *self.term(left, depth + 1)]

    def _integral(self, most: int, depth: int) -> list[Node]:
        sign, left = Node(r"\int"), most - 1
        if left >= 3 and self.uniform() < 0.6:
            below = self._bound(1 if self.uniform() < 0.8 or left < 6 else 2)
            sign.children["Sub"], left = below, left - _count(below)
            above = self._bound(1)
            sign.children["Sup"], left = above, left - 1
        ends = left >= 3 and "d" in self.g.labels and self.uniform() < 0.9
        end = [Node("d"), Node(self.letter())] if ends else []
        return [sign, *(self.sum(left - len(end), depth + 1) if left > len(end) else []), *end]

    def _limit(self, most: int, depth: int) -> list[Node]:
        below = [Node(self.letter()), Node(r"\rightarrow"), *self._bound(1)]
        return [Node(r"\lim", children={"Sub": below}), *self.term(most - 4, depth + 1)]

    def _factorial(self, most: int, depth: int) -> list[Node]:
        return [self.atom(), Node("!")]


def _count(row: Sequence[Node]) -> int:
    """Symbols in a row."""
    return sum(1 + sum(_count(inner) for inner in node.children.values()) for node in row)


_INDEX = _Table((("i", 3.0), ("n", 3.0), ("k", 2.0), ("j", 1.5), ("m", 1.0)))
_CALLED = _Table((("f", 5.0), ("g", 2.0), ("P", 1.0), ("h", 1.0), ("F", 1.0), ("p", 1.0)))
_NONZERO = _Table((digit, 1.0) for digit in "123456789")
