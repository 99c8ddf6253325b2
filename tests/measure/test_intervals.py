import numpy as np
import pytest
from scipy import stats

from mmlib.measure.intervals import bootstrap, interval, sign_flips


def test_the_value_is_the_plain_mean():
    values = np.array([[1.0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    result = interval(values)
    assert result.value == pytest.approx(values.mean())
    assert (result.n, result.seeds) == (4, 3)
    assert result.low <= result.value <= result.high


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
    errors, length = np.array([[1.0, 9]]), np.array([10, 10.0])
    assert interval(errors, length).value == pytest.approx(0.5)
    assert interval([[1.0, 9]], [2, 18]).value == pytest.approx(0.5)
    assert interval([[1.0, 8]], [1, 17]).value == pytest.approx(0.5)


def test_constants_have_no_interval():
    result = interval(np.full((3, 20), 0.25))
    assert (result.low, result.high) == pytest.approx((0.25, 0.25))


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random((3, 50))
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)


def test_expressions_alone_give_the_textbook_width():
    values = np.random.default_rng(0).normal(size=(1, 2000))
    result = interval(values)
    assert (result.high - result.low) / 2 == pytest.approx(
        1.96 * values.std() / np.sqrt(2000), rel=0.08
    )


def test_seeds_are_resampled_too():
    rng = np.random.default_rng(0)
    # runs differ, expressions hardly
    values = rng.normal(size=(8, 1)) + 0.01 * rng.normal(size=(8, 500))
    result = interval(values)
    std = values.mean(1).std(ddof=1)
    assert (result.high - result.low) / 2 == pytest.approx(1.96 * std / np.sqrt(8), rel=0.2)


def test_matches_a_slow_bootstrap():
    rng = np.random.default_rng(3)
    length = rng.integers(1, 40, size=60)
    errors = rng.poisson(0.3 * length, size=(4, 60)).astype(float)
    draws = []
    for _ in range(3000):
        s, e = rng.integers(0, 4, 4), rng.integers(0, 60, 60)
        draws.append(errors[np.ix_(s, e)].sum() / (4 * length[e].sum()))
    result = interval(errors, length)
    np.testing.assert_allclose([result.low, result.high], np.quantile(draws, [0.025, 0.975]),
                               atol=0.006)


def test_any_statistic_of_counts_can_be_resampled():
    """The spread of drawn values, a statistic that is no ratio, against drawing them one by one."""
    values, rng = np.random.default_rng(0).normal(size=80), np.random.default_rng(1)

    def spread(drawn):
        mean = drawn @ values / 80
        return np.sqrt(drawn @ values**2 / 80 - mean**2)

    found = bootstrap(spread, 80, n_boot=4000)
    slow = [values[rng.integers(0, 80, 80)].std() for _ in range(4000)]
    assert found.value == pytest.approx(values.std())
    np.testing.assert_allclose([found.low, found.high], np.quantile(slow, [0.025, 0.975]),
                               atol=0.02)
    ours = bootstrap(lambda drawn: drawn @ values / 80, 80, n_boot=500)
    assert (ours.value, ours.low, ours.high) == pytest.approx(
        [getattr(interval(values, n_boot=500), name) for name in ("value", "low", "high")])


def test_coverage_is_near_95_percent():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        values = (
            0.5 * rng.normal(size=(10, 1))
            + rng.normal(size=(1, 80))
            + 0.3 * rng.normal(size=(10, 80))
        )
        result = interval(values, n_boot=400)
        hits += result.low <= 0 <= result.high
    assert 0.86 <= hits / 200 <= 0.99


def test_unknown_values_need_weight_zero():
    result = interval([[1.0, np.nan, 3]], [1, 0, 1])
    assert result.value == 2
    with pytest.raises(ValueError, match="known"):
        interval([[1.0, np.nan]])


def test_pairing_cancels_what_the_expressions_share():
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=10, size=200)
    a, b = (hard + shift + 0.1 * rng.normal(size=(3, 200)) for shift in (1.0, 0.0))
    difference = interval(a - b)
    assert difference.value == pytest.approx(1, abs=0.05)
    assert difference.low > 0.9
    assert difference.high < 1.1
    assert difference.p == pytest.approx(2 / 4001)
    swapped = interval(b - a)
    assert swapped.value == pytest.approx(-difference.value)
    assert interval(a).high - interval(a).low > 1  # the arms' own intervals overlap


def test_pairing_cancels_what_the_seeds_share():
    rng = np.random.default_rng(0)
    a = rng.normal(scale=10, size=(3, 1)) + np.zeros((3, 200))
    b = a + 0.5 + 0.1 * rng.normal(size=(3, 200))
    # what the seeds do to both arms alike is no part of their difference
    assert interval(a - b).high < -0.4


def test_p_is_not_below_that_of_a_test_over_the_seeds():
    own = np.array([[0.0, 1.0, 2.0], [1.5, 2.0, 4.5]])
    a, b = (np.repeat(x[:, None], 50, 1) for x in own)
    assert interval(a - b).p >= stats.ttest_rel(*own).pvalue > 2 / 4001
    # no test over one seed
    assert interval(a[:1] - b[:1] - 0.1).p == pytest.approx(2 / 4001)


def test_no_difference_has_p_one():
    values = np.random.default_rng(0).random((1, 30))
    assert interval(values - values).p == 1


@pytest.mark.parametrize(
    ("values", "weights", "match"),
    [
        (np.zeros((2, 3, 4)), None, "shape"),
        (np.zeros((2, 0)), None, "shape"),
        (np.zeros((2, 3)), np.ones(2), "do not fit"),
        (np.zeros((2, 3)), np.array([1, -1, 1]), "negative"),
        (np.zeros((2, 3)), np.zeros(3), "not all 0"),
    ],
)
def test_wrong_shapes_are_refused(values, weights, match):
    with pytest.raises(ValueError, match=match):
        interval(values, weights)


def test_sign_flips_by_hand():
    assert sign_flips([1.0, 1.0, 1.0]) == 2 / 8, "all up or all down, of eight"
    assert sign_flips([3.0, -1.0]) == 1.0
    assert sign_flips([2.0, 1.0, -0.5]) == 4 / 8, "3.5, 2.5 and both turned"
    assert sign_flips(np.ones(8)) == 2 / 256
