"""A pad to write on: the recogniser reads what is drawn, or an uploaded picture."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anywidget
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets

from mmlib.data.pictures import decode
from mmlib.formula.ink import Ink, InkError
from mmlib.formula.inkml import write_inkml
from mmlib.read.reader import Reader, Reading, recognize
from mmlib.show import readings
from mmlib.show import style as plots
from mmlib.show.ink import draw_ink
from mmlib.show.widgets import png


class Pad(anywidget.AnyWidget):
    """Paper for mouse, pen or finger; `strokes` are lists of [x, y] in pixels of the pad."""

    strokes: traitlets.List[list[list[float]]] = traitlets.List().tag(sync=True)
    width = traitlets.Int(720).tag(sync=True)
    height = traitlets.Int(220).tag(sync=True)

    _esm = """
    export default { render({ model, el }) {
        const canvas = document.createElement("canvas"), ctx = canvas.getContext("2d");
        canvas.width = model.get("width"); canvas.height = model.get("height");
        canvas.className = "mmlib-pad";
        let current = null;
        const draw = () => {
            ctx.clearRect(0, 0, canvas.width, canvas.height);
            ctx.lineWidth = 3; ctx.lineCap = ctx.lineJoin = "round";
            ctx.strokeStyle = ctx.fillStyle = "#222";
            for (const stroke of [...model.get("strokes"), ...(current ? [current] : [])]) {
                ctx.beginPath();
                if (stroke.length === 1) {
                    ctx.arc(...stroke[0], 1.5, 0, 7); ctx.fill(); continue; }
                stroke.forEach(([x, y], k) => k ? ctx.lineTo(x, y) : ctx.moveTo(x, y));
                ctx.stroke();
            }
        };
        const at = e => { const box = canvas.getBoundingClientRect();
            return [(e.clientX - box.left) * canvas.width / box.width,
                    (e.clientY - box.top) * canvas.height / box.height]; };
        canvas.addEventListener("pointerdown", e => {
            if (e.button) return;
            canvas.setPointerCapture(e.pointerId);
            current = [at(e)]; draw(); e.preventDefault(); });
        canvas.addEventListener("pointermove", e => {
            if (!current) return;
            const seen = e.getCoalescedEvents?.() ?? [];
            current.push(...(seen.length ? seen : [e]).map(at)); draw(); });
        const up = () => { if (!current) return;
            model.set("strokes", [...model.get("strokes"), current]);
            current = null; model.save_changes(); draw(); };
        canvas.addEventListener("pointerup", up); canvas.addEventListener("pointercancel", up);
        model.on("change:strokes", draw); draw();
        el.append(canvas);
    } };
    """
    _css = """.mmlib-pad { background: #fff; border: 1px solid #999; border-radius: 6px;
        touch-action: none; cursor: crosshair; max-width: 100%; }"""


class Draw(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Write with mouse, pen or finger, or upload a picture; read what the recogniser makes of it.

    Args:
        reader: a recogniser; by default the one that ships.
        start: ink to begin with.
        beam: hypotheses in each direction.
        save_as: file that the button *save* writes, as InkML.
    """

    def __init__(self, reader: Reader | None = None, start: Ink | None = None, beam: int = 5,
                 save_as: str = "drawn.inkml"):
        self.reader, self.beam, self.save_as = reader or Reader.load(), beam, save_as
        self.found: list[Reading] = []
        self.pad = Pad(strokes=on_pad(start) if start is not None else [])
        self.latex, self.table = ipywidgets.HTMLMath(), ipywidgets.HTML()
        hidden = ipywidgets.Layout(max_width="100%", display="none")
        self.picture = ipywidgets.Image(format="png", layout=hidden)
        actions = {
            "undo": lambda: setattr(self.pad, "strokes", self.pad.strokes[:-1]),
            "clear": lambda: setattr(self.pad, "strokes", []),
            "save": self.save,
            "look": self.look,
        }
        self.buttons = {}
        for name, action in actions.items():
            button = ipywidgets.Button(description=name, layout=ipywidgets.Layout(width="90px"))
            button.on_click(lambda _, action=action: action())
            self.buttons[name] = button
        self.buttons["look"].tooltip = "where the recogniser looked when it wrote each token"
        self.upload = ipywidgets.FileUpload(accept=".png,.jpg,.jpeg,.bmp", description="a picture")
        self.pad.observe(lambda _: self.read(), "strokes")
        self.upload.observe(lambda change: self.read_file(change["new"]), "value")
        row = ipywidgets.HBox([*self.buttons.values(), self.upload])
        super().__init__([self.pad, row, self.latex, self.table, self.picture])
        self.read()

    @property
    def ink(self) -> Ink | None:
        """What is on the pad; None for an empty one."""
        return Ink.from_strokes(self.pad.strokes, id="drawn") if self.pad.strokes else None

    def read(self) -> None:
        """Read the pad."""
        self.picture.layout.display = "none"
        if self.ink is None:
            self.found = []
            self._say("Write a formula above.")
        else:
            self._show(self.ink)

    def read_file(self, files: Sequence[Mapping[str, Any]]) -> None:
        """Read an uploaded picture."""
        for file in files:
            self.pad.strokes = []  # what is read is no longer what is written
            try:
                self._show(decode(bytes(file["content"])))
            except (ValueError, RuntimeError) as error:
                self._say(f"{file['name']}: {error}")

    def _say(self, text: str) -> None:
        """A line of text in place of a reading."""
        self.latex.value, self.table.value = html.escape(text), ""

    def _show(self, source: Any) -> None:
        """Read an ink or a picture, and show the best readings."""
        started = time.perf_counter()
        try:
            self.found = recognize(source, self.beam, self.reader)
        except (InkError, RuntimeError) as error:
            self.found = []
            self._say(str(error))
            return
        took = 1000 * (time.perf_counter() - started)
        what = f"{len(self.pad.strokes)} strokes" if isinstance(source, Ink) else "a picture"
        best = self.found[0].latex if self.found else ""
        self.latex.value = f"<div style='font-size:170%; margin:8px'>${html.escape(best)}$</div>"
        rows = "".join(
            f"<tr><td>{np.exp(r.score):.2f}</td><td><code>{html.escape(r.latex)}</code></td></tr>"
            for r in self.found[:5]
        )
        self.table.value = ("<table class='mmlib-read'><tr><th>p per token</th><th>LaTeX</th></tr>"
                            f"{rows}</table><small>{what} read in {took:.0f} ms</small>")

    def look(self) -> None:
        """Draw where the decoder looked for each token."""
        if self.ink is None or not self.found:
            return
        with plots.style(), torch.no_grad():
            reading = readings.attended_reading(self.reader, self.ink, self.found[0].tokens)
            self.picture.value = png(readings.tokens_figure(self.ink, reading))
        self.picture.layout.display = ""

    def save(self) -> None:
        """Write the pad's ink as InkML, with what was read as its label."""
        if self.ink is not None:
            latex = self.found[0].latex if self.found else None
            write_inkml(replace(self.ink, latex=latex), self.save_as)
            self.table.value += f"<br><small>saved as {html.escape(self.save_as)}</small>"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        with plots.style():
            fig, ax = plt.subplots(figsize=(6, 2))
            ax.axis("off")
            if self.ink is not None:
                draw_ink(ax, self.ink, plots.BLACK)
                tokens = self.found[0].tokens if self.found else ()
                ax.set_title(f"read as  {plots.mathtext(tokens)}", loc="left", fontsize=12)
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        return bundle | {"image/png": png(fig)}


def on_pad(
    ink: Ink, height: float = 130.0, corner: tuple[float, float] = (40.0, 45.0)
) -> list[list[list[float]]]:
    """Strokes of an ink in the pad's pixels."""
    left, top, right, bottom = ink.bounds()
    scale = min(height / max(bottom - top, 1e-6), 640.0 / max(right - left, 1e-6))
    return [((s - (left, top)) * scale + corner).round(1).tolist() for s in ink.strokes()]
