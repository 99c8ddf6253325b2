"""Training and validation, disjoint in writers *and* in formulas.

A formula that stands on both sides leaks more than a writer does: CROHME's KAIST and expressmatch are a few
formulas by many hands, and a recogniser that has memorised them looks as if it could read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Set
from typing import Any, NamedTuple

import numpy as np

from mmlib.data.pack import Indices, Pack


class Split(NamedTuple):
    """Indices into the pack, ascending (int64)."""

    train: np.ndarray
    valid: np.ndarray


def split(pack: Pack, seed: int = 0, share: float = 0.12, rare: int = 6, copies: int = 2) -> Split:
    """Hold out writers and formulas of each source; deterministic by `seed`.

    In each source, writers in random order are held out until a share of those of the source's formulas is
    collected that have at most `rare` copies in the whole pack, or that share of its expressions is reached,
    two writers at least. The share is `share` times the source's mean formula length over that of all
    (between 0.5 and 1.5): sources of short formulas would else make validation easier than the tests.
    Formulas with more copies are held out only to make it three in a source (they cost training too much).
    Validation: what held-out writers wrote of held-out formulas, at most `copies` per formula. Training: what
    others wrote of other formulas. The rest, the price of being disjoint twice, is in neither. A source that
    names no writers is split by formulas; an unknown writer in a source with held-out writers is in neither.
    Invalid labels are in training only.
    """
    rng = np.random.default_rng(seed)
    formulas = [pack.tokens(i) for i in range(len(pack))]
    count = Counter(formulas)
    sources = defaultdict(list)
    for i, source in enumerate(pack.sources):
        sources[source].append(i)

    mean_length = np.mean([len(f) for f in count if f]) if any(count) else 1.0
    held_writers: set[str | None] = set()
    held_formulas: set[tuple[str, ...]] = set()
    unnamed_sources = set()
    for source in sorted(sources, key=str):
        members = sources[source]
        by_writer: dict[Any, list[int]] = defaultdict(list)  # by name, or by place where the source names none
        for i in members:
            by_writer[pack.writers[i]].append(i)
        unknown = by_writer.pop(None, [])
        if not by_writer:
            unnamed_sources.add(source)
            by_writer = {i: [i] for i in unknown}
        writers = sorted(by_writer)
        distinct = {f for i in members if (f := formulas[i]) is not None}
        part = (
            share * np.clip(np.mean([len(f) for f in distinct]) / mean_length, 0.5, 1.5) if distinct else 0.0
        )
        uncommon = sum(count[f] <= rare for f in distinct)
        taken: list[Any] = []
        found: set[tuple[str, ...]] = set()
        seen = 0
        for writer in (writers[k] for k in rng.permutation(len(writers))):
            if len(taken) >= max(2, len(writers) // 2) or (len(taken) >= 2 and len(found) >= part * uncommon):
                break
            if len(taken) >= 2 and seen + len(by_writer[writer]) > part * len(members):
                continue
            taken.append(writer)
            seen += len(by_writer[writer])
            found |= {f for i in by_writer[writer] if (f := formulas[i]) and count[f] <= rare}
        written = sorted({f for w in taken for i in by_writer[w] if (f := formulas[i]) is not None} - found)
        written = sorted((written[k] for k in rng.permutation(len(written))), key=count.__getitem__)
        held_formulas |= found | set(written[: max(0, 3 - len(found))])
        if source not in unnamed_sources:
            held_writers |= set(taken)

    held_sources = {s for s in sources if any(pack.writers[i] in held_writers for i in sources[s])}
    trained: list[int] = []
    looked: list[int] = []
    used: Counter[tuple[str, ...] | None] = Counter()
    for i in rng.permutation(len(pack)):
        formula, writer, source = formulas[i], pack.writers[i], pack.sources[i]
        held = writer in held_writers or (writer is None and source in held_sources)
        if formula in held_formulas:
            if (writer in held_writers or source in unnamed_sources) and used[formula] < copies:
                used[formula] += 1
                looked.append(i)
        elif not held:
            trained.append(i)
    train, valid = np.sort(np.array(trained, dtype=np.int64)), np.sort(np.array(looked, dtype=np.int64))
    return Split(train, valid)


def leak(pack: Pack, train: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Sizes, and how many validation formulas and writers training has seen."""
    formulas = {pack.tokens(i) for i in train}
    writers = {pack.writers[i] for i in train} - {None}
    return {
        "train": len(train),
        "valid": len(valid),
        "in_neither": len(pack) - len(train) - len(valid),
        "formulas_seen": seen(pack, valid, formulas),
        "writers_seen": float(np.mean([pack.writers[i] in writers for i in valid])) if len(valid) else 0.0,
    }


def seen(pack: Pack, indices: Indices, formulas: Set[tuple[str, ...] | None]) -> float:
    """Share of the expressions of a pack (a test set, say) whose canonical formula is in `formulas`."""
    return float(np.mean([pack.tokens(i) in formulas for i in indices])) if len(indices) else 0.0
