import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from mmlib.formula.latex import canonical
from mmlib.measure.recognition import distance, edit_counts, outcomes, plain_distance


def score(predictions, references):
    return outcomes(predictions, references).summary()

tokens = st.lists(st.sampled_from(["a", "b", "c", "\\frac"]), max_size=7)

def slow_counts(prediction, reference):
    """Edits and, among the cheapest alignments, the fewest insertions, cell by cell."""
    table = {(0, 0): (0, 0)}
    for i in range(len(reference) + 1):
        for j in range(len(prediction) + 1):
            options = []
            if i:
                edits, inserted = table[i - 1, j]
                options.append((edits + 1, inserted))
            if j:
                edits, inserted = table[i, j - 1]
                options.append((edits + 1, inserted + 1))
            if i and j:
                edits, inserted = table[i - 1, j - 1]
                options.append((edits + (prediction[j - 1] != reference[i - 1]), inserted))
            table[i, j] = min(options, default=(0, 0))
    return table[len(reference), len(prediction)]

@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=6))
def test_edit_counts_match_a_slow_table(pairs):
    predictions, references = zip(*pairs)
    assert edit_counts(predictions, references).tolist() == [
        list(slow_counts(p, r)) for p, r in pairs
    ]

@given(tokens, tokens, st.tuples(*[st.integers(1, 9)] * 3))
def test_a_machine_without_rapidfuzz_counts_the_same(a, b, weights):
    assert plain_distance(a, b, weights) == Levenshtein.distance(a, b, weights=weights)

@given(tokens, tokens, tokens)
def test_edit_distance_is_a_metric(a, b, c):
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)

@given(tokens, tokens)
def test_insertions_and_deletions_differ_by_the_lengths(a, b):
    (edits, inserted), (_, deleted) = slow_counts(a, b), slow_counts(b, a)
    assert inserted - deleted == len(a) - len(b)
    assert inserted + deleted <= edits

def test_closed_forms():
    assert distance("kitten", "sitting") == 3
    assert edit_counts(["", "ab", "xabx"], ["ab", "", "ab"]).tolist() == [[2, 0], [2, 2], [2, 2]]
    assert edit_counts([], []).shape == (0, 2)

def test_rates_by_hand():
    references = [canonical(x) for x in ("x^2+1", "x^2+1", "x^2+1", "x^2+1")]
    predictions = [
        canonical("x^2+1"),
        canonical("y^2+1"),  # one error, same layout
        canonical("x2+1"),  # three errors: ^ { } are missing
        ["x", "^", "{"],  # does not parse
    ]
    result = score(predictions, references)
    errors = [0, 1, 3, 4]
    assert (result.n, result.exprate, result.within1) == (4, 0.25, 0.5)
    assert (result.within2, result.within3) == (0.5, 0.75)
    assert result.ter == pytest.approx(sum(errors) / (4 * 7))
    assert result.structure == 0.5
    assert result.hallucination == 0

def test_a_label_that_cannot_be_read_is_wrong_but_has_no_tokens():
    result = score([["x"], ["x"]], [["x"], None])
    assert (result.n, result.exprate, result.within3, result.structure) == (2, 0.5, 0.5, 0.5)
    assert result.ter == 0

def test_no_prediction_is_all_deletions():
    result = score([None], [["x", "+", "y"]])
    assert (result.ter, result.hallucination, result.structure, result.within3) == (1, 0, 0, 1)

def test_hallucinated_tokens_are_the_inserted_ones():
    assert score([list("x+y+z")], [list("x+y")]).hallucination == pytest.approx(2 / 3)
    assert score([list("a+b")], [list("x+y")]).hallucination == 0

def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="2 predictions, 1 ids"):
        score([["x"], ["y"]], [["x"]])
    with pytest.raises(ValueError, match="no expressions"):
        score([], [])
    with pytest.raises(ValueError, match="argument 2 is longer"):
        edit_counts([], ["x"])

def test_unknown_values_stay_empty_in_the_file(tmp_path):
    rows = outcomes(
        [["x"], ["x", "y"], None, ["+"]],
        [["x"], ["x"], ["y"], None],
        ids=["a", "b,2", "c", "d"],
        scores=[-0.5, np.nan, -2, -1],
    )
    rows.write_csv(tmp_path / "outcomes.csv")
    assert (tmp_path / "outcomes.csv").read_text().splitlines() == [
        "id,token_errors,insertions,length,structure,score", "a,0,0,1,1,-0.5", '"b,2",1,1,1,0,',
        "c,1,0,1,0,-2", "d,,,0,0,-1"]

def test_a_test_set_is_scored_in_a_second():
    rng = np.random.default_rng(0)
    references = [list(rng.choice(list("abcdefgh+-=^_{}"), size=n))
                  for n in rng.integers(1, 80, size=1200)]
    predictions = [[t for t in row if rng.random() > 0.1] for row in references]
    predictions[0] = ["a"] * 200  # a decoder that does not stop
    start = time.perf_counter()
    counts = edit_counts(predictions, references)
    assert time.perf_counter() - start < 5  # about 0.1 s on an idle core
    assert counts[1:, 1].max() <= 10
    assert not math.isnan(counts.sum())
