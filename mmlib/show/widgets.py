"""Things to play with in a notebook: a data browser, views, the mask curriculum, maps, errors.

Each carries a picture of its first state. A notebook that is read without a kernel, on a code host
or in print, shows what the reader would see.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rapidfuzz.distance import Levenshtein

from mmlib.data.pack import Pack
from mmlib.data.sample import collate, from_pack
from mmlib.data.statistics import CONTAINS
from mmlib.draw.masks import mask_ratio
from mmlib.draw.views import InkBatch, ViewConfig, make_view, sample
from mmlib.formula.ink import Ink
from mmlib.formula.latex import depth
from mmlib.show import style as plots
from mmlib.show.ink import draw_ink, heat_over_view, joined_views, seen_by_student
from mmlib.train import attend
from mmlib.train.contrast import common_points

PAGE = 6  # expressions that `browse` shows at once


class Panel(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Controls above a picture that follows them.

    Args:
        controls: widgets by the name of the argument that `draw` takes their value as.
        draw: returns the figure for the controls' values.
        more: widgets between controls and picture.
    """

    def __init__(self, controls: Mapping[str, ipywidgets.ValueWidget], draw: Callable[..., Figure],
                 *more: ipywidgets.Widget):
        self.controls, self.draw = dict(controls), draw
        layout = ipywidgets.Layout(max_width="100%", align_self="flex-start")
        self.picture = ipywidgets.Image(format="png", layout=layout)
        for name, control in self.controls.items():
            control.layout = ipywidgets.Layout(width="320px")
            control.style = {"description_width": "90px"}
            control.description = control.description or name
            control.observe(lambda _: self.redraw(), "value")
        wrapped = ipywidgets.Layout(flex_flow="row wrap")
        rows = ipywidgets.Box(list(self.controls.values()), layout=wrapped)
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
    """The figure as a PNG file; closes the figure."""
    file = io.BytesIO()
    fig.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(fig)
    return file.getvalue()


def _chooser(which: Sequence[int]) -> ipywidgets.ToggleButtons:
    """Buttons 1, 2, ... for the expressions of a panel; their values are the pack's indices."""
    return ipywidgets.ToggleButtons(options=[(f"{k}", int(i)) for k, i in enumerate(which, 1)])


def _batch_of(pack: Pack, expression: int) -> InkBatch:
    """An expression of a pack as a batch of one."""
    return collate([from_pack(pack, expression)]).ink


# --- the data -------------------------------------------------------------------------------------


def browse(pack: Pack, indices: Sequence[int] | None = None) -> Panel:
    """Look through a pack, or through some of it, a page at a time.

    Filters by construction, symbol, writer, source, length and nesting; colours by order or symbol;
    replays the pen stroke by stroke.
    """
    chosen = list(range(len(pack)) if indices is None else map(int, indices))
    tokens = {i: pack.tokens(i) or () for i in chosen}
    nested = {i: depth(t) for i, t in tokens.items()}
    written = sorted({t for some in tokens.values() for t in some} - {"{", "}", "^", "_"})
    names = {"writer": pack.writers, "source": pack.sources}
    known = {key: sorted({name for i in chosen if (name := of[i]) is not None})
             for key, of in names.items()}
    longest, deepest = max(map(len, tokens.values()), default=1), max(nested.values(), default=1)

    def pages(count: int) -> int:
        return max(1, -(-count // PAGE))

    drawn = ipywidgets.FloatSlider(value=1, min=0, max=1, step=0.02, readout_format=".0%",
                                   description="strokes")
    controls = {
        "contains": ipywidgets.Dropdown(options=["anything", *CONTAINS]),
        "symbol": ipywidgets.Dropdown(options=["any", *written]),
        **{key: ipywidgets.Dropdown(options=["any", *of]) for key, of in known.items()
           if len(of) > 1},
        "length": ipywidgets.IntRangeSlider(min=0, max=longest, value=(0, longest)),
        "nesting": ipywidgets.IntRangeSlider(min=0, max=deepest, value=(0, deepest)),
        "colour": ipywidgets.ToggleButtons(options=["order", "symbol"]),
        "page": ipywidgets.BoundedIntText(value=0, min=0, max=pages(len(chosen)) - 1),
        "drawn": drawn,
    }

    def matches(i: int, asked: Mapping[str, Any]) -> bool:
        return ((asked["contains"] == "anything" or CONTAINS[asked["contains"]] in tokens[i])
                and (asked["symbol"] == "any" or asked["symbol"] in tokens[i])
                and all(asked.get(key, "any") in ("any", of[i]) for key, of in names.items())
                and asked["length"][0] <= len(tokens[i]) <= asked["length"][1]
                and asked["nesting"][0] <= nested[i] <= asked["nesting"][1])

    def draw(colour: str, page: int, drawn: float, **asked: Any) -> Figure:
        found = [i for i in chosen if matches(i, asked)]
        controls["page"].max = pages(len(found)) - 1
        fig, axes = plt.subplots(2, PAGE // 2, figsize=(8.5, 2.9))
        for ax in axes.flat:
            ax.axis("off")
        for ax, i in zip(axes.flat, found[PAGE * page : PAGE * (page + 1)]):
            ink = pack[i]
            draw_ink(ax, partly(ink, drawn), colour)
            left, top, right, bottom = ink.bounds()
            ax.set(xlim=(left - 0.3, right + 0.3), ylim=(bottom + 0.3, top - 0.3))
            ax.set_title(plots.mathtext(ink.tokens), loc="center", fontsize=9)
        counted = f"{len(found):,} of {len(chosen):,} expressions"
        fig.suptitle(f"{counted}; page {page + 1} of {pages(len(found))}", fontsize=9)
        return fig

    # The player stands at 0 when nothing is replayed; then the whole is drawn.
    play = ipywidgets.Play(min=0, max=50, interval=150, description="replay")
    play.observe(lambda now: setattr(drawn, "value", now["new"] / play.max or 1.0), "value")
    return Panel(controls, draw, ipywidgets.HBox([ipywidgets.Label("replay"), play]))


def partly(ink: Ink, share: float) -> Ink:
    """The ink when this share of its points has been written; at least a point."""
    count = max(1, round(share * len(ink.points)))
    left = int(ink.stroke[count - 1]) + 1
    symbols = (replace(s, strokes=tuple(k for k in s.strokes if k < left)) for s in ink.symbols)
    return replace(ink, points=ink.points[:count], stroke=ink.stroke[:count],
                   symbols=tuple(symbols))


def views(pack: Pack, which: Sequence[int], config: ViewConfig) -> Panel:
    """Two random views of one ink under warps of the reader's choice.

    Lines join the points that are the same in both.
    """
    most = {"scale": 1.0, "aspect": 0.6, "rotate": 0.5, "slant": 0.8, "elastic": 0.5,
            "stroke_shift": 0.3, "crop": 0.8}
    late = {"continuous_update": False}
    controls = {"expression": _chooser(which)}
    for name, end in most.items():
        value = getattr(config, name)
        controls[name] = ipywidgets.FloatSlider(value=value, min=0, max=end, step=0.01, **late)
    controls["pen"] = ipywidgets.FloatRangeSlider(value=config.pen, min=0.5, max=5, step=0.1,
                                                  **late)
    controls["draw"] = ipywidgets.IntSlider(value=0, min=0, max=50, **late)

    def draw(expression: int, draw: int, **warps: Any) -> Figure:
        ink, rng = _batch_of(pack, expression), torch.Generator().manual_seed(draw)
        warped = replace(config, symbol=24.0, **warps)
        first, second = make_view(ink, warped, rng), make_view(ink, warped, rng)
        chosen = common_points(first, second, ink, 40, rng)
        fig, ax = plt.subplots(figsize=(7, 3.4))
        joined_views(ax, first, second, chosen, ink.owner, 0)
        return fig

    return Panel(controls, draw)


# --- contrast -------------------------------------------------------------------------------------


def similarity(embedded: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
               temperature: float = 0.2) -> Panel:
    """Which view finds its partner: cosines, and the softmax that a temperature makes of them.

    embedded: for each encoder, z (n, d) of the first and of the second views of n expressions.
    """
    controls = {
        "encoder": ipywidgets.ToggleButtons(options=list(embedded)),
        "temperature": ipywidgets.FloatLogSlider(value=temperature, min=-2, max=0.5, step=0.05,
                                                 continuous_update=False),
    }

    def draw(encoder: str, temperature: float) -> Figure:
        a, b = (torch.nn.functional.normalize(z, dim=1) for z in embedded[encoder])
        cosine = a @ b.T
        chance = (cosine / temperature).softmax(1)
        loss = float(-chance.diagonal().log().mean())
        found = float((cosine.argmax(1) == torch.arange(len(a))).float().mean())
        fig, axes = plt.subplots(1, 2, figsize=(8, 3.4))
        how = f"softmax over {len(a)}, temperature {temperature:.2g}"
        titles = "cosines", f"{how}: loss {loss:.2f}"
        for ax, values, title in zip(axes, (cosine, chance), titles):
            image = ax.imshow(values.numpy(), cmap="Blues", vmin=float(values.min()), vmax=1)
            ax.set(title=title, xlabel="second view of an expression",
                   ylabel="first view of an expression", xticks=[], yticks=[])
            ends = -0.5, len(a) - 0.5
            ax.plot(ends, ends, ":", color=plots.RED, lw=1, label="partners")
            fig.colorbar(image, ax=ax, shrink=0.8)
        axes[0].legend(loc="lower left", bbox_to_anchor=(0.7, 1), borderpad=0)
        fig.suptitle(f"{encoder}: {found:.0%} of {len(a)} first views are nearest to their own "
                     "second view")
        return fig

    return Panel(controls, draw)


# --- attention ------------------------------------------------------------------------------------


def curriculum(network: attend.Student, config: attend.Config, view: ViewConfig, pack: Pack,
               which: Sequence[int]) -> Panel:
    """Stage 2 at any moment of its curriculum.

    Shows the schedule, the mask, and the saliency of teacher and student.
    """
    schedules = ["linear", "cosine", "stepped", "fixed"]
    controls = {
        "expression": _chooser(which),
        "schedule": ipywidgets.Dropdown(options=schedules, value=config.schedule),
        "done": ipywidgets.FloatSlider(value=0.5, min=0, max=1, step=0.02, readout_format=".0%"),
        "draw": ipywidgets.IntSlider(value=0, min=0, max=50),
    }

    @torch.no_grad()
    def draw(expression: int, schedule: str, done: float, draw: int) -> Figure:
        ink, rng = _batch_of(pack, expression), torch.Generator().manual_seed(draw)
        asked = replace(config, schedule=schedule)
        whole, part = make_view(ink, replace(view, crop=0.0), rng), make_view(ink, view, rng)
        teacher = network(whole.picture, whole.valid)[1]
        saliency = sample(teacher.saliency, whole.cells, ink.owner)[:, 0].clamp(min=0)
        _, picture = attend.mask_by_curriculum(part, ink, done, asked, saliency, rng)
        student = network(picture, part.valid)[1]
        fig, axes = plt.subplots(1, 4, figsize=(11, 2.1), width_ratios=(1, 1.6, 1.6, 1.6))
        _schedules(axes[0], asked, done)
        heat_over_view(axes[1], teacher.saliency[0, 0], whole, ink)
        axes[2].imshow(seen_by_student(picture[0]))
        axes[2].axis("off")
        heat = heat_over_view(axes[3], student.saliency[0, 0], part, ink)
        fig.colorbar(heat, ax=axes[3], label="/ mean over ink", shrink=0.7)
        titles = "teacher's saliency", "what the student sees", "student's saliency"
        for ax, title in zip(axes[1:], titles):
            ax.set_title(title)
        return fig

    return Panel(controls, draw)


def _schedules(ax: Axes, config: attend.Config, done: float) -> None:
    """The shares that the curriculum masks, over the stage, with a line where it stands."""
    t = np.linspace(0, 1, 101)
    for ends, name, line in ((config.ratio, "masked", "-"), (config.attended, "attended", "--")):
        share = [mask_ratio(round(1_000 * x), 1_000, *ends, config.schedule) for x in t]
        ax.plot(t, share, line, label=name)
    ax.axvline(done, color=plots.GREY, label="now")
    ax.set(xlabel="share of the stage done", ylabel="share", ylim=(0, 1))
    ax.legend()


def attention(networks: Mapping[str, attend.Student], view: ViewConfig, pack: Pack,
              which: Sequence[int]) -> Panel:
    """The maps of stage 2, checkpoint by checkpoint, as a film strip over the ink.

    Beside them stands each symbol's share of a map's mass, next to its share of the ink. A circle
    marks the point that the map prefers (the pointing game).
    """
    maps = next(iter(networks.values())).attention.logits.out_channels
    options = ["saliency", *(f"{k + 1}" for k in range(maps))]
    controls = {"expression": _chooser(which), "map": ipywidgets.Dropdown(options=options)}

    @torch.no_grad()
    def draw(expression: int, map: str) -> Figure:
        ink = _batch_of(pack, expression)
        seen = make_view(ink, view.still(), torch.Generator().manual_seed(0))
        size = (3.2 * len(networks) + 3, 2.2)
        fig, axes = plt.subplots(1, len(networks) + 1, figsize=size, squeeze=False)
        *strip, bars = axes[0]
        assert ink.symbol is not None
        original = pack[expression]
        symbols = [symbol.label for symbol in original.symbols]
        told = zip(original.tokens or (), original.token_symbols or ())
        bar = {symbol for token, symbol in told if token == r"\frac"}
        x, labelled = np.arange(len(symbols)), ink.symbol >= 0
        share = np.bincount(ink.symbol[labelled], minlength=len(symbols))
        bars.bar(x - 0.3, share / max(1, share.sum()), 0.2, color=plots.GREY, label="ink")
        for k, (ax, (name, network)) in enumerate(zip(strip, networks.items())):
            found = network(seen.picture, seen.valid)[1]
            heat = found.saliency[0, 0] if map == "saliency" else found.maps[0, int(map) - 1]
            heat_over_view(ax, heat, seen, ink)
            at = sample(heat[None, None], seen.cells, ink.owner)[:, 0].clamp(min=0)
            peak = seen.points[int(at.argmax())].tolist()
            ax.plot(*peak, "o", ms=12, mfc="none", mec=plots.BLUE, mew=2)
            ax.set_title(f"{name}: {'saliency' if map == 'saliency' else f'map {map}'}")
            mass = torch.zeros(len(symbols)).index_add_(0, ink.symbol.clamp(min=0), at * labelled)
            mass /= at.sum().clamp(min=1e-9)
            width = 0.6 / len(networks)
            bars.bar(x - 0.1 + k * width, mass.numpy(), width, label=name)
        names = ["bar" if k in bar else plots.mathtext([s])
                 for k, s in enumerate(symbols)]
        bars.set_xticks(range(len(symbols)), names, fontsize=8)
        bars.set(ylabel="share of the mass on ink")
        bars.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return fig

    return Panel(controls, draw)


# --- errors ---------------------------------------------------------------------------------------


def errors(inks: Sequence[Ink], read: Sequence[Sequence[str]]) -> Panel:
    """Predictions against truth, the worst first.

    Shows the ink, both typeset, and both token by token with the differences marked.
    """
    pairs = [(ink, tuple(ink.tokens or ()), tuple(r)) for ink, r in zip(inks, read, strict=True)]
    wrong = [Levenshtein.distance(truth, said) for _, truth, said in pairs]
    length = [len(truth) for _, truth, _ in pairs]
    orders = {"most errors": lambda k: -wrong[k], "longest": lambda k: -length[k],
              "shortest": lambda k: length[k]}
    kinds = {"wrong": [k for k, n in enumerate(wrong) if n],
             "right": [k for k, n in enumerate(wrong) if not n], "all": list(range(len(pairs)))}
    last = max(0, len(pairs) - 1)
    first = "wrong" if any(wrong) else "all"
    controls = {"order": ipywidgets.Dropdown(options=list(orders)),
                "only": ipywidgets.Dropdown(options=list(kinds), value=first),
                "which": ipywidgets.IntSlider(value=0, min=0, max=last, continuous_update=False)}

    def draw(order: str, only: str, which: int) -> Figure:
        found = sorted(kinds[only], key=orders[order])
        fig, axes = plt.subplots(3, 1, figsize=(9, 3.4), height_ratios=(2.2, 1, 1))
        for ax in axes:
            ax.axis("off")
        if not found:
            axes[0].set_title("there are none")
            return fig
        place = min(which, len(found) - 1)
        ink, truth, said = pairs[found[place]]
        edits = list(Levenshtein.editops(truth, said))
        draw_ink(axes[0], ink, "symbol")
        counted = f"{len(edits)} edits apart, {len(truth)} tokens"
        axes[0].set_title(f"{place + 1} of {len(found)}: {counted}")
        _row(axes[1], "truth", truth, {e.src_pos for e in edits if e.tag != "insert"},
             edits[0].src_pos if edits else None)
        _row(axes[2], "read", said, {e.dest_pos for e in edits if e.tag != "delete"},
             edits[0].dest_pos if edits else None)
        return fig

    return Panel(controls, draw)


def _row(ax: Axes, name: str, tokens: Sequence[str], edited: set[int], first: int | None) -> None:
    """Typeset above; below, the tokens in a row: edited ones red, a bar before the first edit."""
    ax.text(0, 1, f"{name}:  {plots.mathtext(tokens)}", fontsize=11, va="top",
            transform=ax.transAxes)
    where: dict[str, Any] = {"va": "center", "transform": ax.transAxes}
    x = 0.0
    for k, token in enumerate([*tokens, ""]):
        if k == first:
            ax.text(x, 0.35, "|", color=plots.RED, fontsize=13, weight="bold", **where)
            x += 0.008
        color, weight = (plots.RED, "bold") if k in edited else (plots.BLACK, "normal")
        ax.text(x, 0.35, token.replace("$", r"\$"), fontsize=8, family="monospace", color=color,
                weight=weight, parse_math=False, **where)
        x += 0.0098 * (len(token) + 1)
