"""Muon for the matrices inside the network, AdamW for the rest (embeddings, output layers, vectors, scalars).

Muon (Jordan et al. 2024; its scale as in Liu et al., arXiv:2502.16982) orthogonalises each matrix's momentum, so that every
direction that the gradient spans is learned at one rate. torch.optim.Muon takes two-dimensional weights alone and multiplies in
bfloat16, which a CPU without that type emulates; here convolutions are matrices (out, k k in), matrices of one shape are
orthogonalised as one batch, and bfloat16 is for devices that have it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from mmlib.models.layers import native_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose iteration drives singular values towards 1


def product_type(x: Tensor) -> torch.dtype:
    """What its device multiplies fast: bfloat16, or x's own type, at least float32."""
    return torch.bfloat16 if native_bfloat16(x.device) else torch.promote_types(x.dtype, torch.float32)


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """(n, r, c) to matrices of the same singular vectors with singular values near 1 (0.7 to 1.2), by Newton-Schulz; of the same
    type.

    The iteration is a polynomial in the Gram matrix of the shorter side. So several iterations can run on that alone and
    multiply the matrix once, at their end, which for the 160 x 1440 of a convolution are a fifth of the products. But rounding
    adds up. In float32 all of them share one Gram matrix. In bfloat16, where the device has it, three do and then the rest (as
    close to the exact result as one by one; five in a row are far off), and none where the longer side is less than twice the
    shorter, since that would save nothing.
    """
    short, long = sorted(matrices.shape[1:])
    x = matrices.to(product_type(matrices))
    shared = max(1, iterations) if x.dtype != torch.bfloat16 else 3 if 2 * short <= long else 1
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    x = x / norm.clamp(min=1e-12).to(x.dtype)
    for done in range(0, iterations, shared):
        x = _iterated(x, min(shared, iterations - done))
    return x.to(matrices.dtype)


def _iterated(x: Tensor, iterations: int) -> Tensor:
    """So many iterations by the Gram matrices G of the shorter side: the last multiplies x, on that side, by the product of all
    factors a I + F, F = b G + c G G, and each but the last turns G into (a I + F) G (a I + F)."""
    a, b, c = COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    gram = x.transpose(1, 2) @ x if tall else x @ x.transpose(1, 2)
    product: Tensor | None = None
    for left in reversed(range(iterations)):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        if product is None and not left:
            return torch.baddbmm(x, x, factor, beta=a) if tall else torch.baddbmm(x, factor, x, beta=a)
        if product is None:
            product = factor.clone()
            product.diagonal(dim1=1, dim2=2).add_(a)
        else:
            product = torch.baddbmm(product, factor, product, beta=a)
        if left:
            half = torch.baddbmm(gram, factor, gram, beta=a)
            gram = torch.baddbmm(half, half, factor, beta=a)
    if product is None:
        return x
    return x @ product if tall else product @ x


class Muon(torch.optim.AdamW):
    """AdamW, but groups with `muon=True` take Muon's step: weights (out, ...) of two dimensions or more.

    The update of a matrix (r, c) is scaled by 0.2 sqrt(max(r, c)), the size of AdamW's, so one learning rate serves both.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float = 0.95, **options: Any):
        super().__init__([{"muon": False, **group} for group in groups], **options)
        self.momentum = momentum

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's own mends states of old versions, and expects its own keys

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        whole = self.param_groups
        self.param_groups = [group for group in whole if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = whole
        for group in whole:
            if group["muon"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is not None:
                alike[len(weight), weight[0].numel()].append(weight)
        rate = group["lr"]
        for (rows, columns), weights in alike.items():
            ahead = weights[0].new_empty(len(weights), rows, columns, dtype=product_type(weights[0]))
            for weight, place in zip(weights, ahead, strict=True):  # one by one: all of its steps while it is in the cache
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
                moment, gradient = self.state[weight]["momentum"], cast(Tensor, weight.grad)
                moment.lerp_(gradient, 1 - self.momentum)
                place.copy_(_matrix(torch.lerp(gradient, moment, self.momentum)))  # Nesterov's
            size = 0.2 * max(rows, columns) ** 0.5
            for weight, update in zip(weights, orthogonalised(ahead), strict=True):
                weight.mul_(1 - rate * group["weight_decay"]).add_(_like(weight, update), alpha=-rate * size)


def _matrix(weight: Tensor) -> Tensor:
    """(out, ...) as a matrix; a convolution's columns in the order of memory, channels last, so that nothing is moved."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight.flatten(1)


def _like(weight: Tensor, matrix: Tensor) -> Tensor:
    """`_matrix` undone."""
    if weight.ndim != 4:
        return matrix.reshape(weight.shape)
    out, channels, *kernel = weight.shape
    return matrix.reshape(out, *kernel, channels).permute(0, 3, 1, 2)
