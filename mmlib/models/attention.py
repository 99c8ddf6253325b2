"""The attention network A: features to k maps, and the k slots that the maps pool."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(NamedTuple):
    """What the attention network gives."""

    maps: Tensor  # (b, k, h, w), each sums to 1 over the valid cells
    slots: Tensor  # (b, k, d)
    saliency: Tensor  # (b, 1, h, w), mean 1 over the valid cells: a uniform map only scales F


class AttentionNetwork(nn.Module):
    """Two 1x1 layers give k logits per cell. Position enters through the features alone."""

    def __init__(self, d: int, maps: int = 8, hidden: int = 96):
        super().__init__()
        self.hidden = nn.Conv2d(d, hidden, 1)
        self.logits = nn.Conv2d(hidden, maps, 1)

    def forward(self, features: Tensor, valid: Tensor) -> Attention:
        """features (b, d, h, w), valid (b, 1, h, w) {0, 1}."""
        h, w = features.shape[2:]
        logits = self.logits(F.relu(self.hidden(features))).float()
        maps = logits.masked_fill(valid == 0, -1e4).flatten(2).softmax(-1)  # (b, k, h w)
        slots = torch.einsum("bkc,bdc->bkd", maps, features.flatten(2).float())
        maps = maps.unflatten(2, (h, w))
        saliency = maps.mean(1, keepdim=True) * valid.sum((2, 3), keepdim=True)
        return Attention(maps, slots, saliency)
