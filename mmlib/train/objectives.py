"""What stage 1 may learn by: `pretrain.Config.objective` names one of `OBJECTIVES`.

A new one is a class and a line there. Data, views, encoder, optimiser and loop are the same for
all. An expression costs as many pictures of the budget as views are drawn of it.
"""

import copy
import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.data.sample import Batch, collate
from mmlib.draw.masks import mask_view
from mmlib.draw.views import STRIDE, InkBatch, View, ink_cells, make_view, sample
from mmlib.losses.contrast import contrast_loss, match_rate, spread
from mmlib.losses.rivals import byol_loss, mae_loss
from mmlib.models.encoder import Encoder, EncoderConfig, encode_all
from mmlib.models.heads import pool, projection
from mmlib.models.layers import channels_last, ema_update
from mmlib.store.files import RunError
from mmlib.train.loop import LossAndNumbers
from mmlib.train.stage import Stage


class Pretrain(Stage):
    """Stage 1, whatever its objective. The network's encoder, called `encoder`, goes on."""

    name, code_version = "pretrain", "4"
    gauge = "global_match"
    views: ClassVar[int] = 2  # pictures drawn of each expression

    def measure(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """The objective's own numbers of a held-out batch, without gradient."""
        raise NotImplementedError

    def validate(self, done: float) -> dict[str, float]:
        """The objective's own numbers, a mean over expressions, and what the encoder knows."""
        rows = []
        for number, samples in enumerate(self.held_out):
            batch = collate(samples).to(self.tools.device)
            rows.append(self.measure(batch, torch.Generator().manual_seed(number)))
        weights = [len(samples) for samples in self.held_out]
        means = np.average([list(row.values()) for row in rows], axis=0, weights=weights)
        return dict(zip(rows[0], means, strict=True)) | self.glance(self.bare.encoder)


# --- contrast -------------------------------------------------------------------------------------

# Where local heads read, before or after the context: places in what `Encoder.both` gives.
LEVELS = {"after": (0,), "before": (1,), "both": (0, 1)}


class Embedded(NamedTuple):
    """What `contrast_loss` takes: b expressions and n points in two views."""

    z1: Tensor  # (b, d), of expressions
    z2: Tensor
    u1: Tensor  # (l, n, d), of points, at each level
    u2: Tensor
    owner: Tensor  # (n,) each point's expression
    position1: Tensor  # (n, 2) in cells
    position2: Tensor


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

    def forward(self, views: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], owner: Tensor
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


def common_points(first: View, second: View, ink: InkBatch, each: int, rng: torch.Generator
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


class ContrastObjective(Pretrain):
    """Tell whole expressions apart, and ink points apart, in two views (`contrast_loss`).

    The ink gives the local correspondences exactly, under any warp. `balance` 1 is SimCLR
    (arXiv:2002.05709), 0 is dense contrast (arXiv:2011.09157) with ink in place of the picture's
    cells. Negatives may be false: two writers of one formula, two plus signs.
    """

    def build(self) -> None:
        config = self.config
        if config.level not in LEVELS:
            raise ValueError(f"level is one of {', '.join(LEVELS)}; got {config.level!r}")
        network = Contrast(config.encoder, config.balance, config.level, config.bounded)
        self.network = channels_last(network, self.tools.device)
        if not config.balance:  # the other head is not trained
            self.gauge = "local_match"

    def embed(self, batch: Batch, rng: torch.Generator) -> Embedded:
        """Two views of each expression, embedded."""
        config, ink = self.config, batch.ink
        views = first, second = [make_view(ink, config.view, rng) for _ in range(2)]
        chosen = common_points(first, second, ink, config.points, rng)
        owner, at1, at2 = ink.owner[chosen], first.cells[chosen], second.cells[chosen]
        shown = [(v.picture, v.valid, ink_cells(v, ink.b, ink.owner), at)
                 for v, at in zip(views, (at1, at2), strict=True)]
        (z1, z2), (u1, u2) = self.network(shown, owner)
        return Embedded(z1, z2, u1, u2, owner, at1, at2)

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        c = self.config
        return contrast_loss(*self.embed(batch, rng), c.balance, c.global_temperature,
                             c.local_temperature, c.radius, self.gather)

    def measure(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
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


# --- BYOL -----------------------------------------------------------------------------------------


class Online(nn.Module):
    """The encoder with BYOL's projection and predictor."""

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


class ByolObjective(Pretrain):
    """BYOL (arXiv:2006.07733): predict the other view's projection by an EMA target; no negatives.

    The encoder's features are pooled over ink cells, as for global contrast. Heads and course of
    the target are the paper's: a projection and a predictor of two layers with batch normalisation
    between, the target's momentum rising along a cosine to 1 at the budget's end. Only the sizes
    are ours (256 hidden, 128 out), and the momentum's start, for budgets of some hundred steps. The
    two views of a batch are normalised together; each process normalises its own.
    """

    def build(self) -> None:
        self.network = channels_last(Online(self.config.encoder), self.tools.device)
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
        return byol_loss(p, other, self.gather), {}

    def measure(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """Retrieval of the other view within the batch, and spread of z."""
        z, _, _ = self.embed(batch, rng)
        first, second = z.chunk(2)
        return {"global_match": float(match_rate(first, second)), "spread": float(spread(z))}

    def after_step(self, done: float) -> None:
        ema_update(self.target, self.bare, 1 - momentum_at(done, self.config.momentum))


# --- the masked autoencoder -----------------------------------------------------------------------


class Autoencoder(nn.Module):
    """The encoder with one linear layer from a cell's features to its 8 x 8 pixels."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.pixels = nn.Conv2d(config.d, STRIDE**2, 1)

    def forward(self, picture: Tensor, valid: Tensor) -> Tensor:
        """The picture drawn, (b, 1, H, W), of `picture` (b, 2, H, W) with its mask channel."""
        return F.pixel_shuffle(self.pixels(self.encoder(picture, valid)), STRIDE)


class MaeObjective(Pretrain):
    """A masked autoencoder: part of the ink is masked, and the picture there is to be drawn.

    Of the two ways to mask, SimMIM's (arXiv:2111.09886) fits an encoder with convolutions. It sees
    the whole canvas, masked parts marked (there by a mask token, here by the mask channel, as in
    stage 2), and one linear layer draws each cell's pixels from its features. MAE
    (arXiv:2111.06377) leaves the masked patches out, which needs an encoder of Transformer blocks
    alone. The loss is MAE's: squared error of the masked pixels, ink and paper alike. The mask is
    stage 2's, placed at random on ink, so that it does not fall on blank paper. What a crop left
    out is not asked for.
    """

    views, gauge = 1, "-error"

    def build(self) -> None:
        self.network = channels_last(Autoencoder(self.config.encoder), self.tools.device)

    def draw(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The picture drawn, the picture, and the masked pixels in {0, 1}; each (b, 1, H, W)."""
        config = self.config
        view = make_view(batch.ink, config.view, rng)
        _, picture = mask_view(view, batch.ink, config.mask_share, config.view.symbol, rng)
        on_canvas = view.valid.repeat_interleave(STRIDE, 2).repeat_interleave(STRIDE, 3)
        return self.network(picture, view.valid), view.picture, picture[:, 1:] * on_canvas

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        return mae_loss(*self.draw(batch, rng), self.gather), {}

    def measure(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """Squared error of masked pixels, and its share of what one best grey there would have.

        Blank paper has more than 1. Below 1, the picture drawn depends on what is seen.
        """
        drawn, picture, masked = self.draw(batch, rng)
        error = mae_loss(drawn, picture, masked)
        unexplained = error / picture[masked > 0].var(correction=0)
        return {"error": float(error), "unexplained": float(unexplained)}


OBJECTIVES: dict[str, type[Pretrain]] = {
    "contrast": ContrastObjective, "byol": ByolObjective, "mae": MaeObjective,
}


def find_objective(name: str) -> type[Pretrain]:
    """The objective of that name. Raises RunError for an unknown one."""
    if name not in OBJECTIVES:
        raise RunError(f"stage 1 has no objective {name!r}; it has {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
