"""Muon for the matrices inside the network, AdamW for the rest (embeddings, output layers, vectors, scalars).

Muon (Jordan et al. 2024; its scale as in Liu et al., arXiv:2502.16982) orthogonalises each matrix's momentum, so that every
direction that the gradient spans is learned at one rate. torch.optim.Muon takes two-dimensional weights alone and multiplies in
bfloat16, which a CPU without that type emulates; here convolutions are matrices (out, k k in), matrices of one shape are
orthogonalised as one batch, and bfloat16 is for devices that have it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmlib.models.layers import native_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose iteration drives singular values towards 1


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """(n, r, c) to matrices of the same singular vectors with singular values near 1 (0.7 to 1.2), by Newton-Schulz.

    The iteration is a polynomial in the Gram matrix. In float32 it runs on that alone, of the smaller side, and the matrix is
    multiplied once, at the end. (For a convolution of 160 x 1440 that is a fifth of the products.) In bfloat16, where the device
    has it, the Gram matrix is formed anew each time: products of its rounded powers would drift apart.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x: Tensor = matrices if wide else matrices.transpose(1, 2)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    x = (_by_products if native_bfloat16(x.device) else _by_gram)(x, iterations)
    return x if wide else x.transpose(1, 2)


def _by_products(x: Tensor, iterations: int) -> Tensor:
    """The iteration on wide matrices, multiplied in bfloat16."""
    a, b, c = COEFFICIENTS
    half = x.bfloat16().contiguous()
    for _ in range(iterations):
        gram = half @ half.transpose(1, 2)
        half = torch.baddbmm(half, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), half, beta=a)
    return half.to(x.dtype)


def _by_gram(x: Tensor, iterations: int) -> Tensor:
    """The iteration on wide matrices' Gram matrices, and one product with the matrices at the end."""
    a, b, c = COEFFICIENTS
    gram = x @ x.transpose(1, 2)
    whole: Tensor | None = None
    for _ in range(iterations):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b G + c G G
        factor.diagonal(dim1=1, dim2=2).add_(a)
        whole = factor if whole is None else factor @ whole
        gram = factor @ gram @ factor
    return x if whole is None else whole @ x


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
        for (rows, columns), weights in alike.items():
            for weight in weights:
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            moments = [self.state[w]["momentum"] for w in weights]
            gradients = [w.grad for w in weights if w.grad is not None]
            torch._foreach_lerp_(moments, gradients, 1 - self.momentum)
            ahead = torch._foreach_lerp(gradients, moments, self.momentum)  # Nesterov's
            update = orthogonalised(torch.stack([_matrix(g) for g in ahead]))
            rate = group["lr"]
            torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
            size = 0.2 * max(rows, columns) ** 0.5
            torch._foreach_add_(weights, [_like(w, u) for u, w in zip(update, weights, strict=True)], alpha=-rate * size)


def _matrix(weight: Tensor) -> Tensor:
    """(out, ...) as a matrix; a convolution's columns in the order of memory, channels last, so that nothing is moved."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight.flatten(1)


def _like(weight: Tensor, matrix: Tensor) -> Tensor:
    """`_matrix` undone."""
    if weight.ndim != 4:
        return matrix.reshape(weight.shape)
    out, channels, *kernel = weight.shape
    return matrix.reshape(out, *kernel, channels).permute(0, 3, 1, 2)
