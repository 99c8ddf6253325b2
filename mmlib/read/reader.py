"""From a picture, a file or ink to LaTeX with the recogniser that ships, or with any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmlib.data.sample import unlabelled
from mmlib.draw.views import ViewConfig
from mmlib.formula.latex import LatexError, to_tree
from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.layers import channels_last
from mmlib.models.recogniser import ModelConfig, Recogniser
from mmlib.read.batch import read_samples
from mmlib.read.source import ink_of
from mmlib.store.files import RunError, from_json, results_root, shipped_weights
from mmlib.store.weights import load_weights

# Of a careful reading: 12, 14 and 16 pixels per typical symbol, where 14 is the view's own.
THREE_SIZES = (0.86, 1.0, 1.14)
EXPORTED = "model.safetensors"  # of `mmlib export`, as of Hugging Face, with config.json beside it


@dataclass(frozen=True)
class Reading:
    """One hypothesis."""

    tokens: tuple[str, ...]  # canonical
    latex: str  # to paste
    score: float  # mean log-probability per token, of both directions; 0 is sure


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
    most: ClassVar[int] = 64  # expressions of a batch

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
        `ink_of` gives them. They are drawn at `sizes`, relative to the recogniser's own. What does
        not parse comes last (evaluations score the plain order).
        """
        device = self.model.scalars["gamma"].device
        samples = [unlabelled(points, stroke, size) for points, stroke, size in inks]
        found = read_samples(self.model, samples, self.vocabulary, self.view, beam, device=device,
                             most=self.most, sizes=sizes)
        readings = []
        for hypotheses in found:
            decoded = [(self.vocabulary.decode(h.tokens), h.score) for h in hypotheses]
            of_one = [Reading(tuple(tokens), pretty(tokens), score) for tokens, score in decoded]
            readings.append(sorted(of_one, key=lambda r: not _is_expression(r.tokens)))
        return readings


def recognize(source: Any, beam: int = 5, reader: Reader | str | Path | None = None,
              photo: bool | None = None, sizes: Sequence[float] = (1.0,)) -> list[Reading]:
    """LaTeX of one handwritten expression.

    Args:
        source: a path of a PNG, JPEG, BMP or InkML file, a PIL image, an array (H, W) or
            (H, W, 3 or 4), or an `Ink`; dark on light or light on dark, any size, one formula.
        beam: hypotheses searched in each direction; 1 is greedy.
        reader: a `Reader`, or a weights file, run folder or run's name to load; by default the
            recogniser that ships.
        photo: whether a picture is a photograph, to be cleaned first (`mmlib.data.photo`); by
            default if its paper is unevenly lit.
        sizes: at which the ink is drawn, relative to the recogniser's own. Each is searched, and
            every hypothesis is scored by all, at the cost of as many readings. `THREE_SIZES` reads
            better than one.

    Returns:
        hypotheses, best first.

    Raises:
        InkError, DataError, FileNotFoundError: what cannot be read, by name.
    """
    reader = reader if isinstance(reader, Reader) else Reader.load(reader)
    return reader.read([ink_of(source, photo)], beam, sizes=sizes)[0]


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


def _is_expression(tokens: tuple[str, ...]) -> bool:
    """Whether tokens parse: LaTeX that cannot be typeset is no help, however likely."""
    try:
        to_tree(tokens)
    except LatexError:
        return False
    return True


@lru_cache(maxsize=4)
def _load(path: Path, device: str, changed: int) -> Reader:
    weights, metadata = load_weights(path)
    try:
        if path.name == EXPORTED:
            metadata = json.loads((path.parent / "config.json").read_text("utf-8"))
        config = metadata["config"]
        vocabulary = Vocabulary(metadata["vocabulary"][len(Vocabulary.SPECIALS) :])
        model = Recogniser(len(vocabulary), from_json(ModelConfig, config["model"]))
        model.load_state_dict({k: v.float() for k, v in weights.items()})
        view = from_json(ViewConfig, config["view"])
        cost = metadata["pictures"], metadata["minutes"]
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{path} is not a recogniser's weights file: {error}") from error
    model, name = channels_last(model, device).eval(), metadata.get("run", path.parent.name)
    return Reader(model, vocabulary, view, config, path, name, *cost)
