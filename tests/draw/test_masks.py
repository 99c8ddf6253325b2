import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import seeded

from mmlib.draw.masks import (
    mask_channel,
    mask_ink,
    mask_ratio,
    masked_picture,
    masked_share,
    random_streams,
)

# schedules


@pytest.mark.parametrize(
    ("kind", "expected"),  # at steps 0, 25, 50, 75, 100 of 100, from 0.1 to 0.5
    [
        ("fixed", [0.5, 0.5, 0.5, 0.5, 0.5]),
        ("linear", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("cosine", [0.1, 0.1 + 0.4 * (1 - 0.5**0.5) / 2, 0.3, 0.1 + 0.4 * (1 + 0.5**0.5) / 2, 0.5]),
        ("stepped", [0.1, 0.1 + 0.4 / 3, 0.1 + 0.8 / 3, 0.5, 0.5]),
    ],
)
def test_schedule_table(kind, expected):
    values = [mask_ratio(step, 100, 0.1, 0.5, kind) for step in (0, 25, 50, 75, 100)]
    assert values == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["fixed", "linear", "cosine", "stepped"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.7, 0.2), (0.3, 0.3)])
def test_schedule_is_monotone_and_stays_between_its_ends(kind, start, end):
    values = np.array([mask_ratio(step, 37, start, end, kind) for step in range(-3, 45)])
    assert (np.diff(values) * np.sign(end - start) >= -1e-12).all()
    assert values.min() >= min(start, end) - 1e-12
    assert values.max() <= max(start, end) + 1e-12
    assert values[-1] == pytest.approx(end)
    if kind != "fixed":
        assert values[0] == pytest.approx(start)


def test_stepped_has_four_levels():
    levels = [mask_ratio(step, 400, 0, 0.6, "stepped") for step in range(401)]
    assert sorted(set(levels)) == pytest.approx([0, 0.2, 0.4, 0.6])
    assert levels[99] == 0
    assert levels[100] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (0, 10, 0, 1, "square"),
            "kind is 'square', expected one of fixed, linear, cosine, stepped",
        ),
        ((0, 0, 0, 1, "linear"), "total is 0"),
        ((0, 10, -0.1, 1, "linear"), "start is -0.1"),
        ((0, 10, 0, 1.1, "linear"), "end is 1.1"),
    ],
)
def test_schedule_refuses(arguments, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        mask_ratio(*arguments)


# masks


def ink(b=12, seed=0, least=4, most=14):
    """Points, owner, arc of b expressions of different lengths: rows of scribbled symbols."""
    rng = np.random.default_rng(seed)
    points, owner, arc = [], [], []
    for i in range(b):
        for s in range(rng.integers(least, most)):
            turn = np.cumsum(rng.normal(0, 0.8, 15))
            line = np.cumsum(np.stack([np.cos(turn), np.sin(turn)], 1) * 3, 0)
            line += [8 + 18 * s, 24] - line.mean(0)
            step = np.linalg.norm(np.diff(line, axis=0), axis=1)
            points.append(line)
            arc.append((np.r_[step, 0] + np.r_[0, step]) / 2)
            owner += [i] * len(line)
    return (
        torch.tensor(np.concatenate(points)).float(),
        torch.tensor(owner),
        torch.tensor(np.concatenate(arc)).float(),
    )


def inside(points, owner, boxes, box_owner):
    """(n, m) bool: the point lies in the box and the box is its expression's."""
    x, y = points[:, :1], points[:, 1:]
    within = (x >= boxes[:, 0]) & (x <= boxes[:, 2]) & (y >= boxes[:, 1]) & (y <= boxes[:, 3])
    return within & (owner[:, None] == box_owner)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.6, 0.9])
def test_realised_share_is_the_asked_one(ratio, share):
    points, owner, arc = ink()
    saliency = torch.rand(len(points), generator=seeded(1)) ** 3
    errors = []
    for seed in range(5):
        made = mask_ink(points, owner, arc, 12, ratio, seeded(seed), share, saliency)
        errors.append((masked_share(made.masked, owner, arc, 12) - ratio).abs())
    errors = torch.cat(errors)
    assert errors.mean() < 0.01
    assert errors.max() < 0.04  # one point of the shortest expression is 1/60 of its ink


def test_points_are_masked_exactly_where_boxes_are():
    points, owner, arc = ink()
    saliency = torch.rand(len(points), generator=seeded(1))
    made = mask_ink(points, owner, arc, 12, 0.4, seeded(), 0.5, saliency)
    hit = inside(points, owner, made.boxes, made.box_owner)
    assert (hit.any(1) == made.masked).float().mean() > 0.999  # but for rounding at an edge
    assert hit.any(0).all()  # no box is idle
    assert (made.boxes[:, 2:] > made.boxes[:, :2]).all()


@pytest.mark.parametrize("ratio", [0.04, 0.06, 0.34, 0.36, 0.5, 0.94, 0.96, 1.0])
def test_masked_length_is_the_nearest_that_whole_points_allow(ratio):
    """Ten points that carry one pixel each, in blocks large enough for all of them."""
    points = torch.stack([torch.arange(10.0) ** 1.1, torch.zeros(10)], 1)
    for seed in range(5):
        made = mask_ink(
            points,
            torch.zeros(10).long(),
            torch.ones(10),
            1,
            ratio,
            block=(20, 20),
            random=seeded(seed),
        )
        assert made.masked.sum() == round(10 * ratio)


def test_all_ink_can_be_masked_however_unequal_its_points():
    points, owner, _ = ink()
    arc = 10 ** (torch.rand(len(points), generator=seeded()) * 8 - 4)
    assert mask_ink(points, owner, arc, 12, 1.0, random=seeded()).masked.all()


def test_boxes_keep_to_their_sizes_and_only_the_last_shrinks():
    points, owner, arc = ink()
    made = mask_ink(points, owner, arc, 12, 0.5, block=(4.0, 6.0), random=seeded())
    half = (made.boxes[:, 2:] - made.boxes[:, :2]) / 2
    assert half.max() <= 6 + 1e-4
    small = (half < 4 - 1e-4).any(1)
    assert torch.bincount(made.box_owner[small], minlength=12).max() <= 1


def test_each_expression_may_have_its_own_ratio():
    points, owner, arc = ink()
    ratio = torch.linspace(0, 1, 12)
    made = mask_ink(points, owner, arc, 12, ratio, random=seeded())
    torch.testing.assert_close(masked_share(made.masked, owner, arc, 12), ratio, atol=0.03, rtol=0)
    assert 0 not in made.box_owner
    assert made.masked[owner == 11].all()


def test_a_mask_is_deterministic_and_leaves_other_expressions_alone():
    points, owner, arc = ink()
    one, two, other = (mask_ink(points, owner, arc, 12, 0.3, random=seeded(s)) for s in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, two))
    assert not torch.equal(one.masked, other.masked)


def test_attended_boxes_go_where_saliency_is():
    points, owner, arc = ink()
    salient = points[:, 0] < 40  # the first two symbols of each expression
    saliency = salient.float()
    by_share = {}
    for share in (0.0, 0.5, 1.0):
        made = [
            mask_ink(points, owner, arc, 12, 0.15, seeded(s), share, saliency) for s in range(10)
        ]
        by_share[share] = np.mean(
            [float((arc * m.masked * salient).sum() / (arc * m.masked).sum()) for m in made]
        )
    by_length = float((arc * salient).sum() / arc.sum())
    assert by_share[0.0] == pytest.approx(by_length, abs=0.1)
    assert by_share[0.0] + 0.1 < by_share[0.5] < by_share[1.0] - 0.1
    assert by_share[1.0] > 0.85


def test_unattended_boxes_go_by_ink_length_not_by_points():
    """Two symbols of equal length, one sampled nine times as densely: masked equally often."""
    dense, sparse = torch.linspace(0, 20, 181), torch.linspace(100, 120, 21)
    points = torch.stack([torch.cat([dense, sparse]), torch.zeros(202)], 1)
    arc = torch.cat([torch.full((181,), 20 / 181), torch.full((21,), 20 / 21)])
    owner = torch.arange(400).repeat_interleave(202)
    made = mask_ink(points.repeat(400, 1), owner, arc.repeat(400), 400, 0.1, random=seeded())
    on_dense = (made.boxes[:, 0] < 60).float().mean()
    assert on_dense == pytest.approx(0.5, abs=0.1)


def test_saliency_of_zero_falls_back_on_ink_length():
    points, owner, arc = ink()
    made = mask_ink(points, owner, arc, 12, 0.3, seeded(), 1.0, torch.zeros(len(points)))
    torch.testing.assert_close(
        masked_share(made.masked, owner, arc, 12), torch.full((12,), 0.3), atol=0.03, rtol=0
    )


def test_expressions_without_ink_are_no_trouble():
    points, owner, arc = ink(3)
    owner = owner * 2  # expressions 1 and 3 have no points
    made = mask_ink(points, owner, arc, 5, 0.3, random=seeded())
    assert set(made.box_owner.tolist()) == {0, 2, 4}
    empty = mask_ink(
        torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), torch.zeros(0), 2, 0.3, random=seeded()
    )
    assert [len(part) for part in empty] == [0, 0, 0]
    dot = mask_ink(
        torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), torch.zeros(1), 1, 0.5, random=seeded()
    )
    assert not dot.masked.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(5, 3)}, r"points has shape \(5, 3\), expected \(5, 2\)"),
        ({"owner": torch.zeros(4, dtype=torch.long)}, r"owner has shape \(4,\), expected \(5,\)"),
        ({"arc": torch.ones(5, 1)}, r"arc has shape \(5, 1\)"),
        ({"saliency": torch.ones(3)}, r"saliency has shape \(3,\)"),
        ({"ratio": torch.ones(3)}, r"ratio has shape \(3,\), expected \(2,\)"),
        ({"ratio": 1.2}, r"ratio is 1\.2"),
        ({"points": torch.full((5, 2), torch.nan)}, "points must be finite"),
        ({"arc": torch.full((5,), -1.0)}, "arc must be finite and at least 0"),
        ({"saliency": torch.full((5,), torch.inf)}, "saliency must be finite and at least 0"),
        ({"owner": torch.tensor([0, 1, 0, 1, 1])}, "owner must be non-decreasing"),
        ({"owner": torch.tensor([0, 0, 0, 1, 2])}, r"in \[0, 2\)"),
        ({"attended_share": 0.5}, "saliency is missing"),
        ({"attended_share": -1}, "attended_share is -1"),
        ({"block": (0, 3)}, r"block is \(0, 3\)"),
    ],
)
def test_mask_ink_refuses(change, message):
    good = {
        "points": torch.zeros(5, 2),
        "owner": torch.tensor([0, 0, 0, 1, 1]),
        "arc": torch.ones(5),
        "b": 2,
        "ratio": 0.3,
        "random": seeded(),
    }
    with pytest.raises(ValueError, match=message):
        mask_ink(**(good | change))


# a stream of random numbers for each expression


def mask_by_streams(points, owner, arc, b, ratio, seed, first=0):
    streams = random_streams([seed, first + i] for i in range(b))
    return mask_ink(points, owner, arc, b, ratio, streams).masked


def test_with_streams_a_mask_depends_on_seed_and_index_alone():
    points, owner, arc = ink()
    whole = mask_by_streams(points, owner, arc, 12, 0.2, seed=7)
    for start, stop in ((0, 5), (5, 12)):
        here = (owner >= start) & (owner < stop)
        part = mask_by_streams(
            points[here], owner[here] - start, arc[here], stop - start, 0.2, 7, start
        )
        assert torch.equal(part, whole[here])
    assert not torch.equal(mask_by_streams(points, owner, arc, 12, 0.2, seed=8), whole)


def test_with_streams_a_mask_grows_with_the_ratio():
    points, owner, arc = ink()
    levels = [
        mask_by_streams(points, owner, arc, 12, r, seed=0) for r in (0.0, 0.05, 0.1, 0.2, 0.3, 0.6)
    ]
    assert not levels[0].any()
    assert all((less <= more).all() and less.sum() < more.sum() for less, more in pairwise(levels))


# masks as pictures


def test_channel_equals_plain_loops():
    rng = np.random.default_rng(0)
    corner = rng.uniform(-4, 20, (30, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + rng.uniform(0.1, 9, (30, 2))], 1)).float()
    owner = torch.tensor(rng.integers(0, 4, 30))
    expected = torch.zeros(5, 1, 16, 20)
    for (x0, y0, x1, y1), i in zip(boxes.tolist(), owner.tolist()):
        expected[
            i,
            0,
            max(math.floor(y0), 0) : max(math.ceil(y1), 0),
            max(math.floor(x0), 0) : max(math.ceil(x1), 0),
        ] = 1
    assert torch.equal(mask_channel(boxes, owner, 5, 16, 20), expected)
    assert 0 < expected.mean() < 1
    assert not expected[4].any()
    assert torch.equal(mask_channel(boxes[:0], owner[:0], 2, 3, 4), torch.zeros(2, 1, 3, 4))


def test_channel_holds_the_masked_points_pixels():
    points, owner, arc = ink()
    made = mask_ink(points, owner, arc, 12, 0.4, random=seeded())
    picture = mask_channel(made.boxes, made.box_owner, 12, 48, 280)
    column, row = points.floor().long().unbind(1)
    seen = (column >= 0) & (column < 280) & (row >= 0) & (row < 48)
    under = picture[owner[seen], 0, row[seen], column[seen]] > 0
    assert under[made.masked[seen]].all()
    # A pixel that a box touches may hold a point outside the box, so a few visible points lie
    # under as well.
    assert (under & ~made.masked[seen]).float().mean() < 0.05


def test_channel_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"boxes has shape \(2, 3\), expected \(m, 4\)"):
        mask_channel(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), 1, 4, 4)


def test_a_masked_picture_loses_the_ink_under_the_mask_alone():
    x = torch.rand(2, 1, 6, 7, generator=seeded())
    boxes, owner = torch.tensor([[1.0, 1.0, 4.0, 3.0], [2.0, 0.0, 5.0, 6.0]]), torch.tensor([0, 1])
    out, mask = masked_picture(x, boxes, owner).split(1, 1)
    assert torch.equal(mask, mask_channel(boxes, owner, 2, 6, 7))
    assert (out[mask == 1] == 0).all()
    assert torch.equal(out[mask == 0], x[mask == 0])


def test_masked_share_by_hand():
    masked = torch.tensor([True, False, True, False])
    share = masked_share(masked, torch.tensor([0, 0, 2, 2]), torch.tensor([1.0, 3.0, 2.0, 0.0]), 3)
    assert share.tolist() == [0.25, 0.0, 1.0]
