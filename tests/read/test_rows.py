"""Several formulas in one picture: each by itself, in order, with its box."""

import numpy as np
import pytest

from mmlib.data.corpus import synthetic_pack
from mmlib.data.photo import see
from mmlib.read.reader import recognize
from mmlib.read.rows import box_of, rows_of, touching
from mmlib.show.ink import drawing


@pytest.fixture(scope="module")
def drawings():
    pack = synthetic_pack("test")
    chosen = [i for i in range(len(pack)) if 5 <= len(pack.tokens(i)) <= 15][:8]
    return [drawing(pack[i], margin=3) for i in chosen]


def page(drawings, places, size=(900, 1_600)):
    levels = np.zeros(size, np.uint8)
    for one, (left, top) in zip(drawings, places):
        levels[top : top + one.shape[0], left : left + one.shape[1]] = one
    return levels


def stacked(drawings, left=50, gap=40):
    tops = np.cumsum([30, *(len(one) + gap for one in drawings[:-1])])
    return [(left, int(top)) for top in tops]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_row_has_its_box(drawings, count):
    places = stacked(drawings[:count])
    levels = page(drawings, places)
    for picture in (255 - levels, levels):
        found = rows_of(see(picture))
        assert len(found) == count
        for part, one, (left, top) in zip(found, drawings, places):
            box = left, top, left + one.shape[1], top + one.shape[0]
            assert np.abs(np.array(box_of(part)) - box).max() <= 6
            assert not touching(part)


def test_columns_are_read_one_after_the_other(drawings):
    places = [*stacked(drawings[:3]), *stacked(drawings[3:6], left=900)]
    boxes = [box_of(part) for part in rows_of(see(255 - page(drawings, places)))]
    assert [(left > 800) for left, *_ in boxes] == [False] * 3 + [True] * 3
    assert all(np.abs(np.array(box[:2]) - place).max() <= 6 for box, place in zip(boxes, places))


def test_a_fraction_is_one_formula():
    levels = np.zeros((300, 500), np.uint8)
    for top in (50, 180):
        for left in range(60, 400, 60):
            levels[top : top + 40, left : left + 5] = 255
            levels[top : top + 5, left : left + 35] = 255
    assert len(rows_of(see(255 - levels))) == 2
    levels[130:135, 40:420] = 255
    assert len(rows_of(see(255 - levels))) == 1


def test_what_may_be_several_rows_that_touch_is_said():
    levels = np.zeros((600, 300), np.uint8)
    for shift, top in enumerate(range(30, 530, 42)):
        for left in range(40 + shift % 4 * 7, 220, 60):
            levels[top : top + 40, left : left + 5] = levels[top : top + 5, left : left + 35] = 255
    (part,) = rows_of(see(255 - levels))
    assert touching(part)


def test_rows_are_read_like_each_by_itself(drawings, tmp_path):
    chosen = drawings[:2]
    picture = 255 - page(chosen, stacked(chosen))
    found = recognize(picture, beam=1, rows=True, show=tmp_path)
    for row, one in zip(found, chosen, strict=True):
        alone = recognize(255 - np.pad(one, 20), beam=1)[0].tokens
        assert sum(a == b for a, b in zip(row.readings[0].tokens, alone)) > 0.5 * len(alone)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["picture-1.png", "picture-2.png"]
