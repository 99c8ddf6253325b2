"""The optimiser and the learning rate's schedule.

Muon serves the matrices inside the network, AdamW the rest (embeddings, output layers, vectors).
Muon (Jordan et al. 2024; its scale as in Liu et al., arXiv:2502.16982) orthogonalises each matrix's
momentum, so that every direction that the gradient spans is learned at one rate. torch.optim.Muon
takes two-dimensional weights alone and multiplies in bfloat16, which a CPU without that type
emulates. Here convolutions are matrices (out, k k in), matrices of one shape are orthogonalised as
one batch, and bfloat16 is for devices that have it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmlib.models.layers import native_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1
# Layers whose rows are tokens, classes, slots or pixels, not directions; AdamW serves them.
ENDS = ("embed", "logits", "symbols", "density", "scalars", "pixels")


@dataclass(frozen=True)
class OptimConfig:
    """Muon or AdamW, and the learning rate's course."""

    muon: bool = True  # for the matrices inside the network; without it AdamW takes them too
    lr: float = 3e-3
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: int = 3_000  # pictures
    hold: int = 0  # pictures after which the rate falls as their inverse square root; 0: never
    decay: float = 0.25  # the last share of the budget, over which the rate falls to zero
    clip: float = 1.0  # norm of the gradient


def learning_rate(pictures: int, total: int, config: OptimConfig) -> float:
    """Warm-up, stable, linear decay; a pure function of the pictures seen.

    From `hold` on the stable part falls: slowly enough to learn, and no budget enters it.
    """
    start = total * (1 - config.decay)
    steady = min(1.0, (config.hold / max(pictures, 1)) ** 0.5) if config.hold else 1.0
    rise = min(1.0, (pictures + 1) / max(config.warmup, 1))
    fall = 1.0 if pictures < start else max(0.0, (total - pictures) / max(total - start, 1))
    return config.lr * steady * min(rise, fall)


def optimizer(modules: Iterable[nn.Module], config: OptimConfig, slow: Iterable[nn.Module] = (),
              factor: float = 0.1, ramp: int = 0) -> torch.optim.Optimizer:
    """The optimiser of these modules' trainable parameters; `slow` ones at `factor` times the rate.

    They rise to it from 0 over the first `ramp` pictures, so that gradients through what is random
    yet do not wreck what was learned.
    Weights inside the network take Muon's step. Vectors and scalars, which do not decay, and the
    layers of `ENDS` take AdamW's.
    """
    groups = []
    for scale, rise, members in ((1.0, 0, modules), (factor, ramp, slow)):
        kinds: dict[str, list[nn.Parameter]] = {"hidden": [], "end": [], "vector": []}
        for name, p in (item for module in members for item in module.named_parameters()):
            if p.requires_grad:
                inside = config.muon and "." in name and name.split(".")[-2] not in ENDS
                kinds["vector" if p.ndim < 2 else "hidden" if inside else "end"].append(p)
        for kind, chosen in kinds.items():
            decay = 0.0 if kind == "vector" else config.weight_decay
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "scale": scale,
                               "ramp": rise, "muon": kind == "hidden"})
    return Muon(groups, lr=config.lr, betas=config.betas, fused=True)


def product_type(x: Tensor) -> torch.dtype:
    """What x's device multiplies fast: bfloat16, or x's own type, at least float32."""
    own = torch.promote_types(x.dtype, torch.float32)
    return torch.bfloat16 if native_bfloat16(x.device) else own


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices (n, r, c) with the same singular vectors and singular values near 1 (0.7 to 1.2).

    By Newton-Schulz, a polynomial in the Gram matrix of the shorter side. So several iterations
    can run on that alone and multiply the matrix once, at their end: for the 160 x 1440 of a
    convolution a fifth of the products. But rounding adds up. In float32 all iterations share one
    Gram matrix. In bfloat16 three do and then the rest, which is as close to the exact result as
    one by one (five in a row are far off); none do if the longer side is less than twice the
    shorter, since that would save nothing.
    """
    short, long = sorted(matrices.shape[1:])
    x = matrices.to(product_type(matrices))
    shared = max(1, iterations) if x.dtype != torch.bfloat16 else 3 if 2 * short <= long else 1
    exact = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=exact)
    x = x / norm.clamp(min=1e-12).to(x.dtype)
    for done in range(0, iterations, shared):
        x = _iterated(x, min(shared, iterations - done))
    return x.to(matrices.dtype)


def _iterated(x: Tensor, iterations: int) -> Tensor:
    """One or more iterations by the Gram matrix G of the shorter side.

    The last one multiplies x by the product of all factors a I + F, F = b G + c G G. Each of the
    others turns G into (a I + F) G (a I + F).
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    gram = x.transpose(1, 2) @ x if tall else x @ x.transpose(1, 2)
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    if iterations == 1:
        return torch.baddbmm(x, *((x, factor) if tall else (factor, x)), beta=a)
    product = factor.clone()
    product.diagonal(dim1=1, dim2=2).add_(a)
    for _ in range(iterations - 1):
        half = torch.baddbmm(gram, factor, gram, beta=a)
        gram = torch.baddbmm(half, half, factor, beta=a)
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        product = torch.baddbmm(product, factor, product, beta=a)
    return x @ product if tall else product @ x


class Muon(torch.optim.AdamW):
    """AdamW, but groups with `muon=True` take Muon's step: weights (out, ...) of at least two axes.

    The update of a matrix (r, c) is scaled by 0.2 sqrt(max(r, c)), the size of AdamW's, so one
    learning rate serves both.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float = 0.95, **options: Any):
        super().__init__([{"muon": False, **group} for group in groups], **options)
        self.momentum = momentum

    def __setstate__(self, state: dict[str, Any]) -> None:
        # AdamW's own mends states of old versions, and expects its own keys in every group.
        torch.optim.Optimizer.__setstate__(self, state)

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
            kind = product_type(weights[0])
            ahead = weights[0].new_empty(len(weights), rows, columns, dtype=kind)
            # One by one, so that all steps of a weight are made while it is in the cache.
            for weight, place in zip(weights, ahead, strict=True):
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
                moment, gradient = self.state[weight]["momentum"], cast(Tensor, weight.grad)
                moment.lerp_(gradient, 1 - self.momentum)
                place.copy_(_matrix(torch.lerp(gradient, moment, self.momentum)))  # Nesterov's
            size = 0.2 * max(rows, columns) ** 0.5
            for weight, update in zip(weights, orthogonalised(ahead), strict=True):
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(_like(weight, update), alpha=-rate * size)


def _matrix(weight: Tensor) -> Tensor:
    """(out, ...) as a matrix; a convolution's columns as they lie in memory, channels last."""
    return weight.moveaxis(1, -1).flatten(1)


def _like(weight: Tensor, matrix: Tensor) -> Tensor:
    """`_matrix` undone."""
    return matrix.reshape(weight.moveaxis(1, -1).shape).moveaxis(-1, 1)
