"""From a picture, a file or ink to LaTeX with the recogniser that ships, or with any other."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmlib.data.errors import DataError
from mmlib.data.photo import Seen
from mmlib.data.sample import collate, unlabelled
from mmlib.draw.views import STRIDE, ViewConfig, make_view
from mmlib.formula.ink import Ink, InkError, typical_size
from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.layers import channels_last
from mmlib.models.recogniser import ModelConfig, Recogniser
from mmlib.read.batch import read_samples
from mmlib.read.confidence import CONFIDENCE, Calibration
from mmlib.read.rows import box_of, rows_of, touching
from mmlib.read.source import named, seen_in, strokes_of
from mmlib.store.files import RunError, from_json, results_root, shipped_weights
from mmlib.store.machine import give_back_memory, one_thread
from mmlib.store.weights import load_weights

# Of a careful reading: 12, 14 and 16 pixels per typical symbol, where 14 is the view's own.
THREE_SIZES = (0.86, 1.0, 1.14)
DOUBTFUL = -0.05  # score below which another way to see a picture is tried
BETTER = 0.02  # by which its score must be higher
LARGER = 1.2  # size, relative to the first, at which a picture is then read, too
# Each shape of a picture makes kernels. PyTorch would keep those of 1,024 products, so that memory
# grows over thousands of pictures; it reads this number at its first. oneDNN keeps its own: what it
# gives up leaves holes in the heap, which go back to the system now and then.
KERNELS = "LRU_CACHE_CAPACITY", "256"
TRIM = 64  # calls of `Reader.read` between two times
CALLS = itertools.count(1)
EXPORTED = "model.safetensors"  # of `mmlib export`, as of Hugging Face, with config.json beside it


@dataclass(frozen=True)
class Reading:
    """One hypothesis."""

    tokens: tuple[str, ...]  # canonical
    latex: str  # to paste
    score: float  # mean log-probability per token, of both directions; 0 is sure
    # Of the best reading: how likely it is right, and each of its tokens, if that was calibrated.
    confidence: float | None = None
    token_confidence: tuple[float, ...] = ()

    @property
    def doubtful(self) -> bool:
        """Whether it is more likely wrong than right."""
        return self.confidence is not None and self.confidence < 0.5

    @property
    def doubts(self) -> list[str]:
        """The tokens that are more likely wrong than right."""
        pairs = zip(self.tokens, self.token_confidence, strict=False)
        return [token for token, sure in pairs if sure < 0.5]


@dataclass(frozen=True, eq=False)
class AttendedReading:
    """A reading with the attention behind it, on the cells of its picture."""

    tokens: tuple[str, ...]  # (t,)
    cross: np.ndarray  # (t, h, w), the guided head's when each token is written, left to right
    extent: tuple[float, float, float, float]  # left, right, bottom, top of the cells in ink units


@dataclass(frozen=True)
class Row:
    """One formula of a picture that may hold several."""

    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels of the upright picture
    readings: list[Reading]  # best first
    touching: bool  # so tall that it may be rows that could not be told apart


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
    calibration: Calibration | None = None  # of the readings' confidence
    most: int = 64  # expressions of a batch

    @classmethod
    def load(cls, path: str | Path | None = None, device: str = "cpu") -> Reader:
        """From a weights file, the folder of a run or an export, or a run's bare name.

        By default the recogniser that ships.

        Loaded once, until the file changes. Raises FileNotFoundError or RunError, naming the file.
        """
        if path is None:
            path = shipped_weights()
        else:
            named, path = results_root() / "runs" / path, Path(path)
            path = named if not path.exists() and named.is_dir() else path
            if path.is_dir():
                path = path / (EXPORTED if (path / EXPORTED).is_file() else "weights.safetensors")
        if not path.is_file():
            raise FileNotFoundError(f"there is no recogniser at {path}: fine-tune one, or name "
                                    "another")
        return _load(path, device, path.stat().st_mtime_ns)

    def read(self, inks: list[tuple[np.ndarray, np.ndarray, float]], beam: int = 5,
             sizes: Sequence[float] = (1.0,)) -> list[list[Reading]]:
        """Read inks; hypotheses of each, best first.

        inks: (points (n, 2) in any unit, stroke (n,), typical symbol size in that unit), as
        `ink_of` gives them. They are drawn at `sizes`, relative to the recogniser's own.
        """
        device = self.model.scalars["gamma"].device
        samples = [unlabelled(points, stroke, size) for points, stroke, size in inks]
        found = read_samples(self.model, samples, self.vocabulary, self.view, beam, device=device,
                             most=self.most, sizes=sizes)
        readings = []
        for hypotheses in found:
            decoded = [(self.vocabulary.decode(h.tokens), h.score) for h in hypotheses]
            of_one = [Reading(tuple(tokens), pretty(tokens), score) for tokens, score in decoded]
            if of_one and self.calibration:
                of_one[0] = replace(of_one[0], **self.calibration.confidence(decoded))
            readings.append(of_one)
        if next(CALLS) % TRIM == 0:
            give_back_memory()
        return readings

    @torch.no_grad()
    def attended(self, ink: Ink, tokens: Sequence[str] | None = None, beam: int = 3,
                 size: float | None = None) -> AttendedReading:
        """Read an ink, or take these tokens as read, and keep where the recogniser attended.

        size: of a typical symbol in the ink's unit, if it is known, as that of a traced picture.
        """
        strokes = ink.points, ink.stroke, size or typical_size(ink.points, ink.stroke)
        if tokens is None:
            tokens = self.read([strokes], beam)[0][0].tokens
        batch = collate([unlabelled(*strokes)]).ink
        view = make_view(batch, self.view.still(), torch.Generator().manual_seed(0))
        inputs = torch.tensor([[[self.vocabulary.sos, *self.vocabulary.encode(list(tokens))]]])
        with one_thread():
            _, cross, _ = self.model(view.picture, view.valid, inputs)
        h, w = view.valid.shape[2:]
        cross = cross[0, 0, : len(tokens), : h * w].reshape(-1, h, w).float().numpy()
        cell, margin = (x / self.view.symbol * strokes[2] for x in (STRIDE, self.view.margin))
        left, top = (float(edge - margin) for edge in ink.points.min(0))
        extent = left, float(left + w * cell), float(top + h * cell), top
        return AttendedReading(tuple(tokens), cross, extent)


def recognize(source: Any, beam: int = 5, reader: Reader | str | Path | None = None,
              photo: bool | None = None, sizes: Sequence[float] = (1.0,), *, rows: bool = False,
              show: str | Path | None = None) -> list[Any]:
    """LaTeX of one handwritten expression, or of each in a picture.

    Args:
        source: a path of a picture or InkML file, a PIL image, an array (H, W) or (H, W, 3 or 4),
            or an `Ink`; dark on light or light on dark, drawn, scanned or photographed, any size.
        beam: hypotheses searched in each direction; 1 is greedy.
        reader: a `Reader`, or a weights file, run folder or run's name to load; by default the
            recogniser that ships.
        photo: True cleans a picture as a photograph even if its light is even, False takes it as it
            is; by default what is found in it decides (`mmlib.data.photo`).
        sizes: at which the ink is drawn, relative to the recogniser's own. Each is searched, and
            every hypothesis is scored by all, at the cost of as many readings. `THREE_SIZES` reads
            better than one.
        rows: read several formulas, one under another or in columns, each by itself.
        show: a folder in which to save what was seen of a picture.

    Returns:
        a `Reading` for each hypothesis, best first; with `rows` a `Row` for each formula.

    Raises:
        InkError, DataError, FileNotFoundError: what cannot be read, by name.
        NothingError: of these, a picture without anything to read.
    """
    reader = reader if isinstance(reader, Reader) else Reader.load(reader)
    seen, name = seen_in(source, photo), named(source, "picture")
    if rows:
        parts: list[Seen | Ink] = [*rows_of(seen)] if isinstance(seen, Seen) else [seen]
        found = reader.read([strokes_of(part, source) for part in parts], beam, sizes)
        _save(parts, show, name)
        return [Row(box_of(part), readings, touching(part)) for part, readings in zip(parts, found)]
    seen, best = best_way(seen, reader, beam, sizes, source)
    _save([seen], show, name)
    return best


def best_way(seen: Seen | Ink, reader: Reader, beam: int = 5, sizes: Sequence[float] = (1.0,),
             source: Any = None) -> tuple[Seen | Ink, list[Reading]]:
    """The way to see a picture of one formula that reads best, and its readings.

    Where the first way reads badly, another or a larger drawing may read well. Raises the InkError
    or DataError of the first way, naming the source, where none holds a single formula.
    """
    ways, errors = [], []
    for way in (seen, *(seen.others if isinstance(seen, Seen) else ())):
        try:
            ways.append((way, strokes_of(way, source)))
        except (DataError, InkError) as error:
            errors.append(error)
    if not ways:
        raise errors[0]
    (seen, ink), *others = ways
    best = reader.read([ink], beam, sizes)[0]
    if isinstance(seen, Seen) and _worth(best) < DOUBTFUL:
        larger = [LARGER * size for size in sizes]
        found = reader.read([ink for _, ink in others], beam, sizes)
        found += reader.read([ink for _, ink in ways], beam, larger)
        for (way, _), readings in zip([*others, *ways], found, strict=True):
            if _worth(readings) > _worth(best) + BETTER:
                seen, best = way, readings
    return seen, best


def _worth(readings: list[Reading]) -> float:
    return readings[0].score if readings else -9.0


def _save(parts: Sequence[Seen | Ink], folder: str | Path | None, name: str) -> None:
    """Save what was seen of a picture, dark on light, as NAME.png or NAME-1.png and so on."""
    from PIL import Image

    for number, part in enumerate(parts if folder else (), 1):
        if isinstance(part, Seen):
            Path(folder or "").mkdir(parents=True, exist_ok=True)
            file = f"{Path(name).stem}-{number}.png" if len(parts) > 1 else f"{Path(name).stem}.png"
            Image.fromarray(255 - np.pad(part.levels, 10)).save(Path(folder or "") / file)


def pretty(tokens: Sequence[str]) -> str:
    """Tokens as one would type them; `mmlib.formula.latex.canonical` gives the tokens back.

    A space stands only where a command would run into a letter, and `<`, which LaTeX has, for
    `\\lt`, which it has not.
    """
    text, before = "", ""
    for token in tokens:
        token = {r"\lt": "<", r"\gt": ">"}.get(token, token)
        runs_in = before.startswith("\\") and before[-1].isalpha() and token[0].isalpha()
        text += f" {token}" if runs_in else token
        before = token
    return text


@lru_cache(maxsize=4)
def _load(path: Path, device: str, changed: int) -> Reader:
    os.environ.setdefault(*KERNELS)
    weights, metadata = load_weights(path)
    try:
        if path.name == EXPORTED:
            metadata = json.loads((path.parent / "config.json").read_text("utf-8"))
        config = metadata["config"]
        vocabulary = Vocabulary(metadata["vocabulary"][len(Vocabulary.SPECIALS) :])
        model = Recogniser(len(vocabulary), from_json(ModelConfig, config["model"]))
        model.load_state_dict({k: v.float() for k, v in weights.items()})
        view = from_json(ViewConfig, config["view"])
        name = metadata.get("run", path.parent.name)
        cost = metadata["pictures"], metadata["minutes"]
        calibrated, beside = metadata.get("confidence"), path.with_name(CONFIDENCE)
        if not calibrated and beside.is_file():
            calibrated = json.loads(beside.read_text("utf-8"))
        calibration = Calibration.of(calibrated or {}, name)
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{path} is not a recogniser's weights file: {error}") from error
    model = channels_last(model, device).eval()
    return Reader(model, vocabulary, view, config, path, name, *cost, calibration)
