"""Photographs, imitated from ink: cleaned to what was drawn, and told from drawings."""

import numpy as np
import pytest
from scipy import ndimage

from mmlib.data.corpus import synthetic_pack
from mmlib.data.errors import DataError
from mmlib.data.photo import (
    clean,
    imitate,
    is_photo,
    only_rules,
    slope_of_rules,
    without_margin,
    without_rules,
)
from mmlib.formula.ink import InkError
from mmlib.read.reader import recognize
from mmlib.read.source import LARGEST, ink_of
from mmlib.show.ink import drawing


@pytest.fixture(scope="module")
def drawings():
    """Ink levels of some synthetic formulas at 48 pixels a symbol."""
    pack = synthetic_pack("test")
    chosen = [i for i in range(len(pack)) if 5 <= len(pack.tokens(i)) <= 15][:6]
    return [drawing(pack[i], margin=16) for i in chosen]


def components(ink):
    """Large connected pieces of a picture's ink."""
    label, count = ndimage.label(ink, np.ones((3, 3)))
    return int((np.bincount(label.ravel(), minlength=count + 1)[1:] > 25).sum())


def test_photographs_are_told_from_drawings(drawings):
    rng = np.random.default_rng(0)
    for levels in drawings:
        assert not is_photo(255 - levels)
        assert not is_photo(levels)  # light on dark
        assert is_photo(imitate(levels, rng))
        assert is_photo(imitate(levels, rng, rules=False, shade=0.3))


@pytest.mark.parametrize("rules", [False, True])
def test_what_was_drawn_is_what_is_left(drawings, rules):
    """No shadow and no rule is left as ink, and no symbol is lost: as many pieces as were drawn,
    give or take one in ten.
    """
    drawn = left = 0
    for number, levels in enumerate(drawings):
        found = clean(imitate(levels, np.random.default_rng(number), rules=rules,
                              tilt=0.05 * (-1) ** number))
        assert set(np.unique(found)) <= {0, 255}
        assert 0.3 < (found == 0).sum() / (levels > 127).sum() < 3
        drawn, left = drawn + components(levels > 127), left + components(found == 0)
    assert abs(left - drawn) <= max(1, 0.1 * drawn)


@pytest.mark.parametrize("tilt", [0.0, 0.05])
def test_the_line_of_a_margin_goes_and_a_bar_stays(drawings, tilt):
    for number, levels in enumerate(drawings):
        page = np.pad(levels, ((40, 40), (60, 20)))
        page[:, 20:23] = 255
        photo = imitate(page, np.random.default_rng(number), rules=False, tilt=0.0, perspective=0.0)
        # without the paper beyond the line's ends
        photo = photo[round(0.3 * len(page)) : -round(0.3 * len(page))]
        found = clean(ndimage.rotate(photo, np.degrees(tilt), reshape=False, mode="nearest"))
        assert abs(components(found == 0) - components(levels > 127)) <= 1
    bars = np.zeros((100, 200), bool)
    bars[10:90, 50:53] = bars[10:90, 150:153] = bars[45:55, 90:110] = True
    assert np.array_equal(without_margin(bars), bars)
    bars[:, 50:53] = True
    assert np.array_equal(without_margin(bars)[:, 60:], bars[:, 60:])
    assert not without_margin(bars)[:, :60].any()
    bars[:, 150:153] = bars[:, 20:23] = True  # |x|, cropped close, and something beyond it
    assert without_margin(bars)[:, 50:53].all()


def ruled(angle, size=(300, 500)):
    y, x = np.mgrid[: size[0], : size[1]]
    rows = (y * np.cos(angle) + x * np.sin(angle)) % 50
    return np.where(rows < 2, 0.6, 1.0)


@pytest.mark.parametrize("angle", [-0.08, 0.05, 0.12])
def test_a_ruled_page_is_turned_level(angle):
    assert abs(abs(slope_of_rules(ruled(angle))) - abs(angle)) < 0.012
    assert slope_of_rules(ruled(angle)) * slope_of_rules(ruled(-angle)) < 0


def test_a_page_without_rules_is_not_turned(drawings):
    assert all(slope_of_rules(1 - levels / 255) == 0 for levels in drawings)


def test_a_fraction_bar_is_no_rule():
    ink = np.zeros((100, 300), bool)
    ink[50:53, 100:220] = True
    assert not only_rules(ink)
    fraction = ink.copy()
    fraction[50:53, 20:280] = True
    assert only_rules(fraction)  # a line and nothing else
    fraction[20:45, 150:154] = True  # a numerator
    assert not only_rules(fraction)
    assert np.array_equal(without_rules(ink), ink)
    ink[20:22] = True  # across the page
    ink[5:40, 150:154] = True  # a stroke over it
    left = without_rules(ink)
    assert not left[20, :140].any()
    assert left[5:40, 151].all()
    assert left[51, 100:220].all()


def test_blank_paper_has_no_ink():
    flat = np.full((200, 300), 220, np.uint8)
    shaded = np.linspace(120, 230, 300).astype(np.uint8) * np.ones((200, 1), np.uint8)
    for paper in (flat, shaded):
        with pytest.raises(DataError, match=r"blank|no ink"):
            recognize(clean(paper))


def test_an_empty_ruled_page_is_blank():
    """However it is tilted and seen: rules that cleaning could not take away are no formula."""
    for seed, size in ((0, (300, 450)), (1, (300, 450)), (2, (450, 300))):
        rng = np.random.default_rng(seed)
        page = imitate(np.zeros(size, np.uint8), rng, tilt=rng.uniform(-0.08, 0.08))
        with pytest.raises(DataError, match="blank"):
            ink_of(page)


def test_a_speckled_picture_is_refused_at_once():
    noise = np.where(np.random.default_rng(0).random((900, 1_200)) < 0.02, 0, 255).astype(np.uint8)
    assert noise.size < LARGEST
    with pytest.raises(InkError, match=r"typical symbols are too much|points are too many"):
        ink_of(noise, photo=False)


def test_a_photo_reads_like_its_drawing(drawings):
    """With the recogniser that ships: most tokens agree (notebook 07 records how much is lost)."""
    same = total = 0
    for number, levels in enumerate(drawings):
        plain = recognize(255 - levels, beam=1)[0].tokens
        seen = recognize(imitate(levels, np.random.default_rng(number)), beam=1)[0].tokens
        same += sum(a == b for a, b in zip(plain, seen))
        total += max(len(plain), len(seen))
    assert same > 0.5 * total
