"""Ink: its strokes, their boxes and the typical size."""

import numpy as np
import pytest
from helpers import strokes_of_points
from hypothesis import given
from hypothesis import strategies as st

from mmlib.data import crohme
from mmlib.data.archives import iter_archive
from mmlib.formula.ink import Ink, InkError, stroke_boxes, typical_size


@pytest.mark.parametrize(
    "strokes", [[], [np.zeros((0, 2))], [np.zeros((2, 3))], [np.full((1, 2), np.nan)]]
)
def test_from_strokes_refuses(strokes):
    with pytest.raises(InkError):
        Ink.from_strokes(strokes)


def test_stroke_boxes():
    low, high = stroke_boxes(np.array([[0, 5], [2, 1], [7, 7]]), np.array([0, 0, 1]))
    assert low.tolist() == [[0, 1], [7, 7]]
    assert high.tolist() == [[2, 5], [7, 7]]


@given(strokes_of_points, st.floats(0.01, 100))
def test_typical_size_is_positive_and_scales(strokes, factor):
    strokes = [np.round(s) for s in strokes]
    ink = Ink.from_strokes(strokes)
    size = typical_size(ink.points, ink.stroke)
    assert np.isfinite(size)
    assert size > 0
    if size != 1.0:  # 1 stands for "nothing to measure"
        moved = typical_size(ink.points.astype(np.float64) * factor + 17, ink.stroke)
        assert moved == pytest.approx(size * factor, rel=1e-3)


def test_typical_size_of_little_ink():
    assert typical_size(np.array([[3.0, 4.0]]), np.array([0])) == 1.0
    assert typical_size(np.array([[0.0, 0.0], [6.0, 0.0]]), np.array([0, 1])) == 6.0  # two dots
    assert typical_size(np.array([[0.0, 0.0], [0.0, 10.0]]), np.array([0, 0])) == pytest.approx(11)


def test_typical_size_ignores_pen_bounces():
    boxes = [np.array([[20.0 * i, 0], [20.0 * i + 8, 10]]) for i in range(6)]
    dots = [np.array([[float(i), 3.0]]) for i in range(20)]
    clean, bouncing = Ink.from_strokes(boxes), Ink.from_strokes(boxes + dots)
    assert typical_size(clean.points, clean.stroke) == typical_size(
        bouncing.points, bouncing.stroke
    )


def test_typical_size_follows_symbols_on_crohme(crohme_root):
    errors = []
    for file in iter_archive(crohme.find("test_2014")):
        ink = crohme.read_member(*file)
        low, high = stroke_boxes(ink.points, ink.stroke)
        sizes = [
            (high[list(s.strokes)].max(0) - low[list(s.strokes)].min(0)).max() for s in ink.symbols
        ]
        errors.append(np.log(typical_size(ink.points, ink.stroke) / np.median(sizes)))
    assert len(errors) == 986
    assert abs(np.median(errors)) < 0.05
    assert np.std(errors) < 0.19
