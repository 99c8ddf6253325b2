"""Reading a whole data set with a recogniser, and scoring it: rows for the records, outcomes for the intervals.

An evaluation is a run of its own, named by the weights, the data and the settings it used. Tests are read by the listed
headline runs alone (DESIGN.md, "No leakage"); `evaluate` writes a record only where it is given the arm's name.

Occlusion: a share of each expression's ink length is masked, by boxes as stage 2 draws them at random, before any model is
asked, so that every arm reads the same ink. A mask is visible (the picture's second channel marks it, as in stage 2) or, as a
silent removal, the same picture without the mark. In the records `occlusion` is the share, and the metrics of a silent removal
are named so: `ter` is read under a visible mask, `ter:removed` without the mark. A recogniser that never saw a mask has
untrained weights for the mark, so its own visible numbers mean little beside its removals.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib.data.corpus import load_corpus, resolved, synthetic_pack
from mmlib.data.crohme import DATASETS
from mmlib.data.errors import DataError
from mmlib.data.pack import Indices, Pack
from mmlib.data.prepare import load_pack
from mmlib.data.sample import Sample, from_pack
from mmlib.draw.masks import BLOCK, mask_ink, masked_picture, random_streams
from mmlib.draw.raster import arc_length
from mmlib.draw.views import InkBatch, View
from mmlib.measure.lgeval import export
from mmlib.measure.recognition import Score, outcomes
from mmlib.models.layers import default_device
from mmlib.models.recogniser import Recogniser
from mmlib.read.batch import best_tokens, read_samples
from mmlib.read.reader import Reader
from mmlib.store.runs import Run, digest, write_atomic
from mmlib.study.records import append

CODE_VERSION = "1"
METRICS = {"ter": "ter", "exprate": "exprate", "within1": "within1", "within2": "within2", "within3": "within3",
           "structure": "structure_rate", "hallucination": "hallucination"}
TESTS = tuple(name for name in DATASETS if name.startswith("test"))
OCCLUSION_SEED = 0  # of the ink that is masked: one for all arms


@dataclass(frozen=True)
class Config:
    """One evaluation."""

    dataset: str = "synthetic"
    split: str = "test"
    beam: int = 5
    both: bool = True  # l2r and r2l with joint scoring; else l2r alone
    without: tuple[str, ...] = ()  # 'gamma' and 'slots' switch those uses of the attention off
    limit: int | None = None  # only the first so many expressions
    occlusion: float = field(default=0.0, metadata={"neutral": 0.0})  # share of ink length masked
    removal: bool = field(default=False, metadata={"neutral": False})  # silently, instead of visibly masked
    sizes: tuple[float, ...] = field(default=(1.0,), metadata={"neutral": (1.0,)})  # of the view's own, read together


def occluded(view: View, ink: InkBatch, ids: Sequence[str], share: float, symbol: float, removal: bool = False) -> Tensor:
    """The picture of a still view with a share of its ink length masked.

    Args:
        view: of the batch `ink`, not warped; symbol: its pixels a typical symbol.
        ids: the b expressions' names, which alone (with `OCCLUSION_SEED`) say where masks lie: what is masked at one share is
            masked at a larger one, whatever the model, its view's size and the batch.

    Returns:
        (b, 2, H, W) with the mask marked, or, for a silent removal, (b, 1, H, W): the same ink and no mark.
    """
    still, numbers = ink.to("cpu"), random_streams([OCCLUSION_SEED, zlib.crc32(name.encode())] for name in ids)
    arc = arc_length(still.points, still.stroke)
    _, boxes, owner = mask_ink(still.points, still.owner, arc, ink.b, share, numbers, block=BLOCK)
    first = torch.searchsorted(ink.owner, torch.arange(ink.b, device=ink.owner.device))
    origin = view.points[first] - ink.points[first] * symbol  # (b, 2) where the view puts the ink's own origin
    boxes, owner = boxes.to(origin.device), owner.to(origin.device)
    picture = masked_picture(view.picture, boxes * symbol + origin[owner].repeat(1, 2), owner)
    return picture[:, :1] if removal else picture


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a data set: samples, ids, canonical tokens (None where a label is not valid), LaTeX, and its digest."""

    samples: list[Sample]
    ids: list[str]
    tokens: list[tuple[str, ...] | None]
    latex: list[str | None]
    digest: str


def load_part(dataset: str, split: str) -> Part:
    """'crohme': valid, test_2014, test_2016, test_2016_pictures (256 pixels), test_2019; 'synthetic': valid, test.

    Raises DataError for others.
    """
    if split == "valid":
        corpus = load_corpus(dataset)
        return _part(corpus.pack, corpus.valid, corpus.identity)
    if dataset == "synthetic" and split == "test":
        pack = synthetic_pack("test")
    elif dataset == "crohme" and split in TESTS:
        pack = load_pack(split)
    else:
        raise DataError(f"{dataset} has no split {split!r}; synthetic: valid, test; crohme: valid, {', '.join(TESTS)}; "
                        "a folder of one's own: valid")
    return _part(pack, range(len(pack)), pack.digest)


def _part(pack: Pack, indices: Indices, identity: str) -> Part:
    indices = [int(i) for i in indices]
    return Part([from_pack(pack, i) for i in indices], [pack.ids[i] for i in indices], [pack.tokens(i) for i in indices],
                [pack.latex[i] for i in indices], identity)


def evaluate(weights: str | Path | None = None, dataset: str = "synthetic", split: str = "test", beam: int = 5,
             export_lgeval: str | Path | None = None, limit: int | None = None, arm: str | None = None, profile: str = "desk",
             both: bool = True, without: tuple[str, ...] = (), occlusion: float = 0.0, removal: bool = False,
             sizes: Sequence[float] = (1.0,)) -> Score:
    """Score a recogniser on a split of a data set.

    Args:
        weights: a weights file or a run's folder; by default the recogniser that ships.
        dataset, split: see `load_part`.
        export_lgeval: a folder for predictions and truth in the layout of CROHME's LgEval tools.
        arm: writes records under this name; without it, nothing is recorded.
        without: 'gamma', 'slots': uses of the attention to switch off.
        occlusion, removal: share of ink length to mask, visibly or silently: see the module's docstring.
        sizes: at which each expression is drawn and read, of the recogniser's own.

    Returns:
        the score. The run's folder keeps `outcomes.csv` (no labels), and `predictions.tsv`, which git ignores; without an arm,
        all else that is kept of a run that is done stays as it is.
    """
    if not 0 <= occlusion < 1 or (removal and not occlusion):
        raise DataError(f"occlusion is {occlusion}{' and removal asked for' * removal}; a share to mask is above 0 and below 1")
    dataset = resolved(dataset)
    config = Config(dataset, split, beam, both, tuple(without), limit, occlusion, removal, tuple(sizes))
    device = default_device()
    reader, part = Reader.load(weights, device), load_part(dataset, split)
    this = Run.open("evaluate", profile, config, {"weights": digest(reader.path), "data": part.digest}, CODE_VERSION)
    again = this.done and not arm  # scored once more, say to export it: what is kept, and may be recorded, stays as it is
    with this.lock():
        model = switched_off(reader.model, without)
        n = min(limit or len(part.ids), len(part.ids))

        def mask(view: View, ink: InkBatch, indices: np.ndarray, symbol: float) -> Tensor:
            return occluded(view, ink, [part.ids[i] for i in indices], occlusion, symbol, removal)

        found = read_samples(model, part.samples[:n], reader.vocabulary, reader.view, beam, both, device, sizes=sizes,
                             mask=mask if occlusion else None)
        best = best_tokens(found, reader.vocabulary)
        result = outcomes(best, part.tokens[:n], part.ids[:n], [h[0].score if h else float("nan") for h in found])
        score = result.summary()
        text = io.StringIO()
        csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None).writerows(
            zip(part.ids[:n], map(" ".join, best), strict=True))
        write_atomic(this.folder / "predictions.tsv", text.getvalue())
        if not again:
            result.write_csv(this.folder / "outcomes.csv")
            this.finish(**asdict(score), arm=arm, trained=reader.run, outcomes=digest(this.folder / "outcomes.csv"))
    if export_lgeval:
        export(export_lgeval, part.ids[:n], best, [t if t is not None else raw for t, raw in zip(part.tokens, part.latex,
                                                                                              strict=True)][:n])
    if arm and not limit:
        append({"run": this.name, "stage": "evaluate", "profile": profile, "arm": arm, "dataset": dataset, "split": split,
                "labels": labels_used(reader.config, dataset), "occlusion": occlusion, "seed": reader.config["seed"],
                "metric": name + ":removed" * removal, "value": getattr(score, key), "n": score.n, "pictures": reader.pictures,
                "minutes": round(reader.minutes, 2)} for name, key in METRICS.items())
    return score


def labels_used(trained: Mapping[str, Any], dataset: str) -> float:
    """The share of a data set's training labels that a fine-tuning with this configuration used: of real ink none, where the
    training's was synthetic."""
    real = dataset != "synthetic" and trained.get("dataset") == "synthetic"
    return 0.0 if real else float(trained.get("labels", 1.0))


def switched_off(model: Recogniser, without: Sequence[str]) -> Recogniser:
    """The recogniser without some uses of its attention: 'gamma' (no modulation), 'slots' (none in the memory)."""
    from copy import copy
    from dataclasses import replace

    if unknown := set(without) - {"gamma", "slots"}:
        raise ValueError(f"cannot switch off {sorted(unknown)}; choose from gamma, slots")
    if not without:
        return model
    other = copy(model)  # shares the weights
    other.config = replace(model.config, modulate=model.config.modulate and "gamma" not in without,
                           slots=model.config.slots and "slots" not in without)
    return other
