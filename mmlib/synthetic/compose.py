r"""Synthetic ink: a grammar draws an expression, a layout places it, a bank of glyphs writes it.

It carries the same truth as CROHME's files: symbols with their strokes, canonical tokens, and which
token is whose ink. So everything runs on it without a download. All 101 symbol classes of CROHME
occur, and nothing of LaTeX beyond them (no ``\prod``, no matrices).

Lengths and nesting follow CROHME's 2014 training set (8,834 expressions, 6,000 synthetic ones). In
both, half of the expressions have at most 8 symbols, 95 % at most 24, and the mean is 9.7.

=======================  ======  =========  ========================  ======  =========
% of expressions with    CROHME  synthetic  ..                        CROHME  synthetic
=======================  ======  =========  ========================  ======  =========
a fraction                   28         29  a superscript                 39         40
a root                       14         16  a subscript                   27         27
a sum or an integral         12         12  scripts in scripts             2          2
an equals sign               37         35  fractions, roots nested        9          6
=======================  ======  =========  ========================  ======  =========
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mmlib.formula.ink import Ink
from mmlib.formula.latex import align, from_tree, to_tree
from mmlib.formula.tree import Node, renumber
from mmlib.synthetic.glyphs import GlyphBank
from mmlib.synthetic.grammar import Grammar
from mmlib.synthetic.hershey import HersheyBank
from mmlib.synthetic.layout import Layout


def synthetic_ink(n: int, seed: int = 0, bank: GlyphBank | None = None, start: int = 0,
                  beyond: bool = False) -> list[Ink]:
    """Expressions `start` to `start + n` of the endless series `seed`, in heights of a digit.

    Each depends on the seed, its place and the bank alone, so any slice can be made by itself. The
    bank (by default the Hershey fonts) also says which symbols the grammar may use. With `beyond`
    each expression holds a symbol beyond CROHME's. It makes about 1,000 expressions per second and
    core.
    """
    bank = bank or _hershey()
    grammar = _grammar(bank.labels, beyond)
    inks = []
    for index in range(start, start + n):
        rng = np.random.default_rng([seed, index])
        tree = grammar.tree(rng)
        inks.append(_write(tree, bank, rng, bank.hand(rng), f"synthetic-{seed}-{index}"))
    return inks


def compose(tokens: Sequence[str], bank: GlyphBank, rng: np.random.Generator,
            hand: str | None = None, id: str = "") -> Ink:
    """Canonical `tokens` written by `hand` (default: any of the bank's).

    Raises LatexError where the tokens are no expression, ValueError where they hold no symbol, and
    KeyError where the bank has no glyph for one of them.
    """
    tree = to_tree(tokens)
    renumber(tree)
    return _write(tree, bank, rng, bank.hand(rng) if hand is None else hand, id)


def _write(tree: list[Node], bank: GlyphBank, rng: np.random.Generator, hand: str, id: str) -> Ink:
    """Ink of a numbered tree: symbol i is the node with the `ref` i."""
    strokes, symbols = Layout(bank, hand, rng).ink(tree)
    tokens = from_tree(tree)
    # Aligned with the tree that it was drawn from, every symbol has its token.
    owners = tuple(-1 if ref is None else int(ref) for ref in align(tokens, tree) or ())
    return Ink.from_strokes(strokes, symbols=symbols, latex=" ".join(tokens), tokens=tuple(tokens),
                            token_symbols=owners, writer=hand, source="synthetic", id=id)


# Kept, since their tables take longer to make than an expression.
_hershey, _grammar = lru_cache(maxsize=1)(HersheyBank), lru_cache(maxsize=8)(Grammar)
