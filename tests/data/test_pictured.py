"""Ink that went through a picture of itself."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from mmlib.data import pictured as module
from mmlib.data.corpus import load_corpus
from mmlib.data.errors import DataError
from mmlib.data.pictured import pictured, through_picture, worn


@pytest.fixture(scope="module")
def corpus(small_data):
    with small_data(40, 5):
        yield load_corpus("synthetic")


def test_the_ink_of_each_symbol_comes_back(corpus, monkeypatch):
    monkeypatch.setattr(module, "SYMBOL", (30.0, 40.0))
    ink = next(i for i in map(corpus.pack.__getitem__, corpus.train) if len(i.symbols) > 4)
    for clean in (0.0, 1.0):
        monkeypatch.setattr(module, "CLEAN", clean)
        back = through_picture(ink, np.random.default_rng(1))
        assert back.tokens == ink.tokens
        assert back.token_symbols == ink.token_symbols
        assert [s.label for s in back.symbols] == [s.label for s in ink.symbols]
        # In one unit, the strokes of each symbol lie where they were written.
        scale = np.ptp(ink.points, axis=0).max() / np.ptp(back.points, axis=0).max()
        for before, after in zip(ink.symbols, back.symbols, strict=True):
            written = ink.points[np.isin(ink.stroke, before.strokes)] - ink.points.min(0)
            traced = back.points[np.isin(back.stroke, after.strokes)] * scale
            assert np.median(cKDTree(traced).query(written)[0]) < 0.1


def test_each_expression_depends_on_seed_and_index_alone(corpus):
    whole = {ink.id: ink.points for ink in pictured(corpus.pack, corpus.train[:6])}
    again = {ink.id: ink.points for ink in pictured(corpus.pack, corpus.train[2:4])}
    assert whole.keys() >= again.keys() != set()
    assert all(np.array_equal(whole[name], again[name]) for name in again)


def test_what_loses_a_symbol_is_left_out(corpus, monkeypatch):
    def blank(grey, photo=None):
        raise DataError("the picture is blank")

    monkeypatch.setattr(module, "see", blank)
    assert list(pictured(corpus.pack, corpus.train[:3])) == []


def test_worn_paper_is_darker_where_there_is_ink():
    drawing = np.zeros((40, 60))
    drawing[18:22, 10:50] = 1
    grey = worn(drawing, np.random.default_rng(0))
    assert grey[19:21, 15:45].mean() + 40 < grey[:10].mean()
