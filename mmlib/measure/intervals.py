"""Intervals and tests that resample seeds *and* expressions.

Every number we claim is a statistic of sums over expressions, such as TER: token errors over
reference tokens. Resampling is then a matrix product: how often each seed and each expression was
drawn, times the values. That is the two-way ("pigeonhole") bootstrap of Owen (2007), which does not
mistake many expressions for many training runs. With a single seed the interval says nothing about
other seeds; with few it is somewhat narrow, so a p-value is never below that of a t-test over the
seeds' own values. Expressions are drawn as if each were by a writer of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

SETTLED = 0.05  # a p-value over seeds below it settles a difference


@dataclass(frozen=True)
class Interval:
    """A statistic over all seeds and expressions, and its 95 % percentile interval."""

    value: float
    low: float
    high: float
    p: float  # two-sided, that a difference is 0; says nothing of other statistics
    n: int  # expressions
    seeds: int = 1


def interval(values: ArrayLike, weights: ArrayLike | None = None, *, n_boot: int = 4000,
             seed: int = 0) -> Interval:
    """Interval of sum(values) / sum(weights), over seeds and expressions.

    For arm a minus arm b, give a - b: row k of both has the same seed (a seed also chooses which
    training expressions have labels), so that what seeds and expressions do to both arms alike
    cancels. p is twice the smaller tail beyond 0, at least 2 / (n_boot + 1), and with several seeds
    at least that of a t-test over their own values.

    Args:
        values: (seeds, expressions), or (expressions,) for one seed; for TER the token errors, for
            a rate 0 or 1. NaN is allowed where the weight is 0.
        weights: (expressions,) or the shape of `values`; for TER the reference tokens. None: a
            plain mean.
        n_boot: resamplings.
        seed: of the resampling.

    Raises:
        ValueError: shapes that do not fit, NaN at a positive weight, no or negative weight.
    """
    x = np.atleast_2d(np.asarray(values, np.float64))
    w = np.asarray(1.0 if weights is None else weights, np.float64)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"values must be (seeds, expressions), got shape {x.shape}")
    if w.ndim and w.shape not in (x.shape, x.shape[1:]):
        raise ValueError(f"weights of shape {w.shape} do not fit values of {x.shape}")
    w = np.broadcast_to(w, x.shape)
    if not (w >= 0).all() or not w.sum(1).all():
        raise ValueError("weights must be finite, not negative, and not all 0 for any seed")
    if np.isnan(x[w > 0]).any():
        raise ValueError("values must be known wherever the weight is positive")
    x = np.nan_to_num(x, nan=0.0)

    def ratio(seeds: np.ndarray, expressions: np.ndarray) -> np.ndarray:
        top, bottom = (np.einsum("bs,bs->b", seeds, expressions @ one.T) for one in (x, w))
        with np.errstate(invalid="ignore", divide="ignore"):
            share: np.ndarray = top / bottom  # NaN where no weight at all was drawn
        return share

    return bootstrap(ratio, *x.shape, own=x.sum(1) / w.sum(1), n_boot=n_boot, seed=seed)


def bootstrap(statistic: Callable[..., np.ndarray], *sizes: int, own: ArrayLike = 0.0,
              n_boot: int = 1000, seed: int = 0) -> Interval:
    """Interval of any statistic, by resampling.

    Args:
        statistic: takes for each of `sizes` how often each of so many members is drawn, (m, size),
            and gives (m,). Each drawn once is the data as they are.
        sizes: numbers of members that are resampled independently: expressions, or seeds and
            expressions.
        own: (seeds,) the statistic of each seed alone.
        n_boot, seed: as in `interval`.
    """
    value = float(statistic(*(np.ones((1, size)) for size in sizes))[0])
    draws = statistic(*_counts(sizes, n_boot, seed))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = max(min(1.0, 2 * (tail + 1) / (n_boot + 1)), t_test(np.atleast_1d(own)))
    return Interval(value, float(low), float(high), p, sizes[-1], *sizes[:-1])


@lru_cache(maxsize=8)  # a table asks for the same ones in every row
def _counts(sizes: tuple[int, ...], n_boot: int, seed: int) -> list[np.ndarray]:
    """How often each member is drawn, (n_boot, size) for each size; not to be written to."""
    rng = np.random.default_rng(seed)
    return [rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64) for n in sizes]


def t_test(own: np.ndarray) -> float:
    """p that the seeds' own statistics have the mean 0; 0 for one seed, or seeds all alike."""
    if np.ptp(own) < 1e-12:
        return 0.0
    from scipy import stats  # training on a bare machine does without it

    return float(stats.ttest_1samp(own, 0).pvalue)


def sign_flips(differences: ArrayLike) -> float:
    """Two-sided p of paired differences (seeds,), by flipping their signs in all 2^seeds ways.

    Exact where the null hypothesis makes both signs as likely; at least 2 / 2^seeds.
    """
    own = np.asarray(differences, np.float64)
    signs = np.array([*product((1.0, -1.0), repeat=len(own))])
    sums = np.abs(signs @ own)
    return float((sums >= abs(own.sum()) - 1e-12).mean())
