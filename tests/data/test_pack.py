import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from mmlib.data.pack import (
    FORMAT,
    RESOLUTION,
    TOLERANCE,
    Pack,
    PackError,
    normalised,
    simplify,
    write_pack,
)
from mmlib.formula.ink import Ink, InkError, Symbol
from mmlib.formula.inkml import read_inkml
from mmlib.formula.vocabulary import Vocabulary

polylines = st.lists(hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(2)),
                                elements=st.floats(0, 10, width=32)), min_size=1, max_size=4)


def distance(points, line):
    """Distances (n,) of points to a polyline, in plain loops over its pieces."""
    best = np.hypot(*(points - line[0]).T)
    for a, b in pairwise(line):
        along = b - a
        t = np.clip((points - a) @ along / max(along @ along, 1e-12), 0, 1)
        best = np.minimum(best, np.hypot(*(points - a - t[:, None] * along).T))
    return best


@given(polylines, st.sampled_from([0.01, 0.1, 1.0]), st.sampled_from([0.25, 2.0]))
def test_simplify_keeps_the_shape(strokes, tolerance, gap):
    ink = Ink.from_strokes(strokes)
    points, stroke = simplify(ink.points, ink.stroke, tolerance, gap)
    assert sorted(set(stroke)) == list(range(len(strokes)))
    assert (np.diff(stroke) >= 0).all()
    for k, before in enumerate(ink.strokes()):
        after = points[stroke == k]
        assert (distance(before.astype(float), after) <= tolerance + 1e-6).all()
        assert (distance(after, before.astype(float)) <= tolerance + 1e-6).all()
        np.testing.assert_allclose(after[[0, -1]], before[[0, -1]])
        assert (np.hypot(*np.diff(after, axis=0).T) <= gap + 1e-6).all()


def test_simplify_drops_what_is_straight():
    line = np.stack([np.linspace(0, 1, 101), np.zeros(101)], 1)
    points, _ = simplify(line, np.zeros(101, int), 0.01, 0.25)
    np.testing.assert_allclose(points, [[0, 0], [0.25, 0], [0.5, 0], [0.75, 0], [1, 0]], atol=1e-9)


def test_round_trip(inkml, make_pack):
    ink = read_inkml(inkml.encode(), "one")
    bad = replace(ink, id="two", tokens=None, token_symbols=None, label_error="why", writer=None,
                  source="s")
    unaligned = replace(ink, id="three", token_symbols=None)
    bare = Ink.from_strokes([[(5, 5)]], id="dot")
    pack = make_pack([ink, bad, unaligned, bare])
    assert len(pack) == 4
    assert [i.id for i in pack] == pack.ids == ["one", "two", "three", "dot"]
    one, two, three, dot = pack
    for name in ("latex", "tokens", "token_symbols", "writer", "source", "label_error"):
        assert getattr(one, name) == getattr(ink, name)
        assert getattr(two, name) == getattr(bad, name)
        assert getattr(three, name) == getattr(unaligned, name)
        assert getattr(dot, name) == getattr(bare, name)
    assert one.symbols == tuple(replace(s, ref=None) for s in ink.symbols)  # refs stay in the file
    size = pack.typical[0]
    for written, packed in zip(ink.strokes(), one.strokes()):
        expected = (written - ink.points.min(0)) / size
        assert (distance(expected, packed) <= TOLERANCE + 1 / RESOLUTION).all()
    assert one.points.min(0).tolist() == [0, 0]
    np.testing.assert_allclose(pack.sizes[0], np.ptp(ink.points, axis=0) / size,
                               atol=1 / RESOLUTION)
    assert dot.points.tolist() == [[0, 0]]
    assert pack[-1].id == "dot"
    with pytest.raises(IndexError):
        pack[4]


def test_flat_arrays_agree_with_single_inks(make_pack, make_ink):
    inks = [
        make_ink(latex, f"e{i}", seed=i)
        for i, latex in enumerate(["x^2", r"\frac{a}{b}+1", "y", r"\sqrt[3]{x}"])
    ]
    pack = make_pack(inks)
    flat, vocabulary = pack.flat, Vocabulary.crohme()
    for i, ink in enumerate(pack):
        part = slice(flat.point_offsets[i], flat.point_offsets[i + 1])
        assert (flat.points[part] == ink.points).all()
        assert (flat.point_stroke[part] == ink.stroke).all()
        assert len(ink.strokes()) == flat.stroke_offsets[i + 1] - flat.stroke_offsets[i]
        tokens = flat.tokens[flat.token_offsets[i] : flat.token_offsets[i + 1]]
        assert vocabulary.encode(ink.tokens) == tokens.tolist()
        assert ink.tokens == inks[i].tokens == pack.tokens(i)
        assert ink.token_symbols == inks[i].token_symbols
    assert flat.valid.all()
    assert flat.aligned.all()


@settings(max_examples=30)
@given(st.floats(1e-3, 1e4), st.floats(-1e4, 1e4))
def test_a_pack_does_not_depend_on_the_device(scale, shift):
    strokes = [np.array([[0, 0], [3, 9], [7, 2]]), np.array([[12.0, 1], [12, 11]])]
    plain, size = normalised(Ink.from_strokes(strokes))
    moved, moved_size = normalised(Ink.from_strokes([s * scale + shift * scale for s in strokes]))
    assert moved_size == pytest.approx(size * scale, rel=1e-2)
    np.testing.assert_allclose(plain.bounds(), moved.bounds(), atol=0.02)


def test_absurd_extent_is_an_ink_error():
    strokes = [np.array([[i, 0.0], [i, 1.0]]) for i in range(9)] + [np.array([[1e5, 0], [1e5, 1]])]
    with pytest.raises(InkError, match="far: the expression is over"):
        normalised(Ink.from_strokes(strokes, id="far"))


def test_tokens_beyond_crohme_extend_the_packs_own_vocabulary(make_pack):
    ink = Ink.from_strokes(
        [[(0, 0), (1, 1)]], symbols=(Symbol(r"\Omega", (0,)),), tokens=(r"\Omega",), id="o"
    )
    pack = make_pack([ink])
    assert pack.vocabulary == (*Vocabulary.crohme().tokens, r"\Omega")
    assert pack[0].tokens == (r"\Omega",)
    assert pack[0].symbols == ink.symbols


def test_duplicate_ids_are_refused_and_leave_nothing(tmp_path, make_ink):
    with pytest.raises(PackError, match="same id"):
        write_pack([normalised(make_ink("x", "same"))] * 2, tmp_path / "p.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_pack(tmp_path, make_ink, monkeypatch):
    path = tmp_path / "p.safetensors"
    write_pack([normalised(make_ink("x", "old"))], path)
    monkeypatch.setattr("mmlib.store.files.os.replace",
                        lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_pack([normalised(make_ink("x", "new"))], path)
    assert [p.name for p in tmp_path.iterdir()] == ["p.safetensors"]
    assert Pack.open(path).ids == ["old"]


def test_same_ink_same_digest(make_pack, make_ink):
    first, again, other = make_ink("x+1", "a"), make_ink("x+1", "a"), make_ink("x+1", "a", seed=1)
    assert (
        make_pack([first]).digest
        == make_pack([again], "again").digest
        != make_pack([other], "other").digest
    )


def test_empty_pack(make_pack):
    pack = make_pack([])
    assert len(pack) == 0
    assert pack.sizes.shape == (0, 2)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(PackError, match=r"gone\.safetensors: there is no such pack"):
        Pack.open(tmp_path / "gone.safetensors")
    path = tmp_path / "bad.safetensors"
    for content in (b"", b"hello", b"\xff" * 100, b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(PackError, match=r"bad\.safetensors: damaged or no pack"):
            Pack.open(path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(PackError, match="not a mmlib-pack"):
        Pack.open(path)
    save_file({"a": np.zeros(1)}, path, {"format": FORMAT})
    with pytest.raises(PackError, match="damaged"):
        Pack.open(path)


@pytest.fixture
def rewrite(make_pack, make_ink):
    """A function that changes the arrays and the header of a good pack on disk, and returns its
    path.
    """

    def change(edit):
        path = make_pack([make_ink("x^2", "a"), make_ink("y+1", "b")]).path
        arrays = load_file(path)
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            header = json.loads(file.metadata()["header"])
        edit(arrays, header)
        save_file(arrays, path, {"format": FORMAT, "header": json.dumps(header)})
        return path

    return change


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda a, h: a["tokens"].__setitem__(0, 30000), "not what was written"),
        (lambda a, h: a["counts"].__setitem__((0, 0), -1), "not what was written"),
        (lambda a, h: a["stroke_lengths"].__setitem__(0, 0), "not what was written"),
        (lambda a, h: a["typical"].__setitem__(0, 0), "not what was written"),
        (lambda a, h: a.update(points=a["points"][:-1]), "not what was written"),
        (lambda a, h: a.update(points=a["points"].astype(np.float32)), "not what was written"),
        (lambda a, h: a.pop("typical"), "typical"),
        (lambda a, h: h["id"].pop(), "not what was written"),
        (lambda a, h: h["latex"].__setitem__(0, "y"), "not what was written"),
        (lambda a, h: h.pop("digest"), "digest"),
        (lambda a, h: h["vocabulary"].reverse(), "another vocabulary"),
        (lambda a, h: h["vocabulary"].append("x"), "another vocabulary"),
        (lambda a, h: h.pop("vocabulary"), "vocabulary"),
        (lambda a, h: h.update(version=9), "version is 9"),
    ],
)
def test_packs_that_are_not_as_they_were_written_are_refused(rewrite, edit, reason):
    with pytest.raises(PackError, match=rf"toy\.safetensors: damaged .*{reason}"):
        Pack.open(rewrite(edit))
