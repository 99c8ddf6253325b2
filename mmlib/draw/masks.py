"""The masking curriculum: how much ink is covered at a step, where, and as which pixels.

Covers are placed on ink points and measured in ink length, so "30 % covered" means 30 % of what there is to
read, however much paper lies around it. Coordinates are pixels, x right and y down, pixel (row i, column j)
spanning [j, j+1) x [i, i+1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmlib.draw.raster import arc_length
from mmlib.draw.views import InkBatch, View

KINDS = ("fixed", "linear", "cosine", "stepped")
STEPS = 4  # of a stepped schedule
CHUNK = 8  # blocks proposed for each expression in one round
BLOCK = (0.25, 0.7)  # least and greatest half side of a cover, in typical symbols
NOTHING = 1e-6  # ink length that is no longer worth a box, above the rounding of the sums


def mask_ratio(step: int, total: int, start: float, end: float, kind: str) -> float:
    """Share of ink length that is covered at ``step`` of ``total``.

    ``fixed`` is ``end`` throughout; ``linear`` and ``cosine`` (half a period, slow at both ends) run from
    ``start`` to ``end``; ``stepped`` goes there in four equally long, equally spaced levels. Outside
    [0, total] the nearest end holds. Raises ValueError for an unknown kind, ``total`` below 1, or a share
    outside [0, 1].
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if total < 1:
        raise ValueError(f"total is {total}, expected at least 1")
    for name, share in (("start", start), ("end", end)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}, expected 0 to 1")
    done = min(max(step / total, 0.0), 1.0)
    progress = {
        "fixed": 1.0,
        "linear": done,
        "cosine": (1 - math.cos(math.pi * done)) / 2,
        "stepped": min(math.floor(done * STEPS), STEPS - 1) / (STEPS - 1),
    }[kind]
    return (1 - progress) * start + progress * end


def attended_share(step: int, total: int, start: float, end: float, kind: str) -> float:
    """Share of covers placed where the teacher attends; the schedules and errors of `mask_ratio`."""
    return mask_ratio(step, total, start, end, kind)


class Cover(NamedTuple):
    """What `cover` hides."""

    covered: Tensor  # (n,) bool, ink points under a box of their expression
    boxes: Tensor  # (m, 4) float, x0 y0 x1 y1 in pixels
    box_owner: Tensor  # (m,) int64, each box's expression


def cover(
    points: Tensor,
    owner: Tensor,
    arc: Tensor,
    b: int,
    ratio: float | Tensor,
    attended_share: float = 0.0,
    saliency: Tensor | None = None,
    block: tuple[float, float] = (3.0, 8.0),
    shape: str = "blocks",
    generator: torch.Generator | None = None,
) -> Cover:
    """Cover a share of each expression's ink length with boxes centred on its ink points.

    Boxes are added at ink that is still visible until the share is reached. The last is shrunk about its
    centre so that the covered length comes as near as the points' own lengths allow.

    Args:
        points: (n, 2) in pixels of the view.
        owner: (n,) int in [0, b), non-decreasing: each point's expression.
        arc: (n,) at least 0, ink length that each point carries (its half of the segments that meet there).
        ratio: share of ink length to cover, one for all or (b,), in [0, 1].
        attended_share: share of the boxes placed in proportion to saliency times ink length, in [0, 1]; the
            others in proportion to ink length alone.
        saliency: (n,) at least 0, the teacher's saliency at the points; needed for an ``attended_share``.
        block: least and greatest half side of a box, in pixels; sides are uniform between them.
        shape: ``blocks``, or ``attended``: a box placed by saliency becomes the bounding box of the attended
            region about its centre: of the points within three greatest half sides whose saliency is at least
            half the centre's.
        generator: on any device; one on the CPU gives the same cover whatever the device of ``points``.

    Raises ValueError for shapes and values that do not fit.
    """
    return _cover(
        points, owner, arc, b, ratio, attended_share, saliency, block, shape,
        lambda: torch.rand(b, CHUNK, 4, generator=generator, device=getattr(generator, "device", None)),
    )  # fmt: skip


def cover_for_occlusion(
    points: Tensor,
    owner: Tensor,
    arc: Tensor,
    b: int,
    ratio: float,
    seed: int,
    index: Tensor | None = None,
    block: tuple[float, float] = (3.0, 8.0),
) -> Cover:
    """The cover of the occlusion tests: it depends on the seed and on the expression alone.

    Every arm, whatever its batches, so reads the same covered ink, and what is covered at one ratio stays
    covered at a higher one.

    Args:
        points, owner, arc, b, ratio, block: as for `cover`.
        index: (b,) int at least 0, each expression's index in its dataset; None means 0 … b-1.
    """
    numbers = range(b) if index is None else index.tolist()
    streams = [np.random.default_rng([seed, number]) for number in numbers]
    return _cover(
        points, owner, arc, b, ratio, 0.0, None, block, "blocks",
        lambda: torch.from_numpy(np.stack([stream.random((CHUNK, 4)) for stream in streams])),
    )  # fmt: skip


def hide(
    view: View,
    ink: InkBatch,
    ratio: float | Tensor,
    symbol: float,
    generator: torch.Generator,
    block: tuple[float, float] = BLOCK,
    **options: Any,
) -> tuple[Cover, Tensor]:
    """Cover a share of the ink that a view shows.

    Args:
        view: of the batch ``ink``; what its crop left out is not covered.
        ratio, generator, options: as for `cover`.
        symbol: pixels of a typical symbol in the view.
        block: half sides of a box, in typical symbols.

    Returns the cover, and the picture (b, 2, H, W): ink under covers gone, covers marked.
    """
    arc = arc_length(view.points, ink.stroke) * view.kept
    block = (block[0] * symbol, block[1] * symbol)
    hidden = cover(view.points, ink.owner, arc, ink.b, ratio, block=block, generator=generator, **options)
    return hidden, under_cover(view.picture, hidden.boxes, hidden.box_owner)


def under_cover(x: Tensor, boxes: Tensor, box_owner: Tensor) -> Tensor:
    """Picture ``x (b, 1, H, W)`` without the ink under the boxes of `cover_pictures`, and where they lie: (b, 2, H, W)."""
    mask = cover_pictures(boxes, box_owner, len(x), *x.shape[2:])
    return torch.cat([apply_cover(x, mask), mask], 1)


def _check(points: Tensor, owner: Tensor, arc: Tensor, b: int, ratio: float | Tensor, attended_share: float,
           saliency: Tensor | None, block: tuple[float, float], shape: str) -> None:
    n = len(points)
    wanted = {"points": (points, (n, 2)), "owner": (owner, (n,)), "arc": (arc, (n,))}
    if saliency is not None:
        wanted["saliency"] = (saliency, (n,))
    if isinstance(ratio, Tensor):
        wanted["ratio"] = (ratio, (b,))
    for name, (tensor, size) in wanted.items():
        if tuple(tensor.shape) != size:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {size}")
    if not bool(points.isfinite().all()):
        raise ValueError("points must be finite")
    for name, values in (("arc", arc), ("saliency", saliency)):
        if values is not None and not bool(((values >= 0) & (values < torch.inf)).all()):
            raise ValueError(f"{name} must be finite and at least 0")
    if shape not in ("blocks", "attended"):
        raise ValueError(f"shape is {shape!r}, expected blocks or attended")
    if not 0 < block[0] <= block[1]:
        raise ValueError(f"block is {block}, expected 0 < least <= greatest half side")
    if not 0 <= attended_share <= 1:
        raise ValueError(f"attended_share is {attended_share}, expected 0 to 1")
    if attended_share > 0 and saliency is None:
        raise ValueError("attended_share is above 0 and saliency is missing")
    ratios = torch.as_tensor(ratio)
    if not bool(((ratios >= 0) & (ratios <= 1)).all()):
        raise ValueError(f"ratio is {ratio}, expected 0 to 1")
    if n and (bool((owner[1:] < owner[:-1]).any()) or int(owner[0]) < 0 or int(owner[-1]) >= b):
        raise ValueError(f"owner must be non-decreasing and in [0, {b})")


def _cover(points: Tensor, owner: Tensor, arc: Tensor, b: int, ratio: float | Tensor, attended_share: float,
           saliency: Tensor | None, block: tuple[float, float], shape: str, draw: Callable[[], Tensor]) -> Cover:
    """`cover` with ``draw() -> (b, CHUNK, 4)`` uniform numbers: so that an expression can have its own."""
    _check(points, owner, arc, b, ratio, attended_share, saliency, block, shape)
    device, points = points.device, points.detach().float()
    owner, arc = owner.long(), arc.detach().double()
    saliency = arc.new_zeros(len(arc)) if saliency is None else saliency.detach().double()
    missing = _per_expression(arc[:, None], owner, b)[:, 0]
    missing = missing * torch.as_tensor(ratio, device=device)  # (b,) ink length still to cover
    covered = torch.zeros(len(points), dtype=torch.bool, device=device)
    boxes, box_owner = [points.new_zeros(0, 4)], [owner.new_zeros(0)]
    left = missing > NOTHING
    while bool(left.any()):
        # Only the points of unfinished expressions, whose owners are renumbered 0 … e-1.
        expressions = left.nonzero().squeeze(1)
        e = len(expressions)
        number = torch.cumsum(left, 0) - 1
        here = left[owner].nonzero().squeeze(1)
        own, xy, length = number[owner[here]], points[here], arc[here]
        open_length = length.masked_fill(covered[here], 0.0)
        chance = draw().to(device)[expressions]  # (e, CHUNK, 4)
        centre, attends = _centres(own, open_length, saliency[here], e, chance, attended_share)
        middle = xy[centre]  # (e, CHUNK, 2)
        half = (block[0] + (block[1] - block[0]) * chance[..., 2:]).float()
        if shape == "attended" and attended_share > 0:
            middle, half = _regions(xy, own, saliency[here], centre, attends, middle, half, block)
        # The scale at which a box about its middle would just reach a point: at most 1 is inside.
        sides = torch.cat([middle, 1 / half], 2).transpose(1, 2).index_select(0, own)  # (points, 4, CHUNK)
        x, y = ((xy[:, i, None] - sides[:, i]).abs_().mul_(sides[:, i + 2]) for i in (0, 1))
        reach = torch.maximum(x, y)  # (points, CHUNK)
        inside = reach <= 1
        # In the first box that covers the point, for points that were visible.
        first = inside & (inside.cumsum(1, dtype=torch.int8) == 1) & (open_length > 0)[:, None]
        gained = _per_expression(open_length[:, None] * first, own, e).cumsum(1)  # (e, CHUNK)
        enough = gained >= missing[expressions, None] * (1 - 1e-9)
        last = torch.where(
            enough.any(1), enough.long().argmax(1), CHUNK
        )  # the box to shrink; CHUNK: none yet
        scale = (torch.arange(CHUNK, device=device) < last[:, None]).float()  # (e, CHUNK)
        ends = (last < CHUNK).nonzero().squeeze(1)
        if len(ends):
            before = torch.cat([gained.new_zeros(e, 1), gained], 1).gather(1, last[:, None])[:, 0]
            shrunk = _shrink(reach, first, own, open_length, last, missing[expressions] - before, e)
            scale[ends, last[ends]] = shrunk[ends]
        keep = scale > 0
        covered[here] |= (reach <= scale.masked_fill(~keep, -1.0).index_select(0, own)).any(1)
        size = half * scale[..., None]
        boxes.append(torch.cat([middle - size, middle + size], 2)[keep])
        box_owner.append(expressions[:, None].expand(-1, CHUNK)[keep])
        missing[expressions] -= gained[:, -1]
        left &= missing > NOTHING
        left[expressions[ends]] = False
    return Cover(covered, torch.cat(boxes), torch.cat(box_owner))


def _per_expression(values: Tensor, owner: Tensor, b: int) -> Tensor:
    """Sums ``(b, m)`` of the rows ``(n, m)`` of each owner, exact enough in float64. Owners are sorted."""
    sums = torch.cat([values.new_zeros(1, values.shape[1]), values.cumsum(0)])
    ends = torch.searchsorted(owner, torch.arange(b, device=owner.device), right=True)
    return sums[ends].diff(dim=0, prepend=sums[:1])


def _centres(own: Tensor, length: Tensor, saliency: Tensor, e: int, chance: Tensor, attended_share: float
             ) -> tuple[Tensor, Tensor]:
    """Index of the point at the centre of each box, and whether saliency chose it: both (e, CHUNK).

    The point is drawn in proportion to its weight by inverting the cumulative sum of its expression.
    """
    weights = torch.stack([length, length * saliency], 1)  # (points, 2)
    sums = weights.cumsum(0)
    ends = torch.searchsorted(own, torch.arange(e, device=own.device), right=True)
    upper = torch.cat([sums.new_zeros(1, 2), sums])[ends]  # (e, 2) sum at the end of each expression
    lower = torch.cat([sums.new_zeros(1, 2), upper[:-1]])
    attends = (chance[..., 0] < attended_share) & ((upper - lower)[:, 1:] > 0)
    drawn = lower[:, None] + chance[..., 1:2] * (upper - lower)[:, None]  # (e, CHUNK, 2)
    drawn = torch.minimum(drawn, torch.nextafter(upper, lower)[:, None])  # never past the last weighted point
    places = [
        torch.searchsorted(sums[:, i].contiguous(), drawn[..., i].contiguous(), right=True) for i in (0, 1)
    ]
    return torch.where(attends, places[1], places[0]), attends


def _regions(xy: Tensor, own: Tensor, saliency: Tensor, centre: Tensor, attends: Tensor, middle: Tensor, half: Tensor,
             block: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Middle and half sides (e, CHUNK, 2), those of boxes placed by saliency fitted to what is attended."""
    near = ((xy[:, None] - middle[own]).abs() <= 3 * block[1]).all(2)
    near &= saliency[:, None] >= saliency[centre][own] / 2  # (points, CHUNK)
    index = own[:, None, None].expand(-1, CHUNK, 2)
    low = xy[:, None].masked_fill(~near[..., None], torch.inf)
    high = xy[:, None].masked_fill(~near[..., None], -torch.inf)
    low = torch.full_like(middle, torch.inf).scatter_reduce(0, index, low, "amin")
    high = torch.full_like(middle, -torch.inf).scatter_reduce(0, index, high, "amax")
    attends = attends[..., None]
    fitted = ((high - low) / 2 + 0.5).clamp_min(block[0])  # half a pixel more: the pen's width
    return torch.where(attends, (low + high) / 2, middle), torch.where(attends, fitted, half)


def _shrink(reach: Tensor, first: Tensor, own: Tensor, length: Tensor, last: Tensor, missing: Tensor, e: int) -> Tensor:
    """Scale (e,) of each expression's last box at which it newly covers a length nearest to what is missing.

    0 drops the box: covering nothing more is nearer than covering one more point.
    """
    column = last[own].clamp_max(CHUNK - 1)[:, None]
    rows = (first.gather(1, column)[:, 0] & (last < CHUNK)[own]).nonzero().squeeze(1)
    reach = reach.gather(1, column)[rows, 0]
    order = torch.argsort(own[rows] * 2 + reach.double())  # reach is at most 1
    rows, reach = rows[order], reach[order]
    own, length = own[rows], length[rows]
    sums = length.cumsum(0)
    ends = torch.searchsorted(own, torch.arange(e, device=own.device), right=True)
    begin = torch.cat([sums.new_zeros(1), sums])[torch.cat([ends.new_zeros(1), ends[:-1]])]
    over = sums - begin[own] - missing[own]  # length past the mark once this point is covered
    # Covering up to a point is nearer than stopping before it when it overshoots by less than half of itself.
    take = over <= length / 2
    count = torch.bincount(own[take], minlength=e)
    # Halfway to the next point, so that rounding cannot move a point across the edge.
    start = torch.cat([ends.new_zeros(1), ends[:-1]])
    final = (start + count - 1).clamp(0, len(rows) - 1)
    following = (final + 1).clamp_max(len(rows) - 1)
    has_next = start + count < ends
    scale = torch.where(has_next, (reach[final] + reach[following]) / 2, torch.ones_like(reach[final]))
    return torch.where(count > 0, scale, torch.zeros_like(scale)).float()


def cover_pictures(boxes: Tensor, box_owner: Tensor, b: int, H: int, W: int) -> Tensor:
    """Pixels that a box of their picture touches, as (b, 1, H, W) float in {0, 1}: the visible cover channel.

    Args:
        boxes: (m, 4) x0 y0 x1 y1 in pixels; parts outside the picture are cut off.
        box_owner: (m,) int in [0, b).
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or box_owner.shape != boxes.shape[:1]:
        raise ValueError(
            f"boxes has shape {tuple(boxes.shape)}, expected (m, 4), "
            f"box_owner {tuple(box_owner.shape)}, expected (m,)"
        )
    owner, order = torch.sort(box_owner.long(), stable=True)
    boxes = boxes.detach()[order].float()
    rank = torch.arange(len(boxes), device=boxes.device) - torch.searchsorted(
        owner, owner
    )  # within its picture
    most = int(rank.max()) + 1 if len(boxes) else 0

    def touched(low: Tensor, high: Tensor, size: int) -> Tensor:
        """(b, most, size): 1 where a box touches a row or a column."""
        pixel = torch.arange(size, device=boxes.device)
        sides = ((pixel >= low.floor()[:, None]) & (pixel < high.ceil()[:, None])).float()
        return sides.new_zeros(b, most, size).index_put_((owner, rank), sides)

    rows, columns = touched(boxes[:, 1], boxes[:, 3], H), touched(boxes[:, 0], boxes[:, 2], W)
    # A box is the product of its rows and columns: one batched product counts the boxes over every pixel.
    return torch.bmm(rows.transpose(1, 2), columns)[:, None].float().clamp_max_(1)


def apply_cover(x: Tensor, mask: Tensor) -> Tensor:
    """Picture ``x (b, 1, H, W)`` without the ink under ``mask (b, 1, H, W)`` in {0, 1}."""
    if x.shape != mask.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, expected {tuple(x.shape)}")
    return x * (1 - mask)


def covered_share(covered: Tensor, owner: Tensor, arc: Tensor, b: int) -> Tensor:
    """Share (b,) of each expression's ink length that is covered, from ``(n,)`` tensors. No ink gives 0."""
    lengths = arc.double().new_zeros(2, b)
    lengths[0].index_add_(0, owner.long(), arc.double() * covered)
    lengths[1].index_add_(0, owner.long(), arc.double())
    return (lengths[0] / lengths[1].clamp_min(1e-12)).float()
