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

import zlib
from collections.abc import Collection, Mapping, Sequence
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
from mmlib.data.pack import Pack
from mmlib.data.prepare import load_pack
from mmlib.draw.masks import BLOCK, mask_ink, masked_picture, random_streams
from mmlib.draw.raster import arc_length
from mmlib.draw.views import InkBatch, View
from mmlib.formula.latex import depth
from mmlib.measure.lgeval import export
from mmlib.measure.recognition import Score, outcomes
from mmlib.models.layers import default_device
from mmlib.models.recogniser import Recogniser
from mmlib.read.batch import best_tokens, read_pack
from mmlib.read.reader import Reader
from mmlib.store.files import digest
from mmlib.store.run import Run
from mmlib.study import results
from mmlib.study.comparisons import METRICS

CODE_VERSION = "2"  # since 2, a search writes well-formed expressions alone
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


def load_split(dataset: str, split: str) -> tuple[Pack, np.ndarray, str]:
    """A split by name: its pack, its expressions there, and the identity of the data.

    'crohme': valid, test_2014, test_2016, test_2016_pictures (256 pixels), test_2019; 'synthetic':
    valid, test; a folder of one's own: valid. Raises DataError for others.
    """
    if split == "valid":
        corpus = load_corpus(dataset)
        return corpus.pack, corpus.valid, corpus.identity
    if dataset == "synthetic" and split == "test":
        pack = synthetic_pack("test")
    elif dataset == "crohme" and split in TESTS:
        pack = load_pack(split)
    else:
        raise DataError(f"{dataset} has no split {split!r}; synthetic: valid, test; crohme: valid, "
                        f"{', '.join(TESTS)}; a folder of one's own: valid")
    return pack, np.arange(len(pack)), pack.digest


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
    # Each expression has its own stream, so that neither batch nor order moves a mask.
    numbers = random_streams([OCCLUSION_SEED, zlib.crc32(name.encode())] for name in ids)
    arc = arc_length(still.points, still.stroke)
    _, boxes, owner = mask_ink(still.points, still.owner, arc, ink.b, share, numbers, block=BLOCK)
    first = torch.searchsorted(ink.owner, torch.arange(ink.b, device=ink.owner.device))
    origin = view.points[first] - ink.points[first] * symbol  # (b, 2) where the ink's origin lies
    boxes, owner = boxes.to(origin.device), owner.to(origin.device)
    picture = masked_picture(view.picture, boxes * symbol + origin[owner].repeat(1, 2), owner)
    return picture[:, :1] if removal else picture


def evaluate(weights: str | Path | Reader | None, config: Config, *, arm: str | None = None,
             profile: str = "desk", export_lgeval: str | Path | None = None) -> Score:
    """Score a recogniser on a split of a data set.

    Args:
        weights: a weights file, a run's folder or a reader; None is the recogniser that ships.
        arm: writes records under this name, and adds what was read to the tables of results, unless
            only some expressions are read.
        profile: of the records.
        export_lgeval: a folder for predictions and truth in the layout of CROHME's LgEval tools.

    Raises:
        DataError: no such split, or a share to mask that is not above 0 and below 1.
    """
    if not 0 <= config.occlusion < 1 or (config.removal and not config.occlusion):
        asked = " and removal asked for" * config.removal
        raise DataError(f"occlusion is {config.occlusion}{asked}; a share to mask is above 0 and "
                        "below 1")
    config = replace(config, dataset=resolved(config.dataset))
    reader = weights if isinstance(weights, Reader) else Reader.load(weights, default_device())
    pack, indices, identity = load_split(config.dataset, config.split)
    indices = indices[: config.limit]
    ids, truth = [pack.ids[i] for i in indices], [pack.tokens(i) for i in indices]
    run = Run.open("evaluate", profile, config,
                   {"weights": digest(reader.path), "data": identity}, CODE_VERSION)
    best, scores = _read(reader, pack, indices, config)
    found = outcomes(best, truth, ids, scores)
    score = found.summary()
    with run.lock():
        if arm or not run.done:  # scored once more, say to export it, a finished run stays as it is
            found.write_csv(run.folder / "outcomes.csv")
            run.finish(**asdict(score), arm=arm, trained=reader.run)
    if export_lgeval:
        labels = [tokens or pack.latex[i] for i, tokens in zip(indices, truth, strict=True)]
        export(export_lgeval, ids, best, labels)
    if arm and not config.limit:
        mark = ":removed" * config.removal
        rows = [{"metric": name + mark, "value": getattr(score, name), "n": score.n}
                for name in METRICS]
        results.record(run, rows, arm=arm, split=config.split, occlusion=config.occlusion,
                       labels=labels_used(reader.config, config.dataset),
                       seed=reader.config["seed"], pictures=reader.pictures,
                       minutes=round(reader.minutes, 2))
        _keep_traits(config, dict(zip(ids, truth, strict=True)))
    return score


def labels_used(trained: Mapping[str, Any], dataset: str) -> float:
    """The share of a data set's training labels that a fine-tuning with this configuration used.

    None of real ink, where it trained on synthetic ink.
    """
    real = dataset != "synthetic" and trained.get("dataset") == "synthetic"
    return 0.0 if real else float(trained.get("labels", 1.0))


def switched_off(model: Recogniser, without: Collection[str]) -> Recogniser:
    """The recogniser without 'gamma' (no modulation) or 'slots' (none in the memory)."""
    if unknown := set(without) - {"gamma", "slots"}:
        raise ValueError(f"cannot switch off {sorted(unknown)}; choose from gamma, slots")
    other, config = copy(model), model.config  # shares the weights
    other.config = replace(config, modulate=config.modulate and "gamma" not in without,
                           slots=config.slots and "slots" not in without)
    return other


def _read(reader: Reader, pack: Pack, indices: np.ndarray, config: Config
          ) -> tuple[list[list[str]], list[float]]:
    """The best reading of each expression, as tokens, and its score."""

    def mask(view: View, ink: InkBatch, places: np.ndarray, symbol: float) -> Tensor:
        ids = [pack.ids[i] for i in indices[places]]
        return occluded(view, ink, ids, config.occlusion, symbol, config.removal)

    model = switched_off(reader.model, config.without) if config.without else reader.model
    found = read_pack(model, pack, indices, reader.vocabulary, reader.view, config.beam,
                      both=config.both, device=reader.model.scalars["gamma"].device,
                      most=reader.most, sizes=config.sizes,
                      mask=mask if config.occlusion else None, best=True)
    scores = [hypotheses[0].score if hypotheses else float("nan") for hypotheses in found]
    return best_tokens(found, reader.vocabulary), scores


def _keep_traits(config: Config, labels: Mapping[str, tuple[str, ...] | None]) -> None:
    """Keep what figures need of a split's labels, once: nesting, and whether training has them."""
    dataset, split = config.dataset, config.split
    if dataset in ("crohme", "synthetic") and not results.traits(split, dataset):
        corpus = load_corpus(dataset)
        trained = {corpus.pack.tokens(int(i)) for i in corpus.train}
        results.add_traits(split, dataset, {
            i: {"depth": depth(tokens), "seen": int(tokens in trained)}
            for i, tokens in labels.items() if tokens
        })  # fmt: skip
