"""Reading files, pictures, arrays and ink with a tiny random recogniser: what comes in, not what it
says.
"""

import itertools
import json
import math
import os
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmlib.data.corpus import synthetic_pack
from mmlib.data.errors import DataError
from mmlib.data.photo import Seen
from mmlib.draw.raster import rasterise
from mmlib.draw.views import ViewConfig
from mmlib.formula.ink import Ink, InkError, typical_size
from mmlib.formula.inkml import write_inkml
from mmlib.formula.latex import canonical
from mmlib.formula.vocabulary import STRUCTURE, Vocabulary
from mmlib.models.recogniser import Recogniser
from mmlib.read import reader as readers
from mmlib.read.reader import Reader, Reading, pretty, recognize
from mmlib.read.source import ink_of, several_rows
from mmlib.store.files import RunError
from mmlib.store.weights import save_weights
from mmlib.train.profiles import TINY, preset

VOCABULARY = Vocabulary.crohme()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights file of a random tiny recogniser."""
    torch.manual_seed(0)
    model = Recogniser(len(VOCABULARY), TINY)
    with torch.no_grad():
        model.decoder.logits.bias[[VOCABULARY.sos, VOCABULARY.eos]] += 4  # short readings
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, model.state_dict(),
                 {"config": asdict(preset("finetune", "smoke")),
                  "vocabulary": list(VOCABULARY.tokens), "run": "toy", "pictures": 7,
                  "minutes": 0.5})
    return path


@pytest.fixture(scope="module")
def reader(weights):
    return Reader.load(weights)


@pytest.fixture(scope="module")
def ink():
    """A plus sign and a slash."""
    return Ink.from_strokes([[(0, 30), (60, 30)], [(30, 0), (30, 60)], [(90, 60), (120, 0)]],
                            id="toy")


@pytest.fixture(scope="module")
def levels(ink):
    """Its picture, (H, W) uint8, ink 255."""
    points = torch.from_numpy(ink.points) + 8
    drawn = rasterise(points, torch.from_numpy(ink.stroke).long(), torch.zeros(6).long(),
                      (1, 80, 140), 4.0)[0, 0]
    return (drawn * 255).round().byte().numpy()


def is_reading(readings):
    assert readings
    for reading in readings:
        assert isinstance(reading, Reading)
        assert reading.latex == pretty(reading.tokens)
        assert all(token in VOCABULARY for token in reading.tokens)
        assert math.isfinite(reading.score)
        assert reading.score < 0
    assert [r.score for r in readings] == sorted((r.score for r in readings), reverse=True)
    return readings


# --- loading --------------------------------------------------------------------------------------


def test_a_reader_is_its_weights(reader, weights):
    assert reader.model.config == TINY
    assert not reader.model.training
    assert reader.vocabulary.tokens == VOCABULARY.tokens
    assert reader.view == preset("finetune", "smoke").view
    assert (reader.run, reader.pictures, reader.minutes) == ("toy", 7, 0.5)
    assert Reader.load(weights) is reader  # loaded once
    assert Reader.load(weights.parent) is reader  # or from its folder
    os.utime(weights, ns=(0, reader.path.stat().st_mtime_ns + 1))
    assert Reader.load(weights) is not reader  # written anew


def test_a_run_is_known_by_its_name(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    (tmp_path / "runs" / "finetune-smoke-0").mkdir(parents=True)
    (tmp_path / "runs" / "finetune-smoke-0" / "weights.safetensors").write_bytes(
        weights.read_bytes()
    )
    assert (
        Reader.load("finetune-smoke-0").path
        == tmp_path / "runs" / "finetune-smoke-0" / "weights.safetensors"
    )
    with pytest.raises(FileNotFoundError, match="finetune-smoke-1"):
        Reader.load("finetune-smoke-1")


def test_what_is_no_recogniser_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        Reader.load(tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(RunError, match=r"text\.safetensors"):
        Reader.load(tmp_path / "text.safetensors")
    save_weights(tmp_path / "other.safetensors", {"w": torch.zeros(1)}, {})
    with pytest.raises(RunError, match=r"other\.safetensors"):
        Reader.load(tmp_path / "other.safetensors")
    twice = {"config": asdict(preset("finetune", "smoke")), "vocabulary": [*VOCABULARY.tokens, "x"]}
    save_weights(tmp_path / "twice.safetensors", {"w": torch.zeros(1)}, twice)
    with pytest.raises(RunError, match=r"twice\.safetensors .* each token once"):
        Reader.load(tmp_path / "twice.safetensors")


# --- what is taken --------------------------------------------------------------------------------


def same_ink(a, b):
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]


@pytest.fixture
def sources(levels, tmp_path):
    """One picture in every form that holds it without loss."""
    paper = 255 - levels
    Image.fromarray(paper).save(tmp_path / "dark.png")
    Image.fromarray(levels).save(tmp_path / "light.png")
    Image.fromarray(paper).save(tmp_path / "dark.bmp")
    clear = np.zeros((*levels.shape, 4), np.uint8)
    clear[..., 3] = levels
    return {"path": tmp_path / "dark.png", "text": str(tmp_path / "dark.png"),
            "light on dark": tmp_path / "light.png", "bmp": tmp_path / "dark.bmp",
            "PIL": Image.fromarray(paper), "PIL in colour": Image.fromarray(paper).convert("RGB"),
            "array with transparency": clear, "PIL, black on transparent": Image.fromarray(clear),
            "array": paper, "light array": levels, "float array": paper / 255,
            "colours": np.repeat(paper[..., None], 3, 2)}


def test_every_form_of_a_picture_is_the_same_ink(sources, levels):
    found = {name: ink_of(source) for name, source in sources.items()}
    for name, other in found.items():
        # Weighted sums of colours may round by one level, which moves no skeleton far.
        assert same_ink(other,
                        found["path"]) or abs(len(other[0]) - len(found["path"][0])) < 12, name
    for name in ("text", "light on dark", "bmp", "PIL", "array", "PIL, black on transparent"):
        assert same_ink(found[name], found["path"]), name


def test_black_and_white_arrays_are_read(levels):
    points, _, _ = ink_of(levels < 128)
    assert len(points) > 50
    assert same_ink(ink_of(levels < 128), ink_of((levels < 128).astype(float)))


def test_a_jpeg_is_read(levels, tmp_path):
    Image.fromarray(255 - levels).save(tmp_path / "a.jpg", quality=90)
    jpeg, plain = ink_of(tmp_path / "a.jpg"), ink_of(levels)
    assert jpeg[2] == pytest.approx(plain[2], rel=0.1)
    assert np.ptp(jpeg[0], axis=0) == pytest.approx(np.ptp(plain[0], axis=0), abs=3)


def test_readings_of_ink_and_of_its_picture(reader, ink, levels, tmp_path):
    write_inkml(ink, tmp_path / "a.inkml")
    Image.fromarray(255 - levels).save(tmp_path / "a.png")
    by_ink = is_reading(recognize(ink, 2, reader))
    assert is_reading(recognize(tmp_path / "a.inkml", 2, reader)) == by_ink
    is_reading(recognize(tmp_path / "a.png", 2, reader))
    assert len(is_reading(recognize(ink, 1, reader))) <= 2  # one a direction


def test_readings_do_not_depend_on_the_inks_unit_and_place(reader, ink):
    moved = Ink.from_strokes([3 * s + 100 for s in ink.strokes()])
    assert [r.tokens for r in recognize(moved, 2, reader)] == [
        r.tokens for r in recognize(ink, 2, reader)
    ]


def test_several_inks_are_read_at_once(reader, ink, levels):
    inks = [ink_of(ink), ink_of(levels)]
    together = reader.read(inks, beam=2)
    for readings, source in zip(together, inks, strict=True):
        assert [r.tokens for r in readings] == [r.tokens for r in reader.read([source], beam=2)[0]]


def test_of_no_ink_there_are_no_readings(reader):
    assert reader.read([]) == []


def test_free_memory_goes_back_now_and_then(reader, monkeypatch):
    given = []
    monkeypatch.setattr(readers, "give_back_memory", lambda: given.append(1))
    monkeypatch.setattr(readers, "CALLS", itertools.count(1))
    for _ in range(2 * readers.TRIM):
        reader.read([])
    assert len(given) == 2
    assert readers.KERNELS[0] in os.environ, "a recogniser was loaded"


def test_a_picture_is_read_at_several_sizes(reader, ink):
    """The search sees the ink at each, one size alone is what a view of that size gives, and order
    does not matter.
    """
    source = ink_of(ink)
    larger = replace(reader, view=replace(reader.view, symbol=reader.view.symbol * 1.25))
    (alone,) = reader.read([source], 2, sizes=(1.25,))
    assert alone == larger.read([source], 2)[0]
    (one,), (both,) = reader.read([source], 2), reader.read([source], 2, sizes=(1.0, 1.25))
    assert {r.tokens for r in both} == {r.tokens for r in one} | {r.tokens for r in alone}
    assert recognize(ink, 2, reader, sizes=(1.0, 1.25)) == both
    turned = reader.read([source], 2, sizes=(1.25, 1.0))[0]
    assert {r.tokens: pytest.approx(r.score, abs=1e-5) for r in both} == {
        r.tokens: r.score for r in turned
    }


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "error", "message"), [
    ("nowhere.png", FileNotFoundError, r"nowhere\.png"),
    ("nowhere.inkml", FileNotFoundError, r"nowhere\.inkml"),
    (np.full((30, 40), 255, np.uint8), DataError, "blank"),
    (np.zeros((4, 5, 2)), DataError, r"\(4, 5, 2\)"),
    (np.full((5, 5), np.nan), DataError, "finite"),
    (np.zeros((0, 5)), DataError, "must have pixels"),
    (17, DataError, "int"),
])
def test_what_cannot_be_read_is_named(source, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        ink_of(source)


def test_broken_and_blank_files_are_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no picture")
    with pytest.raises(DataError, match=r"bad\.png: unreadable picture"):
        ink_of(tmp_path / "bad.png")
    with pytest.raises(DataError, match="is a folder"):
        ink_of(tmp_path)
    Image.new("L", (20, 20), 255).save(tmp_path / "blank.png")
    with pytest.raises(DataError, match=r"blank\.png.*blank"):
        ink_of(tmp_path / "blank.png")
    (tmp_path / "bad.inkml").write_text("<ink>")
    with pytest.raises(InkError, match=r"bad\.inkml"):
        ink_of(tmp_path / "bad.inkml")


def formula(top, symbols=6):
    """Crosses of size 20, a pen's width apart, from y = `top`."""
    return [[(x, top + a), (x + 20, top + 20 - a)] for x in range(0, 25 * symbols, 25)
            for a in (0, 20)]


def test_formulas_under_each_other_are_refused():
    for drop, rows in ((25, 0), (45, 0), (65, 2), (200, 2)):
        ink = Ink.from_strokes(formula(0) + formula(drop))
        assert several_rows(ink.points, ink.stroke, typical_size(ink.points, ink.stroke)) == rows
    # in whatever order they were written
    page = Ink.from_strokes(formula(200) + formula(0) + formula(100))
    with pytest.raises(InkError, match="3 rows of ink"):
        ink_of(page)
    # a speck is no row
    assert len(ink_of(Ink.from_strokes(formula(0) + [[(40, 200), (41, 201)]]))[0])
    bar = [[(0, 40), (145, 40)]]
    assert len(ink_of(Ink.from_strokes(formula(0) + bar + formula(60)))[0])  # a fraction


def test_a_picture_of_two_formulas_is_refused(tmp_path):
    points, stroke = (torch.from_numpy(x)
                      for x in (Ink.from_strokes(formula(0) + formula(90)).points + 8,
                                np.arange(48) // 2))
    levels = rasterise(points, stroke, torch.zeros(48).long(), (1, 128, 168), 3.0)[0, 0].numpy()
    Image.fromarray((255 * (1 - levels)).astype(np.uint8)).save(tmp_path / "two.png")
    with pytest.raises(InkError, match=r"two\.png: 2 rows of ink.*crop it to one formula"):
        ink_of(tmp_path / "two.png")


def test_pages_of_scribble_are_refused():
    points = np.random.default_rng(0).uniform(0, 100, (200_001, 2))
    with pytest.raises(InkError, match="200,001 points"):
        ink_of(Ink.from_strokes([points]))


# --- LaTeX to paste -------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "shown"), [
    ("x ^ 2 + 3 x - 4 = 0", "x^{2}+3x-4=0"),
    (r"\frac 1 {x_n}", r"\frac{1}{x_{n}}"),
    (r"\sin x \lt \alpha \beta a", r"\sin x<\alpha\beta a"),
    (r"\sqrt[3]{\{ 2 \}}", r"\sqrt[3]{\{2\}}"),
    ("{a^b}^c", "a^{b}{}^{c}"),
    (r"a \lt N", "a<N"),
])
def test_latex_is_as_one_would_type_it(label, shown):
    assert pretty(canonical(label)) == shown


def test_what_is_shown_has_the_same_tokens():
    """Every pair of known tokens that can stand side by side, and every synthetic formula."""
    pack = synthetic_pack("test")
    symbols = [t for t in VOCABULARY.tokens
               if t not in (*Vocabulary.SPECIALS, *STRUCTURE, r"\sqrt")]
    rows = [canonical(f"{a} {b}") for a in symbols for b in symbols] + [
        list(pack.tokens(i)) for i in range(len(pack))
    ]
    assert all(canonical(pretty(row)) == row for row in rows)


def test_readings_have_a_confidence_where_one_was_calibrated(reader, ink, weights, tmp_path):
    source = ink_of(ink)
    (plain,) = reader.read([source], 2)
    assert plain[0].confidence is None
    assert not plain[0].doubtful
    (tmp_path / "weights.safetensors").write_bytes(weights.read_bytes())
    for run, known in (("toy", True), ("other", False)):
        values = {"run": run, "whole": [0.0, -1.0, 1.0], "token": [-9.0, 0.0, 0.0]}
        (tmp_path / "confidence.json").write_text(json.dumps(values))
        os.utime(tmp_path / "weights.safetensors", ns=(0, 10**9 + known))
        (found,) = Reader.load(tmp_path / "weights.safetensors").read([source], 2)
        assert [r.tokens for r in found] == [r.tokens for r in plain]
        assert (found[0].confidence is not None) == known
        assert found[0].doubts == (list(found[0].tokens) if known else [])
        assert found[1].confidence is None


def test_a_doubtful_picture_is_read_in_other_ways_and_larger(monkeypatch):
    """Of all ways to see it and both sizes the best reading counts; a sure one is read once."""
    import mmlib.read.reader as module

    seen = Seen(np.zeros((3, 3), np.uint8), (), np.eye(3))
    other = replace(seen, found=("turned",))
    refused = replace(seen, found=("refused",))
    asked = []

    def strokes(way, source):
        if way is refused:
            raise InkError("2 rows")
        return way.found

    class Stub(Reader):
        def read(self, inks, beam=5, sizes=(1.0,)):
            asked.append((list(inks), list(sizes)))
            return [[Reading(("x",), "x", scores[found, sizes[0]])] for found in inks]

    monkeypatch.setattr(module, "seen_in", lambda *_: replace(seen, others=(refused, other)))
    monkeypatch.setattr(module, "strokes_of", strokes)
    stub = Stub(None, VOCABULARY, ViewConfig(), {}, None, "toy", 0, 0.0)
    scores = {((), 1.0): -0.3, (("turned",), 1.0): -0.2, ((), 1.2): -0.1, (("turned",), 1.2): -0.4}
    assert recognize("a.png", reader=stub)[0].score == -0.1
    assert asked == [([()], [1.0]), ([("turned",)], [1.0]), ([(), ("turned",)], [1.2])]
    scores[(), 1.0] = -0.01
    assert recognize("a.png", reader=stub)[0].score == -0.01
    assert len(asked) == 4
    monkeypatch.setattr(module, "seen_in", lambda *_: replace(refused, others=(other,)))
    monkeypatch.setattr(module, "strokes_of", lambda way, _: strokes(
        refused if way.found == ("refused",) else way, _))
    assert recognize("a.png", reader=stub)[0].score == -0.2
    monkeypatch.setattr(module, "seen_in", lambda *_: refused)
    with pytest.raises(InkError, match="2 rows"):
        recognize("a.png", reader=stub)
