"""InkML files of CROHME (all years) and MathWriting, read and written.

Files are untrusted: entities and document type declarations are refused, and whatever is wrong with
a file is an `InkError` that names it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmlib.formula.ink import Ink, InkError, Symbol
from mmlib.formula.latex import LatexError, align, canonical
from mmlib.formula.mathml import tree_from_mathml

if TYPE_CHECKING:
    from lxml import etree

INKML = "http://www.w3.org/2003/InkML"
XML_ID = "{http://www.w3.org/XML/1998/namespace}id"
# A stroke has hundreds of points; a coordinate beyond this is a broken file, and its sums overflow
# float32.
LARGEST_COORDINATE = 1e7


def read_inkml(source: str | Path | bytes, name: str | None = None) -> Ink:
    """Read one InkML file of CROHME or MathWriting.

    source: a path, or the file's bytes.
    name: what errors and `Ink.id` call it; by default the file's name.

    Channels other than X and Y are dropped, and so are consecutive duplicate points and strokes
    without points. A label that is no valid LaTeX does not fail the file: `tokens` is None and
    `label_error` says why. Raises InkError, naming the file, for whatever cannot be read, and
    OSError where the file cannot be opened.
    """
    if not isinstance(source, bytes):
        name = name or str(source)
        source = Path(source).read_bytes()
    name = name or "<bytes>"
    root = _parse(source, name)
    strokes, stroke_of = _strokes(root, name)
    notes: dict[str, str] = {}
    for note in root.iterfind("{*}annotation"):
        notes.setdefault(note.get("type") or "", (note.text or "").strip())
    # CROHME calls the label "truth"; MathWriting has it as written and normalised.
    latex = next((notes[k] for k in ("truth", "normalizedLabel", "label") if notes.get(k)), None)
    symbols = _symbols(root, stroke_of)
    tokens = token_symbols = label_error = None
    if latex is not None:
        try:
            tokens = tuple(canonical(latex))
        except LatexError as error:
            label_error = str(error)
    if tokens and symbols:
        token_symbols = _token_symbols(root, tokens, symbols)
    return Ink.from_strokes(
        strokes, symbols=symbols, latex=latex, tokens=tokens, token_symbols=token_symbols,
        writer=notes.get("writer") or None, id=Path(name).stem, label_error=label_error,
    )  # fmt: skip


def write_inkml(ink: Ink, path: str | Path) -> None:
    """Write `ink` as CROHME's InkML: traces, label, writer, and the segmentation into symbols."""
    from lxml import etree

    def annotate(parent: etree._Element, kind: str, text: str) -> None:
        etree.SubElement(parent, f"{{{INKML}}}annotation", type=kind).text = text

    root = etree.Element(f"{{{INKML}}}ink", nsmap={None: INKML})
    for kind, text in (("truth", ink.latex), ("writer", ink.writer)):
        if text:
            annotate(root, kind, text)
    for i, points in enumerate(ink.strokes()):
        trace = etree.SubElement(root, f"{{{INKML}}}trace", id=str(i))
        trace.text = ", ".join(f"{x:.7g} {y:.7g}" for x, y in points)
    if ink.symbols:
        top = etree.SubElement(root, f"{{{INKML}}}traceGroup")
        annotate(top, "truth", "Segmentation")
        for symbol in ink.symbols:
            group = etree.SubElement(top, f"{{{INKML}}}traceGroup")
            annotate(group, "truth", symbol.label)
            for stroke in symbol.strokes:
                etree.SubElement(group, f"{{{INKML}}}traceView", traceDataRef=str(stroke))
            if symbol.ref:
                etree.SubElement(group, f"{{{INKML}}}annotationXML", href=symbol.ref)
    text = etree.tostring(root, xml_declaration=True, encoding="utf-8", pretty_print=True)
    Path(path).write_bytes(text)


def _parse(content: bytes, name: str) -> etree._Element:
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


def _strokes(root: etree._Element, name: str) -> tuple[list[np.ndarray], dict[str, int]]:
    """The traces that have points, and the place of each by its id."""
    formats = root.iterfind(".//{*}traceFormat//{*}channel")
    channels = [(channel.get("name") or "").upper() for channel in formats]
    columns = (0, 1)  # of a sample's numbers: x and y
    if {"X", "Y"} <= set(channels):
        columns = (channels.index("X"), channels.index("Y"))
    strokes: list[np.ndarray] = []
    stroke_of: dict[str, int] = {}
    for index, trace in enumerate(root.iterfind(".//{*}trace")):
        key = trace.get("id") or trace.get(XML_ID) or str(index)
        points = _points(trace.text, columns, f"{name}: trace {key!r} (line {trace.sourceline})")
        if len(points):
            stroke_of.setdefault(key, len(strokes))
            strokes.append(points)
    if not strokes:
        raise InkError(f"{name}: no trace with points")
    return strokes, stroke_of


def _points(text: str | None, columns: tuple[int, int], where: str) -> np.ndarray:
    """The (m, 2) points of one trace without consecutive duplicates."""
    samples = [s.split() for s in (text or "").split(",")]
    if not samples[-1]:  # a comma after the last point, or no text at all
        samples.pop()
    pairs = []
    for i, sample in enumerate(samples):
        try:
            pairs.append((float(sample[columns[0]]), float(sample[columns[1]])))
        except (ValueError, IndexError):
            wrong = " ".join(sample)[:40]
            raise InkError(f"{where}, point {i}: {wrong!r} is not a pair of numbers") from None
    points = np.array(pairs).reshape(-1, 2)
    bad = np.flatnonzero(~(np.abs(points) <= LARGEST_COORDINATE).all(1))  # NaN compares false
    if len(bad):
        wrong = f"coordinate {samples[bad[0]]} is NaN, infinite or absurdly large"
        raise InkError(f"{where}, point {bad[0]}: {wrong}")
    moved = np.ones(len(points), dtype=bool)
    moved[1:] = (points[1:] != points[:-1]).any(1)
    return points[moved]


@lru_cache(maxsize=4096)
def _symbol_label(label: str) -> str:
    """Canonical token of a symbol's own label; `\\sqrt` does not parse alone and stays as it is."""
    try:
        tokens = [t for t in canonical(label) if t not in ("^", "_", "{", "}")]
    except LatexError:
        tokens = []
    return tokens[0] if len(tokens) == 1 else label


def _symbols(root: etree._Element, stroke_of: dict[str, int]) -> tuple[Symbol, ...]:
    """Leaf groups under the segmentation; a stroke belongs to the first symbol that names it."""
    symbols: list[Symbol] = []
    taken: set[int] = set()
    for group in root.iterfind(".//{*}traceGroup//{*}traceGroup"):
        if group.find("{*}traceGroup") is not None:  # no leaf
            continue
        views = ((v.get("traceDataRef") or "").lstrip("#") for v in group.iterfind("{*}traceView"))
        known = (stroke_of[view] for view in views if view in stroke_of)
        strokes = tuple(dict.fromkeys(stroke for stroke in known if stroke not in taken))
        notes = ((note.text or "").strip() for note in group.iterfind("{*}annotation"))
        label = next(filter(None, notes), None)
        if strokes and label:
            taken.update(strokes)
            link = group.find("{*}annotationXML")
            ref = link.get("href") if link is not None else None
            symbols.append(Symbol(_symbol_label(label), strokes, ref))
    return tuple(symbols)


def _token_symbols(
    root: etree._Element, tokens: tuple[str, ...], symbols: tuple[Symbol, ...]
) -> tuple[int, ...] | None:
    """`Ink.token_symbols` by the file's MathML; None where there is none or it contradicts."""
    math = root.find("{*}annotationXML//{*}math")
    if math is None:
        return None
    try:
        refs = align(tokens, tree_from_mathml(math))
    except LatexError:
        return None
    index: dict[str | None, int] = {}
    for i, symbol in enumerate(symbols):
        if symbol.ref is not None:
            index.setdefault(symbol.ref, i)
    return None if refs is None else tuple(index.get(ref, -1) for ref in refs)
