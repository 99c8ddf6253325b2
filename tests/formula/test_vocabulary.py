"""The vocabulary: the same ids in every run."""

import pytest

from mmlib.formula.latex import canonical
from mmlib.formula.vocabulary import CROHME_CLASSES, Vocabulary


def test_vocabulary_of_crohme() -> None:
    vocabulary = Vocabulary.crohme()
    assert len(CROHME_CLASSES) == 101
    assert (
        len(vocabulary) == len(vocabulary.tokens) == 101 + 1 + 5 + 4
    )  # classes, \cdot, structure, specials
    assert list(vocabulary.tokens[4:]) == sorted(vocabulary.tokens[4:])
    specials = (vocabulary.pad, vocabulary.sos, vocabulary.eos, vocabulary.unk)
    assert [vocabulary.tokens[i] for i in specials] == ["<pad>", "<sos>", "<eos>", "<unk>"]
    assert Vocabulary.crohme().tokens == vocabulary.tokens
    tokens = canonical(r"\sqrt[3]{x_1^2}+\frac{\alpha}{\cos 4\cdot 5}")
    assert vocabulary.decode(vocabulary.encode(tokens)) == tokens
    assert all(token in vocabulary for token in tokens)


def test_vocabulary_encodes_and_decodes() -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary.tokens == ("<pad>", "<sos>", "<eos>", "<unk>", "a", "b")
    assert vocabulary.encode(["a", "z"]) == [4, vocabulary.unk]
    assert vocabulary.decode([vocabulary.sos, 5, vocabulary.pad, 4, vocabulary.eos, 5]) == [
        "b",
        "a",
    ]
    with pytest.raises(ValueError, match="once"):
        Vocabulary(["a", "a"])
