"""The pad without a browser: what comes in, what is shown, corrected, copied and kept."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mmlib.data.corpus import load_corpus
from mmlib.formula.ink import Ink
from mmlib.read.reader import Reader
from mmlib.show.diagrams import written
from mmlib.show.ink import drawing
from mmlib.show.pad import TryIt, on_pad, typeset


@pytest.fixture(scope="module")
def reader():
    return Reader.load()


@pytest.fixture(scope="module")
def inks():
    return [written(latex, seed=3) for latex in (r"x^2+1", r"\frac{a}{b}=2", "y-3")]


def file_of(*inks):
    """A PNG with formulas one under another."""
    pictures = [255 - drawing(ink) for ink in inks]
    wide = max(picture.shape[1] for picture in pictures)
    rows = [np.pad(p, ((60, 60), (0, wide - p.shape[1])), constant_values=255) for p in pictures]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def panel(reader, inks, tmp_path):
    return TryIt(reader, start=inks[0], folder=tmp_path / "mine")


def test_what_is_written_is_read(panel):
    found = panel.answer.found
    assert [text for text, _ in found["tokens"]] == ["x", "^", "{", "2", "}", "+", "1"]
    assert all(0 < sure <= 1 for _, sure in found["tokens"])
    assert found["copies"]["LaTeX"] == "x^{2}+1"
    assert "<msup>" in found["copies"]["MathML"]
    assert found["sent"] is None
    assert "strokes" in found["message"]
    said = []
    panel.answer.send = said.append
    panel.asked({"sympy": True})
    assert said == [{"sympy": "x**2 + 1"}]
    panel.pad.strokes = []
    assert panel.answer.found == {"message": "Write a formula, or send a picture of one."}


def test_readings_are_sorted_and_chosen_by_a_click(panel):
    others = panel.answer.found["others"]
    assert [one["sure"] for one in others] == sorted((one["sure"] for one in others), reverse=True)
    assert [one["chosen"] for one in others].index(True) == 0
    before = panel.answer.found["copies"]["LaTeX"]
    panel.asked({"reading": 1})
    assert panel.answer.found["others"][1]["chosen"]
    assert panel.answer.found["copies"]["LaTeX"] != before


def test_each_token_has_its_attention_over_the_ink(panel):
    found = panel.answer.found
    rows, columns = found["cells"]
    heat = np.frombuffer(base64.b64decode(found["attention"]), np.uint8)
    heat = heat.reshape(len(found["tokens"]), rows, columns)
    left, top, width, height = found["place"]
    across = left + width * (heat[[0, 6]].max(1).argmax(1) + 0.5) / columns  # of x and 1
    assert 0 <= across[0] < 0.4 < 0.6 < across[1] <= 1
    assert top < 0.5 < top + height


def test_a_token_is_corrected_by_hand(panel):
    panel.correct(0, r"\alpha")
    assert panel.answer.found["copies"]["LaTeX"] == r"\alpha^{2}+1"
    assert panel.answer.found["sure"] == "corrected by hand"
    panel.correct(5, "")  # taken away
    assert panel.answer.found["copies"]["LaTeX"] == r"\alpha^{2}1"
    panel.correct(5, "-z_0")  # and more than one written
    assert panel.answer.found["copies"]["LaTeX"] == r"\alpha^{2}-z_{0}"
    for wrong in ("}", r"\frac", r"\vec{"):
        panel.correct(0, wrong)
        assert panel.answer.found["message"].startswith("not changed: ")
        assert panel.answer.found["copies"]["LaTeX"] == r"\alpha^{2}-z_{0}"


def test_what_the_reader_does_not_know_is_copied_and_not_kept(panel, tmp_path):
    panel.correct(0, r"\vec{v}")
    found = panel.answer.found
    assert found["message"] == r"the reader does not know \vec: it is copied, not kept"
    assert found["copies"]["LaTeX"] == r"\vec{v}^{2}+1"
    assert "<mover>" in found["copies"]["MathML"]
    panel.keep()
    assert panel.kept.value == r"not kept: the reader does not know \vec"
    assert not (tmp_path / "mine").exists()
    panel.correct(0, "")  # and can be corrected on
    assert panel.answer.found["copies"]["LaTeX"] == "v^{2}+1"
    assert panel.answer.found["message"] == "corrected"


def test_a_page_is_cut_into_formulas(panel, inks):
    panel.sent_by_pad({"picture": "page.png"}, [memoryview(file_of(*inks))])
    assert panel.pad.strokes == []
    found = panel.answer.found
    assert "page.png, 3 formulas" in found["message"]
    assert panel.pad.folded
    assert found["sent"].startswith("data:image/png;base64,")
    tops = [top for _, top, _, _ in found["boxes"]]
    assert tops == sorted(tops)
    assert len(tops) == 3
    panel.asked({"row": 2})
    assert panel.answer.found["row"] == 2
    assert panel.answer.found["copies"]["LaTeX"] == "y-3"
    panel.sent_by_pad({"clear": True}, [])
    assert panel.sent is None
    assert not panel.pad.folded
    assert panel.answer.found["message"].startswith("Write a formula")


def test_what_is_no_picture_is_said(panel):
    panel.read_picture("a.png", b"not a picture")
    assert panel.answer.found["message"].startswith("a.png: ")
    panel.keep()  # there is nothing to keep
    assert panel.kept.value == ""


def test_nothing_is_written_before_it_is_asked_and_what_is_kept_can_be_taught(
        panel, inks, tmp_path, cache_dir):
    folder = tmp_path / "mine"
    panel.correct(0, "y")
    assert not folder.exists()
    panel.keep_button.click()
    panel.read_picture("one.png", file_of(inks[1]))
    for _ in range(9):
        panel.keep_button.click()
    assert panel.kept.value == "10 kept in mine"
    corpus = load_corpus(str(folder))
    labels = {corpus.pack.tokens(i) for i in range(len(corpus.pack))}
    assert ("y", "^", "{", "2", "}", "+", "1") in labels
    assert len(corpus.pack) == 10


def test_ink_lies_on_the_pad():
    wide = Ink.from_strokes([[[0, 0], [1_000, 10]], [[500, 5], [500, 5]]])
    x, y = np.concatenate(on_pad(wide)).T
    assert 0 <= x.min() <= x.max() <= 720
    assert 0 <= y.min() <= y.max() <= 220
    assert isinstance(on_pad(wide)[0][0][0], float)


def test_what_cannot_be_typeset_is_shown_as_code():
    assert 'display="block"' in typeset(r"\sum_{i=1}^{n}i")
    assert typeset(r"{\frac{") == r"<code>{\frac{</code>"
