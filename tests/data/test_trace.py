"""Pictures traced to ink, and packed as what was traced."""

import numpy as np
import pytest
import torch

from mmlib.data.errors import DataError
from mmlib.data.pack import Pack, PackError, write_pack
from mmlib.data.trace import lines, trace_picture, traced
from mmlib.draw.raster import rasterise
from mmlib.formula.ink import typical_size

CROPPED = np.array([[255, 0, 200, 0, 255], [0, 255, 0, 90, 0], [255, 10, 0, 0, 60]], np.uint8)


@pytest.mark.parametrize("pen", [2.0, 5.0])
@pytest.mark.parametrize(("start", "end"),
                         [((10, 10), (90, 10)), ((20, 5), (20, 60)), ((10, 10), (60, 60)),
                          ((5, 8), (80, 40))])
def test_a_drawn_line_is_traced_back(start, end, pen):
    line = torch.tensor([start, end], dtype=torch.float32) + 0.5
    zeros = torch.zeros(2).long()
    levels = (rasterise(line, zeros, zeros, (1, 72, 104), pen)[0, 0] * 255).byte().numpy()
    points, stroke, size = trace_picture(levels)
    assert len(points) == len(stroke) == 2 * (stroke[-1] + 1)  # strokes of two points
    a, b = line.double().numpy()
    along = (b - a) / np.linalg.norm(b - a)
    offset = points - a
    across = np.abs(offset[:, 0] * along[1] - offset[:, 1] * along[0])
    assert across.max() < 1.3
    reach = offset @ along
    assert -1 - pen / 2 < reach.min() < pen
    assert -pen < reach.max() - np.linalg.norm(b - a) < 1 + pen / 2
    # One connected line: every step is to a neighbouring pixel, and each pixel but the ends is met
    # twice.
    steps = np.abs(points[1::2] - points[::2]).max(1)
    assert (steps == 1).all()
    gaps = np.diff(np.sort(reach))
    assert gaps.max() < 2
    assert size == pytest.approx(typical_size(line.numpy(), np.zeros(2, int)), rel=0.25)


def test_a_skeleton_becomes_lines_between_ends_and_crossings():
    cross = np.zeros((9, 9), np.uint8)
    cross[4, :] = cross[:, 4] = 255
    points, _, _ = trace_picture(cross)
    found = lines(points.reshape(-1, 2, 2))
    assert len(found) == 4
    assert all((4.5, 4.5) in map(tuple, line) for line in found)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    ring = lines(np.stack([corners, np.roll(corners, -1, 0)], 1))
    assert [len(line) for line in ring] == [5]
    assert (ring[0][0] == ring[0][-1]).all()
    dot = np.array([[[3, 3], [3, 3]]])
    assert [line.tolist() for line in lines(dot)] == [[[3, 3], [3, 3]]]


def test_a_dot_and_a_blank():
    levels = np.zeros((9, 9), np.uint8)
    levels[4, 5] = 255
    points, stroke, size = trace_picture(levels)
    assert points.tolist() == [[5.5, 4.5], [5.5, 4.5]]
    assert stroke.tolist() == [0, 0]
    assert size > 0
    with pytest.raises(DataError, match="no ink"):
        trace_picture(np.zeros((9, 9), np.uint8))


def test_a_picture_is_packed_as_ink_of_its_own_size(tmp_path):
    fields = [{"id": "a", "tokens": ("x",), "latex": "x"},
              {"id": "b", "latex": "x }", "label_error": "why"}, {"id": "c"}]
    pictures = [CROPPED, CROPPED[:1], CROPPED[:, :2]]
    items = [traced(levels, **about) for levels, about in zip(pictures, fields)]
    path = tmp_path / "p.safetensors"
    write_pack(items, path, traced=True)
    pack = Pack.open(path)
    assert pack.traced
    assert pack.ids == ["a", "b", "c"]
    for levels, about, ink, packed_size in zip(pictures, fields, pack, pack.typical):
        points, stroke, size = trace_picture(levels)
        assert packed_size == pytest.approx(size)
        np.testing.assert_allclose(ink.points, (points - points.min(0)) / size, rtol=1e-6)
        assert np.array_equal(ink.stroke, stroke)
        for name in ("id", "tokens", "latex", "label_error"):
            assert getattr(ink, name) == about.get(name)
    with pytest.raises(PackError, match="same id"):
        write_pack(items[:1] * 2, path)


def test_a_picture_beyond_all_sizes_is_refused():
    ticks, line = np.zeros((30_000, 9), np.uint8), np.zeros((3, 70_000), np.uint8)
    ticks[np.arange(30_000) % 40 < 6, 4] = line[1] = 255
    for levels in (ticks, line):
        with pytest.raises(DataError, match="crop it to one formula"):
            traced(levels)
