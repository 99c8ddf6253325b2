"""The study's second endpoint: the validation loss of the hypotheses' arms, in nats per token.

    python -m scripts.trials.second_endpoint RESULTS

RESULTS is where the study was trained (`MMLIB_RESULTS`), with the weights of its runs; which run is
which arm and seed, the table of runs says. Cross-entropy of the truth given the truth before it,
without smoothing, over both directions and all expressions of the split, drawn as they are read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from mmlib.data.batches import batches_by_area
from mmlib.data.corpus import Corpus, load_corpus
from mmlib.data.sample import collate, from_pack
from mmlib.draw.views import make_view
from mmlib.losses.reading import sequence_loss
from mmlib.models.search import prefixes
from mmlib.read.reader import Reader
from mmlib.store.files import write_atomic
from mmlib.store.machine import commit, hardware, utc, versions
from mmlib.study import claims, results
from mmlib.study.arms import PROFILE, Budget, questions
from scripts.trials import OUTCOMES


@torch.inference_mode()
def validation_loss(reader: Reader, corpus: Corpus) -> float:
    """Nats per token of the validation split."""
    samples = [from_pack(corpus.pack, int(i)) for i in np.sort(corpus.valid)]
    extents = np.array([np.ptp(sample.points, axis=0) for sample in samples])
    nats = tokens = 0.0
    for group in batches_by_area(extents, 2_000.0, 32):
        batch = collate([samples[i] for i in group])
        view = make_view(batch.ink, reader.view.still(1.0), torch.Generator().manual_seed(0))
        inputs, targets = prefixes(batch.tokens, reader.vocabulary)
        logits, _, _ = reader.model(view.picture, view.valid, inputs)
        written = int((targets != reader.vocabulary.pad).sum())
        nats += written * float(sequence_loss(logits, targets, reader.vocabulary, 0.0))
        tokens += written
    return nats / tokens


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("scripts.trials.second_endpoint", description=__doc__)
    parser.add_argument("results", type=Path)
    args = parser.parse_args(argv)
    corpus, arms = load_corpus("crohme"), questions(Budget.of())["hypotheses"]
    wanted = {name: row for name, row in results.run_rows().items()
              if row["stage"] == "finetune" and row["profile"] == PROFILE
              and row["arm"] in arms and int(row["seed"]) in claims.SEEDS
              and (args.results / "runs" / name / "weights.safetensors").is_file()}
    rows = [{"run": name, "arm": row["arm"], "seed": int(row["seed"]), "nats per token": round(
        validation_loss(Reader.load(args.results / "runs" / name), corpus), 5)}
        for name, row in tqdm(wanted.items(), unit="run")]
    outcome = {"n": len(corpus.valid), "rows": rows, "hardware": hardware(), "commit": commit(),
               "versions": versions(), "utc": utc()}
    write_atomic(OUTCOMES / "second_endpoint.json", json.dumps(outcome, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
