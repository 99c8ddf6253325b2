"""InkML files, read and written: of CROHME (all years), MathWriting, Word, OneNote and others.

How samples are written is the matter of `mmlib.formula.traces`. Files are untrusted: entities and
document type declarations are refused, and whatever is wrong with a file is an `InkError`.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from mmlib.formula.ink import Ink, InkError, Symbol, moved
from mmlib.formula.latex import LatexError, align, canonical, label_fields
from mmlib.formula.mathml import XML_ID, tree_from_mathml
from mmlib.formula.traces import Element, Formats, read_trace

INKML = "http://www.w3.org/2003/InkML"


def read_inkml(content: bytes, name: str = "ink") -> Ink:
    """Read the content of one InkML file.

    name: what errors and `Ink.id` call it.

    Channels other than X and Y are dropped, and so are consecutive duplicate points, strokes
    without points and what the pen drew in the air. A label that is no valid LaTeX does not fail
    the file: `tokens` is None and `label_error` says why. Raises InkError, naming the file, for
    whatever cannot be read.
    """
    root = _parse(content, name)
    strokes, strokes_of = _strokes(root, name)
    notes: dict[str, str] = {}
    for note in root.iterfind("{*}annotation"):
        notes.setdefault(note.get("type") or "", (note.text or "").strip())
    # CROHME calls the label "truth"; MathWriting has it as written and normalised.
    label = next((notes[k] for k in ("truth", "normalizedLabel", "label") if notes.get(k)), None)
    fields = label_fields(label)
    symbols = _symbols(root, strokes_of)
    if fields["tokens"] and symbols:
        fields["token_symbols"] = _token_symbols(root, fields["tokens"], symbols)
    return Ink.from_strokes(strokes, symbols=symbols, writer=notes.get("writer") or None,
                            id=Path(name).stem, **fields)


def write_inkml(ink: Ink, path: str | Path) -> None:
    """Write `ink` as CROHME's InkML: traces, label, writer, and the segmentation into symbols."""
    from lxml import etree
    from lxml.builder import ElementMaker

    make = ElementMaker(namespace=INKML, nsmap={None: INKML})
    notes = {"truth": ink.latex, "writer": ink.writer}
    parts = [make.annotation(text, type=kind) for kind, text in notes.items() if text]
    for i, points in enumerate(ink.strokes()):
        parts.append(make.trace(", ".join(f"{x:.7g} {y:.7g}" for x, y in points), id=str(i)))
    groups = [make.annotation("Segmentation", type="truth")]
    for symbol in ink.symbols:
        views = [make.traceView(traceDataRef=str(stroke)) for stroke in symbol.strokes]
        link = [make.annotationXML(href=symbol.ref)] if symbol.ref else []
        groups.append(make.traceGroup(make.annotation(symbol.label, type="truth"), *views, *link))
    if ink.symbols:
        parts.append(make.traceGroup(*groups))
    text = etree.tostring(make.ink(*parts), xml_declaration=True, encoding="utf-8",
                          pretty_print=True)
    Path(path).write_bytes(text)


def _parse(content: bytes, name: str) -> Element:
    """The root element of a file, which is an `ink` element."""
    from lxml import etree

    if not content.strip():
        raise InkError(f"{name}: the file is empty")
    # CROHME's xml:id values ("0:1:", "+_1") are no valid XML ids: with collect_ids libxml2 rejects
    # most of the data set.
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False,
        collect_ids=False, remove_comments=True, remove_pis=True,
    )  # fmt: skip
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise InkError(f"{name}: not well-formed XML: {error.msg}") from None
    if root.getroottree().docinfo.doctype or root.getroottree().docinfo.internalDTD is not None:
        raise InkError(f"{name}: document type declarations and entities are refused")
    if (tag := etree.QName(root).localname) != "ink":
        raise InkError(f"{name}: the root element is <{tag}>, not <ink>")
    return root


def _strokes(root: Element, name: str) -> tuple[list[np.ndarray], dict[str, list[int]]]:
    """What the pen wrote, and the strokes of each trace by its id."""
    formats = Formats(root)
    pieces: list[list[np.ndarray]] = []
    strokes_of: dict[str, list[int]] = {}
    for index, trace in enumerate(root.iterfind(".//{*}trace")):
        key = trace.get("id") or trace.get(XML_ID) or str(index)
        if (trace.get("type") or "").lower() == "penup":
            continue
        where = f"{name}: trace {key!r} (line {trace.sourceline})"
        written = read_trace(trace.text or "", formats.of(trace, where), where)
        prior = strokes_of.get((trace.get("priorRef") or "").lstrip("#"))
        if prior and written and trace.get("continuation") in ("middle", "end"):
            pieces[prior[-1]].append(written.pop(0))
            strokes_of[key] = prior[-1:]
        if written:
            new = list(range(len(pieces), len(pieces) + len(written)))
            strokes_of.setdefault(key, []).extend(new)
            pieces += [[points] for points in written]
    if not pieces:
        raise InkError(f"{name}: no trace with points")
    strokes = [np.concatenate(parts) for parts in pieces]
    return [points[moved(points)] for points in strokes], strokes_of


@lru_cache(maxsize=4096)
def _symbol_label(label: str) -> str:
    """Canonical token of a symbol's own label; `\\sqrt` does not parse alone and stays as it is."""
    try:
        tokens = [t for t in canonical(label) if t not in ("^", "_", "{", "}")]
    except LatexError:
        tokens = []
    return tokens[0] if len(tokens) == 1 else label


def _symbols(root: Element, strokes_of: dict[str, list[int]]) -> tuple[Symbol, ...]:
    """Leaf groups under the segmentation; a stroke belongs to the first symbol that names it."""
    symbols: list[Symbol] = []
    taken: set[int] = set()
    for group in root.iterfind(".//{*}traceGroup//{*}traceGroup"):
        if group.find("{*}traceGroup") is not None:  # no leaf
            continue
        views = ((v.get("traceDataRef") or "").lstrip("#") for v in group.iterfind("{*}traceView"))
        known = (stroke for view in views for stroke in strokes_of.get(view, ()))
        strokes = tuple(dict.fromkeys(stroke for stroke in known if stroke not in taken))
        notes = ((note.text or "").strip() for note in group.iterfind("{*}annotation"))
        label = next(filter(None, notes), None)
        if strokes and label:
            taken.update(strokes)
            link = group.find("{*}annotationXML")
            ref = link.get("href") if link is not None else None
            symbols.append(Symbol(_symbol_label(label), strokes, ref))
    return tuple(symbols)


def _token_symbols(root: Element, tokens: tuple[str, ...],
                   symbols: tuple[Symbol, ...]) -> tuple[int, ...] | None:
    """`Ink.token_symbols` by the file's MathML; None where there is none or it contradicts."""
    math = root.find("{*}annotationXML//{*}math")
    if math is None:
        return None
    try:
        refs = align(tokens, tree_from_mathml(math))
    except LatexError:
        return None
    # Reversed, so that the first symbol with a reference counts.
    index = {symbol.ref: i for i, symbol in reversed(list(enumerate(symbols))) if symbol.ref}
    return None if refs is None else tuple(index.get(ref or "", -1) for ref in refs)
