"""A pack: one safetensors file that holds the ink of a whole split as flat arrays, and opens in milliseconds.

Points are in units of the typical symbol size (`mmlib.formula.ink.typical_size`), y down, the upper left corner of
every expression at (0, 0), stored as 1/256 of that unit. Strings (ids, writers, sources, LaTeX) are JSON in
the file's header. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.formula import ink as ink_module
from mmlib.formula import inkml, latex
from mmlib.formula.ink import Ink, InkError, Symbol, typical_size
from mmlib.formula.vocabulary import Vocabulary
from mmlib.store.runs import write_atomic

FORMAT = "mmlib-pack-1"
RESOLUTION = 256  # steps per typical symbol size: 0.2 % of a symbol at worst, and 256 symbols wide at most
TOLERANCE = 0.01  # how far the simplified stroke may leave the written one, in typical symbol sizes
GAP = 0.25  # longest piece between two points, so that a warp can bend a long fraction bar


Indices = Sequence[int] | np.ndarray  # of expressions in a pack


class PackError(ValueError):
    """A pack that cannot be written or read: the message names the file and what to do."""


@cache
def code_version() -> str:
    """Hash of the modules that decide what a pack holds: a pack written by other code is rebuilt."""
    files = (latex.__file__, ink_module.__file__, inkml.__file__, __file__)
    return hashlib.sha256(b"".join(Path(f).read_bytes() for f in files)).hexdigest()[:16]


def simplify(
    points: np.ndarray, stroke: np.ndarray, tolerance: float, gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Douglas and Peucker on all strokes at once, then points at most `gap` apart on what remains.

    points (n, 2), stroke (n,) as in `Ink`, tolerance and gap in the points' unit; returns the new (m, 2) and
    (m,). Every dropped point lies within `tolerance` of the returned line; first and last points stay.
    """
    points = np.asarray(points, dtype=np.float64)
    keep = np.ones(len(points), dtype=bool)
    keep[1:-1] = (stroke[1:-1] != stroke[:-2]) | (stroke[1:-1] != stroke[2:])
    while True:
        kept = np.flatnonzero(keep)
        segment = np.cumsum(keep) - 1
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
    step = np.diff(points, axis=0)
    pieces = np.where(np.diff(stroke) == 0, np.ceil(np.hypot(*step.T) / gap), 1).astype(int)
    pieces = np.append(np.maximum(pieces, 1), 1)
    index = np.repeat(np.arange(len(points)), pieces)
    share = (np.arange(len(index)) - (np.cumsum(pieces) - pieces)[index]) / pieces[index]
    step = np.vstack([step, np.zeros(2)])
    return points[index] + share[:, None] * step[index], stroke[index]


def normalised(ink: Ink) -> tuple[Ink, float]:
    """The ink as a pack holds it (simplified, in typical sizes, corner at 0), and its typical size."""
    size = typical_size(ink.points, ink.stroke)
    points, stroke = simplify((ink.points - ink.points.min(0)) / size, ink.stroke, TOLERANCE, GAP)
    if points.max() * RESOLUTION > 65535:
        raise InkError(
            f"{ink.id}: the expression is over {65535 // RESOLUTION} times as large as its typical stroke"
        )
    points = np.round(points * RESOLUTION).astype(np.uint16).astype(np.float32) / RESOLUTION
    moved = np.ones(len(points), dtype=bool)
    moved[1:] = (points[1:] != points[:-1]).any(1) | (stroke[1:] != stroke[:-1])
    fields = {**ink.__dict__, "points": points[moved], "stroke": stroke[moved].astype(np.int32)}
    return Ink(**fields), size


def write_pack(inks: Iterable[tuple[Ink, float]], path: str | Path, split: str) -> None:
    """Write `normalised` inks, each with its typical size, as one pack, atomically.

    Tokens are ids of `Vocabulary.crohme()`; tokens that it lacks are appended to the pack's own vocabulary.
    An expression whose label is not valid has no tokens and stays in the pack. Raises PackError for duplicate
    ids.
    """
    from safetensors.numpy import save

    items = list(inks)
    vocabulary = list(Vocabulary.crohme().tokens)
    number = {t: i for i, t in enumerate(vocabulary)}

    def encode(tokens: Iterable[str]) -> list[int]:
        return [number.setdefault(t, len(number)) for t in tokens]

    columns: dict[str, list[Any]] = {k: [] for k in _DTYPES}
    strings: dict[str, list[str | None]] = {k: [] for k in _STRINGS}
    for ink, size in items:
        of_stroke = np.full(ink.stroke[-1] + 1, -1)
        for k, symbol in enumerate(ink.symbols):
            of_stroke[list(symbol.strokes)] = k
        tokens = ink.tokens or ()
        aligned = ink.token_symbols is not None
        columns["points"].append(np.round(ink.points * RESOLUTION))
        columns["stroke_lengths"].append(np.bincount(ink.stroke))
        columns["stroke_symbols"].append(of_stroke)
        columns["symbols"].append(encode(s.label for s in ink.symbols))
        columns["tokens"].append(encode(tokens))
        columns["token_symbols"].append(ink.token_symbols if aligned else [-1] * len(tokens))
        columns["counts"].append([[len(of_stroke), len(ink.symbols), len(tokens)]])
        columns["flags"].append([[ink.tokens is not None, aligned]])
        columns["typical"].append([size])
        for key, values in strings.items():
            values.append(getattr(ink, key))
    if len(set(strings["id"])) != len(items):
        raise PackError(f"{path}: two expressions have the same id; give each file its own name")
    arrays: dict[str, np.ndarray] = {
        k: np.ascontiguousarray(np.concatenate(v) if v else np.zeros(_SHAPES.get(k, (0,))), dtype=_DTYPES[k])
        for k, v in columns.items()
    }
    digest = hashlib.sha256(
        b"".join(a.tobytes() for a in arrays.values()) + json.dumps(strings).encode()
    ).hexdigest()
    header = {"split": split, "code": code_version(), "digest": digest, "vocabulary": list(number), **strings}
    write_atomic(Path(path), save(arrays, {"format": FORMAT, "header": json.dumps(header)}))


_DTYPES = {
    "points": np.uint16,
    "stroke_lengths": np.int32,
    "stroke_symbols": np.int16,
    "symbols": np.int16,
    "tokens": np.int16,
    "token_symbols": np.int16,
    "counts": np.int32,
    "flags": np.bool_,
    "typical": np.float32,
}
_SHAPES = {"points": (0, 2), "counts": (0, 3), "flags": (0, 2)}
_STRINGS = ("id", "writer", "source", "latex", "label_error")


def read_tensors(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the JSON header of one of our safetensors files; PackError for anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            meta = file.metadata() or {}
            if meta.get("format") != kind:
                raise PackError(f"{path}: not a {kind} file, but {meta.get('format')!r}; prepare it again")
            names = file.keys()
            return {k: file.get_tensor(k) for k in names}, json.loads(meta["header"])
    except FileNotFoundError:
        raise PackError(f"{path}: there is no such pack; write it with `mmlib data prepare`") from None
    except PackError:
        raise
    except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as error:
        reason = f"{path}: damaged or no pack ({error})"
        raise PackError(f"{reason}; delete it and run `mmlib data prepare`") from None


@dataclass(frozen=True, eq=False)
class Flat:
    """The flat arrays of a pack of E expressions, for vectorised work; offsets end with the total.

    points (N, 2) float32 in typical sizes; point_stroke (N,) int32 stroke of the point within its expression;
    point_offsets, stroke_offsets, symbol_offsets, token_offsets (E+1,): first point, stroke, symbol, token of
    each expression; stroke_starts (S+1,): first point of each stroke; stroke_symbols (S,): symbol of the
    stroke within its expression, -1 for none; symbols (Y,) and tokens (T,): vocabulary ids; token_symbols
    (T,): symbol of the token within its expression, -1 for none; valid (E,): the label is valid LaTeX;
    aligned (E,): token_symbols is known.
    """

    points: np.ndarray
    point_stroke: np.ndarray
    point_offsets: np.ndarray
    stroke_starts: np.ndarray
    stroke_offsets: np.ndarray
    stroke_symbols: np.ndarray
    symbol_offsets: np.ndarray
    symbols: np.ndarray
    token_offsets: np.ndarray
    tokens: np.ndarray
    token_symbols: np.ndarray
    valid: np.ndarray
    aligned: np.ndarray


@dataclass(frozen=True, eq=False)
class Pack:
    """An opened pack. `pack[i]` is an Ink with points in typical symbol sizes; it costs slices, no parsing.

    typical (E,) float32: typical symbol size in the device's units; sizes (E, 2) float32: width and height of
    each expression in typical sizes; digest: hash of the content; vocabulary: the tokens that ids stand for,
    those of `Vocabulary.crohme()` first; ids, writers, sources, latex, label_errors: lists of E strings or
    None.
    """

    path: Path
    split: str
    flat: Flat
    typical: np.ndarray
    sizes: np.ndarray
    vocabulary: tuple[str, ...]
    ids: list[str]
    writers: list[str | None]
    sources: list[str | None]
    latex: list[str | None]
    label_errors: list[str | None]
    code: str
    digest: str

    @classmethod
    def open(cls, path: str | Path) -> Pack:
        """Open a pack; PackError where it is missing, damaged, foreign or of another vocabulary."""
        path = Path(path)
        arrays, header = read_tensors(path, FORMAT)
        try:
            flat, sizes = _flatten(arrays, len(header["id"]), len(header["vocabulary"]))
            known = list(Vocabulary.crohme().tokens)
            if header["vocabulary"][: len(known)] != known:
                raise ValueError("it was written with another vocabulary")
            if len(set(header["vocabulary"])) != len(header["vocabulary"]):
                raise ValueError("its vocabulary has a token twice")
            strings = ids, writers, sources, labels, errors = [header[k] for k in _STRINGS]
            if any(len(s) != len(sizes) for s in strings):
                raise ValueError("its string lists do not fit")
            vocabulary = tuple(header["vocabulary"])
            return cls(path, header["split"], flat, arrays["typical"], sizes, vocabulary, ids, writers, sources, labels, errors,
                       header["code"], header["digest"])
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise PackError(f"{path}: {error}; delete it and run `mmlib data prepare`") from None

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, i: int) -> tuple[str, ...] | None:
        """Canonical tokens of expression i, None where its label is not valid."""
        flat = self.flat
        if not flat.valid[i]:
            return None
        return tuple(
            self.vocabulary[t] for t in flat.tokens[flat.token_offsets[i] : flat.token_offsets[i + 1]]
        )

    def __getitem__(self, i: int) -> Ink:
        i = range(len(self))[i]
        flat = self.flat
        part = slice(flat.point_offsets[i], flat.point_offsets[i + 1])
        of_stroke = flat.stroke_symbols[flat.stroke_offsets[i] : flat.stroke_offsets[i + 1]].tolist()
        strokes: dict[int, list[int]] = {}
        for stroke, symbol in enumerate(of_stroke):
            strokes.setdefault(symbol, []).append(stroke)
        labels = flat.symbols[flat.symbol_offsets[i] : flat.symbol_offsets[i + 1]].tolist()
        symbols = tuple(Symbol(self.vocabulary[v], tuple(strokes.get(k, ()))) for k, v in enumerate(labels))
        links = flat.token_symbols[flat.token_offsets[i] : flat.token_offsets[i + 1]]
        return Ink(
            flat.points[part],
            flat.point_stroke[part],
            symbols,
            self.latex[i],
            self.tokens(i),
            tuple(links.tolist()) if flat.aligned[i] else None,
            self.writers[i],
            self.sources[i],
            self.ids[i],
            self.label_errors[i],
        )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])  # of n lengths, n + 1 offsets


def _flatten(arrays: dict[str, np.ndarray], n: int, words: int) -> tuple[Flat, np.ndarray]:
    """Offsets and derived arrays; ValueError where the arrays do not fit together."""
    counts, lengths = arrays["counts"], arrays["stroke_lengths"]
    if any(arrays[k].dtype != d for k, d in _DTYPES.items()) or (
        n and (counts.min() < 0 or lengths.min() < 1)
    ):
        raise ValueError("its arrays have the wrong types or lengths")
    stroke_offsets, symbol_offsets, token_offsets = (_offsets(counts[:, k]) for k in range(3))
    starts = _offsets(lengths)
    fits = (
        (counts, n), (arrays["flags"], n), (arrays["typical"], n),
        (lengths, stroke_offsets[-1]), (arrays["stroke_symbols"], len(lengths)),
        (arrays["symbols"], symbol_offsets[-1]), (arrays["tokens"], token_offsets[-1]),
        (arrays["token_symbols"], token_offsets[-1]), (arrays["points"], starts[-1]),
    )  # fmt: skip
    if any(len(a) != b for a, b in fits) or (n and counts[:, 0].min() < 1):
        raise ValueError("its arrays do not fit together")
    for key in ("symbols", "tokens"):
        if len(arrays[key]) and not 0 <= arrays[key].min() <= arrays[key].max() < words:
            raise ValueError(f"{key} are out of the vocabulary's range")
    for key, count in (("stroke_symbols", counts[:, 0]), ("token_symbols", counts[:, 2])):
        if (arrays[key] >= np.repeat(counts[:, 1], count)).any() or (arrays[key] < -1).any():
            raise ValueError(f"{key} point to symbols that do not exist")
    points = arrays["points"].astype(np.float32) / RESOLUTION
    local = np.arange(len(lengths)) - np.repeat(stroke_offsets[:-1], counts[:, 0])
    point_offsets = starts[stroke_offsets]
    sizes = np.maximum.reduceat(points, point_offsets[:-1]) if n else np.zeros((0, 2), np.float32)
    flat = Flat(
        points,
        np.repeat(local, lengths).astype(np.int32),
        point_offsets,
        starts,
        stroke_offsets,
        arrays["stroke_symbols"],
        symbol_offsets,
        arrays["symbols"],
        token_offsets,
        arrays["tokens"],
        arrays["token_symbols"],
        arrays["flags"][:, 0],
        arrays["flags"][:, 1],
    )
    return flat, sizes
