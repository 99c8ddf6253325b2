"""Samples cut, joined and recombined: the label stays true to the ink, and nothing is changed in
place.
"""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.data.augment import SHAPES, AugmentConfig, Augmenter
from mmlib.data.pack import Pack, normalised, write_pack
from mmlib.data.sample import Sample, collate, from_pack
from mmlib.formula.latex import canonical
from mmlib.formula.vocabulary import Vocabulary
from mmlib.synthetic.compose import synthetic_ink

VOCABULARY = Vocabulary.crohme()
ALL = AugmentConfig(symbol=0.15, subexpression=0.3, join=0.25, swap_hand=0.3, relabel=0.5)


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """150 synthetic expressions with truth for symbols and tokens."""
    path = tmp_path_factory.mktemp("samples") / "toy.safetensors"
    write_pack([normalised(ink) for ink in synthetic_ink(150, 7)], path)
    return Pack.open(path)


@pytest.fixture(scope="session")
def augmenter(pack):
    return Augmenter(pack, np.arange(len(pack)), ALL, VOCABULARY)


def written(latex, seed=0):
    """A sample of a label: symbol i is a stroke of its own at x = 2i, a second one for every third
    symbol.
    """
    rng = np.random.default_rng(seed)
    tokens = canonical(latex)
    structure = structural(tokens)
    points, stroke, symbol, labels, links = [], [], [], [], []
    for token, plain in zip(tokens, structure):
        links.append(-1 if plain else len(labels))
        if plain:
            continue
        for _ in range(1 + (len(labels) % 3 == 2)):
            points.append(rng.uniform(0, 1, (4, 2)) + (2 * len(labels), 0))
            stroke += [stroke[-1] + 1 if stroke else 0] * 4
            symbol += [len(labels)] * 4
        labels.append("-" if token == r"\frac" else token)
    return Sample(np.concatenate(points).astype(np.float32), np.array(stroke), np.array(symbol),
                  np.array(VOCABULARY.encode(labels)), np.array(VOCABULARY.encode(tokens)),
                  np.array(links))


def structural(tokens):
    """Which tokens have no ink: braces, script marks, and the brackets of a root's index."""
    out, index = [], []
    for i, token in enumerate(tokens):
        opens = token == "[" and i > 0 and tokens[i - 1] == r"\sqrt"
        if opens:
            index.append(0)
        closes = token == "]" and bool(index) and index[-1] == 0 and not opens
        if index and token in "{}":
            index[-1] += 1 if token == "{" else -1
        if closes:
            index.pop()
        out.append(token in ("{", "}", "_", "^") or opens or closes)
    return out


def text(sample):
    return " ".join(VOCABULARY.decode(sample.tokens))


def check(sample):
    """What holds of every sample: canonical tokens, linked one to one to symbols that have ink and
    that label.
    """
    tokens = VOCABULARY.decode(sample.tokens)
    assert len(tokens) == len(sample.tokens)
    # (Letters that happen to spell a function's name are still letters: l i m is not \lim.)
    spells = {("l", "o", "g"), ("l", "i", "m"),
              (".", ".", ".")} & set(zip(tokens, tokens[1:], tokens[2:]))
    assert spells or canonical(" ".join(tokens)) == tokens
    assert len(sample.points) == len(sample.stroke) == len(sample.symbol) > 0
    assert sample.points.dtype == np.float32
    assert np.isfinite(sample.points).all()
    assert sample.stroke[0] == 0
    assert set(np.diff(sample.stroke).tolist()) <= {0, 1}
    for s in range(sample.stroke[-1] + 1):
        assert len(np.unique(sample.symbol[sample.stroke == s])) == 1
    assert sample.symbol.max() < len(sample.labels)
    linked = np.flatnonzero(sample.token_symbols >= 0)
    assert sorted(sample.token_symbols[linked].tolist()) == list(range(len(sample.labels)))
    for at in linked:
        s = sample.token_symbols[at]
        label = VOCABULARY.tokens[sample.labels[s]]
        assert tokens[at] == (r"\frac" if label == "-" and tokens[at] == r"\frac" else label)
        assert (sample.symbol == s).any()
    assert [i for i, plain in enumerate(structural(tokens)) if not plain] == linked.tolist()


def frozen(sample):
    return [np.array(getattr(sample, f.name)) for f in fields(sample)]


def same(sample, before):
    return all(np.array_equal(getattr(sample, f.name), b) for f, b in zip(fields(sample), before))


# --- reading --------------------------------------------------------------------------------------


def test_a_sample_is_the_packs_ink(pack):
    for i in (0, 17, 149):
        sample, ink = from_pack(pack, i), pack[i]
        np.testing.assert_array_equal(sample.points, ink.points)
        np.testing.assert_array_equal(sample.stroke, ink.stroke)
        assert text(sample) == " ".join(ink.tokens)
        assert tuple(sample.token_symbols) == ink.token_symbols
        for s, symbol in enumerate(ink.symbols):
            assert VOCABULARY.tokens[sample.labels[s]] == symbol.label
            assert tuple(np.unique(sample.stroke[sample.symbol == s])) == symbol.strokes
        check(sample)


# --- structure ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("latex", "rows"),
                         [("x", [["x"]]), ("a+b^2", [["a", "+", "b ^ { 2 }"], ["2"]]),
                          (r"x_i^{2n}", [["x _ { i } ^ { 2 n }"], ["i"], ["2", "n"]]),
                          (r"\frac{a}{b+c}y",
                           [[r"\frac { a } { b + c }", "y"], ["a"], ["b", "+", "c"]]),
                          (r"\sqrt{x+1}", [[r"\sqrt { x + 1 }"], ["x", "+", "1"]]),
                          (r"\sqrt[3]{xy}z", [[r"\sqrt [ 3 ] { x y }", "z"], ["x", "y"]]),
                          (r"\sum_{i=0}^n i",
                           [[r"\sum _ { i = 0 } ^ { n }", "i"], ["i", "=", "0"], ["n"]]),
                          (r"\frac{\frac{1}{2}}{3}^k",
                           [[r"\frac { \frac { 1 } { 2 } } { 3 } ^ { k }"], [r"\frac { 1 } { 2 }"],
                            ["1"], ["2"], ["3"], ["k"]]),
                          ("[a]_n", [["[", "a", "] _ { n }"], ["n"]]),
                          ("{x^2}^3+1", [["x ^ { 2 }", "{ } ^ { 3 }", "+", "1"], ["2"], ["3"]]),
                          (r"\sqrt[\sqrt[3]{x}]{y}z",
                           [[r"\sqrt [ { \sqrt [ 3 ] { x } } ] { y }", "z"], ["y"]])])
def test_elements_by_hand(augmenter, latex, rows):
    sample = written(latex)
    tokens = VOCABULARY.decode(sample.tokens)
    found = [[" ".join(tokens[a:b]) for a, b in row]
             for row in augmenter.elements(sample.tokens, sample.token_symbols)]
    assert sorted(found) == sorted(rows)
    assert found[0] == rows[0]  # the main row first


def test_spans_are_all_proper_sub_expressions_of_two_symbols(augmenter, pack, make_pack, make_ink):
    toy = make_pack([make_ink(r"a^{2n}+\frac{b}{c}", "one")])
    own = Augmenter(toy, [0], ALL, VOCABULARY)
    tokens = toy.tokens(0)
    found = {" ".join(tokens[a:b]) for a, b in own.spans(0)}
    assert found == {"a ^ { 2 n }", "a ^ { 2 n } +", r"+ \frac { b } { c }", r"\frac { b } { c }",
                     "2 n"}


# --- cuts -----------------------------------------------------------------------------------------


def test_a_cut_has_the_ink_of_its_symbols_alone(augmenter):
    sample = written(r"x_i^{2n}+\frac{a}{b}")
    start = VOCABULARY.decode(sample.tokens).index("2")
    part = augmenter.cut(sample, start, start + 2)
    assert text(part) == "2 n"
    assert [VOCABULARY.tokens[v] for v in part.labels] == ["2", "n"]
    np.testing.assert_array_equal(part.points,
                                  sample.points[(sample.symbol == 2) | (sample.symbol == 3)])
    check(part)


def test_every_span_is_a_true_sample(augmenter, pack):
    count = 0
    for i in range(0, len(pack), 5):
        sample = from_pack(pack, i)
        for start, stop in augmenter.spans(i):
            part = augmenter.cut(sample, start, stop)
            check(part)
            assert len(part.labels) >= 2
            assert len(part.tokens) < len(sample.tokens)
            count += 1
    assert count > 100


def test_loose_strokes_are_not_part_of_a_cut(augmenter):
    sample = written("ab+c")
    loose = np.where(sample.symbol == 1, -1, sample.symbol)
    sample = Sample(sample.points, sample.stroke, loose, sample.labels, sample.tokens,
                    sample.token_symbols)
    part = augmenter.cut(sample, 0, 2)
    np.testing.assert_array_equal(part.points, sample.points[sample.symbol == 0])


def test_one_symbol_is_a_symbol_that_can_stand_alone(augmenter):
    sample = written(r"\frac{x}{\sqrt{y}}")
    found = {text(augmenter.one_symbol(sample, np.random.default_rng(s))) for s in range(30)}
    assert found == {"x", "y"}  # neither the bar nor the root
    for seed in range(5):
        check(augmenter.one_symbol(sample, np.random.default_rng(seed)))


# --- recombination --------------------------------------------------------------------------------


def shape_of(points):
    """Points up to place and size."""
    size = np.ptp(points, axis=0).max()
    return (points - (points.min(0) + points.max(0)) / 2) / (size if size > 0 else 1)


def instances(augmenter, label):
    """All ink of a label in the bank, up to place and size."""
    found = []
    for i, s in augmenter.bank[int(label)]:
        source = from_pack(augmenter.pack, int(i))
        found.append(shape_of(source.points[source.symbol == s]))
    return found


def is_ink_of(augmenter, label, points):
    mine = shape_of(points)
    return any(len(o) == len(mine) and np.allclose(o, mine, atol=1e-3)
               for o in instances(augmenter, label))


def test_the_bank_holds_the_chosen_expressions_alone(pack):
    chosen = np.arange(10, 30)
    bank = Augmenter(pack, chosen, ALL, VOCABULARY).bank
    assert {int(i) for rows in bank.values() for i, _ in rows} <= set(chosen.tolist())
    for label, rows in bank.items():
        for i, s in rows:
            assert from_pack(pack, int(i)).labels[s] == label


def test_a_swap_takes_other_ink_of_the_label_and_keeps_its_box(augmenter, pack):
    rng, swapped = np.random.default_rng(0), 0
    for i in range(0, len(pack), 10):
        sample = from_pack(pack, i)
        which = np.arange(len(sample.labels))
        other = augmenter.redraw(sample, which, sample.labels, rng)
        check(other)
        np.testing.assert_array_equal(other.tokens, sample.tokens)
        np.testing.assert_array_equal(other.labels, sample.labels)
        for s in which:
            old, new = sample.points[sample.symbol == s], other.points[other.symbol == s]
            np.testing.assert_allclose((new.min(0) + new.max(0)) / 2, (old.min(0) + old.max(0)) / 2,
                                       atol=1e-3)
            assert is_ink_of(augmenter, sample.labels[s], new)
            # dots have no size
            if min(np.ptp(old, axis=0).max(), np.ptp(new, axis=0).max()) > 0.05:
                assert 0.4 < np.ptp(new, axis=0).max() / np.ptp(old, axis=0).max() < 2.5
            swapped += len(old) != len(new) or not np.allclose(old, new)
    assert swapped > 20


def test_what_is_not_redrawn_stays(augmenter):
    sample = written("x+y")
    other = augmenter.redraw(sample, np.array([1]), sample.labels[[1]], np.random.default_rng(0))
    for s in (0, 2):
        np.testing.assert_array_equal(other.points[other.symbol == s],
                                      sample.points[sample.symbol == s])
    check(other)


def test_relabelling_changes_token_label_and_ink_together(pack):
    augmenter = Augmenter(pack, np.arange(len(pack)), AugmentConfig(relabel=1.0), VOCABULARY)
    classes = [set(VOCABULARY.encode(shape)) - {VOCABULARY.unk} for shape in SHAPES]
    changed = 0
    for i in range(0, len(pack), 5):
        sample = from_pack(pack, i)
        other = augmenter.recombine(sample, np.random.default_rng(i))
        check(other)
        differ = np.flatnonzero(sample.tokens != other.tokens)
        assert set(sample.token_symbols[differ]) == set(
            np.flatnonzero(sample.labels != other.labels)
        )
        for at in differ:
            s = sample.token_symbols[at]
            assert any({sample.tokens[at], other.tokens[at]} <= ids for ids in classes)
            assert other.labels[s] == other.tokens[at]
            assert is_ink_of(augmenter, other.labels[s], other.points[other.symbol == s])
            changed += 1
        for s in np.flatnonzero(sample.labels == other.labels):  # swap_hand is off: other ink stays
            np.testing.assert_array_equal(other.points[other.symbol == s],
                                          sample.points[sample.symbol == s])
    assert changed > 20


def test_a_root_keeps_its_ink_when_hands_change(pack):
    augmenter = Augmenter(pack, np.arange(len(pack)), AugmentConfig(swap_hand=1.0), VOCABULARY)
    root, seen = augmenter.sqrt, 0
    for i in range(len(pack)):
        sample = from_pack(pack, i)
        for s in np.flatnonzero(sample.labels == root):
            other = augmenter.recombine(sample, np.random.default_rng(0))
            np.testing.assert_array_equal(other.points[other.symbol == s],
                                          sample.points[sample.symbol == s])
            seen += 1
    assert seen > 3


def test_a_join_is_both_side_by_side(augmenter):
    left, right = written("x^2"), written(r"\frac{a}{b}", seed=1)
    for seed in range(5):
        both = augmenter.join(left, right, np.random.default_rng(seed))
        check(both)
        assert text(both) == r"x ^ { 2 } \frac { a } { b }"
        mine = both.symbol < len(left.labels)
        np.testing.assert_array_equal(both.points[mine], left.points)
        shift = both.points[~mine] - right.points
        np.testing.assert_allclose(shift, shift[[0]].repeat(len(shift), 0), atol=1e-5)
        gap = both.points[~mine, 0].min() - both.points[mine, 0].max()
        assert 0.29 < gap < 0.91
        assert abs(np.median(both.points[mine, 1]) - np.median(both.points[~mine, 1])) < 0.6


def test_a_join_keeps_loose_strokes_loose(augmenter):
    left, right = written("ab"), written("cd")
    right = Sample(right.points, right.stroke, np.where(right.symbol == 0, -1, right.symbol),
                   right.labels, right.tokens, right.token_symbols)
    both = augmenter.join(left, right, np.random.default_rng(0))
    assert both.symbol.tolist() == [0] * 4 + [1] * 4 + [-1] * 4 + [3] * 4


# --- drawing --------------------------------------------------------------------------------------


@settings(max_examples=120)
@given(st.integers(0, 149), st.integers(0, 2**32 - 1))
def test_every_drawn_sample_is_true(augmenter, pack, i, seed):
    points, tokens = pack.flat.points.sum(), pack.flat.tokens.sum()
    sample = augmenter.draw(i, np.random.default_rng(seed))
    check(sample)
    again = augmenter.draw(i, np.random.default_rng(seed))
    assert same(sample, frozen(again))
    assert (pack.flat.points.sum(), pack.flat.tokens.sum()) == (points, tokens)


def test_nothing_is_changed_in_place(augmenter, pack):
    ids = [i for i in range(len(pack)) if len(augmenter.spans(i)) > 3][:10]
    for i in ids:
        sample, other = from_pack(pack, i), from_pack(pack, ids[0])
        before, before_other = frozen(sample), frozen(other)
        rng = np.random.default_rng(i)
        for result in (augmenter.cut(sample, *augmenter.spans(i)[0]),
                       augmenter.one_symbol(sample, rng), augmenter.recombine(sample, rng),
                       augmenter.join(sample, other, rng),
                       augmenter.redraw(sample, np.arange(len(sample.labels)), sample.labels, rng)):
            assert same(sample, before)
            assert same(other, before_other)
            result.points[:] = 0  # nor do results share memory with the pack
            assert same(sample, before)


def test_without_levers_a_sample_is_the_packs(pack):
    plain = Augmenter(pack, np.arange(len(pack)), AugmentConfig(), VOCABULARY)
    for i in (0, 3, 99):
        assert same(plain.draw(i, np.random.default_rng(0)), frozen(from_pack(pack, i)))


@pytest.mark.parametrize("lever", ["symbol", "subexpression", "join"])
def test_a_lever_pulls_as_often_as_it_says(pack, lever):
    augmenter = Augmenter(pack, np.arange(len(pack)),
                          AugmentConfig(**{lever: 0.5}, longest_join=200), VOCABULARY)
    eligible = [i for i in range(len(pack)) if len(augmenter.spans(i)) > 2
                and len(from_pack(pack, i).labels) > 1]
    rng = np.random.default_rng(1)
    pulled = [len(augmenter.draw(i, rng).tokens) - len(from_pack(pack, i).tokens) for i in eligible
              for _ in range(4)]
    assert np.mean([p != 0 for p in pulled]) == pytest.approx(0.5, abs=0.08)
    assert (np.array(pulled) > 0).any() == (lever == "join")


def test_joins_stay_short(pack):
    augmenter = Augmenter(pack, np.arange(len(pack)), AugmentConfig(join=1.0, longest_join=12),
                          VOCABULARY)
    for i in range(len(pack)):
        before = len(from_pack(pack, i).tokens)
        assert len(augmenter.draw(i, np.random.default_rng(i)).tokens) <= max(12, before)


# --- collating ------------------------------------------------------------------------------------


def test_a_batch_holds_its_samples(augmenter):
    samples = [written("x^2"), written(r"\frac{a}{b}+c"), written("1")]
    batch = collate(samples, pad=VOCABULARY.pad)
    assert batch.ink.b == 3
    assert batch.tokens.shape == batch.token_symbols.shape == (3, 9)
    for e, sample in enumerate(samples):
        mine = batch.ink.owner == e
        np.testing.assert_array_equal(batch.ink.points[mine].numpy(), sample.points)
        np.testing.assert_array_equal(batch.ink.symbol[mine].numpy(), sample.symbol)
        stroke = batch.ink.stroke[mine].numpy()
        np.testing.assert_array_equal(stroke - stroke[0], sample.stroke)
        t, s = len(sample.tokens), len(sample.labels)
        assert batch.tokens[e].tolist() == sample.tokens.tolist() + [VOCABULARY.pad] * (9 - t)
        assert batch.token_symbols[e].tolist() == sample.token_symbols.tolist() + [-1] * (9 - t)
        assert batch.labels[e].tolist() == sample.labels.tolist() + [-1] * (
            batch.labels.shape[1] - s
        )
    steps = batch.ink.stroke.diff()
    assert ((steps == 0) | (steps == 1)).all()  # strokes of the batch have their own numbers
    assert int(batch.ink.stroke[-1]) + 1 == sum(s.stroke[-1] + 1 for s in samples)


def test_a_batch_without_ink_is_refused():
    empty = Sample(np.zeros((0, 2), np.float32), *(np.zeros(0, np.int64) for _ in range(5)))
    for samples in ([], [written("x"), empty]):
        with pytest.raises(ValueError, match="at least one point"):
            collate(samples)


def test_held_formulas_are_never_shown(pack):
    """Cuts, joins and recombinations that happen to be a held-out formula give way to the
    expression they were made from.
    """
    free = Augmenter(pack, np.arange(len(pack)), ALL, VOCABULARY)
    drawn = [tuple(free.draw(i, np.random.default_rng([s, i])).tokens.tolist()) for s in range(3)
             for i in range(len(pack))]
    originals = {tuple(from_pack(pack, i).tokens.tolist()) for i in range(len(pack))}
    made = [t for t in drawn if t not in originals and len(t) > 1]
    held = set(made[::2]) | {tuple(from_pack(pack, 3).tokens.tolist())}
    wary = Augmenter(pack, np.arange(len(pack)), ALL, VOCABULARY, held)
    assert 3 not in wary.indices
    again = [tuple(wary.draw(int(i), np.random.default_rng([s, int(i)])).tokens.tolist())
             for s in range(3) for i in wary.indices]
    assert not held & set(again)
    assert held & set(drawn)  # the free one shows some
