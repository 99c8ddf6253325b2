"""Global and local contrast: tell whole expressions apart, and ink points apart, in two views of each expression.

The ink gives the local correspondences exactly, under any warp. `balance` 1 is SimCLR (arXiv:2002.05709), 0 is dense contrast
(arXiv:2011.09157), which matches places of the picture instead of ink: `positives="paper"`. Negatives may be false: two writers
of one formula, two plus signs. `negatives` takes them all, or lets those push less that are alike by now, or asks the labels and
leaves out what is the same: no method, which has no labels, but what the best choice of negatives could give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.data.sample import Batch, symbol_classes
from mmlib.draw.views import STRIDE, InkBatch, Marks, View, extremes, ink_cells, make_view, sample
from mmlib.losses.contrast import ContrastLoss, match_rate, similarity_weights
from mmlib.models.encoder import Encoder, EncoderConfig, encode_all
from mmlib.models.heads import pool, projection
from mmlib.train.objectives.base import Objective

POSITIVES, NEGATIVES = ("ink", "paper"), ("batch", "similarity", "labels")
Embedded = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


class Contrast(nn.Module):
    """The encoder with the two projection heads; one that `balance` gives no part in the loss is frozen, since several processes
    wait for every gradient."""

    def __init__(self, config: EncoderConfig, balance: float = 0.5):
        super().__init__()
        self.encoder = Encoder(config)
        self.global_head, self.local_head = projection(config.d), projection(config.d)
        self.global_head.requires_grad_(balance > 0)
        self.local_head.requires_grad_(balance < 1)

    def forward(self, views: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], owner: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the same b expressions, each picture (b, 1, H, W), valid and ink (b, 1, h, w), points (n, 2) in cells, of the
        expressions owner (n,); z (views, b, 128) and u (views, n, 128). All in one call: between two, several processes would
        exchange the running means and variances that the first one's gradient needs."""
        pictures, valid, inks, places = zip(*views, strict=True)
        seen = encode_all(self.encoder, pictures, valid)
        wholes = [pool(features, ink) for features, ink in zip(seen, inks, strict=True)]
        points = [sample(features, where, owner) for features, where in zip(seen, places, strict=True)]
        return torch.stack([self.global_head(x) for x in wholes]), torch.stack([self.local_head(x) for x in points])


def common_points(first: View, second: View, ink: InkBatch, each: int, rng: torch.Generator) -> Tensor:
    """Indices of at most `each` ink points an expression that both views show, ascending."""
    shown = first.kept & second.kept
    chance = torch.rand(len(shown), generator=rng).to(shown.device).masked_fill(~shown, 2.0)
    order = torch.argsort(ink.owner + chance / 4)  # by expression, then by chance; those not shown last (1/4 < 1/2 < 1)
    start = torch.searchsorted(ink.owner, torch.arange(ink.b, device=shown.device))
    rank = torch.arange(len(shown), device=shown.device) - start[ink.owner]
    chosen = order[rank < each]
    return chosen[shown[chosen]].sort().values


def scattered(ink: InkBatch, each: int, rng: torch.Generator) -> Marks:
    """`each` places of the paper an expression, uniform over the box of its ink."""
    low, high = extremes(ink.points, ink.owner, ink.b)
    owner = torch.arange(ink.b, device=low.device).repeat_interleave(each)
    return Marks(low[owner] + torch.rand(len(owner), 2, generator=rng).to(low.device) * (high - low)[owner], owner)


def on_canvas(view: View, owner: Tensor) -> Tensor:
    """(m,) bool: which marks lie on their expression's own canvas in a view."""
    if view.marks is None:
        raise ValueError("the view was made without marks")
    return ((view.marks >= 0) & (view.marks < view.extent[owner])).all(1)


def point_classes(batch: Batch, points: Tensor) -> Tensor:
    """Symbol class (n,) of ink points, -1 where it is not known."""
    if batch.ink.symbol is None:
        return torch.full_like(points, -1)
    symbol = batch.ink.symbol[points]
    return symbol_classes(batch)[batch.ink.owner[points], symbol.clamp(min=0)].masked_fill(symbol < 0, -1)


def matched(a: Tensor, b: Tensor) -> float:
    """`match_rate` as a number: the retrieval of the diagnostics."""
    return float(match_rate(a, b))


class ContrastObjective(Objective):
    """`ContrastLoss` on two views; an expression costs two pictures."""

    def __init__(self, config: Any, gather: bool = False):
        super().__init__(config, gather)
        if config.positives not in POSITIVES or config.negatives not in NEGATIVES:
            raise ValueError(f"positives are one of {POSITIVES}, negatives one of {NEGATIVES}; "
                             f"got {config.positives!r} and {config.negatives!r}")
        if config.negatives != "batch" and gather:
            raise ValueError("negatives are weighted in one process only")
        self.network = Contrast(config.encoder, config.balance)
        self.contrast = ContrastLoss(config.balance, config.global_temperature, config.local_temperature, config.radius, gather)

    def embed(self, batch: Batch, rng: torch.Generator) -> Embedded:
        """What `ContrastLoss` takes: z and u of both views, the points' owners, their places in both views, and how much each
        expression and each point counts as a negative of each other, None for all alike."""
        paper = self.config.positives == "paper"
        marks = scattered(batch.ink, self.config.points, rng) if paper else None
        first, second = (make_view(batch.ink, self.config.view, rng, marks) for _ in range(2))
        if marks is not None:
            there = torch.nonzero(on_canvas(first, marks.owner) & on_canvas(second, marks.owner))[:, 0]
            owner, classes = marks.owner[there], torch.full_like(there, -1)
            places = [v.marks[there] / STRIDE for v in (first, second) if v.marks is not None]
        else:
            there = common_points(first, second, batch.ink, self.config.points, rng)
            owner, places = batch.ink.owner[there], [v.cells[there] for v in (first, second)]
            classes = point_classes(batch, there) if self.config.negatives == "labels" else owner
        (z1, z2), (u1, u2) = self.network([(v.picture, v.valid, ink_cells(v, batch.ink.b, batch.ink.owner), where)
                                           for v, where in zip((first, second), places, strict=True)], owner)
        return z1, z2, u1, u2, owner, places[0], places[1], *self.weights(batch, z1 + z2, u1 + u2, classes)

    def weights(self, batch: Batch, z: Tensor, u: Tensor, classes: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of expressions (b, b) and of points (n, n), as negatives of each other, from their features or their labels."""
        if self.config.negatives == "batch":
            return None, None
        if self.config.negatives == "similarity":
            return similarity_weights(z), similarity_weights(u)
        same_text = (batch.tokens[:, None] == batch.tokens).all(2)
        same_class = (classes[:, None] == classes) & (classes >= 0)
        return (~same_text).float(), (~same_class).float()

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> tuple[Tensor, dict[str, Any]]:
        loss, numbers = self.contrast(*self.embed(batch, rng))
        return loss, numbers

    def look(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """Retrieval of the other view within the batch, of whole expressions and of ink points; spread of z."""
        z1, z2, u1, u2, *_ = self.embed(batch, rng)
        return {"global_match": matched(z1, z2), "local_match": matched(u1, u2),
                "spread": float(z1.float().std(0, correction=0).mean())}
