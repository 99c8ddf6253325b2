"""Pieces that encoder and decoder share: dot-product attention and two-dimensional positions."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def default_device() -> str:
    """Where reading and measuring run: a GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def native_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether the device multiplies bfloat16 natively: a GPU, or a CPU with AVX-512 BF16."""
    return torch.device(device).type == "cuda" or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def autocast(device: torch.device | str = "cpu") -> torch.autocast:
    """bfloat16 products where the device has them natively; nothing elsewhere."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=native_bfloat16(device))


def channels_last(module: M, device: torch.device | str | None = None) -> M:
    """The module, moved to a device where one is named, with its kernels in the order in which convolutions run fastest."""
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stub lacks it
    return module


@torch.no_grad()
def ema_update(old: nn.Module, new: nn.Module, share: float) -> None:
    """Move the parameters of one module, and its running means and variances, by this share of the way towards those of another
    of its kind: a moving average."""
    for ours, theirs in zip((*old.parameters(), *old.buffers()), (*new.parameters(), *new.buffers()), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, share)


def dot_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, causal: bool = False) -> Tensor:
    """Attention of q (b, heads, s, e) over k, v (b, heads, t, e); bias is added to the logits and broadcasts.

    PyTorch's fused kernel, which on a CPU is three to six times faster than the plain products in reading, and up to twice in
    training. Only its bfloat16 backward pass on a CPU is some ten times slower at our lengths (a few hundred cells, tens of
    tokens), so in training there the plain products run.
    """
    if q.is_cuda or q.dtype == torch.float32 or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype), is_causal=causal)
    logits = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    if causal:
        s, t = logits.shape[-2:]
        logits = logits + torch.full((s, t), -1e4, dtype=logits.dtype, device=q.device).triu(1 + t - s)
    return logits.softmax(-1, dtype=logits.dtype) @ v


def positions_2d(h: int, w: int, d: int, device: torch.device | str = "cpu") -> Tensor:
    """Sinusoidal positions (h, w, d): half the channels code the row, half the column, in cells."""
    rate = torch.exp(torch.arange(0, d // 2, 2, device=device) * (-math.log(1000.0) / (d // 2)))
    row = torch.arange(h, device=device)[:, None] * rate
    column = torch.arange(w, device=device)[:, None] * rate
    row = torch.cat([row.sin(), row.cos()], -1)[:, None, :].expand(h, w, -1)
    column = torch.cat([column.sin(), column.cos()], -1)[None, :, :].expand(h, w, -1)
    return torch.cat([row, column], -1)
