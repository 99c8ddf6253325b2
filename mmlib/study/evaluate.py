"""Reading a whole data set with a recogniser, and scoring it.

An evaluation is a run of its own, named by the weights, the data and the settings that it used.
It writes records, and joins the tables of results, only where it is given an arm's name. Tests are
read by the listed headline runs alone.

Occlusion: a share of each expression's ink length is masked, by boxes as stage 2 draws them at
random, before any model is asked, so that every arm reads the same ink. A mask is visible (the
picture's second channel marks it, as in stage 2) or, as a silent removal, the same picture without
the mark. In the records `occlusion` is the share; `ter` is read under a visible mask, `ter:removed`
without the mark. A recogniser that never saw a mask has untrained weights for the mark, so its
numbers under a visible one mean little.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
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
from mmlib.formula.latex import depth
from mmlib.measure.lgeval import export
from mmlib.measure.recognition import Outcomes, Score, outcomes
from mmlib.models.layers import default_device
from mmlib.models.recogniser import Recogniser
from mmlib.read.batch import best_tokens, read_samples
from mmlib.read.reader import Reader
from mmlib.store.files import digest, write_atomic
from mmlib.store.run import Run
from mmlib.study import records, results

CODE_VERSION = "2"  # since 2, a search writes well-formed expressions alone
METRICS = {  # of the records, and the field of a score
    **{name: name for name in ("ter", "exprate", "within1", "within2", "within3")},
    "structure": "structure_rate",
    "hallucination": "hallucination",
}
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
    occlusion: float = 0.0  # share of ink length masked
    removal: bool = False  # silently, instead of visibly
    sizes: tuple[float, ...] = (1.0,)  # of the view's own, read together


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a data set; canonical tokens are None where a label is not valid."""

    samples: list[Sample]
    ids: list[str]
    tokens: list[tuple[str, ...] | None]
    latex: list[str | None]
    digest: str

    def first(self, count: int) -> Part:
        """Only the first so many expressions."""
        samples, ids = self.samples[:count], self.ids[:count]
        return replace(self, samples=samples, ids=ids, tokens=self.tokens[:count],
                       latex=self.latex[:count])


def load_part(dataset: str, split: str) -> Part:
    """A split by name. Raises DataError for others than these.

    'crohme': valid, test_2014, test_2016, test_2016_pictures (256 pixels), test_2019; 'synthetic':
    valid, test; a folder of one's own: valid.
    """
    if split == "valid":
        corpus = load_corpus(dataset)
        return _part(corpus.pack, corpus.valid, corpus.identity)
    if dataset == "synthetic" and split == "test":
        pack = synthetic_pack("test")
    elif dataset == "crohme" and split in TESTS:
        pack = load_pack(split)
    else:
        raise DataError(
            f"{dataset} has no split {split!r}; synthetic: valid, test; crohme: valid, "
            f"{', '.join(TESTS)}; a folder of one's own: valid"
        )
    return _part(pack, range(len(pack)), pack.digest)


def occluded(view: View, ink: InkBatch, ids: Sequence[str], share: float, symbol: float,
             removal: bool = False) -> Tensor:
    """The picture of a still view with a share of its ink length masked.

    Args:
        view: of the batch `ink`, not warped.
        ids: the b expressions' names, which alone (with `OCCLUSION_SEED`) say where masks lie: what
            is masked at one share is masked at a larger one, whatever the model, the view's size
            and the batch.
        symbol: the view's pixels per typical symbol.

    Returns:
        (b, 2, H, W) with the mask marked, or, for a removal, (b, 1, H, W): the same ink, no mark.
    """
    still = ink.to("cpu")
    numbers = random_streams([OCCLUSION_SEED, zlib.crc32(name.encode())] for name in ids)
    arc = arc_length(still.points, still.stroke)
    _, boxes, owner = mask_ink(still.points, still.owner, arc, ink.b, share, numbers, block=BLOCK)
    first = torch.searchsorted(ink.owner, torch.arange(ink.b, device=ink.owner.device))
    origin = view.points[first] - ink.points[first] * symbol  # (b, 2) where the ink's origin lies
    boxes, owner = boxes.to(origin.device), owner.to(origin.device)
    picture = masked_picture(view.picture, boxes * symbol + origin[owner].repeat(1, 2), owner)
    return picture[:, :1] if removal else picture


def evaluate(weights: str | Path | Reader | None = None, dataset: str = "synthetic",
             split: str = "test", beam: int = 5, export_lgeval: str | Path | None = None,
             limit: int | None = None, arm: str | None = None, profile: str = "desk",
             both: bool = True,
             without: tuple[str, ...] = (), occlusion: float = 0.0, removal: bool = False,
             sizes: Sequence[float] = (1.0,)) -> Score:
    """Score a recogniser on a split of a data set.

    Args:
        weights: a weights file, a run's folder or a reader; by default the recogniser that ships.
        dataset, split: see `load_part`.
        export_lgeval: a folder for predictions and truth in the layout of CROHME's LgEval tools.
        limit: read only the first so many expressions; nothing is recorded.
        arm: writes records under this name, and adds what was read to the tables of results.
        without: 'gamma', 'slots': uses of the attention to switch off.
        occlusion, removal: share of ink length to mask, visibly or silently: see the module.
        sizes: at which each expression is drawn and read, of the recogniser's own.

    Raises:
        DataError: no such split, or a share to mask that is not above 0 and below 1.
    """
    if not 0 <= occlusion < 1 or (removal and not occlusion):
        asked = " and removal asked for" * removal
        raise DataError(f"occlusion is {occlusion}{asked}; a share to mask is above 0 and below 1")
    dataset = resolved(dataset)
    config = Config(dataset, split, beam, both, without, limit, occlusion, removal, tuple(sizes))
    reader, part = weights, load_part(dataset, split)
    if not isinstance(reader, Reader):
        reader = Reader.load(reader, default_device())
    part = part if limit is None else part.first(limit)
    inputs = {"weights": digest(reader.path), "data": part.digest}
    run = Run.open("evaluate", profile, config, inputs, CODE_VERSION)
    best, scores = _read(reader, part, config)
    found = outcomes(best, part.tokens, part.ids, scores)
    _keep(run, found, best, reader.run, arm)
    if export_lgeval:
        truth = [tokens or latex for tokens, latex in zip(part.tokens, part.latex, strict=True)]
        export(export_lgeval, part.ids, best, truth)
    if arm and not limit:
        _record(run, found.summary(), reader, arm)
        _keep_traits(dataset, split, part)
    return found.summary()


def labels_used(trained: Mapping[str, Any], dataset: str) -> float:
    """The share of a data set's training labels that a fine-tuning with this configuration used.

    None of real ink, where it trained on synthetic ink.
    """
    real = dataset != "synthetic" and trained.get("dataset") == "synthetic"
    return 0.0 if real else float(trained.get("labels", 1.0))


def switched_off(model: Recogniser, without: Sequence[str]) -> Recogniser:
    """The recogniser without 'gamma' (no modulation) or 'slots' (none in the memory)."""
    if unknown := set(without) - {"gamma", "slots"}:
        raise ValueError(f"cannot switch off {sorted(unknown)}; choose from gamma, slots")
    other, config = copy(model), model.config  # shares the weights
    other.config = replace(
        config,
        modulate=config.modulate and "gamma" not in without,
        slots=config.slots and "slots" not in without,
    )
    return other


def _read(reader: Reader, part: Part, config: Config) -> tuple[list[list[str]], list[float]]:
    """The best reading of each expression, as tokens, and its score."""

    def mask(view: View, ink: InkBatch, indices: np.ndarray, symbol: float) -> Tensor:
        ids = [part.ids[i] for i in indices]
        return occluded(view, ink, ids, config.occlusion, symbol, config.removal)

    model = switched_off(reader.model, config.without) if config.without else reader.model
    device = reader.model.scalars["gamma"].device
    found = read_samples(model, part.samples, reader.vocabulary, reader.view, config.beam,
                         config.both, device, most=reader.most, sizes=config.sizes,
                         mask=mask if config.occlusion else None, best=True)
    scores = [hypotheses[0].score if hypotheses else float("nan") for hypotheses in found]
    return best_tokens(found, reader.vocabulary), scores


def _keep(run: Run, found: Outcomes, best: Sequence[Sequence[str]], trained: str, arm: str | None
          ) -> None:
    """Write predictions.tsv, which is never committed, and outcomes.csv.

    Scored once more without an arm, say to export it, a finished run stays as it is.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE,
                        quotechar=None)
    writer.writerows(zip(found.id, map(" ".join, best), strict=True))
    with run.lock():
        write_atomic(run.folder / "predictions.tsv", text.getvalue())
        if arm or not run.done:
            found.write_csv(run.folder / "outcomes.csv")
            run.finish(**asdict(found.summary()), arm=arm, trained=trained)


def _record(run: Run, score: Score, reader: Reader, arm: str) -> None:
    dataset = Path(run.config["dataset"]).name
    shared = {
        "run": run.name,
        "stage": "evaluate",
        "profile": run.profile,
        "arm": arm,
        "dataset": dataset,
        "split": run.config["split"],
        "labels": labels_used(reader.config, dataset),
        "occlusion": run.config["occlusion"],
        "seed": reader.config["seed"],
        "n": score.n,
        "pictures": reader.pictures,
        "minutes": round(reader.minutes, 2),
    }
    mark = ":removed" * run.config["removal"]
    records.append(
        {**shared, "metric": name + mark, "value": getattr(score, key)}
        for name, key in METRICS.items()
    )
    results.collect()


def _keep_traits(dataset: str, split: str, part: Part) -> None:
    """Keep what figures need of a split's labels, once: nesting, and whether training has them."""
    if dataset in ("crohme", "synthetic") and not results.traits(split, dataset):
        corpus = load_corpus(dataset)
        trained = {corpus.pack.tokens(int(i)) for i in corpus.train} - {None}
        known = {i: tokens for i, tokens in zip(part.ids, part.tokens, strict=True) if tokens}
        results.add_traits(split, dataset, {
            i: {"depth": depth(tokens), "seen": int(tokens in trained)}
            for i, tokens in known.items()
        })  # fmt: skip


def _part(pack: Pack, indices: Indices, identity: str) -> Part:
    chosen = [int(i) for i in indices]
    samples, tokens = [from_pack(pack, i) for i in chosen], [pack.tokens(i) for i in chosen]
    latex = [pack.latex[i] for i in chosen]
    return Part(samples, [pack.ids[i] for i in chosen], tokens, latex, identity)
