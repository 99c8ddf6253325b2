"""Shape checks with messages that name the tensor, and full precision for losses."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
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
