"""Training and validation, disjoint in writers *and* in formulas.

A formula that stands on both sides leaks more than a writer does. CROHME's KAIST and expressmatch
are a few formulas by many hands: a recogniser that has memorised them looks as if it could read.
"""

from collections import Counter, defaultdict
from collections.abc import Set
from typing import Any, NamedTuple

import numpy as np

from mmlib.data.errors import DataError
from mmlib.data.pack import Indices, Pack

Formula = tuple[str, ...] | None  # canonical tokens; None where the label is not valid
HELD_SHARE = 0.1  # held out where a split by writers and formulas leaves too little


class Split(NamedTuple):
    """Indices into the pack, ascending (int64)."""

    train: np.ndarray
    valid: np.ndarray


def split(pack: Pack, seed: int = 0, share: float = 0.12, rare: int = 6, copies: int = 2) -> Split:
    """Hold out writers and formulas of each source; deterministic by `seed`.

    In each source, writers in random order are held out, two at least, until they have written a
    share of the source's rare formulas (at most `rare` copies in the whole pack) or of its
    expressions. Formulas with more copies cost training too much; they are held out only to make it
    three in a source.

    Validation: what held-out writers wrote of held-out formulas, at most `copies` per formula.
    Training: what others wrote of other formulas. The rest, the price of being disjoint twice, is
    in neither. A source that names no writers is split by formulas; an unknown writer in a source
    with held-out writers is in neither. Invalid labels are in training only.
    """
    rng = np.random.default_rng(seed)
    formulas: list[Formula] = [pack.tokens(i) for i in range(len(pack))]
    count = Counter(formulas)
    mean_length = np.mean([len(f) for f in count if f]) if any(count) else 1.0
    sources = defaultdict(list)
    for i, source in enumerate(pack.sources):
        sources[source].append(i)
    named = {s for s in sources if any(pack.writers[i] is not None for i in sources[s])}

    held_writers: set[str | None] = set()
    held_formulas: set[Formula] = set()
    for source in sorted(sources, key=str):
        # By writer, or by place where the source names none.
        written: dict[Any, list[Formula]] = defaultdict(list)
        for i in sources[source]:
            if pack.writers[i] is not None or source not in named:
                written[pack.writers[i] if source in named else i].append(formulas[i])
        distinct = {formulas[i] for i in sources[source]} - {None}
        # Sources of short formulas would else make validation easier than the tests.
        length = np.mean([len(f) for f in distinct if f]) if distinct else 0.0
        portion = share * np.clip(length / mean_length, 0.5, 1.5) if distinct else 0.0
        rare_ones = {f for f in distinct if count[f] <= rare}
        most = portion * len(sources[source])
        writers = _held_writers(written, rare_ones, portion * len(rare_ones), most, rng)
        theirs = {f for w in writers for f in written[w]}
        held_formulas |= _held_formulas(theirs, rare_ones, count, rng)
        if source in named:
            held_writers |= set(writers)

    train, valid = [], []
    used: Counter[Formula] = Counter()
    for i in rng.permutation(len(pack)):
        formula, writer, source = formulas[i], pack.writers[i], pack.sources[i]
        # A held-out formula by another hand is in neither, and so is another formula by a held-out
        # hand, or by one that may be.
        if formula in held_formulas:
            mine = writer in held_writers or source not in named
            if mine and used[formula] < copies:
                used[formula] += 1
                valid.append(i)
        elif writer not in held_writers and (writer is not None or source not in named):
            train.append(i)
    return Split(np.sort(np.array(train, np.int64)), np.sort(np.array(valid, np.int64)))


def _held_writers(written: dict[Any, list[Formula]], rare: set[Formula], enough: float,
                  most: float, rng: np.random.Generator) -> list[Any]:
    """Writers of a source, until they have `enough` of its rare formulas or `most` expressions."""
    taken: list[Any] = []
    found: set[Formula] = set()
    size, writers = 0, sorted(written)
    # Never more than half of the writers: training needs hands, too.
    for writer in (writers[k] for k in rng.permutation(len(writers))):
        if len(taken) >= 2 and (len(found) >= enough or len(taken) >= len(writers) // 2):
            break
        if len(taken) >= 2 and size + len(written[writer]) > most:
            continue
        taken.append(writer)
        size += len(written[writer])
        found |= rare.intersection(written[writer])
    return taken


def _held_formulas(written: set[Formula], rare: set[Formula], count: Counter[Formula],
                   rng: np.random.Generator) -> set[Formula]:
    """The rare formulas among those that held-out writers wrote; where they are under three, more.

    These are the ones with the fewest copies, which cost training least.
    """
    found = written & rare
    others = sorted(f for f in written - found if f is not None)
    order = sorted((others[k] for k in rng.permutation(len(others))), key=count.__getitem__)
    return found | set(order[: max(0, 3 - len(found))])


def hold_out(pack: Pack, train: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A split (train, valid) as it is, or a random tenth held out where one of them is too small.

    Raises DataError for fewer than ten expressions.
    """
    if 5 <= len(valid) <= len(train):
        return train, valid
    if len(pack) < 10:
        raise DataError(f"{pack.path.stem}: {len(pack)} expressions are too few to hold some out; "
                        "give ten or more")
    order = np.random.default_rng([0, 23]).permutation(len(pack))
    cut = max(1, round(HELD_SHARE * len(pack)))
    return np.sort(order[cut:]), np.sort(order[:cut])


def leak(pack: Pack, train: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Sizes, and how many validation formulas and writers training has seen."""
    writers = {pack.writers[i] for i in train} - {None}
    known = [pack.writers[i] in writers for i in valid]
    return {
        "train": len(train),
        "valid": len(valid),
        "in_neither": len(pack) - len(train) - len(valid),
        "formulas_seen": seen(pack, valid, {pack.tokens(i) for i in train}),
        "writers_seen": float(np.mean(known)) if known else 0.0,
    }


def seen(pack: Pack, indices: Indices, formulas: Set[Formula]) -> float:
    """Share of a pack's expressions whose canonical formula is in `formulas`."""
    return float(np.mean([pack.tokens(i) in formulas for i in indices])) if len(indices) else 0.0
