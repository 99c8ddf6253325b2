"""Numerical health of a training: what a collapse looks like in the held-out numbers, and how much of a map position explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EARLY = 1_000  # pictures: a network that has seen fewer looks collapsed because it has learned nothing yet

# Held-out number, the value from which it tells a collapse, whether above or below, and what has collapsed.
SIGNS = (
    ("spread", 0.01, "below", "the embeddings of different expressions are the same"),
    ("entropy", 0.999, "above", "the attention maps are constant"),
    ("positional", 0.9, "above", "the attention maps are a function of position alone"),
)


def collapsed(numbers: Mapping[str, float], pictures: int) -> list[str]:
    """A sentence for each sign of collapse among the numbers of a look at the validation split after so many pictures, naming the
    number; none before `EARLY`."""
    if pictures < EARLY:
        return []
    return [f"{what}: {name} is {numbers[name]:.4f}, {side} {limit}" for name, limit, side, what in SIGNS
            if name in numbers and (numbers[name] > limit if side == "above" else numbers[name] < limit)]


def on_grid(maps: Tensor, valid: Tensor, size: tuple[int, int] = (4, 8)) -> Tensor:
    """Maps (b, k, h, w) on a grid that every expression shares, stretched over its own valid rectangle (b, 1, h, w) at the upper
    left: (b, k, *size), each summing to 1."""
    rows, columns = valid[:, 0].amax(2).sum(1).long(), valid[:, 0].amax(1).sum(1).long()
    found = torch.stack([F.adaptive_avg_pool2d(m[:, :r, :c], size) for m, r, c in zip(maps, rows, columns, strict=True)])
    return found / found.sum((2, 3), keepdim=True).clamp(min=1e-12)


def positional(grids: Sequence[Tensor]) -> float:
    """Share, in [0, 1], of the maps' variance that their place on the common grid explains; grids: (b, k, r, c) each.

    Variance is about the uniform map, as in the attention report: 1 is a function of position alone, 0 for maps whose mean over
    expressions is uniform. Constant maps have none to explain: 0.
    """
    grid = torch.cat(list(grids)).float()
    mean, uniform = grid.mean(0), 1 / grid[0, 0].numel()
    total = (grid - uniform).square().mean(0).sum()
    return float((mean - uniform).square().sum() / total) if total > 1e-9 else 0.0
