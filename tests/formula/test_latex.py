"""Canonical LaTeX and layout trees."""

import contextlib
import html
import random
import re
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmlib.formula.latex import (
    MAX_DEPTH,
    LatexError,
    canonical,
    from_tree,
    structure,
    to_tree,
)
from mmlib.formula.mathml import tree_from_mathml
from mmlib.formula.tree import Node
from mmlib.formula.vocabulary import Vocabulary


def text(latex: str) -> str:
    return " ".join(canonical(latex))


@pytest.mark.parametrize(
    ("spellings", "tokens"),
    [
        (["x^2", "x ^ {2}", "{x}^{ 2 }", "$x^2$", "{{x}^{{2}}}", "x^{2}{}"], "x ^ { 2 }"),
        ([r"\mbox{x}^\mathrm{2}", r"x\sp2", r"\displaystyle x\,^2"], "x ^ { 2 }"),
        (["x_1^2", "x^2_1", "{x_1}^2", "{x^2}_1", "{{x}_{1}}^{2}"], "x _ { 1 } ^ { 2 }"),
        (["(a+b)^2", "{(a+b)}^2", r"\left(a+b\right)^2", r"\Bigg( a + b \Bigg) ^ {2}"],
         "( a + b ) ^ { 2 }"),
        ([r"\frac32", r"\frac 3 2", r"\frac {3} {2}", r"\dfrac{3}2", r"{\frac{{3}}2}"],
         r"\frac { 3 } { 2 }"),
        ([r"\frac{\sqrt \pi} 2", r"\frac\sqrt\pi2"], r"\frac { \sqrt { \pi } } { 2 }"),
        ([r"\sqrt[3]x", r"\sqrt [ {3} ] { x }", r"\sqrt[3]{{x}}"], r"\sqrt [ 3 ] { x }"),
        ([r"\sqrt[{[a]}]{x}", r"\sqrt[{\lbrack a \rbrack}]{x}"], r"\sqrt [ { [ a ] } ] { x }"),
        ([r"\sqrt[{\sqrt[3]{2}}]{x}", r"\sqrt[\sqrt[3]{2}]{x}"],
         r"\sqrt [ { \sqrt [ 3 ] { 2 } } ] { x }"),
        ([r"\overline{AB}_1", r"\bar {AB}_{1}", r"{\overline{A B}}_1"],
         r"\overline { A B } _ { 1 }"),
        ([r"\sqrt x ^2", r"\sqrt{x}^2", r"{\sqrt{x}}^{2}"], r"\sqrt { x } ^ { 2 }"),
        ([r"x'", r"x^\prime", r"x^{\prime}", "x^{'}", "{x}'"], r"x ^ { \prime }"),
        (["x''", r"x^{\prime\prime}"], r"x ^ { \prime \prime }"),
        (["x'^2_1", "x'_1^2", r"x_1^{\prime 2}"], r"x _ { 1 } ^ { \prime 2 }"),
        ([r"a\lt b", "a<b", r"a \! < \; b"], r"a \lt b"),
        ([r"a\le b", r"a \leq b", r"a\leqslant b"], r"a \leq b"),
        ([r"a\to b\ne c", r"a \rightarrow b \neq c"], r"a \rightarrow b \neq c"),
        ([r"\lbrack 1 \rbrack", "[1]", r"\left[ 1 \right]"], "[ 1 ]"),
        ([r"\sum\limits_{i=1}^n i", r"\sum^n_{i=1}i"], r"\sum _ { i = 1 } ^ { n } i"),
        ([r"1,\dots,n", r"1,\ldots,n", r"1,\cdots,n", "1,...,n"], r"1 , \ldots , n"),
        ([r"\log_c a", "log_ca", r"\mathrm{log}_{c}a"], r"\log _ { c } a"),
        ([r"\lim_{x\to0}", r"lim\limits_{x\to0}"], r"\lim _ { x \rightarrow 0 }"),
        ([r"\|x\|", "||x||", r"\left\Vert x\right\Vert"], "| | x | |"),
        ([r"\left\{ x \right.", r"\{x"], r"\{ x"),
        ([r"\mbox{dN}", "d N", "dN"], "d N"),
        ([r"M\ltN", "M<N"], r"M \lt N"),
        ([r"^2x", r"{}^2x"], "{ } ^ { 2 } x"),
        ([r"{a^b}^c", r"a^b{}^c"], "a ^ { b } { } ^ { c }"),
        (["{}", "", "$ $", "^{}", "{ {} }"], ""),
        ([r"\bigl. \frac ab \bigr|_{x}", r"\left. \frac ab \right|_x", r"\Big.\frac ab\biggr|_x"],
         r"\frac { a } { b } | _ { x }"),
        ([r"\mathrm{sin} x", r"\operatorname{sin}x", r"\operatorname { s i n } x", r"{\rm sin} x",
          r"\mathop{\rm sin}\nolimits x", r"\text{sin} x", r"\mathbf{sin x}", r"\mathop{\sin} x"],
         r"\sin x"),
        ([r"\operatorname*{arg\,max}_x", r"\mathrm{arg max}_x", r"\arg\max_x"],
         r"\arg \max _ { x }"),
        ([r"\mathop{\lim}\limits_{x\to 0}", r"\mathrm{lim}_{x\to0}", r"\operatorname*{lim}_{x→0}"],
         r"\lim _ { x \rightarrow 0 }"),
        ([r"{a \over b}", r"a\over b", r"\cfrac{a}{b}", r"\cfrac[l] a b", r"$${a\over{b}}$$"],
         r"\frac { a } { b }"),
        ([r"\left(a\over b\right)^2", r"\left({a\over b}\right)^2", r"({a \over b})^2"],
         r"( \frac { a } { b } ) ^ { 2 }"),
        ([r"\sqrt[a\over b]{1+{c\over d}}"],
         r"\sqrt [ \frac { a } { b } ] { 1 + \frac { c } { d } }"),
        ([r"\mathbf{x}", r"\boldsymbol x", r"\bm{x}", r"{\bf x}", r"\large x", r"\Huge{x}",
          r"\textbf{x}", r"\color{red}x", r"\textcolor{red}{x}", r"{\color[rgb]{1,0,0} x}",
          r"x\label{eq:x_1}", r"x\nonumber \\", r"x \\[2pt]", r"x\phantom{y}",
          r"\ensuremath{x}"], "x"),
        ([r"\begin{equation}x=1\end{equation}", r"\begin{align*} x=1 \\ \end{align*}",
          r"\[ \begin{split}x = 1\end{split} \]",
          r"\begin{ equation* } x=1 \label{a}\end{equation*}"], "x = 1"),
        ([r"x\hspace{1cm}y", r"x\hspace*{-0.5em} y", r"x\hskip 1em y", r"x\kern-2pt y",
          r"x\enspace y", r"x\mkern 3mu y"], "x y"),
        (["x²+½·π≤∞", "𝑥²＋½⋅π⩽∞", r"x^{2} + \frac12 \cdot \pi \leq \infty"],
         r"x ^ { 2 } + \frac { 1 } { 2 } \cdot \pi \leq \infty"),
        (["√2 x₁₂→∑α", r"\sqrt2 x_{12}\to\sum\alpha"],
         r"\sqrt { 2 } x _ { 1 2 } \rightarrow \sum \alpha"),
        (["Α−Β…′", r"A-B\ldots'"], r"A - B \ldots ^ { \prime }"),
    ],
)
def test_spellings_of_one_expression_give_one_list(spellings: list[str], tokens: str) -> None:
    for latex in spellings:
        assert text(latex) == tokens, latex


@pytest.mark.parametrize(
    ("latex", "lenient", "strict"),
    [
        (r"\sum\limits_{i}^n x", r"\sum _ { i } ^ { n } x", r"\sum \limits _ { i } ^ { n } x"),
        (r"\sum_i^n x", r"\sum _ { i } ^ { n } x", r"\sum _ { i } ^ { n } x"),
        (r"\mathop{\rm lim}\limits_{x}", r"\lim _ { x }", r"\lim \limits _ { x }"),
        (r"1+\cdots+n", r"1 + \ldots + n", r"1 + \cdots + n"),
        (r"1+\ldots+n", r"1 + \ldots + n", r"1 + \ldots + n"),
        (r"\int\limits x", r"\int x", r"\int x"),
        (r"\int\nolimits_0 x", r"\int _ { 0 } x", r"\int _ { 0 } x"),
        (r"x_1\limits^2", r"x _ { 1 } ^ { 2 }", r"x _ { 1 } \limits ^ { 2 }"),
    ],
)
def test_the_strict_form_keeps_limits_and_centred_dots(
    latex: str, lenient: str, strict: str
) -> None:
    assert text(latex) == lenient
    assert " ".join(canonical(latex, strict=True)) == strict
    assert " ".join(canonical(strict, strict=True)) == strict
    assert from_tree(to_tree(strict.split(), strict=True)) == strict.split()


def test_different_expressions_give_different_lists() -> None:
    labels = r"""
    x^2 x_2 x2 x^{22} x^22 x^{2^2} {x^2}^2 x_{2^2} x_2^2 2x {}^2x (x)^2 (x^2) \frac12 \frac21
    \frac{12}{} 1/2 \sqrt2 \sqrt[2]2 \sqrt22 \sqrt{22} \sqrt{2^2} \sqrt2^2 \sqrt[22]2 \frac{1}{2}^2
    \frac{1}{2^2} 4\cdot5 4.5 4,5 4\ldots5 1\div2 \sin\theta \sin_\theta s\in x\prime
    x^\prime x_\prime x^{\prime2} x^{2\prime} |x| ||x|| \Pi \pi \sum_i\sum^i \sum_i^i \sum{i}{i}
    \{x\} (x) [x] \sqrt{[x]}
    \sqrt[{[x]}]{x} a_{b_c} {a_b}_c a_{bc} a_b^c a_{b^c}"""
    lists = [tuple(canonical(label)) for label in labels.split()]
    assert len(set(lists)) == len(lists)


@pytest.mark.parametrize(
    ("latex", "reason"),
    [
        ("{x", "'}' missing"),
        ("x}", "without its"),
        ("x^", "argument missing"),
        ("x^{2", "missing"),
        (r"\frac{1}", "argument missing"),
        (r"\frac{1}}", "argument missing"),
        (r"\sqrt", "argument missing"),
        (r"\sqrt[3{x}", "']' missing"),
        ("x^2^3", "second Sup"),
        ("x_2_3", "second Sub"),
        ("x^2'", "second Sup"),
        ("x^_2", "argument missing"),
        (r"\lim_{z \to 1}} f", "without its"),
        (r"\hat{x}", r"'\\hat' is not known"),
        (r"\begin{matrix} a \end{matrix}", "not known"),
        (r"a \\ b", "not known"),
        ("a & b", "not known"),
        ("x # y", "not known"),
        ("三", "not known"),
        (r"\vec{x}", "accents"),
        (r"\mathbb{R}", r"'\\mathbb' is not known .*plain letter"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", "each row its own"),
        (r"\overset{a}{b}", "one symbol above another"),
        (r"\sqrt{x} ABOVE {q}", "'ABOVE' is not known .*above another"),
        ("x BELOW y", "'BELOW' is not known"),
        (r"x=1\tag{3}", r"'\\tag' is not known .*leave it out"),
        (r"\alhpa", r"did you mean \\alpha\?"),
        (r"\infinity", r"did you mean \\infty\?"),
        (r"a\nicefrac12", r"\\frac\{a\}\{b\}"),
        ("x\0", "not known"),
        ("\\", "not known"),
    ],
)
def test_what_is_no_expression_is_refused(latex: str, reason: str) -> None:
    with pytest.raises(LatexError, match=reason):
        canonical(latex)


@pytest.mark.parametrize(
    "piece", ["{", "x^{", r"\sqrt{", r"\sqrt", r"\frac", r"\frac{1}{", r"\sqrt[", "x_\\sqrt "]
)
def test_deep_nesting_is_refused_and_not_a_recursion_error(piece: str) -> None:
    closing = "]" if piece.endswith("[") else "}" if piece.endswith("{") else ""
    with pytest.raises(LatexError):
        canonical(piece * 100_000 + "x" + closing * 100_000)
    with pytest.raises(LatexError):
        canonical(piece * 100_000)


def test_nesting_up_to_the_limit_is_read_and_written() -> None:
    for piece, closing in [("x^{", "}"), (r"\sqrt{", "}"), (r"\sqrt[{", "}]{x}")]:
        tokens = canonical(piece * MAX_DEPTH + "x" + closing * MAX_DEPTH)
        assert canonical(" ".join(tokens)) == tokens
        assert from_tree(to_tree(tokens)) == tokens
        with pytest.raises(LatexError, match="deep"):
            canonical(piece * (MAX_DEPTH + 1) + "x" + closing * (MAX_DEPTH + 1))
    assert text("{" * 60 + "x" + "}" * 60) == "x"


def test_time_is_linear_in_length() -> None:
    def seconds(n: int) -> float:
        start = time.process_time()
        assert len(canonical(r"{{x_1^2}+\frac{a}{b}}" * n)) == 17 * n
        return time.process_time() - start

    seconds(100)
    assert seconds(8000) < 30 * min(seconds(1000) for _ in range(3))  # 8 if linear, 64 if quadratic


# Random layout trees. The labels hold those that brackets, indices and synonyms could trip over.
LABELS = (*"x2A()[]|-.", r"\lt", r"\leq", r"\sin", r"\sum", r"\{", r"\}", r"\prime")


@st.composite
def rows(draw, labels: tuple[str, ...] = LABELS, depth: int = 3, least: int = 1) -> list[Node]:
    row = []
    for _ in range(draw(st.integers(least, 3))):
        node = Node(draw(st.sampled_from(labels)))
        inner = rows(labels, depth - 1)
        kinds = ["symbol", "frac", "sqrt", "overline", "empty"] if depth else ["symbol"]
        kind = draw(st.sampled_from(kinds))
        scripts = (
            draw(st.sampled_from([(), (), ("Sub",), ("Sup",), ("Sub", "Sup")])) if depth else ()
        )
        if kind in ("frac", "sqrt", "overline"):
            node.label = "\\" + kind
            own = ("Above", "Below") if kind == "frac" else ("Inside",)
            node.children = {name: draw(rows(labels, depth - 1, least=0)) for name in own}
            if kind == "sqrt" and draw(st.booleans()):
                node.children["Above"] = draw(inner)
        elif kind == "empty" and scripts:
            node.label = ""
        node.children |= {name: draw(inner) for name in scripts}
        row.append(node)
    return row


@given(rows())
def test_tree_and_tokens_are_inverse(tree: list[Node]) -> None:
    tokens = from_tree(tree)
    assert to_tree(tokens) == tree
    assert from_tree(to_tree(tokens)) == tokens


@given(rows(), rows())
def test_different_trees_give_different_lists(one: list[Node], other: list[Node]) -> None:
    assert (from_tree(one) == from_tree(other)) == (one == other)


@given(rows(labels=("l", "o", "g", "i", "m", ".", "]", r"\ldots")))
def test_canonical_is_idempotent(tree: list[Node]) -> None:
    tokens = canonical(" ".join(from_tree(tree)))
    assert canonical(" ".join(tokens)) == tokens
    assert from_tree(to_tree(tokens)) == tokens


SPELLINGS = {
    r"\lt": (r"\lt", "<"),
    r"\leq": (r"\leq", r"\le"),
    "(": ("(", r"\left(", r"\Big ("),
    ")": (")", r"\right)"),
    "|": ("|", r"\vert", r"\left|"),
    "x": ("x", r"\mbox{x}", r"\mathrm x", r"\, x"),
    r"\sum": (r"\sum", r"\sum\limits"),
    r"\{": (r"\{", r"\lbrace"),
}


def respell(row: list[Node], rng: random.Random) -> list[str]:
    """Another spelling of a row: braces more and fewer, scripts in any order, synonyms."""
    items: list[list[str]] = []
    for i, node in enumerate(row):
        kids = node.children
        if node.label == r"\frac":
            base = [r"\frac", *argument(kids["Above"], rng), *argument(kids["Below"], rng)]
        elif node.label in (r"\sqrt", r"\overline"):
            index = ["[", "{", *respell(kids["Above"], rng), "}", "]"] if "Above" in kids else []
            base = [node.label, *index, *argument(kids["Inside"], rng)]
        elif node.label == "":
            base = ["{", "}"] if i or rng.random() < 0.5 else []
        else:
            base = [rng.choice(SPELLINGS.get(node.label, (node.label,)))]
        if node.label and rng.random() < 0.3:
            base = ["{", *base, "}"]
        scripts = [
            (mark, kids[name]) for mark, name in (("_", "Sub"), ("^", "Sup")) if name in kids
        ]
        rng.shuffle(scripts)
        for n, (mark, script) in enumerate(scripts):
            if n and node.label and rng.random() < 0.5:
                base = ["{", *base, "}"]
            base += [mark, *argument(script, rng)]
        items.append(base)
    if len(items) > 1 and rng.random() < 0.3:
        start = rng.randrange(len(items) - 1)
        items[start : start + 2] = [["{", *items[start], *items[start + 1], "}"]]
    return [piece for item in items for piece in item]


def argument(row: list[Node], rng: random.Random) -> list[str]:
    bare = len(row) == 1 and row[0].label and not row[0].children.keys() & {"Sub", "Sup"}
    pieces = respell(row, rng)
    # A synonym in front, such as \left or \mbox, leaves more than one token: only what is one
    # keeps bare.
    if (
        bare
        and row[0].label not in ("[", r"\frac", r"\sqrt", r"\overline")
        and len(pieces) == 1
        and rng.random() < 0.5
    ):
        return pieces
    return ["{", *(["{", *pieces, "}"] if rng.random() < 0.2 else pieces), "}"]


@given(rows(), st.randoms(use_true_random=False))
def test_random_spellings_give_the_same_list(tree: list[Node], rng: random.Random) -> None:
    tokens = canonical(" ".join(from_tree(tree)))
    latex = ""
    for piece in respell(tree, rng):
        control_word = latex[-1:].isalpha() and "\\" in latex
        latex += (
            " " if (control_word and piece[0].isalpha()) or rng.random() < 0.3 else ""
        ) + piece
    assert canonical(latex) == tokens, latex


PIECES = st.sampled_from([
    *"{}[]^_' x1$s.²½π", r"\frac", r"\sqrt", r"\over", r"\left", r"\right", r"\limits", r"\cdots",
    r"\sum", r"\mathrm{", "sin", r"\\", r"\color{a}", r"\operatorname*",
])  # fmt: skip
TEXTS = st.text(alphabet=r"\{}[]^_' x1$fracsqt.", max_size=30)


@given(TEXTS | st.lists(PIECES, max_size=12).map("".join), st.booleans())
def test_any_text_gives_tokens_or_a_latex_error(latex: str, strict: bool) -> None:
    try:
        tokens = canonical(latex, strict)
    except LatexError:
        assume(False)
    assert canonical(" ".join(tokens), strict) == tokens
    assert from_tree(to_tree(tokens, strict)) == tokens


@pytest.mark.parametrize(
    "row",
    [
        [Node("x", None, {"Inside": [Node("2")]})],
        [Node(r"\frac", None, {"Inside": [Node("2")]})],
        [Node("")],
        [Node("no symbol")],
        [Node("{")],
    ],
)
def test_trees_that_no_token_list_can_say_are_refused(row: list[Node]) -> None:
    with pytest.raises(LatexError):
        from_tree(row)


def test_structure_ignores_labels_and_nothing_else() -> None:
    same = [r"x^2+\frac{a}{b}", r"3^y-\frac{\pi}{)}"]
    assert structure(canonical(same[0])) == structure(canonical(same[1]))
    different = [
        "x^2",
        "x_2",
        "x2",
        "x",
        r"\frac x x",
        r"\sqrt x",
        r"\sqrt[x]x",
        "[x]",
        "^xx",
        r"\sqrt[{]}]{xx}",
    ]
    assert len({structure(canonical(latex)) for latex in different}) == len(different)


@pytest.fixture(scope="module")
def crohme() -> dict[str, list[tuple[str, str, ElementTree.Element | None]]]:
    """Source to (id, label, MathML) of all that can be read."""
    folder = pytest.importorskip("mmlib.store.files").data_root() / "crohme"
    archives = [
        folder / f"{name}.inkml.tar.xz" for name in ("train_2014", "test_2014", "test_2019")
    ]
    if not all(path.is_file() for path in archives):
        pytest.skip(f"no CROHME under {folder}: set MMLIB_DATA")
    found: dict[str, list] = {}
    for path in archives:
        with tarfile.open(path) as archive:
            for member in archive:
                if not member.name.endswith(".inkml"):
                    continue
                inkml = archive.extractfile(member).read().decode("utf-8", "replace")
                label = re.search(r'<annotation type="truth">(.*?)</annotation>', inkml, re.DOTALL)
                if label is None:
                    continue  # the empty file
                mathml = re.search("<math.*?</math>", inkml, re.DOTALL)
                xml = ElementTree.fromstring(mathml[0]) if mathml else None
                name = Path(member.name)
                found.setdefault(name.parts[-2], []).append(
                    (name.stem, html.unescape(label[1]), xml)
                )
    return found


@pytest.mark.slow
def test_every_label_of_crohme_and_its_mathml(crohme: dict) -> None:
    vocabulary = Vocabulary.crohme()
    refused, unknown, agreement, total = [], set(), {}, 0
    for source, expressions in crohme.items():
        agree = 0
        for name, label, xml in expressions:
            try:
                tokens = canonical(label)
            except LatexError:
                refused.append(name)
                continue
            assert from_tree(to_tree(tokens)) == tokens == canonical(" ".join(tokens))
            if not source.startswith("test"):
                unknown |= {token for token in tokens if token not in vocabulary}
            with contextlib.suppress(LatexError):
                # `canonical` makes \ldots of three dots, which MathBrush cut one by one.
                agree += (
                    xml is not None
                    and canonical(" ".join(from_tree(tree_from_mathml(xml)))) == tokens
                )
        agreement[source] = agree / len(expressions)
        total += agree
    print({source: f"{share:.2%}" for source, share in agreement.items()}, total)
    above = ["RIT_2014_178", "RIT_2014_189", "RIT_2014_195"]  # "\\sqrt {x} ABOVE {q}"
    assert sorted(refused) == sorted(["RIT_2014_191", "RIT_2014_216", "RIT_2014_309", *above])
    assert not unknown
    assert total / sum(map(len, crohme.values())) > 0.985
    assert min(agreement.values()) > 0.96


@pytest.mark.slow
def test_token_captions_say_the_same_as_the_labels(crohme: dict) -> None:
    from mmlib.store.files import data_root

    labels = {name: label for name, label, _ in crohme["test_2019"]}
    lines = (
        (data_root() / "crohme" / "captions_2019_sample.tsv")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    assert len(lines) == 95
    for name, caption in (line.split("\t") for line in lines):
        assert canonical(caption) == canonical(labels[name])
