"""Statistics of a pack: sizes, lengths, nesting, symbols, and what three kinds of split leak."""

import json
from collections import Counter
from typing import Any

import numpy as np

from mmlib.data.pack import Pack
from mmlib.data.split import leak, split
from mmlib.formula.latex import depth
from mmlib.store.files import results_root, write_atomic

# Constructions that an expression can contain, each with the token that shows it.
CONTAINS = {
    "a fraction": r"\frac", "a root": r"\sqrt", "a superscript": "^", "a subscript": "_",
    "a sum": r"\sum", "an integral": r"\int", "a limit": r"\lim", "an equals sign": "=",
}  # fmt: skip


def statistics(pack: Pack) -> dict[str, Any]:
    """Aggregates of a pack, ready for JSON; nothing of single expressions.

    `symbols`, `tokens` and `depth` count expressions by that number; `labels` counts symbols by
    class; `contains` counts expressions by construction; `leak` is from `leaks`.
    """
    flat, formulas = pack.flat, [pack.tokens(i) for i in range(len(pack))]
    known = [f for f in formulas if f]
    return {
        "expressions": len(pack),
        "writers": len(set(pack.writers) - {None}),
        "formulas": len(set(known)),
        "strokes": len(flat.stroke_symbols),
        "points": len(flat.points),
        "symbols": np.bincount(np.diff(flat.symbol_offsets)).tolist(),
        "tokens": np.bincount([len(f) for f in known]).tolist(),
        "depth": np.bincount([depth(f) for f in known]).tolist(),
        "labels": dict(Counter(pack.vocabulary[v] for v in flat.symbols).most_common()),
        "contains": {name: sum(token in f for f in known) for name, token in CONTAINS.items()},
        "leak": leaks(pack),
    }


def leaks(pack: Pack, seed: int = 0) -> dict[str, dict[str, float]]:
    """What validation shares with training when split at random, by writers, and by `split`."""
    rng = np.random.default_rng(seed)
    ours = split(pack)
    order = rng.permutation(len(pack))
    writers = [pack.writers[i] for i in order]
    rank = {w: r for r, w in enumerate(rng.permutation(sorted({w for w in writers if w})))}
    by_writer = order[np.argsort([rank.get(w, len(rank)) for w in writers], kind="stable")]
    n = len(ours.valid)
    # Whole writers only: whoever is cut by the line stays in validation, and leaves training.
    held = {pack.writers[i] for i in by_writer[:n]}
    rest = np.array([i for i in by_writer[n:] if pack.writers[i] not in held])
    pairs = {
        "at random": (order[n:], order[:n]),
        "by writers": (rest, by_writer[:n]),
        "by writers and formulas (ours)": (ours.train, ours.valid),
    }
    return {name: leak(pack, *pair) for name, pair in pairs.items()}


def crohme_statistics(fresh: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read the committed `statistics` of CROHME's 2014 training set; `fresh` replaces them."""
    path = results_root() / "crohme_statistics.json"
    if fresh is not None:
        write_atomic(path, json.dumps(fresh, ensure_ascii=False) + "\n")
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept
