"""A CoMER-style recogniser beside ours, and ours with another encoder.

How fast they train, and what they have learned after as many pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import DenseNet

from mmlib.data.sample import Batch, collate, from_pack, symbol_classes
from mmlib.draw.views import STRIDE, View, make_view
from mmlib.formula.vocabulary import Vocabulary
from mmlib.losses.reading import disturb, guide_loss, point_loss, sequence_loss
from mmlib.models.encoder import EncoderConfig
from mmlib.models.layers import autocast, channels_last
from mmlib.models.layers import default_device as device
from mmlib.models.recogniser import Encoded, ModelConfig, Recogniser
from mmlib.models.search import prefixes
from mmlib.store.files import elsewhere, results_root, write_atomic
from mmlib.store.run import Run
from mmlib.train import finetune
from mmlib.train.loop import LossAndNumbers
from mmlib.train.profiles import LARGE, LARGE_SYMBOL, preset
from mmlib.train.stage import train

SIZES = ((96, 384), (128, 512))  # height and width in pixels that CoMER was measured at
# Of all models: at the desk profile's 5e-3 ours learned more slowly, with side losses and without.
LR = 2e-3
# Whether stage 3's side losses take part.
TRAININGS = {"cross-entropy alone": False, "with side losses": True}
LOSSES = "losses.csv"  # of a run: tokens of both directions, nats, id
OURS, DENSENET, LAYERED = MODELS = ("our large model", "DenseNet encoder", "layer-norm encoder")


class DenseNetEncoder(torch.nn.Module):
    """A CoMER-style encoder of torchvision's parts: growth 24, three blocks of 16 layers.

    (b, 1, H, W) to (b, d, H/16, W/16); it takes no notice of padding.
    """

    def __init__(self, d: int):
        super().__init__()
        self.features = DenseNet(24, (16, 16, 16), num_init_features=48, bn_size=4).features
        self.features.conv0 = torch.nn.Conv2d(1, 48, 7, 2, 3, bias=False)
        self.out = torch.nn.Conv2d(self.features.norm5.num_features, d, 1)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        features: Tensor = self.out(torch.relu(self.features(x)))
        return features


class DenseNetRecogniser(Recogniser):
    """The recogniser with that encoder, at half our resolution, without the attention network."""

    def __init__(self, vocabulary: int, config: ModelConfig):
        super().__init__(vocabulary, replace(config, maps=0))
        self.encoder = DenseNetEncoder(config.encoder.d)  # type: ignore[assignment]

    def encode(self, x: Tensor, valid: Tensor) -> Encoded:
        """As `Recogniser.encode`; x and valid are those of stride 8."""
        bottom, right = valid.shape[2] % 2, valid.shape[3] % 2
        x = F.pad(x[:, :1], (0, STRIDE * right, 0, STRIDE * bottom))
        return super().encode(x, F.max_pool2d(F.pad(valid, (0, right, 0, bottom)), 2))


def configured(name: str, config: ModelConfig) -> ModelConfig:
    """A configuration of ours as one of `MODELS` takes it.

    A DenseNet has nothing of our encoder but its width. The encoder with layer norm and patches is
    the desk profile's, nearly as large as the paper profile's.
    """
    d = config.encoder.d
    if name == DENSENET:
        return replace(config, encoder=EncoderConfig(d=d), maps=0)
    if name == LAYERED:
        layered = EncoderConfig(blocks=(2, 3), context=4, context_d=256, heads=8, d=d)
        return replace(config, encoder=layered)
    return config


def build(name: str, vocabulary: int, config: ModelConfig) -> Recogniser:
    """One of `MODELS`, with random weights."""
    kind = DenseNetRecogniser if name == DENSENET else Recogniser
    return kind(vocabulary, configured(name, config))


def on_cells(view: View, valid: Tensor) -> View:
    """A view in the cells of an encoder's map whose valid ones (b, 1, h, w) these are.

    It has half the size if those cells are twice as wide as ours.
    """
    ratio = math.ceil(view.valid.shape[3] / valid.shape[3])
    return replace(view, valid=valid, points=view.points / ratio)


def steps(batch: int, tokens: int, height: int, width: int) -> dict[str, partial[None]]:
    """A training step of each model (both directions, cross-entropy, no optimiser).

    The canvases are full of random ink.
    """
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
    built = {name: build(name, len(vocabulary), LARGE) for name in MODELS}
    return {name: partial(step, channels_last(model, device()).train())
            for name, model in built.items()}


@dataclass(frozen=True)
class Config(finetune.Config):
    """Stage 3's, and which of `MODELS` learns."""

    name: str = OURS


class Contest(finetune.Finetune):
    """Stage 3 for any of `MODELS`, validated by its loss."""

    name, code_version = "rival", f"2-{finetune.Finetune.code_version}"

    def build(self) -> None:
        torch.manual_seed(self.config.seed)
        model = build(self.config.name, len(self.corpus.vocabulary), self.config.model)
        self.network, self.average = channels_last(model, self.tools.device), None

    def write(
        self, batch: Batch, view: View, noise: float, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Encoded]:
        """Logits of both directions, their targets, the guided head's attention, the encoding."""
        vocabulary = self.corpus.vocabulary
        inputs, targets = prefixes(batch.tokens, vocabulary)
        inputs = disturb(inputs, noise, vocabulary, rng)
        logits, attention, encoded = self.network(view.picture, view.valid, inputs)
        return logits, targets, attention, encoded

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        config, vocabulary = self.config, self.corpus.vocabulary
        view = make_view(batch.ink, replace(config.view, scale=0.0), rng)
        logits, targets, attention, encoded = self.write(batch, view, config.input_noise, rng)
        loss = sequence_loss(logits, targets, vocabulary, config.smoothing)
        if config.point_weight:
            view, classes = on_cells(view, encoded.valid), symbol_classes(batch)
            point = point_loss(self.bare, encoded.features, view, batch.ink, classes)
            guide = guide_loss(attention, view, batch, vocabulary)
            loss = loss + config.guide_weight * guide + config.point_weight * point
        return loss, {}

    def validate(self, done: float) -> dict[str, float]:
        """Nats per token under teacher forcing; the last ones are kept by expression."""
        held = [from_pack(self.corpus.pack, int(i)) for i in self.subset]
        found: list[tuple[float, int]] = []
        for k in range(0, len(held), 16):
            rng = torch.Generator().manual_seed(0)
            batch = collate(held[k : k + 16]).to(self.tools.device)
            view = make_view(batch.ink, self.config.view.still(), rng)
            logits, targets, *_ = self.write(batch, view, 0.0, rng)
            pad = self.corpus.vocabulary.pad
            each = F.cross_entropy(logits.float().flatten(0, 2), targets.flatten(),
                                   ignore_index=pad, reduction="none")
            nats = each.view_as(targets).sum((1, 2)).tolist()
            found += zip(nats, (targets != pad).sum((1, 2)).tolist(), strict=True)
        pairs = zip(found, held, strict=True)
        self.rows = "".join(f"{n},{nats:.6g},{sample.id}\n" for (nats, n), sample in pairs)
        nats, tokens = np.sum(found, axis=0)
        return {"loss": float(nats / tokens), "n": len(held)}

    def metadata(self, run: Run, pictures: int, minutes: float) -> dict[str, Any]:
        write_atomic(run.folder / LOSSES, "tokens,nats,id\n" + self.rows)
        return {}

    def early(self) -> dict[str, float]:
        return {}  # rivals' encoders are not ours to probe

    def summary(self, last: dict[str, float]) -> dict[str, Any]:
        return {"parameters": sum(p.numel() for p in self.bare.parameters())}


def losses_of(run: Run) -> np.ndarray:
    """Tokens and nats (n, 2) of each validation expression, at the end of a run."""
    return np.loadtxt(run.folder / LOSSES, delimiter=",", skiprows=1, usecols=(0, 1))


def train_rival(name: str, pictures: int = 20_000, dataset: str = "auto",
                model: ModelConfig = LARGE, symbol: float = LARGE_SYMBOL, side: bool = False,
                progress: bool = True, max_steps: int | None = None) -> Run:
    """Train one of `MODELS` by stage 3's cross-entropy, alone or with side losses, or find it done.

    Batches, warps, recombination, optimiser and schedule are the desk profile's, without composed
    ink; model and size of the pictures are the paper's. Kept beside the results, where what is not
    committed is. Raises Paused at a limit or a signal; the same call goes on.
    """
    desk = preset("finetune", "desk")
    config = Config(**vars(desk) | {
        "name": name, "dataset": dataset, "init": "none", "pictures": pictures, "composed": 0.0,
        "model": configured(name, model), "view": replace(desk.view, symbol=symbol),
        "point_weight": side * desk.point_weight, "guide_weight": side * desk.guide_weight,
        "eval_pictures": max(1, pictures // 10), "optim": replace(desk.optim, lr=LR),
        "encoder_rate": 1.0,
    })
    with elsewhere("MMLIB_RESULTS", results_root() / "retrained"):
        return train(Contest, config, "desk", max_steps=max_steps, progress=progress)
