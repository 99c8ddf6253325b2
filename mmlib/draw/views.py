"""Views: a random warp of the ink points, then one rasterisation, with every point's position in the view returned.

All tensors are flat over the batch (b expressions, n points in all), so a batch is warped by a handful of tensor
operations on whatever device it lives on. Coordinates enter in units of the typical symbol (`mmlib.formula.ink.typical_size`)
and leave in pixels. Pictures that have no ink are warped by the same affine and elastic field through their pixel grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.draw.raster import rasterise

STRIDE = 8  # canvas sides are multiples of the encoder's stride, so that a cell is either wholly valid or wholly padding


@dataclass(frozen=True)
class ViewConfig:
    """How far a view may stray. Amplitudes in typical symbols unless said; 0 switches a warp off."""

    symbol: float = 14.0  # pixels of a typical symbol before scaling
    scale: float = 0.25  # log-uniform half range of the whole expression's scale
    aspect: float = 0.15  # log-uniform half range of width over height
    rotate: float = 0.06  # radians, half range
    slant: float = 0.25  # shear of x by y, half range
    elastic: float = 0.10  # amplitude of a smooth random displacement field
    wavelength: float = 3.0  # of that field
    stroke_shift: float = 0.04  # standard deviation of each stroke's own displacement
    stroke_scale: float = 0.06  # log standard deviation of each stroke's own size
    pen: tuple[float, float] = (1.2, 2.0)  # pixels, range of the pen's width
    crop: float = 0.0  # up to this share of the width is cut off by a window; cuts whole strokes, label-free stages only
    margin: float = 3.0  # pixels of blank paper around the ink

    def still(self, size: float = 1.0) -> ViewConfig:
        """The same rendering with no randomness, at `size` of its size: what evaluation sees."""
        return replace(self, symbol=self.symbol * size, scale=0, aspect=0, rotate=0, slant=0, elastic=0, stroke_shift=0,
                       stroke_scale=0, crop=0, pen=(sum(self.pen) / 2,) * 2)


@dataclass
class InkBatch:
    """b expressions of flat ink.

    points (n, 2) float in typical symbols; stroke (n,) int unique over the batch, non-decreasing; owner (n,) int in
    [0, b). `symbol` (n,) int is the index of the point's symbol within its expression, -1 where unknown.
    """

    points: Tensor
    stroke: Tensor
    owner: Tensor
    b: int
    symbol: Tensor | None = None

    def to(self, device: torch.device | str) -> InkBatch:
        symbol = None if self.symbol is None else self.symbol.to(device)
        return InkBatch(self.points.to(device), self.stroke.to(device), self.owner.to(device), self.b, symbol)


@dataclass
class View:
    """A rendered batch: picture (b, 1, H, W) in [0, 1]; valid (b, 1, h, w) {0, 1} cells of the expression's own canvas;
    points (n, 2) pixels; kept (n,) bool, False for points a crop left out; extent (b, 2) width and height in pixels; marks (m, 2)
    pixels, where there were marks."""

    picture: Tensor
    valid: Tensor
    points: Tensor
    kept: Tensor
    extent: Tensor
    marks: Tensor | None = None

    @property
    def cells(self) -> Tensor:
        """Positions of the points in feature cells, (n, 2)."""
        return self.points / STRIDE


def _uniform(shape: tuple[int, ...], half: float, like: Tensor, rng: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=rng) * 2 - 1).to(like.device) * half


def extremes(points: Tensor, owner: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Least and greatest (b, 2) of the points (n, 2) of each owner (n,); 0 where one has none."""
    index = owner[:, None].expand(-1, 2)
    low = points.new_full((b, 2), math.inf).scatter_reduce_(0, index, points, "amin")
    high = points.new_full((b, 2), -math.inf).scatter_reduce_(0, index, points, "amax")
    empty = low > high
    return low.masked_fill(empty, 0), high.masked_fill(empty, 0)


def elastic_field(points: Tensor, owner: Tensor, b: int, amplitude: float, wavelength: float,
                  rng: torch.Generator, waves: int = 4) -> Tensor:
    """Displacement (n, 2) at `points`: a sum of random plane waves, one draw an expression, smooth and unbounded in reach."""
    angle = torch.rand(b, waves, generator=rng) * 2 * math.pi
    length = wavelength * torch.exp(torch.rand(b, waves, generator=rng) * 1.4 - 0.7)
    vector = torch.stack([angle.cos(), angle.sin()], -1) * (2 * math.pi / length)[..., None]  # (b, waves, 2)
    phase = torch.rand(b, waves, generator=rng) * 2 * math.pi
    push = torch.randn(b, waves, 2, generator=rng) * amplitude / math.sqrt(waves)
    vector, phase, push = (t.to(points.device) for t in (vector, phase, push))
    wave = torch.sin((points[:, None, :] * vector[owner]).sum(-1) + phase[owner])  # (n, waves)
    return (wave[..., None] * push[owner]).sum(1)


class Marks(NamedTuple):
    """Places of the paper that a view follows and does not draw: points (m, 2) in typical symbols, owner (m,) int."""

    points: Tensor
    owner: Tensor


def warp(ink: InkBatch, config: ViewConfig, rng: torch.Generator, marks: Marks | None = None) -> Tensor:
    """Warped points (n, 2), still in typical symbols: per-stroke jitter, elastic field, then one affine map an expression. Marks
    follow, (n + m, 2): the paper under the ink, which no jitter of a stroke moves."""
    points, owner, b = ink.points, ink.owner, ink.b
    if config.stroke_shift or config.stroke_scale:
        strokes = int(ink.stroke[-1]) + 1 if len(ink.stroke) else 0
        count = points.new_zeros(strokes).index_add_(0, ink.stroke, points.new_ones(len(points)))
        centre = points.new_zeros(strokes, 2).index_add_(0, ink.stroke, points) / count.clamp(min=1)[:, None]
        shift = torch.randn(strokes, 2, generator=rng).to(points.device) * config.stroke_shift
        factor = torch.exp(torch.randn(strokes, 2, generator=rng).to(points.device) * config.stroke_scale)
        points = centre[ink.stroke] + (points - centre[ink.stroke]) * factor[ink.stroke] + shift[ink.stroke]
    if marks is not None:
        points, owner = torch.cat([points, marks.points]), torch.cat([owner, marks.owner])
    if config.elastic:
        points = points + elastic_field(points, owner, b, config.elastic, config.wavelength, rng)
    if config.scale or config.aspect or config.rotate or config.slant:
        scale = torch.exp(_uniform((b,), config.scale, points, rng))
        aspect = torch.exp(_uniform((b,), config.aspect / 2, points, rng))
        angle, slant = _uniform((b,), config.rotate, points, rng), _uniform((b,), config.slant, points, rng)
        cos, sin = angle.cos(), angle.sin()
        x, y = points[:, 0] * (scale * aspect)[owner], points[:, 1] * (scale / aspect)[owner]
        x = x - slant[owner] * y
        points = torch.stack([cos[owner] * x - sin[owner] * y, sin[owner] * x + cos[owner] * y], 1)
    return points


def _crop(points: Tensor, ink: InkBatch, share: float, rng: torch.Generator) -> Tensor:
    """(n,) bool: strokes whose centre lies in a random window of each expression's width. Never leaves none."""
    low, high = extremes(points, ink.owner, ink.b)
    width = (high - low)[:, 0]
    keep = 1 - torch.rand(ink.b, generator=rng).to(points.device) * share
    start = low[:, 0] + torch.rand(ink.b, generator=rng).to(points.device) * (1 - keep) * width
    strokes = int(ink.stroke[-1]) + 1
    count = points.new_zeros(strokes).index_add_(0, ink.stroke, points.new_ones(len(points)))
    centre = (points.new_zeros(strokes).index_add_(0, ink.stroke, points[:, 0]) / count.clamp(min=1))[ink.stroke]
    kept = (centre >= start[ink.owner]) & (centre <= (start + keep * width)[ink.owner])
    some = torch.zeros(ink.b, dtype=torch.bool, device=points.device).index_put_((ink.owner[kept],), kept.new_tensor(True))
    return kept | ~some[ink.owner]


def make_view(ink: InkBatch, config: ViewConfig, rng: torch.Generator, marks: Marks | None = None) -> View:
    """Warp and rasterise a batch of ink.

    Args:
        ink: coordinates in typical symbols.
        config: strength of the warps.
        rng: a CPU generator; the view depends on it and on the batch alone, on every device.
        marks: places to follow without drawing them.
    """
    if len(ink.points) == 0:
        raise ValueError("make_view needs at least one ink point")
    points, places = (warp(ink, config, rng, marks) * config.symbol).tensor_split([len(ink.points)])
    kept = _crop(points, ink, config.crop, rng) if config.crop else torch.ones_like(ink.owner, dtype=torch.bool)
    low, high = extremes(points[kept], ink.owner[kept], ink.b)
    points = points - low[ink.owner] + config.margin
    extent = ((high - low + 2 * config.margin) / STRIDE).ceil().clamp(min=2) * STRIDE  # at least two cells each way
    width, height = (int(v) for v in extent.amax(0))
    pen = config.pen[0] + torch.rand(ink.b, generator=rng).to(points.device) * (config.pen[1] - config.pen[0])
    picture = rasterise(points[kept], ink.stroke[kept], ink.owner[kept], (ink.b, height, width), pen)
    shown = None if marks is None else places - low[marks.owner] + config.margin
    return View(picture, valid_cells(extent, height, width), points, kept, extent, shown)


def valid_cells(extent: Tensor, height: int, width: int, stride: int = STRIDE) -> Tensor:
    """(b, 1, H/stride, W/stride) float: 1 where a cell lies on the expression's own canvas, 0 on padding."""
    column = torch.arange(width // stride, device=extent.device) * stride
    row = torch.arange(height // stride, device=extent.device) * stride
    return ((row[None, :, None] < extent[:, 1, None, None]) & (column[None, None, :] < extent[:, 0, None, None]))[:, None].float()


def ink_cells(view: View, b: int, owner: Tensor) -> Tensor:
    """(b, 1, h, w) float: 1 where a cell holds ink points."""
    h, w = view.valid.shape[-2:]
    cells = view.cells.long()
    flat = (owner * h + cells[:, 1].clamp(0, h - 1)) * w + cells[:, 0].clamp(0, w - 1)
    held = view.picture.new_zeros(b * h * w)
    held[flat[view.kept]] = 1
    return held.view(b, 1, h, w)


def sample(features: Tensor, points: Tensor, owner: Tensor) -> Tensor:
    """Bilinear samples of a feature map at points.

    Args:
        features: (b, d, h, w).
        points: (n, 2) positions in cells; a cell's centre is at +1/2. Clamped to the map, which is the batch's: at the edge of a
            smaller expression's own canvas, the cells beside it count, which are 0.
        owner: (n,) int, the expression of each point.

    Returns:
        (n, d); it can be differentiated once.
    """
    b, d, h, w = features.shape
    x = (points[:, 0] - 0.5).clamp(0, w - 1)
    y = (points[:, 1] - 0.5).clamp(0, h - 1)
    x0, y0 = x.floor().long(), y.floor().long()
    x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
    fx, fy = x - x0, y - y0
    row, column = torch.stack([y0, y0, y1, y1], 1), torch.stack([x0, x1, x0, x1], 1)
    weight = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], 1)
    flat = features.permute(0, 2, 3, 1).reshape(b * h * w, d)  # rows by number: far cheaper here than grid_sample, or a gather
    return F.embedding_bag((owner[:, None] * h + row) * w + column, flat, mode="sum", per_sample_weights=weight.to(flat.dtype))


def picture_view(picture: Tensor, config: ViewConfig, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A warped view of pictures that have no ink, with its correspondence.

    Args:
        picture: (b, 1, H, W) in [0, 1], ink = 1.
        config: the affine and elastic amplitudes are used; they are scaled by `symbol` pixels.

    Returns:
        view (b, 1, H, W) and field (b, H, W, 2): where each pixel's centre of the input lands in the view, in pixels. (The
        field is exact at the pixels' centres: the same random displacement is evaluated there and inverted by
        fixed-point steps for the resampling.)
    """
    b, _, height, width = picture.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    grid = torch.stack([x, y], -1).to(picture.device).expand(b, -1, -1, -1)
    owner = torch.arange(b, device=picture.device).repeat_interleave(height * width)
    middle = grid.new_tensor([width / 2, height / 2])
    state = rng.get_state()

    def forward(where: Tensor) -> Tensor:
        rng.set_state(state)  # the same draw at every evaluation
        flat = ((where - middle) / config.symbol).reshape(-1, 2)
        batch = InkBatch(flat, owner, owner, b)
        return warp(batch, replace(config, stroke_shift=0, stroke_scale=0), rng).view_as(where) * config.symbol + middle

    field = forward(grid)
    linear = torch.linalg.lstsq((grid - middle).reshape(b, -1, 2), (field - middle).reshape(b, -1, 2)).solution
    inverse = torch.linalg.inv(linear)
    source = grid
    for _ in range(8):  # fixed point of source = source + A^-1 (grid - forward(source))
        source = source + torch.einsum("bhwi,bij->bhwj", grid - forward(source), inverse)
    normal = source / source.new_tensor([width, height]) * 2 - 1
    return F.grid_sample(picture, normal, align_corners=False, padding_mode="zeros"), field
