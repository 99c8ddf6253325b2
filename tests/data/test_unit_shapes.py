"""Descriptions of units, and their clusters."""

import numpy as np
import pytest

from mmlib.data.unit_shapes import clusters, describe, nearest


def strokes(*lines):
    """Points and stroke numbers of strokes given as lists of points."""
    points = np.concatenate([np.array(line, float) for line in lines])
    return points, np.repeat(np.arange(len(lines)), [len(line) for line in lines])


PLUS = ([[0, 0.5], [1, 0.5]], [[0.5, 0], [0.5, 1]])
TIMES = ([[0, 0], [1, 1]], [[0, 1], [1, 0]])
ONE_UNIT = np.zeros(2, int)


def described(lines, move=0.0, scale=1.0, turned=False):
    moved = [[[scale * x + move, scale * y - move] for x, y in line] for line in lines]
    moved = [line[::-1] for line in moved[::-1]] if turned else moved
    return describe(*strokes(*moved), ONE_UNIT)[0]


def test_place_size_and_the_order_of_strokes_leave_the_shape():
    one = described(PLUS)
    assert np.linalg.norm(one[:256]) == pytest.approx(1)
    np.testing.assert_allclose(described(PLUS, move=7.0), one, atol=1e-9)
    np.testing.assert_allclose(described(PLUS, turned=True), one, atol=1e-9)
    np.testing.assert_allclose(described(PLUS, scale=2.0)[:256], one[:256], atol=0.02)


def test_other_signs_lie_farther_apart_than_other_sizes():
    apart = np.linalg.norm(described(PLUS) - described(TIMES))
    assert apart > 2 * np.linalg.norm(described(PLUS) - described(PLUS, scale=1.5))


def test_units_of_an_expression_are_described_each_by_itself():
    both = describe(*strokes(*PLUS, *[[[x + 3, y] for x, y in line] for line in TIMES]),
                    np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(both, [described(PLUS), described(TIMES)], atol=1e-9)


def test_a_dot_is_described_too():
    dot = describe(*strokes([[0.2, 0.3]], [[1, 1], [1.02, 1.01]]), np.array([0, 1]))
    assert np.isfinite(dot).all()


def test_clusters_find_what_lies_together():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), 40)
    points = np.eye(3)[truth] * 5 + rng.normal(0, 0.1, (120, 3))
    centres = min((clusters(points, 3, np.random.default_rng(seed)) for seed in range(5)),
                  key=lambda c: np.linalg.norm(points - c[nearest(points, c)]))
    found = nearest(points, centres)
    assert len(set(zip(truth.tolist(), found.tolist(), strict=True))) == 3
    assert np.array_equal(clusters(points, 3, np.random.default_rng(1)),
                          clusters(points, 3, np.random.default_rng(1)))
