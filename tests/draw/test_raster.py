"""Drawing: against a slow reference, and what must hold of any pen."""

import itertools
import math

import numpy as np
import pytest
import torch

from mmlib.draw.raster import STEP, arc_length, densify, rasterise


def flat(strokes, owners=None):
    """points, stroke, owner of a list of lists of (x, y)."""
    points = torch.tensor([p for s in strokes for p in s], dtype=torch.float32).reshape(-1, 2)
    stroke = torch.tensor([i for i, s in enumerate(strokes) for _ in s], dtype=torch.long)
    owners = owners or [0] * len(strokes)
    owner = torch.tensor([owners[i] for i, s in enumerate(strokes) for _ in s], dtype=torch.long)
    return points, stroke, owner


def slow(strokes, owners, size, pens):
    """Pixel by pixel: the largest coverage by a disc, discs at most STEP apart."""
    b, height, width = size
    picture = np.zeros((b, 1, height, width))
    for stroke, e in zip(strokes, owners):
        discs = [stroke[-1]]
        for (x0, y0), (x1, y1) in itertools.pairwise(stroke):
            n = max(1, math.ceil(math.hypot(x1 - x0, y1 - y0) / STEP))
            discs += [(x0 + (x1 - x0) * i / n, y0 + (y1 - y0) * i / n) for i in range(n)]
        for row in range(height):
            for column in range(width):
                for x, y in discs:
                    distance = math.hypot(column + 0.5 - x, row + 0.5 - y)
                    picture[e, 0, row, column] = max(
                        picture[e, 0, row, column], min(1, max(0, pens[e] / 2 + 0.5 - distance))
                    )
    return picture


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_is_the_slow_references(seed):
    rng = np.random.default_rng(seed)
    size, owners, pens = (2, 13, 18), [0, 0, 1, 1], [1.3, 3.1]
    # Some ink lies outside the canvas.
    strokes = [
        [tuple(p) for p in rng.uniform(-4, 20, (rng.integers(1, 5), 2)).astype(np.float32)]
        for _ in owners
    ]
    drawn = rasterise(*flat(strokes, owners), size, torch.tensor(pens))
    assert drawn.shape == (2, 1, 13, 18)
    np.testing.assert_allclose(drawn.numpy(), slow(strokes, owners, size, pens), atol=2e-5)


def test_the_ink_moves_with_its_points():
    strokes = [[(5.2, 6.3), (9.8, 11.1), (14, 7)], [(8, 8)]]
    points, stroke, owner = flat(strokes)
    here = rasterise(points, stroke, owner, (1, 24, 32), 1.7)
    there = rasterise(points + torch.tensor([7.0, 4.0]), stroke, owner, (1, 24, 32), 1.7)
    torch.testing.assert_close(there[..., 4:, 7:], here[..., :-4, :-7], atol=1e-5, rtol=0)
    assert here.max() > 0.5


@pytest.mark.parametrize("pen", [1.0, 1.6, 2.6, 4.0])
@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4, 1.3])
def test_the_area_of_a_line_is_its_length_times_the_pen(pen, angle):
    middle, half = torch.tensor([32.3, 31.9]), 20 * torch.tensor([math.cos(angle), math.sin(angle)])
    points = torch.stack([middle - half, middle + half])
    area = rasterise(
        points, torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), (1, 64, 64), pen
    ).sum()
    # Round ends add half a disc each; the dents between discs take a part of the thinnest pen,
    # little of the others.
    assert float(area) == pytest.approx(
        40 * pen + math.pi * (pen / 2) ** 2, rel=0.16 if pen == 1 else 0.06
    )


def test_pixel_centres_are_at_one_half():
    dot = torch.tensor([[3.5, 2.5]])
    zero = torch.zeros(1, dtype=torch.long)
    picture = rasterise(dot, zero, zero, (1, 6, 8), 1.0)[0, 0]
    assert picture[2, 3] == 1
    assert picture.sum() == 1  # a pen of one pixel on a pixel's centre fills that pixel alone
    torch.testing.assert_close(
        picture, rasterise(dot, zero, zero, (1, 6, 8), 1.0).flip(-1)[0, 0].flip(-1)
    )


def test_ink_outside_is_clipped_not_wrapped():
    for outside in (
        [(-5.0, 4.0), (-3.0, 4.0)],
        [(30.0, 4.0), (40.0, 4.0)],
        [(4.0, -9.0), (9.0, -9.0)],
        [(4.0, 60.0)],
    ):
        assert rasterise(*flat([outside]), (1, 8, 16), 2.0).sum() == 0
    # Nor does it fall into the next expression's picture.
    picture = rasterise(*flat([[(8.0, 7.5), (8.0, 20.0)]], [0]), (2, 8, 16), 2.0)
    assert picture[1].sum() == 0
    assert picture[0].sum() > 0


def test_no_ink_is_a_blank_picture():
    nothing = torch.zeros(0, dtype=torch.long)
    assert (
        rasterise(torch.zeros(0, 2), nothing, nothing, (2, 8, 16))
        .eq(torch.zeros(2, 1, 8, 16))
        .all()
    )


def test_wrong_shapes_are_named():
    points, stroke, owner = flat([[(1, 1), (2, 2)]])
    with pytest.raises(ValueError, match=r"points \(n, 2\).*\(2,\)"):
        rasterise(points, stroke, owner[:1], (1, 8, 8))
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        rasterise(points[:, :1], stroke, owner, (1, 8, 8))


def test_samples_are_close_and_strokes_stay_apart():
    points, stroke, _ = flat([[(0, 0), (10, 0), (10, 3)], [(20, 20), (20, 21)]])
    samples, source = densify(points, stroke, 0.7)
    for s in (0, 1):
        mine = samples[stroke[source] == s]
        gaps = mine.diff(dim=0).norm(dim=1)
        assert gaps.max() <= 0.7 + 1e-5
        torch.testing.assert_close(mine[-1], points[stroke == s][-1])
        torch.testing.assert_close(mine[0], points[stroke == s][0])
    # Every sample lies on the segment that its source begins.
    along = samples[source == 0]
    assert along[:, 1].abs().max() == 0
    assert along[:, 0].max() < 10


def test_arc_length_is_half_of_each_neighbouring_segment():
    points, stroke, _ = flat([[(0, 0), (3, 4), (3, 6)], [(50, 50)], [(0, 0), (1, 0)]])
    expected = [2.5, 3.5, 1.0, 1e-3, 0.5, 0.5]
    torch.testing.assert_close(arc_length(points, stroke), torch.tensor(expected))
    whole = sum(math.dist(a, b) for a, b in zip([(0, 0), (3, 4)], [(3, 4), (3, 6)]))
    assert float(arc_length(points[:3], stroke[:3]).sum()) == pytest.approx(whole)
