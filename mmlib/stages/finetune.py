"""Stage 3: the decoder, and at a lower rate the encoder, learn to emit LaTeX from labelled ink.

Beside the two directions' cross-entropy stand two side losses that the segmentation of the training ink makes possible, an
option each, used by every arm or by none: the class of the symbol at each ink point, read from the features there, and the
place of each written symbol, taught to one cross-attention head. Published rows do not use them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.data import DataError
from mmlib.data.batches import Feed
from mmlib.data.corpus import Corpus, load_corpus
from mmlib.data.samples import AugmentConfig, Augmenter, Batch, symbol_classes
from mmlib.latex import Vocabulary
from mmlib.losses.gather import mean_over_processes
from mmlib.masking import hide
from mmlib.metrics.recognition import score
from mmlib.models.layers import channels_last
from mmlib.models.recogniser import LARGE, LARGE_SYMBOL, SMALL, TINY, ModelConfig, Recogniser
from mmlib.models.search import both_directions, prefixes
from mmlib.recognize import Reader
from mmlib.runs import Run, RunError, digest, training_cost
from mmlib.stages.evaluate import best_tokens, read_pack
from mmlib.stages.loop import Loop, OptimConfig, accelerator, feeding, half, initial_run, optimizer
from mmlib.views import InkBatch, View, ViewConfig, make_view, sample

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
    cover: tuple[float, float] = field(default=(0.0, 0.0), metadata={"neutral": (0.0, 0.0)})  # range of the ink's share covered

    @classmethod
    def preset(cls, profile: str, **overrides: Any) -> Config:
        """smoke: seconds; ablate: minutes, for the grid of `mmlib.ablate`; desk: about 25 minutes on 2 cores; paper: within 24
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


def point_loss(model: Recogniser, features: Tensor, view: View, ink: InkBatch, classes: Tensor, most: int = 3_000,
               gather: bool = False) -> Tensor:
    """Cross-entropy of the symbol's class at ink points (of all processes); features (b, d, h, w), classes (b, s)."""
    assert ink.symbol is not None
    known = torch.nonzero((ink.symbol >= 0) & view.kept)[:, 0]
    known = known[:: max(1, len(known) // most)]  # every so-manieth point: neighbours say the same
    target = classes[ink.owner[known], ink.symbol[known]]
    logits = model.symbols(sample(features, view.cells[known], ink.owner[known])).float()
    total = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    return mean_over_processes(total, (target >= 0).sum(), gather)


def guide_loss(attention: Tensor, view: View, batch: Batch, vocabulary: Vocabulary, gather: bool = False) -> Tensor:
    """-log of the attention's mass on the cells that hold the ink of the symbol being written.

    attention (b, 2, t + 1, at least cells): the guided head, both directions. Tokens without ink of their own (braces, script
    marks, the end) are left out.
    """
    b, _, h, w = view.valid.shape
    ink, symbols, cells = batch.ink, batch.labels.shape[1], view.cells.long()
    assert ink.symbol is not None
    known = (ink.symbol >= 0) & view.kept
    place = (ink.owner * symbols + ink.symbol) * h * w + cells[:, 1].clamp(0, h - 1) * w + cells[:, 0].clamp(0, w - 1)
    held = attention.new_zeros(b * symbols * h * w)
    held[place[known]] = 1
    held = held.view(b, symbols, h * w)
    length = (batch.tokens != vocabulary.pad).sum(1, keepdim=True)
    written = both_directions(batch.token_symbols, length)  # (b, 2, t): the symbol that each step writes
    rows, directions, steps = torch.nonzero(written >= 0, as_tuple=True)
    mass = (attention[rows, directions, steps, : h * w] * held[rows, written[rows, directions, steps]]).sum(-1)
    return mean_over_processes(-(mass + 1e-3).log().sum(), len(mass), gather)


def sequence_loss(logits: Tensor, targets: Tensor, vocabulary: Vocabulary, smoothing: float, gather: bool = False) -> Tensor:
    """Cross-entropy a token, over both directions (and all processes); logits (b, 2, t + 1, v), targets (b, 2, t + 1)."""
    total = F.cross_entropy(logits.float().flatten(0, 2), targets.flatten(), ignore_index=vocabulary.pad,
                            label_smoothing=smoothing, reduction="sum")
    return mean_over_processes(total, (targets != vocabulary.pad).sum(), gather)


def disturb(inputs: Tensor, share: float, vocabulary: Vocabulary, rng: torch.Generator) -> Tensor:
    """Replace a share of the decoder's input tokens (b, 2, t) by random ones, so that it must look and not recite."""
    if not share:
        return inputs
    hit = (torch.rand(inputs.shape, generator=rng) < share).to(inputs.device) & (inputs > vocabulary.unk)
    return torch.where(hit, torch.randint(vocabulary.unk + 1, len(vocabulary), inputs.shape, generator=rng).to(inputs.device),
                       inputs)


def covered(view: View, ink: InkBatch, config: Config, rng: torch.Generator) -> Tensor:
    """The picture (b, 2, H, W) of a view with stage 2's covers as mere augmentation: at random, and marked.

    Each expression's share of covered ink length is uniform in `config.cover`. The labels, and the side losses' ink, stay: what
    is hidden is to be inferred.
    """
    low, high = config.cover
    ratio = low + (high - low) * torch.rand(ink.b, generator=rng).to(ink.owner.device)
    return hide(view, ink, ratio, config.view.symbol, rng)[1]


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
        optim = optimizer([model.decoder, model.symbols, model.scalars], config.optim,
                          slow=[m for m in (model.encoder, model.attention) if m is not None], factor=config.encoder_rate)
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
        warps = replace(config.view, scale=0.0)  # the feed has drawn the sizes
        model, optim = tools.prepare(model, optim)
        several = tools.num_processes > 1

        def step(batch: Batch, pictures: int) -> tuple[Tensor, dict[str, Any]]:
            rng = torch.Generator().manual_seed(config.seed * 1_000_003 + pictures)
            batch = batch.to(tools.device)
            view = make_view(batch.ink, warps, rng)
            picture = covered(view, batch.ink, config, rng) if any(config.cover) else view.picture
            inputs, targets = prefixes(batch.tokens, vocabulary)
            logits, attention, encoded = model(picture, view.valid, disturb(inputs, config.input_noise, vocabulary, rng))
            sequence = sequence_loss(logits, targets, vocabulary, config.smoothing, several)
            loss, numbers = sequence, {"sequence": sequence.detach()}
            if config.point_weight:
                point = point_loss(tools.unwrap_model(model), encoded.features, view, batch.ink,
                                   symbol_classes(batch), gather=several)
                loss, numbers["point"] = loss + config.point_weight * point, point.detach()
            if config.guide_weight:
                guide = guide_loss(attention, view, batch, vocabulary, several)
                loss, numbers["guide"] = loss + config.guide_weight * guide, guide.detach()
            return loss, numbers

        look = corpus.look(config.eval_most)
        look = look[corpus.pack.flat.valid[look]]

        def evaluate(pictures: int) -> dict[str, float]:
            learner = tools.unwrap_model(model)
            found = read_pack(learner, corpus.pack, look, vocabulary, config.view, beam=1, device=tools.device)
            result = score(best_tokens(found, vocabulary), [corpus.pack.tokens(i) for i in look])
            return {"ter": result.ter, "exprate": result.exprate, "within1": result.within1,
                    "structure": result.structure_rate, "n": len(look), "gamma": float(learner.scalars["gamma"])}

        loop = Loop(this, tools, {"model": model}, optim, config.optim, config.pictures, step, feed, evaluate,
                    config.eval_pictures, progress=progress)
        last = loop.train(max_minutes, max_steps)
        earlier = training_cost(start) if start else (reader.pictures, reader.minutes) if reader else (0, 0.0)
        this.save_weights(half(tools.unwrap_model(model).state_dict()), {
            "config": this.config, "vocabulary": list(vocabulary.tokens), "run": this.name,
            "pictures": last["pictures"] + earlier[0], "minutes": round(this.minutes + earlier[1], 2)})
        known = {"earlier_pictures": reader.pictures, "earlier_minutes": round(reader.minutes, 2)} if reader else {}
        this.finish(**last, expressions=len(indices), **known)  # of a weights file no run says what it cost
        tools.wait_for_everyone()
    return this
