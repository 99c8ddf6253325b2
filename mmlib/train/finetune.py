"""Stage 3: the decoder, and at a lower rate the encoder, learn to emit LaTeX from labelled ink.

Beside the two directions' cross-entropy stand two side losses that the segmentation of the training ink makes possible, an
option each, used by all arms that are compared with each other or by none: the class of the symbol at each ink point, read from
the features there, and the place of each written symbol, taught to one cross-attention head. Published rows do not use them.
Further options are off by default: levers of the grid (`mmlib.study.grid`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmlib.data.augment import AugmentConfig, Augmenter
from mmlib.data.batches import Feed
from mmlib.data.corpus import Corpus, load_corpus
from mmlib.data.errors import DataError
from mmlib.data.sample import Batch, symbol_classes
from mmlib.draw.masks import mask_view
from mmlib.draw.views import InkBatch, View, ViewConfig, make_view
from mmlib.formula.vocabulary import Vocabulary
from mmlib.losses.reading import guide_loss, point_loss, sequence_loss
from mmlib.measure.recognition import score
from mmlib.models.layers import channels_last, ema_update
from mmlib.models.recogniser import LARGE, LARGE_SYMBOL, SMALL, TINY, ModelConfig, Recogniser
from mmlib.models.search import prefixes
from mmlib.read.batch import best_tokens, read_pack
from mmlib.read.reader import Reader
from mmlib.store.files import RunError, digest
from mmlib.store.run import Run
from mmlib.train.cost import training_cost
from mmlib.train.loop import Loop, OptimConfig, accelerator, feeding, half, initial_run, optimizer

CODE_VERSION = "3"


@dataclass(frozen=True)
class Config:
    """Stage 3, every choice."""

    dataset: str = "auto"  # 'crohme', 'synthetic', or 'auto': CROHME where it is found
    seed: int = 0
    init: str = "none"  # 'none' (random weights), 'pretrain', 'attend', 'recogniser' (the one that ships), or a run's folder name
    labels: float = 1.0  # share of the training labels used
    pictures: int = 40_000  # budget
    composed: float = 1.0  # expressions composed from real symbols an epoch, as a multiple of the real ones
    batch_area: float = 1_000.0  # square typical symbols a batch, padding included
    batch_most: int = 48
    encoder_rate: float = 1.0  # of the decoder's learning rate, for the encoder and the attention network
    input_noise: float = 0.15  # share of the decoder's input tokens replaced by random ones
    smoothing: float = 0.05  # of the labels
    point_weight: float = 1.0  # side loss: symbol class at ink points
    guide_weight: float = 0.5  # side loss: cross-attention on the symbol's ink
    full_data: bool = False  # also train on the validation split (headline runs, schedule fixed before)
    eval_pictures: int = 10_000  # between two looks at the validation split
    eval_most: int = 256  # expressions in such a look
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-3))
    view: ViewConfig = field(default_factory=ViewConfig)
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(
        symbol=0.15, subexpression=0.15, join=0.1, swap_hand=0.15, relabel=0.3))
    mask_share: tuple[float, float] = field(default=(0.0, 0.0), metadata={"neutral": (0.0, 0.0)})  # range of the ink's share masked
    average: int = field(default=0, metadata={"neutral": 0})  # steps over which the weights that read are averaged; 0: the last

    @classmethod
    def preset(cls, profile: str, **overrides: Any) -> Config:
        """smoke: seconds; ablate: minutes, for the grid of `mmlib.study.grid`; desk: about 25 minutes on 2 cores; paper: within 24
        minutes of all stages on one GPU."""
        return replace(PRESETS[profile], **overrides)


PRESETS = {
    "smoke": Config(dataset="synthetic", pictures=1_600, composed=0.0, eval_pictures=800, eval_most=48, init="attend",
                    optim=OptimConfig(lr=3e-3, warmup=100), model=TINY),
    "ablate": Config(init="attend", pictures=10_000, eval_pictures=5_000, optim=OptimConfig(lr=5e-3, warmup=1_000), model=SMALL),
    "desk": Config(init="attend"),
    "paper": Config(init="attend", pictures=1_500_000, batch_area=20_000.0, batch_most=256, eval_pictures=150_000,
                    eval_most=512, model=LARGE, view=ViewConfig(symbol=LARGE_SYMBOL)),
}


def disturb(inputs: Tensor, share: float, vocabulary: Vocabulary, rng: torch.Generator) -> Tensor:
    """Replace a share of the decoder's input tokens (b, 2, t) by random ones, so that it must look and not recite."""
    if not share:
        return inputs
    hit = (torch.rand(inputs.shape, generator=rng) < share).to(inputs.device) & (inputs > vocabulary.unk)
    return torch.where(hit, torch.randint(vocabulary.unk + 1, len(vocabulary), inputs.shape, generator=rng).to(inputs.device),
                       inputs)


def masked(view: View, ink: InkBatch, config: Config, rng: torch.Generator) -> Tensor:
    """The picture (b, 2, H, W) of a view with stage 2's mask as mere augmentation: at random, and marked.

    Each expression's share of masked ink length is uniform in `config.mask_share`. The labels, and the side losses' ink, stay:
    what is masked is to be inferred.
    """
    low, high = config.mask_share
    ratio = low + (high - low) * torch.rand(ink.b, generator=rng).to(ink.owner.device)
    return mask_view(view, ink, ratio, config.view.symbol, rng)[1]


def build(config: Config, corpus: Corpus, start: Run | None) -> Recogniser:
    """The recogniser; its encoder and attention network come from the run `start` where there is one."""
    torch.manual_seed(config.seed)
    model = Recogniser(len(corpus.vocabulary), config.model)
    channels_last(model)
    # What no loss reaches is frozen: several processes wait for every gradient.
    model.symbols.requires_grad_(config.point_weight > 0)
    uses = {"gamma": config.model.modulate, "slot_gate": config.model.slots, "slot_position": config.model.slots}
    for name, used in uses.items():
        model.scalars[name].requires_grad_(used and config.model.maps > 0)
    if model.attention is not None:
        model.attention.requires_grad_(config.model.modulate or config.model.slots)
    if start:
        weights, _ = start.load_weights()
        wanted = {k: v.float() for k, v in weights.items() if k.startswith(("encoder.", "attention."))}
        if config.model.maps == 0:
            wanted = {k: v for k, v in wanted.items() if k.startswith("encoder.")}
        missing = [k for k in model.load_state_dict(wanted, strict=False).missing_keys if k.startswith("encoder.")]
        if missing:
            raise RunError(f"{start.name} has no weights for {missing[:3]}")
    return model


def take_over(model: Recogniser, vocabulary: Vocabulary, reader: Reader) -> None:
    """Give a model of the reader's sizes the reader's weights; a token that the reader does not know keeps its random ones."""
    shared = [token for token in reader.vocabulary.tokens if token in vocabulary]
    there, here = (torch.tensor(words.encode(shared)) for words in (reader.vocabulary, vocabulary))
    weights = model.state_dict()
    for name, value in reader.model.state_dict().items():
        if name.startswith(("decoder.embed.", "decoder.logits.", "symbols.")):  # a row for each token
            weights[name][here] = value[there]
        else:
            weights[name].copy_(value)


def training_indices(config: Config, corpus: Corpus) -> np.ndarray:
    """The expressions trained on: a share `labels` of the training split (a nested choice by seed), or all of the set."""
    indices = np.concatenate([corpus.train, corpus.valid]) if config.full_data else corpus.train
    indices = indices[corpus.pack.flat.valid[indices]]
    if not len(indices):
        raise DataError(f"{corpus.name} has no labels to fine-tune on; stages 1 and 2 need none")
    if config.labels >= 1:
        return np.sort(indices)
    order = np.random.default_rng([config.seed, 17]).permutation(indices)
    return np.sort(order[: max(1, round(config.labels * len(order)))])


def run(config: Config, profile: str = "desk", max_minutes: float | None = None, max_steps: int | None = None,
        progress: bool = True) -> Run:
    """Fine-tune, or load what was fine-tuned before with this very configuration. Raises Paused at a limit."""
    tools = accelerator()
    with tools.main_process_first():  # the others find its packs
        corpus = load_corpus(config.dataset)
    indices = training_indices(config, corpus)
    reader = Reader.load() if config.init == "recogniser" else None
    if reader:  # as it is: its sizes, its view
        config = replace(config, model=reader.model.config, view=reader.view)
    config = replace(config, view=corpus.view(config.view))
    before = ("none" if reader else config.init, profile, config.dataset, config.seed, max_minutes, max_steps)
    start = initial_run(*before, weights=False)
    if not corpus.pack.flat.aligned[indices].any():  # nothing to compose from
        config = replace(config, composed=0.0)
    inputs = {"data": corpus.identity, "init": f"recogniser-{digest(reader.path)}" if reader else start.name if start else "none",
              "composed": corpus.composed_name(indices) if config.composed else "none"}
    this = Run.open("finetune", profile, config, inputs, CODE_VERSION)
    if this.done:
        return this
    if start and not start.weights.is_file():
        start = initial_run(*before)
    with this.lock(tools.is_main_process):
        vocabulary = corpus.vocabulary
        model = build(config, corpus, start)
        if reader:
            take_over(model, vocabulary, reader)
        ours = [model.decoder, model.symbols, model.scalars]
        theirs = [m for m in (model.encoder, model.attention) if m is not None]
        optim = optimizer(ours, config.optim, slow=theirs, factor=config.encoder_rate)
        held = frozenset() if config.full_data else corpus.held_formulas()
        sources: list[tuple[Augmenter, int | None]] = [(Augmenter(corpus.pack, indices, config.augment, vocabulary, held), None)]
        if config.composed:
            with tools.main_process_first():
                pack = corpus.composed(indices)
            light = replace(config.augment, join=0.0, relabel=0.0, swap_hand=0.0)
            composed = Augmenter(pack, np.arange(len(pack)), light, vocabulary, held)
            sources.append((composed, round(config.composed * len(indices))))
        feed = Feed(sources, config.batch_area, config.batch_most, config.seed, scale=config.view.scale,
                    **feeding(tools))
        average = copy.deepcopy(model).requires_grad_(False).to(tools.device) if config.average else None
        model, optim = tools.prepare(model, optim)
        learner: Recogniser = tools.unwrap_model(model)
        several = tools.num_processes > 1

        def step(batch: Batch, pictures: int) -> tuple[Tensor, dict[str, Any]]:
            rng = torch.Generator().manual_seed(config.seed * 1_000_003 + pictures)
            batch = batch.to(tools.device)
            warps = replace(config.view, scale=0.0)  # the feed has drawn the scales
            view = make_view(batch.ink, warps, rng)
            picture = masked(view, batch.ink, replace(config, view=warps), rng) if any(config.mask_share) else view.picture
            inputs, targets = prefixes(batch.tokens, vocabulary)
            inputs = disturb(inputs, config.input_noise, vocabulary, rng)
            logits, attention, encoded = model(picture, view.valid, inputs)
            sequence = sequence_loss(logits, targets, vocabulary, config.smoothing, several)
            loss, numbers = sequence, {"sequence": sequence.detach()}
            if config.point_weight:
                classes = symbol_classes(batch)
                point = point_loss(learner, encoded.features, view, batch.ink, classes, gather=several)
                loss, numbers["point"] = loss + config.point_weight * point, point.detach()
            if config.guide_weight:
                guide = guide_loss(attention, view, batch, vocabulary, several)
                loss, numbers["guide"] = loss + config.guide_weight * guide, guide.detach()
            return loss, numbers

        look = corpus.validation_subset(config.eval_most)
        look = look[corpus.pack.flat.valid[look]]

        def after_step(pictures: int) -> None:
            if average is not None:
                ema_update(average, learner, 1 / config.average)

        reading = learner if average is None else average

        def evaluate(pictures: int) -> dict[str, float]:
            found = read_pack(reading, corpus.pack, look, vocabulary, config.view, beam=1, device=tools.device)
            result = score(best_tokens(found, vocabulary), [corpus.pack.tokens(i) for i in look])
            return {"ter": result.ter, "exprate": result.exprate, "within1": result.within1,
                    "structure": result.structure_rate, "n": len(look), "gamma": float(reading.scalars["gamma"])}

        kept: dict[str, nn.Module] = {"model": model}
        if average is not None:
            kept["average"] = average
        loop = Loop(this, tools, kept, optim, config.optim, config.pictures, step, feed, evaluate, config.eval_pictures,
                    after_step=after_step, progress=progress)
        last = loop.train(max_minutes, max_steps)
        earlier = training_cost(start) if start else (reader.pictures, reader.minutes) if reader else (0, 0.0)
        this.save_weights(half(reading.state_dict()), {
            "config": this.config, "vocabulary": list(vocabulary.tokens), "run": this.name,
            "pictures": last["pictures"] + earlier[0], "minutes": round(this.minutes + earlier[1], 2)})
        known = {"earlier_pictures": reader.pictures, "earlier_minutes": round(reader.minutes, 2)} if reader else {}
        this.finish(**last, expressions=len(indices), **known)  # of a weights file no run says what it cost
        tools.wait_for_everyone()
    return this
