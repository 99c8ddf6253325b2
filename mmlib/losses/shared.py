"""What all losses share: shape checks, full precision, and means over all processes."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def require(spec: str, /, **tensors: Tensor) -> dict[str, int]:
    """Check tensors against a spec such as ``"z1: b d, z2: b d"``; return the size of each axis.

    A digit in the spec is a fixed size, a letter an axis that must agree between the tensors.
    Raises ValueError, naming the tensor, its shape and what was expected.
    """
    sizes: dict[str, int] = {}
    for part in spec.split(","):
        name, letters = part.split(":")
        name, axes = name.strip(), letters.split()
        shape = tuple(tensors[name].shape)
        # The first tensor that names an axis fixes its size.
        wanted = [int(a) if a.isdigit() else sizes.get(a) for a in axes]
        if len(shape) != len(axes) or any(w not in (None, s) for w, s in zip(wanted, shape)):
            known = ", ".join(f"{a}={sizes[a]}" for a in axes if a in sizes)
            raise ValueError(f"{name} has shape {shape}, expected ({', '.join(axes)})"
                             + (f" with {known}" if known else ""))
        sizes.update(zip(axes, shape))
    return sizes


def full_precision(loss: Callable[Concatenate[Tensor, P], R]
                   ) -> Callable[Concatenate[Tensor, P], R]:
    """Run a loss in at least float32, also under autocast: bfloat16 loses small gradients."""

    def widen(value: Any) -> Any:
        half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
        return value.float() if half else value

    @functools.wraps(loss)
    def wrapped(first: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(first.device.type, enabled=False):
            return loss(widen(first), *map(widen, args),
                        **{name: widen(value) for name, value in kwargs.items()})

    return wrapped


def _several(gather: bool) -> bool:
    return gather and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(x: Tensor, gather: bool = True) -> tuple[Tensor, int]:
    """Rows x (n, ...) of all processes, in order of rank, and where this process's own begin.

    A row's gradient is the sum of those of all processes' losses. The processes may hold different
    numbers of rows (batches are filled by area). Without ``gather``, or in a single process, this
    is ``x, 0``.
    """
    if not _several(gather):
        return x, 0
    from torch.distributed.nn.functional import all_gather  # torch may be built without

    count = torch.tensor([len(x)], device=x.device)
    found = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(found, count)
    counts: list[int] = torch.cat(found).tolist()
    # All-gather wants equal shapes: pad to the most rows, and cut again.
    padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
    rows = [part[:n] for part, n in zip(all_gather(padded), counts)]
    return torch.cat(rows), sum(counts[: dist.get_rank()])


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
