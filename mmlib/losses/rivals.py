"""The losses of the rival objectives of stage 1: BYOL's and the masked autoencoder's.

With `gather`, means are over all processes. Wrong shapes raise ValueError.
"""

import torch.nn.functional as F
from torch import Tensor

from mmlib.losses.shared import full_precision, mean_over_processes, require


@full_precision
def byol_loss(p: Tensor, z: Tensor, gather: bool = False) -> Tensor:
    """Mean of ``2 - 2 cos(p, z)`` (BYOL, arXiv:2006.07733, eq. 2): positives alone, no negatives.

    p (n, d): the student's predictions; z (n, d): the teacher's projections, without gradient.
    """
    n = require("p: n d, z: n d", p=p, z=z)["n"]
    total = (2 - 2 * F.cosine_similarity(p, z.detach(), dim=1)).sum()
    return mean_over_processes(total, n, gather)


@full_precision
def mae_loss(pred: Tensor, target: Tensor, masked: Tensor, gather: bool = False) -> Tensor:
    """Mean squared error where the input was masked (masked autoencoder, arXiv:2111.06377).

    pred, target (b, c, h, w), cells or pixels; masked (b, 1, h, w) bool or in {0, 1}.
    """
    c = require("pred: b c h w, target: b c h w, masked: b 1 h w",
                pred=pred, target=target, masked=masked)["c"]
    # What the input shows would be learned by copying.
    masked = masked.to(pred.dtype)
    total = ((pred - target.detach()).square() * masked).sum()
    return mean_over_processes(total, masked.sum() * c, gather)
