"""Transformer decoder from picture features to LaTeX tokens.

One set of weights writes left to right (l2r) and right to left (r2l); the start token tells the
direction (BTTR, Zhao et al. 2021, arXiv:2105.02412).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.layers import dot_attention
from mmlib.models.packing import Padded, packed

PAD = Vocabulary.SPECIALS.index("<pad>")


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder."""

    d: int = 192
    heads: int = 6
    layers: int = 3
    hidden: int = 576
    dropout: float = 0.0
    guided: int = 1  # the layer whose first head may be taught where each token's ink is


@dataclass(eq=False)
class Memory:
    """What the decoder attends to, with each layer's keys and values computed once."""

    features: Tensor  # (b, cells, d)
    position: Tensor  # (b, cells, d)
    bias: Tensor  # (b, 1, 1, cells), -1e4 on padding
    projected: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # keys, values by layer

    def select(self, pictures: Tensor) -> Memory:
        """The memory of some of the pictures."""
        return Memory(self.features[pictures], self.position[pictures], self.bias[pictures],
                      [(key[pictures], value[pictures]) for key, value in self.projected])

    def float(self) -> Memory:
        """The memory with its keys and values in float32."""
        return replace(self, projected=[(k.float(), v.float()) for k, v in self.projected])


class Cache:
    """Keys and values of the tokens decoded so far, of rows in groups of `beam`.

    A row attends to all that its group has written, under a bias (groups, beam, tokens) that hides
    what is not of its own past. When hypotheses change places, only the bias is copied, no key and
    no value.
    """

    def __init__(self, beam: int = 1):
        self.beam, self.t = beam, 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # (groups, heads, room, d / heads) each
        self.bias = torch.empty(0)

    def begin(self, rows: int, device: torch.device) -> None:
        """A step of one token per row: each row sees its own."""
        own = torch.full((self.beam, self.beam), -torch.inf, device=device).fill_diagonal_(0)
        own = own.expand(rows // self.beam, -1, -1)
        self.bias = torch.cat([self.bias, own], 2) if self.t else own
        self.t += 1

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention of a step: q, k, v (rows, heads, 1, d / heads) to values of that shape."""
        rows, heads, _, e = q.shape
        q, k, v = (x.reshape(-1, self.beam, heads, e).transpose(1, 2) for x in (q, k, v))
        end = self.t * self.beam
        if layer not in self.layers or self.layers[layer][0].shape[2] < end:  # twice the room
            room = [x.new_empty(len(x), heads, 2 * end + 31 * self.beam, e) for x in (k, v)]
            for new, old in zip(room, self.layers.get(layer, ()), strict=False):
                new[:, :, : end - self.beam] = old[:, :, : end - self.beam]
            self.layers[layer] = room[0], room[1]
        keys, values = self.layers[layer]
        keys[:, :, end - self.beam : end], values[:, :, end - self.beam : end] = k, v
        y = dot_attention(q, keys[:, :, :end], values[:, :, :end], self.bias[:, None])
        return y.transpose(1, 2).reshape(rows, heads, 1, e)

    def select(self, parents: Tensor, groups: Tensor | None = None) -> None:
        """Give each row the past of a row of its group: parents (groups, beam).

        With `groups`, only these groups go on.
        """
        if groups is not None:
            self.layers = {i: (k[groups], v[groups]) for i, (k, v) in self.layers.items()}
            self.bias = self.bias[groups]
        self.bias = self.bias.gather(1, parents[..., None].expand(-1, -1, self.bias.shape[2]))


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

    def project(self, placed: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (b, heads, cells, d / heads) of cells (b, cells, d), placed or not."""
        return self.split(self.key(placed)), self.split(self.value(features))

    def forward(self, x: Tensor, memory: Memory, index: int, cache: Cache | None,
                want_attention: bool, pack: Padded) -> tuple[Tensor, Tensor | None]:
        """One layer, the index-th, of rows of t tokens; x (rows, t, d) as `pack` has it.

        rows is a multiple of b: the rows of one picture (its beams, its two directions) are
        neighbours and share its memory. Returns x and, where wanted, the first head's
        cross-attention (rows, t, cells).
        """
        rows, t = pack.shape
        d = x.shape[-1]
        q, k, v = (self.split(part) for part in pack.spread(self.qkv(self.norm1(x))).chunk(3, -1))
        y = dot_attention(q, k, v, causal=True) if cache is None else cache.attend(index, q, k, v)
        x = x + self.drop(self.out(pack.pack(y.transpose(1, 2).reshape(rows, t, d))))

        key, value = memory.projected[index]  # computed once for all steps
        b = len(key)
        # The rows of a picture become queries of one attention.
        q = self.split(pack.spread(self.query(self.norm2(x))).view(b, rows // b * t, d))
        weights = None
        if want_attention:
            logits = q @ key.transpose(-1, -2) / math.sqrt(q.shape[-1]) + memory.bias.to(q.dtype)
            attention = logits.float().softmax(-1)
            y = attention.to(value.dtype) @ value
            weights = attention[:, 0].reshape(rows, t, -1)  # of the first head
        else:
            y = dot_attention(q, key, value, memory.bias)
        x = x + self.drop(self.cross(pack.pack(y.transpose(1, 2).reshape(rows, t, d))))
        return x + self.drop(self.down(F.relu(self.up(self.norm3(x))).square())), weights

    def drop(self, x: Tensor) -> Tensor:
        """Dropout, if the configuration asks for it."""
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
        """Compute each layer's keys and values of the memory, once."""
        features, placed = memory.features, memory.features + memory.position
        both = (cast(DecoderLayer, layer).project(placed, features) for layer in self.layers)
        # Contiguous, since every step reads them, head by head.
        memory.projected = [(key.contiguous(), value.contiguous()) for key, value in both]
        return memory

    def forward(self, tokens: Tensor, memory: Memory, cache: Cache | None = None,
                want_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits (rows, t, v) of the next tokens; the guided head's attention (rows, t, cells).

        tokens (rows, t) int are whole prefixes, or with a cache the one new token of each row. The
        cross-attention is None unless wanted. On the `<pad>` at a row's end neither has a meaning.
        """
        if not memory.projected:
            self.prepare(memory)
        start = 0 if cache is None else cache.t
        if cache is None:  # up to a row's last token
            pack = packed((tokens != PAD).flip(1).cumsum(1).flip(1) > 0)
        else:
            cache.begin(len(tokens), tokens.device)
            pack = Padded(tokens.shape)
        steps = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        angle = steps[:, None] * self.rate
        position = pack.along(torch.cat([angle.sin(), angle.cos()], -1))
        x = self.embed(pack.pack(tokens[..., None]).squeeze(-1))
        x = x * math.sqrt(self.config.d) * 0.25 + position
        attention = None
        for index, layer in enumerate(self.layers):
            wanted = want_attention and index == self.config.guided
            x, weights = layer(x, memory, index, cache, wanted, pack)
            attention = weights if weights is not None else attention
        return pack.spread(self.logits(self.norm(x))), attention
