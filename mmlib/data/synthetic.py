r"""@DOC"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mmlib.data.glyphs import GlyphBank, HersheyBank, InkBank
from mmlib.data.grammar import Grammar, number
from mmlib.data.layout import Layout
from mmlib.ink import Ink, Symbol
from mmlib.latex import Node, align, from_tree, to_tree

__all__ = ["GlyphBank", "HersheyBank", "InkBank", "compose", "synthetic_ink"]


def synthetic_ink(n: int, seed: int = 0, bank: GlyphBank | None = None, start: int = 0) -> list[Ink]:
    """Expressions `start` to `start + n` of the endless series `seed`, in units of a digit's height.

    Each depends on the seed, its place and the bank alone, so any slice can be made by itself. The bank
    (default: the Hershey fonts) also says which symbols the grammar may use. About 1,000 expressions per
    second and core.
    """
    bank = bank or _hershey()
    grammar = _grammar(bank.labels)
    inks = []
    for index in range(start, start + n):
        rng = np.random.default_rng([seed, index])
        inks.append(_write(grammar.tree(rng), bank, rng, None, f"synthetic-{seed}-{index}"))
    return inks


def compose(
    tokens: Sequence[str], bank: GlyphBank, rng: np.random.Generator, hand: str | None = None, id: str = ""
) -> Ink:
    """Canonical `tokens` written by `hand` (default: any of the bank's).

    Raises LatexError where the tokens are no expression, ValueError where they hold no symbol, KeyError where
    the bank has no glyph for one of them.
    """
    tree = to_tree(tokens)
    number(tree)
    return _write(tree, bank, rng, hand, id)


def _write(tree: list[Node], bank: GlyphBank, rng: np.random.Generator, hand: str | None, id: str) -> Ink:
    """Ink of a tree whose nodes are numbered: symbol i is the node with `ref` i."""
    hand = bank.hand(rng) if hand is None else hand
    strokes, drawn = Layout(bank, hand, rng).ink(tree)
    symbols, first = [], 0
    for ref, (label, count) in enumerate(drawn):
        symbols.append(Symbol(label, tuple(range(first, first + count)), str(ref)))
        first += count
    tokens = from_tree(tree)
    owners = tuple(-1 if ref is None else int(ref) for ref in align(tokens, tree) or ())
    return Ink.from_strokes(strokes, symbols=tuple(symbols), latex=" ".join(tokens), tokens=tuple(tokens),
                            token_symbols=owners, writer=hand, source="synthetic", id=id)  # fmt: skip


@lru_cache(maxsize=1)
def _hershey() -> HersheyBank:
    return HersheyBank()


@lru_cache(maxsize=8)
def _grammar(labels: frozenset[str]) -> Grammar:
    return Grammar(labels)
