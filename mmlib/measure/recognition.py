"""How well expressions are read: exact rates, token errors, layout.

Everything here compares token lists as they are given; put both sides in canonical form
(`mmlib.formula.latex.canonical`) first, so that two spellings of one expression are equal.

A rate is in [0, 1]. ExpRate is the share of expressions without a token error, ``within1`` to ``within3``
allow that many, and TER is all token errors (Levenshtein distance) over all reference tokens. (The
competition's LgEval tools count wrong symbols and relations of the layout graph instead of tokens:
see `mmlib.measure.lgeval`.)
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmlib.store.runs import write_atomic

Tokens = Sequence[str]


@dataclass(frozen=True)
class Score:
    """Rates in [0, 1] over ``n`` expressions; ``ter`` and ``hallucination`` can exceed 1."""

    n: int  # expressions, those with an unreadable label included
    exprate: float  # share with no token error
    within1: float  # share with at most one
    within2: float
    within3: float
    ter: float  # token errors / reference tokens
    structure_rate: float  # share whose layout tree is right, labels ignored
    hallucination: float  # predicted tokens with no counterpart / reference tokens


@dataclass(frozen=True)
class Outcomes:
    """One row per expression, arrays of shape (n,): what `Score` and every interval are computed from.

    It holds no label, so it may be kept beside results whose data may not be passed on.
    """

    id: np.ndarray  # str
    token_errors: np.ndarray  # float64; NaN where the reference is unreadable
    insertions: np.ndarray  # float64; those of the token errors that are inserted tokens; NaN likewise
    length: np.ndarray  # int64; reference tokens, 0 where unreadable
    structure: np.ndarray  # bool
    score: np.ndarray  # float64; the recogniser's own (log-probability), NaN where it gave none

    def __len__(self) -> int:
        return len(self.id)

    def summary(self) -> Score:
        """Rates over these expressions. Raises ValueError when there are none."""
        if not len(self):
            raise ValueError("no expressions to score")
        within = [float(np.mean(self.token_errors <= k)) for k in range(4)]  # NaN <= k is False: wrong
        tokens = max(int(self.length.sum()), 1)
        return Score(
            n=len(self),
            exprate=within[0],
            within1=within[1],
            within2=within[2],
            within3=within[3],
            ter=float(np.nansum(self.token_errors)) / tokens,
            structure_rate=float(self.structure.mean()),
            hallucination=float(np.nansum(self.insertions)) / tokens,
        )

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `outcomes.csv`; what is not known stays empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "token_errors", "insertions", "length", "structure", "score"])
        for row in zip(*(getattr(self, name) for name in self.__dataclass_fields__), strict=True):
            name, errors, insertions, length, structure, value = row
            counts = ["" if np.isnan(x) else int(x) for x in (errors, insertions)]
            writer.writerow([name, *counts, int(length), int(structure), "" if np.isnan(value) else f"{value:.5g}"])
        write_atomic(path, text.getvalue())

    @classmethod
    def read_csv(cls, path: str | os.PathLike[str]) -> Outcomes:
        """Read what `write_csv` wrote."""
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))

        def column(name: str) -> np.ndarray:
            return np.array([float(row[name] or "nan") for row in rows])

        return cls(
            id=np.array([row["id"] for row in rows], dtype=str),
            token_errors=column("token_errors"),
            insertions=column("insertions"),
            length=column("length").astype(np.int64),
            structure=column("structure").astype(bool),
            score=column("score"),
        )


def edit_counts(predictions: Sequence[Tokens], references: Sequence[Tokens]) -> np.ndarray:
    """Edit distance and insertions of each pair: int64 (n, 2).

    Of the alignments with the fewest edits, the one with the fewest insertions counts. One dynamic programme
    (Wagner and Fischer, 1974) runs over all pairs at once, a row per reference token.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if not len(references):
        return np.zeros((0, 2), np.int64)
    ids: dict[str, int] = {}
    read, true = (
        [np.array([ids.setdefault(token, len(ids)) for token in row], np.int64) for row in rows]
        for rows in (predictions, references)
    )
    order = np.argsort([-len(row) for row in true], kind="stable")  # longest first: the pairs still running
    read, true = [read[i] for i in order], [true[i] for i in order]  # are then always the first ones
    p_len, r_len = (np.array([len(row) for row in rows]) for rows in (read, true))
    p, r = (np.full((len(rows), max(map(len, rows))), -1, np.int64) for rows in (read, true))
    for matrix, rows in ((p, read), (r, true)):
        for i, row in enumerate(rows):
            matrix[i, : len(row)] = row

    # An insertion costs a little more than the other edits, so that one number holds both counts:
    # edits * edit + insertions, with `edit` above any count of insertions.
    edit = int(p_len.max()) + 1
    ladder = np.arange(p.shape[1] + 1) * (edit + 1)  # a prediction's prefix, all of it inserted
    cost = np.tile(ladder, (len(p), 1))
    total = cost[np.arange(len(p)), p_len]  # right already where the reference is empty
    for i in range(r.shape[1]):
        active = int(np.searchsorted(-r_len, -i))  # pairs whose reference has a token i
        cost = cost[:active]
        row = cost + edit  # reference token i deleted
        np.minimum(row[:, 1:], cost[:, :-1] + edit * (p[:active] != r[:active, i : i + 1]), out=row[:, 1:])
        cost = np.minimum.accumulate(row - ladder, axis=1) + ladder  # then any number of insertions
        done = np.flatnonzero(r_len[:active] == i + 1)
        total[done] = cost[done, p_len[done]]
    counts = np.empty((len(p), 2), np.int64)
    counts[order] = np.stack(np.divmod(total, edit), axis=1)
    return counts


def token_errors(prediction: Tokens, reference: Tokens) -> int:
    """Levenshtein distance of two token lists."""
    return int(edit_counts([prediction], [reference])[0, 0])


def outcomes(
    predictions: Sequence[Tokens | None],
    references: Sequence[Tokens | None],
    ids: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
) -> Outcomes:
    """Compare each prediction with its reference.

    Args:
        predictions: token lists in canonical form; None, where nothing was recognised, reads as no tokens.
        references: token lists in canonical form; None for a label that cannot be read, which counts as
            wrong in every rate and adds no tokens to TER.
        ids: names of the expressions (default: their numbers).
        scores: the recogniser's own score of each prediction.

    Raises:
        ValueError: the arguments differ in length.
    """
    n = len(references)
    ids = [str(i) for i in range(n)] if ids is None else list(ids)
    scores = [np.nan] * n if scores is None else [np.nan if s is None else float(s) for s in scores]
    if not len(predictions) == len(ids) == len(scores) == n:
        raise ValueError(
            f"{len(predictions)} predictions, {len(ids)} ids and {len(scores)} scores for {n} references"
        )
    known = np.array([reference is not None for reference in references], dtype=bool)
    counts = np.where(
        known[:, None], edit_counts([p or () for p in predictions], [r or () for r in references]), np.nan
    )
    return Outcomes(
        id=np.array(ids, dtype=str),
        token_errors=counts[:, 0],
        insertions=counts[:, 1],
        length=np.array([len(r or ()) for r in references], np.int64),
        structure=np.array(list(map(_same_structure, predictions, references)), bool),
        score=np.array(scores, np.float64),
    )


def score(predictions: Sequence[Tokens | None], references: Sequence[Tokens | None]) -> Score:
    """Rates over all expressions; see `outcomes` for the arguments.

    Raises ValueError when the lists differ in length or are empty.
    """
    return outcomes(predictions, references).summary()


def exprate_community(
    predictions: Sequence[str | Tokens | None], captions: Sequence[str | Tokens | None]
) -> float:
    r"""Share of expressions, in [0, 1], whose caption tokens are equal, as BTTR and CoMER validate.

    Their captions are half normalised: scripts are braced, and < and > are not commands (canonical ``\lt``
    and ``\gt`` are read as those), but redundant braces, ``\frac 1 2`` and ``\limits`` stay as written.
    A right reading in another spelling is wrong here, so a recogniser that writes canonical LaTeX scores
    lower than under `score`. CoMER's evaluation script, the source of its published rates, compares LgEval's
    layout graphs instead, which merge those spellings. Strings are split at white space.
    """
    if len(predictions) != len(captions) or not len(captions):
        raise ValueError(f"{len(predictions)} predictions for {len(captions)} captions")

    def split(text: str | Tokens | None) -> list[str] | None:
        if text is None:
            return None
        return [
            {r"\lt": "<", r"\gt": ">"}.get(t, t) for t in (text.split() if isinstance(text, str) else text)
        ]

    pairs = zip(map(split, predictions), map(split, captions), strict=True)
    return sum(caption is not None and read == caption for read, caption in pairs) / len(captions)


def _same_structure(prediction: Tokens | None, reference: Tokens | None) -> bool:
    from mmlib.formula.latex import LatexError, structure

    if prediction is None or reference is None:
        return False
    if list(prediction) == list(reference):
        return True
    try:
        return structure(list(prediction)) == structure(list(reference))
    except LatexError:  # what does not parse has no layout
        return False
