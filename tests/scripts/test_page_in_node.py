"""The page that reads, without a browser: its scripts draw, trace and search as Python does."""

import json
import math
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmlib.data.corpus import synthetic_pack
from mmlib.data.photo import INK, Seen, see
from mmlib.data.trace import trace_picture
from mmlib.draw.raster import rasterise
from mmlib.draw.views import InkBatch, ViewConfig, make_view
from mmlib.formula.ink import Ink, InkError, typical_size
from mmlib.formula.vocabulary import STRUCTURE, Vocabulary
from mmlib.models.decoder import Memory
from mmlib.models.search import beam_search
from mmlib.read.confidence import CONFIDENCE, Calibration
from mmlib.read.reader import Reader, Reading, best_way
from mmlib.read.source import several_rows
from mmlib.store.files import shipped_weights
from scripts.page import HERE, WORKER, examples, packed

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
VIEW = {"symbol": 14.0, "margin": 3.0, "pen": [1.2, 2.0]}
TOLERANCE = 0.002  # of a pixel's full ink: float32 adds up in another order


def node(program, given):
    """What a function of JavaScript makes of `given`, with the page's own functions at hand."""
    scripts = [(HERE / name).read_text("utf-8") for name in (*WORKER[:-1], "confidence.js")]
    code = """
        const vm = require("vm"), given = JSON.parse(require("fs").readFileSync(0, "utf8"));
        for (const script of given.scripts) vm.runInThisContext(script);
        Promise.resolve(vm.runInThisContext(`(${given.program})`)(given.given))
            .then(found => process.stdout.write(JSON.stringify(found)));"""
    text = json.dumps({"scripts": scripts, "program": program, "given": given})
    done = subprocess.run(["node", "-e", code], input=text, capture_output=True, text=True,
                          timeout=120, check=False)
    assert not done.returncode, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def inks():
    pack = synthetic_pack("test")
    return [pack[i] for i in range(0, 60, 2)]


def still(ink, size):
    """The picture that the reader sees, (H, W)."""
    points = torch.from_numpy((ink.points - ink.points.min(0)) / size)
    stroke = torch.from_numpy(np.unique(ink.stroke, return_inverse=True)[1])
    batch = InkBatch(points, stroke, torch.zeros(len(points), dtype=torch.long), 1)
    config = ViewConfig(symbol=VIEW["symbol"], margin=VIEW["margin"], pen=tuple(VIEW["pen"]))
    return make_view(batch, config.still(), torch.Generator().manual_seed(0)).picture[0, 0].numpy()


def test_the_page_draws_an_ink_as_python_does(inks):
    given = {"view": VIEW, "inks": [[stroke.tolist() for stroke in ink.strokes()] for ink in inks]}
    found = node("""({ inks, view }) => inks.map(strokes => {
        const ink = inkOf(strokes), size = typicalSize(strokeBoxes(ink));
        return { size, ...draw(ink, size, view) }; })""", given)
    for ink, drawn in zip(inks, found, strict=True):
        size = typical_size(ink.points, ink.stroke)
        assert math.isclose(drawn["size"], size, rel_tol=1e-6)
        ours = still(ink, size)
        theirs = np.array([drawn["picture"][str(i)] for i in range(ours.size)])
        assert (drawn["height"], drawn["width"]) == ours.shape
        assert np.abs(theirs.reshape(ours.shape) - ours).max() <= TOLERANCE


def test_dots_and_lines_alone_have_the_size_that_python_gives_them():
    shapes = [[[[5, 5]]], [[[0, 0]], [[0, 30]]], [[[0, 0], [40, 0]]],
              [[[0, 0], [0, 9]], [[3, 3]], [[20, 0], [60, 8]]]]
    found = node("inks => inks.map(strokes => typicalSize(strokeBoxes(inkOf(strokes))))", shapes)
    for strokes, size in zip(shapes, found, strict=True):
        points = np.array([p for s in strokes for p in s], np.float32)
        stroke = np.repeat(np.arange(len(strokes)), [len(s) for s in strokes])
        assert math.isclose(size, typical_size(points, stroke), rel_tol=1e-6)


def test_rows_are_counted_as_python_counts_them():
    row = [[[0, 0], [40, 10]], [[30, 0], [90, 10]]]
    cases = [[*row, *[[[x, y + gap] for x, y in s] for s in row]] for gap in (12, 20, 24, 26, 40)]
    found = node("inks => inks.map(strokes => severalRows(strokeBoxes(inkOf(strokes)), 10))", cases)
    expected = []
    for strokes in cases:
        points = np.array([p for s in strokes for p in s], np.float32)
        expected.append(several_rows(points, np.repeat(np.arange(len(strokes)), 2), 10.0))
    assert found == expected
    assert {0, 2} == set(found)


def picture_of(ink):
    """A drawing (H, W) of an ink, dark on light."""
    size = typical_size(ink.points, ink.stroke)
    points = torch.from_numpy((ink.points - ink.points.min(0)) / size * 40 + 9)
    wide, high = (int(v) + 9 for v in points.amax(0))
    stroke, owner = torch.from_numpy(ink.stroke).long(), torch.zeros(len(points)).long()
    drawn = rasterise(points, stroke, owner, (1, high, wide), 5.0)[0, 0].numpy()
    return 255 - (drawn * 255).round().astype(np.uint8)


def given_as(picture):
    return {"grey": picture.ravel().tolist(), "height": len(picture), "width": picture.shape[1]}


def test_the_page_traces_a_picture_as_python_does(inks):
    pictures = [picture_of(ink) for ink in inks[:10]]
    given = [given_as(picture) for picture in pictures]
    found = node("""pictures => pictures.map(p => {
        const { ink, size } = trace(waysOf({ ...p, grey: Uint8Array.from(p.grey) })[0]);
        return { size, xy: Array.from(ink.xy) }; })""", given)
    for picture, traced in zip(pictures, found, strict=True):
        rows, columns = (np.flatnonzero((picture < 255 - INK).any(axis)) for axis in (1, 0))
        cropped = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        points, _, size = trace_picture(255 - cropped)
        assert math.isclose(traced["size"], size, rel_tol=1e-6)
        theirs = np.array(traced["xy"]).reshape(-1, 4)
        theirs -= np.tile(theirs.reshape(-1, 2).min(0) - points.min(0), 2)  # not cropped
        ours = points.reshape(-1, 4)
        assert {tuple(s) for s in theirs.tolist()} == {tuple(s) for s in ours.tolist()}


def test_the_page_sees_a_picture_in_the_ways_that_python_does(inks):
    """Level, slanted and steep, light on dark, and with a line above that the edge cuts."""
    pictures = [picture_of(ink) for ink in inks[10:13]]
    for degrees in (-7, 20, -24):
        level = Image.fromarray(pictures[0])
        turned = level.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=255)
        pictures.append(np.asarray(turned))
    pictures.append(255 - pictures[1])
    cut = pictures[2].copy()
    cut[:9, 40:46] = cut[:12, 90:96] = 0
    cut[-9:, 150:156] = 0
    pictures.append(cut)
    found = node("""pictures => pictures.map(p =>
        waysOf({ ...p, grey: Uint8Array.from(p.grey) }).map(way => {
            const { levels, height, width, left, top } = cropped(way),
                [a, b, c, d, e, f] = way.back ?? [1, 0, 0, 1, 0, 0],
                x = left + 0.5, y = top + 0.5; // a pixel's centre
            return { height, width, levels: Array.from(levels),
                     corner: [a * x + c * y + e - 0.5, b * x + d * y + f - 0.5] }; }))""",
                 [given_as(picture) for picture in pictures])
    counts = []
    for picture, theirs in zip(pictures, found, strict=True):
        seen = see(picture)
        ours = [seen, *seen.others]
        counts.append(len(ours))
        assert len(theirs) == len(ours)
        for their, our in zip(theirs, ours, strict=True):
            assert (their["height"], their["width"]) == our.levels.shape
            difference = np.array(their["levels"]) - our.levels.ravel().astype(int)
            assert np.abs(difference).max() <= 1
            assert their["corner"] == pytest.approx(our.to_picture[:2, 2].tolist(), abs=1)
    assert min(counts) == 1
    assert max(counts) >= 3


def test_the_page_takes_the_way_that_python_takes(monkeypatch):
    """The same choice of sure and doubtful pictures and of ink, after as many readings."""
    rng, cases = np.random.default_rng(0), []
    for k in range(200):
        ways, picture = (1 + k % 4, True) if k % 5 else (1, False)
        scores = -rng.choice([0.04, 0.06, 0.07, 0.09, 0.2], (ways, 2))
        refused = rng.random(ways) < 0.2
        cases.append({"scores": scores.tolist(), "refused": refused.tolist(), "picture": picture})
    found = node("""async cases => {
        const all = [];
        for (const { scores, refused, picture } of cases) {
            let count = 0;
            const inks = scores.map((of, k) => ({ of, k, size: 1,
                ink: { xy: [0, 0, refused[k] ? 9000 : 9, 9], stroke: [0, 0] } }));
            const read = async (way, larger) => ({ k: way.k, larger, count: ++count,
                readings: [{ score: way.of[larger === 1 ? 0 : 1] }] });
            const best = await bestWay(inks, read, picture);
            all.push(best.refusal ? null : [best.k, best.larger, count]);
        }
        return all; }""", cases)

    def strokes(way, source):
        k = way.found if isinstance(way, Seen) else 0
        if case["refused"][k]:
            raise InkError("too large")
        return k

    class Stub(Reader):
        def read(self, inks, beam=5, sizes=(1.0,)):
            asked.extend(inks)
            return [[Reading(("x",), f"{k} {sizes[0]}", case["scores"][k][sizes[0] > 1])]
                    for k in inks]

    monkeypatch.setattr("mmlib.read.reader.strokes_of", strokes)
    stub, kinds = Stub(None, None, ViewConfig(), {}, None, "toy", 0, 0.0), set()
    ink, blank = Ink.from_strokes([[(0, 0), (1, 1)]]), np.zeros((3, 3), np.uint8)
    for case, theirs in zip(cases, found, strict=True):
        asked = []
        first, *others = [Seen(blank, k, np.eye(3)) for k in range(len(case["refused"]))]
        seen = replace(first, others=tuple(others)) if case["picture"] else ink
        try:
            way, size = best_way(seen, stub)[1][0].latex.split()
        except InkError:
            assert theirs is None
        else:
            assert theirs == [int(way), float(size), len(asked)]
            kinds.add((case["picture"], len(asked) > 1))
    assert kinds == {(True, True), (True, False), (False, False)}


class Table:
    """A decoder whose logits depend on the last token and its place alone."""

    def __init__(self, table):
        self.table, self.decoder = torch.from_numpy(table), self

    def prepare(self, memory):
        return memory

    def __call__(self, tokens, memory, cache=None):
        if cache is not None:
            cache.begin(len(tokens), tokens.device)
            return self.table[cache.t - 1, tokens], None
        return self.table[torch.arange(tokens.shape[1]), tokens], None


@pytest.mark.parametrize(("beam", "longest"), [(1, 4), (3, 5), (5, 24)])
def test_the_search_finds_what_python_finds(beam, longest):
    vocabulary = Vocabulary(["x", "[", "]", r"\sqrt", *STRUCTURE])
    rng = np.random.default_rng(beam)
    v = len(vocabulary)
    tables = rng.normal(size=(20, longest + 1, v, v))
    found = node(
        """async ({ tables, words, beam, longest }) => {
        const all = [];
        for (const table of tables) {
            const run = async ({ tokens, place }) => ({ logits: Float64Array.from(
                tokens.flatMap((token, i) => table[place[i % place.length]][token])) });
            all.push(await beamSearch(run, words, beam, longest));
        }
        return all; }""",
        {"tables": tables.tolist(), "words": vocabulary.tokens, "beam": beam, "longest": longest},
    )
    for table, theirs in zip(tables, found, strict=True):
        one = torch.zeros(1, 1)
        ours = beam_search(Table(table), Memory(one, one, one), vocabulary, beam, longest)[0]
        theirs = [(tuple(h["ids"]), h["score"]) for h in theirs]
        assert dict(theirs) == pytest.approx({h.tokens: h.score for h in ours}, abs=1e-5)
        scores = [score for _, score in theirs]
        assert scores == sorted(scores, reverse=True)


def test_the_page_is_as_sure_of_a_reading_as_python():
    """The same numbers from the same hypotheses, and the same doubts."""
    values = json.loads(shipped_weights().with_name(CONFIDENCE).read_text("utf-8"))
    calibration, rng, cases = Calibration.of(values, values["run"]), np.random.default_rng(0), []
    for length in (0, 1, 2, 5, 12, 12, 30):
        first = rng.integers(4, 9, length)
        others = [np.delete(first, rng.integers(0, length)) if length and k % 2 else
                  np.where(rng.random(length) < 0.3, 4, first) for k in range(5)]
        scores = np.sort(rng.exponential(0.2, 6))[::-1] * -1 - 1e-5
        cases.append([{"ids": ids.tolist(), "score": score}
                      for ids, score in zip([first, *others], scores[::-1].tolist())])
    cases += [case[:1] for case in cases]
    given = {"cases": cases, "calibration": values}
    found = node("""({ cases, calibration }) => cases.map(readings => {
        const sure = confidence(readings, calibration);
        return { ...sure, doubtful: sure.whole < DOUBTFUL }; })""", given)
    for case, theirs in zip(cases, found, strict=True):
        ours = calibration.confidence([(one["ids"], one["score"]) for one in case])
        assert theirs["whole"] == pytest.approx(ours["confidence"], abs=1e-9)
        assert theirs["tokens"] == pytest.approx(ours["token_confidence"], abs=1e-9)
        assert theirs["doubtful"] == Reading((), "", 0.0, **ours).doubtful
    assert {each["doubtful"] for each in found} == {True, False}
    assert node("readings => confidence(readings, {})", cases[0]) is None


def test_what_is_packed_is_the_same_each_time():
    assert packed(b"ink" * 100) == packed(b"ink" * 100)


def test_examples_are_formulas_of_synthetic_ink():
    shown = examples(2)
    assert len(shown) == 2
    assert all(len(point) == 2 for strokes in shown for stroke in strokes for point in stroke)
