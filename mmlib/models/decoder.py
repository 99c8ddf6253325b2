"""Transformer decoder from picture features to LaTeX tokens, left to right (l2r) and right to left (r2l) with one set of
weights (BTTR, Zhao et al. 2021, arXiv:2105.02412): the start token tells the direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.models.layers import dot_attention


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder."""

    d: int = 192
    heads: int = 6
    layers: int = 3
    hidden: int = 576
    dropout: float = 0.0
    guided: int = 1  # the layer whose first head may be taught where each token's ink is


class Memory:
    """What the decoder looks at, with each layer's keys and values computed once.

    features (b, cells, d), position (b, cells, d), bias (b, 1, 1, cells): -1e4 on padding.
    """

    def __init__(self, features: Tensor, position: Tensor, bias: Tensor):
        self.features, self.position, self.bias = features, position, bias
        self.projected: list[tuple[Tensor, Tensor]] = []

    def select(self, pictures: Tensor) -> Memory:
        """The memory of some of the pictures, with what was projected of them."""
        part = Memory(self.features[pictures], self.position[pictures], self.bias[pictures])
        part.projected = [(key[pictures], value[pictures]) for key, value in self.projected]
        return part


class Cache:
    """Keys and values of the tokens decoded so far: per layer (rows, heads, t, d / heads)."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.t = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.layers:
            k, v = torch.cat([self.layers[layer][0], k], 2), torch.cat([self.layers[layer][1], v], 2)
        self.layers[layer] = k, v
        return k, v

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order: the parents of the surviving hypotheses."""
        self.layers = {i: (k.index_select(0, rows), v.index_select(0, rows)) for i, (k, v) in self.layers.items()}


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; pre-norm."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        d = config.d
        self.heads, self.dropout = config.heads, config.dropout
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.query, self.key, self.value, self.cross = (nn.Linear(d, d) for _ in range(4))
        self.up, self.down = nn.Linear(d, config.hidden), nn.Linear(config.hidden, d)

    def split(self, x: Tensor) -> Tensor:
        """(rows, t, d) to (rows, heads, t, d / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def project(self, memory: Memory) -> tuple[Tensor, Tensor]:
        return (self.split(self.key(memory.features + memory.position)), self.split(self.value(memory.features)))

    def forward(self, x: Tensor, memory: Memory, index: int, cache: Cache | None, want_attention: bool
                ) -> tuple[Tensor, Tensor | None]:
        """x (rows, t, d), rows a multiple of b: the rows of one picture (its beams, its two directions) are neighbours and
        share its memory. Returns x and the first head's cross-attention (rows, t, cells) where wanted."""
        rows, t, d = x.shape
        q, k, v = (self.split(part) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        if cache is not None:
            k, v = cache.extend(index, k, v)
        y = dot_attention(q, k, v, causal=cache is None)
        x = x + self.drop(self.out(y.transpose(1, 2).reshape(rows, t, d)))

        key, value = memory.projected[index]
        b = len(key)
        q = self.query(self.norm2(x)).view(b, rows // b * t, d)  # the rows of a picture become queries of one attention
        q = self.split(q)
        weights = None
        if want_attention:
            logits = q @ key.transpose(-1, -2) / math.sqrt(q.shape[-1]) + memory.bias.to(q.dtype)
            attention = logits.float().softmax(-1)
            y = attention.to(value.dtype) @ value
            weights = attention[:, 0].reshape(rows, t, -1)
        else:
            y = dot_attention(q, key, value, memory.bias)
        x = x + self.drop(self.cross(y.transpose(1, 2).reshape(rows, t, d)))
        return x + self.drop(self.down(F.relu(self.up(self.norm3(x))).square())), weights

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Decoder(nn.Module):
    """Token logits given what has been written so far and the picture's memory."""

    rate: Tensor

    def __init__(self, vocabulary: int, config: DecoderConfig | None = None):
        super().__init__()
        self.config = config = config or DecoderConfig()
        self.embed = nn.Embedding(vocabulary, config.d)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.d)
        self.logits = nn.Linear(config.d, vocabulary)
        rate = torch.exp(torch.arange(0, config.d, 2) * (-math.log(10000.0) / config.d))
        self.register_buffer("rate", rate, persistent=False)

    def prepare(self, memory: Memory) -> Memory:
        """Compute each layer's keys and values of the memory once."""
        memory.projected = [cast(DecoderLayer, layer).project(memory) for layer in self.layers]
        return memory

    def forward(self, tokens: Tensor, memory: Memory, cache: Cache | None = None, want_attention: bool = False
                ) -> tuple[Tensor, Tensor | None]:
        """tokens (rows, t) int: whole prefixes, or with a cache only what is new. Returns logits (rows, t, v) and, where
        wanted, the guided head's cross-attention (rows, t, cells)."""
        if not memory.projected:
            self.prepare(memory)
        start = cache.t if cache is not None else 0
        angle = torch.arange(start, start + tokens.shape[1], device=tokens.device)[:, None] * self.rate
        x = self.embed(tokens) * math.sqrt(self.config.d) * 0.25 + torch.cat([angle.sin(), angle.cos()], -1)
        attention = None
        for index, layer in enumerate(self.layers):
            x, weights = layer(x, memory, index, cache, want_attention and index == self.config.guided)
            attention = weights if weights is not None else attention
        if cache is not None:
            cache.t += tokens.shape[1]
        return self.logits(self.norm(x)), attention
