"""A pack: one safetensors file with the ink of a whole split. It opens in milliseconds.

Points are in units of the typical symbol size (`mmlib.formula.ink.typical_size`), y down, the upper
left corner of every expression at (0, 0). They are stored as 1/256 of that unit or, where they were
traced from pictures, as pixels. Strings (ids, writers, sources, LaTeX) are JSON in the header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.formula.ink import Ink, InkError, Symbol, moved, typical_size
from mmlib.formula.vocabulary import Vocabulary
from mmlib.store.files import write_atomic

FORMAT = "mmlib-pack-1"
# Declared, not computed from the source: a new comment shall not cost a minute of reading CROHME.
VERSION = 1  # raise it when reading, tracing or simplifying changes what a pack holds
RESOLUTION = 256  # steps per typical symbol size: an error of 0.2 % of a symbol at most
MOST_STEPS = 65535  # of a coordinate, which is stored in 16 bits
TOLERANCE = 0.01  # how far the simplified stroke may leave the written one, in typical symbol sizes
GAP = 0.25  # longest piece between two points, so that a warp can bend a long fraction bar

Indices = Sequence[int] | np.ndarray  # of expressions in a pack


class PackError(ValueError):
    """A pack that cannot be written or read: the message names the file and what to do."""


def simplify(points: np.ndarray, stroke: np.ndarray, tolerance: float,
             gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Douglas and Peucker (1973) on all strokes at once, then points at most `gap` apart.

    points (n, 2), stroke (n,) as in `Ink`; tolerance and gap in the points' unit. Returns the new
    (m, 2) and (m,). Every dropped point lies within `tolerance` of the returned line; first and
    last points stay.
    """
    points = np.asarray(points, dtype=np.float64)
    # Begin with the ends of all strokes; in each round, keep the farthest point of each piece.
    keep = np.ones(len(points), dtype=bool)
    keep[1:-1] = (stroke[1:-1] != stroke[:-2]) | (stroke[1:-1] != stroke[2:])
    while True:
        kept = np.flatnonzero(keep)
        segment = np.cumsum(keep) - 1
        # Each point against the line between the kept points on either side of it.
        start = points[kept][segment]
        along = points[np.append(kept[1:], kept[-1])][segment] - start
        offset = points - start
        square = (along**2).sum(1)
        t = np.clip((offset * along).sum(1) / np.where(square > 0, square, 1), 0, 1)
        far = np.hypot(*(offset - t[:, None] * along).T)
        far[kept] = 0
        worst = np.maximum.reduceat(far, kept)[segment]
        new = (far > tolerance) & (far == worst)
        if not new.any():
            break
        keep |= new
    points, stroke = points[keep], stroke[keep]
    # Cut what is left into equal pieces; a step between two strokes is no piece.
    step = np.diff(points, axis=0)
    pieces = np.where(np.diff(stroke) == 0, np.ceil(np.hypot(*step.T) / gap), 1).astype(int)
    pieces = np.append(np.maximum(pieces, 1), 1)
    index = np.repeat(np.arange(len(points)), pieces)
    share = (np.arange(len(index)) - (np.cumsum(pieces) - pieces)[index]) / pieces[index]
    step = np.vstack([step, np.zeros(2)])
    return points[index] + share[:, None] * step[index], stroke[index]


def normalised(ink: Ink, size: float | None = None) -> tuple[Ink, float]:
    """The ink as a pack holds it (simplified, in typical sizes, corner at 0), and its typical size.

    size: where it is known, from a picture say; by default the strokes tell it. Raises InkError
    where the expression is absurdly large for its strokes.
    """
    size = size or typical_size(ink.points, ink.stroke)
    points, stroke = simplify((ink.points - ink.points.min(0)) / size, ink.stroke, TOLERANCE, GAP)
    if points.max() * RESOLUTION > MOST_STEPS:
        raise InkError(f"{ink.id}: the expression is over {MOST_STEPS // RESOLUTION} times as "
                       "large as its typical stroke")
    points = np.round(points * RESOLUTION).astype(np.uint16).astype(np.float32) / RESOLUTION
    # Rounding can make two points of a stroke one.
    apart = moved(points) | (np.diff(stroke, prepend=-1) > 0)
    return replace(ink, points=points[apart], stroke=stroke[apart].astype(np.int32)), size


# --- writing and reading the file ----------------------------------------------------------------

_ARRAYS = {
    "points": (np.uint16, (2,)),
    "stroke_lengths": (np.int32, ()),
    "stroke_symbols": (np.int16, ()),
    "symbols": (np.int16, ()),
    "tokens": (np.int16, ()),
    "token_symbols": (np.int16, ()),
    "counts": (np.int32, (3,)),  # strokes, symbols and tokens of each expression
    "flags": (np.bool_, (2,)),  # label valid, token_symbols known
    "typical": (np.float32, ()),
}
_STRINGS = ("id", "writer", "source", "latex", "label_error")


def write_pack(inks: Iterable[tuple[Ink, float]], path: str | Path, traced: bool = False,
               vocabulary: Vocabulary | None = None) -> None:
    """Write inks as `normalised` gives them, each with its typical size, as one pack, atomically.

    Tokens are ids of `vocabulary`, by default `Vocabulary.crohme()`, which it must begin with;
    tokens that it lacks are appended to the pack's own vocabulary. An expression whose label is not
    valid has no tokens and stays in the pack.
    traced: the ink comes from pictures, and the sizes are in pixels.
    Raises PackError for duplicate ids.
    """
    from safetensors.numpy import save

    items = list(inks)
    known = vocabulary or Vocabulary.crohme()
    number = {token: i for i, token in enumerate(known.tokens)}

    def encode(tokens: Iterable[str]) -> list[int]:
        return [number.setdefault(t, len(number)) for t in tokens]

    columns: dict[str, list[Any]] = {key: [] for key in _ARRAYS}
    for ink, size in items:
        of_stroke = np.full(ink.stroke[-1] + 1, -1)
        for k, symbol in enumerate(ink.symbols):
            of_stroke[list(symbol.strokes)] = k
        tokens, aligned = ink.tokens or (), ink.token_symbols is not None
        columns["points"].append(np.round(ink.points * (size if traced else RESOLUTION)))
        columns["stroke_lengths"].append(np.bincount(ink.stroke))
        columns["stroke_symbols"].append(of_stroke)
        columns["symbols"].append(encode(s.label for s in ink.symbols))
        columns["tokens"].append(encode(tokens))
        columns["token_symbols"].append(ink.token_symbols if aligned else [-1] * len(tokens))
        columns["counts"].append([[len(of_stroke), len(ink.symbols), len(tokens)]])
        columns["flags"].append([[ink.tokens is not None, aligned]])
        columns["typical"].append([size])
    strings = {key: [getattr(ink, key) for ink, _ in items] for key in _STRINGS}
    if len(set(strings["id"])) != len(items):
        raise PackError(f"{path}: two expressions have the same id; give each file its own name")
    arrays: dict[str, np.ndarray] = {}
    for key, (kind, shape) in _ARRAYS.items():
        rows = np.concatenate(columns[key] or [np.zeros((0, *shape))])
        arrays[key] = np.ascontiguousarray(rows, dtype=kind)
    header = {"version": VERSION, "traced": traced, "vocabulary": list(number),
              "digest": _digest(arrays, strings), **strings}
    write_atomic(Path(path), save(arrays, {"format": FORMAT, "header": json.dumps(header)}))


def _digest(arrays: dict[str, np.ndarray], strings: dict[str, Any]) -> str:
    """What names the data in a run's hash: it covers the content, not how it was written."""
    total = hashlib.sha256()
    for key in _ARRAYS:  # in turn, without a copy: each opening computes it
        total.update(arrays[key].data)
    total.update(json.dumps(strings).encode())
    return total.hexdigest()


# --- the opened pack -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Flat:
    """The flat arrays of a pack of E expressions; offsets end with the total."""

    points: np.ndarray  # (N, 2) float32, in typical sizes
    point_stroke: np.ndarray  # (N,) int32, the point's stroke within its expression
    point_offsets: np.ndarray  # (E+1,) first point of each expression
    stroke_offsets: np.ndarray  # (E+1,) first stroke of each expression
    stroke_symbols: np.ndarray  # (S,) the stroke's symbol within its expression, or -1
    symbol_offsets: np.ndarray  # (E+1,) first symbol of each expression
    symbols: np.ndarray  # (Y,) vocabulary ids
    token_offsets: np.ndarray  # (E+1,) first token of each expression
    tokens: np.ndarray  # (T,) vocabulary ids
    token_symbols: np.ndarray  # (T,) the token's symbol within its expression, or -1
    valid: np.ndarray  # (E,) whether the label is valid LaTeX
    aligned: np.ndarray  # (E,) whether token_symbols is known

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray], traced: bool) -> Flat:
        """From the arrays of a file: lengths become offsets, steps become typical sizes."""
        counts, lengths = arrays["counts"], arrays["stroke_lengths"]
        stroke, symbol, token = np.cumsum(np.insert(counts, 0, 0, 0), 0, dtype=np.int64).T
        point = np.cumsum(np.insert(lengths, 0, 0), dtype=np.int64)[stroke]
        steps = np.repeat(arrays["typical"], np.diff(point))[:, None] if traced else RESOLUTION
        local = np.arange(len(lengths)) - np.repeat(stroke[:-1], counts[:, 0])
        return cls(arrays["points"].astype(np.float32) / steps,
                   np.repeat(local, lengths).astype(np.int32), point, stroke,
                   arrays["stroke_symbols"], symbol, arrays["symbols"], token, arrays["tokens"],
                   arrays["token_symbols"], *arrays["flags"].T)

    def of(self, i: int) -> list[slice]:
        """Where the points, strokes, symbols and tokens of expression i stand."""
        return [slice(offsets[i], offsets[i + 1]) for offsets in (
            self.point_offsets, self.stroke_offsets, self.symbol_offsets, self.token_offsets)]


@dataclass(frozen=True, eq=False)
class Pack:
    """An opened pack. `pack[i]` is an Ink with points in typical sizes: slices, no parsing."""

    path: Path
    flat: Flat
    typical: np.ndarray  # (E,) float32, the typical symbol size in the device's units
    sizes: np.ndarray  # (E, 2) float32, width and height in typical sizes
    vocabulary: tuple[str, ...]  # what the ids stand for; `Vocabulary.crohme()` comes first
    traced: bool  # from pictures: strokes are short pieces of lines
    digest: str  # of the content
    ids: list[str]
    writers: list[str | None]
    sources: list[str | None]
    latex: list[str | None]
    label_errors: list[str | None]

    @classmethod
    def open(cls, path: str | Path) -> Pack:
        """Open a pack; PackError where it is missing, foreign, of another version, or damaged.

        Its digest tells damage: what no longer agrees with it is not what `write_pack` wrote.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        try:
            with safe_open(path, framework="np") as file:
                meta = file.metadata() or {}
                if meta.get("format") != FORMAT:
                    raise ValueError(f"not a {FORMAT} file, but {meta.get('format')!r}")
                arrays = {key: file.get_tensor(key) for key in _ARRAYS}
            header = json.loads(meta["header"])
            strings = {key: header[key] for key in _STRINGS}
            if _digest(arrays, strings) != header["digest"]:
                raise ValueError("its content is not what was written")
            vocabulary, known = tuple(header["vocabulary"]), Vocabulary.crohme().tokens
            if vocabulary[: len(known)] != known or len(set(vocabulary)) != len(vocabulary):
                raise ValueError("it was written with another vocabulary")
            # Packs from before these two were written hold ink of the first version.
            traced, version = header.get("traced", False), header.get("version", 1)
            if version != VERSION:
                raise ValueError(f"its version is {version}, not {VERSION}")
        except FileNotFoundError:
            raise PackError(f"{path}: there is no such pack; write it with `mmlib data prepare`"
                            ) from None
        except (SafetensorError, AttributeError, KeyError, ValueError, TypeError, OSError,
                RecursionError) as error:
            raise PackError(f"{path}: damaged or no pack ({error}); "
                            "delete it and run `mmlib data prepare`") from None
        flat = Flat.of_arrays(arrays, traced)
        sizes = np.zeros((0, 2), np.float32)
        if len(strings["id"]):
            sizes = np.maximum.reduceat(flat.points, flat.point_offsets[:-1])
        return cls(path, flat, arrays["typical"], sizes, vocabulary, traced, header["digest"],
                   *strings.values())

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, i: int) -> tuple[str, ...] | None:
        """Canonical tokens of expression i, None where its label is not valid."""
        if not self.flat.valid[i]:
            return None
        return tuple(self.vocabulary[t] for t in self.flat.tokens[self.flat.of(i)[3]])

    def __getitem__(self, i: int) -> Ink:
        i = range(len(self))[i]
        flat = self.flat
        points, strokes, symbols, tokens = flat.of(i)
        owner = flat.stroke_symbols[strokes]
        drawn = tuple(Symbol(self.vocabulary[v], tuple(np.flatnonzero(owner == k).tolist()))
                      for k, v in enumerate(flat.symbols[symbols]))
        links = tuple(flat.token_symbols[tokens].tolist()) if flat.aligned[i] else None
        return Ink(flat.points[points], flat.point_stroke[points], drawn, self.latex[i],
                   self.tokens(i), links, self.writers[i], self.sources[i], self.ids[i],
                   self.label_errors[i])


def opened_or_made(path: Path, make: Callable[[], object]) -> Pack:
    """The pack at a path; `make` writes it where it is missing, damaged or of another version."""
    try:
        return Pack.open(path)
    except PackError:
        make()
        return Pack.open(path)
