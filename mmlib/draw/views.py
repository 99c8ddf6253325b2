"""Views: a random warp of the ink points, then one rasterisation; every point's place is returned.

All tensors are flat over the batch (b expressions, n points in all), so a batch is warped by a
handful of tensor operations on whatever device it lives on. Coordinates enter in units of the
typical symbol (`mmlib.formula.ink.typical_size`) and leave in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.draw.raster import rasterise

# Pixels per side of an encoder's cell. Canvas sides are multiples of it, so that a cell is either
# wholly valid or wholly padding.
STRIDE = 8


@dataclass(frozen=True)
class ViewConfig:
    """How far a view may stray: amplitudes in typical symbols unless said; 0 is no such warp."""

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
    # Up to this share of the width is cut off, in whole strokes: for stages without labels.
    crop: float = 0.0
    margin: float = 3.0  # pixels of blank paper around the ink
    shuffle: float = 0.0  # chance that an expression's columns of ink stand in another order

    def still(self, size: float = 1.0) -> ViewConfig:
        """The same rendering with no randomness, at `size` of its size: what evaluation sees."""
        names = ("scale", "aspect", "rotate", "slant", "elastic", "stroke_shift", "stroke_scale",
                 "crop", "shuffle")
        return replace(self, symbol=self.symbol * size, pen=(sum(self.pen) / 2,) * 2,
                       **dict.fromkeys(names, 0.0))


@dataclass
class InkBatch:
    """b expressions of flat ink."""

    points: Tensor  # (n, 2) float in typical symbols
    stroke: Tensor  # (n,) int unique over the batch, non-decreasing
    owner: Tensor  # (n,) int in [0, b), each point's expression
    b: int
    symbol: Tensor | None = None  # (n,) int, the point's symbol in its expression, -1 if unknown

    def to(self, device: torch.device | str) -> InkBatch:
        symbol = None if self.symbol is None else self.symbol.to(device)
        points, stroke, owner = (t.to(device) for t in (self.points, self.stroke, self.owner))
        return InkBatch(points, stroke, owner, self.b, symbol)


@dataclass
class View:
    """A rendered batch."""

    picture: Tensor  # (b, 1, H, W) in [0, 1], ink = 1
    valid: Tensor  # (b, 1, h, w) in {0, 1}, cells of the expression's own canvas
    points: Tensor  # (n, 2) pixels
    kept: Tensor  # (n,) bool, False for points that a crop left out
    extent: Tensor  # (b, 2) width and height in pixels

    @property
    def cells(self) -> Tensor:
        """Positions of the points in feature cells, (n, 2)."""
        return self.points / STRIDE


def make_view(ink: InkBatch, config: ViewConfig, rng: torch.Generator) -> View:
    """Warp and rasterise a batch of ink.

    Args:
        ink: coordinates in typical symbols. Raises ValueError if it has no point.
        config: strength of the warps.
        rng: a CPU generator; the view depends on it and on the batch alone, on every device.
    """
    if len(ink.points) == 0:
        raise ValueError("make_view needs at least one ink point")
    points = warp(ink, config, rng) * config.symbol
    kept = torch.ones_like(ink.owner, dtype=torch.bool)
    if config.crop:
        kept = _crop(points, ink, config.crop, rng)
    low, high = extremes(points[kept], ink.owner[kept], ink.b)
    points = points - low[ink.owner] + config.margin
    # At least two cells each way.
    extent = ((high - low + 2 * config.margin) / STRIDE).ceil().clamp(min=2) * STRIDE
    width, height = (int(v) for v in extent.amax(0))
    thin, thick = config.pen
    pen = thin + torch.rand(ink.b, generator=rng).to(points.device) * (thick - thin)
    size = (ink.b, height, width)
    picture = rasterise(points[kept], ink.stroke[kept], ink.owner[kept], size, pen)
    return View(picture, valid_cells(extent, height, width), points, kept, extent)


def warp(ink: InkBatch, config: ViewConfig, rng: torch.Generator) -> Tensor:
    """Warped points (n, 2) in typical symbols.

    Strokes are jittered one by one; then an elastic field and one affine map per expression move
    the paper.
    """
    points, owner, b = ink.points, ink.owner, ink.b
    if config.stroke_shift or config.stroke_scale:
        centre = _stroke_means(points, ink.stroke)
        shift = torch.randn(len(centre), 2, generator=rng).to(points.device) * config.stroke_shift
        factor = torch.randn(len(centre), 2, generator=rng).to(points.device)
        factor = torch.exp(factor * config.stroke_scale)
        centre, shift, factor = centre[ink.stroke], shift[ink.stroke], factor[ink.stroke]
        points = centre + (points - centre) * factor + shift
    if config.shuffle:
        points = shuffled(points, ink, config.shuffle, rng)
    if config.elastic:
        push = elastic_field(points, owner, b, config.elastic, config.wavelength, rng)
        points = points + push
    if config.scale or config.aspect or config.rotate or config.slant:
        half_ranges = (config.scale, config.aspect / 2, config.rotate, config.slant)
        scale, aspect, angle, slant = (
            (torch.rand(b, generator=rng) * 2 - 1).to(points.device) * half for half in half_ranges
        )
        scale, aspect, cos, sin = scale.exp(), aspect.exp(), angle.cos()[owner], angle.sin()[owner]
        x, y = points[:, 0] * (scale * aspect)[owner], points[:, 1] * (scale / aspect)[owner]
        x = x - slant[owner] * y
        points = torch.stack([cos * x - sin * y, sin * x + cos * y], 1)
    return points


def columns(points: Tensor, ink: InkBatch) -> tuple[Tensor, Tensor]:
    """Column (n,) of each point, ascending in x within an expression; the owner (c,) of each.

    Strokes whose extents in x overlap share a column, so that a symbol's strokes mostly stay
    together, as do a fraction's. Columns are unique over the batch.
    """
    strokes = int(ink.stroke[-1]) + 1
    low, high = (edge[:, 0] for edge in extremes(points, ink.stroke, strokes))
    owner = torch.zeros(strokes, dtype=ink.owner.dtype, device=ink.owner.device)
    owner[ink.stroke] = ink.owner
    # All expressions on one line, far apart.
    width = float((high.max() - low.min()).clamp(min=1)) + 1
    start, stop = (edge + owner * width * 2 for edge in (low, high))
    order = torch.argsort(start)
    reach = torch.cummax(stop[order], 0).values
    new = torch.ones_like(order, dtype=torch.bool)
    new[1:] = start[order][1:] > reach[:-1]
    column = torch.empty_like(order)
    column[order] = torch.cumsum(new, 0) - 1
    return column[ink.stroke], owner[order][new]


def shuffled(points: Tensor, ink: InkBatch, chance: float, rng: torch.Generator,
             gap: tuple[float, float] = (0.1, 0.6), rise: float = 1.0) -> Tensor:
    """Points (n, 2) of expressions, each with this chance with its columns in a random order.

    Each column then stands up to `rise` typical symbols higher or lower, with gaps from a range
    between them. What stands where, and beside what, says nothing about the same ink in another
    view: only its own shape does.
    """
    column, owner = columns(points, ink)
    low, high = extremes(points, column, len(owner))
    draws = torch.rand(3, len(owner), generator=rng).to(points.device)
    hit = (torch.rand(ink.b, generator=rng).to(points.device) < chance)[owner]
    order = torch.argsort(owner + draws[0] / 2)  # by expression, then by chance
    width = (high - low)[:, 0] + gap[0] + (gap[1] - gap[0]) * draws[1]
    # One line for all: a view begins at its own ink's edge, wherever that is.
    ends = torch.cumsum(width[order].double(), 0).to(points.dtype)
    target = torch.empty_like(ends)
    target[order] = ends - width[order]
    shift = torch.stack([target - low[:, 0], (draws[2] * 2 - 1) * rise], 1)
    return points + (shift * hit[:, None])[column]


def elastic_field(points: Tensor, owner: Tensor, b: int, amplitude: float, wavelength: float,
                  rng: torch.Generator, waves: int = 4) -> Tensor:
    """Displacement (n, 2) at points: a sum of plane waves, drawn anew for each expression."""
    angle = torch.rand(b, waves, generator=rng) * 2 * math.pi
    length = wavelength * torch.exp(torch.rand(b, waves, generator=rng) * 1.4 - 0.7)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    vector = direction * (2 * math.pi / length)[..., None]  # (b, waves, 2)
    phase = torch.rand(b, waves, generator=rng) * 2 * math.pi
    push = torch.randn(b, waves, 2, generator=rng) * amplitude / math.sqrt(waves)
    vector, phase, push = (t.to(points.device) for t in (vector, phase, push))
    wave = torch.sin((points[:, None, :] * vector[owner]).sum(-1) + phase[owner])  # (n, waves)
    return (wave[..., None] * push[owner]).sum(1)


def extremes(points: Tensor, owner: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Least and greatest (b, 2) of the points (n, 2) of each owner (n,); 0 where one has none."""
    index = owner[:, None].expand(-1, 2)
    low = points.new_full((b, 2), math.inf).scatter_reduce_(0, index, points, "amin")
    high = points.new_full((b, 2), -math.inf).scatter_reduce_(0, index, points, "amax")
    empty = low > high
    return low.masked_fill(empty, 0), high.masked_fill(empty, 0)


def valid_cells(extent: Tensor, height: int, width: int) -> Tensor:
    """(b, 1, h, w) float: 1 on the expression's own canvas, 0 on padding."""
    column = torch.arange(width // STRIDE, device=extent.device) * STRIDE
    row = torch.arange(height // STRIDE, device=extent.device) * STRIDE
    rows = row[None, :, None] < extent[:, 1, None, None]
    columns = column[None, None, :] < extent[:, 0, None, None]
    return (rows & columns)[:, None].float()


def ink_cells(view: View, b: int, owner: Tensor) -> Tensor:
    """(b, 1, h, w) float: 1 where a cell holds ink points."""
    h, w = view.valid.shape[-2:]
    cells = view.cells.long()
    flat = (owner * h + cells[:, 1].clamp(0, h - 1)) * w + cells[:, 0].clamp(0, w - 1)
    held = view.picture.new_zeros(b * h * w)
    held[flat[view.kept]] = 1
    return held.view(b, 1, h, w)


def sample(features: Tensor, points: Tensor, owner: Tensor) -> Tensor:
    """Bilinear samples (n, d) of features (b, d, h, w) at the points of owners (n,).

    points: (n, 2) in cells; a cell's centre is at +1/2. They are clamped to the batch's map: at the
    edge of a smaller expression's canvas the padding beside it counts, which is 0. Differentiable
    once.
    """
    b, d, h, w = features.shape
    x = (points[:, 0] - 0.5).clamp(0, w - 1)
    y = (points[:, 1] - 0.5).clamp(0, h - 1)
    x0, y0 = x.floor().long(), y.floor().long()
    x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
    fx, fy = x - x0, y - y0
    row, column = torch.stack([y0, y0, y1, y1], 1), torch.stack([x0, x1, x0, x1], 1)
    weight = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], 1)
    # Rows of a table by number are far cheaper here than grid_sample or a gather.
    table = features.permute(0, 2, 3, 1).reshape(b * h * w, d)
    index = (owner[:, None] * h + row) * w + column
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight.to(table.dtype))


def _stroke_means(values: Tensor, stroke: Tensor) -> Tensor:
    """Mean (s, ...) of the values (n, ...) of each stroke."""
    strokes = int(stroke[-1]) + 1 if len(stroke) else 0
    count = values.new_zeros(strokes).index_add_(0, stroke, values.new_ones(len(values)))
    sums = values.new_zeros(strokes, *values.shape[1:]).index_add_(0, stroke, values)
    return sums / count.clamp(min=1).view(-1, *[1] * (values.ndim - 1))


def _crop(points: Tensor, ink: InkBatch, share: float, rng: torch.Generator) -> Tensor:
    """(n,) bool: strokes whose centre lies in a random window of each expression's width.

    Where a window holds no stroke, all of the expression is kept.
    """
    low, high = extremes(points, ink.owner, ink.b)
    width = (high - low)[:, 0]
    keep = 1 - torch.rand(ink.b, generator=rng).to(points.device) * share
    start = torch.rand(ink.b, generator=rng).to(points.device) * (1 - keep) * width
    start = low[:, 0] + start
    centre = _stroke_means(points[:, 0], ink.stroke)[ink.stroke]
    kept = (centre >= start[ink.owner]) & (centre <= (start + keep * width)[ink.owner])
    some = torch.zeros(ink.b, dtype=torch.bool, device=points.device)
    some[ink.owner[kept]] = True
    return kept | ~some[ink.owner]
