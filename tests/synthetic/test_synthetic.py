"""Synthetic ink: complete truth, geometry as the tokens say, and CROHME's statistics."""

from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest

from mmlib.data.archives import iter_archive
from mmlib.data.crohme import read_member
from mmlib.formula.ink import Ink
from mmlib.formula.inkml import read_inkml, write_inkml
from mmlib.formula.latex import LatexError, canonical, from_tree, to_tree
from mmlib.formula.tree import renumber
from mmlib.formula.vocabulary import BEYOND, CROHME_CLASSES, Vocabulary
from mmlib.synthetic.compose import compose, synthetic_ink
from mmlib.synthetic.glyphs import EXTENT, Banks, Collected, Glyph
from mmlib.synthetic.grammar import Grammar
from mmlib.synthetic.hershey import HersheyBank
from mmlib.synthetic.ink_bank import InkBank


@pytest.fixture(scope="module")
def bank() -> HersheyBank:
    return HersheyBank(hands=12)


@pytest.fixture(scope="module")
def inks(bank) -> list[Ink]:
    return synthetic_ink(300, seed=5, bank=bank)


@pytest.fixture(scope="module")
def trees() -> list:
    grammar = Grammar()
    return [grammar.tree(np.random.default_rng([0, i])) for i in range(4000)]


def boxes(ink: Ink) -> list[np.ndarray]:
    """Per token (left, top, right, bottom) of its symbol, None for structure tokens."""
    strokes = ink.strokes()
    out = []
    for owner in ink.token_symbols:
        points = (
            np.concatenate([strokes[k] for k in ink.symbols[owner].strokes]) if owner >= 0 else None
        )
        out.append(None if points is None else np.concatenate([points.min(0), points.max(0)]))
    return out


def written(latex: str, bank, tries: int = 100) -> list[list[np.ndarray]]:
    return [boxes(compose(canonical(latex), bank, np.random.default_rng(k))) for k in range(tries)]


def share(found) -> float:
    return float(np.mean(list(found)))


def same(a: Ink, b: Ink) -> bool:
    return np.array_equal(a.points, b.points) and a.tokens == b.tokens and a.symbols == b.symbols


def test_an_expression_depends_on_seed_and_place_alone(bank):
    whole = synthetic_ink(6, seed=3, bank=bank)
    (alone,) = synthetic_ink(
        1, seed=3, bank=HersheyBank(hands=12), start=4
    )  # a new bank has drawn nothing yet
    assert same(whole[4], alone)
    assert whole[4].id == alone.id
    assert len({ink.id for ink in whole}) == 6
    assert not same(whole[4], synthetic_ink(1, seed=4, bank=bank, start=4)[0])


def test_tokens_are_canonical_and_in_the_vocabulary(inks):
    vocabulary = Vocabulary.crohme()
    for ink in inks:
        assert tuple(canonical(ink.latex)) == ink.tokens
        assert vocabulary.unk not in vocabulary.encode(ink.tokens)


def test_the_truth_is_complete(inks):
    for ink in inks:
        assert np.isfinite(ink.points).all()
        assert sorted(k for symbol in ink.symbols for k in symbol.strokes) == list(
            range(ink.stroke[-1] + 1)
        )
        assert sorted(i for i in ink.token_symbols if i >= 0) == list(range(len(ink.symbols)))
        for token, owner in zip(ink.tokens, ink.token_symbols):
            if owner >= 0:
                assert ink.symbols[owner].label == ("-" if token == r"\frac" else token)
            else:
                assert token in ("^", "_", "{", "}", "[", "]")
        assert ink.source == "synthetic"
        assert ink.writer


def test_strokes_are_as_dense_as_a_pen(inks):
    assert 10 <= np.mean([len(ink.points) / len(ink.symbols) for ink in inks]) <= 40
    steps = np.concatenate(
        [np.hypot(*np.diff(s, axis=0).T) for ink in inks for s in ink.strokes() if len(s) > 1]
    )
    assert np.quantile(steps, 0.9) < 0.25  # of a digit's height


def test_every_class_of_crohme_is_drawn_and_written(bank, trees):
    assert bank.labels >= {*CROHME_CLASSES, r"\frac"}
    rng = np.random.default_rng(0)
    for label in sorted(bank.labels):
        glyph = bank.draw(label, rng)
        assert glyph.points[:, 0].min() == pytest.approx(0, abs=1e-5)
        assert set(glyph.stroke) == set(range(glyph.stroke[-1] + 1))
        top, bottom, _ = EXTENT[label]
        assert abs(glyph.top + glyph.bottom - top - bottom) / 2 < 0.3
    seen = Counter(token for tree in trees for token in from_tree(tree))
    assert not {*CROHME_CLASSES, r"\frac"} - seen.keys()


def test_lengths_and_nesting_follow_crohme(trees):
    """Against quantiles and shares measured on the 2014 training set."""
    tokens = [from_tree(tree) for tree in trees]
    symbols = [sum(token not in ("^", "_", "{", "}") for token in t) for t in tokens]
    levels = (0.25, 0.5, 0.75, 0.9, 0.95)
    assert np.quantile(symbols, levels) == pytest.approx([4, 8, 13, 19, 23], abs=1.5)
    assert np.quantile([len(t) for t in tokens], levels) == pytest.approx(
        [6, 13, 22, 32, 38], abs=2.5
    )
    measured = {r"\frac": 0.28, r"\sqrt": 0.14, r"\sum": 0.06, r"\int": 0.06, r"\lim": 0.03,
                "^": 0.39, "_": 0.27, "(": 0.29, "=": 0.37, "+": 0.38, ",": 0.04}
    for token, expected in measured.items():
        assert share(token in t for t in tokens) == pytest.approx(expected, abs=0.05), token

    def depth(row, relations):
        inner = [
            depth(r, relations) + (side in relations) for n in row for side, r in n.children.items()
        ]
        return max(inner, default=0)

    scripts = [depth(tree, ("Sub", "Sup")) for tree in trees]
    parts = [depth(tree, ("Above", "Below", "Inside")) for tree in trees]
    assert share(d >= 2 for d in scripts) == pytest.approx(0.024, abs=0.02)
    assert share(d >= 1 for d in parts) == pytest.approx(0.36, abs=0.06)
    assert share(d >= 2 for d in parts) == pytest.approx(0.09, abs=0.05)


def test_expressions_hardly_repeat(trees):
    long = [tuple(from_tree(tree)) for tree in trees if len(from_tree(tree)) > 5]
    assert len(set(long)) / len(long) > 0.99


def test_scripts_stand_where_the_tokens_say(bank):
    for base in ("x", "b", "y", ")"):
        sup, sub = written(f"( a {base} ^ 2", bank), written(f"( a {base} _ 2", bank)
        for found, sign in ((sup, -1), (sub, 1)):
            edge = 1 if sign < 0 else 3  # the script's top above the row's "a", or its bottom below
            assert share(sign * (b[5][edge] - b[1][edge]) > 0 for b in found) > 0.9
            assert share(b[5][0] > (b[2][0] + b[2][2]) / 2 for b in found) > 0.9
        assert share(b[5][3] - b[5][1] < 0.9 for b in sup) > 0.85  # smaller than a digit of the row
    both = written("x _ a ^ b", bank)
    assert share(b[7][3] < b[3][1] + 0.1 for b in both) > 0.95


def test_a_fraction_bar_lies_between_its_parts(bank):
    for b in written(r"\frac { a + b } { c }", bank):
        bar, above, below = b[0], b[2:5], b[7]
        assert all(part[3] < bar[3] for part in above)
        assert below[1] > bar[1]
        assert bar[0] < above[0][0] + 0.3
        assert bar[2] > above[-1][2] - 0.3


def test_a_root_spans_its_content_and_a_bracket_holds_it(bank):
    for b in written(r"\sqrt { a ^ { 2 } + b }", bank):
        root, inside = b[0], [box for box in b[1:] if box is not None]
        assert all(box[1] > root[1] and box[0] > root[0] for box in inside)
        assert max(box[2] for box in inside) < root[2] + 0.5
    for b in written(r"\sqrt [ 3 ] { x }", bank):
        assert b[2][3] < b[0][3]  # the index is above the hook's foot
        assert b[2][0] < b[5][0]
    tall = written(r"( \frac { \frac { a } { b } } { c } )", bank)
    assert all(b[0][1] < b[5][3] and b[0][3] > b[12][1] for b in tall)
    low = written("( a )", bank)
    assert np.median([b[-1][3] - b[-1][1] for b in tall]) > 1.4 * np.median(
        [b[-1][3] - b[-1][1] for b in low]
    )


def test_limits_stand_above_and_below_sums(bank):
    found = written(r"\sum _ { i = 1 } ^ { n } x", bank)
    assert share(b[3][1] > b[0][1] and b[9][3] < (b[0][1] + b[0][3]) / 2 for b in found) > 0.95
    assert share(b[3][1] > b[0][3] - 0.1 for b in found) > 0.8  # seldom at the side


def test_rows_read_from_left_to_right(inks):
    for ink in inks:
        tree = to_tree(ink.tokens)
        renumber(tree)
        row = [int(node.ref) for node in tree if not node.children]
        strokes = ink.strokes()
        middle = [np.mean([strokes[k][:, 0].mean() for k in ink.symbols[i].strokes]) for i in row]
        assert all(b - a > -0.1 for a, b in pairwise(middle))


@pytest.mark.parametrize(
    "latex",
    [
        "{}^2 x",
        r"\frac{}{x}",
        r"x \sqrt{}",
        ") (",
        "| | |",
        "[ a )",
        "( )",
        r"\sum^{n}",
        "x^{y^{z^{w}}}",
    ],
)
def test_odd_expressions_can_be_written(latex, bank):
    ink = compose(canonical(latex), bank, np.random.default_rng(0))
    assert list(ink.tokens) == canonical(latex)
    assert np.isfinite(ink.points).all()


def test_what_cannot_be_written_is_refused(bank):
    rng = np.random.default_rng(0)
    with pytest.raises(KeyError, match=r"HersheyBank has no glyph for .*oint"):
        compose([r"\oint"], bank, rng)
    with pytest.raises(ValueError, match="without symbols"):
        compose([], bank, rng)
    with pytest.raises(LatexError):
        compose(["x", "^"], bank, rng)
    with pytest.raises(ValueError, match="digits"):
        Grammar({"x", "+", "="})


def test_a_grammar_keeps_to_its_labels():
    labels = frozenset("xy0123456789+=()")
    grammar = Grammar(labels)
    rng = np.random.default_rng(1)
    seen = {token for _ in range(300) for token in from_tree(grammar.tree(rng))}
    assert seen <= labels | {"^", "_", "{", "}"}
    assert "^" in seen


def test_hands_differ_and_keep_their_manner(bank):
    rng = np.random.default_rng(0)
    a, again, b = (bank.draw("a", rng, hand) for hand in ("hershey-1", "hershey-1", "hershey-2"))
    assert np.array_equal(a.points, again.points)
    assert a.points.shape != b.points.shape or not np.allclose(a.points, b.points)
    assert len({ink.writer for ink in synthetic_ink(60, 0, bank)}) > 6


def test_an_ink_bank_gives_back_what_it_was_made_of(inks):
    cut = InkBank(inks)
    tokens = {t for ink in inks for t, owner in zip(ink.tokens, ink.token_symbols) if owner >= 0}
    assert len(tokens - cut.labels) <= 3  # those that were drawn implausibly each time
    made = synthetic_ink(200, seed=1, bank=cut)
    assert {t for ink in made for t in ink.tokens} <= cut.labels | {"^", "_", "{", "}", "[", "]"}
    rng = np.random.default_rng(0)
    for label in "2xyb":  # size and place on the line are those of the class
        glyphs = [cut.draw(label, rng) for _ in range(100)]
        top, bottom, _ = EXTENT[label]
        assert np.median([g.top for g in glyphs]) == pytest.approx(top, abs=0.15)
        assert np.median([g.bottom for g in glyphs]) == pytest.approx(bottom, abs=0.15)


def test_an_ink_bank_does_not_see_size_and_place(inks):
    moved = [replace(ink, points=ink.points * 37 + (500, -90)) for ink in inks[:100]]
    a, b = InkBank(inks[:100]), InkBank(moved)
    assert a.labels == b.labels
    for label in sorted(a.labels - {"-", r"\frac", "."}):
        one, other = (x.draw(label, np.random.default_rng(0), inks[0].writer) for x in (a, b))
        np.testing.assert_allclose(one.points, other.points, atol=0.01)


def test_an_ink_bank_uses_only_what_it_may_and_one_hand_where_it_can(inks):
    chosen = [i for i, ink in enumerate(inks) if r"\int" not in ink.tokens]
    assert r"\int" not in InkBank(inks[i] for i in chosen).labels
    cut, hand = InkBank(inks), inks[0].writer
    own = InkBank([ink for ink in inks if ink.writer == hand])
    rng = np.random.default_rng(0)
    for label in sorted(own.labels):
        glyph = cut.draw(label, rng, hand)
        possible = [own.draw(label, rng) for _ in range(300)]
        assert any(np.array_equal(glyph.points, other.points) for other in possible)
    with pytest.raises(KeyError, match="InkBank has no glyph"):
        own.draw(r"\prod", rng)
    with pytest.raises(ValueError, match="none of these inks"):
        InkBank([])


def test_inkml_keeps_synthetic_truth(inks, tmp_path):
    ink = max(inks, key=lambda ink: len(ink.symbols))
    write_inkml(ink, tmp_path / "s.inkml")
    back = read_inkml((tmp_path / "s.inkml").read_bytes())
    assert back.tokens == ink.tokens
    assert [(s.label, s.strokes) for s in back.symbols] == [
        (s.label, s.strokes) for s in ink.symbols
    ]


def test_real_ink_makes_a_bank(crohme_root):
    members = islice(iter_archive(crohme_root / "train_2014.inkml.tar.xz"), 200)
    real = [read_member(name, content) for name, content in members if name.endswith(".inkml")]
    cut = InkBank(real)
    assert len(cut.labels) > 30
    rng = np.random.default_rng(0)
    digits = [
        g.bottom - g.top
        for label in sorted(cut.labels & set("123456789"))
        for g in [cut.draw(label, rng)]
    ]
    assert np.median(digits) == pytest.approx(1, abs=0.2)
    tokens = [label for label in "x+y" if label in cut.labels]
    assert len(compose(tokens, cut, rng).symbols) == len(tokens)


# --- beyond CROHME --------------------------------------------------------------------------------


def test_expressions_hold_symbols_beyond_crohme(bank):
    inks = synthetic_ink(600, seed=3, bank=bank, beyond=True)
    assert all({*BEYOND, r"\cdot"} & set(ink.tokens) for ink in inks)
    seen = {token for ink in inks for token in ink.tokens}
    assert seen >= {*BEYOND, r"\cdot"}
    for ink in inks:
        assert to_tree(ink.tokens)
        linked = [k for k in ink.token_symbols if k >= 0]
        assert sorted(linked) == list(range(len(ink.symbols)))
    # Without being asked for, none comes.
    plain = synthetic_ink(300, seed=3, bank=bank)
    assert not set(BEYOND) & {token for ink in plain for token in ink.tokens}


def test_a_bar_lies_over_what_it_holds(bank):
    rng = np.random.default_rng(0)
    for _ in range(20):
        ink = compose(canonical(r"x+\overline{A+B}-1"), bank, rng)
        boxes = [ink.points[np.isin(ink.stroke, s.strokes)] for s in ink.symbols]
        bar = next(box for s, box in zip(ink.symbols, boxes) if s.label == r"\overline")
        held = np.concatenate(boxes[3:6])
        assert bar[:, 1].max() < held[:, 1].min() + 0.25
        assert bar[:, 0].min() < held[:, 0].min() + 0.6
        assert bar[:, 0].max() > held[:, 0].max() - 0.6


def test_banks_draw_what_the_first_has(bank):
    rng = np.random.default_rng(0)
    line = Glyph.of([np.array([[0.0, -1.0], [0.0, 0.0]])])
    real = Collected({"Q": {"a": line, "b": line}})
    both = Banks(bank, real)
    assert both.labels == bank.labels | {"Q"}
    assert Banks(real, bank).draw("Q", rng, "anyone") is line
    assert Banks(real, bank).draw("x", rng).points.shape[0] > 2
    assert both.hand(rng).startswith("hershey")
    assert real.hand(rng) in "ab"
    with pytest.raises(KeyError, match="no glyph"):
        Banks(real).draw("x", rng)
