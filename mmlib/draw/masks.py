"""Masks over ink: how much is masked at a step (the curriculum), where, and as which pixels.

A mask is a set of boxes centred on ink points. It is measured in ink length, so "30 % masked"
means 30 % of what there is to read, however much paper lies around it. Coordinates are pixels,
x right and y down; pixel (row i, column j) spans [j, j+1) x [i, i+1).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmlib.draw.raster import arc_length
from mmlib.draw.views import InkBatch, View

STEPS = 4  # of a stepped schedule
CHUNK = 8  # boxes proposed for each expression in one round
BLOCK = (0.25, 0.7)  # least and greatest half side of a box, in typical symbols
NOTHING = 1e-6  # ink length that is no longer worth a box, above the rounding of the sums


def mask_ratio(step: int, total: int, start: float, end: float, kind: str) -> float:
    """The curriculum: the share of ink length that is masked at ``step`` of ``total``.

    ``fixed`` is ``end`` throughout. ``linear`` and ``cosine`` (half a period, slow at both ends)
    run from ``start`` to ``end``; ``stepped`` goes there in four equal levels. Outside [0, total]
    the nearest end holds. The share of boxes that the teacher's attention places follows the same
    schedules. Raises ValueError for an unknown kind, ``total`` below 1, or a share outside [0, 1].
    """
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
    }
    if kind not in progress:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(progress)}")
    return (1 - progress[kind]) * start + progress[kind] * end


class InkMask(NamedTuple):
    """Boxes over the ink of a batch, and the points that they mask."""

    masked: Tensor  # (n,) bool, ink points under a box of their expression
    boxes: Tensor  # (m, 4) float, x0 y0 x1 y1 in the points' units
    box_owner: Tensor  # (m,) int64, each box's expression


def random_streams(keys: Iterable[Sequence[int]]) -> Callable[[], Tensor]:
    """Random numbers for `mask_ink` with a stream for each expression, seeded by its key.

    A mask then depends on the key and the expression alone, not on the batch, and what is masked at
    one ratio stays masked at a higher one. So all models can be tested on the same masked ink.
    """
    streams = [np.random.default_rng(list(key)) for key in keys]
    return lambda: torch.from_numpy(np.stack([stream.random((CHUNK, 4)) for stream in streams]))


def mask_ink(points: Tensor, owner: Tensor, arc: Tensor, b: int, ratio: float | Tensor,
             random: torch.Generator | Callable[[], Tensor], attended_share: float = 0.0,
             saliency: Tensor | None = None,
             block: tuple[float, float] = (3.0, 8.0)) -> InkMask:
    """Mask a share of each expression's ink length with boxes centred on its ink points.

    Boxes are added at ink that is still visible until the share is reached. The last one is shrunk
    about its centre, so that the masked length comes as near as the points' own lengths allow.

    Args:
        points: (n, 2) in pixels of the view.
        owner: (n,) int in [0, b), non-decreasing: each point's expression.
        arc: (n,) at least 0, ink length that each point carries, see `arc_length`.
        ratio: share of ink length to mask, one for all or (b,), in [0, 1].
        random: a generator; one on the CPU gives the same mask whatever the device of ``points``.
            Or a function that gives (b, CHUNK, 4) numbers in [0, 1) at each call.
        attended_share: share of the boxes placed in proportion to saliency times ink length, in
            [0, 1]; the others are placed in proportion to ink length alone.
        saliency: (n,) at least 0, the teacher's, at the points; needed for an ``attended_share``.
        block: least and greatest half side of a box, in pixels; sides are uniform between them.

    Raises ValueError for shapes and values that do not fit.
    """
    _check(points, owner, arc, b, ratio, attended_share, saliency, block)
    device, points = points.device, points.detach().float()
    owner, arc = owner.long(), arc.detach().double()
    saliency = torch.zeros_like(arc) if saliency is None else saliency.detach().double()
    missing = _sums(arc[:, None], owner, b)[:, 0] * torch.as_tensor(ratio, device=device)
    masked = torch.zeros(len(points), dtype=torch.bool, device=device)
    boxes, box_owner = [points.new_zeros(0, 4)], [owner.new_zeros(0)]
    unfinished = missing > NOTHING
    while bool(unfinished.any()):
        if isinstance(random, torch.Generator):
            numbers = torch.rand(b, CHUNK, 4, generator=random, device=random.device)
        else:
            numbers = random()
        # Points of unfinished expressions alone; these expressions are numbered anew, 0 … e-1.
        expressions = unfinished.nonzero().squeeze(1)
        here = unfinished[owner].nonzero().squeeze(1)
        own = (torch.cumsum(unfinished, 0) - 1)[owner[here]]
        xy, visible = points[here], arc[here].masked_fill(masked[here], 0.0)
        numbers = numbers.to(device)[expressions]
        centre = _centres(own, visible, saliency[here], numbers, attended_share)
        middle, half = xy[centre], (block[0] + (block[1] - block[0]) * numbers[..., 2:]).float()
        reach = _reach(xy, own, middle, half)
        scale, gained, finished = _fit(reach, own, visible, missing[expressions])
        keep = scale > 0
        masked[here] |= (reach <= scale.masked_fill(~keep, -1.0).index_select(0, own)).any(1)
        size = half * scale[..., None]
        boxes.append(torch.cat([middle - size, middle + size], 2)[keep])
        box_owner.append(expressions[:, None].expand(-1, CHUNK)[keep])
        missing[expressions] -= gained
        unfinished &= missing > NOTHING
        unfinished[expressions[finished]] = False
    return InkMask(masked, torch.cat(boxes), torch.cat(box_owner))


def mask_view(view: View, ink: InkBatch, ratio: float | Tensor, symbol: float,
              random: torch.Generator, block: tuple[float, float] = BLOCK,
              **options: Any) -> tuple[InkMask, Tensor]:
    """Mask a share of the ink that a view of the batch shows, by `mask_ink` with its options.

    symbol: the view's pixels per typical symbol; block: half sides of a box, in typical symbols.
    What the view's crop left out is not masked. Returns the mask, and the picture (b, 2, H, W) of
    `masked_picture`.
    """
    arc = arc_length(view.points, ink.stroke) * view.kept
    block = (block[0] * symbol, block[1] * symbol)
    mask = mask_ink(view.points, ink.owner, arc, ink.b, ratio, random, block=block, **options)
    return mask, masked_picture(view.picture, mask.boxes, mask.box_owner)


def masked_picture(picture: Tensor, boxes: Tensor, box_owner: Tensor) -> Tensor:
    """The picture (b, 1, H, W) without the ink under the boxes, and the mask channel: (b, 2, H, W).

    The second channel tells blank paper from ink that may not be seen. Boxes: as in `mask_channel`.
    """
    mask = mask_channel(boxes, box_owner, len(picture), *picture.shape[2:])
    return torch.cat([picture * (1 - mask), mask], 1)


def mask_channel(boxes: Tensor, box_owner: Tensor, b: int, H: int, W: int) -> Tensor:
    """Pixels that a box of their picture touches: (b, 1, H, W) float in {0, 1}.

    boxes (m, 4): x0 y0 x1 y1 in pixels, cut off at the picture's edge; box_owner (m,): in [0, b).
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or box_owner.shape != boxes.shape[:1]:
        raise ValueError(f"boxes has shape {tuple(boxes.shape)}, expected (m, 4), "
                         f"box_owner {tuple(box_owner.shape)}, expected (m,)")
    owner, order = torch.sort(box_owner.long(), stable=True)
    boxes = boxes.detach()[order].float()
    # Each box's place among those of its picture.
    rank = torch.arange(len(boxes), device=boxes.device) - torch.searchsorted(owner, owner)
    most = int(rank.max()) + 1 if len(boxes) else 0

    def touched(low: Tensor, high: Tensor, size: int) -> Tensor:
        """(b, most, size): 1 where a box touches a row or a column."""
        pixel = torch.arange(size, device=boxes.device)
        sides = ((pixel >= low.floor()[:, None]) & (pixel < high.ceil()[:, None])).float()
        return sides.new_zeros(b, most, size).index_put_((owner, rank), sides)

    rows, columns = touched(boxes[:, 1], boxes[:, 3], H), touched(boxes[:, 0], boxes[:, 2], W)
    # A box is the product of its rows and columns, so one batched product counts boxes per pixel.
    return torch.bmm(rows.transpose(1, 2), columns)[:, None].float().clamp_max_(1)


def masked_share(masked: Tensor, owner: Tensor, arc: Tensor, b: int) -> Tensor:
    """Share (b,) of each expression's ink length that is masked, of (n,) tensors; 0 without ink."""
    lengths = _sums(torch.stack([arc * masked, arc], 1).double(), owner, b)
    return (lengths[:, 0] / lengths[:, 1].clamp_min(1e-12)).float()


def _check(points: Tensor, owner: Tensor, arc: Tensor, b: int, ratio: float | Tensor,
           attended_share: float, saliency: Tensor | None, block: tuple[float, float]) -> None:
    n = len(points)
    for name, value, size in (("points", points, (n, 2)), ("owner", owner, (n,)),
                              ("arc", arc, (n,)), ("saliency", saliency, (n,)),
                              ("ratio", ratio, (b,))):
        if isinstance(value, Tensor) and tuple(value.shape) != size:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {size}")
    if not bool(points.isfinite().all()):
        raise ValueError("points must be finite")
    for name, values in (("arc", arc), ("saliency", saliency)):
        if values is not None and not bool(((values >= 0) & (values < torch.inf)).all()):
            raise ValueError(f"{name} must be finite and at least 0")
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


def _ends(owner: Tensor, b: int) -> Tensor:
    """Index (b,) after each owner's last point; owners are sorted."""
    return torch.searchsorted(owner, torch.arange(b, device=owner.device), right=True)


def _sums(values: Tensor, owner: Tensor, b: int) -> Tensor:
    """Sums (b, m) of each owner's rows of values (n, m); exact enough in float64."""
    sums = torch.cat([values.new_zeros(1, values.shape[1]), values.cumsum(0)])
    return sums[_ends(owner, b)].diff(dim=0, prepend=sums[:1])


def _centres(own: Tensor, visible: Tensor, saliency: Tensor, numbers: Tensor,
             attended_share: float) -> Tensor:
    """Indices (e, CHUNK) of the points at the boxes' centres, always of visible ink.

    A box's first random number says whether saliency places it, the second where.
    """
    weights = torch.stack([visible, visible * saliency], 1)  # (points, 2)
    # A point is drawn in proportion to its weight by inverting its expression's cumulative sum.
    sums = weights.cumsum(0)
    upper = torch.cat([sums.new_zeros(1, 2), sums])[_ends(own, len(numbers))]  # (e, 2)
    lower = torch.cat([sums.new_zeros(1, 2), upper[:-1]])
    attends = (numbers[..., 0] < attended_share) & ((upper - lower)[:, 1:] > 0)
    drawn = lower[:, None] + numbers[..., 1:2] * (upper - lower)[:, None]  # (e, CHUNK, 2)
    # Never past the last point that has weight.
    drawn = torch.minimum(drawn, torch.nextafter(upper, lower)[:, None])
    by_length, by_saliency = (
        torch.searchsorted(sums[:, i].contiguous(), drawn[..., i].contiguous(), right=True)
        for i in (0, 1))
    return torch.where(attends, by_saliency, by_length)


def _reach(xy: Tensor, own: Tensor, middle: Tensor, half: Tensor) -> Tensor:
    """The scale (points, CHUNK) at which a box would just reach a point: at most 1 is inside."""
    # One gather of all sides at once is much faster than four.
    sides = torch.cat([middle, 1 / half], 2).transpose(1, 2).index_select(0, own)
    x, y = ((xy[:, i, None] - sides[:, i]).abs_().mul_(sides[:, i + 2]) for i in (0, 1))
    return torch.maximum(x, y)


def _fit(reach: Tensor, own: Tensor, visible: Tensor,
         missing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keep boxes until each expression's missing length is reached, and shrink the last.

    Returns the boxes' scales (e, CHUNK), 0 for those not needed; the length gained by all boxes at
    full size (e,); and the indices of the expressions that are finished.
    """
    e = len(missing)
    inside = reach <= 1
    # Each visible point counts for the first box that holds it.
    first = inside & (inside.cumsum(1, dtype=torch.int8) == 1) & (visible > 0)[:, None]
    gained = _sums(visible[:, None] * first, own, e).cumsum(1)  # (e, CHUNK)
    enough = gained >= missing[:, None] * (1 - 1e-9)
    last = torch.where(enough.any(1), enough.long().argmax(1), CHUNK)  # CHUNK: not yet enough
    scale = (torch.arange(CHUNK, device=reach.device) < last[:, None]).float()
    finished = (last < CHUNK).nonzero().squeeze(1)
    if len(finished):
        before = torch.cat([gained.new_zeros(e, 1), gained], 1).gather(1, last[:, None])[:, 0]
        shrunk = _shrink(reach, first, own, visible, last, missing - before)
        scale[finished, last[finished]] = shrunk[finished]
    return scale, gained[:, -1], finished


def _shrink(reach: Tensor, first: Tensor, own: Tensor, visible: Tensor, last: Tensor,
            missing: Tensor) -> Tensor:
    """Scale (e,) of each expression's last box that masks a length nearest to what is missing.

    0 drops the box: masking nothing more is nearer than masking one more point.
    """
    column = last[own].clamp_max(CHUNK - 1)[:, None]
    rows = (first.gather(1, column)[:, 0] & (last < CHUNK)[own]).nonzero().squeeze(1)
    reach = reach.gather(1, column)[rows, 0]
    order = torch.argsort(own[rows] * 2 + reach.double())  # by expression, then from the middle out
    rows, reach = rows[order], reach[order]
    own, length = own[rows], visible[rows]
    sums, ends = length.cumsum(0), _ends(own, len(missing))
    start = torch.cat([ends.new_zeros(1), ends[:-1]])
    before = torch.cat([sums.new_zeros(1), sums])[start]
    # Masking up to a point is nearer than stopping before it when it overshoots by less than half.
    over = sums - before[own] - missing[own]
    count = torch.bincount(own[over <= length / 2], minlength=len(missing))
    # Halfway to the next point, so that rounding cannot move a point across the edge.
    final = (start + count - 1).clamp(0, len(rows) - 1)
    following = (final + 1).clamp_max(len(rows) - 1)
    halfway = (reach[final] + reach[following]) / 2
    scale = torch.where(start + count < ends, halfway, torch.ones_like(halfway))
    return torch.where(count > 0, scale, torch.zeros_like(scale)).float()
