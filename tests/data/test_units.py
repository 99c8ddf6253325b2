"""Units of writing: strokes grouped without labels, and what masked reading writes of them."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mmlib.data.sample import Sample, collate
from mmlib.data.units import RELATIONS, relation, unit_vocabulary, units, with_units, write_units


def line(*ends):
    """A stroke through these points, densely."""
    ends = np.array(ends, float)
    steps = [np.linspace(a, b, 12) for a, b in pairwise(ends)]
    return np.concatenate(steps).astype(np.float32)


def written(*strokes):
    return np.concatenate(strokes), np.repeat(np.arange(len(strokes)), [len(s) for s in strokes])


PLUS = line((0, 0.5), (1, 0.5)), line((0.5, 0), (0.5, 1))
EQUALS = line((0, 0.3), (0.8, 0.3)), line((0, 0.6), (0.8, 0.6))
DOTTED = line((0.5, 0.4), (0.5, 1)), line((0.5, 0.1), (0.52, 0.12))
FRACTION = line((0.3, -1), (0.9, -0.1)), line((-0.5, 0), (1.8, 0)), line((0.4, 0.1), (0.9, 1))
ELLIPSIS = tuple(line((x, 1), (x + 0.05, 1)) for x in (0, 0.4, 0.8))
SIDE_BY_SIDE = line((0, 0), (0.6, 1)), line((0.8, 0), (1.4, 1))


@pytest.mark.parametrize(("strokes", "expected"), [
    (PLUS, [0, 0]), (EQUALS, [0, 0]), (DOTTED, [0, 0]), (FRACTION, [0, 1, 2]),
    (ELLIPSIS, [0, 1, 2]), (SIDE_BY_SIDE, [0, 1])])
def test_strokes_of_one_sign_are_one_unit(strokes, expected):
    assert units(*written(*strokes)).tolist() == expected


def test_a_late_dot_finds_its_letter():
    letter, other, dot = DOTTED[0], line((1.2, 0.4), (1.6, 1)), DOTTED[1]
    assert units(*written(letter, other, dot)).tolist() == [0, 1, 0]


def test_units_do_not_depend_on_where_the_ink_lies():
    points, stroke = written(*PLUS, *(s + np.float32([2, 0]) for s in EQUALS))
    moved = points + np.float32([30, -7])
    assert units(moved, stroke).tolist() == units(points, stroke).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("where", "name"), [
    ((2, 0), "right"), ((2, -2), "up right"), ((0, -2), "up"),
    ((-2, 0), "left"), ((0, 2), "down"), ((2, 2), "down right")])
def test_relations_are_eighths_of_the_circle(where, name):
    low, high = np.zeros(2), np.ones(2)
    assert RELATIONS[relation(low, high, low + where, high + where)] == name


def test_what_a_root_holds_is_inside():
    root, content = (np.zeros(2), np.full(2, 3.0)), (np.ones(2), np.full(2, 2.0))
    assert RELATIONS[relation(*root, *content)] == "inside"


def sample(*strokes):
    points, stroke = written(*strokes)
    known = np.zeros(len(points), np.int64), np.array([7]), np.array([5, 6]), np.array([0, -1])
    return Sample(points, stroke, *known, "a")


def test_a_sample_with_units_has_nothing_of_its_label():
    found = with_units(sample(*PLUS, line((2, 0), (2.5, 1))))
    assert found.tokens.size == found.token_symbols.size == 0
    assert set(found.labels.tolist()) == {-1}
    assert np.unique(found.symbol).tolist() == [0, 1]


def test_what_is_written_names_prototypes_and_relations_of_the_units_that_are_shown():
    vocabulary = unit_vocabulary(4)
    strokes = (line((0, 0), (0, 1)), line((1, 0), (1, 1)), line((1.4, -1), (1.6, -0.4)))
    batch = collate([with_units(sample(*strokes)), with_units(sample(*strokes[:2]))])
    assigned = torch.tensor([[3, 1, 2], [0, 2, 0]])
    everything = torch.ones(len(batch.ink.owner), dtype=torch.bool)
    first = write_units(batch, everything, assigned, vocabulary)
    names = [[vocabulary.tokens[i] for i in row] for row in first.tokens.tolist()]
    assert names == [["prototype 3", "right", "prototype 1", "up right", "prototype 2"],
                     ["prototype 0", "right", "prototype 2", "<pad>", "<pad>"]]
    assert first.token_symbols.tolist() == [[0, -1, 1, -1, 2], [0, -1, 1, -1, -1]]
    shown = everything & ~((batch.ink.owner == 0) & (batch.ink.symbol == 1))
    second = write_units(batch, shown, assigned, vocabulary)
    names = [vocabulary.tokens[i] for i in second.tokens[0, :3]]
    assert names == ["prototype 3", "up right", "prototype 2"]
