"""How well clusters of ink, found without labels, agree with the symbols that people named.

    python -m scripts.trials.clusters

The clusters are those of masked reading in the study. Each unit of CROHME's validation ink is held
against the segmentation: its symbol is the one that most of its points belong to. Purity is the
share of units whose symbol is the most frequent one of their cluster.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.metrics import normalized_mutual_info_score

from mmlib.data.corpus import Corpus, load_corpus
from mmlib.data.sample import collate, from_pack, symbol_classes
from mmlib.data.unit_shapes import clustered_units
from mmlib.store.files import write_atomic
from mmlib.store.machine import commit, utc, versions
from mmlib.train import profiles
from mmlib.train.masked_reading import ink_clusters
from scripts.trials import OUTCOMES


def named_units(corpus: Corpus, centres: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cluster and symbol class of each unit of the validation split that has a symbol."""
    for i in np.sort(corpus.valid):
        sample = from_pack(corpus.pack, int(i))
        unit, named = clustered_units(sample.points, sample.stroke, centres)
        classes = symbol_classes(collate([sample])).numpy()[0]
        for u, cluster in enumerate(named):
            symbols = sample.symbol[unit[sample.stroke] == u]
            if (symbols >= 0).any():
                yield int(cluster), int(classes[np.bincount(symbols[symbols >= 0]).argmax()])


def agreement(pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Purity, normalised mutual information and counts of (cluster, class) pairs."""
    clusters, classes = np.array(pairs).T
    most = sum(np.bincount(classes[clusters == c]).max() for c in np.unique(clusters))
    return {
        "units": len(pairs), "clusters": len(np.unique(clusters)),
        "classes": len(np.unique(classes)), "purity": round(most / len(pairs), 4),
        "most frequent class": round(np.bincount(classes).max() / len(pairs), 4),
        "normalised mutual information": round(normalized_mutual_info_score(classes, clusters), 4),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("scripts.trials.clusters", description=__doc__)
    parser.add_argument("--dataset", default="crohme")
    args = parser.parse_args(argv)
    corpus, config = load_corpus(args.dataset), profiles.preset("attend", "study")
    centres = ink_clusters(corpus.pack, corpus.train, config.reading, config.seed)
    outcome = {"dataset": args.dataset, **agreement([*named_units(corpus, centres)]),
               "commit": commit(), "versions": versions(), "utc": utc()}
    write_atomic(OUTCOMES / "clusters.json", json.dumps(outcome, indent=1) + "\n")
    print(json.dumps(outcome, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
