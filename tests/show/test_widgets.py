"""Widgets without a browser: each follows its controls, and each has its picture."""

import io

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from mmlib.data.corpus import synthetic_pack
from mmlib.draw.views import ViewConfig
from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.recogniser import Recogniser
from mmlib.read.reader import Reader
from mmlib.show import widgets
from mmlib.show.pad import TryIt
from mmlib.train import attend
from mmlib.train.attend import WINDOW
from mmlib.train.pretrain import HARD
from mmlib.train.profiles import TINY, preset


@pytest.fixture(scope="module")
def pack():
    return synthetic_pack("test")


@pytest.fixture(scope="module")
def some(pack):
    return [i for i in range(len(pack)) if pack.flat.aligned[i] and 4 <= len(pack[i].symbols) <= 9][
        :3
    ]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return attend.Student(TINY.encoder, TINY.maps).eval()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A recogniser that ends at once or never: what it says does not matter here."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.crohme()
    model = Recogniser(len(vocabulary), TINY).eval()
    return Reader(model, vocabulary, ViewConfig(), {}, tmp_path_factory.mktemp("r"), "toy", 0, 0.0)


def pixels(panel):
    return np.asarray(Image.open(io.BytesIO(panel.picture.value)).convert("L"))


def follows(panel, name, value):
    """Whether the picture changes with a control, and is what it was when that goes back."""
    before, old = pixels(panel), panel.controls[name].value
    panel.controls[name].value = value
    after = pixels(panel)
    panel.controls[name].value = old
    assert np.array_equal(pixels(panel), before)
    return before.shape != after.shape or not np.array_equal(before, after)


def test_browse_filters_and_replays(pack):
    panel = widgets.browse(pack)
    pages = panel.controls["page"].max
    for name, value in (
        ("contains", "a fraction"),
        ("symbol", "x"),
        ("length", (3, 6)),
        ("nesting", (2, 3)),
        ("colour", "symbol"),
        ("page", 1),
        ("drawn", 0.5),
    ):
        assert follows(panel, name, value), name
    panel.controls["contains"].value = "a root"
    assert panel.controls["page"].max < pages
    panel.controls["length"].value = (1, 1)  # nothing is left, and that is drawn, too
    assert panel.controls["page"].max == 0


def test_the_replay_begins_at_the_first_stroke_and_ends_with_the_whole(pack):
    panel = widgets.browse(pack)
    drawn, play = (
        panel.controls["drawn"],
        next(w for w in panel.children[1].children if isinstance(w, ipywidgets.Play)),
    )
    assert drawn.value == 1
    for step in (1, 25, play.max, 0):  # stopped, it goes back to 0
        play.value = step
        assert drawn.value == (step / play.max if step else 1)


def test_ink_is_replayed_point_by_point(pack, some):
    ink = pack[some[0]]
    assert len(widgets.partly(ink, 0.0).points) == 1
    assert len(widgets.partly(ink, 1.0).points) == len(ink.points)
    half = widgets.partly(ink, 0.5)
    assert len(half.points) == round(len(ink.points) / 2)
    assert all(k <= half.stroke[-1] for s in half.symbols for k in s.strokes)


def test_views_follow_every_slider(pack, some):
    panel = widgets.views(pack, some, HARD)
    for name, value in (
        ("expression", some[1]),
        ("scale", 0.0),
        ("rotate", 0.5),
        ("slant", 0.0),
        ("elastic", 0.5),
        ("pen", (0.5, 0.5)),
        ("crop", 0.0),
        ("draw", 7),
        ("aspect", 0.0),
        ("stroke_shift", 0.3),
    ):
        assert follows(panel, name, value), name


def test_curriculum_moves_with_the_stage(pack, some, network):
    panel = widgets.curriculum(network, preset("attend", "smoke"), WINDOW, pack, some)
    for name, value in (("done", 1.0), ("schedule", "fixed"), ("draw", 3), ("expression", some[2])):
        assert follows(panel, name, value), name


def test_attention_shows_each_map_of_each_checkpoint(pack, some, network):
    panel = widgets.attention({"random": network, "same": network}, WINDOW, pack, some)
    for name, value in (("map", "2"), ("expression", some[1])):
        assert follows(panel, name, value), name


def test_similarity_follows_the_temperature_and_the_encoder():
    z = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    panel = widgets.similarity({"one": (z[0], z[1]), "the same": (z[0], z[0])})
    assert follows(panel, "temperature", 1.0)
    assert follows(panel, "encoder", "the same")


def test_errors_are_sorted_and_filtered(pack, some):
    inks = [pack[i] for i in some]
    right = [ink.tokens for ink in inks]
    panel = widgets.errors(inks, [right[0], ("x", *right[1]), ()])
    assert follows(panel, "only", "right")
    assert follows(panel, "which", 1)
    # The most errors are in the last, of which nothing was read; by length the other comes first.
    assert follows(panel, "order", "longest" if len(right[1]) > len(right[2]) else "shortest")
    widgets.errors(inks, right)  # nothing is wrong


def test_a_picture_stands_beside_each_widget(pack, some, reader):
    for widget in (widgets.browse(pack, some), TryIt(reader, start=pack[some[0]])):
        bundle = widget._repr_mimebundle_()
        assert bundle["image/png"].startswith(b"\x89PNG")
        assert "application/vnd.jupyter.widget-view+json" in bundle
