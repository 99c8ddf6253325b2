"""A masked autoencoder for ink: part of the ink is masked, and the picture there is to be drawn.

Of the two ways to mask, SimMIM's (arXiv:2111.09886) fits an encoder with convolutions. It sees the
whole canvas, masked parts marked (there by a mask token, here by the mask channel, as in stage 2),
and one linear layer draws each cell's pixels from its features. MAE (arXiv:2111.06377) leaves the
masked patches out, which needs an encoder of Transformer blocks alone. The loss is MAE's: squared
error of the masked pixels, ink and paper alike, and of nothing else. The mask is stage 2's, placed
at random on ink, so that it does not fall on blank paper. What a crop left out is not asked for.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.data.sample import Batch
from mmlib.draw.masks import mask_view
from mmlib.draw.views import STRIDE, make_view
from mmlib.losses.rivals import mae_loss
from mmlib.models.encoder import Encoder, EncoderConfig
from mmlib.train.loop import LossAndNumbers
from mmlib.train.objectives.base import Objective


class Autoencoder(nn.Module):
    """The encoder with one linear layer from a cell's features to its 8 x 8 pixels."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.pixels = nn.Conv2d(config.d, STRIDE**2, 1)

    def forward(self, picture: Tensor, valid: Tensor) -> Tensor:
        """The picture drawn, (b, 1, H, W).

        picture: (b, 2, H, W) with its mask channel; valid: (b, 1, h, w).
        """
        return F.pixel_shuffle(self.pixels(self.encoder(picture, valid)), STRIDE)


class MaeObjective(Objective):
    """`mae_loss` on one view; an expression costs one picture."""

    views, gauge = 1, "-error"

    def __init__(self, config: Any, gather: bool = False):
        super().__init__(config, gather)
        self.network = Autoencoder(config.encoder)

    def draw(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The picture drawn, the picture, and the masked pixels in {0, 1}; each (b, 1, H, W)."""
        config = self.config
        view = make_view(batch.ink, config.view, rng)
        _, picture = mask_view(view, batch.ink, config.mask_share, config.view.symbol, rng)
        on_canvas = view.valid.repeat_interleave(STRIDE, 2).repeat_interleave(STRIDE, 3)
        return self.network(picture, view.valid), view.picture, picture[:, 1:] * on_canvas

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        return mae_loss(*self.draw(batch, rng), gather=self.gather), {}

    def validate(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """Squared error of masked pixels, and its share of what one best grey there would have.

        Blank paper has more than 1. Below 1, the picture drawn depends on what is seen.
        """
        drawn, picture, masked = self.draw(batch, rng)
        error = mae_loss(drawn, picture, masked)
        unexplained = error / picture[masked > 0].var(correction=0)
        return {"error": float(error), "unexplained": float(unexplained)}
