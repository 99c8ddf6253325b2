from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.data.pack import Pack, normalised, write_pack
from mmlib.data.split import leak, seen, split


@pytest.fixture(scope="module")
def field(tmp_path_factory, make_ink):
    """Like CROHME: unique formulas, few formulas by many hands, a source without writers, an
    unknown hand.
    """
    inks = [make_ink(f"x_{{{i}}}+{w}", f"u{w}-{i}", f"u/{w}", "unique") for w in range(8)
            for i in range(10)]
    inks += [make_ink(f"y^{{{i}}}", f"f{w}-{i}", f"f/{w}", "few") for w in range(10)
             for i in range(12)]
    inks += [make_ink(f"z-{i % 30}", f"n{i}", None, "nameless") for i in range(40)]
    inks += [make_ink("a+b", "unknown", None, "unique")]
    inks += [replace(make_ink("c", "invalid", "u/0", "unique"), tokens=None, token_symbols=None)]
    path = tmp_path_factory.mktemp("split") / "field.safetensors"
    write_pack([normalised(i) for i in inks], path)
    return Pack.open(path)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_disjoint_in_writers_and_formulas(field, seed):
    train, valid = split(field, seed=seed)
    report, sources = leak(field, train, valid), Counter(field.sources[i] for i in valid)
    formulas = {field.tokens(i) for i in train}
    writers = {field.writers[i] for i in train} - {None}
    assert not any(field.tokens(i) in formulas for i in valid)
    assert not any(field.writers[i] in writers for i in valid)
    assert not set(train) & set(valid)
    assert report["formulas_seen"] == report["writers_seen"] == 0
    assert field.ids.index("unknown") not in {*train, *valid}  # the hand may be a held-out one
    assert field.ids.index("invalid") not in valid
    assert set(sources) == {"unique", "few", "nameless"}
    assert sources["few"] >= 3
    assert sources["unique"] >= 8
    assert max(Counter(field.tokens(i) for i in valid).values()) <= 2
    assert len(train) > 0.5 * len(field)
    assert len(train) + len(valid) + report["in_neither"] == len(field)


def test_deterministic_by_seed(field):
    a, b, c = split(field, seed=3), split(field, seed=3), split(field, seed=4)
    assert np.array_equal(a.train, b.train)
    assert np.array_equal(a.valid, b.valid)
    assert not np.array_equal(a.valid, c.valid)
    assert (np.diff(a.train) > 0).all()
    assert (np.diff(a.valid) > 0).all()


def test_leak_counts_what_leaks(field):
    index = {key: i for i, key in enumerate(field.ids)}
    train = np.array([index["f0-0"], index["f0-1"], index["u1-0"]])
    # one formula, one writer
    valid = np.array([index["f1-0"], index["f1-5"], index["u1-1"], index["n0"]])
    report = leak(field, train, valid)
    assert report["formulas_seen"] == 0.25
    assert report["writers_seen"] == 0.25
    assert (report["train"], report["valid"], report["in_neither"]) == (3, 4, len(field) - 7)
    assert seen(field, range(len(field)), {field.tokens(0)}) == 1 / len(field)
