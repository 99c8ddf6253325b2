"""Synthetic ink."""

from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np

from mmlib.data.glyphs import GlyphBank, HersheyBank, InkBank
from mmlib.data.grammar import Grammar, number
from mmlib.data.layout import Layout
from mmlib.ink import Ink, Symbol
from mmlib.latex import Node, align, from_tree, to_tree

__all__ = ["GlyphBank", "HersheyBank", "InkBank", "compose", "synthetic_ink"]


def synthetic_ink(n: int, seed: int, bank: GlyphBank | None = None, start: int = 0) -> list[Ink]:
    bank = bank or _hershey()
    grammar = _grammar(frozenset(bank.labels))
    inks = []
    for index in range(start, start + n):
        rng = np.random.default_rng([seed, index])
        inks.append(_ink(grammar.tree(rng), bank, rng, id=f"synthetic-{seed}-{index}"))
    return inks


def compose(tokens: Sequence[str], bank: GlyphBank, rng: np.random.Generator, hand: str | None = None, id: str = "") -> Ink:
    tree = to_tree(tokens)
    number(tree)
    return _ink(tree, bank, rng, hand, id)


def _ink(tree: list[Node], bank: GlyphBank, rng: np.random.Generator, hand: str | None = None, id: str = "") -> Ink:
    hand = bank.hand(rng) if hand is None else hand
    strokes, drawn = Layout(bank, hand, rng).ink(tree)
    tokens = from_tree(tree)
    first, symbols = 0, []
    for ref, (label, count) in enumerate(drawn):
        symbols.append(Symbol(label, tuple(range(first, first + count)), str(ref)))
        first += count
    owners = tuple(-1 if ref is None else int(ref) for ref in align(tokens, tree))
    return Ink.from_strokes(strokes, symbols=tuple(symbols), latex=" ".join(tokens), tokens=tuple(tokens),
                            token_symbols=owners, writer=hand, source="synthetic", id=id)


@lru_cache(maxsize=1)
def _hershey() -> HersheyBank:
    return HersheyBank()


@lru_cache(maxsize=8)
def _grammar(labels: frozenset[str]) -> Grammar:
    return Grammar(labels)
