"""The picture encoder f: (b, c, H, W) to features F (b, d, h, w), stride 8, padding masked all the way through.

Patches of 4 x 4 pixels become 64 channels, which loses nothing of one channel of ink; a cell is then exactly the square of
pixels that its place says, so features sampled at an ink point are the features there. Dense 3x3 residual blocks follow (they
reach the highest arithmetic rate of a CPU and of a GPU alike), one layer norm over channels a block (independent of batch and
padding), then Transformer blocks on a grid of half the resolution, added back to the cells, for what a small receptive field
cannot see: which base a script belongs to, where a fraction ends.

Its other form, `residual`, is a residual network in the classical manner (He et al. 2016, arXiv:1603.05027), which learns more
from the same pictures where nothing but cross-entropy teaches it (`mmlib benchmark learning`): batch norm and a rectifier before
each convolution, a first convolution that overlaps and pools, transitions that average (as a DenseNet's do, arXiv:1608.06993),
batch norm of F, so that what all cells share does not hide where they differ, and residual blocks at half the resolution too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.models.layers import dot_attention, positions_2d
from mmlib.models.packing import Packed, packed, sheet


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder."""

    inputs: int = 2  # ink, and the mask channel of stage 2 (all zero elsewhere)
    strides: tuple[int, ...] = (4, 2)  # of each level; their product is 8
    kernels: tuple[int, ...] = (4, 2)  # of each level's first convolution; as wide as its stride: patches (not 'residual')
    widths: tuple[int, ...] = (64, 160)  # channels at strides 4, 8
    blocks: tuple[int, ...] = (2, 2)  # residual blocks at strides 4, 8
    form: str = field(default="patches", metadata={"neutral": "patches"})  # or 'residual'
    coarse: int = field(default=0, metadata={"neutral": 0})  # residual blocks at stride 16, before the Transformer's
    context: int = 3  # Transformer blocks at stride 16; 0 leaves them out
    context_d: int = 192
    heads: int = 6
    d: int = 192  # channels of F


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (b, c, h, w), or of rows (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.ndim == 2 else super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over (b, c, h, w); a batch of one cell, which has no variance, takes the running one."""

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > self.num_features:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def unless_full(valid: Tensor) -> Tensor | None:
    """The mask, or None where nothing is blank: a CPU can ask, and saves the products with 1; a GPU would wait for the answer."""
    return None if valid.device.type == "cpu" and bool(valid.all()) else valid


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (b, c, h, w), zero where the mask (b, 1, h, w) is; without one, x itself."""
    return x if mask is None else x * mask.to(x.dtype)


def masked_(x: Tensor, mask: Tensor | None) -> Tensor:
    """The same in place: bytes are time."""
    return x if mask is None else x.mul_(mask.to(x.dtype))


# How a level begins: each takes x (b, c, h, w), zero where its mask (b, 1, h, w) is, and the mask where it needs it.


class Patches(nn.Conv2d):
    """A strided convolution."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


class FirstConv(Patches):
    """The one that sees the picture. Channels that x lacks, as the mask's, count as zero and cost nothing."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self._conv_forward(x, self.weight[:, : x.shape[1]], self.bias)
        return y.contiguous(memory_format=torch.channels_last)


class PooledStem(nn.Sequential):
    """(b, c, H, W) to (b, channels, H/4, W/4): a 7 x 7 convolution of stride 2, batch norm, the largest of 3 x 3 at stride 2."""

    def __init__(self, inputs: int, channels: int):
        conv = FirstConv(inputs, channels, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        # The rectifier last: of the largest it is the largest rectified, at a quarter of the cost.
        super().__init__(conv, BatchNorm(channels), nn.MaxPool2d(3, 2, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Transition(nn.Module):
    """To (b, channels, h/2, w/2): batch norm, a rectifier, the mean of 2 x 2, and a 1 x 1 convolution."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.norm = BatchNorm(inputs)
        self.conv = nn.Conv2d(inputs, channels, 1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.conv(F.avg_pool2d(F.relu_(masked_(self.norm(x), mask)), 2))
        return y


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(norm(x)))), masked before each convolution; with batch norm, a norm and relu before both."""

    def __init__(self, channels: int, batch: bool = False):
        super().__init__()
        self.norm = BatchNorm(channels) if batch else ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.between = BatchNorm(channels) if batch else None
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        if batch:
            for conv in (self.conv1, self.conv2):
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        else:
            for p in self.conv2.parameters():
                nn.init.zeros_(p)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = masked_(self.norm(x), mask)
        y = self.conv1(y) if self.between is None else self.between(self.conv1(F.relu_(y)))
        y = self.conv2(F.relu_(masked_(y, mask)))
        return x + y


class ContextBlock(nn.Module):
    """Pre-norm Transformer block over cells (b, cells, d), or packed (n, d); `bias` (b, 1, 1, cells) is -1e4 on padding."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 3 * d), nn.Linear(3 * d, d)
        for last in (self.out, self.down):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, position: Tensor, bias: Tensor, pack: Packed | None = None) -> Tensor:
        qkv = self.qkv(self.norm1(x) + position)
        qkv = pack.spread(qkv) if pack else qkv
        b, cells, _ = qkv.shape
        q, k, v = qkv.view(b, cells, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y: Tensor = dot_attention(q, k, v, bias).transpose(1, 2).reshape(b, cells, -1)
        x = x + self.out(pack.pack(y) if pack else y)
        y = self.down(F.relu(self.up(self.norm2(x))).square())
        return x + y


class Encoder(nn.Module):
    """f. `forward(x, valid)` takes x (b, inputs, H, W), or (b, 1, H, W) with no mask, and valid (b, 1, H/8, W/8) {0, 1};
    returns F (b, d, h, w), zero on padding."""

    stride = 8

    def __init__(self, config: EncoderConfig | None = None):
        super().__init__()
        self.config = config = config or EncoderConfig()
        if math.prod(config.strides) != self.stride or not len(config.strides) == len(config.widths) == len(config.blocks):
            raise ValueError(f"an encoder needs strides of product {self.stride}, a width and blocks for each; got {config}")
        if config.form not in ("patches", "residual"):
            raise ValueError(f"an encoder's form is 'patches' or 'residual'; got {config}")
        self.residual = config.form == "residual"
        if self.residual and config.strides != (4, 2):
            raise ValueError(f"a residual encoder has strides 4 and 2; got {config}")
        # Whether a picture's features are its own, whatever stands beside it: not with batch norm, whose means are the batch's,
        # nor where a kernel wider than its stride sees over the edge.
        self.alone = not self.residual and config.kernels == config.strides
        channels, last = (config.inputs, *config.widths), config.widths[-1]
        if self.residual:
            self.down = nn.ModuleList([PooledStem(*channels[:2]), Transition(*config.widths)])
        else:
            self.down = nn.ModuleList((Patches if level else FirstConv)(a, b, k, s, (k - s + 1) // 2) for level, ((a, b), k, s) in
                                      enumerate(zip(pairwise(channels), config.kernels, config.strides, strict=True)))
        self.blocks = nn.ModuleList(nn.ModuleList(ResidualBlock(c, self.residual) for _ in range(n))
                                    for c, n in zip(config.widths, config.blocks, strict=True))
        around = config.coarse + config.context > 0
        self.shrink: nn.Module | None = None
        if around:
            self.shrink = Transition(last, config.context_d) if self.residual else Patches(last, config.context_d, 2, 2)
        self.coarse = nn.ModuleList(ResidualBlock(config.context_d, self.residual) for _ in range(config.coarse))
        self.context = nn.ModuleList(ContextBlock(config.context_d, config.heads) for _ in range(config.context))
        self.grow = nn.ConvTranspose2d(config.context_d, last, 2, stride=2) if around else None
        self.norm = BatchNorm(last) if self.residual else ChannelNorm(last)
        self.out = nn.Linear(last, config.d)
        self.features = BatchNorm(config.d) if self.residual else None

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        b, _, height, width = x.shape
        if height % self.stride or width % self.stride:
            raise ValueError(f"the encoder needs sides that are multiples of {self.stride}; got {height} x {width}")
        if valid.shape != (b, 1, height // self.stride, width // self.stride):
            raise ValueError(f"valid must be {(b, 1, height // self.stride, width // self.stride)}; got {tuple(valid.shape)}")
        together = sheet(valid) if self.alone else None
        own = unless_full(valid)
        x = together.take(self._convolve(together.lay(x), together.mask)) if together else self._convolve(x, own)
        if self.shrink is not None and self.grow is not None:
            x = masked(x + self._around(x, valid, self.shrink, self.grow), own)
        pack = packed(valid.flatten(1) > 0) if self.alone else None
        if pack:
            rows = self.out(self.norm(pack.pack(x.permute(0, 2, 3, 1).flatten(1, 2))))
            cells = pack.spread(rows).view(b, *valid.shape[2:], -1).permute(0, 3, 1, 2)
            return cells.to(torch.promote_types(rows.dtype, valid.dtype))
        x = self.norm(x)
        if self.residual:
            x = F.relu_(x)
        features: Tensor = self.out(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.features is not None:
            features = self.features(features)
        return features * valid

    def _convolve(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """The levels: x (b, at most inputs, H, W) to (b, c, h, w), zero on padding, where there is any."""
        x = x.contiguous(memory_format=torch.channels_last)
        step, mask = self.stride, valid
        for down, blocks, kernel, stride in zip(self.down, self.blocks, self.config.kernels, self.config.strides, strict=True):
            step //= stride
            x = down(x, mask)
            if valid is not None:  # bfloat16 where that is autocast's: so is the stream between the blocks
                mask = (valid if step == 1 else valid.repeat_interleave(step, 2).repeat_interleave(step, 3)).to(x.dtype)
            if step > 1 and kernel > stride:
                x = F.relu(x)
            x = masked(x, mask)
            for block in blocks.children():
                x = block(x, mask)
            x = masked(x, mask)
        return x

    def _around(self, x: Tensor, valid: Tensor, shrink: nn.Module, grow: nn.ConvTranspose2d) -> Tensor:
        """What the coarse blocks and the Transformer's see of x (b, c, h, w) at half its resolution, back at full resolution."""
        b, _, h, w = x.shape
        odd = (0, w % 2, 0, h % 2)
        valid = F.pad(valid, odd)
        coarse: Tensor = shrink(F.pad(x, odd), unless_full(valid))
        rows, columns = coarse.shape[-2:]
        mask = F.max_pool2d(valid, 2)
        bias = mask.sub(1).mul(1e4).view(b, 1, 1, rows * columns)
        if self.config.coarse:
            own = unless_full(mask.to(x.dtype))
            coarse = masked(coarse, own)
            for residual in self.coarse.children():
                coarse = residual(coarse, own)
        tokens = coarse.permute(0, 2, 3, 1).reshape(b, rows * columns, -1)
        position = positions_2d(rows, columns, tokens.shape[-1], x.device).view(rows * columns, -1)
        pack = packed(mask.view(b, rows * columns) > 0) if self.context else None
        if pack:
            tokens, position = pack.pack(tokens), pack.along(position)
        for block in self.context:
            tokens = block(tokens, position, bias, pack)
        tokens = pack.spread(tokens) if pack else tokens
        around: Tensor = grow(tokens.view(b, rows, columns, -1).permute(0, 3, 1, 2))
        return around[..., :h, :w]


def encode_all(encoder: Encoder, pictures: Sequence[Tensor], valid: Sequence[Tensor]) -> list[Tensor]:
    """Features (b, d, h, w) of each of several batches, given as `Encoder` takes them. In one call on a CPU, which packs them on
    one sheet, where what stands beside a picture makes no difference: operations are fewer and larger."""
    if not encoder.alone or valid[0].device.type != "cpu":
        return [encoder(*batch) for batch in zip(pictures, valid, strict=True)]
    sizes = [v.shape[2:] for v in valid]
    high, wide = (max(side) for side in zip(*sizes, strict=True))
    x, own = (torch.cat([F.pad(each, (0, step * (wide - w), 0, step * (high - h)))
                         for each, (h, w) in zip(part, sizes, strict=True)])
              for part, step in ((pictures, encoder.stride), (valid, 1)))
    parts = encoder(x, own).split([len(v) for v in valid])
    return [features[:, :, :h, :w] for features, (h, w) in zip(parts, sizes, strict=True)]
