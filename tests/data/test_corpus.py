"""Corpora: the embedded one, its split, and what is composed from its symbols."""

import numpy as np
import pytest

from mmlib.data import corpus as module
from mmlib.data.corpus import cached_pack, load_corpus, resolved, synthetic_pack
from mmlib.data.errors import DataError
from mmlib.data.sample import from_pack
from mmlib.synthetic.compose import synthetic_ink


@pytest.fixture
def small(cache_dir, tmp_path, monkeypatch):
    """A tiny embedded data set in an empty cache, and no CROHME."""
    monkeypatch.setenv("MMLIB_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(module, "SYNTHETIC", {"train": (120, 1), "test": (30, 2)})
    return cache_dir


def test_the_embedded_corpus_is_split_by_formulas(small):
    corpus = load_corpus("synthetic")
    assert corpus.name == "synthetic"
    assert len(corpus.pack) == 120
    assert len(corpus.train) > 60
    assert len(corpus.valid) > 3
    assert not set(corpus.train) & set(corpus.valid)
    formulas = [{corpus.pack.tokens(i) for i in part} for part in (corpus.train, corpus.valid)]
    assert not formulas[0] & formulas[1]
    # Every token that is written can be predicted.
    assert corpus.pack.vocabulary == corpus.vocabulary.tokens


def test_the_test_part_is_other_ink(small):
    train, test = synthetic_pack("train"), synthetic_pack("test")
    assert len(test) == 30
    assert not set(test.ids) & set(train.ids)
    assert {from_pack(train, i).points.tobytes() for i in range(120)}.isdisjoint(
        from_pack(test, i).points.tobytes() for i in range(30))


def test_a_pack_is_made_once_and_mended(small):
    calls = []

    def make():
        calls.append(1)
        return synthetic_ink(5, 9)

    first = cached_pack("toy", make)
    again = cached_pack("toy", make)
    assert calls == [1]
    assert first.digest == again.digest
    (small / "toy.safetensors").write_bytes(b"cut short")
    assert cached_pack("toy", make).digest == first.digest
    assert calls == [1, 1]


def test_auto_is_crohme_where_it_is_found(small, monkeypatch):
    assert resolved("auto") == "synthetic"
    assert load_corpus("auto").name == "synthetic"
    monkeypatch.setattr(module, "load_pack", lambda name: synthetic_pack("test"))
    assert resolved("auto") == "crohme"
    assert load_corpus("auto").name == "crohme"


def test_identity_names_the_data_and_its_split(small):
    corpus = load_corpus("synthetic")
    assert corpus.identity == load_corpus("synthetic").identity
    other = module.Corpus(corpus.name, corpus.pack, corpus.train[1:], corpus.valid,
                          corpus.vocabulary)
    third = module.Corpus(corpus.name, synthetic_pack("test"), corpus.train, corpus.valid,
                          corpus.vocabulary)
    assert len({corpus.identity, other.identity, third.identity}) == 3


def test_composed_ink_comes_from_the_chosen_expressions_alone(small):
    corpus = load_corpus("synthetic")
    chosen = corpus.train[:40]
    pack = corpus.composed(chosen, 25)
    assert len(pack) == 25
    known = {label for i in chosen for label in from_pack(corpus.pack, int(i)).labels}
    for i in range(25):
        sample = from_pack(pack, i)
        assert set(sample.labels) <= known
        assert pack.flat.valid[i]
        assert pack.flat.aligned[i]
    assert corpus.composed(chosen, 25).digest == pack.digest
    names = {corpus.composed_name(c, n) for c, n in ((chosen, 25), (chosen[1:], 25), (chosen, 26))}
    assert len(names) == 3
    assert corpus.composed_name(np.array(chosen, np.int32),
                                25) == corpus.composed_name(list(chosen), 25)


@pytest.mark.parametrize("call", [lambda: load_corpus("mnist"), lambda: synthetic_pack("valid")])
def test_an_unknown_name_is_refused_with_the_choices(small, call):
    with pytest.raises(DataError, match=r"synthetic|train"):
        call()
