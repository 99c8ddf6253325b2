"""Two pens in one picture: that which wrote more is told from the other by its colour."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mmlib.data.colours import main_pen
from mmlib.read.source import seen_in

PENS = {"black": (0.15, 0.15, 0.15), "blue": (0.2, 0.3, 0.8), "red": (0.9, 0.2, 0.2),
        "green": (0.3, 0.7, 0.4), "magenta": (0.8, 0.1, 0.5)}


def page(*marks, noise=3.0):
    """A picture of masks (H, W) in pens, whose densities add where they cross."""
    seen = np.full((*marks[0][0].shape, 3), 230.0)
    for mask, pen in marks:
        soft = ndimage.gaussian_filter(mask.astype(float), 0.8)[..., None]
        seen *= 1 - soft * (1 - np.array(PENS[pen]))
    seen += np.random.default_rng(0).normal(0, noise, seen.shape)
    return Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8))


@pytest.fixture
def formula():
    """A plus sign, a minus sign and a bar."""
    ink = np.zeros((120, 300), bool)
    ink[58:62, 20:60] = ink[40:80, 38:42] = ink[58:62, 100:140] = ink[30:90, 190:194] = True
    return ink


@pytest.fixture
def tick():
    y, x = np.mgrid[:120, :300]
    return (abs(y - 100 + 0.3 * (x - 100)) < 3) & (x > 150) & (x < 240)


@pytest.mark.parametrize(("pen", "other"), [
    ("black", "red"), ("blue", "red"), ("blue", "green"), ("magenta", "black"), ("black", "green"),
])
def test_the_other_pen_goes_and_what_it_crosses_stays(formula, tick, pen, other):
    grey, shrink = main_pen(page((formula, pen), (tick, other)))
    assert shrink == 1
    dark = grey < 0.5 * (np.median(grey) + np.quantile(grey[formula], 0.2))
    assert dark[ndimage.binary_erosion(formula)].mean() > 0.95
    assert dark[tick & ~ndimage.binary_dilation(formula, iterations=3)].mean() < 0.05


@pytest.mark.parametrize(("pen", "tick_pen", "rule_pen"), [
    ("black", "red", "green"), ("black", "green", "red"), ("blue", "red", "green"),
    ("black", "red", "blue"), ("black", "magenta", "green"),
])
def test_two_other_pens_go_at_once(formula, tick, pen, tick_pen, rule_pen):
    """A thin line and a tick that crosses it are no strokes of the formula's.

    Pens of which one has the colour that two others make where they cross are not told apart.
    """
    rule = np.zeros_like(tick)
    rule[74:77, 20:190] = True  # less ink than the formula has; it crosses the vertical bars
    grey, _ = main_pen(page((formula, pen), (tick, tick_pen), (rule, rule_pen)))
    dark = grey < 0.5 * (np.median(grey) + np.quantile(grey[formula], 0.2))
    assert dark[ndimage.binary_erosion(formula)].mean() > 0.95
    assert dark[(tick | rule) & ~ndimage.binary_dilation(formula, iterations=3)].mean() < 0.05


@pytest.mark.parametrize("other", ["black", "blue", "green"])
@pytest.mark.parametrize("side", [3, 5])
def test_few_strokes_of_another_pen_are_told_from_many_of_one_that_varies(formula, other, side):
    """Magenta of many tints, as a coarse file has it, and a small stray."""
    stray = np.zeros_like(formula)
    stray[6 : 6 + side, 230:260] = True
    rng, soft = np.random.default_rng(1), ndimage.gaussian_filter(formula.astype(float), 0.8)
    tint = np.array(PENS["magenta"]) + 0.25 * ndimage.gaussian_filter(
        rng.normal(0, 1, (*formula.shape, 3)), (4, 4, 0)) * 8
    seen = np.asarray(page((stray, other)), float) * (1 - soft[..., None] * (1 - tint.clip(0, 0.9)))
    grey, _ = main_pen(Image.fromarray(seen.clip(0, 255).astype(np.uint8)))
    dark = grey < 0.5 * (np.median(grey) + np.quantile(grey[formula], 0.2))
    assert dark[ndimage.binary_erosion(formula)].mean() > 0.9
    assert dark[stray].mean() < 0.05


@pytest.mark.parametrize("pen", ["black", "blue"])
@pytest.mark.parametrize("quality", [30, 50, 75])
def test_the_halo_of_a_tick_in_a_coarse_file_is_no_ink(formula, tick, pen, quality):
    """JPEG keeps a colour for each four pixels."""
    kept = io.BytesIO()
    page((formula, pen), (tick, "red")).save(kept, "JPEG", quality=quality, subsampling=2)
    grey, _ = main_pen(Image.open(kept))
    dark = grey < np.median(grey) - 0.35 * (np.median(grey) - np.quantile(grey[formula], 0.2))
    around = ndimage.binary_dilation(tick, iterations=8)
    assert dark[around & ~ndimage.binary_dilation(formula, iterations=4)].mean() < 0.02


@pytest.mark.parametrize("pen", list(PENS))
@pytest.mark.parametrize("noise", [0.0, 6.0])
def test_one_pen_is_one_pen(formula, pen, noise):
    assert main_pen(page((formula, pen), noise=noise)) is None


def test_grey_and_blank_pictures_have_no_second_pen(formula):
    assert main_pen(page((formula, "black")).convert("L")) is None
    assert main_pen(Image.new("RGB", (40, 30), "white")) is None
    assert main_pen(page((np.zeros_like(formula), "black"))) is None


def test_a_large_picture_is_shrunk_and_boxes_are_in_its_own_pixels(formula, tick):
    image = page((formula, "black"), (tick, "red")).resize((3_000, 1_200))
    grey, shrink = main_pen(image)
    assert max(grey.shape) * shrink == pytest.approx(3_000, rel=0.01)
    other = next(o for o in seen_in(image).others if "another colour" in o.found[-1])
    left, top, _ = other.to_picture @ (0, 0, 1)
    assert (left, top) == pytest.approx((200, 300), abs=25)
    assert other.levels.shape[1] * shrink == pytest.approx(1_740, rel=0.03)
