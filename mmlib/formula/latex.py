"""LaTeX as a symbol layout tree: one token list for every way of writing one expression.

Expression labels come in many spellings (``x^2``, ``x ^ {2}``, ``{x}^{ 2 }``). All of them say the same about
the ink: which symbols there are and how they stand to each other. So a label is parsed into its symbol layout
tree and written back in one way, the *canonical tokens*::

    row    = item*
    item   = base [ _ { row } ] [ ^ { row } ]
    base   = symbol | \\frac { row } { row } | \\sqrt [ [ row ] ] { row } | { }

An empty base ``{ }`` carries scripts that belong to no symbol on their left. An index that would hold a bare
``]`` is written ``[ { row } ]``, as LaTeX itself demands. Scripts belong to the last symbol before them, so
``{(a+b)}^2`` and ``(a+b)^2`` are one expression, and so are ``{a_b}^c`` and ``a_b^c``; ``{a^b}^c`` is not
``a^{bc}``: it is written ``a ^ { b } { } ^ { c }``.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

# Scripts, fractions and roots nested deeper are refused: nobody writes that by hand, and Python's recursion
# limit is far. A label may hold more braces than its tree has levels, as redundant ones go.
MAX_DEPTH = 40
MAX_LENGTH = 200_000  # characters: a thousand times a long label, read in less than a second
_MAX_BRACES = 100


def _words(text: str) -> list[str]:
    return text.split()


_LETTERS = "ABCEFGHILMNPRSTVXYabcdefghijklmnopqrstuvwxyz"
_COMMANDS = _words(r"""
    \Delta \alpha \beta \cos \div \exists \forall \gamma \geq \gt \in \infty \int \lambda \ldots \leq \lim
    \log \lt \mu \neq \phi \pi \pm \prime \rightarrow \sigma \sin \sqrt \sum \tan \theta \times \{ \}""")
# The 101 symbol classes of CROHME 2014 to 2019. The bar of a fraction has the class "-", and the token \frac.
CROHME_CLASSES = tuple(sorted({*"!()+,-./0123456789=[]|", *_LETTERS, *_COMMANDS}))
# Classed as "." in CROHME's ink truth, but 4 \cdot 5 is not 4.5.
_DOT = r"\cdot"
STRUCTURE = (r"\frac", "^", "_", "{", "}")

_BASES = frozenset(
    _words(r"""
    \epsilon \varepsilon \zeta \eta \vartheta \iota \kappa \nu \xi \varpi \rho \varrho \varsigma \tau
    \upsilon \varphi \chi \psi \omega \delta \Gamma \Theta \Lambda \Xi \Pi \Sigma \Upsilon \Phi \Psi
    \Omega \star \circ \bullet \oplus \otimes \cap \cup \wedge \vee \mp \setminus \equiv \sim \simeq
    \approx \cong \propto \subset \subseteq \supset \supseteq \notin \ni \perp \ll \gg \leftarrow
    \leftrightarrow \Rightarrow \Leftarrow \Leftrightarrow \mapsto \uparrow \downarrow \partial \nabla
    \emptyset \hbar \ell \Re \Im \aleph \angle \triangle \neg \prod \oint \bigcup \bigcap \langle \rangle
    \lfloor \rfloor \lceil \rceil \% \# \& \$ \_ \vdots \ddots \sec \csc \cot \sinh \cosh \tanh \coth
    \arcsin \arccos \arctan \ln \lg \exp \max \min \sup \inf \limsup \liminf \arg \det \dim \gcd \hom \ker
    \deg \Pr""")
).union(CROHME_CLASSES, [_DOT, r"\frac"], "*:;?@", "DJKOQUWZ")
_SYNONYMS = {
    "<": r"\lt", ">": r"\gt", r"\le": r"\leq", r"\ge": r"\geq", r"\leqslant": r"\leq", r"\geqslant": r"\geq",
    r"\ne": r"\neq", r"\to": r"\rightarrow", r"\gets": r"\leftarrow", r"\lbrace": r"\{", r"\rbrace": r"\}",
    r"\vert": "|", r"\lvert": "|", r"\rvert": "|", r"\mid": "|", r"\dots": r"\ldots", r"\cdots": r"\ldots",
    r"\dotsc": r"\ldots", r"\dotsb": r"\ldots", r"\land": r"\wedge", r"\lor": r"\vee", r"\lnot": r"\neg",
    r"\owns": r"\ni", r"\colon": ":", r"\ast": "*", r"\sb": "_", r"\sp": "^", r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    # Two strokes, two symbols.
    **dict.fromkeys(_words(r"\| \Vert \lVert \rVert \parallel"), "{ | | }"),
    # In braces, so that they can neither open nor close the index of a root.
    r"\lbrack": "{ [ }", r"\rbrack": "{ ] }",
}  # fmt: skip
# Letter by letter or by name: the ink is the same, and CROHME's ink truth has one symbol for either.
_RUNS: dict[tuple[str, ...], str] = {("l", "o", "g"): r"\log", ("l", "i", "m"): r"\lim", (".", ".", "."): r"\ldots"}
# These say how to draw, not what: size, spacing, upright or italic.
_IGNORED = frozenset(
    _words(r"""
    $ ~ \( \) \[ \] \, \; \: \! \> \/ \quad \qquad \thinspace \limits \nolimits \displaylimits
    \displaystyle \textstyle \scriptstyle \scriptscriptstyle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr
    \biggl \biggr \Biggl \Biggr \rm \it \mbox \hbox \text \textrm \textit \mathrm \mathit \mathnormal
    \left \right \middle""")
).union(["\\ "])
_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|\S", re.DOTALL)
_XML_ID = "{http://www.w3.org/XML/1998/namespace}id"
# Presentation MathML as CROHME writes it: the relations of an element's parts, and names of symbols.
_ARITY = {
    "mfrac": ("Above", "Below"), "mroot": ("Inside", "Above"),
    "msub": ("Base", "Sub"), "msup": ("Base", "Sup"), "msubsup": ("Base", "Sub", "Sup"),
    "munder": ("Base", "Sub"), "mover": ("Base", "Sup"), "munderover": ("Base", "Sub", "Sup"),
}  # fmt: skip
_ENTITIES = {
    "infin": r"\infty", "rarr": r"\rightarrow", "hellip": r"\ldots", "ctdot": r"\ldots", "exist": r"\exists",
}  # fmt: skip


class LatexError(ValueError):
    """A label, token list or tree that is not an expression; the message says where and why."""


@dataclass
class Node:
    """A symbol and what hangs on it; its right neighbour is the next node of the list that holds it.

    ``children`` maps a relation (Sub, Sup, Above, Below, Inside) to a row of nodes. ``\\frac`` has Above and
    Below, ``\\sqrt`` has Inside and, for an index, Above; what LaTeX writes with ``_`` and ``^`` is Sub and
    Sup, limits of sums included. ``ref`` is the ``xml:id`` of the symbol, where there is one.
    """

    label: str
    ref: str | None = None
    children: dict[str, list["Node"]] = field(default_factory=dict)


def canonical(latex: str) -> list[str]:
    """The canonical tokens of a LaTeX label. Raises LatexError where it is no expression that we know."""
    if len(latex) > MAX_LENGTH:
        raise LatexError(f"{len(latex):,} characters are too many for one expression")
    parts = [part for token in _TOKEN.findall(latex) for part in _split(token)]
    tokens: list[str] = []
    for token in from_tree(to_tree(parts)):
        tokens.append(token)
        if name := _RUNS.get(tuple(tokens[-3:])):
            tokens[-3:] = [name]
    return tokens


def to_tree(tokens: Sequence[str]) -> list[Node]:
    """The symbol layout tree of tokens; on canonical tokens the inverse of `from_tree`. Raises LatexError."""
    return _Parser(_normalise(tokens)).row(None)


def from_tree(row: Sequence[Node]) -> list[str]:
    """The canonical tokens of a layout tree. Raises LatexError on a node that no token list can say."""
    return [token for token, _ in _written(row)]


def align(tokens: Sequence[str], tree: Sequence[Node]) -> list[str | None] | None:
    """Per token, the ``xml:id`` of the symbol whose ink it is: for ``\\frac`` that of its bar.

    Structure tokens have None. The whole is None where the tree (of `tree_from_mathml`) says something else
    than the tokens: one of the two is wrong, or three dots are the ink of one ``\\ldots``.
    """
    try:
        written = _written(tree)
    except LatexError:
        return None
    return [ref for _, ref in written] if [token for token, _ in written] == list(tokens) else None


def structure(tokens: Sequence[str]) -> tuple[str, ...]:
    """The layout tree with its labels ignored, as something hashable: equal for ``x^2`` and ``3^y``."""
    pending = list(tree := to_tree(tokens))
    while pending:
        node = pending.pop()
        node.label = node.label if node.label in ("", r"\frac", r"\sqrt") else "x"
        pending += [child for row in node.children.values() for child in row]
    return tuple(from_tree(tree))


def tree_from_mathml(element: Any) -> list[Node]:
    """The symbol layout tree of presentation MathML, as CROHME's InkML files hold it.

    ``element`` is the ``math`` element, or one around it, of lxml or ElementTree. Raises LatexError where it
    is malformed or holds a symbol that we do not know.
    """
    return _mathml_row(element, 0)


class Vocabulary:
    """Tokens and their ids: the specials, then ``tokens`` as given. Raises ValueError if one comes twice."""

    SPECIALS = ("<pad>", "<sos>", "<eos>", "<unk>")

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = (*self.SPECIALS, *tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            raise ValueError("a vocabulary holds each token once")
        self.pad, self.sos, self.eos, self.unk = range(4)

    @classmethod
    def crohme(cls) -> "Vocabulary":
        """CROHME's 101 symbol classes, ``\\cdot`` and the structure tokens: the same ids in every run."""
        return cls.from_tokens((*CROHME_CLASSES, _DOT, *STRUCTURE))

    @classmethod
    def from_tokens(cls, tokens: Iterable[str]) -> "Vocabulary":
        """The distinct tokens among those given, sorted."""
        return cls(sorted(set(tokens) - set(cls.SPECIALS)))

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Ids of tokens; an unknown token has the id ``unk``."""
        return [self._ids.get(token, self.unk) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Tokens of ids up to the first ``<eos>``, without ``<pad>`` and ``<sos>``."""
        tokens = []
        for i in ids:
            if i == self.eos:
                break
            if i not in (self.pad, self.sos):
                tokens.append(self.tokens[i])
        return tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids


def _split(token: str) -> list[str]:
    """A control word run into a capital letter (``\\ltN``, as CROHME has it) is two tokens."""
    head, tail = token[:-1], token[-1]
    run_on = head[1:].islower() and tail.isupper() and token not in _BASES
    return [head, tail] if run_on and (head in _BASES or head in _SYNONYMS) else [token]


def _normalise(tokens: Iterable[str]) -> list[str]:
    """Tokens with synonyms merged and those that only say how to draw left out."""
    kept: list[str] = []
    after = ""
    for token in tokens:
        if token == "." and after in (r"\left", r"\right", r"\middle"):  # the empty delimiter
            pass
        elif token not in _IGNORED:
            kept += _SYNONYMS.get(token, token).split(" ")
        after = token
    return kept


class _Parser:
    """Recursive descent over normalised tokens; `at` is the token to read next."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def peek(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def fail(self, reason: str) -> LatexError:
        near = " ".join(self.tokens[max(0, self.at - 5) : self.at + 3])
        return LatexError(f"{reason} at token {self.at}, near '{near}'")

    def row(self, stop: str | None) -> list[Node]:
        """Items up to `stop`, which is read too; None stops at the end."""
        self.depth += 1
        if self.depth > _MAX_BRACES:
            raise self.fail(f"nested more than {_MAX_BRACES} deep")
        row: list[Node] = []
        while (token := self.peek()) != stop:
            if token is None or token == "}":
                raise self.fail(f"'{stop}' missing" if stop else "'}' without its '{'")
            if token == "{":
                self.at += 1
                items = self.row("}")
            else:
                items = [] if token in ("_", "^") else [self.base()]
            row += _with_scripts(items, self.scripts(), merge=token == "{")
        self.at += 1
        self.depth -= 1
        return row

    def scripts(self) -> dict[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        primes: list[Node] = []
        while (token := self.peek()) in ("_", "^", "'"):
            relation = "Sub" if token == "_" else "Sup"
            if relation in found:
                raise self.fail(f"a second {relation} on one symbol")
            self.at += 1
            if token == "'":
                primes.append(Node(r"\prime"))
            else:
                found[relation] = self.argument()
        if primes:
            found["Sup"] = primes + found.get("Sup", [])
        return {relation: row for relation, row in found.items() if row}

    def argument(self) -> list[Node]:
        if self.peek() in (None, "}", "_", "^"):
            raise self.fail("an argument missing")
        if self.peek() == "{":
            self.at += 1
            return self.row("}")
        self.depth += 1
        if self.depth > _MAX_BRACES:
            raise self.fail(f"nested more than {_MAX_BRACES} deep")
        node = self.base()
        self.depth -= 1
        return [node]

    def base(self) -> Node:
        token = self.tokens[self.at]
        if token == "'":
            token = r"\prime"
        if token not in _BASES:
            raise self.fail(f"'{token}' is not known")
        self.at += 1
        if token == r"\frac":
            return Node(token, children={"Above": self.argument(), "Below": self.argument()})
        if token != r"\sqrt":
            return Node(token)
        index: list[Node] = []
        if self.peek() == "[":
            self.at += 1
            index = self.row("]")
        inside = {"Inside": self.argument()}
        return Node(token, children={"Above": index} | inside if index else inside)


def _with_scripts(items: list[Node], scripts: dict[str, list[Node]], merge: bool) -> list[Node]:
    """Hang scripts on the last item, or on an empty base where there is none or it has them already."""
    if scripts:
        if not items or (merge and scripts.keys() & items[-1].children.keys()):
            items = [*items, Node("")]
        items[-1].children |= scripts
    return items


def _written(row: Sequence[Node]) -> list[tuple[str, str | None]]:
    """The canonical tokens of a row, each with the `ref` of its symbol."""
    out: list[tuple[str, str | None]] = []
    _write(row, out, 0)
    return out


def _write(row: Sequence[Node], out: list[tuple[str, str | None]], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LatexError(f"scripts, fractions and roots nested more than {MAX_DEPTH} deep")

    def braced(row: Sequence[Node]) -> None:
        out.append(("{", None))
        _write(row, out, depth + 1)
        out.append(("}", None))

    for node in row:
        own = {r"\frac": {"Above", "Below"}, r"\sqrt": {"Above", "Inside"}}.get(node.label, set())
        if extra := node.children.keys() - own - {"Sub", "Sup"}:
            raise LatexError(f"symbol '{node.label}' cannot have {sorted(extra)}")
        if node.label:
            if node.label not in _BASES:
                raise LatexError(f"'{node.label}' is not a symbol that we know")
            out.append((node.label, node.ref))
        elif not any(node.children.values()):
            raise LatexError("an empty base without scripts")
        else:
            out += [("{", None), ("}", None)]
        if node.label == r"\frac":
            braced(node.children.get("Above", []))
            braced(node.children.get("Below", []))
        elif node.label == r"\sqrt":
            if index := node.children.get("Above"):
                out.append(("[", None))
                start = len(out)
                _write(index, out, depth + 1)
                if _closes([token for token, _ in out[start:]]):
                    out[start:] = [("{", None), *out[start:], ("}", None)]
                out.append(("]", None))
            braced(node.children.get("Inside", []))
        for relation, mark in (("Sub", "_"), ("Sup", "^")):
            if script := node.children.get(relation):
                out.append((mark, None))
                braced(script)


def _closes(tokens: Sequence[str]) -> bool:
    """Whether a ']' outside all braces would end the index of a root too early."""
    level = 0
    for token in tokens:
        level += (token == "{") - (token == "}")
        if token == "]" and level == 0:
            return True
    return False


def _mathml_row(element: Any, depth: int) -> list[Node]:
    if depth > MAX_DEPTH:
        raise LatexError(f"MathML nested more than {MAX_DEPTH} deep")
    row: list[Node] = []
    pending = [element]  # CROHME nests a row to the right once for each symbol: no recursion here
    while pending:
        element = pending.pop()
        tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""  # "": a comment
        parts = [part for part in element if isinstance(part.tag, str)]
        ref = element.get(_XML_ID)
        if tag in ("math", "mrow", "mstyle", "annotationXML", "semantics"):
            pending += reversed(parts)
        elif tag in ("mi", "mo", "mn", "mtext"):
            symbols = _leaf((element.text or "").strip(), ref or "")
            row += [Node(symbol.label, ref, symbol.children) for symbol in symbols]
        elif tag == "msqrt":
            inside = [node for part in parts for node in _mathml_row(part, depth + 1)]
            row.append(Node(r"\sqrt", ref, {"Inside": inside}))
        elif tag in _ARITY:
            if len(parts) != len(_ARITY[tag]):
                raise LatexError(f"MathML {tag} with {len(parts)} parts instead of {len(_ARITY[tag])}")
            rows = dict(zip(_ARITY[tag], (_mathml_row(part, depth + 1) for part in parts), strict=True))
            if tag in ("mfrac", "mroot"):
                row.append(Node(r"\frac" if tag == "mfrac" else r"\sqrt", ref, rows))
            else:
                base = rows.pop("Base")
                row += _with_scripts(base, {k: v for k, v in rows.items() if v}, merge=True)
        elif tag:
            raise LatexError(f"MathML element '{tag}' is not known")
    return row


def _leaf(text: str, ref: str) -> list[Node]:
    """The symbols of a leaf: by its id (MfrDB's ``\\lim_1`` reads "im"), by name (``sigma``), as LaTeX."""
    command = "\\" + text
    if (named := ref.rpartition("_")[0]).startswith("\\") and named in _BASES:
        text = named
    elif text in _ENTITIES:
        text = _ENTITIES[text]
    elif text not in _BASES and (command in _BASES or command in _SYNONYMS):
        text = command
    return to_tree(_TOKEN.findall(text))


def depth(tokens: Sequence[str]) -> int:
    """How deep scripts, fractions and roots are nested: 0 for a plain row."""
    level = deepest = 0
    for token in tokens:
        level += (token == "{") - (token == "}")
        deepest = max(deepest, level)
    return deepest
