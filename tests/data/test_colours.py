"""Two pens in one picture: that which wrote more is told from the other by its colour."""

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
