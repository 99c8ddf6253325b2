"""Health of a training: what a collapse looks like in the validation numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EARLY = 1_000  # pictures: before, a network looks collapsed since it has learned nothing yet

# Validation number, the value from which it tells a collapse, on which side, and what collapsed.
SIGNS = (
    ("spread", 0.01, "below", "the embeddings of different expressions are the same"),
    ("entropy", 0.999, "above", "the attention maps are constant"),
    ("positional", 0.9, "above", "the attention maps are a function of position alone"),
)


def collapsed(numbers: Mapping[str, float], pictures: int) -> list[str]:
    """A sentence for each sign of collapse among validation numbers; none before `EARLY`."""
    found = []
    for name, limit, side, what in SIGNS if pictures >= EARLY else ():
        value = numbers.get(name, limit)
        if value > limit if side == "above" else value < limit:
            found.append(f"{what}: {name} is {value:.4f}, {side} {limit}")
    return found


def on_grid(maps: Tensor, valid: Tensor, size: tuple[int, int] = (4, 8)) -> Tensor:
    """Maps (b, k, h, w) on a grid that every expression shares: (b, k, *size), each summing to 1.

    Each map is stretched over its own valid rectangle (b, 1, h, w) at the upper left.
    """
    rows, columns = valid[:, 0].amax(2).sum(1).long(), valid[:, 0].amax(1).sum(1).long()
    own = [m[:, :r, :c] for m, r, c in zip(maps, rows, columns, strict=True)]
    found = torch.stack([F.adaptive_avg_pool2d(m, size) for m in own])
    return found / found.sum((2, 3), keepdim=True).clamp(min=1e-12)


def positional(grids: Sequence[Tensor]) -> float:
    """Share, in [0, 1], of the maps' variance that their place on the common grid explains.

    grids: (b, k, r, c) each. Variance is about the uniform map, as in the attention report: 1 is a
    function of position alone, 0 maps whose mean over expressions is uniform. Constant maps have no
    variance to explain: 0.
    """
    grid = torch.cat(list(grids)).float()
    mean, uniform = grid.mean(0), 1 / grid[0, 0].numel()
    total = (grid - uniform).square().mean(0).sum()
    return float((mean - uniform).square().sum() / total) if total > 1e-9 else 0.0
