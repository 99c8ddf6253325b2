"""Views: where each point lands is where its ink is drawn, and what must not matter does not."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import seeded

from mmlib.draw.views import (
    STRIDE,
    InkBatch,
    ViewConfig,
    columns,
    elastic_field,
    ink_cells,
    make_view,
    sample,
    shuffled,
    valid_cells,
    warp,
)
from mmlib.train.pretrain import HARD

MILD = ViewConfig()


def ink_batch(expressions):
    """An InkBatch of lists of strokes, each a list of (x, y) in typical symbols."""
    points, stroke, owner, number = [], [], [], 0
    for e, strokes in enumerate(expressions):
        for s in strokes:
            points += s
            stroke += [number] * len(s)
            owner += [e] * len(s)
            number += 1
    return InkBatch(
        torch.tensor(points, dtype=torch.float32),
        torch.tensor(stroke),
        torch.tensor(owner),
        len(expressions),
    )


def scribbles(b=3, seed=0, strokes=5):
    """Random expressions of several strokes, of different widths."""
    rng = np.random.default_rng(seed)
    return ink_batch(
        [
            [
                [tuple(p) for p in rng.uniform(0, 0.8, (6, 2)).cumsum(0) * 0.4 + (1.3 * s, 0)]
                for s in range(strokes + 2 * e)
            ]
            for e in range(b)
        ]
    )


@pytest.mark.parametrize("config", [MILD, HARD, MILD.still()], ids=["mild", "hard", "still"])
def test_every_kept_point_lies_on_ink(config):
    ink = scribbles()
    view = make_view(ink, config, seeded())
    column, row = view.points[view.kept].floor().long().unbind(1)
    assert (
        view.picture[ink.owner[view.kept], 0, row, column] > 0.3
    ).all()  # the pen covers its own pixel
    # And on its own expression's canvas.
    assert (view.points[view.kept] > 0).all()
    assert (view.points[view.kept] < view.extent[ink.owner[view.kept]]).all()


def test_all_ink_is_near_a_point_of_its_expression():
    ink = scribbles()
    view = make_view(ink, MILD, seeded(3))
    dense = ink_cells(view, ink.b, ink.owner)
    inked = F.max_pool2d(view.picture, STRIDE)
    around = F.max_pool2d(dense, 5, 1, 2)
    assert ((inked == 0) | (around > 0)).all()
    assert (dense.sum((1, 2, 3)) > 0).all()


def test_padding_is_blank_and_marked():
    ink = scribbles()
    view = make_view(ink, MILD, seeded(1))
    b, _, height, width = view.picture.shape
    assert height % STRIDE == width % STRIDE == 0
    assert view.valid.shape == (b, 1, height // STRIDE, width // STRIDE)
    pixels = view.valid.repeat_interleave(STRIDE, 2).repeat_interleave(STRIDE, 3)
    assert (view.picture * (1 - pixels)).sum() == 0
    for e in range(b):
        w, h = (int(v) // STRIDE for v in view.extent[e])
        assert view.valid[e].sum() == w * h
        assert view.valid[e, 0, :h, :w].all()
    assert (view.valid.mean((1, 2, 3)) < 1).any()  # there was padding to speak of


def test_a_view_does_not_depend_on_its_companions_when_still():
    ink = scribbles()
    whole = make_view(ink, MILD.still(), seeded())
    for e in range(ink.b):
        mine = ink.owner == e
        alone = InkBatch(
            ink.points[mine], ink.stroke[mine] - ink.stroke[mine][0], ink.owner[mine] * 0, 1
        )
        view = make_view(alone, MILD.still(), seeded(9))
        h, w = view.picture.shape[2:]
        torch.testing.assert_close(whole.picture[e, :, :h, :w], view.picture[0], atol=1e-5, rtol=0)
        assert whole.picture[e].sum() == pytest.approx(float(view.picture.sum()), rel=1e-4)


def test_still_has_no_randomness_and_keeps_the_scale():
    ink = scribbles()
    config = HARD.still()
    first, second = make_view(ink, config, seeded(0)), make_view(ink, config, seeded(1))
    assert torch.equal(first.picture, second.picture)
    assert first.kept.all()
    one = ink.owner == 0
    span = first.points[one].amax(0) - first.points[one].amin(0)
    torch.testing.assert_close(
        span, (ink.points[one].amax(0) - ink.points[one].amin(0)) * config.symbol
    )
    low = first.points[one].amin(0)
    torch.testing.assert_close(low, torch.full_like(low, config.margin))


def test_views_are_seeded():
    ink = scribbles()
    first, again, other = (make_view(ink, HARD, seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first.picture, again.picture)
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.points, other.points)


@pytest.mark.parametrize(
    "name", ["scale", "aspect", "rotate", "slant", "elastic", "stroke_shift", "stroke_scale"]
)
def test_each_amplitude_moves_points_and_zero_does_not(name):
    ink, still = scribbles(), MILD.still()
    assert torch.equal(warp(ink, still, seeded()), ink.points)
    moved = warp(ink, replace(still, **{name: 0.2}), seeded())
    assert (moved - ink.points).abs().max() > 1e-3
    if name in ("scale", "aspect", "rotate", "slant"):  # linear, one map an expression
        for e in range(ink.b):
            mine = ink.owner == e
            fit = torch.linalg.lstsq(ink.points[mine], moved[mine]).solution
            torch.testing.assert_close(ink.points[mine] @ fit, moved[mine], atol=1e-4, rtol=0)
    if name == "rotate":
        torch.testing.assert_close(moved.norm(dim=1), ink.points.norm(dim=1))
    if name == "slant":
        torch.testing.assert_close(moved[:, 1], ink.points[:, 1])


def test_stroke_jitter_moves_strokes_as_a_whole():
    ink = scribbles()
    moved = warp(ink, replace(MILD.still(), stroke_shift=0.3), seeded()) - ink.points
    shifts = torch.stack([moved[ink.stroke == s][0] for s in range(int(ink.stroke[-1]) + 1)])
    torch.testing.assert_close(moved, shifts[ink.stroke], atol=1e-5, rtol=0)
    assert shifts.std(0).min() > 0.1


def test_the_elastic_field_is_smooth_and_has_its_amplitude():
    n = 4_000
    points = torch.rand(n, 2, generator=seeded()) * 40
    owner = torch.arange(40).repeat_interleave(n // 40)
    push = elastic_field(points, owner, 40, 0.1, 3.0, seeded(1))
    # A sine has mean square 1/2: each coordinate's is amplitude^2 / 2.
    assert float(push.square().mean().sqrt()) == pytest.approx(0.1 / 2**0.5, rel=0.15)
    near = elastic_field(points + 0.01, owner, 40, 0.1, 3.0, seeded(1))
    assert (near - push).norm(dim=1).max() < 0.02


@pytest.mark.parametrize("share", [0.4, 0.999])
def test_a_crop_keeps_whole_strokes_and_at_least_one(share):
    ink, config = scribbles(b=6), replace(MILD, crop=share)
    lost = 0
    for seed in range(20):
        view = make_view(ink, config, seeded(seed))
        for s in range(int(ink.stroke[-1]) + 1):
            kept = view.kept[ink.stroke == s]
            assert kept.all() or not kept.any()
        assert len(ink.owner[view.kept].unique()) == ink.b
        lost += int((~view.kept).sum())
        # What is left out is not drawn: all ink is within the pen of a kept stroke.
        low = view.points[view.kept].amin(0)
        assert (low >= config.margin - 1e-3).all()
    assert lost > 0


def test_a_crop_draws_the_kept_strokes_alone():
    bars = [[(4.0 * i, 0.0), (4.0 * i + 1, 0.0)] for i in range(3)]
    ink, config = ink_batch([bars]), replace(MILD.still(), crop=0.9)
    counts = set()
    for seed in range(30):
        view = make_view(ink, config, seeded(seed))
        kept = int(view.kept.sum()) // 2
        counts.add(kept)
        alone = make_view(ink_batch([bars[:1]]), MILD.still(), seeded())
        assert float(view.picture.sum()) == pytest.approx(
            kept * float(alone.picture.sum()), rel=0.05
        )
        span = view.points[view.kept].amax(0) - view.points[view.kept].amin(0) + 2 * config.margin
        assert view.extent[0, 0] - span[0] < STRIDE  # the paper is cut to what is left
    assert counts >= {1, 2}


def test_no_ink_is_refused():
    nothing = InkBatch(torch.zeros(0, 2), torch.zeros(0).long(), torch.zeros(0).long(), 1)
    with pytest.raises(ValueError, match="at least one"):
        make_view(nothing, MILD, seeded())


def test_valid_cells_by_hand():
    extent = torch.tensor([[16.0, 8.0], [24.0, 16.0]])  # width, height
    expected = torch.tensor([[[[1, 1, 0], [0, 0, 0]]], [[[1, 1, 1], [1, 1, 1]]]]).float()
    assert torch.equal(valid_cells(extent, 16, 24), expected)


def test_ink_cells_by_hand():
    view = make_view(
        ink_batch([[[(0.0, 0.0), (2.0, 0.0)]]]),
        replace(MILD.still(), symbol=14.0, margin=3.0),
        seeded(),
    )
    # Points at pixels (3, 3) and (31, 3): cells 0 and 3 of the first row.
    assert ink_cells(view, 1, torch.zeros(2).long())[0, 0].nonzero().tolist() == [[0, 0], [0, 3]]
    view.kept[1] = False
    assert ink_cells(view, 1, torch.zeros(2).long())[0, 0].nonzero().tolist() == [[0, 0]]


# --- sampling -----------------------------------------------------------------------------------


def slow_sample(features, points, owner):
    """Plain bilinear interpolation between cell centres, clamped to the map."""
    _, _, h, w = features.shape
    rows = []
    for (px, py), e in zip(points.tolist(), owner.tolist()):
        x, y = min(max(px - 0.5, 0), w - 1), min(max(py - 0.5, 0), h - 1)
        total = torch.zeros(features.shape[1], dtype=torch.float64)
        for i in range(h):
            for j in range(w):
                total += (
                    max(0, 1 - abs(i - y)) * max(0, 1 - abs(j - x)) * features[e, :, i, j].double()
                )
        rows.append(total)
    return torch.stack(rows)


def test_sample_is_plain_bilinear_interpolation():
    features = torch.randn(2, 5, 4, 6, generator=seeded())
    points = torch.rand(40, 2, generator=seeded(1)) * torch.tensor([8.0, 6.0]) - 1  # some outside
    owner = torch.randint(0, 2, (40,), generator=seeded(2))
    found = sample(features, points, owner)
    torch.testing.assert_close(
        found.double(), slow_sample(features, points, owner), atol=1e-5, rtol=1e-5
    )
    # And PyTorch's own, whose unaligned corners put a cell's centre at +1/2 too.
    for e in (0, 1):
        grid = (points[owner == e] / torch.tensor([6.0, 4.0]) * 2 - 1).view(1, 1, -1, 2)
        torch_own = F.grid_sample(
            features[e : e + 1], grid, align_corners=False, padding_mode="border"
        )[0, :, 0].T
        torch.testing.assert_close(found[owner == e], torch_own, atol=1e-5, rtol=1e-5)


def test_sample_at_a_cells_centre_is_the_cell_and_has_its_gradient():
    features = torch.randn(1, 3, 2, 4, generator=seeded(), requires_grad=True)
    value = sample(features, torch.tensor([[2.5, 1.5]]), torch.zeros(1).long())
    assert torch.equal(value[0], features[0, :, 1, 2])
    value.sum().backward()
    assert features.grad.nonzero().tolist() == [[0, c, 1, 2] for c in range(3)]


@pytest.mark.parametrize("b", [1, 3])
def test_sample_adds_up_the_gradients_of_points_that_share_cells(b):
    features = torch.randn(b, 2, 3, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    points = torch.rand(30, 2, generator=seeded(1)) * torch.tensor([4.0, 3.0])
    owner = torch.randint(0, b, (30,), generator=seeded(2))
    assert torch.autograd.gradcheck(lambda x: sample(x, points, owner), features)


def test_sample_of_no_point():
    features = torch.randn(2, 3, 2, 4, generator=seeded(), requires_grad=True)
    found = sample(features, torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    assert found.shape == (0, 3)
    found.sum().backward()
    assert not features.grad.any()


# --- columns in another order ---------------------------------------------------------------------

CROSSED = ink_batch([
    [[(0, 0), (1, 0)], [(0.5, -0.5), (0.5, 0.5)], [(2, 0), (3, 0)]],
    [[(0, 0), (1, 1)], [(2, 0), (3, 1)]],
])


def test_strokes_that_overlap_in_x_share_a_column():
    column, owner = columns(CROSSED.points, CROSSED)
    assert column.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert owner.tolist() == [0, 0, 1, 1]


def test_shuffled_columns_keep_their_shape_and_do_not_touch():
    ink = scribbles(b=4)
    column, owner = columns(ink.points, ink)
    points = shuffled(ink.points, ink, 1.0, seeded(), gap=(0.1, 0.6), rise=1.0)
    for c in range(len(owner)):
        shift = (points - ink.points)[column == c]
        assert torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-5)
        assert shift[0, 1].abs() <= 1
    for e in range(ink.b):
        ends = sorted((float(points[column == c, 0].min()), float(points[column == c, 0].max()))
                      for c in torch.nonzero(owner == e)[:, 0])
        gaps = [b[0] - a[1] for a, b in itertools.pairwise(ends)]
        assert all(0.1 - 1e-4 < gap < 0.6 + 1e-4 for gap in gaps)
    assert torch.equal(points, shuffled(ink.points, ink, 1.0, seeded()))
    assert torch.equal(ink.points, shuffled(ink.points, ink, 0.0, seeded()))


def test_every_order_of_columns_comes():
    ink = ink_batch([[[(2 * k, 0), (2 * k + 1, 0)] for k in range(3)]])
    starts = [shuffled(ink.points, ink, 1.0, seeded(k))[::2, 0] for k in range(60)]
    assert len({tuple(x.argsort().tolist()) for x in starts}) == 6
