"""The symbol layout tree of presentation MathML, as CROHME's InkML files hold it."""

from typing import Any

from mmlib.formula.latex import KNOWN, MAX_DEPTH, SYNONYMS, TOKEN, LatexError, to_tree, with_scripts
from mmlib.formula.tree import Node

XML_ID = "{http://www.w3.org/XML/1998/namespace}id"
# The relation of each child of an element to the symbol that the element stands for.
_RELATIONS = {
    "mfrac": ("Above", "Below"), "mroot": ("Inside", "Above"),
    "msub": ("Base", "Sub"), "msup": ("Base", "Sup"), "msubsup": ("Base", "Sub", "Sup"),
    "munder": ("Base", "Sub"), "mover": ("Base", "Sup"), "munderover": ("Base", "Sub", "Sup"),
}  # fmt: skip
_ENTITIES = {
    "infin": r"\infty", "rarr": r"\rightarrow", "hellip": r"\ldots", "ctdot": r"\ldots",
    "exist": r"\exists",
}  # fmt: skip


def tree_from_mathml(element: Any) -> list[Node]:
    """The symbol layout tree of a ``math`` element, or of one around it, of lxml or ElementTree.

    Raises LatexError where it is malformed or holds a symbol that we do not know.
    """
    return _row(element, 0)


def _row(element: Any, depth: int) -> list[Node]:
    if depth > MAX_DEPTH:
        raise LatexError(f"MathML nested more than {MAX_DEPTH} deep")
    row: list[Node] = []
    pending = [element]  # CROHME nests a row to the right once per symbol: no recursion here
    while pending:
        element = pending.pop()
        tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
        inner = [child for child in element if isinstance(child.tag, str)]  # no comments
        ref = element.get(XML_ID)
        if tag in ("math", "mrow", "mstyle", "annotationXML", "semantics"):
            pending += reversed(inner)
        elif tag in ("mi", "mo", "mn", "mtext"):
            symbols = _leaf((element.text or "").strip(), ref or "")
            row += [Node(symbol.label, ref, symbol.children) for symbol in symbols]
        elif tag == "msqrt":
            inside = [node for child in inner for node in _row(child, depth + 1)]
            row.append(Node(r"\sqrt", ref, {"Inside": inside}))
        elif tag in _RELATIONS:
            names = _RELATIONS[tag]
            if len(inner) != len(names):
                raise LatexError(f"MathML {tag} with {len(inner)} parts instead of {len(names)}")
            rows = dict(zip(names, (_row(child, depth + 1) for child in inner), strict=True))
            if tag in ("mfrac", "mroot"):
                row.append(Node(r"\frac" if tag == "mfrac" else r"\sqrt", ref, rows))
            else:
                base = rows.pop("Base")
                row += with_scripts(base, {k: v for k, v in rows.items() if v})
        elif tag:
            raise LatexError(f"MathML element '{tag}' is not known")
    return row


def _leaf(text: str, ref: str) -> list[Node]:
    """The symbols of a leaf: told by its id, by a name, or as LaTeX."""
    command = "\\" + text
    if (named := ref.rpartition("_")[0]).startswith("\\") and named in KNOWN:
        text = named  # MfrDB's leaf with the id "\lim_1" reads "im"
    elif text in _ENTITIES:
        text = _ENTITIES[text]
    elif text not in KNOWN and (command in KNOWN or command in SYNONYMS):
        text = command  # "sigma"
    return to_tree(TOKEN.findall(text))
