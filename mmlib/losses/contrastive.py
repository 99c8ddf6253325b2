"""Stage 1: global contrast between expressions, local contrast between ink points, and the rivals' losses.

Every function takes features of any float type, works in float32 (or float64) even under autocast, and
returns a scalar. ``gather=True`` takes negatives from all processes: the mean of the processes' gradients
(DistributedDataParallel) is then the gradient of one process with the joint batch.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.losses.gather import gather_rows, mean_over_processes
from mmlib.losses.shapes import full_precision, require


@full_precision
def nt_xent(
    z1: Tensor, z2: Tensor, temperature: float = 0.2, gather: bool = False, weights: Tensor | None = None
) -> Tensor:
    """Normalised temperature-scaled cross-entropy over the 2b views (SimCLR, arXiv:2002.05709, eq. 1).

    Args:
        z1, z2: (b, d) projections of the two views of each expression; normalised here.
        temperature: above 0; divides the cosine similarities.
        gather: negatives from all processes.
        weights: (b, b) in [0, 1], how much expression j counts as a negative of expression i (the diagonal is
            not read; with ``gather`` (b, b of all processes)); None means 1.

    Raises ValueError for shapes that do not fit.
    """
    b = require("z1: b d, z2: b d", z1=z1, z2=z2)["b"]
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    (all1, start), (all2, _) = gather_rows(z1, gather), gather_rows(z2, gather)
    joint = len(all1)
    logits = torch.cat([z1, z2]) @ torch.cat([all1, all2]).T / temperature  # (2b, 2 joint)
    row, own = torch.arange(2 * b, device=z1.device), start + torch.arange(b, device=z1.device)
    positive = torch.cat([own + joint, own])
    if weights is not None:
        _same(weights, (b, joint))
        logits = logits + _negative_log_weights(weights, own).repeat(2, 2)
    itself = torch.zeros_like(logits, dtype=torch.bool)
    itself[row, torch.cat([own, own + joint])] = True
    logits = logits.masked_fill(itself, -torch.inf)
    return mean_over_processes(F.cross_entropy(logits, positive, reduction="sum"), 2 * b, gather)


@full_precision
def local_info_nce(
    u1: Tensor,
    u2: Tensor,
    owner: Tensor,
    position1: Tensor,
    position2: Tensor,
    radius: float,
    temperature: float = 0.2,
    weights: Tensor | None = None,
    gather: bool = False,
) -> Tensor:
    """InfoNCE between ink points (dense contrast, arXiv:2011.09157, with the ink's exact correspondences).

    The positive of a point is the same ink point in the other view. Its negatives are the batch's other
    sampled points in the other view, without those of its own expression that lie within ``radius`` of it.
    Symmetric in the views, the mean over the 2n anchors.

    Args:
        u1, u2: (n, d) features at the same n ink points in the two views; normalised here.
        owner: (n,) int, index of each point's expression.
        position1, position2: (n, 2) the points' places in the two views, in feature cells. The distance is
            Euclidean and taken in the anchor's view.
        radius: in cells; 0 still leaves out points that coincide with the anchor.
        temperature: above 0.
        weights: (n, n) in [0, 1], how much point j counts as a negative of point i (the diagonal is not read;
            with ``gather`` (n, n of all processes)): teacher similarity or the label oracle of the ablations.
        gather: negatives from all processes.

    Raises ValueError for shapes that do not fit. No points give zero.
    """
    n = require(
        "u1: n d, u2: n d, owner: n, position1: n 2, position2: n 2",
        u1=u1, u2=u2, owner=owner, position1=position1, position2=position2,
    )["n"]  # fmt: skip
    u1, u2 = F.normalize(u1, dim=1), F.normalize(u2, dim=1)
    (all1, start), (all2, _) = gather_rows(u1, gather), gather_rows(u2, gather)
    own = start + torch.arange(n, device=u1.device)
    bias = u1.new_zeros(n, len(all1))
    if weights is not None:
        _same(weights, (n, len(all1)))
        bias = _negative_log_weights(weights, own)
    other = owner[:, None] != owner
    other.fill_diagonal_(True)  # the positive is never left out
    totals = []
    for anchors, candidates, position in ((u1, all2, position1), (u2, all1, position2)):
        x, y = position.detach().float().unbind(1)
        far = (x[:, None] - x).square_().add_((y[:, None] - y).square_()) > radius**2
        logits = anchors @ candidates.T / temperature + bias  # (n, n of all processes)
        # Points of other processes are of other expressions, so only this process's columns lose any.
        logits[:, start : start + n].masked_fill_(~(far | other), -torch.inf)
        totals.append(F.cross_entropy(logits, own, reduction="sum"))
    return mean_over_processes(totals[0] + totals[1], 2 * n, gather)


def _same(weights: Tensor, shape: tuple[int, int]) -> None:
    if tuple(weights.shape) != shape:
        raise ValueError(f"weights has shape {tuple(weights.shape)}, expected {shape}")


def _negative_log_weights(weights: Tensor, own: Tensor) -> Tensor:
    """Log of the weights as a bias on the logits, zero at each anchor's own column."""
    return weights.detach().log().scatter(1, own[:, None], 0.0)


@full_precision
def similarity_weights(teacher: Tensor, sharpness: float = 1.0) -> Tensor:
    """Weights (n, n) of negatives, falling with the teacher's similarity: ``(1 - max(cos, 0)) ** sharpness``.

    ``teacher (n, d)`` are features of the same points or expressions. A probable false negative (two plus
    signs) then hardly pushes. No gradient.
    """
    require("teacher: n d", teacher=teacher)
    unit = F.normalize(teacher.detach(), dim=1)
    return (1 - (unit @ unit.T).clamp(0, 1)) ** sharpness


@full_precision
def byol_loss(p: Tensor, z: Tensor, gather: bool = False) -> Tensor:
    """Mean of ``2 - 2 cos(p, z)`` (BYOL, arXiv:2006.07733, eq. 2): positives alone, no negatives.

    Args:
        p: (n, d) predictions of the student.
        z: (n, d) projections of the teacher; gets no gradient.
        gather: the mean over the predictions of all processes.
    """
    n = require("p: n d, z: n d", p=p, z=z)["n"]
    return mean_over_processes((2 - 2 * F.cosine_similarity(p, z.detach(), dim=1)).sum(), n, gather)


@full_precision
def mae_loss(pred: Tensor, target: Tensor, masked: Tensor, gather: bool = False) -> Tensor:
    """Mean squared error where the input was masked (masked autoencoder, arXiv:2111.06377).

    Args:
        pred, target: (b, c, h, w), cells or pixels.
        masked: (b, 1, h, w) bool or in {0, 1}. Nothing masked gives zero.
        gather: the mean over what is masked in all processes.
    """
    c = require(
        "pred: b c h w, target: b c h w, masked: b 1 h w", pred=pred, target=target, masked=masked
    )["c"]
    masked = masked.to(pred.dtype)
    return mean_over_processes(((pred - target.detach()).square() * masked).sum(), masked.sum() * c, gather)


@torch.no_grad()
@full_precision
def match_rate(z1: Tensor, z2: Tensor) -> Tensor:
    """Share of rows of ``z1 (n, d)`` whose nearest row of ``z2 (n, d)`` is their own: a gauge, not a loss."""
    n = require("z1: n d, z2: n d", z1=z1, z2=z2)["n"]
    nearest = (F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T).argmax(1) if n else z1.new_zeros(0)
    return (nearest == torch.arange(n, device=z1.device)).float().sum() / max(n, 1)


class ContrastLoss(nn.Module):
    """``balance * nt_xent + (1 - balance) * local_info_nce``: 1 is SimCLR, 0 is dense contrast.

    Args:
        balance: λ in [0, 1]; a term of weight zero is not computed.
        global_temperature, local_temperature: of the two terms.
        radius: of the local term, in cells.
        gather: negatives from all processes.

    ``forward`` takes what the two functions take, and returns the total and the detached parts.
    """

    def __init__(
        self,
        balance: float = 0.5,
        global_temperature: float = 0.2,
        local_temperature: float = 0.2,
        radius: float = 1.0,
        gather: bool = False,
    ):
        super().__init__()
        if not 0 <= balance <= 1:
            raise ValueError(f"balance is {balance}, expected 0 to 1")
        self.balance, self.radius, self.gather = balance, radius, gather
        self.global_temperature, self.local_temperature = global_temperature, local_temperature

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        u1: Tensor,
        u2: Tensor,
        owner: Tensor,
        position1: Tensor,
        position2: Tensor,
        global_weights: Tensor | None = None,
        local_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        terms = {}
        if self.balance > 0:
            terms["global"] = nt_xent(z1, z2, self.global_temperature, self.gather, global_weights)
        if self.balance < 1:
            terms["local"] = local_info_nce(
                u1,
                u2,
                owner,
                position1,
                position2,
                self.radius,
                self.local_temperature,
                local_weights,
                self.gather,
            )
        share = {"global": self.balance, "local": 1 - self.balance}
        total = reduce(torch.add, (share[name] * term for name, term in terms.items()))
        return total, {name: term.detach() for name, term in terms.items()}
