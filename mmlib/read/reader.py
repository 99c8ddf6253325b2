"""From a picture, a file or ink to LaTeX with the recogniser that ships, or with any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmlib.data import DataError, the_file
from mmlib.draw.views import InkBatch, ViewConfig, make_view
from mmlib.formula.ink import Ink, InkError, stroke_boxes, typical_size
from mmlib.formula.inkml import read_inkml
from mmlib.formula.latex import LatexError, to_tree
from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.decoder import DecoderConfig
from mmlib.models.encoder import EncoderConfig
from mmlib.models.layers import autocast, channels_last
from mmlib.models.recogniser import ModelConfig, Recogniser
from mmlib.models.search import beam_search
from mmlib.store.runs import Run, RunError, fields_of, load_weights, results_root, training_cost

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 2**24  # pixels of a picture that is read
COMPONENTS = 1.08  # typical component of a picture over typical symbol of its ink: CROHME's training set, median
MOST_AREA = 4_000  # square typical symbols: several times the longest expression of CROHME
GAP = 1.5  # typical symbols of blank paper between two lines: in CROHME 5 of 11,019 formulas have as much, all of them tall
THREE_SIZES = (0.86, 1.0, 1.14)  # of a careful reading: 12, 14 and 16 pixels a typical symbol, where 14 is the view's own
MOST_POINTS = 200_000  # ink points of one expression: a page of scribble, not a formula


@dataclass(frozen=True)
class Reading:
    """One hypothesis: canonical tokens, LaTeX to paste, and the mean log-probability a token, of both directions: 0 is sure."""

    tokens: tuple[str, ...]
    latex: str
    score: float


@dataclass(frozen=True, eq=False)
class Reader:
    """A recogniser with what it needs to read: vocabulary and view."""

    model: Recogniser
    vocabulary: Vocabulary
    view: ViewConfig
    config: dict[str, Any]  # of its fine-tuning
    path: Path
    run: str  # that fine-tuning's name
    pictures: int  # seen in all of its stages
    minutes: float  # spent on them

    @classmethod
    def load(cls, path: str | Path | None = None, device: str = "cpu") -> Reader:
        """From a weights file, a run's folder or its bare name; by default the recogniser that ships. Loaded once, until the
        file changes.

        Raises FileNotFoundError or RunError, naming the file.
        """
        if path is None:
            path = results_root() / "checkpoints" / "recogniser.safetensors"
        else:
            named, path = results_root() / "runs" / path, Path(path)
            path = named if not path.exists() and named.is_dir() else path
            path = path / "weights.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"there is no recogniser at {path}: fine-tune one, or name another")
        return _load(path, device, path.stat().st_mtime_ns)

    @torch.no_grad()
    def read(self, inks: list[tuple[np.ndarray, np.ndarray, float]], beam: int = 5, longest: int = 120,
             sizes: Sequence[float] = (1.0,)) -> list[list[Reading]]:
        """Read inks given as (points (n, 2) in any unit, stroke (n,), typical symbol size in that unit), one batch, drawn at
        `sizes` of the recogniser's own; best first, and after all of them what is no expression (evaluations score the plain
        order)."""
        device = self.model.scalars["gamma"].device
        points, strokes, owners, offset = [], [], [], 0
        for number, (xy, stroke, size) in enumerate(inks):
            points.append((xy - xy.min(0)) / size)
            local = np.unique(stroke, return_inverse=True)[1]
            strokes.append(local + offset)
            owners.append(np.full(len(xy), number))
            offset += int(local[-1]) + 1
        batch = InkBatch(torch.from_numpy(np.concatenate(points).astype(np.float32)), torch.from_numpy(np.concatenate(strokes)),
                         torch.from_numpy(np.concatenate(owners)), len(inks)).to(device)
        seen = [make_view(batch, self.view.still(size), torch.Generator().manual_seed(0)) for size in sizes]
        with autocast(device):
            memories = [self.model.encode(view.picture, view.valid).memory for view in seen]
            read = beam_search(self.model, memories, self.vocabulary, beam, longest)
        return [sorted((self._reading(h.tokens, h.score) for h in found), key=lambda r: not _is_expression(r.tokens))
                for found in read]

    def _reading(self, ids: tuple[int, ...], score: float) -> Reading:
        tokens = self.vocabulary.decode(ids)
        return Reading(tuple(tokens), pretty(tokens), score)


def pretty(tokens: Sequence[str]) -> str:
    """Tokens as one would type them: a space only where a command would run into a letter, and `<`, which LaTeX has, for
    `\\lt`, which it has not. `mmlib.formula.latex.canonical` gives the tokens back."""
    text, before = "", ""
    for token in tokens:
        token = {r"\lt": "<", r"\gt": ">"}.get(token, token)
        text += " " * (before.startswith("\\") and before[-1].isalpha() and token[0].isalpha()) + token
        before = token
    return text


def _is_expression(tokens: tuple[str, ...]) -> bool:
    """Whether tokens parse: LaTeX that cannot be typeset is no help to a user, however likely."""
    try:
        to_tree(tokens)
    except LatexError:
        return False
    return True


def model_config(values: dict[str, Any]) -> ModelConfig:
    """A `ModelConfig` from the nested dict that a weights file keeps."""
    values = dict(values)
    encoder, decoder = EncoderConfig(**fields_of(values.pop("encoder"))), DecoderConfig(**values.pop("decoder"))
    return ModelConfig(encoder, decoder, **values)


@lru_cache(maxsize=4)
def _load(path: Path, device: str, changed: int) -> Reader:
    weights, metadata = load_weights(path)
    try:
        config = metadata["config"]
        vocabulary = Vocabulary(metadata["vocabulary"][len(Vocabulary.SPECIALS):])
        model = Recogniser(len(vocabulary), model_config(config["model"]))
        model.load_state_dict({k: v.float() for k, v in weights.items()})
        view = ViewConfig(**fields_of(config["view"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"{path} is not a recogniser's weights file: {error}") from error
    name, cost = metadata.get("run", path.parent.name), (metadata.get("pictures"), metadata.get("minutes"))
    if None in cost or (path.parent / "environment.json").is_file():  # in its run's folder, whose own files say it to the end
        try:
            cost = training_cost(Run.load(path.parent))
        except RunError:  # a run that it started from is not here: the header's word is all there is
            if None in cost:
                raise
    return Reader(channels_last(model, device).eval(), vocabulary, view, config, path, name, *cost)


def trace_picture(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Ink levels (H, W) uint8, 255 = ink, to ink: the skeleton's pixels, joined to their neighbours.

    Returns points (n, 2) in pixels, stroke (n,): short strokes of two points, one for each pair of neighbouring skeleton
    pixels, and the typical symbol size in pixels. So a picture is drawn again with the pen that the recogniser knows, whatever
    its own resolution and pen. Raises DataError where there is no ink.
    """
    from skimage.filters import threshold_otsu
    from skimage.measure import label, regionprops
    from skimage.morphology import skeletonize

    small = np.asarray(levels)
    ink = small > min(threshold_otsu(small) if small.min() < small.max() else 127, 200)
    skeleton = skeletonize(ink)
    if not skeleton.any():
        raise DataError("the picture has no ink")
    padded = np.pad(skeleton, 1)
    pairs = []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        both = padded & np.roll(padded, (-dy, -dx), (0, 1))
        if dy and dx:  # a diagonal only where no right angle joins the two already
            both &= ~np.roll(padded, -dy, 0) & ~np.roll(padded, -dx, 1)
        y, x = np.nonzero(both)
        pairs.append(np.stack([np.stack([x, y], 1), np.stack([x + dx, y + dy], 1)], 1))
    edges = np.concatenate(pairs)
    joined = np.zeros_like(padded)
    joined[edges[..., 1], edges[..., 0]] = True
    y, x = np.nonzero(padded & ~joined)  # dots
    dots = np.stack([np.stack([x, y], 1)] * 2, 1)
    strokes = np.concatenate([edges, dots]) - 0.5  # the padding off, a pixel's centre at +1/2
    boxes = np.array([r.bbox for r in regionprops(label(skeleton, connectivity=2))])
    corners = np.stack([boxes[:, [1, 0]], boxes[:, [3, 2]] - 1], 1).reshape(-1, 2).astype(np.float32)
    size = typical_size(corners, np.repeat(np.arange(len(boxes)), 2)) / COMPONENTS
    return strokes.reshape(-1, 2).astype(np.float32), np.repeat(np.arange(len(strokes)), 2), size


def ink_of(source: Any, photo: bool | None = None) -> tuple[np.ndarray, np.ndarray, float]:
    """Points (n, 2), strokes (n,) and typical symbol size of whatever `recognize` takes.

    Raises InkError, DataError or FileNotFoundError, naming it.
    """
    if isinstance(source, (str, Path)):
        the_file(source)
    if isinstance(source, Ink):
        points, stroke = source.points, source.stroke
        size = typical_size(points, stroke)
    elif isinstance(source, (str, Path)) and Path(source).suffix.lower() == ".inkml":
        ink = read_inkml(source)
        points, stroke = ink.points, ink.stroke
        size = typical_size(points, stroke)
    else:
        points, stroke, size = _from_picture(source, photo)
    name = source if isinstance(source, (str, Path)) else "the ink"
    if len(points) > MOST_POINTS:
        raise InkError(f"{name}: {len(points):,} points are too many for one expression; crop the picture to it")
    wide, high = np.ptp(points, axis=0) / size
    if (wide + 1) * (high + 1) > MOST_AREA:
        raise InkError(f"{name}: {wide:.0f} x {high:.0f} typical symbols are too much for one expression; crop it, or give a "
                       "picture without specks")
    if rows := several_rows(points, stroke, size):
        raise InkError(f"{name}: {rows} rows of ink with blank paper between them; crop it to one formula")
    return points, stroke, size


def several_rows(points: np.ndarray, stroke: np.ndarray, size: float) -> int:
    """Rows of ink, two or more, that `GAP` of blank paper parts, each of a formula's size; 0 where there is one. Lines closer
    than that pass: they could be the two halves of a fraction."""
    low, high = stroke_boxes(points, stroke)
    order = np.argsort(low[:, 1])
    low, high = low[order] / size, high[order] / size
    starts = np.flatnonzero(low[1:, 1] - np.maximum.accumulate(high[:, 1])[:-1] > GAP) + 1
    sides = [b.max(0) - a.min(0) for a, b in zip(np.split(low, starts), np.split(high, starts), strict=True)]
    rows = sum(wide > 2 and tall > 0.5 for wide, tall in sides)
    return rows if rows > 1 else 0


def _from_picture(source: str | Path | Image | np.ndarray, photo: bool | None) -> tuple[np.ndarray, np.ndarray, float]:
    from mmlib.data.photo import clean, is_photo
    from mmlib.data.pictures import decode, grey_of, ink_levels

    try:
        if isinstance(source, (str, Path)):
            grey = decode(Path(source).read_bytes())
        elif isinstance(source, np.ndarray):
            grey = _grey(source)
        elif hasattr(source, "convert"):
            grey = grey_of(source)
        else:
            raise DataError(f"cannot read a {type(source).__name__}; give a path, a PIL image, an array or an Ink")
        if grey.size > LARGEST:
            raise DataError(f"a picture of {grey.shape[1]} x {grey.shape[0]} pixels is too large; scale it down")
        if is_photo(grey) if photo is None else photo:
            grey = clean(grey)
        return trace_picture(ink_levels(grey))
    except DataError as error:
        raise DataError(f"{source if isinstance(source, (str, Path)) else 'picture'}: {error}") from None


def _grey(array: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of an array (H, W), (H, W, 3) or (H, W, 4), of integers to 255, floats to 1 or booleans."""
    from PIL import Image

    from mmlib.data.pictures import grey_of

    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise DataError(f"an array of shape {array.shape} is no picture; expected (H, W), (H, W, 3) or (H, W, 4)")
    if not array.size or not np.isfinite(array).all():
        raise DataError("a picture must have pixels, all of them finite")
    if array.dtype.kind in "fb" and array.max() <= 1:
        array = array * 255.0
    return grey_of(Image.fromarray(np.clip(array, 0, 255).astype(np.uint8)))


def recognize(source: Any, beam: int = 5, reader: Reader | str | Path | None = None, photo: bool | None = None,
              sizes: Sequence[float] = (1.0,)) -> list[Reading]:
    """LaTeX of one handwritten expression.

    Args:
        source: a path of a PNG, JPEG, BMP or InkML file, a PIL image, an array (H, W) or (H, W, 3 or 4), or an `Ink`; dark on
            light or light on dark, any size, one formula.
        beam: hypotheses searched in each direction; 1 is greedy.
        reader: a `Reader`, or a weights file, run folder or run's name to load; by default the recogniser that ships.
        photo: whether a picture is a photograph, to be cleaned first (`mmlib.data.photo`): by default if its paper is unevenly lit.
        sizes: at which the ink is drawn, of the recogniser's own; each is searched and every hypothesis scored by all, at the
            cost of as many readings. `THREE_SIZES` reads better than one.

    Returns:
        hypotheses, best first.

    Raises:
        InkError, DataError, FileNotFoundError: what cannot be read, by name.
    """
    reader = reader if isinstance(reader, Reader) else Reader.load(reader)
    return reader.read([ink_of(source, photo)], beam, sizes=sizes)[0]
