"""The picture encoder f: (b, c, H, W) to features F (b, d, h, w), stride 8, zero on padding.

Patches of 4 x 4 pixels become 64 channels, which loses nothing of one channel of ink. A cell is
then exactly the square of pixels that its place says, so features sampled at an ink point are the
features there. Dense 3x3 residual blocks follow (they reach the highest arithmetic rate of a CPU
and of a GPU alike), with one layer norm over channels each (independent of batch and padding). Then
Transformer blocks on a grid of half the resolution add to the cells what a small receptive field
cannot see: which base a script belongs to, where a fraction ends.

`EncoderConfig.form` chooses other parts: `mmlib.models.residual`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.models import layers, residual
from mmlib.models.layers import Conv, dot_attention, unless_full, zero_padding, zero_padding_
from mmlib.models.packing import Padded, packed, sheet


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder."""

    inputs: int = 2  # ink, and the mask channel of stage 2 (all zero elsewhere)
    strides: tuple[int, ...] = (4, 2)  # of each level; their product is 8
    kernels: tuple[int, ...] = (4, 2)  # of each level's first convolution, if not 'residual'
    widths: tuple[int, ...] = (64, 160)  # channels of each level
    blocks: tuple[int, ...] = (2, 2)  # residual blocks of each level
    form: str = "patches"  # or 'residual'
    coarse: int = 0  # residual blocks at stride 16
    context: int = 3  # Transformer blocks at stride 16, after the residual ones
    context_d: int = 192
    heads: int = 6
    d: int = 192  # channels of F


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (b, c, h, w), or of rows (..., c) of packed cells."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 4:
            return super().forward(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + conv(relu(conv(norm(x)))), padding zeroed before each convolution; x at first."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for p in self.conv2.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        y = self.conv1(zero_padding_(self.norm(x), valid))
        return x + self.conv2(F.relu_(zero_padding_(y, valid)))


class ContextBlock(nn.Module):
    """Pre-norm Transformer block over the cells of each picture; x at first."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 3 * d), nn.Linear(3 * d, d)
        for last in (self.out, self.down):  # at first the block adds nothing
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, position: Tensor, bias: Tensor, pack: Padded) -> Tensor:
        """x and position as `pack` has them; bias (b, 1, 1, cells), -1e4 on padding."""
        b, cells = pack.shape
        qkv = pack.spread(self.qkv(self.norm1(x) + position))
        q, k, v = qkv.view(b, cells, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = dot_attention(q, k, v, bias).transpose(1, 2).reshape(b, cells, -1)
        x = x + self.out(pack.pack(seen))
        return x + self.down(F.relu(self.up(self.norm2(x))).square())


class Encoder(nn.Module):
    """f, in one of its two forms; ValueError for a configuration that does not fit together."""

    stride = 8

    def __init__(self, config: EncoderConfig | None = None):
        super().__init__()
        self.config = config = config or EncoderConfig()
        levels = len(config.strides)
        if (math.prod(config.strides) != self.stride or len(config.widths) != levels
                or len(config.blocks) != levels):
            raise ValueError(f"an encoder needs strides of product {self.stride}, a width and "
                             f"blocks for each; got {config}")
        rectified = config.form == "residual"
        if (rectified and config.strides != (4, 2)) or config.form not in ("patches", "residual"):
            raise ValueError("an encoder's form is 'patches', or 'residual' with strides 4 and 2; "
                             f"got {config}")
        # Whether a picture's features are its own, whatever stands beside it: not with batch norm,
        # whose means are the batch's, nor where a kernel wider than its stride sees over the edge.
        self.alone = not rectified and config.kernels == config.strides
        channels = (config.inputs, *config.widths)
        last, wide = config.widths[-1], config.context_d
        block: type[nn.Module] = residual.Block if rectified else Block
        if rectified:
            down = [residual.Stem(*channels[:2]), residual.Transition(*config.widths)]
        else:
            steps = zip(pairwise(channels), config.kernels, config.strides, strict=True)
            down = [Conv(a, b, k, s, (k - s + 1) // 2) for (a, b), k, s in steps]
        self.down = nn.ModuleList(down)
        self.blocks = nn.ModuleList(nn.ModuleList(block(c) for _ in range(n))
                                    for c, n in zip(config.widths, config.blocks, strict=True))
        self.sees_far = config.coarse + config.context > 0
        if self.sees_far:
            self.shrink = residual.Transition(last, wide) if rectified else Conv(last, wide, 2, 2)
        self.coarse = nn.ModuleList(block(wide) for _ in range(config.coarse))
        self.context = nn.ModuleList(ContextBlock(wide, config.heads)
                                     for _ in range(config.context))
        if self.sees_far:
            self.grow = nn.ConvTranspose2d(wide, last, 2, stride=2)
        self.norm = residual.RectifiedNorm(last) if rectified else ChannelNorm(last)
        self.out = nn.Linear(last, config.d)
        self.features = residual.BatchNorm(config.d) if rectified else nn.Identity()

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Features F (b, d, h, w) of pictures, zero on padding; see `both`."""
        return self.both(x, valid)[0]

    def both(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """F (b, d, h, w), and what went into the coarse blocks, (b, widths[-1], h, w).

        The latter see no farther than the convolutions do. Both are zero on padding.

        Args:
            x: (b, inputs, H, W), or (b, 1, H, W) without a mask channel; ink in [0, 1].
            valid: (b, 1, H/8, W/8) {0, 1}, cells that are not padding.

        Raises ValueError for sizes that do not fit.
        """
        b, _, height, width = x.shape
        if height % self.stride or width % self.stride:
            raise ValueError(f"the encoder needs sides that are multiples of {self.stride}; "
                             f"got {height} x {width}")
        shape = (b, 1, height // self.stride, width // self.stride)
        if valid.shape != shape:
            raise ValueError(f"valid must be {shape}; got {tuple(valid.shape)}")
        own = unless_full(valid)
        together = sheet(valid) if self.alone else None
        if together:
            x = together.take(self._convolve(together.lay(x), together.valid))
        else:
            x = self._convolve(x, own)
        before = x
        if self.sees_far:
            x = zero_padding(x + self._surroundings(x, valid), own)
        if self.alone:  # batch norm and wide kernels need the cells in their places
            pack = packed(valid.flatten(1) > 0)
            cells = self.out(self.norm(pack.pack(x.permute(0, 2, 3, 1).flatten(1, 2))))
            x = pack.spread(cells).unflatten(1, valid.shape[2:])
        else:
            x = self.out(self.norm(x).permute(0, 2, 3, 1))
        return self.features(x.permute(0, 3, 1, 2)) * valid, before

    @torch.no_grad()
    def forget_mask(self) -> None:
        """Let the mask channel, which no stage before used, begin with weights of zero.

        A masked picture then looks like one without mask, for which what was learned holds.
        """
        first = next(m for m in self.modules() if isinstance(m, nn.Conv2d))
        first.weight[:, 1:] = 0

    def _convolve(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """The levels: x (b, at most inputs, H, W) to (b, c, h, w), zero on padding."""
        x = x.contiguous(memory_format=torch.channels_last)
        step, own = self.stride, valid
        config = self.config
        for down, blocks, kernel, stride in zip(self.down, self.blocks, config.kernels,
                                                config.strides, strict=True):
            step //= stride
            x = down(x, own)
            if valid is not None:  # in x's type: under autocast the blocks' stream is bfloat16
                own = valid.repeat_interleave(step, 2).repeat_interleave(step, 3).to(x.dtype)
            if step > 1 and kernel > stride:
                x = F.relu(x)
            x = zero_padding(x, own)
            for block in blocks.children():
                x = block(x, own)
            x = zero_padding(x, own)
        return x

    def _surroundings(self, x: Tensor, valid: Tensor) -> Tensor:
        """What the blocks at half the resolution see of x (b, c, h, w), at x's resolution."""
        b, _, h, w = x.shape
        odd = (0, w % 2, 0, h % 2)  # half the resolution needs even sides
        valid = F.pad(valid, odd)
        coarse = self.shrink(F.pad(x, odd), unless_full(valid))
        valid = F.max_pool2d(valid, 2)
        own, (rows, columns) = unless_full(valid.to(x.dtype)), valid.shape[2:]
        coarse = zero_padding(coarse, own)
        for block in self.coarse:
            coarse = block(coarse, own)
        cells = coarse.permute(0, 2, 3, 1).reshape(b, rows * columns, -1)
        if self.context:
            bias = valid.sub(1).mul(1e4).view(b, 1, 1, rows * columns)
            pack = packed(valid.view(b, rows * columns) > 0)
            position = layers.positions_2d(rows, columns, cells.shape[-1], x.device).flatten(0, 1)
            cells, position = pack.pack(cells), pack.along(position)
            for block in self.context:
                cells = block(cells, position, bias, pack)
            cells = pack.spread(cells)
        return self.grow(cells.view(b, rows, columns, -1).permute(0, 3, 1, 2))[..., :h, :w]


def encode_all(encoder: Encoder, pictures: Sequence[Tensor], valid: Sequence[Tensor]
               ) -> list[tuple[Tensor, Tensor]]:
    """`Encoder.both` of each of several batches.

    A CPU encodes them in one call if what stands beside a picture makes no difference: on one
    sheet, operations are fewer and larger.
    """
    if not encoder.alone or valid[0].device.type != "cpu":
        return [encoder.both(*batch) for batch in zip(pictures, valid, strict=True)]
    sizes = [v.shape[2:] for v in valid]
    high, wide = (max(side) for side in zip(*sizes, strict=True))

    def joined(batches: Sequence[Tensor], step: int) -> Tensor:
        return torch.cat([F.pad(x, (0, step * (wide - w), 0, step * (high - h)))
                          for x, (h, w) in zip(batches, sizes, strict=True)])

    levels = encoder.both(joined(pictures, encoder.stride), joined(valid, 1))
    parts = [level.split([len(v) for v in valid]) for level in levels]
    return [(after[:, :, :h, :w], before[:, :, :h, :w])
            for after, before, (h, w) in zip(*parts, sizes, strict=True)]
