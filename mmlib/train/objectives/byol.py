"""BYOL (arXiv:2006.07733): predict the other view's projection by an EMA target; no negatives.

The encoder's features are pooled over ink cells, as for global contrast. Heads and course of the
target are the paper's: a projection and a predictor of two layers with batch normalisation between,
the target's momentum rising along a cosine to 1 at the budget's end. Only the sizes are ours (256
hidden, 128 out), and the momentum's start, for budgets of some hundred steps. The two views of a
batch are normalised together; each process normalises its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.data.sample import Batch
from mmlib.draw.views import ink_cells, make_view
from mmlib.losses.contrast import match_rate, spread
from mmlib.losses.rivals import byol_loss
from mmlib.models.encoder import Encoder, EncoderConfig, encode_all
from mmlib.models.heads import pool, projection
from mmlib.models.layers import ema_update
from mmlib.train.loop import LossAndNumbers
from mmlib.train.objectives.base import Objective


class Online(nn.Module):
    """The encoder with projection and predictor."""

    def __init__(self, config: EncoderConfig, out: int = 128):
        super().__init__()
        self.encoder = Encoder(config)
        self.projector = projection(config.d, out=out, norm=True)
        self.predictor = projection(out, out=out, norm=True)

    def forward(self, views: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Projections z and their predictions p, both (views b, 128), view by view.

        views: of the same b expressions, each picture (b, 1, H, W), valid and ink (b, 1, h, w).
        """
        pictures, valid, inks = zip(*views, strict=True)
        seen = encode_all(self.encoder, pictures, valid)
        pooled = [pool(features, ink) for (features, _), ink in zip(seen, inks, strict=True)]
        z = self.projector(torch.cat(pooled))
        return z, self.predictor(z)


def momentum_at(done: float, start: float) -> float:
    """Momentum of the target at the share `done` of the budget: half a cosine from `start` to 1."""
    return 1 - (1 - start) * (math.cos(math.pi * min(max(done, 0.0), 1.0)) + 1) / 2


class ByolObjective(Objective):
    """`byol_loss` both ways between two views; an expression costs two pictures."""

    def __init__(self, config: Any, gather: bool = False):
        super().__init__(config, gather)
        self.network = Online(config.encoder)
        self.target = copy.deepcopy(self.network).requires_grad_(False)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.network, "target": self.target}

    def embed(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """z and p of the network and z of the target, each (2b, d): first views, second views."""
        ink = batch.ink
        drawn = [make_view(ink, self.config.view, rng) for _ in range(2)]
        views = [(v.picture, v.valid, ink_cells(v, ink.b, ink.owner)) for v in drawn]
        with torch.no_grad():
            target, _ = self.target(views)
        return *self.network(views), target

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        _, p, target = self.embed(batch, rng)
        other = target.roll(batch.ink.b, 0)  # each predicts the other view
        return byol_loss(p, other, gather=self.gather), {}

    def validate(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """Retrieval of the other view within the batch, and spread of z."""
        z, _, _ = self.embed(batch, rng)
        first, second = z.chunk(2)
        return {"global_match": float(match_rate(first, second)), "spread": float(spread(z))}

    def after_step(self, done: float) -> None:
        ema_update(self.target, self.network, 1 - momentum_at(done, self.config.momentum))
