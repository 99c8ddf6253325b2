"""Ink: the strokes of one handwritten expression, with its symbols and its LaTeX where they are known.

`read_inkml` takes the InkML of CROHME (all years) and of MathWriting. Files are untrusted: entities and
document type declarations are refused, and whatever is wrong with a file is an `InkError` that names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlib.formula import latex as tex

if TYPE_CHECKING:
    from lxml import etree
    from numpy.typing import ArrayLike

INKML = "http://www.w3.org/2003/InkML"
XML_ID = "{http://www.w3.org/XML/1998/namespace}id"
# A stroke of one expression has hundreds of points; a coordinate beyond this is a broken file and overflows
# float32 sums.
LARGEST_COORDINATE = 1e7


class InkError(ValueError):
    """An ink file that cannot be read: the message names the file, the place and the reason."""


@dataclass(frozen=True)
class Symbol:
    """One written symbol: canonical token, the strokes that draw it, the `xml:id` of its MathML element."""

    label: str
    strokes: tuple[int, ...]
    ref: str | None = None


@dataclass(frozen=True, eq=False)
class Ink:
    """The ink of one expression.

    points: (n, 2) float32, x to the right and y down, in the device's units (in a pack: in typical symbol
    sizes).
    stroke: (n,) int32, the stroke of each point, non-decreasing from 0 without gaps.
    tokens: canonical LaTeX, None where there is no label or it is not valid (`label_error` says why).
    token_symbols: for each token the index of the symbol whose ink it is, -1 for none; None when not known.
    """

    points: np.ndarray
    stroke: np.ndarray
    symbols: tuple[Symbol, ...] = ()
    latex: str | None = None
    tokens: tuple[str, ...] | None = None
    token_symbols: tuple[int, ...] | None = None
    writer: str | None = None
    source: str | None = None
    id: str = ""
    label_error: str | None = field(default=None)

    @classmethod
    def from_strokes(cls, strokes: Iterable[ArrayLike], **meta: Any) -> Ink:
        """Ink of a list of (m, 2) arrays; InkError for an empty list or stroke and for NaN or infinity."""
        arrays = [np.asarray(s, dtype=np.float64) for s in strokes]
        if not arrays or any(a.ndim != 2 or a.shape[1] != 2 or not len(a) for a in arrays):
            raise InkError(
                f"{meta.get('id') or 'ink'}: strokes must be a non-empty list of (m, 2) arrays, m > 0"
            )
        points = np.concatenate(arrays)
        if not np.isfinite(points).all():
            raise InkError(f"{meta.get('id') or 'ink'}: a stroke has a NaN or infinite coordinate")
        stroke = np.repeat(np.arange(len(arrays), dtype=np.int32), [len(a) for a in arrays])
        return cls(points.astype(np.float32), stroke, **meta)

    def strokes(self) -> list[np.ndarray]:
        """The strokes as a list of (m, 2) float32 views."""
        return np.split(self.points, np.flatnonzero(np.diff(self.stroke)) + 1)

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in ink units."""
        left, top, right, bottom = map(float, (*self.points.min(0), *self.points.max(0)))
        return left, top, right, bottom


def stroke_boxes(points: np.ndarray, stroke: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper left and lower right corners (s, 2) of every stroke."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(stroke)) + 1])
    return np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)


def typical_size(points: np.ndarray, stroke: np.ndarray) -> float:
    """Size of the typical symbol in ink units, from the strokes alone (no labels); always above 0.

    Marks (dots, pen bounces: longer side under a twentieth of the upper quartile) aside, the mean of the 0.4
    to 0.7 quantiles over strokes of the longer side (0.7 of it) and, one step up, of the height (0.3), times
    1.1 so that its median ratio to the median longer side of the segmented symbols is 1. Chosen on CROHME's
    training set, where the logarithm of that ratio has a standard deviation of 0.200 (2014 and 2019 tests:
    0.183); the median of the longer side has 0.243 (0.233), its 0.6 quantile 0.209 (0.209), one weighted by
    ink length 0.39, the median height 0.44.
    """
    low, high = stroke_boxes(points, stroke)
    height, longer = (high - low)[:, 1], (high - low).max(1)
    if not longer.any():  # dots only: how far they spread
        return float((high.max(0) - low.min(0)).max()) or 1.0
    kept = longer >= max(0.05 * np.quantile(longer[longer > 0], 0.75), np.finfo(np.float32).tiny)
    levels = np.array([0.4, 0.5, 0.6, 0.7])
    sides = 0.7 * np.quantile(longer[kept], levels) + 0.3 * np.quantile(height[kept], levels + 0.1)
    return 1.1 * float(sides.mean())


def _parser() -> etree.XMLParser:
    from lxml import etree

    # CROHME's xml:id values ("0:1:", "+_1") are no valid XML ids: with collect_ids libxml2 rejects most of
    # the data set.
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        collect_ids=False,
        remove_comments=True,
        remove_pis=True,
    )


def _points(text: str | None, columns: tuple[int, int], where: str) -> np.ndarray:
    """The (m, 2) points of one trace without consecutive duplicates."""
    samples = [s.split() for s in (text or "").split(",")]
    if samples and not samples[-1]:  # a comma after the last point, or no text at all
        samples.pop()
    if not samples:
        return np.zeros((0, 2))
    try:
        points = np.array([(s[columns[0]], s[columns[1]]) for s in samples], dtype=np.float64)
    except (ValueError, IndexError):
        i, sample = next((i, s) for i, s in enumerate(samples) if not _is_point(s, columns))
        raise InkError(
            f"{where}, point {i}: {' '.join(sample)[:40]!r} is not a pair of numbers"
        ) from None
    ok = np.abs(points) <= LARGEST_COORDINATE  # False for NaN too
    if not ok.all():
        bad = int(np.flatnonzero(~ok.all(1))[0])
        raise InkError(f"{where}, point {bad}: coordinate {samples[bad]} is NaN, infinite or absurdly large")
    moved = np.ones(len(points), dtype=bool)
    moved[1:] = (points[1:] != points[:-1]).any(1)
    return points[moved]


def _is_point(sample: list[str], columns: tuple[int, int]) -> bool:
    try:
        return len([float(sample[c]) for c in columns]) == 2
    except (ValueError, IndexError):
        return False


def _columns(root: etree._Element) -> tuple[int, int]:
    """Which of a point's numbers are x and y: as `traceFormat` says, by default the first two."""
    names = [(c.get("name") or "").upper() for c in root.iterfind(".//{*}traceFormat//{*}channel")]
    return (names.index("X"), names.index("Y")) if {"X", "Y"} <= set(names) else (0, 1)


@lru_cache(maxsize=4096)
def _symbol_label(label: str) -> str:
    """Canonical token of a symbol's own label; `\\sqrt` does not parse alone and stays as it is."""
    try:
        tokens = [t for t in tex.canonical(label) if t not in ("^", "_", "{", "}")]
    except tex.LatexError:
        tokens = []
    return tokens[0] if len(tokens) == 1 else label


def _symbols(root: etree._Element, stroke_of: dict[str, int]) -> tuple[Symbol, ...]:
    """Leaf groups under the segmentation group; a stroke belongs to the first symbol that names it."""
    symbols: list[Symbol] = []
    taken: set[int] = set()
    for group in root.iterfind(".//{*}traceGroup//{*}traceGroup"):
        if group.find("{*}traceGroup") is not None:
            continue
        refs = ((v.get("traceDataRef") or "").lstrip("#") for v in group.iterfind("{*}traceView"))
        strokes = tuple(
            dict.fromkeys(stroke_of[r] for r in refs if r in stroke_of and stroke_of[r] not in taken)
        )
        labels = [a.text.strip() for a in group.iterfind("{*}annotation") if a.text and a.text.strip()]
        if not strokes or not labels:
            continue
        taken.update(strokes)
        link = group.find("{*}annotationXML")
        symbols.append(
            Symbol(_symbol_label(labels[0]), strokes, link.get("href") if link is not None else None)
        )
    return tuple(symbols)


def read_inkml(source: str | Path | bytes, name: str | None = None) -> Ink:
    """Read one InkML file of CROHME or MathWriting.

    source: a path, or the file's bytes; name: what errors and `Ink.id` call it (default: the file's name).
    Channels other than X and Y are dropped, so are consecutive duplicate points and strokes without points. A
    label that is no valid LaTeX does not fail the file: `tokens` is None and `label_error` says why. Raises
    InkError, naming the file, for whatever cannot be read; OSError where the file cannot be opened.
    """
    from lxml import etree

    if not isinstance(source, bytes):
        name = name or str(source)
        source = Path(source).read_bytes()
    name = name or "<bytes>"
    if not source.strip():
        raise InkError(f"{name}: the file is empty")
    try:
        root = etree.fromstring(source, _parser())
    except etree.XMLSyntaxError as error:
        raise InkError(f"{name}: not well-formed XML: {error.msg}") from None
    if root.getroottree().docinfo.doctype or root.getroottree().docinfo.internalDTD is not None:
        raise InkError(f"{name}: document type declarations and entities are refused")
    if etree.QName(root).localname != "ink":
        raise InkError(f"{name}: the root element is <{etree.QName(root).localname}>, not <ink>")

    columns = _columns(root)
    arrays: list[np.ndarray] = []
    stroke_of: dict[str, int] = {}
    for index, trace in enumerate(root.iterfind(".//{*}trace")):
        key = trace.get("id") or trace.get(XML_ID) or str(index)
        points = _points(trace.text, columns, f"{name}: trace {key!r} (line {trace.sourceline})")
        if len(points):
            stroke_of.setdefault(key, len(arrays))
            arrays.append(points)
    if not arrays:
        raise InkError(f"{name}: no trace with points")

    notes: dict[str, str] = {}
    for note in root.iterfind("{*}annotation"):
        notes.setdefault(note.get("type") or "", (note.text or "").strip())
    latex = next((notes[k] for k in ("truth", "normalizedLabel", "label") if notes.get(k)), None)
    symbols = _symbols(root, stroke_of)
    tokens = token_symbols = label_error = None
    if latex is not None:
        try:
            tokens = tuple(tex.canonical(latex))
        except tex.LatexError as error:
            label_error = str(error)
    if tokens and symbols:
        token_symbols = _token_symbols(root, tokens, symbols)
    return Ink.from_strokes(
        arrays,
        symbols=symbols,
        latex=latex,
        tokens=tokens,
        token_symbols=token_symbols,
        writer=notes.get("writer") or None,
        id=Path(name).stem,
        label_error=label_error,
    )


def _token_symbols(root: etree._Element, tokens: tuple[str, ...], symbols: tuple[Symbol, ...]) -> tuple[int, ...] | None:
    math = root.find("{*}annotationXML//{*}math")
    if math is None:
        return None
    try:
        refs = tex.align(list(tokens), tex.tree_from_mathml(math))
    except tex.LatexError:
        return None
    if refs is None:
        return None
    index: dict[str | None, int] = {s.ref: i for i, s in reversed(list(enumerate(symbols))) if s.ref is not None}
    return tuple(index.get(r, -1) for r in refs)


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
    Path(path).write_bytes(etree.tostring(root, xml_declaration=True, encoding="utf-8", pretty_print=True))
