"""Pictures of every kind, imitated from ink: what is seen is what was drawn, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from mmlib.data.corpus import synthetic_pack
from mmlib.data.errors import NothingError
from mmlib.data.imitate import imitate
from mmlib.data.lines import Line, without_like, without_rules
from mmlib.data.photo import see, slants
from mmlib.data.pictures import grey_of, image_of_array, ink_is_light
from mmlib.formula.ink import InkError
from mmlib.read.reader import recognize
from mmlib.read.source import ink_of
from mmlib.show.ink import drawing
from scripts.imitations import KINDS


@pytest.fixture(scope="module")
def drawings():
    """Ink levels of some synthetic formulas at 48 pixels a symbol."""
    pack = synthetic_pack("test")
    chosen = [i for i in range(len(pack)) if 5 <= len(pack.tokens(i)) <= 15][:6]
    return [drawing(pack[i], margin=30) for i in chosen]


def components(levels):
    """Large connected pieces of a picture's ink."""
    label, count = ndimage.label(levels > 127, np.ones((3, 3)))
    return int((np.bincount(label.ravel(), minlength=count + 1)[1:] > 25).sum())


def test_a_clean_drawing_comes_through_unchanged(drawings):
    for levels in drawings:
        for picture, found in ((255 - levels, ()), (levels, ("light ink on dark",))):
            seen = see(picture)
            assert seen.found == found
            assert np.array_equal(seen.levels, see(255 - levels, False).levels)


@pytest.mark.parametrize("kind", [
    "board", "coloured paper", "coloured pens", "dim", "dark on dark", "pencil", "ruled", "squared",
    "specks", "frame", "shadow", "photograph", "turned photograph",
])
def test_what_was_drawn_is_what_is_left(drawings, kind):
    """No shadow, rule or speck is left as ink, and no symbol is lost: as many pieces as were drawn,
    give or take one in ten.
    """
    drawn = left = 0
    for number, levels in enumerate(drawings):
        picture = KINDS[kind](levels / 255, np.random.default_rng(number))
        found = see(grey_of(image_of_array(picture))).levels
        drawn, left = drawn + components(levels), left + components(found)
        assert abs(found.shape[1] / see(255 - levels, False).levels.shape[1] - 1) < 0.2
    assert abs(left - drawn) <= max(1, 0.1 * drawn)


@pytest.mark.parametrize(("kind", "found"), [
    ("board", "light ink on dark"), ("photograph", "printed lines"), ("specks", "specks"),
    ("frame", "a frame"), ("shadow", "photograph"), ("turned photograph", "a page turned"),
])
def test_every_step_says_what_it_finds(drawings, kind, found):
    seen = [see(grey_of(image_of_array(KINDS[kind](levels / 255, np.random.default_rng(number)))))
            for number, levels in enumerate(drawings)]
    assert sum(found in " ".join(s.found) for s in seen) >= len(seen) - 1


def test_small_loops_stay_open_in_a_blurred_picture():
    """A ring of 16 pixels, photographed: its hole is seen."""
    y, x = np.mgrid[:60, :240]
    ink = np.zeros((60, 240))
    for middle in range(40, 220, 40):
        ink[abs(np.hypot(y - 30, x - middle) - 5) < 2] = 1
    grain = np.random.default_rng(0).normal(0, 3, ink.shape)
    seen = see((230 - 180 * ndimage.gaussian_filter(ink, 1.7) + grain).astype(np.uint8))
    holes = ndimage.label(seen.levels < 128)[1]
    assert "a photograph or scan" in seen.found
    assert components(seen.levels) == 5
    assert holes >= 6


def test_short_pieces_of_pale_lines_go_where_longer_ones_went():
    """What is as level, thin and pale as the lines; not a minus sign, which is as dark as ink."""
    contrast = np.zeros((100, 300))
    contrast[40:80, 38:42] = contrast[58:62, 20:60] = contrast[58:61, 100:150] = 0.8
    contrast[20:22, 200:290] = 0.25
    lines = [Line(np.full(300, row), 2.0, 0.0, 0.0, 0.25, True) for row in (5.0, 90.0)]
    left = without_like(contrast > 0, contrast, lines, 0.8)
    assert np.array_equal(left, contrast > 0.5)
    assert np.array_equal(without_like(contrast > 0, contrast, lines[:1], 0.8), contrast > 0)
    turned = [replace(line, slope=0.2) for line in lines]
    assert np.array_equal(without_like(contrast > 0, contrast, turned, 0.8), contrast > 0)


def test_ink_is_what_is_locally_the_minority():
    stroke = np.zeros((80, 200), bool)
    stroke[38:42, 20:180] = stroke[20:60, 98:102] = True
    shade = np.linspace(60, 200, 200)[None].repeat(80, 0)
    for paper, ink, light in ((shade, 0.5 * shade, False), (shade, 1.25 * shade, True)):
        assert ink_is_light(np.where(stroke, ink, paper).astype(np.uint8)) == light
    for paper, pen in ((255, 0), (90, 40), (40, 20)):
        grey = np.where(stroke, pen, paper).astype(np.uint8)
        assert not ink_is_light(grey)
        assert ink_is_light(255 - grey)


def test_the_line_of_a_margin_goes_and_bars_stay(drawings):
    for levels in drawings:
        page = np.pad(levels, ((40, 40), (60, 20)))
        page[:, 20:23] = 255
        high = 6 * 48  # a page; in a picture of one symbol's height it could be a letter
        page = np.pad(page, ((0, max(0, high - len(page))), (0, 0)), mode="edge")
        assert components(see(255 - page).levels) == components(levels)
    bars = np.zeros((100, 200), np.uint8)
    bars[10:90, 50:53] = bars[10:90, 150:153] = bars[45:55, 90:110] = 255  # |-|
    assert components(see(255 - bars).levels) == 3
    assert components(see(255 - bars[10:90, 50:153]).levels) == 3  # cropped close
    fraction = np.zeros((120, 300), np.uint8)
    fraction[58:62] = fraction[20:50, 150:154] = fraction[70:100, 150:154] = 255
    assert components(see(255 - fraction).levels) == 3


@pytest.mark.parametrize("angle", [-25, -8, 5, 14, 30])
def test_a_ruled_page_is_turned_level(angle, drawings):
    levels = drawings[0]
    page = np.pad(levels, 150)
    page[10::50] = np.maximum(page[10::50], 150)
    page[11::50] = np.maximum(page[11::50], 150)
    turned = ndimage.rotate(page, angle, order=1)
    # what a camera sees of it: the page goes on beyond the picture
    high, wide = (side // 6 for side in turned.shape)
    seen = see(255 - turned[high:-high, wide:-wide])
    assert any("printed lines" in f for f in seen.found)
    said = [float(f.split()[4]) for f in seen.found if f.startswith("a page turned by")]
    assert abs(said[0] + angle) <= 1.5
    assert abs(seen.levels.shape[1] - see(255 - levels, False).levels.shape[1]) < 12


@pytest.mark.parametrize("angle", [-28, -20, -12, 10, 18, 30])
def test_ink_is_turned_to_where_it_lies_in_rows(angle, drawings):
    """Of most formulas, however short, one of two angles is right; a sure one nearly always."""
    near, sure = [], []
    for levels in drawings:
        ink = ndimage.rotate(levels, -angle, order=1) > 127  # falls to the right
        found, certain = slants(ink)
        near.append(any(abs(one - angle) <= 4 for one in found))
        sure += [abs(found[0] - angle) <= 6] if certain else []
    assert sum(near) >= len(near) - 1
    assert sum(sure) >= len(sure) - 1


def test_lines_that_disagree_say_nothing_of_the_page():
    """The dark border of a file beside the line of a margin does not turn what is level."""
    rng, turns = np.random.default_rng(0), []
    for fall in (0.2, 0.3, 0.4, 0.45, 0.5):
        ink, contrast = np.zeros((200, 600), bool), np.zeros((200, 600))
        for left in range(20, 560, 60):
            ink[80:120, left : left + 4] = ink[rng.integers(80, 116) :][:4, left : left + 30] = True
        contrast[ink] = 1.0
        for top, slope in ((0, 0.0), (60, fall)):
            rows = np.arange(200)
            across = 595 - np.rint(slope * rows).astype(int) - top
            contrast[rows, across] = contrast[rows, across + 1] = 0.4
        found = []
        _, fell, _ = without_rules(ink, contrast > 0.3, contrast, found)
        turns.append(fell)
        assert found == ["2 printed lines"]
    assert turns == [0.0] * 5


def test_what_is_seen_can_be_found_in_the_picture():
    """However the picture was shrunk, turned and cropped."""
    page = np.zeros((900, 2_400), np.uint8)
    page[40::90] = page[41::90] = page[42::90] = 150
    corners = np.array([[1_000, 400], [1_400, 400], [1_400, 500], [1_000, 500]])
    for x, y in corners:
        page[y - 9 : y + 10, x - 9 : x + 10] = 255
    page[446:454, 1_010:1_390] = 255
    seen = see(255 - ndimage.rotate(page, 12, order=1))
    assert any("a page turned by" in f for f in seen.found)
    at = np.array(ndimage.center_of_mass(seen.levels > 100))[::-1]
    found = (seen.to_picture @ [*at, 1])[:2]
    # the middle of what was written, turned about the middle of the page
    c, s = np.cos(np.radians(12)), np.sin(np.radians(12))
    high, wide = ndimage.rotate(page, 12, order=0).shape
    x, y = 1_200 - 1_200, 450 - 450
    assert np.abs(found - [c * x + s * y + wide / 2, -s * x + c * y + high / 2]).max() < 12


def test_blank_paper_has_no_ink():
    rng = np.random.default_rng(0)
    flat = np.full((200, 300), 220, np.uint8)
    shaded = np.linspace(120, 230, 300).astype(np.uint8) * np.ones((200, 1), np.uint8)
    grain = (flat + rng.normal(0, 5, flat.shape)).astype(np.uint8)
    noise = rng.integers(0, 256, (200, 600)).astype(np.uint8)
    for paper in (flat, shaded, grain, noise, 255 - flat):
        with pytest.raises(NothingError, match="blank"):
            recognize(paper)


def test_an_empty_ruled_page_is_blank():
    """However it is tilted and seen: rules that cleaning could not take away are no formula."""
    for seed, size in ((0, (300, 450)), (1, (300, 450)), (2, (450, 300))):
        rng = np.random.default_rng(seed)
        page = imitate(np.zeros(size, np.uint8), rng, tilt=rng.uniform(-0.08, 0.08))
        with pytest.raises(NothingError, match="blank"):
            ink_of(page)


def test_a_speckled_picture_is_refused_at_once():
    noise = np.where(np.random.default_rng(0).random((900, 1_200)) < 0.02, 0, 255).astype(np.uint8)
    with pytest.raises(InkError, match=r"typical symbols are too much|points are too many"):
        ink_of(noise, photo=False)


def test_fifty_megapixels_are_read():
    levels = np.zeros((60, 80), np.uint8)
    levels[20:40, 38:42] = levels[28:32, 20:60] = 255
    large = np.kron(255 - levels, np.ones((100, 100), np.uint8))
    seen = see(large)
    assert max(seen.levels.shape) <= 1_600
    assert components(seen.levels) == 1


def test_a_photo_reads_like_its_drawing(drawings):
    """With the recogniser that ships: most tokens agree (notebook 07 records how much is lost)."""
    same = total = 0
    for number, levels in enumerate(drawings):
        plain = recognize(255 - levels, beam=1)[0].tokens
        seen = recognize(imitate(levels, np.random.default_rng(number)), beam=1)[0].tokens
        same += sum(a == b for a, b in zip(plain, seen))
        total += max(len(plain), len(seen))
    assert same > 0.7 * total
