"""Intervals and tests that resample seeds *and* expressions.

Every number we claim is a mean over expressions, or a ratio of two sums over them (TER: token errors over
reference tokens). Both are one statistic, sum(values) / sum(weights), and resampling is then a matrix
product: how often each seed and each expression was drawn, times the values. That is the two-way
("pigeonhole") bootstrap of Owen (2007): it does not mistake many expressions for many training runs. With a
single seed the interval says nothing about other seeds; with few it is somewhat narrow, so a p-value is never below
that of a t-test over the seeds' own values. Expressions are drawn as if each were by a writer of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

SETTLED = 0.05  # a p-value over seeds below it settles a difference


@dataclass(frozen=True)
class Interval:
    """A statistic, its percentile interval, and what it was computed from."""

    value: float  # over all seeds and expressions
    low: float
    high: float
    std: float  # over the seeds' own values (n - 1); NaN with one seed
    n: int  # expressions
    seeds: int


@dataclass(frozen=True)
class Difference:
    """Statistic of arm a minus that of arm b, its interval, and a two-sided p-value."""

    value: float
    low: float
    high: float
    p: float
    n: int  # expressions, the same for both arms
    seeds: tuple[int, int]


def interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_boot: int = 4000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of sum(values) / sum(weights), over seeds and expressions.

    Args:
        values: (seeds, expressions), or (expressions,) for one seed; for TER the token errors, for a rate 0
            or 1. NaN is allowed where the weight is 0.
        weights: (expressions,) or the shape of `values`; for TER the reference tokens. None: a plain mean.
        n_boot: resamplings.
        seed: of the resampling.
        level: share of the resampled values between low and high.

    Raises:
        ValueError: shapes that do not fit, NaN at a positive weight, no or negative weight.
    """
    values, weights = _prepare(values, weights)
    seeds, expressions = _counts(values.shape, n_boot, seed)
    draws = _resample(seeds, expressions, values, weights)
    own = values.sum(1) / weights.sum(1)
    return Interval(
        value=float(values.sum() / weights.sum()),
        **_bounds(draws, level),
        std=float(own.std(ddof=1)) if len(own) > 1 else float("nan"),
        n=values.shape[1],
        seeds=len(values),
    )


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_boot: int = 4000,
    seed: int = 0,
    level: float = 0.95,
    same_seeds: bool = False,
) -> Difference:
    """Arm a minus arm b on the same expressions, in the same order.

    Each resampling draws one set of expressions for both arms. With `same_seeds`, row k of both arms has the seed in common (a
    seed also chooses which training expressions have labels), and one set of seeds is drawn, too; else each arm's on their own.
    Arguments as in `interval`; the arms may differ in their number of seeds when `weights` is (expressions,). p is twice the
    smaller tail beyond 0, at least 2 / (n_boot + 1), and with several seeds at least that of a t-test over the seeds' own
    values: paired for the same seeds, else Welch's.

    Raises:
        ValueError: as `interval`; expressions or, where they are said to be the same, seeds that differ in number.
    """
    (a, a_weights), (b, b_weights) = _prepare(a, weights), _prepare(b, weights)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the arms have {a.shape[1]} and {b.shape[1]} expressions")
    if same_seeds and len(a) != len(b):
        raise ValueError(f"the arms have {len(a)} and {len(b)} seeds, which cannot be the same")
    seeds, expressions, other_seeds = _counts((*a.shape, len(b)), n_boot, seed)
    if same_seeds:
        other_seeds = seeds
    draws = _resample(seeds, expressions, a, a_weights) - _resample(other_seeds, expressions, b, b_weights)
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    return Difference(
        value=float(a.sum() / a_weights.sum() - b.sum() / b_weights.sum()),
        **_bounds(draws, level),
        p=float(max(min(1.0, 2 * (tail + 1) / (n_boot + 1)), _over_seeds(a, a_weights, b, b_weights, same_seeds))),
        n=a.shape[1],
        seeds=(len(a), len(b)),
    )


def _over_seeds(a: np.ndarray, a_weights: np.ndarray, b: np.ndarray, b_weights: np.ndarray, same_seeds: bool) -> float:
    """p of a t-test over the seeds' own statistics; 0 where they are too few, or do not vary at all."""
    from scipy import stats

    if min(len(a), len(b)) < 2:
        return 0.0
    own, other = a.sum(1) / a_weights.sum(1), b.sum(1) / b_weights.sum(1)
    spread = np.ptp(own - other) if same_seeds else np.ptp(own) + np.ptp(other)
    if spread < 1e-12:
        return 0.0
    return float((stats.ttest_rel(own, other) if same_seeds else stats.ttest_ind(own, other, equal_var=False)).pvalue)


def holm(p_values: ArrayLike) -> np.ndarray:
    """P-values adjusted for making all these tests (Holm, 1979): (tests,), in [0, 1]; NaN is refused."""
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values must be a list of numbers in [0, 1], got {p_values!r}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def _prepare(values: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.atleast_2d(np.asarray(values, np.float64))
    weights = np.asarray(1.0 if weights is None else weights, np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values must be (seeds, expressions), got shape {values.shape}")
    if weights.ndim and weights.shape not in (values.shape, values.shape[1:]):
        raise ValueError(f"weights of shape {weights.shape} do not fit values of shape {values.shape}")
    weights = np.broadcast_to(weights, values.shape)
    if not (weights >= 0).all() or not weights.sum(1).all():
        raise ValueError("weights must be finite, not negative, and not all 0 for any seed")
    if np.isnan(values[weights > 0]).any():
        raise ValueError("values must be known wherever the weight is positive")
    return np.nan_to_num(values, nan=0.0), weights


@lru_cache(maxsize=8)  # a table asks for the same ones in every row
def _counts(sizes: tuple[int, ...], n_boot: int, seed: int) -> list[np.ndarray]:
    """How often each of so many seeds, or expressions, is drawn: (n_boot, size) for each size, not to be written to."""
    rng = np.random.default_rng(seed)
    return [rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64) for n in sizes]


def _resample(
    seeds: np.ndarray, expressions: np.ndarray, values: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    top, bottom = (np.einsum("bs,bs->b", seeds, expressions @ x.T) for x in (values, weights))
    with np.errstate(invalid="ignore", divide="ignore"):
        share: np.ndarray = top / bottom  # NaN where no weight at all was drawn
    return share


def _bounds(draws: np.ndarray, level: float) -> dict[str, float]:
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return {"low": float(low), "high": float(high)}
