"""A metric on parts of a split: by length, by nesting, by whether the formula was trained on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmlib.formula.latex import depth
from mmlib.measure.intervals import interval
from mmlib.store.runs import results_root, write_atomic
from mmlib.study.comparisons import METRICS, metric_sums, outcomes_of

if TYPE_CHECKING:
    from pandas import DataFrame


def traits_path(split: str, dataset: str = "crohme") -> Path:
    """The file of a split's traits: id, depth, seen. It holds no label."""
    return results_root() / "traits" / f"{dataset}-{split}.csv"


def write_traits(split: str, dataset: str = "crohme") -> Path:
    """Keep what figures need of a split's labels, as `id, depth, seen`: nesting, and whether its formula is trained on.

    Needs the data set itself. `seen` is about the training part of the split by writers and formulas.
    """
    from mmlib.data.corpus import load_corpus
    from mmlib.study.evaluate import load_part

    corpus, part = load_corpus(dataset), load_part(dataset, split)
    trained = {corpus.pack.tokens(int(i)) for i in corpus.train} - {None}
    lines = ["id,depth,seen"]
    for name, tokens in zip(part.ids, part.tokens, strict=True):
        lines.append(f"{name},," if tokens is None else f"{name},{depth(tokens)},{int(tokens in trained)}")
    path = traits_path(split, dataset)
    write_atomic(path, "\n".join(lines) + "\n")
    return path


def traits(split: str, dataset: str = "crohme") -> dict[str, dict[str, float]]:
    """id to depth and seen (NaN where the label is unreadable); empty where the file was not made."""
    path = traits_path(split, dataset)
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {row["id"]: {key: float(row[key] or "nan") for key in ("depth", "seen")} for row in csv.DictReader(file)}


def parts(split: str, by: str, metric: str = "ter", arms: Sequence[str] | None = None, dataset: str = "crohme",
          labels: float = 1.0) -> DataFrame:
    """A metric on parts of a split, with intervals: columns arm, part, value, low, high, n.

    by: 'length' (reference tokens; bins that hold about a fifth of the expressions each), 'depth' (nesting; 3 and more
    together), 'seen' (formula in the training part or not). The last two need `write_traits`'s file.
    """
    import pandas as pd

    found, known, rows = outcomes_of(split, dataset, labels), traits(split, dataset), []
    for arm in arms or found:
        if arm not in found or (by != "length" and not known):
            continue
        one = found[arm][0]
        if by == "length":
            values = one.length.astype(float)
            values[values == 0] = np.nan  # unreadable labels
            edges = np.unique(np.nanquantile(values, np.linspace(0, 1, 6)).round())
            bins = [(f"{low:.0f} to {high - (k < len(edges) - 2):.0f}", (values >= low) & (
                (values < high) | (k == len(edges) - 2))) for k, (low, high) in enumerate(pairwise(edges))]
        else:
            values = np.array([known.get(i, {}).get(by, np.nan) for i in one.id])
            bins = ([(("3 and more" if d == 3 else str(d)), values >= 3 if d == 3 else values == d) for d in range(4)]
                    if by == "depth" else [("unseen", values == 0), ("seen", values == 1)])
        for name, member in bins:
            if member.any():
                result = interval(*metric_sums(found[arm], metric, np.flatnonzero(member)), n_boot=1000)
                rows.append({"arm": arm, "part": name, "value": result.value, "low": result.low, "high": result.high,
                             "n": result.n})
    return pd.DataFrame(rows, columns=["arm", "part", "value", "low", "high", "n"])


def seen_unseen(split: str, arms: Sequence[str] | None = None, dataset: str = "crohme") -> DataFrame:
    """ExpRate and TER on formulas that training held and on those it did not: see `parts`."""
    import pandas as pd

    frames = [parts(split, "seen", metric, arms, dataset).assign(metric=METRICS[metric]) for metric in ("ter", "exprate")]
    return pd.concat(frames, ignore_index=True)
