"""InkML: what is read, what is refused, and the round trip."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmlib.formula.ink import Ink, InkError, Symbol
from mmlib.formula.inkml import read_inkml, write_inkml


def test_reads_crohme(inkml):
    ink = read_inkml(inkml.encode(), "some/x2.inkml")
    assert ink.id == "x2"
    assert ink.writer == "w1"
    assert ink.latex == "$x^2 + 1$"
    assert ink.tokens == ("x", "^", "{", "2", "}", "+", "1")
    assert [s.label for s in ink.symbols] == ["x", "2", "+", "1"]
    assert [s.strokes for s in ink.symbols] == [(0, 1), (2,), (3, 4), (5,)]
    assert [s.ref for s in ink.symbols] == ["0:1:", "2_1", "+_1", "1_1"]
    assert ink.token_symbols == (0, -1, -1, 1, -1, 2, 3)
    assert ink.points.dtype == np.float32
    assert ink.stroke.dtype == np.int32
    assert [len(s) for s in ink.strokes()] == [3, 2, 4, 2, 2, 2]  # the repeated point is gone
    assert ink.bounds() == (0, 12, 36, 30)


def test_reads_a_path(inkml, tmp_path):
    path = tmp_path / "one.inkml"
    path.write_text(inkml)
    assert read_inkml(path).id == "one"
    assert read_inkml(str(path)).tokens == read_inkml(inkml.encode()).tokens


def test_reads_mathwriting():
    ink = read_inkml(b"""<ink xmlns="http://www.w3.org/2003/InkML">
      <annotation type="label">\\frac12</annotation>
      <annotation type="splitTagOriginal">train</annotation>
      <annotation type="normalizedLabel">\\frac{1}{2}</annotation>
      <trace id="0">1.5 2 0, 2 3 0.1, 2 3 0.2</trace><trace id="1">0 9 1.0</trace></ink>""")
    assert ink.tokens == ("\\frac", "{", "1", "}", "{", "2", "}")
    assert ink.symbols == ()
    assert ink.token_symbols is None
    assert ink.points.tolist() == [[1.5, 2], [2, 3], [0, 9]]
    assert ink.stroke.tolist() == [0, 0, 1]


def test_channels_may_come_in_any_order():
    ink = read_inkml(b"""<ink>
      <traceFormat><channel name="T"/><channel name="y"/><channel name="X"/></traceFormat>
      <trace id="0">9 1 2, 9 3 4,</trace></ink>""")
    assert ink.points.tolist() == [[2, 1], [4, 3]]
    assert ink.latex is None
    assert ink.tokens is None
    assert ink.label_error is None


def test_segmentation_of_leaf_groups_only():
    ink = read_inkml(b"""<ink>
      <trace id="p">0 0</trace><trace id="q"> </trace><trace id="r">1 1</trace>
      <trace id="s">2 2</trace>
      <traceGroup><traceView traceDataRef="s"/><annotation>Segmentation</annotation>
        <traceGroup><annotation>outer</annotation>
          <traceGroup><annotation>a</annotation><traceView traceDataRef="#r"/></traceGroup>
          <traceGroup><annotation>b</annotation><traceView traceDataRef="r"/></traceGroup>
        </traceGroup>
        <traceGroup><annotation>c</annotation><traceView traceDataRef="q"/></traceGroup>
        <traceGroup><annotation>d</annotation><traceView traceDataRef="gone"/></traceGroup>
      </traceGroup></ink>""")
    # q has no points, r belongs to the first group that names it, s stands under no leaf group
    assert ink.symbols == (Symbol("a", (1,)),)
    assert ink.stroke.tolist() == [0, 1, 2]


def test_symbol_labels_are_canonical_tokens():
    labels = [r"\ge", r"\sqrt", "'", r"\{", r"\to", "-"]
    groups = "".join(
        f'<traceGroup><annotation>{v}</annotation><traceView traceDataRef="{i}"/></traceGroup>'
        for i, v in enumerate(labels)
    )
    traces = "".join(f'<trace id="{i}">{i} 0</trace>' for i in range(len(labels)))
    ink = read_inkml(f"<ink>{traces}<traceGroup>{groups}</traceGroup></ink>".encode())
    assert [s.label for s in ink.symbols] == [
        r"\geq",
        r"\sqrt",
        r"\prime",
        r"\{",
        r"\rightarrow",
        "-",
    ]


def test_an_invalid_label_keeps_the_ink(inkml):
    ink = read_inkml(inkml.replace("$x^2 + 1$", "$x^2 + 1}$").encode())
    assert ink.tokens is None
    assert ink.token_symbols is None
    assert ink.latex == "$x^2 + 1}$"
    assert "}" in ink.label_error
    assert len(ink.symbols) == 4


def test_a_label_that_contradicts_the_mathml_has_no_alignment(inkml):
    ink = read_inkml(inkml.replace("$x^2 + 1$", "$x_2 + 1$").encode())
    assert ink.tokens == ("x", "_", "{", "2", "}", "+", "1")
    assert ink.token_symbols is None


LAUGHS = b"""<!DOCTYPE ink [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<ink><trace id="0">0 0</trace><annotation type="truth">&b;</annotation></ink>"""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b" \n", ["empty"]),
        (b"not xml", ["well-formed"]),
        (b"<ink><trace>0 0</trace>", ["well-formed", "line 1"]),
        (
            b'<ink><trace id="0">0 0</trace>\n<annotation>\xff\xfe</annotation></ink>',
            ["well-formed", "line 2"],
        ),
        (LAUGHS, ["entities are refused"]),
        (b'<!DOCTYPE ink SYSTEM "other.dtd"><ink><trace>0 0</trace></ink>', ["document type"]),
        (b"<svg/>", ["<svg>", "not <ink>"]),
        (b"<ink/>", ["no trace"]),
        (b'<ink><trace id="0"> </trace><trace id="1"/></ink>', ["no trace with points"]),
        (b'<ink>\n<trace id="t7">0 0, 1 nan</trace></ink>', ["'t7'", "line 2", "point 1", "NaN"]),
        (b'<ink><trace id="0">0 0, inf 1</trace></ink>', ["point 1", "infinite"]),
        (b'<ink><trace id="0">0 0, 1 1, 1e30 1</trace></ink>', ["point 2", "large"]),
        (b'<ink><trace id="0">0 0, 1 x</trace></ink>', ["point 1", "'1 x'"]),
        (b'<ink><trace id="0">0 0, 1, 2 2</trace></ink>', ["point 1", "'1'"]),
        (b'<ink><trace id="0">0 0, , 2 2</trace></ink>', ["point 1"]),
    ],
)
def test_errors_name_file_place_and_reason(content, words):
    with pytest.raises(InkError) as error:
        read_inkml(content, "here/bad.inkml")
    message = str(error.value)
    assert message.startswith("here/bad.inkml: ")
    for word in words:
        assert word in message


def test_external_entities_are_not_read(tmp_path):
    (tmp_path / "secret").write_text("x")
    content = f"""<!DOCTYPE ink [<!ENTITY e SYSTEM "{(tmp_path / "secret").as_uri()}">]>
      <ink><trace id="0">0 0</trace><annotation type="truth">&e;</annotation></ink>"""
    with pytest.raises(InkError, match="refused"):
        read_inkml(content.encode())


strokes_of_points = st.lists(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.just(2)),
        elements=st.floats(-1000, 1000, width=32),
    ),
    min_size=1,
    max_size=8,
)


@given(strokes_of_points, st.randoms(use_true_random=False))
def test_inkml_round_trip(tmp_path_factory, strokes, random):
    path = tmp_path_factory.mktemp("ink") / "one.inkml"
    split = random.randint(0, len(strokes))
    groups = [g for g in (tuple(range(split)), tuple(range(split, len(strokes)))) if g]
    symbols = tuple(Symbol(label, g, ref) for label, g, ref in zip("xy", groups, ("x:1", None)))
    ink = Ink.from_strokes(strokes, symbols=symbols, latex="x^2 < y", writer="ä & <b>", id="one")
    write_inkml(ink, path)
    back = read_inkml(path)
    unique = [s[np.append(True, (s[1:] != s[:-1]).any(1))] for s in strokes]
    assert [len(s) for s in back.strokes()] == [len(s) for s in unique]
    np.testing.assert_allclose(back.points, np.concatenate(unique), rtol=1e-6, atol=1e-6)
    assert (back.symbols, back.latex, back.writer) == (symbols, ink.latex, ink.writer)
