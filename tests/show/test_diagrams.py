from dataclasses import replace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.patches import FancyBboxPatch

from mmlib.draw.views import ViewConfig, make_view
from mmlib.formula.ink import Ink
from mmlib.read.reader import Reader
from mmlib.show import diagrams
from mmlib.show.ink import as_batch, seen_by_student
from mmlib.store.files import project_root


def test_the_student_sees_no_ink_under_a_mask():
    ink, mask = diagrams.Shown.make(0).student
    assert 0.02 < mask.mean() < 0.9
    assert not ink[mask > 0].any()


def test_without_a_push_all_stay_alike_and_with_one_they_spread():
    fig = diagrams.contrast_terms(0, steps=150)
    spread = [np.ptp(np.concatenate([dots.get_offsets() for dots in ax.collections]), axis=0).max()
              for ax in fig.axes[:2]]
    plt.close(fig)
    assert spread[0] < 0.5 < 1.5 < spread[1]


def test_each_map_has_its_slot():
    torch.manual_seed(0)
    ink = diagrams.written(r"a+b=c")
    batch = replace(as_batch(ink), symbol=torch.from_numpy(ink.stroke.astype(np.int64)))
    view = make_view(batch, ViewConfig(), torch.Generator().manual_seed(0))
    features = torch.randn(1, 8, *view.valid.shape[2:])
    fig = diagrams.slots(view, batch, features)
    assert [text.get_text() for ax in fig.axes for text in ax.texts] == [
        f"slot {k}" for k in range(1, 6)
    ]
    plt.close(fig)


def test_colours_of_ink_and_masks():
    picture = torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])
    paper, ink, mask = seen_by_student(picture)[0]
    assert paper.tolist() == [1, 1, 1]
    assert ink.tolist() == [0, 0, 0]
    assert mask[0] > mask[1] > mask[2]


def test_an_ink_as_a_batch_is_in_typical_symbols():
    ink = Ink.from_strokes([np.array([(10, 20), (40, 20)]), np.array([(10, 50), (40, 50)])])
    batch = as_batch(ink)
    assert batch.points.min(0).values.tolist() == [0, 0]
    moved = Ink.from_strokes([np.array([(7, 7), (307, 7)]), np.array([(7, 307), (307, 307)])])
    torch.testing.assert_close(as_batch(moved).points, batch.points)
    assert batch.stroke.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("stages", [(1, 2, 3), (1,), (2,), (3,)])
def test_every_word_of_the_architecture_is_on_the_page_and_in_its_box(stages):
    fig = diagrams.architecture(stages)
    fig.canvas.draw()
    ax, page = fig.axes[0], fig.bbox
    boxes = [p.get_window_extent() for p in ax.patches if isinstance(p, FancyBboxPatch)]
    assert len(boxes) >= 4 * len(stages)
    words = [(text.get_text(), text.get_window_extent()) for text in ax.texts if text.get_text()]
    for text, extent in words:
        assert page.x0 <= extent.x0, text
        assert extent.x1 <= page.x1, text
        assert page.y0 <= extent.y0, text
        assert extent.y1 <= page.y1, text
        for box in boxes:  # in a box, or clear of it
            assert (
                not box.overlaps(extent) or box.padded(1).count_contains(extent.corners()) == 4
            ), text
    plt.close(fig)


def test_the_figure_of_a_reading_counts_its_errors():
    reader = Reader.load(project_root() / "results" / "checkpoints" / "recogniser.safetensors")
    fig = diagrams.read(reader)
    said = [text.get_text() for part in fig.subfigs for ax in part.axes for text in ax.texts]
    inks = [diagrams.written(diagrams.READ, k) for k in range(2)]
    right = [reader.attended(ink).tokens == ink.tokens for ink in inks]
    shown = [said[2 * k + 1] == "correct" for k in range(2)]
    assert shown == sorted(right, reverse=True)  # the better reading first
    plt.close(fig)
