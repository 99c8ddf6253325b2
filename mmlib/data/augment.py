"""Cuts and recombinations that stop a recogniser from learning formulas by heart.

Single symbols, sub-expressions, other hands, other letters, joins. Each takes a numpy Generator and
changes nothing in place; the label stays true to the ink.
"""

from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations_with_replacement

import numpy as np

from mmlib.data.pack import Indices, Pack
from mmlib.data.sample import Sample, from_pack
from mmlib.formula.vocabulary import Vocabulary

Span = tuple[int, int]  # of tokens, (start, stop)


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities for one training sample; 0 switches an augmentation off."""

    symbol: float = 0.0  # the sample becomes one of its symbols
    subexpression: float = 0.0  # the sample becomes one of its sub-expressions
    join: float = 0.0  # two (short) samples are written side by side
    swap_hand: float = 0.0  # each symbol's ink becomes the same symbol of another hand
    relabel: float = 0.0  # in half of the samples, a letter or digit becomes one of like shape
    longest_join: int = 24  # tokens of a join's result at most


# Letters of one class stand alike on the line, so one can take another's place and box. Strokes as
# thin as 1, I and l stay out: a wide letter in their place would lie over its neighbours.
SHAPES = (
    "acemnorsuvwxz",
    "bdfhkt",
    "gpqy",
    "023456789",
    "ABCEFGHLMNPRSTVXY",
    (r"\alpha", r"\sigma", r"\pi", r"\mu"),
    (r"\beta", r"\theta", r"\lambda", r"\phi", r"\Delta"),
    ("+", r"\times", r"\div", r"\pm"),
    (r"\lt", r"\gt", r"\leq", r"\geq", r"\neq"),
)


class Augmenter:
    """Draws samples of a pack's chosen expressions, with other hands from those expressions alone.

    held: token ids of formulas that training must not show (the validation split's). An expression
    of the pack that is one of them is left out; a cut, join or recombination that happens to be one
    is replaced by the expression that it was made from.
    """

    def __init__(self, pack: Pack, indices: Indices, config: AugmentConfig,
                 vocabulary: Vocabulary | None = None,
                 held: Container[tuple[int, ...]] = frozenset()):
        self.pack, self.config, self.held = pack, config, held
        if held:
            indices = [i for i in indices if not self._is_held(from_pack(pack, int(i)))]
        self.indices = np.array(indices)
        encode = (vocabulary or Vocabulary.crohme()).encode
        self.open, self.close, self.sub, self.sup = encode(["{", "}", "_", "^"])
        self.frac, self.sqrt, self.left, self.right = encode([r"\frac", r"\sqrt", "[", "]"])
        self.bar = encode([r"\overline"])[0]
        classes = [encode(shape) for shape in SHAPES]
        self.shapes = {i: np.array([j for j in ids if j != i]) for ids in classes for i in ids}
        self._spans: dict[int, list[Span]] = {}

    def draw(self, i: int, rng: np.random.Generator) -> Sample:
        """The training sample of expression i."""
        sample = from_pack(self.pack, i)
        # Whoever cuts or recombines must know which ink each token stands for.
        if not self.pack.flat.aligned[i]:
            return sample
        made = self._vary(i, sample, rng)
        return sample if self._is_held(made) else made

    def _vary(self, i: int, sample: Sample, rng: np.random.Generator) -> Sample:
        config, flat = self.config, self.pack.flat
        dice = rng.random()
        if dice < config.symbol:
            sample = self.one_symbol(sample, rng)
        elif dice < config.symbol + config.subexpression:
            sample = self.subexpression(i, sample, rng)
        elif dice < config.symbol + config.subexpression + config.join:
            j = int(self.indices[rng.integers(len(self.indices))])
            if flat.aligned[j] and flat.valid[j]:
                other = self.subexpression(j, from_pack(self.pack, j), rng)
                if len(sample.tokens) + len(other.tokens) <= config.longest_join:
                    sample = self.join(sample, other, rng)
        if config.swap_hand or config.relabel:
            sample = self.recombine(sample, rng)
        return sample

    def _is_held(self, sample: Sample) -> bool:
        return tuple(sample.tokens.tolist()) in self.held

    # --- structure --------------------------------------------------------------------------------

    def elements(self, tokens: np.ndarray, token_symbols: np.ndarray) -> list[list[Span]]:
        """Spans of the elements (a base with its scripts), one list per row, the main row first."""
        rows: list[list[Span]] = []

        def group(at: int) -> int:
            row: list[Span] = []
            rows.append(row)
            while at < len(tokens) and not (tokens[at] == self.close and token_symbols[at] < 0):
                start, at = at, base(at)
                while at < len(tokens) and tokens[at] in (self.sub, self.sup):
                    at = group(at + 2) + 1
                row.append((start, at))
            return at

        def base(at: int) -> int:
            token = tokens[at]
            if token == self.frac:
                return group(group(at + 2) + 2) + 1
            if token == self.bar:
                return group(at + 2) + 1
            if token == self.sqrt:
                at += 1
                level = 0  # of the index's brackets: it may hold roots with an index of their own
                while (level := level + bracket(at)) > 0:
                    at += 1
                return group(at + 1 + (tokens[at] == self.right)) + 1
            return at + (2 if token == self.open else 1)  # { } is an empty base

        def bracket(at: int) -> int:
            step = int(tokens[at] == self.left) - int(tokens[at] == self.right)
            return step if token_symbols[at] < 0 else 0

        group(0)
        return rows

    def spans(self, i: int) -> list[Span]:
        """Spans of the sub-expressions of expression i that have two symbols or more."""
        if i not in self._spans:
            sample, found = from_pack(self.pack, i), []
            aligned = self.pack.flat.aligned[i]
            for row in self.elements(sample.tokens, sample.token_symbols) if aligned else ():
                for (start, _), (_, stop) in combinations_with_replacement(row, 2):
                    symbols = (sample.token_symbols[start:stop] >= 0).sum()
                    if stop - start < len(sample.tokens) and symbols >= 2:
                        found.append((start, stop))
            self._spans[i] = found
        return self._spans[i]

    # --- cuts -------------------------------------------------------------------------------------

    def cut(self, sample: Sample, start: int, stop: int) -> Sample:
        """The sub-expression of tokens[start:stop], with the ink of its symbols alone."""
        wanted = sample.token_symbols[start:stop]
        symbols = np.unique(wanted[wanted >= 0])
        renumbered = np.full(len(sample.labels) + 1, -1)
        renumbered[symbols] = np.arange(len(symbols))
        keep = renumbered[sample.symbol] >= 0  # -1 reads the last entry, which stays -1
        stroke = np.unique(sample.stroke[keep], return_inverse=True)[1]
        return Sample(sample.points[keep], stroke, renumbered[sample.symbol[keep]],
                      sample.labels[symbols], sample.tokens[start:stop], renumbered[wanted])

    def one_symbol(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """One of the sample's symbols that is an expression by itself."""
        drawn = sample.token_symbols >= 0
        alone = np.flatnonzero(drawn & ~np.isin(sample.tokens, [self.frac, self.sqrt, self.bar]))
        if not len(alone):
            return sample
        at = int(rng.choice(alone))
        part = self.cut(sample, at, at + 1)
        return part if len(part.points) else sample

    def subexpression(self, i: int, sample: Sample, rng: np.random.Generator) -> Sample:
        """A random sub-expression of `sample`, which is expression i."""
        if not (spans := self.spans(i)):
            return sample
        part = self.cut(sample, *spans[rng.integers(len(spans))])
        return part if len(part.points) else sample

    # --- recombination ----------------------------------------------------------------------------

    @cached_property
    def bank(self) -> dict[int, np.ndarray]:
        """Label id to (m, 2) rows of expression and symbol, over the aligned expressions."""
        rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
        f = self.pack.flat
        for i in self.indices[f.aligned[self.indices]]:
            for s, label in enumerate(f.symbols[f.of(i)[2]].tolist()):
                rows[label].append((i, s))
        return {label: np.array(found) for label, found in rows.items()}

    def redraw(self, sample: Sample, which: np.ndarray, labels: np.ndarray,
               rng: np.random.Generator) -> Sample:
        """Give the symbols `which` the ink of other instances of `labels`, in place and size."""
        new = dict(zip(which.tolist(), labels.tolist(), strict=True))
        points, strokes, symbols, offset = [], [], [], 0
        for s in range(-1, len(sample.labels)):
            keep = sample.symbol == s
            xy, stroke = sample.points[keep], sample.stroke[keep]
            if not len(xy):
                continue
            if (rows := self.bank.get(new.get(s, -1))) is not None:
                i, of = rows[rng.integers(len(rows))]
                source = from_pack(self.pack, int(i))
                other = source.symbol == of
                if other.any():
                    xy, stroke = _fitted(source.points[other], xy), source.stroke[other]
            local = np.unique(stroke, return_inverse=True)[1]
            points.append(xy.astype(np.float32))
            strokes.append(local + offset)
            symbols.append(np.full(len(xy), s))
            offset += local[-1] + 1
        table = sample.labels.copy()
        table[which] = labels
        return replace(sample, points=np.concatenate(points), stroke=np.concatenate(strokes),
                       symbol=np.concatenate(symbols), labels=table)

    def recombine(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Other hands for some symbols, other letters for some: tokens, labels and ink together."""
        labels, tokens = sample.labels.copy(), sample.tokens.copy()
        # A root sign is drawn around what it holds, so another's would not fit.
        change = (rng.random(len(labels)) < self.config.swap_hand) & (labels != self.sqrt)
        if self.config.relabel and rng.random() < 0.5:
            owners = sample.token_symbols
            # A symbol that several tokens share cannot change with one of them.
            single = np.bincount(owners[owners >= 0], minlength=len(labels)) == 1
            for s in np.flatnonzero(rng.random(len(labels)) < self.config.relabel):
                alike = self.shapes.get(int(labels[s]))
                if alike is None or not single[s]:
                    continue
                at = int(np.flatnonzero(owners == s)[0])
                options = [o for o in alike if o in self.bank]
                if tokens[at] == labels[s] and options:
                    labels[s] = tokens[at] = rng.choice(options)
                    change[s] = True
        which = np.flatnonzero(change)
        if not len(which):
            return sample
        return replace(self.redraw(sample, which, labels[which], rng), tokens=tokens)

    def join(self, left: Sample, right: Sample, rng: np.random.Generator) -> Sample:
        """`right` written after `left` on about the same line."""
        gap = rng.uniform(0.3, 0.9)
        # The median's height is near the line that both are written on, whatever their scripts.
        middle = [np.median(s.points[:, 1]) for s in (left, right)]
        across = left.points[:, 0].max() - right.points[:, 0].min() + gap
        shift = np.array([across, middle[0] - middle[1] + rng.normal(0, 0.1)], np.float32)

        def moved(symbols: np.ndarray) -> np.ndarray:
            return np.where(symbols >= 0, symbols + len(left.labels), -1)

        return Sample(
            np.concatenate([left.points, right.points + shift]),
            np.concatenate([left.stroke, right.stroke + left.stroke[-1] + 1]),
            np.concatenate([left.symbol, moved(right.symbol)]),
            np.concatenate([left.labels, right.labels]),
            np.concatenate([left.tokens, right.tokens]),
            np.concatenate([left.token_symbols, moved(right.token_symbols)]),
        )


def _fitted(other: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A glyph's points (m, 2), moved and scaled into the place of `points` (n, 2)."""
    low, high, olow, ohigh = points.min(0), points.max(0), other.min(0), other.max(0)
    size, osize = high - low, ohigh - olow
    factor = 1.0
    if min(max(size), max(osize)) >= 0.05:  # dots have no size
        extent, other_extent = size.max() * np.hypot(*size), osize.max() * np.hypot(*osize)
        factor = float(np.clip(np.sqrt(extent / other_extent), 0.2, 5))
    moved: np.ndarray = (other - (olow + ohigh) / 2) * factor + (low + high) / 2
    return moved
