"""Prototypes: classes of units that nobody has named, balanced by Sinkhorn-Knopp.

As in SwAV (arXiv:2006.09882): the teacher sees a whole expression and assigns each unit to a
prototype. The student sees it masked and under another warp, and must name the same one.
Balance (every prototype takes an equal share of the units) rules out the constant answer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.losses.shared import full_precision, mean_over_processes, require


@torch.no_grad()
@full_precision
def sinkhorn(scores: Tensor, sharpness: float = 20.0, rounds: int = 3) -> Tensor:
    """Assignments (n, k) of n units to k prototypes: rows sum to 1, columns to about n / k.

    scores: (n, k) cosine similarities; the larger the `sharpness` that multiplies them, the nearer
    to one prototype per unit. rounds: of the alternating normalisation.
    """
    require("scores: n k", scores=scores)
    n, k = scores.shape
    if not n:
        return scores
    q = ((scores - scores.max()) * sharpness).exp()  # the largest first: nothing overflows
    for _ in range(rounds):
        q = q / q.sum(0, keepdim=True).clamp_min(1e-12) / k
        q = q / q.sum(1, keepdim=True).clamp_min(1e-12) / n
    return q * n


@full_precision
def naming_loss(scores: Tensor, assigned: Tensor, temperature: float = 0.1,
                gather: bool = False) -> Tensor:
    """Cross-entropy of the student's prototypes from the teacher's assignments, per unit.

    scores (n, k): the student's cosine similarities, divided by the temperature; assigned (n, k):
    distributions, which get no gradient. With `gather`, the mean over all processes.
    """
    n = require("scores: n k, assigned: n k", scores=scores, assigned=assigned)["n"]
    total = -(assigned.detach() * (scores / temperature).log_softmax(1)).sum()
    return mean_over_processes(total, n, gather)


class Prototypes(nn.Module):
    """k directions of d channels, and the teacher's last `queue` units, to balance small batches.
    """

    queue: Tensor
    filled: Tensor

    def __init__(self, d: int, k: int = 192, queue: int = 2_048):
        super().__init__()
        self.directions = nn.Parameter(F.normalize(torch.randn(k, d), dim=1))
        self.register_buffer("queue", torch.zeros(queue, d))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def scores(self, x: Tensor) -> Tensor:
        """Cosine similarities (n, k) of units (n, d) with the prototypes."""
        return F.normalize(x.float(), dim=1) @ F.normalize(self.directions.float(), dim=1).T

    @torch.no_grad()
    def assign(self, teacher: Tensor, sharpness: float = 20.0) -> Tensor:
        """Assignments (n, k) of the teacher's units (n, d), balanced together with the queue's,
        which they then join."""
        n, size = len(teacher), len(self.queue)
        known = self.queue[: min(int(self.filled), size)]
        scores = self.scores(torch.cat([teacher.to(known.dtype), known]))
        # The newest take the places of the oldest.
        place = (int(self.filled) + torch.arange(min(n, size), device=teacher.device)) % size
        self.queue[place] = teacher[: len(place)].to(self.queue.dtype)
        self.filled += len(place)
        return sinkhorn(scores, sharpness)[:n]
