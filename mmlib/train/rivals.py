"""Stage 1 by its rivals, BYOL and a masked autoencoder: same data, views, encoder and loop."""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.data.sample import Batch
from mmlib.draw.masks import mask_view
from mmlib.draw.views import STRIDE, ink_cells, make_view
from mmlib.losses.contrast import match_rate, spread
from mmlib.losses.rivals import byol_loss, mae_loss
from mmlib.models.encoder import Encoder, EncoderConfig, encode_all
from mmlib.models.heads import pool, projection
from mmlib.models.layers import channels_last, ema_update
from mmlib.train.loop import LossAndNumbers
from mmlib.train.stage import Pretrain

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
