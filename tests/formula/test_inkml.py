"""InkML: what is read, what is refused, and the round trip."""

import numpy as np
import pytest
from helpers import strokes_of_points
from hypothesis import given
from hypothesis import strategies as st

from mmlib.formula.ink import Ink, InkError, Symbol
from mmlib.formula.inkfile import is_ink, read_ink
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


PLAIN = [[[10, 20], [12, 23], [17, 21]], [[30, 5], [30, 9], [28, 14]]]
AS_WRITTEN = {
    "explicit": "<trace>!10 !20, !12 !23, !17 !21</trace><trace>!30!5,!30!9,!28!14</trace>",
    "first differences": "<trace>10 20,'2'3,5-2</trace><trace>30 5,'0'4,-2 5</trace>",
    "second differences": "<trace>10 20,'2'3,\"3\"-5</trace><trace>30 5,30 9,\"-2\"1</trace>",
    "back to explicit": "<trace>10 20,'2'3,!17!21</trace><trace>30 5,'0 9,!28 '5</trace>",
    "hexadecimal": "<trace>#A #14, #C#17, #11 #15</trace><trace>#1E#5,#1E#9,'-#2 #E</trace>",
    "no separators": "<trace>10+20,12+23,17+21</trace><trace>30+5,30+9,28+14</trace>",
    "as before": "<trace>10 20,12 23,17 21</trace><trace>30 5,* 9,28 14</trace>",
    "new lines": "<trace>\n10 20\n12 23\n17 21\n</trace><trace>30 5\r\n30 9\r\n28 14</trace>",
    "wrapped": "<trace>10\n20, 12\n 23,17 21</trace><trace>30 5,\n30 9,\n28 14,\n</trace>",
    "exponents": "<trace>1e1 2.e1,12 23.0,1.7E+1 21</trace><trace>30 5,30 9,280e-1 14</trace>",
    "hovering": '<trace type="penUp">0 0, 99 99</trace><trace>10 20,12 23,17 21</trace>'
                '<trace type="penup">9 9</trace><trace type="penDown">30 5,30 9,28 14</trace>',
    "unknown point": "<trace>10 20,12 23,17 21</trace><trace>30 5,30 9,?7,28 14</trace>",
    "continued": '<trace id="a" continuation="begin">10 20,12 23</trace><trace>30 5,30 9,28 14'
                 '</trace><trace priorRef="#a" continuation="end">17 21</trace>',
}  # fmt: skip


def strokes_of(inside: str) -> list[list[list[float]]]:
    ink = read_inkml(f"<ink>{inside}</ink>".encode())
    return [stroke.tolist() for stroke in ink.strokes()]


@pytest.mark.parametrize("kind", AS_WRITTEN)
def test_values_are_read_however_they_are_written(kind):
    assert strokes_of(AS_WRITTEN[kind]) == PLAIN


def channels(*names: str, more: str = "") -> str:
    inner = "".join(f'<channel name="{n.lstrip("-")}"{MINUS * (n[0] == "-")}/>' for n in names)
    return f"<traceFormat>{inner}{more}</traceFormat>"


MINUS = ' orientation="-ve"'
RARE = '<intermittentChannels><channel name="S" type="boolean"/></intermittentChannels>'
TWO = f"""<definitions>
  <context xml:id="c0"><inkSource xml:id="s0">{channels("X", "Y")}</inkSource></context>
  <context xml:id="c1"><inkSource>{channels("T", "Y", "X")}</inkSource></context>
  <traceFormat xml:id="f2"><channel name="F"/><channel name="X"/><channel name="Y"/></traceFormat>
  <context xml:id="c2" traceFormatRef="#f2"/><context xml:id="c3" inkSourceRef="#s0"/>
  <context id="c4" contextRef="#c1"/></definitions>"""
def trace(points: str, context: str = "") -> str:
    ref = f' contextRef="#{context}"' if context else ""
    return f"<trace{ref}>{points}</trace>"


TYX, FXY = "7 20 10,7 23 12,7 21 17", "1 10 20,1 12 23,1 17 21"
FIRST, LAST = "10 20,12 23,17 21", "30 5,30 9,28 14"
STATE = "9 9 F,10 20T,12 23 *,17 21 *,20 20 F,30 5 T,30 9T,28 14T"
WITH_FORMATS = {
    "two contexts": TWO + trace(TYX, "c1") + trace(LAST, "c0"),
    "a format by reference": TWO + trace(FXY, "c2") + trace(LAST, "c0"),
    "a source by reference": TWO + trace(TYX, "c1") + trace(LAST, "c3"),
    "an inherited context": TWO + trace(TYX, "c4") + trace(LAST),
    "a group's context": f'{TWO}<traceGroup contextRef="#c1">{trace(TYX)}</traceGroup>'
                         + trace(LAST),
    "a context that follows": f'{TWO}<context contextRef="#c1"/>{trace(TYX)}'
                              f'<context contextRef="#c0"/><traceGroup>{trace(LAST)}</traceGroup>',
    "y up": channels("X", "-Y") + trace("10 -20,12 -23,17 -21") + trace("30 -5,30 -9,28 -14"),
    "x to the left": channels("-X", "Y") + trace("-10 20,-12 23,-17 21")
                     + trace("-30 5,-30 9,-28 14"),
    "pen state": channels("X", "Y", "S") + trace(STATE),
    "pen state at times": channels("X", "Y", more=RARE)
                          + trace("10 20,12 23,17 21,20 20F,30 5T,30 9,28 14"),
    "one format, not referred to": f"<definitions>{channels('Y', 'X')}</definitions>"
                                   + trace("20 10,23 12,21 17") + trace("5 30,9 30,14 28"),
    "fewer channels than declared": channels("X", "Y", "F") + trace(FIRST) + trace(LAST),
}  # fmt: skip


@pytest.mark.parametrize("kind", WITH_FORMATS)
def test_formats_are_those_that_a_trace_refers_to(kind):
    assert strokes_of(WITH_FORMATS[kind]) == PLAIN


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{channels('X', 'Y', 'F')}<trace id='t'>1 2 3, 4 5</trace>",
         ["'t'", "point 1", "'4 5'", "X Y F", "correct"]),
        (f"{channels('X', 'Y')}<trace>1 2, 3 4 5</trace>", ["point 1", "'3 4 5' has 3 values"]),
        ("<trace>1 2 3, 4 5</trace>", ["point 1", "'4 5'"]),
        ("<trace>'1 2, 3 4</trace>", ["point 0", "explicit values"]),
        ("<trace>* 2, 3 4</trace>", ["point 0", "'*'"]),
        ("<trace>1 2, T 4</trace>", ["point 1", "'T'"]),
        ("<trace>1 2, 1.2.3 4</trace>", ["point 1", "'1.2.3 4'"]),
        ("<trace>1 2, #G 4</trace>", ["point 1", "'#G 4'"]),
        ("<trace>1 2, --1 4</trace>", ["point 1", "'--1 4'"]),
        ("<trace>9e6 0, '9e6 0</trace>", ["point 1", "large"]),
        (f"{channels('F', 'X')}<trace>1 2</trace>", ["channels F X", "Y are needed"]),
        ("<trace contextRef='#c9'>1 2</trace>", ["'#c9'", "<definitions>"]),
        ("<trace type='penUp'>1 2</trace>", ["no trace with points"]),
    ],
)
def test_a_sample_that_does_not_fit_is_named_with_a_remedy(content, words):
    with pytest.raises(InkError) as error:
        read_inkml(f"<ink>{content}</ink>".encode(), "bad.inkml")
    assert all(word in str(error.value) for word in ["bad.inkml", *words]), error.value


def test_contexts_in_a_circle_end():
    circle = '<context id="a" contextRef="#b"/><context id="b" contextRef="#a"/>'
    assert strokes_of(circle + trace("1 2, 3 4", "a")) == [[[1, 2], [3, 4]]]


def office(resolution: str, points: str) -> bytes:
    """As Word and OneNote write ink: prefixed names, a resolution per axis, second differences."""
    axes = "".join(f'<i:channel name="{n}" type="integer"/>' for n in ("X", "Y", "F", "OA", "OE"))
    fine = "".join(f'<i:channelProperty channel="{n}" name="resolution" value="{v}" units="1/cm"/>'
                   for n, v in zip("XY", resolution.split(), strict=True))
    return f"""<?xml version="1.0"?><!-- ink --><i:ink xmlns:i="http://www.w3.org/2003/InkML">
      <i:definitions><i:context xml:id="c"><i:inkSource xml:id="s">
      <i:traceFormat>{axes}</i:traceFormat><i:channelProperties>{fine}</i:channelProperties></i:inkSource></i:context></i:definitions>
      <i:trace contextRef="#c" brushRef="#b">{points}</i:trace></i:ink>""".encode()


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ("100 200 500 0 0,'5'3'0'0'0,4-1 2 0 0", [[100, 200], [105, 203], [109, 202]]),
        ("100 200 500 0 0,'5'3'0'0'0,\"1\"-2\"0\"0\"0", [[100, 200], [105, 203], [111, 204]]),
        ("1 2 3 4 5 ,\n6-7-8 9\n  10", [[1, 2], [6, -7]]),
        ("1 2 3 4 5", [[1, 2]]),
        ("1 2 3 4 5,'0'0'0'0'0,1 1 0 0 0", [[1, 2], [2, 3]]),
    ],
)
def test_reads_the_ink_of_office(points, expected):
    content = office("1000 1000", points)
    assert is_ink(content, "ink1.xml")
    assert read_ink(content, "ink1.xml").points.tolist() == expected


def test_axes_of_different_resolution_are_brought_to_one():
    for resolution, y in (("1000 500", 100), ("500 1000", 25), ("0 500", 50), ("1000 1000", 50)):
        ink = read_ink(office(resolution, "0 0 0 0 0,100 50 0 0 0"), "x")
        assert ink.points.tolist() == [[0, 0], [100, y]]


def test_ink_is_known_by_its_content(inkml):
    inks = [inkml.encode(), b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<ink/>", b" <a:ink>",
            "<ink>".encode("utf-16"), b".VERSION 1.0\n.PEN_DOWN\n1 2\n"]
    others = [b"", b"\x89PNG", b"<inkling/>", b"<svg><ink/></svg>", b".PEN", b"x .PEN_DOWN"]
    assert all(map(is_ink, inks))
    assert not any(map(is_ink, others))
    assert is_ink(b"", "empty.inkml")


ONE, OTHER = "10 -20\n12 -23\n17 -21\n", "30 -5\n30 -9\n28 -14\n"
TWO_DOWN = f".PEN_DOWN\n{ONE}.PEN_DOWN\n{OTHER}"
UNIPEN = {
    "plain": f".VERSION 1.0\n.COORD X Y\n.PEN_DOWN\n{ONE}.PEN_UP\n0 0\n.PEN_DOWN\n{OTHER}",
    "no coordinates named": f".PEN_DOWN\n{ONE}17 -21\n.DT 12\n.PEN_DOWN\n30 -5 30 -9 28 -14\n",
    "pressure and time": ".COORD P Y X T\n.PEN_DOWN\n1 -20 10 0\n1 -23 12 1\n1 -21 17 2\n"
                         ".PEN_DOWN\n1 -5 30 3\n1 -9 30 4\n1 -14 28 5\n",
    "a label": f'.SEGMENT FORMULA 0-1 ? "x^2"\n{TWO_DOWN}',
    "a comment": f".COMMENT by hand, 3 4\n{TWO_DOWN}.PEN_UP\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", UNIPEN)
def test_reads_unipen(kind):
    ink = read_ink(UNIPEN[kind].encode(), "some/x.dat")
    assert [s.tolist() for s in ink.strokes()] == PLAIN
    assert (ink.id, ink.tokens) == ("x", ("x", "^", "{", "2", "}") if kind == "a label" else None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (".PEN_DOWN\n1 2\n3\n", ["line 1", "2 numbers", "X Y"]),
        (".COORD X Y T\n.PEN_DOWN\n1 2\n", ["line 2", "3 numbers"]),
        (".PEN_DOWN\n1 x\n", ["no points"]),
        (".PEN_DOWN\n1 nan\n", ["NaN"]),
        (".COORD T P\n.PEN_DOWN\n1 2\n", ["X and Y are needed"]),
        (".PEN_DOWN\n.PEN_UP\n1 2\n", ["no .PEN_DOWN with points"]),
        ('.SEGMENT A 0 ? "1"\n.PEN_DOWN\n1 2\n.SEGMENT A 1 ? "2"\n.PEN_DOWN\n1 2',
         ["2 labelled", "file of its own"]),
    ],
)
def test_what_unipen_cannot_be_read_is_named(content, words):
    with pytest.raises(InkError) as error:
        read_ink(content.encode(), "bad.dat")
    assert all(word in str(error.value) for word in ["bad.dat", *words]), error.value


def test_mathwriting_prefers_the_normalised_label_and_drops_an_empty_one():
    def ink(*notes):
        said = "".join(f'<annotation type="{key}">{text}</annotation>' for key, text in notes)
        return read_inkml(f"<ink>{said}<trace>1 2 0.5</trace></ink>".encode())

    assert ink(("label", "x 2"), ("normalizedLabel", "x_{2}")).latex == "x_{2}"
    assert ink(("label", "x"), ("normalizedLabel", "")).latex == "x"
    for label in ("", " ", "$ $", "{}", r"\,"):
        assert (ink(("truth", label)).latex, ink(("truth", label)).tokens) == (None, None)


@given(strokes_of_points, st.randoms(use_true_random=False))
def test_inkml_round_trip(tmp_path_factory, strokes, random):
    path = tmp_path_factory.mktemp("ink") / "one.inkml"
    split = random.randint(0, len(strokes))
    groups = [g for g in (tuple(range(split)), tuple(range(split, len(strokes)))) if g]
    symbols = tuple(Symbol(label, g, ref) for label, g, ref in zip("xy", groups, ("x:1", None)))
    ink = Ink.from_strokes(strokes, symbols=symbols, latex="x^2 < y", writer="ä & <b>", id="one")
    write_inkml(ink, path)
    back = read_inkml(path.read_bytes())
    unique = [s[np.append(True, (s[1:] != s[:-1]).any(1))] for s in strokes]
    assert [len(s) for s in back.strokes()] == [len(s) for s in unique]
    np.testing.assert_allclose(back.points, np.concatenate(unique), rtol=1e-6, atol=1e-6)
    assert (back.symbols, back.latex, back.writer) == (symbols, ink.latex, ink.writer)
