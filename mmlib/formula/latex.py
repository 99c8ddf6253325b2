"""LaTeX as a symbol layout tree: one token list for every way of writing one expression.

Expression labels come in many spellings (``x^2``, ``x ^ {2}``, ``{x}^{ 2 }``). All of them say the
same about the ink: which symbols there are and how they stand to each other. So a label is parsed
into its symbol layout tree and written back in one way, the *canonical tokens*::

    row    = item*
    item   = base [ _ { row } ] [ ^ { row } ]
    base   = symbol | \\frac { row } { row } | \\sqrt [ [ row ] ] { row } | \\overline { row } | { }

An empty base ``{ }`` carries scripts that belong to no symbol on their left. An index that would
hold a bare ``]`` is written ``[ { row } ]``, as LaTeX itself demands. Scripts belong to the last
symbol before them, so ``{(a+b)}^2`` and ``(a+b)^2`` are one expression, and so are ``{a_b}^c`` and
``a_b^c``; ``{a^b}^c`` is not ``a^{bc}``: it is written ``a ^ { b } { } ^ { c }``.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from mmlib.formula.signs import from_unicode
from mmlib.formula.tree import Node
from mmlib.formula.vocabulary import BEYOND, CROHME_CLASSES, DOT

# Scripts, fractions and roots nested deeper are refused: nobody writes that by hand. A label may
# hold more braces than its tree has levels.
MAX_DEPTH = 40
MAX_LENGTH = 200_000  # characters: a thousand times a long label, read in less than a second

TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|\S", re.DOTALL)
_MORE = r"""
    \varepsilon \vartheta \iota \varpi \varrho \varsigma \upsilon \varphi \Gamma \Theta \Lambda
    \Xi \Pi \Sigma \Upsilon \Phi \Psi \star \bullet \oplus \otimes \mp \setminus \simeq \cong
    \propto \supset \supseteq \notin \ni \ll \gg \Leftarrow \mapsto \uparrow \downarrow
    \emptyset \hbar \ell \Re \Im \aleph \triangle \oint \bigcup \bigcap \langle \rangle \lfloor
    \rfloor \lceil \rceil \# \& \$ \_ \vdots \ddots"""
_FUNCTIONS = r"""
    \sec \csc \cot \sinh \cosh \tanh \coth \arcsin \arccos \arctan \ln \lg \exp \max \min \sup \inf
    \limsup \liminf \arg \det \dim \gcd \hom \ker \deg \Pr"""
# Every token that stands for a symbol.
KNOWN = frozenset((*CROHME_CLASSES, DOT, r"\frac", *"*;?@", *BEYOND, *_MORE.split(),
                   *_FUNCTIONS.split()))
SYNONYMS = {
    "<": r"\lt", ">": r"\gt", r"\le": r"\leq", r"\ge": r"\geq", r"\leqslant": r"\leq",
    r"\geqslant": r"\geq", r"\ne": r"\neq", r"\to": r"\rightarrow", r"\gets": r"\leftarrow",
    r"\lbrace": r"\{", r"\rbrace": r"\}", r"\vert": "|", r"\lvert": "|", r"\rvert": "|",
    r"\mid": "|", r"\dots": r"\ldots", r"\cdots": r"\ldots", r"\dotsc": r"\ldots",
    r"\dotsb": r"\ldots", r"\land": r"\wedge", r"\lor": r"\vee", r"\lnot": r"\neg",
    r"\owns": r"\ni", r"\colon": ":", r"\ast": "*", r"\sb": "_", r"\sp": "^",
    r"\bar": r"\overline",
    r"\dfrac": r"\frac", r"\tfrac": r"\frac",
    # Two strokes, two symbols.
    **dict.fromkeys((r"\|", r"\Vert", r"\lVert", r"\rVert", r"\parallel"), "{ | | }"),
    # In braces, so that they can neither open nor close the index of a root.
    r"\lbrack": "{ [ }", r"\rbrack": "{ ] }",
}  # fmt: skip
# What hangs on them, scripts aside; on other symbols, limits may.
_OWN = {r"\sqrt": {"Above", "Inside"}, r"\overline": {"Inside"}}
# By letter or by name: the ink is the same, and CROHME's ink truth has one symbol for either.
_SPELLED: dict[tuple[str, ...], str] = {
    ("l", "o", "g"): r"\log", ("l", "i", "m"): r"\lim", (".", ".", "."): r"\ldots",
}  # fmt: skip
_SIZED = r"""
    \left \right \middle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr \Biggl \Biggr
    \bigm \Bigm \biggm \Biggm"""
_DELIMITED = frozenset(_SIZED.split())
# These say how to draw, not what: size, weight, spacing, upright or italic.
_UPRIGHT = r"""
    \rm \it \bf \sf \tt \sl \mbox \hbox \text \textrm \textit \textbf \textsf \texttt \textup
    \textnormal \mathrm \mathit \mathbf \mathsf \mathtt \mathnormal \boldsymbol \bm \pmb \mathop
    \operatorname \mathord \mathbin \mathrel \mathopen \mathclose \mathpunct \mathinner"""
_DRAWING = r"""
    $ ~ \( \) \[ \] \, \; \: \! \> \/ \quad \qquad \enspace \thinspace \medspace \thickspace
    \negthinspace \space \nobreak \allowbreak \hfill \strut \mathstrut \relax \null \noindent
    \centering \nonumber \notag \ensuremath \limits \nolimits \displaylimits \displaystyle
    \textstyle \scriptstyle \scriptscriptstyle \tiny \scriptsize \footnotesize \small \normalsize
    \large \Large \LARGE \huge \Huge \boldmath \unboldmath \bfseries \mdseries \itshape \upshape
    \rmfamily \normalfont"""
_IGNORED = frozenset((*_DRAWING.split(), *_UPRIGHT.split(), *_DELIMITED, "\\ "))
# Rewritten before the tokens are read. Each pattern takes time linear in the label's length.
_FONT = "|".join(name[1:] for name in _UPRIGHT.split())
_LETTERS = r"((?:[A-Za-z]|\\[,;:! ]|\s)+)"
_WORDS = (re.compile(rf"\\(?:{_FONT})\*?\s*\{{{_LETTERS}\}}"),
          re.compile(rf"\{{\s*\\(?:{_FONT})(?![A-Za-z]){_LETTERS}\}}"))
_NAMES = frozenset(re.findall(r"\\([a-z]+)", r"\sin \cos \tan \log \lim" + _FUNCTIONS))
_ROWS = r"equation|displaymath|math|align|aligned|gather|gathered|multline|split|eqnarray"
_REWRITTEN = (
    # What goes with an argument: space, colour, a label; then the environments of one row.
    (re.compile(r"\\(?:[hv]space\*?|label|color|textcolor|colorbox|raisebox|[hv]?phantom)\s*"
                r"(?:\[[A-Za-z]*\]\s*)?\{[^{}\\]*\}"), " "),
    (re.compile(r"\\(?:[hv]skip|m?kern|mskip)\s*-?[0-9.]+\s*[a-z]{2}"), " "),
    (re.compile(r"(?:\\\\\s*)?\\(?:begin|end)\s*\{\s*(?:" + _ROWS + r")\*?\s*\}"), " "),
    (re.compile(r"\\\\(?:\[[^\]]{0,20}\])?[\s$]*\Z"), ""),
    (re.compile(r"(\\operatorname)\*"), r"\1"),
    (re.compile(r"\\cfrac(?![A-Za-z])\s*(?:\[[lcr]\])?"), r"\\frac"),
)
# What to write instead of a command that no symbol stands for.
_REMEDIES = {
    "accents and lines under a symbol are not read; leave the formula out": r"""
    \hat \widehat \underline \vec \tilde \widetilde \dot \ddot \check \breve \acute
    \grave \mathring \overrightarrow \overleftarrow \overbrace \underbrace""",
    "one symbol above another is not read; write limits with _ and ^, or leave the formula out":
    r"\overset \underset \stackrel \atop \above \choose \binom \substack ABOVE BELOW",
    "rows and columns are not read; give each row its own label and picture":
    r"\begin \end & \\ \matrix \pmatrix \bmatrix \cases \array \hline \cr",
    "other alphabets are not read; write the plain letter if it is one, or leave the formula out":
    r"\mathbb \mathcal \mathfrak \mathscr \cal \frak \Bbb \mathds",
    "write the division as \\frac{a}{b} or a/b": r"\nicefrac \sfrac \overwithdelims",
    "leave it out": r"\tag \ref \cite \footnote",
}
_REMEDY = {command: text for text, commands in _REMEDIES.items() for command in commands.split()}
# Kept where a label is read strictly.
_STRICT = {r"\limits": r"\limits", r"\cdots": r"\cdots", r"\dotsb": r"\cdots"}


class LatexError(ValueError):
    """A label, token list or tree that is not an expression; the message says where and why."""


class UnknownToken(LatexError):
    """A token that no symbol of `KNOWN` stands for."""


def canonical(latex: str, strict: bool = False) -> list[str]:
    """The canonical tokens of a LaTeX label. Raises LatexError where it is no known expression.

    strict: keep what the competition's MathML tells apart: `\\limits`, before the scripts that it
    sets over and under a symbol, and `\\cdots`.
    """
    if len(latex) > MAX_LENGTH:
        raise LatexError(f"{len(latex):,} characters are too many for one expression")
    pieces = [piece for token in TOKEN.findall(_rewritten(latex)) for piece in _split(token)]
    tokens: list[str] = []
    # After parsing, since braces may stand between the letters of a name, as in {l}og.
    for token in from_tree(to_tree(pieces, strict)):
        tokens.append(token)
        if name := _SPELLED.get(tuple(tokens[-3:])):
            tokens[-3:] = [name]
    return tokens


def label_fields(latex: str | None) -> dict[str, Any]:
    """A label as the fields `latex`, `tokens` and `label_error` of `Ink`; an empty one is none."""
    try:
        tokens = tuple(canonical(latex or "")) or None
        return {"latex": latex if tokens else None, "tokens": tokens, "label_error": None}
    except LatexError as error:
        return {"latex": latex, "tokens": None, "label_error": str(error)}


def to_tree(tokens: Sequence[str], strict: bool = False) -> list[Node]:
    """The layout tree of tokens; on canonical tokens, strict or not, the inverse of `from_tree`.

    Raises LatexError where the tokens are no expression.
    """
    try:
        return _Parser(_normalise(tokens, strict)).row(None)
    except RecursionError:
        raise LatexError("groups nested hundreds deep") from None


def from_tree(row: Sequence[Node]) -> list[str]:
    """The canonical tokens of a layout tree. Raises LatexError on a node without a spelling."""
    return [token for token, _ in _written(row)]


def align(tokens: Sequence[str], tree: Sequence[Node]) -> list[str | None] | None:
    """Per token, the ``ref`` of the symbol whose ink it is: for ``\\frac`` that of its bar.

    Structure tokens have None. The whole is None where the tree (of `tree_from_mathml`) says
    something else than the tokens: one is wrong, or three dots are the ink of one ``\\ldots``.
    """
    try:
        written = _written(tree)
    except LatexError:
        return None
    return [ref for _, ref in written] if [token for token, _ in written] == list(tokens) else None


def structure(tokens: Sequence[str]) -> tuple[str, ...]:
    """The layout tree without its labels, hashable: equal for ``x^2`` and ``3^y``."""
    pending = list(tree := to_tree(tokens))
    while pending:
        node = pending.pop()
        node.label = node.label if node.label in ("", r"\frac", *_OWN) else "x"
        pending += [child for row in node.children.values() for child in row]
    return tuple(from_tree(tree))


def depth(tokens: Sequence[str]) -> int:
    """How deep scripts, fractions and roots are nested: 0 for a plain row."""
    level = deepest = 0
    for token in tokens:
        level += (token == "{") - (token == "}")
        deepest = max(deepest, level)
    return deepest


def with_scripts(items: list[Node], scripts: dict[str, list[Node]]) -> list[Node]:
    """Hang scripts on the last item; on an empty base if there is none or it has the same ones."""
    if scripts:
        if not items or scripts.keys() & items[-1].children.keys():
            items = [*items, Node("")]
        items[-1].children |= scripts
    return items


def _split(token: str) -> list[str]:
    """A control word run into a capital letter (``\\ltN``, as CROHME has it) is two tokens."""
    head, tail = token[:-1], token[-1]
    run_on = head[1:].islower() and tail.isupper() and token not in KNOWN
    return [head, tail] if run_on and (head in KNOWN or head in SYNONYMS) else [token]


def _rewritten(latex: str) -> str:
    """A label with Unicode signs and words as commands, without what has an argument to ignore."""
    if found := re.search(r"(?<![A-Za-z\\])(?:ABOVE|BELOW)(?![A-Za-z])", latex):
        raise UnknownToken(_unknown(found[0]))
    if not latex.isascii():
        latex = from_unicode(latex, KNOWN)
    for pattern in _WORDS:
        latex = pattern.sub(_named, latex)
    for pattern, new in _REWRITTEN:
        latex = pattern.sub(new, latex)
    return latex


def _named(match: re.Match[str]) -> str:
    """Letters in an upright font: as the function that they name, all together or by words."""
    words = [word for word in re.split(r"\\.|\s", match[1]) if word]
    words = ["".join(words)] if "".join(words) in _NAMES else words
    return "{" + " ".join(f"\\{word} " if word in _NAMES else word for word in words) + "}"


def _unknown(token: str) -> str:
    """What is said of a token that no symbol stands for, and what to write instead."""
    remedy = _REMEDY.get(token)
    if remedy is None:
        near = token[:1] == "\\" and difflib.get_close_matches(token[:20], sorted(KNOWN), 1, 0.75)
        remedy = (f"did you mean {near[0]}?" if near else
                  "leave the formula out, or write it with symbols of mmlib.formula.latex.KNOWN")
    return f"'{token[:40]}' is not known ({remedy})"


def _normalise(tokens: Sequence[str], strict: bool) -> list[str]:
    """Tokens with synonyms merged, without those that only say how to draw."""
    kept: list[str] = []
    before = ""
    over = r"\over" in tokens  # its two sides end at \left, \middle and \right, too
    for token in tokens:
        if over and token in (r"\right", r"\middle"):
            kept.append("}")
        elif strict and token in _STRICT:
            kept.append(_STRICT[token])
        elif token not in _IGNORED and not (token == "." and before in _DELIMITED):
            kept += SYNONYMS.get(token, token).split(" ")
        if over and before in (r"\left", r"\middle"):
            kept.append("{")
        before = token
    return kept


class _Parser:
    """Recursive descent over normalised tokens; `at` is the token to read next."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def error(self, reason: str, kind: type[LatexError] = LatexError) -> LatexError:
        near = " ".join(self.tokens[max(0, self.at - 5) : self.at + 3])
        return kind(f"{reason} at token {self.at}, near '{near}'")

    def row(self, stop: str | None) -> list[Node]:
        """Items up to `stop`, which is read too; None stops at the end."""
        row: list[Node] = []
        while (token := self.peek()) != stop:
            if token is None or token == "}":
                raise self.error(f"'{stop}' missing" if stop else "'}' without its '{'")
            if token == "{":
                self.at += 1
                items = self.row("}")
            elif token == r"\over":  # what stands before it in its group, over what follows
                self.at += 1
                return [Node(r"\frac", children={"Above": row, "Below": self.row(stop)})]
            else:
                items = [] if token in ("_", "^", r"\limits") else [self.base()]
            row += with_scripts(items, self.scripts())
        self.at += 1
        return row

    def scripts(self) -> dict[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        primes: list[Node] = []
        below, above = "Sub", "Sup"
        while (token := self.peek()) in ("_", "^", "'", r"\limits"):
            if token == r"\limits":
                self.at, below, above = self.at + 1, "Below", "Above"
                continue
            relation = below if token == "_" else "Sup" if token == "'" else above
            if relation in found:
                raise self.error(f"a second {relation} on one symbol")
            self.at += 1
            if token == "'":  # x'^2 and x^{\prime 2} are the same
                primes.append(Node(r"\prime"))
            else:
                found[relation] = self.argument()
        if primes:
            found["Sup"] = primes + found.get("Sup", [])
        return {relation: row for relation, row in found.items() if row}

    def argument(self) -> list[Node]:
        if self.peek() in (None, "}", "_", "^"):
            raise self.error("an argument missing")
        if self.peek() == "{":
            self.at += 1
            return self.row("}")
        return [self.base()]

    def base(self) -> Node:
        token = self.tokens[self.at]
        if token == "'":
            token = r"\prime"
        if token not in KNOWN and token != r"\cdots":
            raise self.error(_unknown(token), UnknownToken)
        self.at += 1
        # Braces are optional around one symbol: \frac12 and \sqrt x are LaTeX, too.
        if token == r"\frac":
            return Node(token, children={"Above": self.argument(), "Below": self.argument()})
        if token not in _OWN:
            return Node(token)
        index: list[Node] = []
        if token == r"\sqrt" and self.peek() == "[":
            self.at += 1
            index = self.row("]")
        inside = {"Inside": self.argument()}
        return Node(token, children={"Above": index} | inside if index else inside)


def _written(row: Sequence[Node], depth: int = 0) -> list[tuple[str, str | None]]:
    """The canonical tokens of a row, each with the `ref` of its symbol."""
    if depth > MAX_DEPTH:
        raise LatexError(f"scripts, fractions and roots nested more than {MAX_DEPTH} deep")
    out: list[tuple[str, str | None]] = []

    def braced(row: Sequence[Node]) -> None:
        out.extend([("{", None), *_written(row, depth + 1), ("}", None)])

    for node in row:
        own = _OWN.get(node.label, {"Above", "Below"})
        if extra := node.children.keys() - own - {"Sub", "Sup"}:
            raise LatexError(f"symbol '{node.label}' cannot have {sorted(extra)}")
        if node.label:
            if node.label not in KNOWN and node.label != r"\cdots":
                raise LatexError(f"'{node.label}' is not a symbol that we know")
            out.append((node.label, node.ref))
        elif not any(node.children.values()):
            raise LatexError("an empty base without scripts")
        else:
            out += [("{", None), ("}", None)]
        if node.label == r"\frac":
            braced(node.children.get("Above", []))
            braced(node.children.get("Below", []))
        elif node.label in _OWN:
            if row_above := node.children.get("Above"):  # the root's index, as 3 in \sqrt[3]{x}
                index = _written(row_above, depth + 1)
                # A ] outside braces, of its own or of a root's index in it, would end it too early.
                if any(n.label == "]" or (n.label == r"\sqrt" and n.children.get("Above"))
                       for n in row_above):
                    index = [("{", None), *index, ("}", None)]
                out += [("[", None), *index, ("]", None)]
            braced(node.children.get("Inside", []))
        scripts = [("Sub", "_"), ("Sup", "^")]
        if node.label not in (r"\frac", r"\sqrt") and node.children.keys() & {"Above", "Below"}:
            scripts += [("", r"\limits"), ("Below", "_"), ("Above", "^")]
        for relation, mark in scripts:
            script = node.children.get(relation)
            if script or not relation:
                out.append((mark, None))
            if script:
                braced(script)
    return out

