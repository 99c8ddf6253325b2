"""Rows gathered from all processes, with gradients that sum over the processes' losses."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """All-gather of equal shapes; backward returns to each its gradient from every loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)  # each process's loss has a gradient on every row
        return grad[dist.get_rank()]


def _several(gather: bool) -> bool:
    return gather and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(x: Tensor, gather: bool = True) -> tuple[Tensor, int]:
    """Rows x (n, ...) of all processes, in order of rank, and where this process's own begin.

    The processes may hold different numbers of rows (batches are filled by area). Without
    ``gather``, or in a single process, this is ``x, 0``.
    """
    if not _several(gather):
        return x, 0
    count = torch.tensor([len(x)], device=x.device)
    found = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(found, count)
    counts: list[int] = torch.cat(found).tolist()
    # All-gather wants equal shapes: pad to the most rows, and cut again.
    padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
    rows = _Gather.apply(padded)  # type: ignore[no-untyped-call]
    return torch.cat([part[:n] for part, n in zip(rows, counts)]), sum(counts[: dist.get_rank()])


def mean_over_processes(total: Tensor, count: Tensor | int, gather: bool) -> Tensor:
    """``total / count``, or this process's part of the joint mean.

    The part is scaled so that its mean over processes, which is what DistributedDataParallel takes
    of the gradients, is the joint mean. A count of zero gives a zero that still has a gradient.
    """
    count = torch.as_tensor(count, device=total.device, dtype=total.dtype)
    if not _several(gather):
        return total / count.clamp_min(1)
    count = count.clone()
    dist.all_reduce(count)
    return total * dist.get_world_size() / count.clamp_min(1)
