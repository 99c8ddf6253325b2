"""Rasterise batches of ink on the device: flat point tensors in, antialiased pictures out.

A stroke is drawn as the union of discs along its polyline. A disc of radius r covers a pixel at
distance d by clip(r + 1/2 - d, 0, 1), the usual antialiasing ramp of one pixel; the union is the
maximum. Drawing is one scatter-maximum for the whole batch, so its cost follows the ink's length
and not the picture's area.
"""

import math

import torch
from torch import Tensor

STEP = 0.7  # pixels between two discs; dents the edge of a 1.4-pixel pen by 0.09 pixels


def densify(points: Tensor, stroke: Tensor, step: float = STEP) -> tuple[Tensor, Tensor]:
    """Resample strokes, points (n, 2) and stroke (n,), so that neighbours are within `step` pixels.

    Returns samples (m, 2) float, and source (m,) int: the point that starts each sample's segment.
    """
    delta = _to_next(points, stroke)
    count = (delta.norm(dim=1) / step).ceil().clamp(min=1).long()
    source = torch.repeat_interleave(torch.arange(len(points), device=points.device), count)
    start = torch.cumsum(count, 0) - count
    fraction = (torch.arange(len(source), device=points.device) - start[source]) / count[source]
    return points[source] + fraction[:, None] * delta[source], source


def arc_length(points: Tensor, stroke: Tensor) -> Tensor:
    """Ink length (n,) of each point: half of each segment that meets it, at least a dot's 1e-3."""
    after: Tensor = _to_next(points, stroke).norm(dim=1)
    before = torch.roll(after, 1, 0) * (torch.roll(stroke, 1, 0) == stroke)
    return ((after + before) / 2).clamp(min=1e-3)


def rasterise(points: Tensor, stroke: Tensor, owner: Tensor, size: tuple[int, int, int],
              pen: Tensor | float = 1.5) -> Tensor:
    """Draw ink.

    Args:
        points: (n, 2) float, x and y in pixels; (0, 0) is the outer corner of the first pixel.
        stroke: (n,) int, unique over the batch; a stroke's points are consecutive, as drawn.
        owner: (n,) int in [0, b), the expression of each point.
        size: (b, H, W).
        pen: width in pixels, one number or (b,).

    Returns (b, 1, H, W) float in [0, 1], ink = 1; ink outside the canvas is clipped. Raises
    ValueError where the shapes disagree.
    """
    b, height, width = size
    n = points.shape[:1]
    if points.ndim != 2 or points.shape[1] != 2 or stroke.shape != n or owner.shape != n:
        raise ValueError("rasterise needs points (n, 2), stroke (n,), owner (n,); got "
                         f"{tuple(points.shape)}, {tuple(stroke.shape)}, {tuple(owner.shape)}")
    picture = points.new_zeros(b * height * width)
    if len(points) == 0:
        return picture.view(b, 1, height, width)
    radius = torch.as_tensor(pen, dtype=points.dtype, device=points.device).expand(b) / 2
    samples, source = densify(points, stroke)
    whose = owner[source]
    # All pixels that a disc can reach: a square window around the pixel of its centre.
    reach = max(1, math.ceil(float(radius.max())))
    around = torch.arange(-reach, reach + 1, device=points.device)
    column = samples[:, 0].floor().long()[:, None] + around  # (m, 2 reach + 1)
    row = samples[:, 1].floor().long()[:, None] + around
    dx2 = (column + 0.5 - samples[:, :1]).square()
    dy2 = (row + 0.5 - samples[:, 1:]).square()
    distance = (dy2[:, :, None] + dx2[:, None, :]).sqrt_()
    coverage = (radius[whose][:, None, None] + 0.5 - distance).clamp_(0, 1)
    on_canvas = ((row >= 0) & (row < height))[:, :, None]
    on_canvas = on_canvas & ((column >= 0) & (column < width))[:, None, :]
    row_start = (whose[:, None] * height + row.clamp(0, height - 1)) * width
    pixel = row_start[:, :, None] + column.clamp(0, width - 1)[:, None, :]
    picture.scatter_reduce_(0, pixel.flatten(), (coverage * on_canvas).flatten(), "amax")
    return picture.view(b, 1, height, width)


def _to_next(points: Tensor, stroke: Tensor) -> Tensor:
    """Way (n, 2) from each point to the next of its stroke; 0 at a stroke's end."""
    joined = torch.roll(stroke, -1, 0) == stroke
    if len(joined):
        joined[-1] = False
    delta: Tensor = (torch.roll(points, -1, 0) - points) * joined[:, None]
    return delta
