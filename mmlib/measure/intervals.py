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
Statistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A statistic, its 95 % percentile interval, and what it was computed from."""

    value: float  # over all seeds and expressions
    low: float
    high: float
    std: float  # over the seeds' own values (n - 1); NaN with one seed
    n: int  # expressions
    seeds: int


@dataclass(frozen=True)
class Difference:
    """Statistic of arm a minus that of arm b, its 95 % interval, and a two-sided p-value."""

    value: float
    low: float
    high: float
    p: float
    n: int  # expressions, the same for both arms
    seeds: tuple[int, int]


def resample(statistic: Statistic, *sizes: int, n_boot: int, seed: int) -> tuple[float, np.ndarray]:
    """A statistic of the data, and of `n_boot` resamplings of them: (n_boot,).

    Args:
        statistic: takes for each of `sizes` how often each of so many members is drawn, (m, size),
            and gives (m,). Each drawn once is the data as they are.
        sizes: numbers of members that are resampled independently, such as seeds and expressions.
        n_boot: resamplings.
        seed: of the resampling.
    """
    value = statistic(*(np.ones((1, size)) for size in sizes))[0]
    return float(value), statistic(*_counts(sizes, n_boot, seed))


@lru_cache(maxsize=8)  # a table asks for the same ones in every row
def _counts(sizes: tuple[int, ...], n_boot: int, seed: int) -> list[np.ndarray]:
    """How often each member is drawn, (n_boot, size) for each size; not to be written to."""
    rng = np.random.default_rng(seed)
    return [rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64) for n in sizes]


def bootstrap(statistic: Statistic, n: int, *, n_boot: int = 1000, seed: int = 0) -> Interval:
    """Interval of a statistic of n expressions, given as in `resample`."""
    value, draws = resample(statistic, n, n_boot=n_boot, seed=seed)
    return Interval(value, *_bounds(draws), std=float("nan"), n=n, seeds=1)


def interval(values: ArrayLike, weights: ArrayLike | None = None, *, n_boot: int = 4000,
             seed: int = 0) -> Interval:
    """Interval of sum(values) / sum(weights), over seeds and expressions.

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
    values, weights = _prepare(values, weights)
    value, draws = resample(_ratio(values, weights), *values.shape, n_boot=n_boot, seed=seed)
    own = values.sum(1) / weights.sum(1)
    std = float(own.std(ddof=1)) if len(own) > 1 else float("nan")
    return Interval(value, *_bounds(draws), std, n=values.shape[1], seeds=len(values))


def paired_difference(a: ArrayLike, b: ArrayLike, weights: ArrayLike | None = None, *,
                      n_boot: int = 4000, seed: int = 0, same_seeds: bool = False) -> Difference:
    """Arm a minus arm b on the same expressions, in the same order.

    Each resampling draws one set of expressions for both arms. With `same_seeds`, row k of both
    arms has the seed in common (a seed also chooses which training expressions have labels), and
    one set of seeds is drawn, too; else each arm's on their own. Arguments as in `interval`; the
    arms may differ in their number of seeds when `weights` is (expressions,). p is twice the
    smaller tail beyond 0, at least 2 / (n_boot + 1), and with several seeds at least that of a
    t-test over the seeds' own values: paired for the same seeds, else Welch's.

    Raises:
        ValueError: as `interval`; expressions or, where they are said to be the same, seeds that
            differ in number.
    """
    (a, a_weights), (b, b_weights) = _prepare(a, weights), _prepare(b, weights)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the arms have {a.shape[1]} and {b.shape[1]} expressions")
    if same_seeds and len(a) != len(b):
        raise ValueError(f"the arms have {len(a)} and {len(b)} seeds, which cannot be the same")
    of_a, of_b = _ratio(a, a_weights), _ratio(b, b_weights)

    def difference(seeds: np.ndarray, expressions: np.ndarray, others: np.ndarray) -> np.ndarray:
        return of_a(seeds, expressions) - of_b(seeds if same_seeds else others, expressions)

    value, draws = resample(difference, *a.shape, len(b), n_boot=n_boot, seed=seed)
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = max(min(1.0, 2 * (tail + 1) / (n_boot + 1)),
            _over_seeds(a.sum(1) / a_weights.sum(1), b.sum(1) / b_weights.sum(1), same_seeds))
    return Difference(value, *_bounds(draws), p=float(p), n=a.shape[1], seeds=(len(a), len(b)))


def _over_seeds(own: np.ndarray, other: np.ndarray, same_seeds: bool) -> float:
    """p of a t-test over the seeds' own statistics; 0 for too few seeds, or seeds all alike."""
    from scipy import stats  # training on a bare machine does without it

    if min(len(own), len(other)) < 2:
        return 0.0
    spread = np.ptp(own - other) if same_seeds else np.ptp(own) + np.ptp(other)
    if spread < 1e-12:
        return 0.0
    test = stats.ttest_rel(own, other) if same_seeds else stats.ttest_ind(own, other,
                                                                          equal_var=False)
    return float(test.pvalue)


def sign_flips(differences: ArrayLike) -> float:
    """Two-sided p of paired differences (seeds,), by flipping their signs in all 2^seeds ways.

    Exact where the null hypothesis makes both signs as likely; at least 2 / 2^seeds.
    """
    own = np.asarray(differences, np.float64)
    signs = np.array([*product((1.0, -1.0), repeat=len(own))])
    sums = np.abs(signs @ own)
    return float((sums >= abs(own.sum()) - 1e-12).mean())


def _prepare(values: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights of one shape (seeds, expressions), checked; 0 for an unknown value."""
    values = np.atleast_2d(np.asarray(values, np.float64))
    weights = np.asarray(1.0 if weights is None else weights, np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values must be (seeds, expressions), got shape {values.shape}")
    if weights.ndim and weights.shape not in (values.shape, values.shape[1:]):
        raise ValueError(f"weights of shape {weights.shape} do not fit values of {values.shape}")
    weights = np.broadcast_to(weights, values.shape)
    if not (weights >= 0).all() or not weights.sum(1).all():
        raise ValueError("weights must be finite, not negative, and not all 0 for any seed")
    if np.isnan(values[weights > 0]).any():
        raise ValueError("values must be known wherever the weight is positive")
    return np.nan_to_num(values, nan=0.0), weights


def _ratio(values: np.ndarray, weights: np.ndarray) -> Statistic:
    """The statistic sum(values) / sum(weights), both (seeds, expressions)."""
    def statistic(seeds: np.ndarray, expressions: np.ndarray) -> np.ndarray:
        top, bottom = (np.einsum("bs,bs->b", seeds, expressions @ x.T) for x in (values, weights))
        with np.errstate(invalid="ignore", divide="ignore"):
            share: np.ndarray = top / bottom  # NaN where no weight at all was drawn
        return share

    return statistic


def _bounds(draws: np.ndarray) -> tuple[float, float]:
    known = draws[~np.isnan(draws)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)
