"""How well symbols beyond CROHME's are read, by hands and pen strokes that training did not see.

    python -m scripts.symbols [WEIGHTS] --count 400 --record

Each symbol alone, and formulas composed with the symbols of validation's hands. Letters come from
Omniglot's held-out hands where they are there. Alone, K and k or O and 0 are one shape: a reading
as the other counts as alike, beside the exact ones.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

import numpy as np

from mmlib.data.corpus import load_corpus
from mmlib.data.omniglot import HELD_OUT, letters
from mmlib.formula.ink import Ink, typical_size
from mmlib.formula.vocabulary import BEYOND, DOT
from mmlib.read.reader import Reader
from mmlib.store.files import results_root
from mmlib.store.machine import commit, utc
from mmlib.synthetic.compose import compose
from mmlib.synthetic.glyphs import Banks, Collected
from mmlib.synthetic.hershey import HersheyBank

NEVER_ALONE = {r"\overline", DOT, ":", r"\circ"}
# Of one shape, where nothing beside them shows size or line.
ALIKE = [set("Kk") | {r"\kappa"}, set("Oo0"), set("Uu") | {r"\cup"}, {"v", r"\nu", r"\vee"},
         set("Ww") | {r"\omega"}, set("Zz"), set("Jj"), {r"\rho", "p"}, {r"\chi", "X", "x"},
         {r"\cap", "n", r"\eta"}, {r"\epsilon", r"\in"}]


def alone(each: int) -> list[Ink]:
    """Each symbol by itself, `each` times."""
    bank = Banks(Collected(letters(HELD_OUT)), HersheyBank(seed=1))
    return [compose([label], bank, np.random.default_rng([7, k, n]), f"held-{n}")
            for k, label in enumerate(BEYOND) if label not in NEVER_ALONE for n in range(each)]


def read(inks: list[Ink], reader: Reader) -> list[tuple[str, ...]]:
    """The best reading of each."""
    drawn = [(ink.points, ink.stroke, typical_size(ink.points, ink.stroke)) for ink in inks]
    return [readings[0].tokens if readings else () for readings in reader.read(drawn)]


def numbers(reader: Reader, count: int, each: int = 8) -> dict[str, float]:
    """Shares of symbols alone, of formulas, and of new symbols in formulas (by label)."""
    inks = alone(each)
    found = [(ink.tokens or (), tokens) for ink, tokens in zip(inks, read(inks, reader))]
    exact = [truth == tokens for truth, tokens in found]
    alike = [truth == tokens or (len(tokens) == 1 and any(
        {truth[0], tokens[0]} <= shape for shape in ALIKE)) for truth, tokens in found]
    corpus = load_corpus("crohme")
    pack = corpus.beyond(corpus.valid, count, held=True)
    formulas = [pack[i] for i in range(len(pack))]
    pairs = [(ink.tokens or (), tokens) for ink, tokens in zip(formulas, read(formulas, reader))]
    held = [Counter(t for t in truth if t in (*BEYOND, DOT)) for truth, _ in pairs]
    kept = [wanted & Counter(tokens) for wanted, (_, tokens) in zip(held, pairs)]
    return {
        "alone": len(inks), "alone_exact": float(np.mean(exact)),
        "alone_alike": float(np.mean(alike)), "formulas": len(pairs),
        "formulas_exact": float(np.mean([truth == tokens for truth, tokens in pairs])),
        "symbols": sum(map(Counter.total, held)),
        "symbols_read": sum(map(Counter.total, kept)) / sum(map(Counter.total, held)),
    }


def main() -> None:
    """Print the numbers, and record them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="?")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    reader = Reader.load(options.weights)
    found = numbers(reader, options.count)
    print("\n".join(f"{name:16} {value:.3f}" for name, value in found.items()))
    if options.record:
        kept = {"run": reader.run, "beam": 5, "commit": commit(), "utc": utc(), **found}
        path = results_root() / "trials" / "symbols.json"
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
