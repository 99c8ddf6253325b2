"""To try at once: write, or send a picture; see what was read and how sure the reader is; copy it.

`TryIt` is made of two widgets: `Pad`, which takes ink and pictures in, and `Answer`, which shows a
reading. Their JavaScript stands beside this file.
"""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import traitlets
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from mmlib.data.errors import DataError
from mmlib.data.photo import Seen
from mmlib.data.pictures import decode
from mmlib.formula.ink import Ink, InkError
from mmlib.formula.inkml import write_inkml
from mmlib.formula.latex import TOKEN, LatexError, UnknownToken, canonical
from mmlib.read.formats import Format, FormatError, written
from mmlib.read.reader import AttendedReading, Reader, Reading, best_way, pretty
from mmlib.read.rows import box_of, rows_of
from mmlib.read.source import seen_in, strokes_of
from mmlib.show import style as plots
from mmlib.show.ink import drawing
from mmlib.show.widgets import png

HERE = Path(__file__).parent
MARGIN = 10  # pixels of paper around the ink that was seen


class Pad(anywidget.AnyWidget):
    """Paper for mouse, pen or finger, and three ways in for a picture: file, clipboard, drop.

    `strokes` are lists of [x, y] in pixels of the paper. A picture comes as a message with its
    bytes.
    """

    strokes: traitlets.List[list[list[float]]] = traitlets.List().tag(sync=True)
    width = traitlets.Int(720).tag(sync=True)
    height = traitlets.Int(220).tag(sync=True)
    folded = traitlets.Bool(False).tag(sync=True)  # out of the way while a picture is shown
    _esm, _css = HERE / "pad.js", HERE / "pad.css"


class Answer(anywidget.AnyWidget):
    """What was read, as `TryIt` describes it in `found`; clicks come back as messages."""

    found: traitlets.Dict[str, Any] = traitlets.Dict({"message": ""}).tag(sync=True)
    _esm, _css = HERE / "answer.js", HERE / "pad.css"


class Part:
    """One formula of what was sent: its ink, a picture of it, and its readings, surest first."""

    def __init__(self, seen: Seen | Ink, choices: list[Reading]):
        points, stroke, self.size = strokes_of(seen)  # size of a typical symbol, in the ink's unit
        self.seen, self.choices = seen, choices
        self.tokens = choices[0].tokens if choices else ()  # of the reading that is shown
        # The picture is (H, W), dark ink on white: `scale` pixels for a unit of the ink, whose
        # origin lies at `shift`.
        if isinstance(seen, Ink):
            self.ink, self.scale = seen, 48.0 / self.size
            small = replace(seen, points=((points - points.min(0)) / self.size).astype(np.float32))
            self.picture = 255 - drawing(small)
            self.shift = 20 - points.min(0) * self.scale
        else:
            self.ink, self.scale = Ink(points, stroke.astype(np.int32)), 1.0
            self.picture = 255 - np.pad(seen.levels, MARGIN)
            self.shift = np.array([MARGIN, MARGIN])


class TryIt(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Write with mouse, pen or finger, or send a picture, and see what the reader makes of it.

    Nothing is written to disk before *Keep* is pressed.

    Args:
        reader: a recogniser; by default the one that ships.
        start: ink or a picture (H, W) uint8 to begin with.
        folder: where *Keep* puts readings, in the form that notebook 07 trains on.
    """

    def __init__(self, reader: Reader | None = None, start: Ink | np.ndarray | None = None,
                 folder: str | Path = "my_formulas"):
        self.reader = reader or Reader.load()
        self.parts: list[Part] = []
        self.row = 0
        self.sent: np.ndarray | None = None  # the picture (H, W) that was sent; None: written ink
        self.pad, self.answer = Pad(), Answer()
        self.folder = ipywidgets.Text(str(folder), description="folder")
        self.keep_button = ipywidgets.Button(description="Keep this reading")
        self.kept = ipywidgets.Label()
        self.pad.observe(lambda _: self.read_pad(), "strokes")
        self.pad.on_msg(lambda _, content, buffers: self.sent_by_pad(content, buffers))
        self.answer.on_msg(lambda _, content, buffers: self.asked(content))
        self.keep_button.on_click(lambda _: self.keep())
        row = ipywidgets.HBox([self.folder, self.keep_button, self.kept],
                              layout=ipywidgets.Layout(flex_flow="row wrap"))
        super().__init__([self.pad, self.answer, row])
        if isinstance(start, Ink):
            self.pad.strokes = on_pad(start)
        elif start is not None:
            self.sent = start
            self.read(start, "a picture")
        else:
            self.clear()

    # --- what comes in ----------------------------------------------------------------------------

    def clear(self) -> None:
        """Take away what is written or was sent."""
        self.sent, self.pad.strokes = None, []
        self.say("Write a formula, or send a picture of one.")

    def read_pad(self) -> None:
        """Read what is written."""
        if self.pad.strokes:
            self.sent = None
            ink = Ink.from_strokes(self.pad.strokes, id="written")
            self.read(ink, f"{len(self.pad.strokes)} strokes")
        elif self.sent is None:
            self.clear()

    def sent_by_pad(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        """A message of the pad: to clear it, or the name and the bytes of a picture's file."""
        if "clear" in content:
            self.clear()
        else:
            self.read_picture(str(content["picture"]), bytes(buffers[0]))

    def read_picture(self, name: str, content: bytes) -> None:
        """Read the file of a picture."""
        try:
            self.sent = decode(content)
        except (ValueError, RuntimeError) as error:
            self.say(f"{name}: {error}")
            return
        self.pad.strokes = []  # what is read is no longer what is written
        self.read(self.sent, name)

    def read(self, source: Any, name: str) -> None:
        """Read ink or a picture (H, W), each formula of it, and show the first."""
        began = time.perf_counter()
        try:
            seen = seen_in(source)
            parts: list[Seen | Ink] = [*rows_of(seen)] if isinstance(seen, Seen) else [seen]
            if len(parts) == 1:
                parts[0], readings = best_way(parts[0], self.reader)
                found = [readings]
            else:
                found = self.reader.read([strokes_of(part) for part in parts])
            self.parts = [Part(part, self.choices(one)) for part, one in zip(parts, found)]
        except (InkError, DataError, RuntimeError) as error:
            self.say(str(error))
            return
        took = 1000 * (time.perf_counter() - began)
        rows = f", {len(parts)} formulas" if len(parts) > 1 else ""
        self.row = 0
        self.show(f"{name}{rows}: read in {took:.0f} ms")

    def choices(self, readings: Sequence[Reading]) -> list[Reading]:
        """Readings with their calibrated confidence, the surest first; all can be typeset."""
        scored, found = [(reading.tokens, reading.score) for reading in readings], []
        for k, reading in enumerate(readings):
            # Where nothing is calibrated: the score is the mean over the tokens and the end.
            each, n = float(np.exp(reading.score)), len(reading.tokens)
            told: dict[str, Any] = {"confidence": each ** (n + 1), "token_confidence": (each,) * n}
            if self.reader.calibration:
                others = [*scored[:k], *scored[k + 1 :]]
                told = self.reader.calibration.confidence([scored[k], *others])
            found.append(replace(reading, **told))
        return sorted(found, key=lambda reading: -(reading.confidence or 0))

    def asked(self, content: Mapping[str, Any]) -> None:
        """A click in the answer: another formula or reading, a token corrected, or SymPy's code."""
        part = self.parts[self.row]
        if "row" in content:
            self.row = int(content["row"])
            self.show(f"formula {self.row + 1} of {len(self.parts)}")
        elif "reading" in content:
            part.tokens = part.choices[int(content["reading"])].tokens
            self.show("another reading")
        elif "sympy" in content:  # only when asked: its parser takes seconds
            self.answer.send({"sympy": in_form(pretty(part.tokens), "sympy")})
        else:
            self.correct(int(content["token"]), str(content["text"]))

    def correct(self, place: int, text: str) -> None:
        """Write LaTeX instead of one token; an empty text takes the token away.

        What the reader does not know can be copied, but not kept.
        """
        part = self.parts[self.row]
        latex = " ".join([*part.tokens[:place], text, *part.tokens[place + 1 :]])
        pieces = TOKEN.findall(latex)
        try:
            part.tokens = tuple(canonical(latex))
        except LatexError as error:
            known = not isinstance(error, UnknownToken)
            if known or pieces.count("{") != pieces.count("}"):
                self.show(f"not changed: {error}")
                return
            part.tokens = tuple(pieces)
        name = self.unknown()
        self.show(f"the reader does not know {name}: it is copied, not kept" if name else
                  "corrected")

    def unknown(self) -> str:
        """The first token that the reader does not know, of the formula that is shown."""
        tokens = self.parts[self.row].tokens
        return next((token for token in tokens if token not in self.reader.vocabulary), "")

    def keep(self) -> None:
        """Write the formula and its LaTeX into the folder, which is made if it is not there."""
        if not self.parts or not self.parts[self.row].tokens:
            return
        if name := self.unknown():
            self.kept.value = f"not kept: the reader does not know {name}"
            return
        part, folder = self.parts[self.row], Path(self.folder.value).expanduser()
        (folder / "img").mkdir(parents=True, exist_ok=True)
        number = 1 + sum(1 for file in folder.rglob("kept-*"))
        name, latex = f"kept-{number:03d}", pretty(part.tokens)
        if isinstance(part.seen, Ink):
            write_inkml(replace(part.ink, latex=latex), folder / f"{name}.inkml")
        else:
            Image.fromarray(part.picture).save(folder / "img" / f"{name}.png")
            with (folder / "caption.txt").open("a", encoding="utf-8") as file:
                file.write(f"{name}\t{latex}\n")
        self.kept.value = f"{number} kept in {folder.name}"

    # --- what is shown ----------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A line of text in place of a reading."""
        self.parts, self.pad.folded = [], False
        self.answer.found = {"message": text}

    def show(self, message: str) -> None:
        """Show the formula that is chosen."""
        part = self.parts[self.row]
        if not part.tokens:
            self.say("nothing was read")
            return
        looked = self.reader.attended(part.ink, part.tokens, size=part.size)
        latex = pretty(part.tokens)
        self.pad.folded = self.sent is not None
        by_hand = Reading(part.tokens, latex, 0.0, 1.0, (1.0,) * len(part.tokens))
        chosen = next((one for one in part.choices if one.tokens == part.tokens), by_hand)
        sure = f"{100 * (chosen.confidence or 0):.0f} % sure"
        sure += ", doubtful: check every sign" * chosen.doubtful
        self.answer.found = {
            "message": message, "sent": None if self.sent is None else data_url(self.sent),
            "seen": data_url(part.picture), "boxes": self.boxes(), "row": self.row,
            "mathml": typeset(latex), "tokens": list(zip(part.tokens, chosen.token_confidence)),
            "sure": "corrected by hand" if chosen is by_hand else sure,
            "copies": {"LaTeX": latex, "MathML": in_form(latex, "mathml")},
            "others": [{"mathml": typeset(one.latex), "sure": one.confidence,
                        "chosen": one is chosen} for one in part.choices],
            **_heat(part, looked),
        }

    def boxes(self) -> list[list[float]]:
        """Left, top, width and height of each formula, as shares of the picture that was sent."""
        if self.sent is None or len(self.parts) < 2:
            return []
        high, wide = self.sent.shape
        found = [box_of(part.seen) for part in self.parts]
        return [[left / wide, top / high, (right - left) / wide, (bottom - top) / high]
                for left, top, right, bottom in found]

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        return bundle | {"image/png": png(self.drawn())}

    def drawn(self) -> Figure:
        """A picture of the widget, for pages without a kernel."""
        with plots.style():
            widths = (1, 1, 1.2)[self.sent is None :]
            fig, axes = plt.subplots(1, len(widths), figsize=(9, 2.4), width_ratios=widths)
            for ax in axes:
                ax.axis("off")
            *_, middle, right = axes
            if self.sent is not None:
                axes[0].imshow(self.sent, cmap="gray", vmin=0, vmax=255)
                axes[0].set_title("as sent", fontsize=9)
                high, wide = self.sent.shape
                for k, (x, y, w, h) in enumerate(self.boxes()):
                    color = plots.RED if k == self.row else plots.BLUE
                    axes[0].add_patch(Rectangle((x * wide, y * high), w * wide, h * high, lw=1.5,
                                                fill=False, ec=color))
            if self.parts:
                part = self.parts[self.row]
                middle.imshow(part.picture, cmap="gray", vmin=0, vmax=255)
                middle.set_title("as seen", fontsize=9)
                for k, one in enumerate(part.choices[:5]):
                    said = f"{100 * (one.confidence or 0):.0f} %   {plots.mathtext(one.tokens)}"
                    right.text(0, 0.85 - 0.19 * k, said, fontsize=14 if k == 0 else 10,
                               in_layout=False)
        return fig


def _heat(part: Part, looked: AttendedReading) -> dict[str, Any]:
    """Where the reader looked at each token, as bytes, and where these cells lie on the picture."""
    most = looked.cross.max((1, 2), keepdims=True)
    levels = (160 * looked.cross / np.maximum(most, 1e-9)).astype(np.uint8)
    left, right, bottom, top = looked.extent
    corner = np.array([left, top]) * part.scale + part.shift
    size = np.array([right - left, bottom - top]) * part.scale
    high, wide = part.picture.shape
    return {"attention": base64.b64encode(levels.tobytes()).decode(),
            "cells": list(levels.shape[1:]),
            "place": [float(x) for x in (*(corner / (wide, high)), *(size / (wide, high)))]}


def in_form(latex: str, form: Format) -> str:
    """A formula in another language; nothing where it has no such form."""
    try:
        return written(latex, form)
    except FormatError:
        return ""


def typeset(latex: str) -> str:
    """A formula in display style as HTML; as code where it cannot be typeset."""
    return in_form(latex, "mathml") or f"<code>{html.escape(latex)}</code>"


def data_url(picture: np.ndarray) -> str:
    """A picture (H, W) as a PNG that a page can show, at most 700 pixels wide."""
    image, file = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((700, 500))
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def on_pad(ink: Ink) -> list[list[list[float]]]:
    """Strokes of an ink in the pad's pixels."""
    left, top, right, bottom = ink.bounds()
    scale = min(130.0 / max(bottom - top, 1e-6), 640.0 / max(right - left, 1e-6))
    return [((s - (left, top)) * scale + (40.0, 45.0)).round(1).tolist() for s in ink.strokes()]
