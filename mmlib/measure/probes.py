"""Probes of a frozen encoder: what its features say of symbols, and of pairs of symbols.

Labels serve to measure. A probe is fitted on the training split's symbols and read on those of the
validation split, which is disjoint in writers and formulas. A symbol's feature is the mean of F at
its ink points; a pair's is both, one behind the other. The pairs are the edges of the symbol layout
tree: Right joins neighbours of one row, every other relation a symbol to the first of the row that
hangs on it (the limits of a sum are Sub and Sup, as in `mmlib.formula.latex`; a fraction's symbol
is its bar). Much of a relation is where the boxes lie, so `geometry` gives the probe the boxes
alone: a control.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mmlib.data.batches import batches_by_area
from mmlib.data.pack import Indices, Pack
from mmlib.data.sample import collate, from_pack
from mmlib.draw.views import STRIDE, InkBatch, ViewConfig, extremes, make_view, sample
from mmlib.formula.ink import Ink
from mmlib.formula.tree import Node
from mmlib.measure.attention import symbol_tree
from mmlib.measure.intervals import Interval, bootstrap, interval
from mmlib.models.encoder import Encoder

RELATIONS = ("Right", "Sup", "Sub", "Above", "Below", "Inside")
DECAYS, STEPS = (1e-4, 1e-3, 1e-2), 100  # of the linear probe: weight decays, steps of L-BFGS
GLANCE = 1e-3  # the decay in a glance: near the best for every encoder that was tried
EACH = 16  # ink points per expression, some of which serve to read where they lie


# --- what is probed -------------------------------------------------------------------------------


def relations(ink: Ink) -> list[tuple[int, int, str]]:
    """Related pairs: (symbol, the one that follows or hangs on it, relation), by ``ink.symbols``.

    Pairs with an empty base, which has no ink, are left out. Raises ValueError where the symbols
    are not aligned with the tokens.
    """
    found: list[tuple[int, int, str]] = []

    def note(a: Node, b: Node, relation: str) -> None:
        if a.ref is not None and b.ref is not None:
            found.append((int(a.ref), int(b.ref), relation))

    pending = [symbol_tree(ink)]
    while pending:
        row = pending.pop()
        for node, after in pairwise(row):
            note(node, after, "Right")
        for node in row:
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
    at_points: Tensor  # (n, d) features at some ink points
    place: Tensor  # (n, 2) where in its expression each lies; its box is a unit square

    @property
    def pair_features(self) -> Tensor:
        """(p, 2 d)."""
        return self.features[torch.from_numpy(self.pairs)].flatten(1)


def enough(pack: Pack, indices: Indices, symbols: int, seed: int) -> np.ndarray:
    """Random expressions with aligned symbols: as few as hold so many symbols, or all."""
    flat = pack.flat
    order = np.random.default_rng([seed, 23]).permutation(np.asarray(indices))
    order = order[flat.aligned[order]]
    held = np.cumsum(np.diff(flat.symbol_offsets)[order])
    chosen: np.ndarray = order[: np.searchsorted(held, symbols) + 1]
    return chosen


def _batches(pack: Pack, indices: Indices, area: float, most: int
             ) -> Iterator[tuple[np.ndarray, InkBatch]]:
    """Places in `indices`, and their ink; `area` in square typical symbols."""
    chosen = np.asarray(indices)
    for group in batches_by_area(pack.sizes[chosen] + 0.4, area, most):
        yield group, collate([from_pack(pack, int(i)) for i in chosen[group]]).ink


@torch.no_grad()
def describe(encoder: Encoder, pack: Pack, indices: Indices, view: ViewConfig,
             area: float = 1_500.0, most: int = 64, both: bool = False) -> Symbols:
    """The symbols of (aligned) expressions as the encoder sees them, drawn plainly, in order.

    With `both`, what `Encoder.both` gives stands side by side in the features.
    """
    device, flat = next(encoder.parameters()).device, pack.flat
    counts = np.diff(flat.symbol_offsets)[np.asarray(indices)]
    first = np.concatenate([[0], np.cumsum(counts)])
    width = encoder.config.d + both * encoder.config.widths[-1]
    features, rows, points = torch.zeros(first[-1], width), [], []
    drawn, rng = [], torch.Generator().manual_seed(0)
    for group, ink in _batches(pack, indices, area, most):
        seen = make_view(ink.to(device), view.still(), torch.Generator().manual_seed(0))
        owner = ink.owner.to(device)
        # Without this bound, a larger neighbour's padding would mix in.
        inside = torch.minimum(seen.cells, (seen.extent / STRIDE - 0.5)[owner])
        levels = encoder.both(seen.picture, seen.valid)[: 1 + both]
        at_points = torch.cat([sample(x, inside, owner).float() for x in levels], 1).cpu()
        chance = torch.rand(len(owner), generator=rng) * torch.bincount(ink.owner)[ink.owner]
        drawn.append((at_points[chance < EACH], relative_places(ink)[chance < EACH]))
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
    edges = np.array([(first[k] + a, first[k] + b, RELATIONS.index(relation))
                      for k, i in enumerate(indices) for a, b, relation in relations(pack[int(i)])],
                     np.int64).reshape(-1, 3)
    pairs = new[edges[:, :2]]
    whole = (pairs >= 0).all(1)
    label = np.concatenate([flat.symbols[flat.symbol_offsets[i] : flat.symbol_offsets[i + 1]]
                            for i in indices]).astype(np.int64)
    expression = np.repeat(np.arange(len(counts)), counts)
    return Symbols((features / count[:, None])[inked], box[inked], label[inked], expression[inked],
                   pairs[whole], edges[whole, 2], *map(torch.cat, zip(*drawn, strict=True)))


def relative_places(ink: InkBatch) -> Tensor:
    """(n, 2) where in its expression each ink point lies; its box is scaled to [0, 1] x [0, 1]."""
    low, high = extremes(ink.points, ink.owner, ink.b)
    return (ink.points - low[ink.owner]) / (high - low).clamp(min=1e-3)[ink.owner]


def geometry(box: Tensor, pairs: np.ndarray) -> Tensor:
    """(p, 8) edges of a pair's boxes (s, 4), from the middle of both over their longer side."""
    both = box[torch.from_numpy(pairs)]  # (p, 2, 4)
    low, high = both[..., :2].amin(1), both[..., 2:].amax(1)
    side = (high - low).amax(1).clamp(min=1e-3)
    return ((both - ((low + high) / 2).repeat(1, 2)[:, None]) / side[:, None, None]).flatten(1)


# --- probes ---------------------------------------------------------------------------------------


def linear_probe(x: Tensor, y: np.ndarray, test: Tensor, decays: Sequence[float] = DECAYS
                 ) -> np.ndarray:
    """Classes (m,) that a multinomial logistic regression of x (n, d), y (n,) gives test (m, d).

    It minimises the mean cross-entropy plus decay / 2 times the squared weights, on standardised
    features: no probe gains by an encoder's scale. The decay is the one with which four fifths of
    the rows read the last fifth best, since arms differ in what they need. So rows of one
    expression stand together. Nothing in it is random.
    """
    strengths = [1 / (decay * len(x)) for decay in decays]
    last_fifth = PredefinedSplit(np.where(np.arange(len(x)) < len(x) * 4 // 5, -1, 0))
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=STEPS))
    # Near the minimum, a step more changes hardly an answer; few symbols may be of many classes.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if len(decays) > 1:
            probe = GridSearchCV(probe, {"logisticregression__C": strengths}, cv=last_fifth)
        else:
            probe.set_params(logisticregression__C=strengths[0])
        read: np.ndarray = probe.fit(x.numpy(), y).predict(test.numpy())
    return read


def knn_probe(x: Tensor, y: np.ndarray, test: Tensor, k: int = 20, temperature: float = 0.07
              ) -> np.ndarray:
    """Classes (m,) that the k nearest of x (n, d), y (n,) give test (m, d).

    Near is by cosine of standardised features; a neighbour's vote weighs exp(cosine / temperature),
    as in Wu et al. (arXiv:1805.01978).
    """
    nearest = KNeighborsClassifier(min(k, len(x)), metric="cosine",
                                   weights=lambda distance: np.exp((1 - distance) / temperature))
    probe = make_pipeline(StandardScaler(), nearest).fit(x.numpy(), y)
    read: np.ndarray = probe.predict(test.numpy())
    return read


def accuracies(truth: np.ndarray, predicted: np.ndarray, expression: np.ndarray,
               n_boot: int = 1_000, seed: int = 0) -> tuple[Interval, Interval]:
    """Accuracy, and its mean over the classes (macro), with intervals that resample expressions.

    truth, predicted, expression: (n,) ints. A resampling leaves a class that it lacks out of its
    mean.
    """
    place, of = (np.unique(x, return_inverse=True)[1] for x in (expression, truth))
    n, classes = place.max() + 1, of.max() + 1
    total, right = (np.bincount(place * classes + of, w, n * classes).reshape(n, classes)
                    for w in (np.ones(len(truth)), (truth == predicted).astype(float)))

    def macro(drawn: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a resampling may lack a class: 0 / 0
            mean: np.ndarray = np.nanmean((drawn @ right) / (drawn @ total), 1)
        return mean

    plain = interval(right.sum(1), total.sum(1), n_boot=n_boot, seed=seed)
    return plain, bootstrap(macro, n, n_boot=n_boot, seed=seed)


def glance(encoder: Encoder, pack: Pack, train: Indices, valid: Indices, view: ViewConfig,
           fitted: int = 3_000, read: int = 2_500) -> dict[str, float]:
    """What an encoder (in eval mode) knows, in seconds: cheap enough for every validation.

    `probe` is the share of symbols that a linear probe tells. `position_x` and `position_y` are the
    R² of ridge regressions for where in its expression an ink point lies. That is a shortcut of
    local contrast: a point can be found by its place, without looking at what it is. The same
    numbers with `_before` are of what went into the encoder's coarse blocks.

    Args:
        train, valid: expressions to fit on and to read; no numbers if these have no symbols.
        fitted, read: symbols of each, in whole expressions.
    """
    chosen = [enough(pack, np.asarray(part, np.int64), count, 0)
              for part, count in ((train, fitted), (valid, read))]
    if not all(map(len, chosen)):
        return {}
    fit, test = (describe(encoder, pack, part, view, both=True) for part in chosen)
    if len(np.unique(fit.label)) < 2:
        return {}
    numbers = {}
    for level, end in ((slice(encoder.config.d), ""), (slice(encoder.config.d, None), "_before")):
        said = linear_probe(fit.features[:, level], fit.label, test.features[:, level], (GLANCE,))
        numbers[f"probe{end}"] = float((said == test.label).mean())
        ridge = make_pipeline(StandardScaler(), Ridge(1e-2 * len(fit.place)))
        ridge.fit(fit.at_points[:, level].double().numpy(), fit.place.numpy())
        place = ridge.predict(test.at_points[:, level].double().numpy())
        explained = r2_score(test.place.numpy(), place, multioutput="raw_values")
        numbers |= {f"position_{axis}{end}": float(r)
                    for axis, r in zip("xy", explained, strict=True)}
    return numbers
