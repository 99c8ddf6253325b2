r"""Random expressions as symbol layout trees, much like those of CROHME's training set.

A number of symbols is drawn first, from CROHME's own distribution, and then spent: relations split
it into sides, operators into terms, terms into factors. A factor may be a fraction, a root, a
bracket, a function or a big operator with less to spend inside. Nothing is a template beyond the
customs of the notation (a sum runs from ``i = 1``, an integral ends in ``d x``). Rare symbols come
up more often than in CROHME: we want a recogniser that reads, not one that remembers.
"""

from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np

from mmlib.formula.tree import Node, renumber
from mmlib.formula.vocabulary import BEYOND, CROHME_CLASSES, DOT
from mmlib.synthetic.glyphs import KIND, OFTEN
from mmlib.synthetic.layout import CLOSING

# Symbols in an expression of CROHME's 2014 training set, at these quantiles (all 8,834).
_QUANTILES = (0.0, 0.06, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_LENGTHS = (1.0, 1.4, 2.4, 4.5, 8.5, 13.5, 19.5, 23.5, 34.5, 46.0)
_PARALLEL = r"\parallel"  # two bars, as LaTeX has it and the canonical tokens have not
_PREFIXES = (r"\neg", r"\partial", r"\nabla")
_FLATTEN = 0.7  # the power of CROHME's frequencies that is drawn by
# Kinds of factors: how often (where enough is left to spend), the fewest symbols, what they need.
_FACTORS = {
    "atom": (1.0, 1, ()), "number": (0.6, 1, ()), "sup": (1.3, 2, ()), "sub": (0.74, 2, ()),
    "both": (0.1, 3, ()), "prime": (0.012, 2, (r"\prime",)), "factorial": (0.014, 2, ("!",)),
    "fraction": (2.4, 3, (r"\frac",)), "root": (0.36, 2, (r"\sqrt",)),
    "bracket": (4.4, 4, ("(", ")")), "call": (1.0, 4, ("(", ")")),
    "function": (0.46, 2, (r"\sin",)), "sum": (0.15, 2, (r"\sum",)),
    "integral": (0.15, 2, (r"\int",)), "limit": (0.5, 5, (r"\lim", r"\rightarrow")),
    "overlined": (0.35, 2, (r"\overline",)), "angle": (0.2, 2, (r"\angle",)),
    "degrees": (0.3, 2, (r"\circ",)), "percent": (0.2, 2, (r"\%",)),
    "prefixed": (0.4, 2, _PREFIXES), "product": (0.15, 2, (r"\prod",)),
}  # fmt: skip
# How much rarer a kind of factor is at depths 0 to 3, inside scripts, fractions and brackets.
_SCRIPTS = dict.fromkeys(("sup", "sub", "both"), (1.0, 0.75, 0.35, 0.1))
_TALL = dict.fromkeys(("fraction", "root"), (1.0, 1.3, 1.0, 0.4))
_WIDE = ("sum", "product", "integral", "limit", "function", "call", "bracket")
_RARER = _SCRIPTS | _TALL | dict.fromkeys(_WIDE, (1.0, 0.7, 0.45, 0.2))
_DEPTHS = 4
_MOST = 6  # from so many symbols on, every kind of factor can be paid for
_NEVER_ALONE = {*"()[]|!.,", r"\{", r"\}", r"\frac", r"\sqrt", r"\prime", r"\overline", DOT, ":",
                r"\circ"}


class _Table:
    """Labels with cumulative weights."""

    def __init__(self, weights: Iterable[tuple[str, float]]) -> None:
        kept = [(label, weight) for label, weight in weights if weight > 0]
        self.labels = [label for label, _ in kept]
        self.cumulative = list(accumulate(weight for _, weight in kept))

    @classmethod
    def of(cls, kinds: str, allowed: frozenset[str], power: float = _FLATTEN) -> "_Table":
        """The labels of these kinds that are allowed, by how often CROHME has them."""
        return cls((label, often**power) for label, often in OFTEN.items()
                   if label in allowed and KIND[label] in kinds.split())


_INDEX = _Table((("i", 3.0), ("n", 3.0), ("k", 2.0), ("j", 1.5), ("m", 1.0)))
_CALLED = _Table((("f", 5.0), ("g", 2.0), ("P", 1.0), ("h", 1.0), ("F", 1.0), ("p", 1.0)))
_CAPITALS = _Table((letter, 1.0) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NONZERO = _Table((digit, 1.0) for digit in "123456789")


class Grammar:
    """Draws expressions over `labels`: canonical tokens, default CROHME's classes and ``\\frac``.

    beyond: draw expressions with symbols beyond CROHME's, at least one in each. Raises ValueError
    where `labels` lack all letters, a digit, ``+`` or ``=``, or those beyond that are asked for.
    """

    def __init__(self, labels: Iterable[str] | None = None, beyond: bool = False) -> None:
        new = frozenset((*BEYOND, DOT) if beyond else ())
        known = frozenset((*CROHME_CLASSES, r"\frac", *new))
        # A fraction's bar is drawn for one over a row.
        drawn = known if labels is None else frozenset(labels)
        drawn = drawn | {r"\overline"} if r"\frac" in drawn else drawn
        self.labels = allowed = known & drawn
        self.new = new
        if not allowed >= new:
            raise ValueError(f"no glyphs for {sorted(new - allowed)}")
        self.letters = _Table.of("letter", allowed)
        self.digits = _Table.of("digit", allowed, 0.9)
        self.operators = _Table.of("operator slash", allowed, 0.85)
        self.relations = _Table.of("relation", allowed | {_PARALLEL} if beyond else allowed)
        self.functions = _Table.of("function", allowed)
        pairs = frozenset(start for start, end in CLOSING.items() if {start, end} <= allowed)
        self.brackets = _Table.of("open bar", pairs, 1.0)
        self.singles = _Table((label, 1.0) for label in sorted(allowed.difference(_NEVER_ALONE)))
        if not self.letters.labels or not allowed.issuperset("0123456789+="):
            raise ValueError("a grammar needs letters, all digits, '+' and '='")
        usable = {kind: (often, least) for kind, (often, least, needs) in _FACTORS.items()
                  if allowed.issuperset(needs)}
        # By what may be spent and by depth.
        self.factors = {
            (most, depth): _Table((kind, often * _RARER.get(kind, (1.0,) * _DEPTHS)[depth])
                                  for kind, (often, least) in usable.items() if least <= most)
            for most in range(1, _MOST + 1) for depth in range(_DEPTHS)}

    def tree(self, rng: np.random.Generator) -> list[Node]:
        """One expression, whose symbols are numbered (`renumber`)."""
        while True:
            draw = _Draw(self, rng)
            tree = draw.expression(max(1, int(np.interp(draw.uniform(), _QUANTILES, _LENGTHS))))
            if not self.new or not self.new.isdisjoint(_symbols(tree)):
                renumber(tree)
                return tree


class _Draw:
    """One expression in the making."""

    def __init__(self, grammar: Grammar, rng: np.random.Generator) -> None:
        self.grammar, self.rng = grammar, rng
        self.pool: list[float] = []
        # Formulas use few letters again and again; a third of ours do not.
        own = 1 + int(self.uniform() * 5)
        few = self.uniform() < 0.67
        self.own = [self.pick(grammar.letters) for _ in range(own)] if few else []
        indexed = grammar.labels.issuperset(_INDEX.labels)
        self.index = self.pick(_INDEX if indexed else grammar.letters)

    def uniform(self) -> float:
        if not self.pool:  # many at once: single draws are slow
            self.pool = self.rng.random(256).tolist()
        return self.pool.pop()

    def pick(self, table: _Table) -> str:
        sums = table.cumulative
        return table.labels[min(bisect(sums, self.uniform() * sums[-1]), len(sums) - 1)]

    def has(self, label: str) -> bool:
        return label in self.grammar.labels

    def letter(self) -> str:
        if self.own and self.uniform() < 0.85:
            return self.own[int(self.uniform() * len(self.own))]
        return self.pick(self.grammar.letters)

    def digit(self) -> str:
        return self.pick(self.grammar.digits)

    def split(self, total: int, count: int) -> list[int]:
        """`count` positive numbers that sum to `total`."""
        cuts = sorted(self.uniform() for _ in range(count - 1))
        spare, last, out = total - count, 0, []
        for cut in (*cuts, 1.0):
            at = round(cut * spare)
            out.append(1 + at - last)
            last = at
        return out

    def expression(self, n: int) -> list[Node]:
        if n == 1:
            any_symbol = self.uniform() < 0.7
            return [Node(self.pick(self.grammar.singles if any_symbol else self.grammar.letters))]
        u = self.uniform()
        if n >= 5 and u < 0.05 and self.has(","):
            return self.enumeration(n)
        if n < 3 or u >= min(0.22 + 0.06 * n, 0.74):
            return self.sum(n, 0)
        count = 2 if n >= 9 and self.uniform() < 0.2 else 1  # relations
        sides = self.split(n - count, count + 1)
        if self.uniform() < 0.5 and sides[0] > sides[-1]:  # what is defined is mostly shorter
            sides.reverse()
        row = self.sum(sides[0], 0)
        for side in sides[1:]:
            relation = self.pick(self.grammar.relations)
            signs = "||" if relation == _PARALLEL else (relation,)
            row += [*map(Node, signs), *self.sum(side, 0)]
        return row

    def enumeration(self, n: int) -> list[Node]:
        """Items between commas, perhaps with dots."""
        count = 2 + int(self.uniform() * min(3, (n - 3) // 2))
        row: list[Node] = []
        for k, size in enumerate(self.split(n - count + 1, count)):
            row += [Node(",")] if k else []
            dots = 0 < k < count - 1 and self.has(r"\ldots") and self.uniform() < 0.6
            row += [Node(r"\ldots")] if dots else self.sum(size, 1)
        return row

    def sum(self, n: int, depth: int) -> list[Node]:
        """Terms and operators, `n` symbols in all."""
        row: list[Node] = []
        if n >= 2 and self.uniform() < 0.05 and self.has("-"):
            row, n = [Node("-")], n - 1
        count = 1  # terms, more of them in long sums
        while 2 * count + 1 <= n and self.uniform() < min(0.17 + 0.055 * n / count, 0.75):
            count += 1
        for k, size in enumerate(self.split(n - count + 1, count)):
            dots = 0 < k < count - 1 and size == 1 and self.has(r"\ldots")
            dots = dots and self.uniform() < 0.13
            row += [Node(self.pick(self.grammar.operators))] if k else []
            row += [Node(r"\ldots")] if dots else self.term(size, depth)
        return row

    def term(self, n: int, depth: int) -> list[Node]:
        row: list[Node] = []
        while n:
            # Often one factor spends all, which makes fractions and brackets large.
            most = n if self.uniform() < 0.55 else 1 + int(self.uniform() * n)
            made = self.factor(most, depth)
            # Numbers lead their term: two side by side would read as one, and few write x2.
            late = row and made[0].label.isdigit()
            if late and (row[-1].label.isdigit() or self.uniform() < 0.75):
                made = [Node(self.letter())]
            row += made
            n -= _count(made)
        return row

    def factor(self, most: int, depth: int) -> list[Node]:
        """A factor of at most `most` symbols, by the method of its kind."""
        kind = self.pick(self.grammar.factors[min(most, _MOST), min(depth, _DEPTHS - 1)])
        made: list[Node] = getattr(self, "_" + kind)(most, depth)
        return made

    def _atom(self, most: int, depth: int) -> list[Node]:
        if self.uniform() < 0.28:
            return [Node(self.digit())]
        infinite = self.uniform() < 0.012 and self.has(r"\infty")
        return [Node(r"\infty" if infinite else self.letter())]

    def _number(self, most: int, depth: int) -> list[Node]:
        count = min(most, 1 + int(self.uniform() ** 3 * 4))
        digits = [Node(self.digit()) for _ in range(count)]
        if 2 <= len(digits) < most and self.has(".") and self.uniform() < 0.6:
            digits.insert(max(1, len(digits) - 1 - int(self.uniform() * 2)), Node("."))
        if len(digits) > 1 and digits[0].label == "0" and digits[1].label != ".":
            digits[0].label = self.pick(_NONZERO)
        if digits[-1].label == ".":
            digits[-1].label = self.digit()
        return digits

    def _script(self, n: int, up: bool, depth: int) -> list[Node]:
        if n == 1:
            u = self.uniform()
            if up and u < 0.45:
                return [Node("2")]
            if u < 0.6:
                return [Node(self.digit())]
            return [Node(self.index if u < 0.8 else self.letter())]
        if n == 2 and not up and self.uniform() < 0.6:
            second = self.digit() if self.uniform() < 0.3 else self.letter()
            return [Node(self.index), Node(second)]
        return self.sum(n, depth + 1)

    def _script_size(self, most: int) -> int:
        """Mostly one symbol, seldom many."""
        return min(most, 1 + int(self.uniform() ** 2.8 * 6))

    def _sup(self, most: int, depth: int) -> list[Node]:
        base = self.letter() if self.uniform() < 0.85 else self.digit()
        script = self._script(self._script_size(most - 1), True, depth)
        return [Node(base, children={"Sup": script})]

    def _sub(self, most: int, depth: int) -> list[Node]:
        base, script = self.letter(), self._script(self._script_size(most - 1), False, depth)
        return [Node(base, children={"Sub": script})]

    def _both(self, most: int, depth: int) -> list[Node]:
        base = self.letter()
        below = self._script(self._script_size(min(most - 2, 2)), False, depth)
        return [Node(base, children={"Sub": below, "Sup": self._script(1, True, depth)})]

    def _prime(self, most: int, depth: int) -> list[Node]:
        marks = [Node(r"\prime") for _ in range(2 if most > 2 and self.uniform() < 0.2 else 1)]
        return [Node(self.letter(), children={"Sup": marks})]

    def _factorial(self, most: int, depth: int) -> list[Node]:
        return [*self._atom(1, depth), Node("!")]

    def _fraction(self, most: int, depth: int) -> list[Node]:
        above, below = (self.sum(n, depth + 1) for n in self.split(most - 1, 2))
        return [Node(r"\frac", children={"Above": above, "Below": below})]

    def _root(self, most: int, depth: int) -> list[Node]:
        children = {}
        if most >= 3 and self.uniform() < 0.06:
            children["Above"] = [Node(self.digit() if self.uniform() < 0.6 else self.index)]
            most -= 1
        return [Node(r"\sqrt", children={**children, "Inside": self.sum(most - 1, depth + 1)})]

    def _bracket(self, most: int, depth: int, start: str = "") -> list[Node]:
        sup = 1 if most >= 4 and self.uniform() < 0.2 else 0
        start = start or self.pick(self.grammar.brackets)
        inside = self.sum(most - 2 - sup, depth + 1)
        children = {"Sup": self._script(1, True, depth)} if sup else {}
        return [Node(start), *inside, Node(CLOSING[start], children=children)]

    def _call(self, most: int, depth: int) -> list[Node]:
        """f(x), P(a, b)."""
        usual = self.uniform() < 0.6 and self.grammar.labels.issuperset(_CALLED.labels)
        name = Node(self.pick(_CALLED) if usual else self.letter())
        most = min(most, 4 + int(self.uniform() ** 2 * 5))
        if most >= 6 and self.has(",") and self.uniform() < 0.35:
            inside = [*self._atom(1, depth), Node(","), *self.sum(most - 5, depth + 1)]
        else:
            inside = self.sum(most - 3, depth + 1)
        return [name, Node("("), *inside, Node(")")]

    def _function(self, most: int, depth: int) -> list[Node]:
        name = Node(self.pick(self.grammar.functions))
        left = most - 1
        if left >= 2 and self.uniform() < 0.2:
            side = "Sub" if name.label == r"\log" else "Sup"
            name.children[side] = [Node(self.digit() if self.uniform() < 0.7 else self.letter())]
            left -= 1
        if left >= 3 and "(" in self.grammar.brackets.labels and self.uniform() < 0.5:
            return [name, *self._bracket(left, depth, "(")]
        return [name, *self.term(min(left, 1 + int(self.uniform() ** 2 * 4)), depth + 1)]

    def _bound(self, n: int) -> list[Node]:
        """What a sum or an integral runs to, or a limit goes to."""
        if n > 1:
            return self.sum(n, 2)
        u = self.uniform()
        if u < 0.25 and self.has(r"\infty"):
            return [Node(r"\infty")]
        return [Node(self.digit() if u < 0.5 else self.letter())]

    def _sum(self, most: int, depth: int, label: str = r"\sum") -> list[Node]:
        sign, left = Node(label), most - 1
        if left >= 4 and self.uniform() < 0.75:
            sign.children["Sub"] = [Node(self.index), Node("="), Node(self.digit())]
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
            sign.children["Sup"], left = self._bound(1), left - 1
        ends = left >= 3 and self.has("d") and self.uniform() < 0.9
        end = [Node("d"), Node(self.letter())] if ends else []
        return [sign, *(self.sum(left - len(end), depth + 1) if left > len(end) else []), *end]

    def _product(self, most: int, depth: int) -> list[Node]:
        return self._sum(most, depth, r"\prod")

    def _overlined(self, most: int, depth: int) -> list[Node]:
        inside = self.sum(min(most - 1, 1 + int(self.uniform() ** 2 * 4)), depth + 1)
        return [Node(r"\overline", children={"Inside": inside})]

    def _angle(self, most: int, depth: int) -> list[Node]:
        """An angle: at one letter, at a point of three, or numbered."""
        if most < 4 or self.uniform() < 0.5:
            return [Node(r"\angle"), Node(self.digit() if self.uniform() < 0.4 else self.letter())]
        return [Node(r"\angle"), *(Node(self.pick(_CAPITALS)) for _ in range(3))]

    def _degrees(self, most: int, depth: int) -> list[Node]:
        made = self._number(most - 1, depth)
        made[-1].children["Sup"] = [Node(r"\circ")]
        return made

    def _percent(self, most: int, depth: int) -> list[Node]:
        return [*self._number(most - 1, depth), Node(r"\%")]

    def _prefixed(self, most: int, depth: int) -> list[Node]:
        prefix = _PREFIXES[int(self.uniform() * len(_PREFIXES))]
        return [Node(prefix), *self.factor(min(most - 1, 3), depth + 1)]

    def _limit(self, most: int, depth: int) -> list[Node]:
        below = [Node(self.letter()), Node(r"\rightarrow"), *self._bound(1)]
        return [Node(r"\lim", children={"Sub": below}), *self.term(most - 4, depth + 1)]


def _symbols(row: Sequence[Node]) -> Iterator[str]:
    """All symbols of a row and of what hangs on it."""
    for node in row:
        yield node.label
        for inner in node.children.values():
            yield from _symbols(inner)


def _count(row: Sequence[Node]) -> int:
    return sum(1 for _ in _symbols(row))
