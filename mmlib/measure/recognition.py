"""How well expressions are read: exact rates, token errors, layout.

Everything here compares token lists as they are given. Put both sides in canonical form first
(`mmlib.formula.latex.canonical`), so that two spellings of one expression are equal.

A rate is in [0, 1]. ExpRate is the share of expressions without a token error, ``within1`` to
``within3`` allow that many, and TER is all token errors (Levenshtein distance) over all reference
tokens. The competition's LgEval tools count wrong symbols and relations of the layout graph
instead: see `mmlib.measure.lgeval`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmlib.formula.latex import LatexError, structure
from mmlib.store.files import write_atomic

Tokens = Sequence[str]


def plain_distance(a: Tokens, b: Tokens, weights: tuple[int, int, int] = (1, 1, 1)) -> int:
    """The least cost of turning a into b; weights of an insertion, a deletion, a replacement."""
    insertion, deletion, replacement = weights
    row = [j * insertion for j in range(len(b) + 1)]
    for x in a:
        diagonal, row[0] = row[0], row[0] + deletion
        for j, y in enumerate(b, 1):
            kept = diagonal + (x != y) * replacement
            diagonal, row[j] = row[j], min(kept, row[j] + deletion, row[j - 1] + insertion)
    return row[-1]


distance: Callable[..., int] = plain_distance
with contextlib.suppress(ModuleNotFoundError):  # a bare machine that only trains counts slowly
    from rapidfuzz.distance.Levenshtein import distance


@dataclass(frozen=True)
class Score:
    """Rates in [0, 1] over ``n`` expressions; ``ter`` and ``hallucination`` can exceed 1."""

    n: int  # expressions, those with an unreadable label included
    exprate: float  # share with no token error
    within1: float  # share with at most one
    within2: float
    within3: float
    ter: float  # token errors / reference tokens
    structure: float  # share whose layout tree is right, labels ignored
    hallucination: float  # predicted tokens with no counterpart / reference tokens


@dataclass(frozen=True)
class Outcomes:
    """One row per expression, arrays of shape (n,): the base of `Score` and of every interval.

    It holds no label, so it may be kept beside results whose data may not be passed on.
    """

    id: np.ndarray  # str
    token_errors: np.ndarray  # float64; NaN where the reference is unreadable
    insertions: np.ndarray  # float64; token errors that are inserted tokens; NaN likewise
    length: np.ndarray  # int64; reference tokens, 0 where unreadable
    structure: np.ndarray  # bool
    score: np.ndarray  # float64; the recogniser's own (log-probability), NaN where it gave none

    def __len__(self) -> int:
        return len(self.id)

    def summary(self) -> Score:
        """Rates over these expressions. Raises ValueError when there are none."""
        if not len(self):
            raise ValueError("no expressions to score")
        # An unreadable reference (NaN) counts as wrong.
        none, one, two, three = (float(np.mean(self.token_errors <= k)) for k in range(4))
        tokens = max(int(self.length.sum()), 1)
        errors, inserted = (float(np.nansum(x)) for x in (self.token_errors, self.insertions))
        return Score(len(self), none, one, two, three, errors / tokens,
                     float(self.structure.mean()), inserted / tokens)

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `outcomes.csv`; an unknown value stays empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.__dataclass_fields__)
        for row in zip(*(getattr(self, name) for name in self.__dataclass_fields__), strict=True):
            name, errors, insertions, length, structure, value = row
            counts = ["" if np.isnan(x) else int(x) for x in (errors, insertions)]
            value = "" if np.isnan(value) else f"{value:.5g}"
            writer.writerow([name, *counts, int(length), int(structure), value])
        write_atomic(path, text.getvalue())


def edit_counts(predictions: Sequence[Tokens], references: Sequence[Tokens]) -> np.ndarray:
    """Edit distance and insertions of each pair: (n, 2) int64.

    Of the alignments with the fewest edits, the one with the fewest insertions counts. Raises
    ValueError for lists of different lengths.
    """
    counts = np.empty((len(references), 2), np.int64)
    for i, (read, true) in enumerate(zip(predictions, references, strict=True)):
        # An insertion costs one more than another edit, which costs more than all insertions can
        # add: one distance then holds both counts.
        edit = len(read) + 1
        counts[i] = divmod(distance(true, read, weights=(edit + 1, edit, edit)), edit)
    return counts


def outcomes(predictions: Sequence[Tokens | None], references: Sequence[Tokens | None],
             ids: Sequence[str] | None = None, scores: Sequence[float] | None = None) -> Outcomes:
    """Compare each prediction with its reference.

    Args:
        predictions: token lists in canonical form; None, where nothing was recognised, reads as no
            tokens.
        references: token lists in canonical form; None for a label that cannot be read, which
            counts as wrong in every rate and adds no tokens to TER.
        ids: names of the expressions (default: their numbers).
        scores: the recogniser's own score of each prediction (default: NaN).

    Raises:
        ValueError: the arguments differ in length.
    """
    n = len(references)
    ids = [str(i) for i in range(n)] if ids is None else ids
    scores = [np.nan] * n if scores is None else scores
    if not len(predictions) == len(ids) == len(scores) == n:
        raise ValueError(f"{len(predictions)} predictions, {len(ids)} ids and {len(scores)} scores "
                         f"for {n} references")
    known = np.array([reference is not None for reference in references], dtype=bool)
    counts = edit_counts([p or () for p in predictions], [r or () for r in references])
    errors, insertions = np.where(known[:, None], counts, np.nan).T
    return Outcomes(np.array(ids, dtype=str), errors, insertions,
                    length=np.array([len(r or ()) for r in references], np.int64),
                    structure=np.array(list(map(_same_structure, predictions, references)), bool),
                    score=np.array(scores, np.float64))


def _same_structure(prediction: Tokens | None, reference: Tokens | None) -> bool:
    if prediction is None or reference is None:
        return False
    if list(prediction) == list(reference):
        return True
    try:
        return structure(list(prediction)) == structure(list(reference))
    except LatexError:  # what does not parse has no layout
        return False
