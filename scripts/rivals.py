"""A CoMER-style recogniser beside ours, and ours with another encoder: how fast they train, and what they have learned after as
many pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.data.augment import Augmenter
from mmlib.data.batches import Feed
from mmlib.data.corpus import load_corpus
from mmlib.data.sample import Batch, collate, from_pack, symbol_classes
from mmlib.draw.views import STRIDE, View, make_view
from mmlib.formula.vocabulary import Vocabulary
from mmlib.losses.reading import guide_loss, point_loss, sequence_loss
from mmlib.models.encoder import EncoderConfig
from mmlib.models.layers import autocast, channels_last
from mmlib.models.layers import default_device as device
from mmlib.models.recogniser import Encoded, ModelConfig, Recogniser
from mmlib.models.search import prefixes
from mmlib.store.files import elsewhere, results_root, write_atomic
from mmlib.store.run import Run
from mmlib.train import finetune
from mmlib.train.loop import Loop
from mmlib.train.optimiser import optimizer
from mmlib.train.profiles import LARGE, LARGE_SYMBOL, preset
from mmlib.train.stage import accelerator, feeding

SIZES = ((96, 384), (128, 512))  # height and width of a picture in pixels: those that CoMER was measured at
LR = 2e-3  # of all: at the desk profile's 5e-3 ours learned more slowly, with side losses and without
TRAININGS = {"cross-entropy alone": False, "with side losses": True}  # whether stage 3's side losses take part
LOSSES = "losses.csv"  # of a run: tokens of both directions, nats, id
CODE_VERSION = f"1-{finetune.Finetune.code_version}"  # the step is like stage 3's


class DenseNetEncoder(torch.nn.Module):
    """A CoMER-style encoder (growth 24, three blocks of 16 layers), of torchvision's parts: (b, 1, H, W) to (b, d, H/16, W/16);
    it takes no notice of padding."""

    def __init__(self, d: int):
        super().__init__()
        from torchvision.models import DenseNet

        self.features = DenseNet(24, (16, 16, 16), num_init_features=48, bn_size=4).features
        self.features.conv0 = torch.nn.Conv2d(1, 48, 7, 2, 3, bias=False)
        self.out = torch.nn.Conv2d(self.features.norm5.num_features, d, 1)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        features: Tensor = self.out(torch.relu(self.features(x)))
        return features


class Rival(Recogniser):
    """The recogniser with that encoder, at half the resolution of ours, and without the attention network."""

    def __init__(self, vocabulary: int, config: ModelConfig):
        super().__init__(vocabulary, replace(config, maps=0))
        self.encoder = DenseNetEncoder(config.encoder.d)  # type: ignore[assignment]  # in the other's place

    def encode(self, x: Tensor, valid: Tensor) -> Encoded:
        """As `Recogniser.encode`; x and valid are those of stride 8."""
        bottom, right = valid.shape[2] % 2, valid.shape[3] % 2
        x = F.pad(x[:, :1], (0, STRIDE * right, 0, STRIDE * bottom))
        return super().encode(x, F.max_pool2d(F.pad(valid, (0, right, 0, bottom)), 2))


OURS, DENSENET, LAYERED = MODELS = ("our large model", "DenseNet encoder", "layer-norm encoder")


@dataclass(frozen=True)
class Config(finetune.Config):
    """Stage 3's, and which of `MODELS` learns."""

    name: str = OURS


def configured(name: str, config: ModelConfig) -> ModelConfig:
    """A configuration of ours as one of `MODELS` takes it: a DenseNet has nothing of our encoder but its width; the encoder with
    layer norm and patches is the desk profile's, nearly as large as the paper profile's."""
    d = config.encoder.d
    if name == DENSENET:
        return replace(config, encoder=EncoderConfig(d=d), maps=0)
    if name == LAYERED:
        return replace(config, encoder=EncoderConfig(blocks=(2, 3), context=4, context_d=256, heads=8, d=d))
    return config


def build(name: str, vocabulary: int, config: ModelConfig) -> Recogniser:
    """One of `MODELS`, of random weights."""
    return (Rival if name == DENSENET else Recogniser)(vocabulary, configured(name, config))


def on_cells(view: View, valid: Tensor) -> View:
    """A view in the cells of an encoder's map whose valid ones (b, 1, h, w) these are: at half the size, if they are twice as
    wide as ours."""
    ratio = math.ceil(view.valid.shape[3] / valid.shape[3])
    return replace(view, valid=valid, points=view.points / ratio)


def steps(batch: int, tokens: int, height: int, width: int) -> dict[str, partial[None]]:
    """A training step of each model (both directions, cross-entropy, no optimiser) on full canvases of random ink."""
    vocabulary = Vocabulary.crohme()
    x = (torch.rand(batch, 1, height, width, device=device()) > 0.95).float()
    valid = torch.ones(batch, 1, height // STRIDE, width // STRIDE, device=device())
    labels = torch.randint(5, len(vocabulary), (batch, 2, tokens + 1), device=device())

    def step(model: Recogniser) -> None:
        with autocast(device()):
            logits, *_ = model(x, valid, labels)
        F.cross_entropy(logits.float().flatten(0, 2), labels.flatten()).backward()
        model.zero_grad()

    torch.manual_seed(0)
    models = {name: channels_last(build(name, len(vocabulary), LARGE), device()).train() for name in MODELS}
    return {name: partial(step, model) for name, model in models.items()}


def train(name: str, pictures: int = 20_000, dataset: str = "auto", model: ModelConfig = LARGE, symbol: float = LARGE_SYMBOL,
          side: bool = False, progress: bool = True, max_steps: int | None = None) -> Run:
    """Train one of `MODELS` by stage 3's cross-entropy, alone or with its side losses, noting its loss on the validation split;
    or find that done.

    Batches, warps, recombination, optimiser and schedule are the desk profile's, without composed ink; model and size of the
    pictures are the paper's.
    Kept beside the results, where what is not committed is, with the last look's loss of each expression (`losses.csv`). Raises
    Paused at a limit or a signal; the same call goes on.
    """
    tools, corpus = accelerator(), load_corpus(dataset)
    desk = preset("finetune", "desk")
    config = Config(**vars(desk) | {
        "name": name, "dataset": dataset, "init": "none", "pictures": pictures, "model": configured(name, model), "composed": 0.0,
        "point_weight": side * desk.point_weight, "guide_weight": side * desk.guide_weight,
        "eval_pictures": max(1, pictures // 10), "view": replace(desk.view, symbol=symbol), "optim": replace(desk.optim, lr=LR)})
    vocabulary, indices = corpus.vocabulary, finetune.training_indices(config, corpus)
    look = [from_pack(corpus.pack, int(i)) for i in corpus.validation_subset(config.eval_most) if corpus.pack.flat.valid[i]]
    with elsewhere("MMLIB_RESULTS", results_root() / "retrained"):
        this = Run.open("rival", "desk", config, {"data": corpus.identity}, CODE_VERSION)
        if this.done:
            return this
        with this.lock():
            torch.manual_seed(0)
            learner = channels_last(build(name, len(vocabulary), config.model))
            optim = optimizer([learner], config.optim)
            feed = Feed([(Augmenter(corpus.pack, indices, config.augment, vocabulary, corpus.held_formulas()), None)],
                        config.batch_area, config.batch_most, config.seed, scale=config.view.scale, **feeding(tools))
            learner, optim = tools.prepare(learner, optim)
            warps, still = replace(config.view, scale=0.0), config.view.still()

            def write(batch: Batch, view: View, rng: torch.Generator, noise: float) -> tuple[Tensor, Tensor, Tensor, Encoded]:
                """Logits of both directions and what they should say; the guided head's attention, and the encoding."""
                inputs, targets = prefixes(batch.tokens, vocabulary)
                logits, attention, encoded = learner(view.picture, view.valid, finetune.disturb(inputs, noise, vocabulary, rng))
                return logits, targets, attention, encoded

            def step(batch: Batch, pictures: int) -> tuple[Tensor, dict[str, Any]]:
                rng, batch = torch.Generator().manual_seed(pictures), batch.to(tools.device)
                view = make_view(batch.ink, warps, rng)
                logits, targets, attention, encoded = write(batch, view, rng, config.input_noise)
                loss = sequence_loss(logits, targets, vocabulary, config.smoothing)
                if side:
                    view = on_cells(view, encoded.valid)
                    loss = loss + config.guide_weight * guide_loss(attention, view, batch, vocabulary) + config.point_weight * \
                        point_loss(learner, encoded.features, view, batch.ink, symbol_classes(batch))
                return loss, {}

            def evaluate(pictures: int) -> dict[str, float]:
                found: list[tuple[float, int]] = []
                for k in range(0, len(look), 16):
                    rng, batch = torch.Generator().manual_seed(0), collate(look[k : k + 16]).to(tools.device)
                    logits, targets, *_ = write(batch, make_view(batch.ink, still, rng), rng, 0.0)
                    each = F.cross_entropy(logits.float().flatten(0, 2), targets.flatten(), ignore_index=vocabulary.pad,
                                           reduction="none").view_as(targets)
                    found += zip(each.sum((1, 2)).tolist(), (targets != vocabulary.pad).sum((1, 2)).tolist(), strict=True)
                nats, tokens = np.array(found).T
                lines = (f"{int(n)},{loss:.6g},{sample.id}\n" for sample, n, loss in zip(look, tokens, nats, strict=True))
                write_atomic(this.folder / LOSSES, "tokens,nats,id\n" + "".join(lines))
                return {"loss": float(nats.sum() / tokens.sum()), "n": len(look)}

            loop = Loop(this, tools, {"model": learner}, optim, config.optim, config.pictures, step, feed, evaluate,
                        config.eval_pictures, progress=progress)
            this.finish(**loop.train(max_steps=max_steps), parameters=sum(p.numel() for p in learner.parameters()))
    return this
