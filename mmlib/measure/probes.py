"""Probes of a frozen encoder: what its features say of symbols and of pairs of symbols, and how views of one expression lie.

Labels serve to measure. A probe is fitted on the training split's symbols and read on those of the validation split, which is
disjoint in writers and formulas. A symbol's feature is the mean of F at its ink points; a pair's is the two, one behind the
other. The pairs are the edges of the symbol layout tree: Right joins neighbours of one row, every other relation a symbol to
the first of the row that hangs on it (the limits of a sum are Sub and Sup, as in `mmlib.formula.latex`; a fraction's symbol is its bar).
Much of a relation is where the boxes lie, so `geometry` gives the probe the boxes alone: a control.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.data.batches import batches_by_area
from mmlib.data.pack import Indices, Pack
from mmlib.data.sample import collate, from_pack
from mmlib.draw.raster import arc_length
from mmlib.draw.views import STRIDE, InkBatch, View, ViewConfig, extremes, ink_cells, make_view, sample
from mmlib.formula.ink import Ink
from mmlib.formula.tree import Node
from mmlib.measure.attention import symbol_tree
from mmlib.measure.intervals import Interval, interval
from mmlib.models.encoder import Encoder
from mmlib.models.heads import pool

RELATIONS = ("Right", "Sup", "Sub", "Above", "Below", "Inside")
CUES = ("width", "height", "ink length", "strokes")


# --- what is probed ---------------------------------------------------------------------------------------------


def relations(ink: Ink) -> list[tuple[int, int, str]]:
    """The related pairs of an ink: (symbol, the one that hangs on it or follows, relation), indices into ``ink.symbols``.

    Pairs with an empty base, which has no ink, are left out. ValueError where the symbols are not aligned with the tokens.
    """
    found: list[tuple[int, int, str]] = []

    def note(a: Node, b: Node, relation: str) -> None:
        if a.ref is not None and b.ref is not None:
            found.append((int(a.ref), int(b.ref), relation))

    pending = [symbol_tree(ink)]
    while pending:
        row = pending.pop()
        for node, after in zip(row, [*row[1:], None]):
            if after is not None:
                note(node, after, "Right")
            for relation, children in node.children.items():
                if children:
                    note(node, children[0], relation)
                    pending.append(children)
    return sorted(found)


@dataclass(frozen=True, eq=False)
class Symbols:
    """The symbols of some expressions, those with ink, and their related pairs."""

    features: Tensor  # (s, d) float32
    box: Tensor  # (s, 4) left, top, right, bottom in typical symbols
    label: np.ndarray  # (s,) ids of the pack's vocabulary
    expression: np.ndarray  # (s,) the symbol's expression, ascending from 0
    pairs: np.ndarray  # (p, 2) rows of the above
    relation: np.ndarray  # (p,) index into RELATIONS

    @property
    def pair_features(self) -> Tensor:
        """(p, 2 d)."""
        return self.features[torch.from_numpy(self.pairs)].flatten(1)


def enough(pack: Pack, indices: Indices, symbols: int, seed: int) -> np.ndarray:
    """Random expressions whose symbols are aligned with their tokens: as few as hold so many symbols; all if they hold fewer."""
    flat, order = pack.flat, np.random.default_rng([seed, 23]).permutation(np.asarray(indices))
    order = order[flat.aligned[order]]
    held = np.cumsum(np.diff(flat.symbol_offsets)[order])
    chosen: np.ndarray = order[: np.searchsorted(held, symbols) + 1]
    return chosen


def _batches(pack: Pack, indices: Indices, area: float, most: int) -> Iterator[tuple[np.ndarray, InkBatch]]:
    """Places in `indices`, and their ink; `area` in square typical symbols."""
    chosen = np.asarray(indices)
    for group in batches_by_area(pack.sizes[chosen] + 0.4, area, most):
        yield group, collate([from_pack(pack, int(i)) for i in chosen[group]]).ink


@torch.no_grad()
def describe(encoder: Encoder, pack: Pack, indices: Indices, view: ViewConfig, area: float = 1_500.0, most: int = 64
             ) -> Symbols:
    """The symbols of the (aligned) expressions `indices` as the encoder sees them, drawn plainly. In the order of `indices`."""
    device, flat = next(encoder.parameters()).device, pack.flat
    counts = np.diff(flat.symbol_offsets)[np.asarray(indices)]
    first = np.concatenate([[0], np.cumsum(counts)])
    features, rows, points = torch.zeros(first[-1], encoder.config.d), [], []
    for group, ink in _batches(pack, indices, area, most):
        seen = make_view(ink.to(device), view.still(), torch.Generator().manual_seed(0))
        owner = ink.owner.to(device)
        inside = torch.minimum(seen.cells, (seen.extent / STRIDE - 0.5)[owner])  # else a larger neighbour's padding mixes in
        at_points = sample(encoder(seen.picture, seen.valid), inside, owner).float().cpu()
        assert ink.symbol is not None
        known = ink.symbol >= 0
        rows.append((torch.from_numpy(first[group])[ink.owner] + ink.symbol)[known])
        points.append(ink.points[known])
        features.index_add_(0, rows[-1], at_points[known])
    row = torch.cat(rows)
    count = torch.bincount(row, minlength=first[-1])
    box = torch.cat(extremes(torch.cat(points), row, first[-1]), 1)
    inked = (count > 0).numpy()
    new = np.where(inked, np.cumsum(inked) - 1, -1)
    edges = np.array([(first[k] + a, first[k] + b, RELATIONS.index(relation)) for k, i in enumerate(indices)
                      for a, b, relation in relations(pack[int(i)])], np.int64).reshape(-1, 3)
    pairs = new[edges[:, :2]]
    whole = (pairs >= 0).all(1)
    label = np.concatenate([flat.symbols[flat.symbol_offsets[i] : flat.symbol_offsets[i + 1]] for i in indices]).astype(np.int64)
    return Symbols((features / count[:, None])[inked], box[inked], label[inked], np.repeat(np.arange(len(counts)), counts)[inked],
                   pairs[whole], edges[whole, 2])


def geometry(box: Tensor, pairs: np.ndarray) -> Tensor:
    """(p, 8) the edges of a pair's boxes (s, 4), from the middle of the box around both, over its longer side."""
    both = box[torch.from_numpy(pairs)]  # (p, 2, 4)
    low, high = both[..., :2].amin(1), both[..., 2:].amax(1)
    side = (high - low).amax(1).clamp(min=1e-3)
    return ((both - ((low + high) / 2).repeat(1, 2)[:, None]) / side[:, None, None]).flatten(1)


# --- probes -----------------------------------------------------------------------------------------------------


def standardised(x: Tensor, *others: Tensor) -> list[Tensor]:
    """x (n, d), and others, less the mean of x and over its standard deviation: no probe gains by an encoder's scale."""
    mean, spread = x.mean(0), x.std(0).clamp(min=1e-6)
    return [(y - mean) / spread for y in (x, *others)]


def linear_probe(x: Tensor, y: np.ndarray, test: Tensor, decays: Sequence[float] = (1e-4, 1e-3, 1e-2)) -> np.ndarray:
    """Classes (m,) that a multinomial logistic regression, fitted to x (n, d) and y (n,) ints, gives to test (m, d).

    The weight decay is the one of `decays` with which four fifths of the rows read the last fifth best: arms differ in what they
    need. So rows of one expression stand together.
    """
    x, test = standardised(x, test)
    kept = len(x) * 4 // 5
    right = [(logistic(x[:kept], y[:kept], x[kept:], decay) == y[kept:]).mean() for decay in decays] if len(decays) > 1 else [1.0]
    return logistic(x, y, test, decays[int(np.argmax(right))])


def logistic(x: Tensor, y: np.ndarray, test: Tensor, decay: float, steps: int = 100) -> np.ndarray:
    """As `linear_probe` with one weight decay, on features as they are.

    The mean cross-entropy plus decay / 2 times the squared weights is convex, and L-BFGS from zero has nothing random in it.
    """
    classes, found = np.unique(y, return_inverse=True)
    target = torch.from_numpy(found)
    weights, bias = (torch.zeros(shape, requires_grad=True) for shape in ((len(classes), x.shape[1]), len(classes)))
    optim = torch.optim.LBFGS([weights, bias], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optim.zero_grad()
        value = F.cross_entropy(F.linear(x, weights, bias), target) + decay / 2 * weights.square().sum()
        value.backward()
        return value

    optim.step(loss)
    read: np.ndarray = classes[F.linear(test, weights, bias).argmax(1).numpy()]
    return read


def knn_probe(x: Tensor, y: np.ndarray, test: Tensor, k: int = 20, temperature: float = 0.07) -> np.ndarray:
    """Classes (m,) that the k nearest of x (n, d), by cosine of standardised features, give to test (m, d).

    A neighbour's vote weighs exp(cosine / temperature), as in Wu et al. (arXiv:1805.01978).
    """
    classes, target = np.unique(y, return_inverse=True)
    x, test = (F.normalize(z, dim=1) for z in standardised(x, test))
    votes = F.one_hot(torch.from_numpy(target), len(classes)).float()
    found = []
    for part in test.split(1_000):
        near = (part @ x.T).topk(min(k, len(x)), dim=1)
        found.append((votes[near.indices] * (near.values / temperature).exp()[..., None]).sum(1).argmax(1))
    read: np.ndarray = classes[torch.cat(found).numpy()]
    return read


def most_common(x: Tensor, y: np.ndarray, test: Tensor) -> np.ndarray:
    """The commonest class of y (n,), for each of test (m, d): what features must beat."""
    classes, counts = np.unique(y, return_counts=True)
    return np.full(len(test), classes[counts.argmax()])


def accuracies(truth: np.ndarray, predicted: np.ndarray, expression: np.ndarray, n_boot: int = 1_000, seed: int = 0
               ) -> tuple[Interval, Interval]:
    """Accuracy, and its mean over the classes that are there (macro), with intervals that resample expressions.

    truth, predicted, expression: (n,) ints. A class that a resampling lacks is left out of its mean.
    """
    place, of = (np.unique(x, return_inverse=True)[1] for x in (expression, truth))
    n, classes = place.max() + 1, of.max() + 1
    total, right = (np.bincount(place * classes + of, w, n * classes).reshape(n, classes)
                    for w in (np.ones(len(truth)), (truth == predicted).astype(float)))
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    with np.errstate(invalid="ignore"):
        draws = np.nanmean((drawn @ right) / (drawn @ total), 1)
    low, high = map(float, np.quantile(draws, [0.025, 0.975]))
    macro = Interval(float((right.sum(0) / total.sum(0)).mean()), low, high, math.nan, n, 1)
    return interval(right.sum(1), total.sum(1), n_boot=n_boot, seed=seed), macro


# --- two views --------------------------------------------------------------------------------------------------


def cues(view: View, ink: InkBatch) -> Tensor:
    """(b, 4) of `CUES`, of the ink that the view shows: what tells views of unlike expressions apart without reading any."""
    points, stroke, owner = view.points[view.kept], ink.stroke[view.kept], ink.owner[view.kept]
    length = points.new_zeros(ink.b).index_add_(0, owner, arc_length(points, stroke))
    first = torch.ones_like(stroke, dtype=torch.bool)
    first[1:] = stroke[1:] != stroke[:-1]
    low, high = extremes(points, owner, ink.b)
    return torch.cat([high - low, length[:, None], torch.bincount(owner[first], minlength=ink.b)[:, None]], 1)


@torch.no_grad()
def two_views(encoder: Encoder, pack: Pack, indices: Indices, view: ViewConfig, seed: int = 0, area: float = 1_500.0,
              most: int = 64) -> tuple[Tensor, Tensor]:
    """Of two random views of expressions: unit features pooled over ink cells (2, n, d), and their cues (2, n, 4)."""
    device = next(encoder.parameters()).device
    z, told = torch.zeros(2, len(indices), encoder.config.d), torch.zeros(2, len(indices), len(CUES))
    for number, (group, ink) in enumerate(_batches(pack, indices, area, most)):
        ink, rng = ink.to(device), torch.Generator().manual_seed(seed * 1_000 + number)
        for side in range(2):
            seen = make_view(ink, view, rng)
            features = encoder(seen.picture, seen.valid)
            z[side, group] = F.normalize(pool(features, ink_cells(seen, ink.b, ink.owner)).float(), dim=1).cpu()
            told[side, group] = cues(seen, ink).cpu()
    return z, told


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """(n,) squared distance of the unit features a, b (n, d) of two views; its mean is Wang & Isola's (arXiv:2005.10242)."""
    return (a - b).square().sum(1)


def uniformity(z: Tensor, t: float = 2.0, n_boot: int = 1_000, seed: int = 0) -> Interval:
    """log of the mean of exp(-t |z - z'|^2) over pairs of different rows of unit z (n, d) (Wang & Isola); lower is more uniform.

    The interval resamples rows; two copies of one row are no pair.
    """
    n = len(z)
    kernel = torch.exp(-t * torch.cdist(z.double(), z.double()).square()).fill_diagonal_(0).numpy()
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot).astype(float)
    pairs = drawn.sum(1) ** 2 - (drawn**2).sum(1)
    draws = np.log(((drawn @ kernel) * drawn).sum(1) / pairs)
    low, high = map(float, np.quantile(draws, [0.025, 0.975]))
    return Interval(float(np.log(kernel.sum() / (n * (n - 1)))), low, high, math.nan, n, 1)


def whitened(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a, b (n, k) in units of the spread of a - b: the metric in which cues find their partners best."""
    spread = torch.linalg.cholesky(torch.cov((a - b).T) + 1e-6 * torch.eye(a.shape[1]))
    a, b = (torch.linalg.solve_triangular(spread, x.T, upper=False).T for x in (a, b))
    return a, b


def partners(a: Tensor, b: Tensor) -> Tensor:
    """(n,) bool: whether the row of b (n, k) that is nearest to a row of a (n, k) is its own."""
    return torch.cdist(a, b).argmin(1) == torch.arange(len(a))
