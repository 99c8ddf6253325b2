import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmlib.formula.ink import Ink, Symbol
from mmlib.formula.latex import canonical
from mmlib.measure.attention import (
    CLASSES,
    class_shares,
    mean_map,
    on_ink,
    shuffled,
    symbol_classes,
    uniform_over_ink,
)

STRIDE = 8.0


def ink_of(latex, boxes=None):
    """One dot-sized stroke per symbol token, in the order of the tokens."""
    tokens = tuple(canonical(latex))
    symbols, owners = [], []
    for token in tokens:
        index_bracket = token in "[]" and "\\sqrt" in tokens
        if token in ("{", "}", "^", "_") or index_bracket:
            owners.append(-1)
        else:
            owners.append(len(symbols))
            symbols.append(Symbol(token, (len(symbols),)))
    strokes = [np.array([[10.0 * s, 0], [10.0 * s + 5, 5]]) for s in range(len(symbols))]
    return Ink.from_strokes(strokes, symbols=tuple(symbols), tokens=tokens,
                            token_symbols=tuple(owners))


def labels(ink, name):
    member = symbol_classes(ink)[CLASSES.index(name)]
    return sorted(symbol.label for symbol, own in zip(ink.symbols, member, strict=True) if own)


def ratio(saliency, points, length, member):
    mass, ink = class_shares(on_ink(saliency, points, length, STRIDE), length, member)
    with np.errstate(invalid="ignore"):
        return mass / ink


@pytest.fixture
def scene():
    """Two symbols: a long line in the upper half, a short one in the lower half of a 6 x 8 grid."""
    long = np.stack([np.linspace(4, 60, 113), np.full(113, 12.0)], 1)
    short = np.stack([np.linspace(20, 34, 29), np.full(29, 36.0)], 1)
    points = np.concatenate([long, short])
    member = np.arange(len(points)) >= 113
    return points, np.full(len(points), 0.5), np.stack([~member, member]), (6, 8)


def test_classes_of_nested_scripts():
    ink = ink_of(r"x^{n_1+2}+\frac{a}{\sqrt[3]{y}}")
    assert labels(ink, "operators") == ["+", "+"]
    assert labels(ink, "scripts, depth 1") == ["+", "2", "n"]
    assert labels(ink, "scripts, depth 2+") == ["1"]
    assert labels(ink, "superscripts") == ["+", "2", "n"]
    assert labels(ink, "bars and roots") == [r"\frac", r"\sqrt"]
    assert labels(ink, "nested") == ["+", "1", "2", "3", r"\sqrt", "a", "n", "y"]
    assert labels(ink, "digits and letters") == ["1", "2", "3", "a", "n", "x", "y"]


def test_a_script_inside_a_fraction_inside_a_superscript():
    ink = ink_of(r"e^{\frac{\alpha_i}{2}}\sin\theta")
    # i is innermost in a subscript
    assert labels(ink, "superscripts") == ["2", r"\alpha", r"\frac"]
    assert labels(ink, "scripts, depth 2+") == ["i"]
    assert labels(ink, "digits and letters") == ["2", r"\alpha", r"\theta", "e", "i"]
    assert labels(ink, "operators") == []


def test_empty_bases_and_unaligned_symbols():
    ink = ink_of("a^{b}{}^{c}")
    assert labels(ink, "superscripts") == ["b", "c"]
    with pytest.raises(ValueError, match="not aligned"):
        symbol_classes(Ink.from_strokes([np.zeros((2, 2))]))


@pytest.mark.parametrize("blur", [0.0, 0.7, 2.0])
def test_the_uniform_map_has_ratio_one_everywhere(scene, blur):
    points, length, _, shape = scene
    uniform = uniform_over_ink(points, length, shape, STRIDE, blur)
    assert uniform.sum() == pytest.approx(1)
    np.testing.assert_allclose(on_ink(7 * uniform, points, length, STRIDE, blur), 1)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0]))
def test_no_saliency_is_lost_or_counted_twice(seed, blur):
    rng = np.random.default_rng(seed)
    points = rng.uniform((0, 0), (64, 48), size=(30, 2))
    length, saliency = rng.random(30) + 0.01, rng.random((6, 8))
    reached = uniform_over_ink(points, length, (6, 8), STRIDE, blur) > 0
    values = on_ink(saliency, points, length, STRIDE, blur)
    share = saliency[reached].sum() / saliency.sum()
    assert (values * length).sum() / length.sum() == pytest.approx(share)


def test_saliency_on_one_symbol_only(scene):
    points, length, member, shape = scene
    saliency = np.zeros(shape)
    saliency[4:] = 1 / 16  # the lower rows hold the short symbol, and blank paper around it
    values = on_ink(saliency, points, length, STRIDE)
    mass, ink = class_shares(values, length, member)
    assert mass[0] == 0
    assert ink == pytest.approx([113 / 142, 29 / 142])
    assert mass[1] / ink[1] < 142 / 29  # some of it lies on blank paper
    saliency = np.where(uniform_over_ink(points, length, shape, STRIDE) > 0, saliency, 0)
    assert ratio(saliency, points, length, member) == pytest.approx([0, 142 / 29])
    classes = np.stack([member.any(0), member[1], ~member.any(0)])  # both, the short one, none
    assert ratio(saliency, points, length, classes)[:2] == pytest.approx([1, 142 / 29])
    assert [x[2] for x in class_shares(values, length, classes)] == [0, 0]


def test_a_shift_by_half_a_cell_is_not_saliency(scene):
    points, length, member, shape = scene
    for shift in (0.0, 3.0, 4.0):
        moved = points + (shift, shift)
        uniform = uniform_over_ink(moved, length, shape, STRIDE)
        assert ratio(uniform, moved, length, member) == pytest.approx([1, 1])


def test_shuffled_maps_prefer_no_class():
    rng = np.random.default_rng(0)
    total = np.zeros((2, 2))
    for _ in range(300):
        points = rng.uniform((0, 0), (128, 64), size=(80, 2))
        length, first = np.ones(80), np.arange(80) < 20
        ink = uniform_over_ink(points, length, (8, 16), STRIDE)
        focused = np.zeros((8, 16))
        focused.flat[rng.integers(128, size=5)] = 1.0
        control = shuffled(focused + 0.01, rng, cells=ink > 0)
        assert np.sort(control, axis=None) == pytest.approx(np.sort(focused + 0.01, axis=None))
        values = on_ink(control, points, length, STRIDE)
        total += class_shares(values, length, np.stack([first, ~first]))
    ratio = total[0] / total[1]
    assert ratio[0] / ratio[1] == pytest.approx(1, abs=0.1)


def test_mean_map_averages_stretched_maps():
    left, wide = np.zeros((4, 4)), np.zeros((4, 8))
    left[:, 0], wide[:, :2] = 1, 1
    mean = mean_map([left, wide], (4, 4))
    assert mean.sum() == pytest.approx(1)
    np.testing.assert_allclose(mean.sum(0), [1, 0, 0, 0], atol=0.01)
    np.testing.assert_allclose(mean_map([np.ones((3, 5))], (2, 9)), 1 / 18)


def test_wrong_input_is_refused(scene):
    points, length, _, shape = scene
    with pytest.raises(ValueError, match="saliency map"):
        on_ink(np.zeros(shape), points, length, STRIDE)
    with pytest.raises(ValueError, match="saliency map"):
        on_ink(-np.ones(shape), points, length, STRIDE)
    with pytest.raises(ValueError, match="length must be"):
        on_ink(np.ones(shape), points, length[1:], STRIDE)
    with pytest.raises(ValueError, match="off the grid"):
        on_ink(np.ones((6, 4)), points, length, STRIDE)
