"""Global and local contrast: tell whole expressions apart, and ink points apart, in two views.

The ink gives the local correspondences exactly, under any warp. `balance` 1 is SimCLR
(arXiv:2002.05709), 0 is dense contrast (arXiv:2011.09157), which matches places of the picture
instead of ink: `positives="paper"`. Negatives may be false: two writers of one formula, two plus
signs. `negatives` takes them all, or lets those push less that are alike by now, or leaves out
those with the same label. The last is no method, since a method has no labels; it shows what the
best choice of negatives could give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmlib.data.sample import Batch, symbol_classes
from mmlib.draw.views import STRIDE, InkBatch, Marks, View, extremes, ink_cells, make_view, sample
from mmlib.losses.contrast import ContrastLoss, match_rate, similarity_weights, spread
from mmlib.models.encoder import Encoder, EncoderConfig, encode_all
from mmlib.models.heads import pool, projection
from mmlib.train.loop import LossAndNumbers
from mmlib.train.objectives.base import Objective

POSITIVES, NEGATIVES = ("ink", "paper"), ("batch", "similarity", "labels")
# Where local heads read, before or after the context: places in what `Encoder.both` gives.
LEVELS = {"after": (0,), "before": (1,), "both": (0, 1)}


class Embedded(NamedTuple):
    """What `ContrastLoss` takes: b expressions and n points in two views."""

    z1: Tensor  # (b, d), of expressions
    z2: Tensor
    u1: Tensor  # (l, n, d), of points, at each level
    u2: Tensor
    owner: Tensor  # (n,) each point's expression
    position1: Tensor  # (n, 2) in cells
    position2: Tensor
    global_weights: Tensor | None  # (b, b) of expressions as negatives of each other; None: all 1
    local_weights: Tensor | None  # (n, n) of points


class Contrast(nn.Module):
    """The encoder with its projection heads: one of expressions, and for points one per level.

    A head that `balance` gives no part in the loss is frozen: several processes wait for every
    gradient.
    """

    def __init__(self, config: EncoderConfig, balance: float = 0.5, level: str = "both",
                 bounded: bool = True):
        super().__init__()
        self.encoder, self.levels = Encoder(config), LEVELS[level]
        self.global_head = projection(config.d, bounded=bounded)
        self.local_heads = nn.ModuleList(
            projection((config.d, config.widths[-1])[n], bounded=bounded) for n in self.levels)
        self.global_head.requires_grad_(balance > 0)
        self.local_heads.requires_grad_(balance < 1)

    def forward(
        self, views: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], owner: Tensor
    ) -> tuple[Tensor, Tensor]:
        """z (views, b, 128) of expressions and u (views, levels, n, 128) of points.

        views: of the same b expressions, each picture (b, 1, H, W), valid and ink (b, 1, h, w),
        points (n, 2) in cells; owner: (n,) the points' expressions. All views in one call: between
        two, several processes would exchange the running means and variances that the first one's
        gradient needs.
        """
        pictures, valid, inks, places = zip(*views, strict=True)
        seen = encode_all(self.encoder, pictures, valid)
        z = [self.global_head(pool(f, ink)) for (f, _), ink in zip(seen, inks, strict=True)]
        u = [head(sample(levels[n], at, owner))
             for levels, at in zip(seen, places, strict=True)
             for n, head in zip(self.levels, self.local_heads, strict=True)]
        return torch.stack(z), torch.stack(u).unflatten(0, (len(seen), -1))


def common_points(
    first: View, second: View, ink: InkBatch, each: int, rng: torch.Generator
) -> Tensor:
    """Indices of at most `each` ink points per expression that both views show, ascending."""
    shown = first.kept & second.kept
    chance = torch.rand(len(shown), generator=rng).to(shown.device).masked_fill(~shown, 2.0)
    # By expression, then by chance; those not shown come last (1/4 < 1/2 < 1).
    order = torch.argsort(ink.owner + chance / 4)
    start = torch.searchsorted(ink.owner, torch.arange(ink.b, device=shown.device))
    rank = torch.arange(len(shown), device=shown.device) - start[ink.owner]
    chosen = order[rank < each]
    return chosen[shown[chosen]].sort().values


def scattered(ink: InkBatch, each: int, rng: torch.Generator) -> Marks:
    """`each` places of the paper per expression, uniform over the box of its ink."""
    low, high = extremes(ink.points, ink.owner, ink.b)
    owner = torch.arange(ink.b, device=low.device).repeat_interleave(each)
    place = torch.rand(len(owner), 2, generator=rng).to(low.device)
    return Marks(low[owner] + place * (high - low)[owner], owner)


def on_canvas(view: View, owner: Tensor) -> Tensor:
    """(m,) bool: which marks lie on their expression's own canvas in a view."""
    if view.marks is None:
        raise ValueError("the view was made without marks")
    return ((view.marks >= 0) & (view.marks < view.extent[owner])).all(1)


def point_classes(batch: Batch, points: Tensor) -> Tensor:
    """Symbol class (n,) of ink points, -1 if it is not known."""
    if batch.ink.symbol is None:
        return torch.full_like(points, -1)
    symbol = batch.ink.symbol[points]
    classes = symbol_classes(batch)[batch.ink.owner[points], symbol.clamp(min=0)]
    return classes.masked_fill(symbol < 0, -1)


class ContrastObjective(Objective):
    """`ContrastLoss` on two views; an expression costs two pictures."""

    def __init__(self, config: Any, gather: bool = False):
        super().__init__(config, gather)
        if config.positives not in POSITIVES or config.negatives not in NEGATIVES:
            raise ValueError(
                f"positives are one of {POSITIVES}, negatives one of {NEGATIVES}; "
                f"got {config.positives!r} and {config.negatives!r}"
            )
        if config.level not in LEVELS:
            raise ValueError(f"level is one of {', '.join(LEVELS)}; got {config.level!r}")
        if config.negatives != "batch" and gather:
            raise ValueError("negatives are weighted in one process only")
        self.network = Contrast(config.encoder, config.balance, config.level, config.bounded)
        if not config.balance:  # the other head is not trained
            self.gauge = "local_match"
        temperatures = config.global_temperature, config.local_temperature
        self.contrast = ContrastLoss(config.balance, *temperatures, config.radius, gather)

    def embed(self, batch: Batch, rng: torch.Generator) -> Embedded:
        """Two views of each expression, embedded."""
        config, ink = self.config, batch.ink
        paper = config.positives == "paper"
        marks = scattered(ink, config.points, rng) if paper else None
        view = replace(config.view, shuffle=0.0) if paper else config.view  # paper stays in order
        first, second = views = [make_view(ink, view, rng, marks) for _ in range(2)]
        if marks is not None:
            there = on_canvas(first, marks.owner) & on_canvas(second, marks.owner)
            owner, classes = marks.owner[there], torch.full_like(marks.owner[there], -1)
            at1, at2 = (v.marks[there] / STRIDE for v in views if v.marks is not None)
        else:
            chosen = common_points(first, second, ink, config.points, rng)
            owner, at1, at2 = ink.owner[chosen], first.cells[chosen], second.cells[chosen]
            classes = point_classes(batch, chosen) if config.negatives == "labels" else owner
        shown = [(v.picture, v.valid, ink_cells(v, ink.b, ink.owner)) for v in views]
        places = (*shown[0], at1), (*shown[1], at2)
        (z1, z2), (u1, u2) = self.network(places, owner)
        weights = self.weights(batch, z1 + z2, (u1 + u2)[0], classes)
        return Embedded(z1, z2, u1, u2, owner, at1, at2, *weights)

    def weights(
        self, batch: Batch, z: Tensor, u: Tensor, classes: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Weights of negatives: (b, b) between expressions, (n, n) between points.

        From their features or from their labels; None for all alike.
        """
        if self.config.negatives == "batch":
            return None, None
        if self.config.negatives == "similarity":
            return similarity_weights(z), similarity_weights(u)
        same_text = (batch.tokens[:, None] == batch.tokens).all(2)
        same_class = (classes[:, None] == classes) & (classes >= 0)
        return (~same_text).float(), (~same_class).float()

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        loss, numbers = self.contrast(*self.embed(batch, rng))
        return loss, numbers

    def validate(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """Retrieval of the other view within the batch, of expressions and points; spread of z.

        `length` is the mean length of z: one that grows without bound came before a collapse.
        """
        found = self.embed(batch, rng)
        return {
            "global_match": float(match_rate(found.z1, found.z2)),
            "local_match": float(match_rate(found.u1[0], found.u2[0])),
            "spread": float(spread(found.z1)),
            "length": float(found.z1.float().norm(dim=1).mean()),
        }
