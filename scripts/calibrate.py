"""Fit how likely readings are right, on the validation split, and check the fit.

    python -m scripts.calibrate

Reads every ink of the split, and a picture of each: one in seven plain, the others of the kinds of
`scripts.imitations`. Writes `confidence.json` beside the recogniser that ships, which its readers
use, and the record `results/trials/calibration.json`. What was read is kept in the cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import GroupKFold

from mmlib.data.corpus import Corpus, load_corpus
from mmlib.data.errors import DataError
from mmlib.data.sample import from_pack
from mmlib.formula.ink import InkError
from mmlib.read.batch import read_samples
from mmlib.read.confidence import CONFIDENCE, features
from mmlib.read.reader import Reader, recognize
from mmlib.show.ink import drawing
from mmlib.store.files import cache_root, results_root, write_atomic
from scripts.imitations import KINDS

BEAM, BINS, FOLDS = 5, 10, 10
Rows = list[dict[str, Any]]  # of a reading: kind, truth and what was found, (tokens, score) each


def picture(corpus: Corpus, index: int, number: int) -> tuple[str, np.ndarray]:
    """A kind of picture and the picture of one expression."""
    kinds = ["plain"] * 3 + [kind for kind in KINDS if kind != "telephone"]
    kind, rng = kinds[number % len(kinds)], np.random.default_rng([7, index])
    levels = drawing(corpus.pack[index], margin=40, pen=rng.uniform(3, 7))
    return kind, 255 - levels if kind == "plain" else KINDS[kind](levels / 255, rng)


def readings(reader: Reader, corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Every ink of the validation split, and a picture of each, as read."""
    indices = [int(i) for i in corpus.valid]
    for start in range(0, len(indices), 50):
        part = indices[start : start + 50]
        samples = [from_pack(corpus.pack, i) for i in part]
        read = read_samples(reader.model, samples, reader.vocabulary, reader.view, BEAM,
                            area=1_500, most=16)
        for index, found in zip(part, read, strict=True):
            yield {"kind": "ink", "truth": corpus.pack.tokens(index),
                   "found": [(reader.vocabulary.decode(h.tokens), h.score) for h in found]}
    for number, index in enumerate(indices):
        kind, drawn = picture(corpus, index, number)
        try:
            found = [(r.tokens, r.score) for r in recognize(drawn, BEAM, reader)]
        except (DataError, InkError):
            continue
        yield {"kind": kind, "truth": corpus.pack.tokens(index), "found": found}


def right_tokens(found: Sequence[str], truth: Sequence[str]) -> np.ndarray:
    """(n,) bool: which tokens of a reading stand in the truth too, where the two are aligned."""
    right = np.zeros(len(found), bool)
    for step in Levenshtein.opcodes(found, truth):
        if step.tag == "equal":
            right[step.src_start : step.src_end] = True
    return right


def error(sure: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error of probabilities (n,), in `BINS` bins of equally many."""
    bins = np.array_split(np.argsort(sure, kind="stable"), BINS)
    return float(sum(len(b) * abs(sure[b].mean() - right[b].mean()) for b in bins) / len(sure))


def curve(sure: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """Mean confidence, share that is right, and n of each bin."""
    bins = np.array_split(np.argsort(sure, kind="stable"), BINS)
    return [[round(float(sure[b].mean()), 4), round(float(right[b].mean()), 4), len(b)]
            for b in bins]


def fitted(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    """The map of features (n, 2) to probabilities."""
    return LogisticRegression(C=1e3).fit(x, y)


def checked(x: np.ndarray, y: np.ndarray, formula: np.ndarray, pictures: np.ndarray,
            before: np.ndarray) -> dict[str, Any]:
    """The weights, and how well they do on formulas that they were not fitted to."""
    after = np.zeros(len(y))
    for train, test in GroupKFold(FOLDS).split(x, y, formula):
        after[test] = fitted(x[train], y[train]).predict_proba(x[test])[:, 1]
    rng, kept = np.random.default_rng(0), fitted(x, y)
    # So many readings have an error even where every confidence is true.
    least = np.mean([error(after, rng.random(len(after)) < after) for _ in range(200)])
    parts = {"ink": ~pictures, "pictures": pictures}
    return {
        "weights": [round(float(w), 4) for w in (*kept.intercept_, *kept.coef_[0])],
        "n": len(y), "right": round(float(y.mean()), 4),
        "ece_before": round(error(before, y), 4), "ece_after": round(error(after, y), 4),
        "ece_if_true": round(float(least), 4),
        **{f"ece_after_{name}": round(error(after[part], y[part]), 4)
           for name, part in parts.items()},
        "brier_before": round(float(brier_score_loss(y, before)), 4),
        "brier_after": round(float(brier_score_loss(y, after)), 4), "curve": curve(after, y),
    }


def calibrated(rows: Rows) -> dict[str, Any]:
    """Weights and checks for whole readings and for their tokens."""
    rows = [row for row in rows if row["found"]]
    both = [features(row["found"]) for row in rows]
    best = [row["found"][0] for row in rows]
    numbers: dict[tuple[str, ...], int] = {}
    formula = np.array([numbers.setdefault(tuple(row["truth"]), len(numbers)) for row in rows])
    pictures = np.array([row["kind"] != "ink" for row in rows])
    exact = np.array([list(tokens) == list(row["truth"]) for row, (tokens, _) in zip(rows, best)])
    own = np.exp([score * (len(tokens) + 1) for tokens, score in best])
    whole = checked(np.array([x for x, _ in both]), exact, formula, pictures, own)
    many = [len(tokens) for tokens, _ in best]
    x = np.concatenate([each for _, each in both])
    right = np.concatenate([right_tokens(t, row["truth"]) for row, (t, _) in zip(rows, best)])
    agreed = 1 / (1 + np.exp(-x[:, 1]))
    token = checked(x, right, np.repeat(formula, many), np.repeat(pictures, many), agreed)
    return {"formulas": len(numbers), "whole": whole, "token": token}


def main() -> None:
    """Read, fit, check and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anew", action="store_true", help="read again what was read before")
    anew = parser.parse_args().anew
    reader = Reader.load()
    read = cache_root() / f"calibration-{reader.run}.json"
    if anew or not read.is_file():
        write_atomic(read, json.dumps(list(readings(reader, load_corpus("crohme")))))
    rows = json.loads(read.read_text("utf-8"))
    found = calibrated(rows)
    maps = {name: found[name].pop("weights") for name in ("whole", "token")}
    kept = json.dumps({"run": reader.run, **maps}, indent=1)
    write_atomic(reader.path.with_name(CONFIDENCE), kept + "\n")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                            text=True, check=True).stdout.strip()
    record = {"run": reader.run, "beam": BEAM, "commit": commit,
              "date": f"{datetime.now(UTC):%Y-%m-%d}", **found}
    path = results_root() / "trials" / "calibration.json"
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    for name in ("whole", "token"):
        print(name, {key: value for key, value in found[name].items() if key != "curve"})


if __name__ == "__main__":
    main()
