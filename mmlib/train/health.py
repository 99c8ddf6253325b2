"""Health of a training: signs of a collapse, gates on what it hands on, how far weights moved."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EARLY = 1_000  # pictures: before, a network looks collapsed since it has learned nothing yet

Gate = tuple[str, float, str, str]  # number, limit, the side where it must lie, what is wrong else

# Validation numbers that tell a collapse.
SIGNS: tuple[Gate, ...] = (
    ("spread", 0.05, "above", "the embeddings of different expressions are the same"),
    ("entropy", 0.999, "below", "the attention maps are constant"),
    ("positional", 0.9, "below", "the attention maps are a function of position alone"),
)


def failed_gates(gates: Sequence[Gate], numbers: Mapping[str, float]) -> list[str]:
    """A sentence for each gate that the numbers fail; a number that is not there fails none."""
    return [f"{what}: {name} is {numbers[name]:.4g}, not {side} {limit:,}"
            for name, limit, side, what in gates if name in numbers
            and not (numbers[name] > limit if side == "above" else numbers[name] < limit)]


def collapsed(numbers: Mapping[str, float], pictures: int) -> list[str]:
    """A sentence for each sign of collapse among validation numbers; none before `EARLY`."""
    return failed_gates(SIGNS, numbers) if pictures >= EARLY else []


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's matrices and kernels, by name: what `moved` compares with later."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.ndim > 1}


@torch.no_grad()
def moved(before: Mapping[str, Tensor], module: nn.Module) -> float:
    """How far a module's matrices lie from what they were, over the norm that they had."""
    now = dict(module.named_parameters())
    way = math.hypot(*(float((now[name] - old).norm()) for name, old in before.items()))
    return way / max(math.hypot(*(float(old.norm()) for old in before.values())), 1e-12)


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
