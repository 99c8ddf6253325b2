"""Stage 1: contrast between whole expressions, and between ink points.

Every function takes features of any float type, computes in float32 (or float64) even under
autocast, and returns a scalar. With ``gather=True`` negatives come from all processes; the mean of
the processes' gradients (DistributedDataParallel) is then the gradient of one process that holds
the joint batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.losses.shared import full_precision, gather_rows, mean_over_processes, require


@full_precision
def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.2, gather: bool = False) -> Tensor:
    """Normalised temperature-scaled cross-entropy over the 2b views (SimCLR, arXiv:2002.05709).

    Args:
        z1, z2: (b, d) projections of the two views of each expression; normalised here.
        temperature: above 0; divides the cosine similarities.
        gather: negatives from all processes.

    Raises ValueError for shapes that do not fit.
    """
    b = require("z1: b d, z2: b d", z1=z1, z2=z2)["b"]
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    (all1, start), (all2, _) = gather_rows(z1, gather), gather_rows(z2, gather)
    joint = len(all1)
    logits = torch.cat([z1, z2]) @ torch.cat([all1, all2]).T / temperature  # (2b, 2 joint)
    row, own = torch.arange(2 * b, device=z1.device), start + torch.arange(b, device=z1.device)
    positive = torch.cat([own + joint, own])  # the other view of the same expression
    itself = torch.zeros_like(logits, dtype=torch.bool)  # a view is no negative of itself
    itself[row, torch.cat([own, own + joint])] = True
    logits = logits.masked_fill(itself, -torch.inf)
    total = F.cross_entropy(logits, positive, reduction="sum")
    return mean_over_processes(total, 2 * b, gather)


@full_precision
def local_info_nce(u1: Tensor, u2: Tensor, owner: Tensor, position1: Tensor, position2: Tensor,
                   radius: float, temperature: float = 0.2, gather: bool = False) -> Tensor:
    """InfoNCE between ink points (dense contrast, arXiv:2011.09157, with exact correspondences).

    The positive of a point is the same ink point in the other view. Its negatives are the batch's
    other sampled points in the other view, without those of its own expression that lie within
    ``radius`` of it. Symmetric in the views, the mean over the 2n anchors.

    Args:
        u1, u2: (n, d) features at the same n ink points in the two views; normalised here.
        owner: (n,) int, index of each point's expression.
        position1, position2: (n, 2) the points' places in the two views, in feature cells. The
            distance is Euclidean and taken in the anchor's view.
        radius: in cells; 0 still leaves out points that coincide with the anchor.
        temperature: above 0.
        gather: negatives from all processes.

    Raises ValueError for shapes that do not fit. No points give zero.
    """
    n = require("u1: n d, u2: n d, owner: n, position1: n 2, position2: n 2", u1=u1, u2=u2,
                owner=owner, position1=position1, position2=position2)["n"]
    u1, u2 = F.normalize(u1, dim=1), F.normalize(u2, dim=1)
    (all1, start), (all2, _) = gather_rows(u1, gather), gather_rows(u2, gather)
    own = start + torch.arange(n, device=u1.device)
    other = owner[:, None] != owner
    other.fill_diagonal_(True)  # the positive is never left out
    total = u1.new_zeros(())
    for anchors, candidates, position in ((u1, all2, position1), (u2, all1, position2)):
        x, y = position.detach().float().unbind(1)  # in place: (n, n) tables are the cost here
        far = (x[:, None] - x).square_().add_((y[:, None] - y).square_()) > radius**2
        logits = anchors @ candidates.T / temperature  # (n, n of all processes)
        # Points of other processes are of other expressions, so only our own columns lose any.
        logits[:, start : start + n].masked_fill_(~(far | other), -torch.inf)
        total = total + F.cross_entropy(logits, own, reduction="sum")
    return mean_over_processes(total, 2 * n, gather)


@torch.no_grad()
@full_precision
def spread(z: Tensor) -> Tensor:
    """How far the rows of z (n, d) spread on the unit sphere (arXiv:2011.10566, 4.1).

    Times the root of d: 1 for directions without preference and 0 for a collapsed projection.
    """
    return F.normalize(z, dim=1).std(0, correction=0).mean() * math.sqrt(z.shape[1])


@torch.no_grad()
@full_precision
def match_rate(z1: Tensor, z2: Tensor) -> Tensor:
    """Share of rows of z1 (n, d) whose nearest row of z2 (n, d) is their own: a gauge, no loss."""
    n = require("z1: n d, z2: n d", z1=z1, z2=z2)["n"]
    nearest = (F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T).argmax(1) if n else z1[:0, 0]
    return (nearest == torch.arange(n, device=z1.device)).float().sum() / max(n, 1)


def contrast_loss(z1: Tensor, z2: Tensor, u1: Tensor, u2: Tensor, owner: Tensor,
                  position1: Tensor, position2: Tensor, balance: float = 0.5,
                  global_temperature: float = 0.2, local_temperature: float = 0.2,
                  radius: float = 1.0, gather: bool = False
                  ) -> tuple[Tensor, dict[str, Tensor]]:
    """``balance * nt_xent + (1 - balance) * local_info_nce``: 1 is SimCLR, 0 is dense contrast.

    Takes what the two take, and returns the total and the detached terms; one of weight zero is not
    computed. u1 and u2 may be of several levels of features, (l, n, d): the local term is their
    mean. Raises ValueError for a balance outside [0, 1].
    """
    if not 0 <= balance <= 1:
        raise ValueError(f"balance is {balance}, expected 0 to 1")
    total, terms = z1.new_zeros((), dtype=torch.float32), {}
    if balance > 0:  # a head without a share has no gradient, and needs none
        terms["global"] = nt_xent(z1, z2, global_temperature, gather)
        total = total + balance * terms["global"]
    if balance < 1:
        levels = zip(*(u if u.dim() == 3 else u[None] for u in (u1, u2)), strict=True)
        each = [local_info_nce(here, there, owner, position1, position2, radius, local_temperature,
                               gather) for here, there in levels]
        terms["local"] = torch.stack(each).mean()
        total = total + (1 - balance) * terms["local"]
    return total, {name: term.detach() for name, term in terms.items()}
