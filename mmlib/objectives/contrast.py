"""Global and local contrast: tell whole expressions apart, and ink points apart, in two views of each expression.

The ink gives the local correspondences exactly, under any warp. `balance` 1 is SimCLR (arXiv:2002.05709), 0 is dense contrast
(arXiv:2011.09157).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmlib.data.samples import Batch
from mmlib.losses import ContrastLoss, match_rate
from mmlib.models.encoder import Encoder, EncoderConfig
from mmlib.models.heads import pool, projection
from mmlib.objectives.base import Objective
from mmlib.views import InkBatch, View, ink_cells, make_view, sample


class Contrast(nn.Module):
    """The encoder with the two projection heads."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.global_head, self.local_head = projection(config.d), projection(config.d)

    def forward(self, picture: Tensor, valid: Tensor, ink: Tensor, points: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """picture (b, 1, H, W), valid and ink (b, 1, h, w), points (n, 2) in cells; z (b, 128) and u (n, 128)."""
        features = self.encoder(picture, valid)
        return self.global_head(pool(features, ink)), self.local_head(sample(features, points, owner))


def common_points(first: View, second: View, ink: InkBatch, each: int, rng: torch.Generator) -> Tensor:
    """Indices of at most `each` ink points an expression that both views show, ascending."""
    shown = first.kept & second.kept
    chance = torch.rand(len(shown), generator=rng).to(shown.device).masked_fill(~shown, 2.0)
    order = torch.argsort(ink.owner + chance / 4)  # by expression, then by chance; those not shown last (1/4 < 1/2 < 1)
    start = torch.searchsorted(ink.owner, torch.arange(ink.b, device=shown.device))
    rank = torch.arange(len(shown), device=shown.device) - start[ink.owner]
    chosen = order[rank < each]
    return chosen[shown[chosen]].sort().values


def matched(a: Tensor, b: Tensor) -> float:
    """`match_rate` as a number: the retrieval of the diagnostics."""
    return float(match_rate(a, b))


class ContrastObjective(Objective):
    """`ContrastLoss` on two views; an expression costs two pictures."""

    def __init__(self, config: Any, gather: bool = False):
        super().__init__(config, gather)
        self.network = Contrast(config.encoder)
        self.contrast = ContrastLoss(config.balance, config.global_temperature, config.local_temperature, config.radius, gather)

    def embed(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, ...]:
        """What `ContrastLoss` takes: z and u of both views, the points' owners and their places in both views."""
        first, second = (make_view(batch.ink, self.config.view, rng) for _ in range(2))
        chosen = common_points(first, second, batch.ink, self.config.points, rng)
        owner = batch.ink.owner[chosen]
        (z1, u1), (z2, u2) = (self.network(v.picture, v.valid, ink_cells(v, batch.ink.b, batch.ink.owner), v.cells[chosen], owner)
                              for v in (first, second))
        return z1, z2, u1, u2, owner, first.cells[chosen], second.cells[chosen]

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> tuple[Tensor, dict[str, Any]]:
        loss, numbers = self.contrast(*self.embed(batch, rng))
        return loss, numbers

    def look(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """Retrieval of the other view within the batch, of whole expressions and of ink points; spread of z."""
        z1, z2, u1, u2, *_ = self.embed(batch, rng)
        return {"global_match": matched(z1, z2), "local_match": matched(u1, u2),
                "spread": float(z1.float().std(0, correction=0).mean())}
