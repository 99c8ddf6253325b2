"""Stage 3: decoder and encoder, each at its own rate, learn to emit LaTeX from labelled ink.

Beside the two directions' cross-entropy stand two side losses that the segmentation of the training
ink makes possible: the class of the symbol at each ink point, read from the features there, and the
place of each written symbol, taught to one cross-attention head. Each is an option, used by all
arms that are compared with each other or by none. Published recognisers do not use them.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mmlib.data.augment import AugmentConfig, Augmenter
from mmlib.data.batches import Feed
from mmlib.data.corpus import Corpus
from mmlib.data.errors import DataError
from mmlib.data.pack import Pack
from mmlib.data.sample import Batch, symbol_classes
from mmlib.draw.masks import mask_view
from mmlib.draw.views import InkBatch, View, ViewConfig, make_view
from mmlib.formula.vocabulary import BEYOND, Vocabulary
from mmlib.losses.reading import disturb, guide_loss, point_loss, sequence_loss
from mmlib.measure.recognition import outcomes
from mmlib.models.layers import channels_last, ema_update
from mmlib.models.recogniser import ModelConfig, Recogniser
from mmlib.models.search import prefixes
from mmlib.read.batch import best_tokens, read_pack
from mmlib.read.reader import Reader
from mmlib.store.files import RunError, digest
from mmlib.store.run import Run
from mmlib.train.cost import training_cost
from mmlib.train.health import moved, weights_of
from mmlib.train.loop import EARLY, LossAndNumbers
from mmlib.train.optimiser import OptimConfig, optimizer
from mmlib.train.stage import Stage, feeding, train

PICTURED_MOST = 4_000  # of the expressions with new symbols that are traced from pictures
RECOMBINED = AugmentConfig(symbol=0.15, subexpression=0.15, join=0.1, swap_hand=0.15, relabel=0.3)


@dataclass(frozen=True)
class Config:
    """Stage 3, every choice."""

    dataset: str = "auto"  # 'crohme', 'synthetic', a path, or 'auto': CROHME where it is found
    seed: int = 0
    arm: str = ""  # of the study that asks for it; no part of the run's hash
    # 'none' (random), 'pretrain', 'attend', 'recogniser' (the one that ships), or a run's name
    init: str = "none"
    labels: float = 1.0  # share of the training labels used
    full_data: bool = False  # also train on validation (headline runs, schedule fixed before)
    pictures: int = 40_000  # budget
    composed: float = 1.0  # composed expressions per epoch, as a multiple of the real ones
    beyond: float = 0.0  # expressions per epoch with symbols beyond CROHME's, likewise
    pictured: float = 0.0  # share of samples whose ink was traced from a picture of it
    batch_area: float = 1_000.0  # square typical symbols per batch, padding included
    batch_most: int = 48  # expressions per batch
    encoder_rate: float = 1.0  # of the decoder's rate, for the encoder and the attention network
    encoder_ramp: int = 0  # pictures over which the encoder's rate rises from 0
    input_noise: float = 0.15  # share of the decoder's input tokens replaced by random ones
    smoothing: float = 0.05  # of the labels
    point_weight: float = 1.0  # side loss: symbol class at ink points
    guide_weight: float = 0.5  # side loss: cross-attention on the symbol's ink
    mask_share: tuple[float, float] = (0.0, 0.0)  # range of the share of ink length masked
    average: int = 0  # steps over which the weights that read are averaged; 0: the last ones
    eval_pictures: int = 10_000  # between two validations
    eval_most: int = 256  # expressions of the validation subset
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-3))
    view: ViewConfig = field(default_factory=ViewConfig)
    augment: AugmentConfig = RECOMBINED


def masked(view: View, ink: InkBatch, config: Config, rng: torch.Generator) -> Tensor:
    """The picture (b, 2, H, W) of a view with stage 2's mask as mere augmentation.

    Each expression's share of masked ink length is uniform in `config.mask_share`. The labels, and
    the side losses' ink, stay: what is masked is to be inferred.
    """
    low, high = config.mask_share
    ratio = low + (high - low) * torch.rand(ink.b, generator=rng).to(ink.owner.device)
    return mask_view(view, ink, ratio, config.view.symbol, rng)[1]


def build(config: Config, corpus: Corpus, start: Run | None) -> Recogniser:
    """The recogniser; its encoder and attention network come from the run `start` if there is one.

    Raises RunError if that run has no encoder.
    """
    torch.manual_seed(config.seed)
    model = channels_last(Recogniser(len(corpus.vocabulary), config.model))
    attends = config.model.maps > 0
    modulate, slots = attends and config.model.modulate, attends and config.model.slots
    # What no loss reaches is frozen: several processes wait for every gradient.
    model.symbols.requires_grad_(config.point_weight > 0)
    for name, used in (("gamma", modulate), ("slot_gate", slots), ("slot_position", slots)):
        model.scalars[name].requires_grad_(used)
    if model.attention is not None:
        model.attention.requires_grad_(modulate or slots)
    if start:
        weights, _ = start.load_weights()
        # Masked reading leaves a decoder too: its layers go on, its words are others.
        kept = ("encoder.", "decoder.layers.", "decoder.norm.",
                *(("attention.", "scalars.") if attends else ()))
        wanted = {k: v.float() for k, v in weights.items() if k.startswith(kept)}
        missing = model.load_state_dict(wanted, strict=False).missing_keys
        if missing := [name for name in missing if name.startswith("encoder.")]:
            raise RunError(f"{start.name} has no weights for {missing[:3]}")
    return model


def take_over(model: Recogniser, vocabulary: Vocabulary, reader: Reader) -> None:
    """Give a model of the reader's sizes the reader's weights.

    A token that the reader does not know keeps its random ones.
    """
    shared = [token for token in reader.vocabulary.tokens if token in vocabulary]
    there, here = (torch.tensor(words.encode(shared)) for words in (reader.vocabulary, vocabulary))
    weights = model.state_dict()
    for name, value in reader.model.state_dict().items():
        if name.startswith(("decoder.embed.", "decoder.logits.", "symbols.")):  # a row per token
            weights[name][here] = value[there]
        else:
            weights[name].copy_(value)


def training_indices(config: Config, corpus: Corpus) -> np.ndarray:
    """The expressions trained on: a share `labels` of the training split, or all of the set.

    Shares of one seed are nested. Raises DataError if nothing is labelled.
    """
    indices = np.concatenate([corpus.train, corpus.valid]) if config.full_data else corpus.train
    indices = indices[corpus.pack.flat.valid[indices]]
    if not len(indices):
        raise DataError(f"{corpus.name} has no labels to fine-tune on; stages 1 and 2 need none")
    if config.labels >= 1:
        return np.sort(indices)
    order = np.random.default_rng([config.seed, 17]).permutation(indices)
    return np.sort(order[: max(1, round(config.labels * len(order)))])


class Finetune(Stage):
    """The recogniser under its labels."""

    name, code_version = "finetune", "3"
    gauge = "-ter"
    # By the noise of a probe that reads 2,500 symbols.
    gates = (("probe_kept", -0.02, "above", "fine-tuning erased what the encoder knew"),)

    def __init__(self, config: Config, corpus: Corpus, tools: Accelerator):
        if config.beyond:
            corpus = replace(corpus, vocabulary=corpus.vocabulary.plus(BEYOND))
        self.indices = training_indices(config, corpus)
        self.reader = Reader.load() if config.init == "recogniser" else None
        if self.reader:  # as it is: its sizes, its view
            config = replace(config, model=self.reader.model.config, view=self.reader.view)
        if not corpus.pack.flat.aligned[self.indices].any():  # nothing to compose from
            config = replace(config, composed=0.0, beyond=0.0)
        super().__init__(config, corpus, tools)

    def inputs(self) -> dict[str, str]:
        config, corpus, found = self.config, self.corpus, super().inputs()
        if self.reader:
            found["init"] = f"recogniser-{digest(self.reader.path)}"
        found["composed"] = corpus.composed_name(self.indices) if config.composed else "none"
        if config.beyond:
            found["beyond"] = corpus.beyond_name(self.indices)
        if config.pictured:
            found["pictured"] = corpus.pictured_name(corpus.pack, self.indices)
        return found

    def build(self) -> None:
        model = build(self.config, self.corpus, self.start)
        if self.reader:
            take_over(model, self.corpus.vocabulary, self.reader)
        self.network = model.to(self.tools.device)
        self.began = weights_of(model.encoder)
        self.average = None
        if self.config.average:
            self.average = copy.deepcopy(model).requires_grad_(False)

    def optimizer(self) -> torch.optim.Optimizer:
        model = self.bare
        ours = [model.decoder, model.symbols, model.scalars]
        theirs = [module for module in (model.encoder, model.attention) if module is not None]
        return optimizer(ours, self.config.optim, slow=theirs, factor=self.config.encoder_rate,
                         ramp=self.config.encoder_ramp)

    def feed(self) -> Feed:
        """The labelled expressions, recombined, and what is made of them (`sources`)."""
        config, corpus = self.config, self.corpus
        held = frozenset() if config.full_data else corpus.held_formulas()
        light = replace(config.augment, join=0.0, relabel=0.0, swap_hand=0.0)
        with self.tools.main_process_first():
            sources = [(Augmenter(pack, indices, light if made else config.augment,
                                  corpus.vocabulary, held), count)
                       for made, (pack, indices, count) in enumerate(self.sources())]
        return Feed(sources, config.batch_area, config.batch_most, config.seed,
                    scale=config.view.scale, **feeding(self.tools))

    def sources(self) -> Iterator[tuple[Pack, np.ndarray, int | None]]:
        """Packs, which of their expressions, and how many of these per epoch (None: each once).

        All that is labelled; what is composed from its symbols, and with symbols beyond CROHME's;
        and what was traced from pictures of the first and the last of these.
        """
        config, corpus, real = self.config, self.corpus, len(self.indices)
        written = [(corpus.pack, self.indices, 1.0)]
        yield corpus.pack, self.indices, None
        if config.composed:
            pack = corpus.composed(self.indices)
            yield pack, np.arange(len(pack)), round(config.composed * real)
        if config.beyond:
            pack = corpus.beyond(self.indices)
            yield pack, np.arange(len(pack)), round(config.beyond * real)
            written.append((pack, np.arange(min(len(pack), PICTURED_MOST)), config.beyond))
        if config.pictured:
            others = 1 + config.composed + config.beyond
            count = config.pictured / (1 - config.pictured) * others / (1 + config.beyond) * real
            for source, chosen, weight in written:
                pack = corpus.pictured(source, chosen)
                yield pack, np.arange(len(pack)), round(count * weight)

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        config, vocabulary, gather = self.config, self.corpus.vocabulary, self.gather
        view = make_view(batch.ink, replace(config.view, scale=0.0), rng)  # the feed drew the scale
        picture = masked(view, batch.ink, config, rng) if any(config.mask_share) else view.picture
        inputs, targets = prefixes(batch.tokens, vocabulary)
        inputs = disturb(inputs, config.input_noise, vocabulary, rng)
        logits, attention, encoded = self.network(picture, view.valid, inputs)
        loss = sequence_loss(logits, targets, vocabulary, config.smoothing, gather)
        numbers = {"sequence": loss.detach()}
        if config.point_weight:
            classes = symbol_classes(batch)
            point = point_loss(self.bare, encoded.features, view, batch.ink, classes, gather=gather)
            loss, numbers["point"] = loss + config.point_weight * point, point.detach()
        if config.guide_weight:
            guide = guide_loss(attention, view, batch, vocabulary, gather)
            loss, numbers["guide"] = loss + config.guide_weight * guide, guide.detach()
        return loss, numbers

    def after_step(self, done: float) -> None:
        if self.average is not None:
            ema_update(self.average, self.bare, 1 / self.config.average)

    def prepare_validation(self) -> None:
        subset = self.corpus.validation_subset(self.config.eval_most)
        self.subset = subset[self.corpus.pack.flat.valid[subset]]

    def validate(self, done: float) -> dict[str, float]:
        """Recognition rates of greedy readings."""
        pack, vocabulary = self.corpus.pack, self.corpus.vocabulary
        found = read_pack(self.result, pack, self.subset, vocabulary, self.config.view, beam=1,
                          device=self.tools.device)
        truth = [pack.tokens(i) for i in self.subset]
        rates = outcomes(best_tokens(found, vocabulary), truth).summary()
        return {
            "ter": rates.ter, "exprate": rates.exprate, "within1": rates.within1,
            "structure": rates.structure, "n": len(self.subset),
            "gamma": float(self.result.scalars["gamma"]),
            "moved": moved(self.began, self.bare.encoder),
        }

    def early(self) -> dict[str, float]:
        """How far the encoder moved, and what it still knows."""
        return {"moved": moved(self.began, self.bare.encoder), **self.glance(self.bare.encoder)}

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.network} | ({"average": self.average} if self.average else {})

    @property
    def result(self) -> Any:
        return self.bare if self.average is None else self.average

    def earlier(self) -> tuple[int, float]:
        """Pictures and minutes of what it started from."""
        if self.reader:
            return self.reader.pictures, round(self.reader.minutes, 2)
        return training_cost(self.start) if self.start else (0, 0.0)

    def metadata(self, run: Run, pictures: int, minutes: float) -> dict[str, Any]:
        before = self.earlier()
        return {
            "vocabulary": list(self.corpus.vocabulary.tokens), "run": run.name,
            "pictures": pictures + before[0], "minutes": round(minutes + before[1], 2),
        }

    def summary(self, last: dict[str, float]) -> dict[str, Any]:
        found: dict[str, Any] = {"expressions": len(self.indices)}
        before, after = (last.get(f"early_probe_{step}") for step in (0, EARLY))
        if self.start and before is not None and after is not None:
            found["probe_kept"] = after - before  # in the first steps
        if self.reader:  # of a weights file no run says what it cost
            found["earlier_pictures"], found["earlier_minutes"] = self.earlier()
        return found


run = partial(train, Finetune)
