"""Pieces that several networks share: devices, zeroed padding, attention, positions."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def default_device() -> str:
    """Where reading and measuring run: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def native_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether the device multiplies bfloat16 natively: a GPU, or a CPU with AVX-512 BF16."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.device(device).type == "cuda" or bool(supported())


def autocast(device: torch.device | str = "cpu") -> torch.autocast:
    """bfloat16 products where the device has them natively; else full precision."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=native_bfloat16(device))


def channels_last(module: M, device: torch.device | str | None = None) -> M:
    """The module, on a device if one is named, in the layout in which convolutions run fastest."""
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


@torch.no_grad()
def ema_update(old: nn.Module, new: nn.Module, share: float) -> None:
    """Move a module's parameters and running statistics by this share towards the new one's."""
    ours, theirs = (*old.parameters(), *old.buffers()), (*new.parameters(), *new.buffers())
    for average, value in zip(ours, theirs, strict=True):
        if average.is_floating_point():  # a batch norm's count of batches is none
            average.lerp_(value, share)


def unless_full(valid: Tensor) -> Tensor | None:
    """valid, or None on a CPU if nothing is padding: it saves the products with 1.

    A GPU would wait for the answer.
    """
    return None if valid.device.type == "cpu" and bool(valid.all()) else valid


def zero_padding(x: Tensor, valid: Tensor | None) -> Tensor:
    """x (b, c, h, w), zero where valid (b, 1, h, w) is; None leaves x as it is."""
    return x if valid is None else x * valid.to(x.dtype)


def zero_padding_(x: Tensor, valid: Tensor | None) -> Tensor:
    """The same in place, where no gradient needs x: it saves a copy."""
    return x if valid is None else x.mul_(valid.to(x.dtype))


class Conv(nn.Conv2d):
    """A convolution that takes x (b, c, h, w) with fewer channels than its own.

    Channels that x lacks, such as the mask channel of a picture without a mask, count as zero and
    cost nothing. `valid` is not read: a transition of the residual form needs it.
    """

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        y = self._conv_forward(x, self.weight[:, : x.shape[1]], self.bias)
        return y.contiguous(memory_format=torch.channels_last)


def dot_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None,
                  causal: bool = False) -> Tensor:
    """Attention of q (b, heads, s, e) over k, v (b, heads, t, e); bias broadcasts to the logits.

    PyTorch's fused kernel, which on a CPU is three to six times faster than plain products in
    reading, and up to twice in training. Only its bfloat16 backward pass on a CPU is some ten times
    slower at our lengths (a few hundred cells, tens of tokens): there the plain products run.
    """
    if q.is_cuda or q.dtype == torch.float32 or not torch.is_grad_enabled():
        bias = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
    logits = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    if causal:
        later = torch.full(logits.shape[-2:], -1e4, dtype=logits.dtype, device=q.device)
        logits = logits + later.triu(1 + k.shape[2] - q.shape[2])
    return logits.softmax(-1, dtype=logits.dtype) @ v


def positions_2d(h: int, w: int, d: int, device: torch.device | str = "cpu") -> Tensor:
    """Sinusoidal positions (h, w, d): half the channels code the row, half the column, in cells."""
    # 1,000 and not the usual 10,000: pictures are only some hundred cells wide.
    rate = torch.exp(torch.arange(0, d // 2, 2, device=device) * (-math.log(1000.0) / (d // 2)))
    row, column = (torch.arange(n, device=device)[:, None] * rate for n in (h, w))
    rows = torch.cat([row.sin(), row.cos()], -1)[:, None, :].expand(h, w, -1)
    columns = torch.cat([column.sin(), column.cos()], -1)[None, :, :].expand(h, w, -1)
    return torch.cat([rows, columns], -1)
