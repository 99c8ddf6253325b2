"""The machine that keeps a search well-formed, against the parser."""

import numpy as np
import pytest
from helpers import complete

from mmlib.formula.latex import canonical, to_tree
from mmlib.formula.wellformed import END, START, after, allowed, distance, kind
from mmlib.synthetic.compose import synthetic_ink

WRITTEN = {0: ["x", "2", "+", "("], 1: ["{"], 2: ["}"], 3: ["["], 4: ["]"], 5: ["^"], 6: ["_"],
           7: [r"\frac"], 8: [r"\sqrt"], 10: [r"\overline"]}
FORMULAS = ["x", "x^2", "x_1^2", r"\frac{a}{b}", r"\sqrt{x}", r"\sqrt[3]{x+1}", "{a^b}^c", "{}^2x",
            r"\frac{\sqrt[n]{x^{2}}}{y_{i}}+1", "[a,b]", r"\sum_{i=1}^{n} i", "a^{b^{c}}",
            r"\overline{a+\overline{b}}^2"]


@pytest.mark.parametrize("latex", FORMULAS)
@pytest.mark.parametrize("backwards", [False, True])
def test_expressions_are_complete(latex, backwards):
    tokens = canonical(latex)
    assert complete(tokens[::-1] if backwards else tokens, backwards)


@pytest.mark.parametrize("tokens", [
    "", "{ x }", "x }", "{ x", "x ^", "x ^ 2", r"\frac { a }", r"\frac { } { b }", "x ^ { 2",
    "x ^ { 2 } ^ { 3 }", "x ^ { 2 } _ { 3 }", "^ { 2 }", r"\sqrt [ 3 ]", r"\sqrt [ ] { x }",
    r"\overline a", r"\overline { }"])
@pytest.mark.parametrize("backwards", [False, True])
def test_what_is_no_canonical_expression_is_refused(tokens, backwards):
    words = tokens.split()
    assert not complete(words[::-1] if backwards else words, backwards)


@pytest.mark.parametrize("backwards", [False, True])
def test_synthetic_formulas_are_complete(backwards):
    for ink in synthetic_ink(300, seed=5):
        assert complete(ink.tokens[::-1] if backwards else ink.tokens, backwards), ink.tokens


@pytest.mark.parametrize("backwards", [False, True])
def test_every_random_walk_that_may_end_parses(backwards):
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(2_500):
        state, words = START, []
        for _ in range(60):
            kinds = sorted(allowed(state, backwards))
            assert kinds, (words, state)
            if END in kinds and rng.random() < 0.3:
                ends += 1
                to_tree(words[::-1] if backwards else words)  # raises if it does not parse
                break
            choice = int(rng.choice([k for k in kinds if k != END]))
            words.append(str(rng.choice(WRITTEN[choice])))
            state = after(state, choice, backwards)
    assert ends > 500


def test_both_directions_accept_the_same():
    rng = np.random.default_rng(1)
    agree = 0
    for _ in range(4_000):
        words = [str(rng.choice(WRITTEN[int(k)])) for k in rng.integers(0, 9, rng.integers(1, 9))]
        assert complete(words) == complete(words[::-1], backwards=True), words
        agree += complete(words)
    assert agree > 50


def test_a_kind_that_may_not_follow_is_an_error():
    with pytest.raises(ValueError, match="may not follow"):
        after(START, kind("}"))


def slow_distance(state, backwards):
    """By breadth-first search."""
    front, steps = {state}, 0
    while not any(END in allowed(s, backwards) for s in front):
        front = {after(s, k, backwards) for s in front for k in allowed(s, backwards) - {END}}
        steps += 1
    return steps


@pytest.mark.parametrize("backwards", [False, True])
def test_the_distance_to_an_end_is_that_of_a_search(backwards):
    rng = np.random.default_rng(2)
    met = {START}
    for _ in range(60):
        state = START
        for _ in range(6):
            state = after(state, int(rng.choice(sorted(allowed(state, backwards) - {END}))),
                          backwards)
            if len(state) <= 6:
                met.add(state)
    for state in met:
        assert distance(state, backwards) == slow_distance(state, backwards), state
