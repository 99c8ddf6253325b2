"""Layout trees of MathML, and whose ink each token is."""

import xml.etree.ElementTree as ElementTree

import pytest

from mmlib.formula.latex import LatexError, align, canonical, from_tree
from mmlib.formula.mathml import tree_from_mathml
from mmlib.formula.tree import Node

MATHML = r"""<annotationXML xmlns="http://www.w3.org/2003/InkML">
<math xmlns="http://www.w3.org/1998/Math/MathML">
<mrow><munderover><mo xml:id="sum_1">sum</mo><mrow><mi xml:id="i_1">i</mi><mrow>
<mo xml:id="=_1">=</mo><mn xml:id="1_1">1</mn></mrow></mrow>
<mo xml:id="infin_1">infin</mo></munderover>
<!-- a term --><mrow>
<mfrac xml:id="_1"><msup><mi xml:id="x_1">x</mi><mn xml:id="2_1">2</mn></msup><msqrt xml:id="r_1">
<mi xml:id="y_1">y</mi><mi xml:id="z_1">z</mi></msqrt></mfrac><mrow><mo xml:id="\lim_1">im</mo>
<mroot xml:id="r_2"><mi xml:id="a_1">a</mi><mn xml:id="3_1">3</mn></mroot>
</mrow></mrow></mrow></math></annotationXML>"""


def math(inner: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<math>{inner}</math>")


def test_mathml_gives_the_tree_and_the_ink_of_each_token() -> None:
    tokens = canonical(r"\sum_{i=1}^\infty\frac{x^2}{\sqrt{yz}}\lim\sqrt[3]{a}")
    tree = tree_from_mathml(ElementTree.fromstring(MATHML))
    assert from_tree(tree) == tokens
    refs = align(tokens, tree)
    assert refs is not None
    owned = [(token, ref) for token, ref in zip(tokens, refs, strict=True) if ref]
    assert owned == [
        (r"\sum", "sum_1"), ("i", "i_1"), ("=", "=_1"), ("1", "1_1"), (r"\infty", "infin_1"),
        (r"\frac", "_1"), ("x", "x_1"), ("2", "2_1"), (r"\sqrt", "r_1"), ("y", "y_1"), ("z", "z_1"),
        (r"\lim", r"\lim_1"), (r"\sqrt", "r_2"), ("3", "3_1"), ("a", "a_1"),
    ]
    assert {t for t, ref in zip(tokens, refs, strict=True) if not ref} == set("^_{}[]")


@pytest.mark.parametrize(
    ("inner", "latex"),
    [
        ("<mi>sigma</mi><mo>in</mo><mi>X</mi>", r"\sigma\in X"),
        ("<mo>{</mo><mi>x</mi><mo>}</mo>", r"\{x\}"),
        (
            "<mi>a</mi><mo>&lt;</mo><mi>b</mi><mo>le</mo><mi>c</mi><mo>rarr</mo><mi>d</mi>",
            r"a<b\le c\to d",
        ),
        ("<mo>|</mo><mi>x</mi><mo>|</mo>", "|x|"),
        (r"<msubsup><mo>\int</mo><mn>0</mn><mi>x</mi></msubsup>", r"\int_0^x"),
        ("<msup><mrow><mo>(</mo><mi>a</mi><mo>)</mo></mrow><mn>2</mn></msup>", "(a)^2"),
        ("<msup><msub><mi>a</mi><mi>b</mi></msub><mn>2</mn></msup>", "a_b^2"),
        ("<msup><msup><mi>a</mi><mi>b</mi></msup><mn>2</mn></msup>", "{a^b}^2"),
        ("<mover><mi>x</mi><mrow/></mover>", "x"),
        ("<mi>x^2</mi><mn>12</mn>", "x^2 12"),
        ("", ""),
    ],
)
def test_mathml_says_the_same_as_latex(inner: str, latex: str) -> None:
    assert from_tree(tree_from_mathml(math(inner))) == canonical(latex)


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ("<msup><mi>x</mi></msup>", "msup with 1"),
        ("<munderover><mi>x</mi><mi>y</mi></munderover>", "munderover with 2"),
        ("<mtable/>", "'mtable' is not known"),
        ("<mi>\ufffd</mi>", "not known"),
        ("<mi>x^</mi>", "missing"),
        ("<msqrt>" * 200 + "</msqrt>" * 200, "deep"),
    ],
)
def test_malformed_mathml_is_refused(inner: str, reason: str) -> None:
    with pytest.raises(LatexError, match=reason):
        tree_from_mathml(math(inner))


def test_align_gives_none_where_the_labels_differ() -> None:
    tree = tree_from_mathml(math("<mi>x</mi><mn>2</mn>"))
    assert align(["x", "2"], tree) == [None, None]
    assert align(canonical("x^2"), tree) is None
    assert align(["x"], [Node("no symbol")]) is None


def test_a_long_row_nests_to_the_right_without_recursion() -> None:
    row = ElementTree.Element("mrow")
    for _ in range(20_000):
        outer = ElementTree.Element("mrow")
        ElementTree.SubElement(outer, "mi").text = "x"
        outer.append(row)
        row = outer
    assert len(tree_from_mathml(row)) == 20_000
