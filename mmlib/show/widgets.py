"""Things to play with in a notebook. Each carries a picture of its first state, so that a notebook read without a kernel, on a
code host or in print, shows what the reader would see."""

from __future__ import annotations

import html
import io
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets

from mmlib.data.augment import collate, from_pack
from mmlib.data.pack import Pack
from mmlib.draw.masks import mask_ratio
from mmlib.draw.views import STRIDE, InkBatch, View, ViewConfig, make_view, sample
from mmlib.formula.ink import Ink, InkError, write_inkml
from mmlib.read.reader import Reader, Reading, recognize
from mmlib.show import readings, story
from mmlib.show import style as plots
from mmlib.train import attend
from mmlib.train.objectives.contrast import common_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = ipywidgets.Layout(width="320px")
NAMED = {"description_width": "90px"}


class Panel(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Controls above a picture that follows them.

    Args:
        controls: widgets by the name of the argument that `draw` takes their value as.
        draw: returns the figure for the controls' values.
    """

    def __init__(self, controls: Mapping[str, ipywidgets.ValueWidget], draw: Callable[..., Figure], *more: ipywidgets.Widget):
        self.controls, self.draw = dict(controls), draw
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", align_self="flex-start"))
        for name, control in self.controls.items():
            control.layout, control.style = WIDE, NAMED
            control.description = control.description or name
            control.observe(lambda _: self.redraw(), "value")
        rows = ipywidgets.Box(list(self.controls.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
        super().__init__([rows, *more, self.picture])
        self.redraw()

    def redraw(self) -> None:
        """Draw for the controls as they are."""
        with plots.style():
            fig = self.draw(**{name: control.value for name, control in self.controls.items()})
        self.picture.value = png(fig)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        return bundle | {"image/png": bytes(self.picture.value)}


def png(fig: Figure) -> bytes:
    """The figure as a file, and closed."""
    file = io.BytesIO()
    fig.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(fig)
    return file.getvalue()


# --- the data ---------------------------------------------------------------------------------------------------


def browse(pack: Pack, indices: Sequence[int] | None = None) -> Panel:
    """Look through a pack: filtered by construction, symbol, writer, source, length and nesting; coloured by order or symbol; and
    replayed, pen-stroke by pen-stroke."""
    chosen = list(range(len(pack)) if indices is None else map(int, indices))
    tokens = {i: pack.tokens(i) or () for i in chosen}
    depth = {i: story.depth(t) for i, t in tokens.items()}
    written = sorted({t for some in tokens.values() for t in some} - {"{", "}", "^", "_"})
    longest, deepest = max(map(len, tokens.values()), default=1), max(depth.values(), default=1)
    writers, sources = (sorted({n for i in chosen if (n := names[i]) is not None}) for names in (pack.writers, pack.sources))
    controls = {
        "contains": ipywidgets.Dropdown(options=["anything", *story.CONTAINS]),
        "symbol": ipywidgets.Dropdown(options=["any", *written]),
        **{name: ipywidgets.Dropdown(options=["any", *some]) for name, some in (("writer", writers), ("source", sources))
           if len(some) > 1},
        "length": ipywidgets.IntRangeSlider(min=0, max=longest, value=(0, longest)),
        "nesting": ipywidgets.IntRangeSlider(min=0, max=deepest, value=(0, deepest)),
        "colour": ipywidgets.ToggleButtons(options=["order", "symbol"]),
        "page": ipywidgets.BoundedIntText(value=0, min=0, max=max(0, -(-len(chosen) // 6) - 1)),
        "drawn": ipywidgets.FloatSlider(value=1, min=0, max=1, step=0.02, readout_format=".0%", description="strokes"),
    }

    def draw(contains: str, symbol: str, length: tuple[int, int], nesting: tuple[int, int], colour: str, page: int, drawn: float,
             writer: str = "any", source: str = "any") -> Figure:
        found = [i for i in chosen if (contains == "anything" or story.CONTAINS[contains] in tokens[i])
                 and (symbol == "any" or symbol in tokens[i]) and (writer == "any" or pack.writers[i] == writer)
                 and (source == "any" or pack.sources[i] == source) and length[0] <= len(tokens[i]) <= length[1]
                 and nesting[0] <= depth[i] <= nesting[1]]
        controls["page"].max = max(0, -(-len(found) // 6) - 1)
        shown = found[6 * page : 6 * page + 6]
        fig, axes = plt.subplots(2, 3, figsize=(8.5, 2.9))
        for ax in axes.flat:
            ax.axis("off")
        for ax, i in zip(axes.flat, shown):
            ink = pack[i]
            plots.draw_ink(ax, partly(ink, drawn), colour)
            whole = ink.bounds()
            ax.set(xlim=(whole[0] - 0.3, whole[2] + 0.3), ylim=(whole[3] + 0.3, whole[1] - 0.3))
            ax.set_title(story.formula(ink.tokens), loc="center", fontsize=9)
        fig.suptitle(f"{len(found):,} of {len(chosen):,} expressions; page {page + 1} of {controls['page'].max + 1}", fontsize=9)
        return fig

    play = ipywidgets.Play(min=0, max=50, interval=150, description="replay")  # where it stands at 0, nothing is replayed
    play.observe(lambda change: setattr(controls["drawn"], "value", change["new"] / play.max or 1.0), "value")
    return Panel(controls, draw, ipywidgets.HBox([ipywidgets.Label("replay"), play]))


def partly(ink: Ink, share: float) -> Ink:
    """The ink when this share of its points has been written; at least a point."""
    count = max(1, round(share * len(ink.points)))
    left = int(ink.stroke[count - 1]) + 1
    symbols = tuple(replace(s, strokes=tuple(k for k in s.strokes if k < left)) for s in ink.symbols)
    return replace(ink, points=ink.points[:count], stroke=ink.stroke[:count], symbols=symbols)


def views(pack: Pack, which: Sequence[int], config: ViewConfig) -> Panel:
    """Two random views of one ink under warps of the reader's choice, lines joining points that are the same in both."""
    inks = {f"{k + 1}": collate([from_pack(pack, int(i))]).ink for k, i in enumerate(which)}
    sliders = {"scale": 1.0, "aspect": 0.6, "rotate": 0.5, "slant": 0.8, "elastic": 0.5, "stroke_shift": 0.3, "crop": 0.8}
    controls = {"expression": ipywidgets.ToggleButtons(options=list(inks))}
    controls |= {name: ipywidgets.FloatSlider(value=getattr(config, name), min=0, max=most, step=0.01, continuous_update=False)
                 for name, most in sliders.items()}
    controls |= {"pen": ipywidgets.FloatRangeSlider(value=config.pen, min=0.5, max=5, step=0.1, continuous_update=False),
                 "draw": ipywidgets.IntSlider(value=0, min=0, max=50, continuous_update=False)}

    def draw(expression: str, draw: int, **warps: Any) -> Figure:
        ink, rng = inks[expression], torch.Generator().manual_seed(draw)
        first, second = (make_view(ink, replace(config, symbol=24.0, **warps), rng) for _ in range(2))
        chosen = common_points(first, second, ink, 40, rng)
        fig, ax = plt.subplots(figsize=(7, 3.4))
        story.joined_views(ax, first, second, chosen, ink.owner, 0)
        return fig

    return Panel(controls, draw)


# --- attention --------------------------------------------------------------------------------------------------


def curriculum(network: attend.Student, config: attend.Config, view: ViewConfig, pack: Pack, which: Sequence[int]) -> Panel:
    """Stage 2 at any moment of its curriculum: the schedule, the mask, and the saliency of teacher and student."""
    inks = {f"{k + 1}": collate([from_pack(pack, int(i))]).ink for k, i in enumerate(which)}
    controls = {"expression": ipywidgets.ToggleButtons(options=list(inks)),
                "schedule": ipywidgets.Dropdown(options=["linear", "cosine", "stepped", "fixed"], value=config.schedule),
                "shape": ipywidgets.Dropdown(options=["blocks", "attended"], value=config.shape),
                "done": ipywidgets.FloatSlider(value=0.5, min=0, max=1, step=0.02, readout_format=".0%"),
                "draw": ipywidgets.IntSlider(value=0, min=0, max=50)}

    @torch.no_grad()
    def draw(expression: str, schedule: str, shape: str, done: float, draw: int) -> Figure:
        ink, rng = inks[expression], torch.Generator().manual_seed(draw)
        asked = replace(config, schedule=schedule, shape=shape)
        whole, part = make_view(ink, replace(view, crop=0.0), rng), make_view(ink, view, rng)
        seen = network(whole.picture, whole.valid)[1]
        saliency = sample(seen.saliency, whole.cells, ink.owner)[:, 0].clamp(min=0)
        _, picture = attend.mask_by_curriculum(part, ink, done, asked, saliency, rng)
        student = network(picture, part.valid)[1]
        fig, axes = plt.subplots(1, 4, figsize=(11, 2.1), width_ratios=(1, 1.6, 1.6, 1.6))
        t = np.linspace(0, 1, 101)
        for (start, end), name, line in ((asked.ratio, "masked", "-"), (asked.attended, "attended", "--")):
            axes[0].plot(t, [mask_ratio(round(1_000 * x), 1_000, start, end, schedule) for x in t], line, label=name)
        axes[0].axvline(done, color=plots.GREY)
        axes[0].set(xlabel="share of the stage done", ylabel="share", ylim=(0, 1))
        axes[0].legend(fontsize=7)
        for ax, heat, v, title in ((axes[1], seen.saliency, whole, "teacher sees all"),
                                   (axes[3], student.saliency, part, "student's saliency")):
            _heat(ax, heat[0, 0], v, ink)
            ax.set_title(title)
        h, w = part.extent[0].flip(0).int().tolist()
        axes[2].imshow(story.seen_by_student(picture[0, :, :h, :w]))
        axes[2].set_title("what the student sees")
        axes[2].axis("off")
        return fig

    return Panel(controls, draw)


def attention(networks: Mapping[str, attend.Student], view: ViewConfig, pack: Pack, which: Sequence[int]) -> Panel:
    """The maps of stage 2, checkpoint by checkpoint: one map over the ink as a film strip, and its mass on each symbol beside the
    symbol's share of the ink. A circle marks the point that the map prefers (the pointing game)."""
    inks = {f"{k + 1}": (collate([from_pack(pack, int(i))]).ink, pack[int(i)]) for k, i in enumerate(which)}
    maps = next(iter(networks.values())).attention.logits.out_channels
    controls = {"expression": ipywidgets.ToggleButtons(options=list(inks)),
                "map": ipywidgets.Dropdown(options=["saliency", *(f"{k + 1}" for k in range(maps))])}

    @torch.no_grad()
    def draw(expression: str, map: str) -> Figure:
        ink, original = inks[expression]
        seen = make_view(ink, view.still(), torch.Generator().manual_seed(0))
        fig, axes = plt.subplots(1, len(networks) + 1, figsize=(3.2 * len(networks) + 3, 2.2), squeeze=False)
        symbols = [symbol.label for symbol in original.symbols]
        assert ink.symbol is not None
        share = np.bincount(ink.symbol[ink.symbol >= 0], minlength=len(symbols)) / max(1, int((ink.symbol >= 0).sum()))
        axes[0, -1].bar(np.arange(len(symbols)) - 0.3, share, 0.2, color=plots.GREY, label="ink")
        for k, (ax, (name, network)) in enumerate(zip(axes[0], networks.items())):
            found = network(seen.picture, seen.valid)[1]
            heat = found.saliency[0, 0] if map == "saliency" else found.maps[0, int(map) - 1]
            _heat(ax, heat, seen, ink)
            at = sample(heat[None, None], seen.cells, ink.owner)[:, 0].clamp(min=0)
            ax.plot(*seen.points[int(at.argmax())].tolist(), "o", ms=12, mfc="none", mec=plots.BLUE, mew=2)
            ax.set_title(name)
            mass = torch.zeros(len(symbols)).index_add_(0, ink.symbol.clamp(min=0), at * (ink.symbol >= 0))
            mass /= at.sum().clamp(min=1e-9)
            width = 0.6 / len(networks)
            axes[0, -1].bar(np.arange(len(symbols)) - 0.1 + k * width, mass.numpy(), width, label=name)
        axes[0, -1].set_xticks(range(len(symbols)), [story.formula([s]) for s in symbols], fontsize=8)
        axes[0, -1].set(ylabel="share of the mass on ink")
        axes[0, -1].legend(fontsize=7)
        return fig

    return Panel(controls, draw)


def _heat(ax: Axes, heat: torch.Tensor, view: View, ink: InkBatch) -> None:
    """A map (h, w) over its mean on the cells of the only expression of a view, its ink on top."""
    width, height = (view.extent[0] / STRIDE).int().tolist()
    extent = (0, STRIDE * width, STRIDE * height, 0)
    plots.heat_over_ink(ax, story.view_ink(view, ink, 0), heat[:height, :width].numpy(), extent, relative=True)


# --- errors -----------------------------------------------------------------------------------------------------


def errors(inks: Sequence[Ink], read: Sequence[Sequence[str]]) -> Panel:
    """Predictions against truth, the worst first: the ink, both typeset, and both token by token with what differs marked."""
    pairs = [(ink, tuple(ink.tokens or ()), tuple(found)) for ink, found in zip(inks, read, strict=True)]
    wrong = {k: len(changes(truth, found)) for k, (_, truth, found) in enumerate(pairs)}
    orders = {"most errors": lambda k: -wrong[k], "longest": lambda k: -len(pairs[k][1]), "shortest": lambda k: len(pairs[k][1])}
    controls = {"order": ipywidgets.Dropdown(options=list(orders)),
                "only": ipywidgets.Dropdown(options=["wrong", "right", "all"], value="wrong" if any(wrong.values()) else "all"),
                "which": ipywidgets.IntSlider(value=0, min=0, max=max(0, len(pairs) - 1), continuous_update=False)}

    def draw(order: str, only: str, which: int) -> Figure:
        found = sorted((k for k in wrong if only == "all" or (wrong[k] > 0) == (only == "wrong")), key=orders[order])
        fig, axes = plt.subplots(3, 1, figsize=(9, 3.4), height_ratios=(2.2, 1, 1))
        for ax in axes:
            ax.axis("off")
        if not found:
            axes[0].set_title("there are none")
            return fig
        k = found[min(which, len(found) - 1)]
        ink, truth, said = pairs[k]
        plots.draw_ink(axes[0], ink, "symbol")
        axes[0].set_title(f"{min(which, len(found) - 1) + 1} of {len(found)}: {wrong[k]} edits apart, {len(truth)} tokens")
        marks = changes(truth, said)
        for ax, name, tokens, side in ((axes[1], "truth", truth, 0), (axes[2], "read", said, 1)):
            bad = {t for mark in marks for t in range(*mark[side])}
            _row(ax, name, tokens, bad, marks[0][side][0] if marks else None)
        return fig

    return Panel(controls, draw)


def changes(truth: Sequence[str], said: Sequence[str]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """A smallest set of edits that makes what was said of the truth, in order: (from, to) in each, of one token or none."""
    cost = np.add.outer(np.arange(len(truth) + 1), np.arange(len(said) + 1))[::-1, ::-1]  # of what is left of both
    for i, j in itertools.product(reversed(range(len(truth))), reversed(range(len(said)))):
        cost[i, j] = min(cost[i + 1, j] + 1, cost[i, j + 1] + 1, cost[i + 1, j + 1] + (truth[i] != said[j]))
    i = j = 0
    found = []
    while i < len(truth) or j < len(said):
        if i < len(truth) and j < len(said) and cost[i, j] == cost[i + 1, j + 1] + (truth[i] != said[j]):
            ends = i + 1, j + 1
        else:
            ends = (i + 1, j) if i < len(truth) and cost[i, j] == cost[i + 1, j] + 1 else (i, j + 1)
        if cost[i, j] != cost[ends]:
            found.append(((i, ends[0]), (j, ends[1])))
        i, j = ends
    return found


def _row(ax: Axes, name: str, tokens: Sequence[str], bad: set[int], first: int | None) -> None:
    """Typeset above; below, the tokens in a row, those that differ red, the first difference with a bar before it."""
    ax.text(0, 1, f"{name}:  {story.formula(tokens)}", fontsize=11, va="top", transform=ax.transAxes)
    x = 0.0
    for k, token in enumerate([*tokens, ""]):
        if k == first:
            ax.text(x, 0.35, "|", color=plots.RED, fontsize=13, weight="bold", va="center", transform=ax.transAxes)
            x += 0.008
        ax.text(x, 0.35, token.replace("$", r"\$"), fontsize=8, family="monospace", va="center", transform=ax.transAxes,
                color=plots.RED if k in bad else plots.BLACK, weight="bold" if k in bad else "normal", parse_math=False)
        x += 0.0098 * (len(token) + 1)


# --- draw and recognise -----------------------------------------------------------------------------------------


class Pad(anywidget.AnyWidget):
    """Paper for mouse, pen or finger; `strokes` are lists of [x, y] in pixels of the pad."""

    strokes: traitlets.List[list[list[float]]] = traitlets.List().tag(sync=True)
    width = traitlets.Int(720).tag(sync=True)
    height = traitlets.Int(220).tag(sync=True)

    _esm = """
    export default { render({ model, el }) {
        const canvas = document.createElement("canvas"), ctx = canvas.getContext("2d");
        canvas.width = model.get("width"); canvas.height = model.get("height"); canvas.className = "mmlib-pad";
        let current = null;
        const draw = () => {
            ctx.clearRect(0, 0, canvas.width, canvas.height);
            ctx.lineWidth = 3; ctx.lineCap = ctx.lineJoin = "round"; ctx.strokeStyle = ctx.fillStyle = "#222";
            for (const stroke of [...model.get("strokes"), ...(current ? [current] : [])]) {
                ctx.beginPath();
                if (stroke.length === 1) { ctx.arc(...stroke[0], 1.5, 0, 7); ctx.fill(); continue; }
                stroke.forEach(([x, y], k) => k ? ctx.lineTo(x, y) : ctx.moveTo(x, y));
                ctx.stroke();
            }
        };
        const at = e => { const box = canvas.getBoundingClientRect();
            return [(e.clientX - box.left) * canvas.width / box.width, (e.clientY - box.top) * canvas.height / box.height]; };
        canvas.addEventListener("pointerdown", e => {
            if (e.button) return;
            canvas.setPointerCapture(e.pointerId); current = [at(e)]; draw(); e.preventDefault(); });
        canvas.addEventListener("pointermove", e => {
            if (!current) return;
            const seen = e.getCoalescedEvents?.() ?? [];
            current.push(...(seen.length ? seen : [e]).map(at)); draw(); });
        const up = () => { if (!current) return;
            model.set("strokes", [...model.get("strokes"), current]); current = null; model.save_changes(); draw(); };
        canvas.addEventListener("pointerup", up); canvas.addEventListener("pointercancel", up);
        model.on("change:strokes", draw); draw();
        el.append(canvas);
    } };
    """
    _css = """.mmlib-pad { background: #fff; border: 1px solid #999; border-radius: 6px; touch-action: none; cursor: crosshair;
        max-width: 100%; }"""


class Draw(ipywidgets.VBox):  # type: ignore[misc]
    """Write with mouse, pen or finger, or upload a picture; read what the recogniser makes of it.

    Args:
        reader: a recogniser; by default the one that ships.
        start: ink to begin with.
        beam: hypotheses in each direction.
        save_as: file that the button *save* writes, as InkML.
    """

    def __init__(self, reader: Reader | None = None, start: Ink | None = None, beam: int = 5, save_as: str = "drawn.inkml"):
        self.reader, self.beam, self.save_as = reader or Reader.load(), beam, save_as
        self.seconds = 0.0
        self.found: list[Reading] = []
        self.pad = Pad(strokes=_on_pad(start) if start is not None else [])
        self.latex, self.table = ipywidgets.HTMLMath(), ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", display="none"))
        self.buttons = {name: ipywidgets.Button(description=name, layout=ipywidgets.Layout(width="90px"))
                        for name in ("undo", "clear", "save", "look")}
        self.buttons["look"].tooltip = "where the recogniser looked when it wrote each token"
        self.upload = ipywidgets.FileUpload(accept=".png,.jpg,.jpeg,.bmp", description="a picture")
        self.buttons["undo"].on_click(lambda _: setattr(self.pad, "strokes", self.pad.strokes[:-1]))
        self.buttons["clear"].on_click(lambda _: setattr(self.pad, "strokes", []))
        self.buttons["save"].on_click(lambda _: self.save())
        self.buttons["look"].on_click(lambda _: self.look())
        self.pad.observe(lambda _: self.read(), "strokes")
        self.upload.observe(lambda change: self.read_file(change["new"]), "value")
        super().__init__([self.pad, ipywidgets.HBox([*self.buttons.values(), self.upload]), self.latex, self.table, self.picture])
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
            self.latex.value, self.table.value = "Write a formula above.", ""
            return
        self._show(self.ink)

    def read_file(self, files: Sequence[Mapping[str, Any]]) -> None:
        """Read an uploaded picture."""
        from mmlib.data.pictures import decode

        for file in files:
            self.pad.strokes = []  # what is read is no longer what is written
            try:
                self._show(decode(bytes(file["content"])))
            except (ValueError, RuntimeError) as error:
                self.latex.value, self.table.value = f"{html.escape(file['name'])}: {html.escape(str(error))}", ""

    def _show(self, source: Any) -> None:
        started = time.perf_counter()
        try:
            self.found = recognize(source, self.beam, self.reader)
        except (InkError, RuntimeError) as error:
            self.found, self.latex.value, self.table.value = [], html.escape(str(error)), ""
            return
        self.seconds = time.perf_counter() - started
        what = f"{len(self.pad.strokes)} strokes" if isinstance(source, Ink) else "a picture"
        best = self.found[0] if self.found else Reading((), "", 0.0)
        self.latex.value = f"<div style='font-size:170%; margin:8px'>${html.escape(best.latex)}$</div>"
        rows = "".join(f"<tr><td>{np.exp(r.score):.2f}</td><td><code>{html.escape(r.latex)}</code></td></tr>"
                       for r in self.found[:5])
        self.table.value = (f"<table class='mmlib-read'><tr><th>p a token</th><th>LaTeX</th></tr>{rows}</table>"
                            f"<small>{what} read in {1000 * self.seconds:.0f} ms</small>")

    def look(self) -> None:
        """Draw where the decoder looked for each token."""
        if self.ink is None or not self.found:
            return
        with plots.style(), torch.no_grad():
            self.picture.value = png(readings.looks_figure(self.ink, readings.look(self.reader, self.ink, self.found[0].tokens)))
        self.picture.layout.display = ""

    def save(self) -> None:
        """Write the pad's ink as InkML, with what was read as its label."""
        if self.ink is not None:
            write_inkml(replace(self.ink, latex=self.found[0].latex if self.found else None), self.save_as)
            self.table.value += f"<br><small>saved as {html.escape(self.save_as)}</small>"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        with plots.style():
            fig, ax = plt.subplots(figsize=(6, 2))
            ax.axis("off")
            if self.ink is not None:
                plots.draw_ink(ax, self.ink, plots.BLACK)
                tokens = self.found[0].tokens if self.found else ()
                ax.set_title(f"read as  {story.formula(tokens)}", loc="left", fontsize=12)
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        return bundle | {"image/png": png(fig)}


def _on_pad(ink: Ink, height: float = 130.0, corner: tuple[float, float] = (40.0, 45.0)) -> list[list[list[float]]]:
    """Strokes of an ink in the pad's pixels."""
    left, top, right, bottom = ink.bounds()
    scale = min(height / max(bottom - top, 1e-6), 640.0 / max(right - left, 1e-6))
    return [((stroke - (left, top)) * scale + corner).round(1).tolist() for stroke in ink.strokes()]
