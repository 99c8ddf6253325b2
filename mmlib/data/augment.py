"""Training samples: light, vectorised cut-outs of a pack, and the recombinations that stop a recogniser from learning
formulas by heart (DESIGN.md, "So break the memory"): single symbols, sub-expressions, other hands, other letters, joins.

Every function takes a numpy Generator and changes nothing in place. The label always stays true to the ink.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mmlib.data.pack import Indices, Pack
from mmlib.draw.views import InkBatch
from mmlib.formula.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Sample:
    """One expression. points (n, 2) float32 in typical symbols; stroke (n,) non-decreasing from 0; symbol (n,) the point's
    symbol or -1; labels (s,) vocabulary ids of the symbols; tokens (t,) ids; token_symbols (t,) symbol of a token or -1; id of
    the expression that a training sample was drawn from."""

    points: np.ndarray
    stroke: np.ndarray
    symbol: np.ndarray
    labels: np.ndarray
    tokens: np.ndarray
    token_symbols: np.ndarray
    id: str = ""


def from_pack(pack: Pack, i: int) -> Sample:
    """Expression i of a pack; the ids are the pack's, of which those of `Vocabulary.crohme()` come first."""
    f = pack.flat
    points = slice(f.point_offsets[i], f.point_offsets[i + 1])
    strokes = slice(f.stroke_offsets[i], f.stroke_offsets[i + 1])
    tokens = slice(f.token_offsets[i], f.token_offsets[i + 1])
    stroke = f.point_stroke[points]
    return Sample(f.points[points], stroke, f.stroke_symbols[strokes][stroke].astype(np.int64),
                  f.symbols[f.symbol_offsets[i] : f.symbol_offsets[i + 1]].astype(np.int64),
                  f.tokens[tokens].astype(np.int64), f.token_symbols[tokens].astype(np.int64))


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities for one training sample; 0 switches a lever off."""

    symbol: float = 0.0  # the sample becomes one of its symbols
    subexpression: float = 0.0  # the sample becomes one of its sub-expressions
    join: float = 0.0  # two (short) samples are written side by side
    swap_hand: float = 0.0  # each symbol's ink becomes the same symbol of another hand
    relabel: float = 0.0  # in half of the samples, each letter or digit becomes another of the same shape class
    longest_join: int = 24  # tokens of a join's result at most


# Letters of one class stand alike on the line, so one can take another's place and box. Strokes as thin as 1, I and l stay out:
# a wide letter in their place would lie over its neighbours.
SHAPES = ("acemnorsuvwxz", "bdfhkt", "gpqy", "023456789", "ABCEFGHLMNPRSTVXY",
          (r"\alpha", r"\sigma", r"\pi", r"\mu"), (r"\beta", r"\theta", r"\lambda", r"\phi", r"\Delta"),
          ("+", r"\times", r"\div", r"\pm"), (r"\lt", r"\gt", r"\leq", r"\geq", r"\neq"))


class Augmenter:
    """Draws samples of a pack's chosen expressions. Strokes for other hands come from those expressions alone.

    held: token ids of formulas that training must not show (the validation split's). An expression of the pack that is one of
    them is left out, and a cut, join or recombination that happens to be one is replaced by the expression that it was made from.
    """

    def __init__(self, pack: Pack, indices: Indices, config: AugmentConfig, vocabulary: Vocabulary | None = None,
                 held: Container[tuple[int, ...]] = frozenset()):
        self.pack, self.config, self.held = pack, config, held
        self.indices = np.array([i for i in indices if not self._is_held(from_pack(pack, int(i)))] if held else indices)
        vocabulary = vocabulary or Vocabulary.crohme()
        self.open, self.close, self.sub, self.sup, self.frac, self.sqrt, self.left, self.right = vocabulary.encode(
            ["{", "}", "_", "^", r"\frac", r"\sqrt", "[", "]"])
        self.shapes = {i: np.array([j for j in ids if j != i]) for ids in map(vocabulary.encode, SHAPES) for i in ids}
        self._spans: dict[int, list[tuple[int, int]]] = {}
        self._bank: dict[int, np.ndarray] | None = None

    # --- structure ------------------------------------------------------------------------------------------
    def elements(self, tokens: np.ndarray, token_symbols: np.ndarray) -> list[list[tuple[int, int]]]:
        """Token spans of the elements (a base with its scripts) of each row: one list a row, the main row first."""
        rows: list[list[tuple[int, int]]] = []

        def group(at: int) -> int:
            row: list[tuple[int, int]] = []
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
            if token == self.sqrt:
                at += 1
                level = 0  # of the index's brackets: it may hold roots with an index of their own
                while (level := level + bracket(at)) > 0:
                    at += 1
                return group(at + 1 + (tokens[at] == self.right)) + 1
            return at + (2 if token == self.open else 1)  # { } is an empty base

        def bracket(at: int) -> int:
            return (int(tokens[at] == self.left) - int(tokens[at] == self.right)) * int(token_symbols[at] < 0)

        group(0)
        return rows

    def spans(self, i: int) -> list[tuple[int, int]]:
        """Token spans (start, stop) of the sub-expressions of expression i that hold at least two symbols."""
        if i not in self._spans:
            sample, found = from_pack(self.pack, i), []
            if self.pack.flat.aligned[i]:
                for row in self.elements(sample.tokens, sample.token_symbols):
                    for a in range(len(row)):
                        for b in range(a, len(row)):
                            start, stop = row[a][0], row[b][1]
                            if (stop - start < len(sample.tokens)
                                    and (sample.token_symbols[start:stop] >= 0).sum() >= 2):
                                found.append((start, stop))
            self._spans[i] = found
        return self._spans[i]

    # --- cuts -----------------------------------------------------------------------------------------------
    def cut(self, sample: Sample, start: int, stop: int) -> Sample:
        """The sub-expression of tokens[start:stop], with the ink of its symbols alone."""
        wanted = sample.token_symbols[start:stop]
        symbols = np.unique(wanted[wanted >= 0])
        number = np.full(len(sample.labels) + 1, -1)
        number[symbols] = np.arange(len(symbols))
        keep = number[sample.symbol] >= 0  # -1 reads the last entry, which stays -1
        stroke = np.unique(sample.stroke[keep], return_inverse=True)[1]
        return Sample(sample.points[keep], stroke, number[sample.symbol[keep]], sample.labels[symbols],
                      sample.tokens[start:stop], number[wanted])

    def one_symbol(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """One of the sample's symbols that is an expression by itself."""
        alone = np.flatnonzero((sample.token_symbols >= 0) & ~np.isin(sample.tokens, [self.frac, self.sqrt]))
        if not len(alone):
            return sample
        at = int(rng.choice(alone))
        part = self.cut(sample, at, at + 1)
        return part if len(part.points) else sample

    # --- recombination ----------------------------------------------------------------------------------------
    def bank(self) -> dict[int, np.ndarray]:
        """Label id to (m, 2) rows of expression and symbol, over the aligned expressions."""
        if self._bank is None:
            rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
            f = self.pack.flat
            for i in self.indices[f.aligned[self.indices]]:
                for s, label in enumerate(f.symbols[f.symbol_offsets[i] : f.symbol_offsets[i + 1]]):
                    rows[int(label)].append((i, s))
            self._bank = {label: np.array(found) for label, found in rows.items()}
        return self._bank

    def glyph(self, label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Points and strokes of a random instance of a label; KeyError where there is none."""
        rows = self.bank()[label]
        i, s = rows[rng.integers(len(rows))]
        source = from_pack(self.pack, int(i))
        keep = source.symbol == s
        return source.points[keep], source.stroke[keep]

    def redraw(self, sample: Sample, which: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Sample:
        """Replace the ink of symbols `which` by other instances of `labels`, each in its symbol's place and size."""
        pieces: list[tuple[np.ndarray, np.ndarray, int]] = []
        new = dict(zip(which.tolist(), labels.tolist(), strict=True))
        for s in range(-1, len(sample.labels)):
            keep = sample.symbol == s
            points, stroke = sample.points[keep], sample.stroke[keep]
            if not len(points):
                continue
            if s in new and new[s] in self.bank():
                other, other_stroke = self.glyph(new[s], rng)
                if len(other):
                    low, high, olow, ohigh = points.min(0), points.max(0), other.min(0), other.max(0)
                    size, osize = (high - low), (ohigh - olow)
                    if max(size) < 0.05 or max(osize) < 0.05:  # dots
                        factor = 1.0
                    else:
                        extent, other_extent = size.max() * np.hypot(*size), osize.max() * np.hypot(*osize)
                        factor = float(np.clip(np.sqrt(extent / other_extent), 0.2, 5))
                    points = (other - (olow + ohigh) / 2) * factor + (low + high) / 2
                    stroke = other_stroke
            pieces.append((points.astype(np.float32), stroke, s))
        strokes, offset = [], 0
        for _, stroke, _ in pieces:
            local = np.unique(stroke, return_inverse=True)[1]
            strokes.append(local + offset)
            offset += local[-1] + 1
        symbol = np.concatenate([np.full(len(p), s) for p, _, s in pieces])
        table = sample.labels.copy()
        table[which] = labels
        return replace(sample, points=np.concatenate([p for p, _, _ in pieces]), stroke=np.concatenate(strokes),
                       symbol=symbol, labels=table)

    def recombine(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Other hands for some symbols, and other letters for some: tokens, labels and ink change together."""
        labels = sample.labels.copy()
        # A root sign is drawn around what it holds, so another's would not fit.
        change = (rng.random(len(labels)) < self.config.swap_hand) & (labels != self.sqrt)
        tokens = sample.tokens.copy()
        if self.config.relabel and rng.random() < 0.5:
            single = np.bincount(sample.token_symbols[sample.token_symbols >= 0], minlength=len(labels)) == 1
            for s in np.flatnonzero(rng.random(len(labels)) < self.config.relabel):
                alike = self.shapes.get(int(labels[s]))
                if alike is None or not single[s]:
                    continue
                at = int(np.flatnonzero(sample.token_symbols == s)[0])
                options = [o for o in alike if o in self.bank()]
                if tokens[at] == labels[s] and options:
                    labels[s] = tokens[at] = rng.choice(options)
                    change[s] = True
        which = np.flatnonzero(change)
        return replace(self.redraw(sample, which, labels[which], rng), tokens=tokens) if len(which) else sample

    def join(self, left: Sample, right: Sample, rng: np.random.Generator) -> Sample:
        """`right` written after `left` on about the same line."""
        gap = rng.uniform(0.3, 0.9)
        middle = [np.median(s.points[:, 1]) for s in (left, right)]
        shift = np.array([left.points[:, 0].max() - right.points[:, 0].min() + gap,
                          middle[0] - middle[1] + rng.normal(0, 0.1)], np.float32)
        known = right.symbol >= 0
        return Sample(np.concatenate([left.points, right.points + shift]),
                      np.concatenate([left.stroke, right.stroke + left.stroke[-1] + 1]),
                      np.concatenate([left.symbol, np.where(known, right.symbol + len(left.labels), -1)]),
                      np.concatenate([left.labels, right.labels]), np.concatenate([left.tokens, right.tokens]),
                      np.concatenate([left.token_symbols, np.where(right.token_symbols >= 0,
                                                                   right.token_symbols + len(left.labels), -1)]))

    def _is_held(self, sample: Sample) -> bool:
        return tuple(sample.tokens.tolist()) in self.held

    def draw(self, i: int, rng: np.random.Generator) -> Sample:
        """The training sample of expression i."""
        sample = from_pack(self.pack, i)
        if not self.pack.flat.aligned[i]:
            return sample
        made = self._vary(i, sample, rng)
        return sample if self._is_held(made) else made

    def _vary(self, i: int, sample: Sample, rng: np.random.Generator) -> Sample:
        config = self.config
        dice = rng.random()
        if dice < config.symbol:
            sample = self.one_symbol(sample, rng)
        elif dice < config.symbol + config.subexpression:
            sample = self.part(i, sample, rng)
        elif dice < config.symbol + config.subexpression + config.join:
            j = int(self.indices[rng.integers(len(self.indices))])
            if self.pack.flat.aligned[j] and self.pack.flat.valid[j]:
                other = self.part(j, from_pack(self.pack, j), rng)
                if len(sample.tokens) + len(other.tokens) <= config.longest_join:
                    sample = self.join(sample, other, rng)
        if config.swap_hand or config.relabel:
            sample = self.recombine(sample, rng)
        return sample

    def part(self, i: int, sample: Sample, rng: np.random.Generator) -> Sample:
        """A random sub-expression of expression i."""
        spans = self.spans(i)
        if not spans:
            return sample
        part = self.cut(sample, *spans[rng.integers(len(spans))])
        return part if len(part.points) else sample


@dataclass
class Batch:
    """b samples on a device: ink; tokens (b, t) padded; token_symbols (b, t), -1 for none; labels (b, s), -1 padded; ids."""

    ink: InkBatch
    tokens: torch.Tensor
    token_symbols: torch.Tensor
    labels: torch.Tensor
    ids: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.ink.to(device), self.tokens.to(device), self.token_symbols.to(device), self.labels.to(device), self.ids)


def symbol_classes(batch: Batch) -> torch.Tensor:
    """Class of each symbol (b, s): the token that its ink stands for (so a fraction bar is not a minus), -1 if none."""
    classes = batch.labels.clone()
    rows, columns = torch.nonzero(batch.token_symbols >= 0, as_tuple=True)
    classes[rows, batch.token_symbols[rows, columns]] = batch.tokens[rows, columns]
    return classes


def _padded(rows: list[np.ndarray], fill: int) -> torch.Tensor:
    table = np.full((len(rows), max(1, *(len(r) for r in rows))), fill, np.int64)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(table)


def collate(samples: Sequence[Sample], pad: int = 0) -> Batch:
    """Samples to one flat batch."""
    lengths = [len(s.points) for s in samples]
    if not samples or min(lengths) == 0:
        raise ValueError("collate needs samples with at least one point each")
    offsets = np.concatenate([[0], np.cumsum([s.stroke[-1] + 1 for s in samples])])
    stroke = np.concatenate([s.stroke + o for s, o in zip(samples, offsets, strict=False)])
    ink = InkBatch(torch.from_numpy(np.concatenate([s.points for s in samples]).astype(np.float32)),
                   torch.from_numpy(stroke.astype(np.int64)), torch.from_numpy(np.repeat(np.arange(len(samples)), lengths)),
                   len(samples), torch.from_numpy(np.concatenate([s.symbol for s in samples]).astype(np.int64)))
    return Batch(ink, _padded([s.tokens for s in samples], pad), _padded([s.token_symbols for s in samples], -1),
                 _padded([s.labels for s in samples], -1), tuple(s.id for s in samples))
