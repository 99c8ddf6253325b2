"""Figures that explain: the architecture, the method on synthetic ink, and a formula as it is read.

On white paper, in a light page and a dark one, and with letters large enough for a phone. Every picture in them is the library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmlib.draw.masks import mask_ratio
from mmlib.draw.views import STRIDE, InkBatch, View, make_view, sample
from mmlib.formula.ink import Ink
from mmlib.formula.latex import canonical
from mmlib.measure.recognition import outcomes
from mmlib.show import readings, story
from mmlib.show import style as plots
from mmlib.study import results
from mmlib.synthetic.compose import HersheyBank, compose
from mmlib.train import attend
from mmlib.train.objectives.contrast import common_points
from mmlib.train.pretrain import HARD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmlib.read.reader import Reader

FORMULA = r"\frac{x^2+1}{2}=\sqrt{y}"
READ = r"x=\frac{-b+\sqrt{b^2-4ac}}{2a}"
SHARP = 40.0  # pixels a typical symbol where a view is shown
PAPER, INPUT, NETWORK, LABELLED, LOSS = "#FFFFFF", "#EEF4FA", "#DCEAF7", "#E3F4EC", "#FCEBDD"


def write(seed: int = 0) -> None:
    """Draw all three among the figures, the last two where a recogniser ships."""
    import matplotlib.pyplot as plt

    figures = {"architecture": architecture(seed=seed)}
    if reader := results.shipped():
        figures |= {"method": method(reader, seed), "read": read(reader, seed)}
    for name, fig in figures.items():
        plots.save(fig, name)
        plt.close(fig)


def written(latex: str, seed: int = 0) -> Ink:
    """A formula in a synthetic hand."""
    return compose(canonical(latex), HersheyBank(), np.random.default_rng(seed), id="shown")


# --- what is shown ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shown:
    """One ink and what the stages see of it: two views, and the student's masked one at a share of stage 2."""

    ink: Ink
    batch: InkBatch
    first: View  # whole, as the teacher sees it
    second: View  # through a window
    config: attend.Config

    @classmethod
    def make(cls, seed: int, symbol: float = SHARP) -> Shown:
        """The same warps at any number of pixels a symbol."""
        ink, scale = written(FORMULA, seed), symbol / HARD.symbol
        batch, rng = story.as_batch(ink), torch.Generator().manual_seed(seed + 3)
        config = replace(HARD, symbol=symbol, pen=(1.4 * scale, 1.8 * scale), margin=HARD.margin * scale, crop=0.25)
        first, second = make_view(batch, replace(config, crop=0.0), rng), make_view(batch, config, rng)
        return cls(ink, batch, first, second, replace(attend.Config.preset("desk"), view=config))

    def masked(self, done: float, saliency: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The student's picture (2, H, W) when `done` of stage 2 is done, and which ink points are masked (n,)."""
        saliency = torch.ones(len(self.batch.points)) if saliency is None else saliency
        rng = torch.Generator().manual_seed(1)
        mask, picture = attend.mask_by_curriculum(self.second, self.batch, done, self.config, saliency, rng)
        h, w = self.second.extent[0].flip(0).int().tolist()
        return picture[0, :, :h, :w], mask.masked


@torch.no_grad()
def _attention(reader: Reader, view: View, picture: torch.Tensor) -> torch.Tensor:
    """Maps (k, h, w) of a reader's attention network on the only expression of a view."""
    attention = reader.model.encode(picture, view.valid).attention
    assert attention is not None
    w, h = (view.extent[0] / STRIDE).int().tolist()
    return attention.maps[0, :, :h, :w]


# --- drawing ----------------------------------------------------------------------------------------------------------


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty page whose units are inches."""
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(width, height), layout="none", facecolor=PAPER)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def _box(ax: Axes, x: float, y: float, w: float, h: float, text: str, color: str = NETWORK, **options: Any) -> None:
    """A box about its centre."""
    from matplotlib.patches import FancyBboxPatch

    shape = "round,pad=0,rounding_size=0.07"
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=shape, fc=color, ec="0.35", lw=0.8))
    ax.text(x, y, text, ha="center", va="center", **({"fontsize": 9, "linespacing": 1.25} | options))


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "", **options: Any) -> None:
    look = {"arrowstyle": "-|>,head_width=0.18,head_length=0.3", "color": "0.25", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look | options)
    if text:
        ax.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.05, text, ha="center", va="bottom", fontsize=8, color="0.25")


def _inset(ax: Axes, x: float, y: float, w: float, h: float) -> Axes:
    """A place for a picture about its centre."""
    inset = ax.inset_axes((x - w / 2, y - h / 2, w, h), transform=ax.transData)
    inset.set(xticks=[], yticks=[])
    return inset


def _paper(ax: Axes, picture: torch.Tensor | np.ndarray, name: str = "") -> None:
    """A picture in its frame, its name below: ink levels (H, W), or colours (H, W, 3)."""
    ax.imshow(picture, cmap="Greys", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], anchor="N" if not name else "C")
    ax.set_xlabel(name, fontsize=8, labelpad=3)
    for side in ax.spines.values():
        side.set(visible=True, color="0.6", linewidth=0.7)


def _page(view: View) -> torch.Tensor:
    """The only picture of a view without its padding."""
    w, h = view.extent[0].int().tolist()
    return view.picture[0, 0, :h, :w]


def _heat(ax: Axes, view: View, batch: InkBatch, heat: torch.Tensor) -> None:
    """A map on the cells of a view, from its own least to its own most."""
    h, w = heat.shape
    plots.heat_over_ink(ax, story.view_ink(view, batch, 0), ((heat - heat.min()) / (heat.max() - heat.min()).clamp_min(1e-9)).numpy(),
                        (0, STRIDE * w, STRIDE * h, 0), 1.0)
    ax.set(xlim=(0, STRIDE * w), ylim=(STRIDE * h, 0))


# --- architecture -----------------------------------------------------------------------------------------------------

WIDE, HIGH = 7.2, 2.35  # inches of a stage


def architecture(stages: Sequence[int] = (1, 2, 3), seed: int = 0) -> Figure:
    """The three stages, or some of them: ink, views, networks, losses. Pictures are of one synthetic ink."""
    titles = {1: "1 · Contrast (no labels): which expression, which point of ink is it?",
              2: "2 · Match (no labels): say what is masked, look at the same ink",
              3: "3 · Write (with labels): LaTeX, from the left and from the right"}
    rows = {1: _contrast, 2: _match, 3: _write}
    with plots.style():
        fig, ax = _canvas(WIDE, HIGH * len(stages))
        shown = Shown.make(seed)
        for k, stage in enumerate(reversed(stages)):
            ax.text(0.1, HIGH * (k + 1) - 0.1, titles[stage], fontsize=10.5, weight="bold", va="top")
            if k:
                ax.plot([0.1, WIDE - 0.1], [HIGH * k] * 2, color="0.8", lw=0.8)
            rows[stage](ax, HIGH * k, shown)
    return fig


def _views(ax: Axes, y: float, shown: Shown, pictures: Sequence[Any], names: Sequence[str]) -> None:
    """The ink, and two pictures of it."""
    plots.draw_ink(_inset(ax, 0.6, y + 0.95, 1.0, 0.9), shown.ink, width=1.3)
    ax.text(0.6, y + 0.68, "ink", ha="center", va="top", fontsize=9)
    for k, (picture, name) in enumerate(zip(pictures, names)):
        at = y + 1.5 - 0.92 * k
        _paper(_inset(ax, 2.15, at, 1.2, 0.62), picture, name)
        _arrow(ax, (1.12, y + 0.98 - 0.06 * k), (1.52, at), "")
        _arrow(ax, (2.78, at), (3.12, at))
    ax.text(1.26, y + 1.52, "warp,\ndraw", ha="center", va="center", fontsize=8, color="0.25")


def _contrast(ax: Axes, y: float, shown: Shown) -> None:
    _views(ax, y, shown, [_page(shown.first), _page(shown.second)], ["view", "another view"])
    _box(ax, 3.5, y + 1.04, 0.74, 1.6, "encoder\n$f$\n\nthe same\nfor both")
    for at, head, loss in (
            (y + 1.5, "mean over ink\n→ head $g$ → $z,\\ z'$", "global, NT-Xent:\nthe other view\nof my expression"),
            (y + 0.58, "at ink points\n→ head $q$ → $u,\\ u'$", "local, InfoNCE:\nthe same point\nin the other view")):
        _arrow(ax, (3.88, at), (4.22, at), "$F,\\ F'$")
        _box(ax, 4.83, at, 1.2, 0.62, head)
        _arrow(ax, (5.44, at), (5.76, at))
        _box(ax, 6.43, at, 1.32, 0.74, loss, LOSS)


def _match(ax: Axes, y: float, shown: Shown) -> None:
    picture, _ = shown.masked(0.6)
    _views(ax, y, shown, [_page(shown.first), story.seen_by_student(picture)], ["all of it", "a window, partly masked"])
    for at, name in ((y + 1.5, "teacher\n" + r"$\bar f,\ \bar A$"), (y + 0.58, "student\n$f,\\ A$")):
        _box(ax, 3.5, at, 0.74, 0.6, name)
        _arrow(ax, (3.88, at), (4.18, at))
        _box(ax, 4.72, at, 1.06, 0.6, "$k$ maps, slots,\nfeatures", INPUT, fontsize=8.5)
        for there in (y + 1.65, y + 1.04, y + 0.43):
            _arrow(ax, (5.26, at), (5.68, there), lw=0.8)
    _arrow(ax, (3.5, y + 0.9), (3.5, y + 1.18), linestyle="--")
    ax.text(3.57, y + 1.04, "moving\naverage", va="center", fontsize=7.5, color="0.25", linespacing=1.0)
    for at, loss in ((y + 1.65, "slots: my own among\nother expressions'"),
                     (y + 1.04, "masked ink: what\nthe teacher sees there"), (y + 0.43, "maps: on the same\nink in both views")):
        _box(ax, 6.42, at, 1.46, 0.52, loss, LOSS, fontsize=8.5)


def _write(ax: Axes, y: float, shown: Shown) -> None:
    at = y + 1.0
    _paper(_inset(ax, 0.68, at, 1.15, 0.8), _page(shown.first), "a view, or a picture")
    _arrow(ax, (1.28, at), (1.58, at))
    _box(ax, 1.98, at, 0.78, 0.8, "encoder\n$f$")
    _arrow(ax, (2.38, at), (3.75, at))
    ax.text(3.2, at + 0.05, "$F$: a vector a cell", ha="center", va="bottom", fontsize=8, color="0.25")
    _arrow(ax, (2.58, at), (2.58, y + 1.53), lw=0.9)
    _box(ax, 2.9, y + 1.76, 1.0, 0.44, "attention $A$")
    _arrow(ax, (3.41, y + 1.76), (3.95, at + 0.42), "")
    ax.text(3.76, y + 1.69, "saliency $a$,\nslots", fontsize=8, color="0.25", va="center", linespacing=1.1)
    _box(ax, 4.26, at, 1.0, 0.8, "memory\n$F\\,(1+\\gamma a)$;\n$k$ slots", INPUT)
    _arrow(ax, (4.77, at), (4.98, at))
    _box(ax, 5.4, at, 0.82, 0.8, "decoder\nl2r → ← r2l", LABELLED, fontsize=8.5)
    _arrow(ax, (5.82, at), (6.03, at))
    ax.text(6.6, at, story.formula(shown.ink.tokens), ha="center", va="center", fontsize=13)
    ax.text(7.1, at - 0.47, "tokens one by one; a beam each way, scored by both", ha="right", va="top", fontsize=8, color="0.25")
    ax.text(0.1, at - 0.72, "losses: tokens both ways; the symbol at each ink point; cross-attention on the symbol being written",
            ha="left", va="top", fontsize=8, color="0.25")


# --- method -----------------------------------------------------------------------------------------------------------


def method(reader: Reader, seed: int = 0) -> Figure:
    """One ink through the method: views with common points, masks along the curriculum, a map, what is written.

    The weights of stage 2 are not kept with the repository, so the map is of the recogniser given, the sharpest of its own.
    """
    import matplotlib.pyplot as plt

    shown, small = Shown.make(seed), Shown.make(seed, reader.view.symbol)
    maps = _attention(reader, small.first, small.first.picture)
    at = sample(maps[None], small.first.cells, small.batch.owner)  # (n, k)
    entropy = -(maps.flatten(1) * maps.flatten(1).clamp_min(1e-12).log()).sum(1)
    sharpest = int(entropy.argmin())
    looked = readings.look(reader, shown.ink)
    token = next((k for k, t in enumerate(looked.tokens) if t == r"\sqrt"), 0)
    stages = (0.0, 0.5, 1.0)
    with plots.style():
        fig = plt.figure(figsize=(6.4, 5.9), facecolor=PAPER)
        top, middle, low = fig.subfigures(3, 1, squeeze=False, height_ratios=(2.5, 1.0, 1.0))[:, 0]
        ax = top.subplots()
        rng = torch.Generator().manual_seed(seed)
        story.joined_views(ax, shown.first, shown.second, common_points(shown.first, shown.second, shown.batch, 24, rng),
                           shown.batch.owner, 0)
        top.suptitle("Two views of one ink: each point is known in both", weight="bold", fontsize=11)
        for ax, done in zip(middle.subplots(1, 3), stages):
            picture, _ = shown.masked(done, at.mean(1).clamp_min(0))
            _paper(ax, story.seen_by_student(picture))
            ratio = mask_ratio(round(1_000 * done), 1_000, *shown.config.ratio, shown.config.schedule)
            ax.set_title(f"{done:.0%} of the stage:\n{ratio:.0%} of the ink masked", loc="center", fontsize=9)
        middle.suptitle("Masks grow, and move to where the teacher looks", weight="bold", fontsize=11)
        axes = low.subplots(1, 3)
        _heat(axes[0], small.first, small.batch, maps[sharpest])
        for ax in axes[:2]:
            ax.set_anchor("N")
        axes[0].set_title("one of the maps", loc="center", fontsize=9)
        plots.heat_over_ink(axes[1], shown.ink, looked.cross[token], looked.extent)
        axes[1].set_title(f"when {looked.tokens[token]} is written", loc="center", fontsize=9, parse_math=False)
        axes[2].text(0.5, 0.6, story.formula(looked.tokens), ha="center", va="center", fontsize=22)
        axes[2].set_title("written", loc="center", fontsize=9)
        axes[2].axis("off")
        low.suptitle("Attention, and LaTeX", weight="bold", fontsize=11)
    return fig


# --- one formula, read ------------------------------------------------------------------------------------------------


def read(reader: Reader, seed: int = 0, latex: str = READ, panels: int = 3) -> Figure:
    """One formula in two hands: what a recogniser reads of each, how many tokens are wrong, and where it looked at the second."""
    import matplotlib.pyplot as plt

    inks = [written(latex, seed + k) for k in range(2)]
    looks = [readings.look(reader, ink) for ink in inks]
    wrong = outcomes([one.tokens for one in looks], [ink.tokens for ink in inks]).token_errors.astype(int)
    steps = [k for k, token in enumerate(looks[1].tokens) if token not in ("{", "}", "^", "_")]
    steps = [steps[round(k)] for k in np.linspace(0, len(steps) - 1, min(panels, len(steps)))]
    with plots.style():
        fig = plt.figure(figsize=(6.4, 3.7), facecolor=PAPER)
        top, low = fig.subfigures(2, 1, squeeze=False, height_ratios=(2.3, 1.0))[:, 0]
        for (left, right), ink, one, errors in zip(top.subplots(2, 2), inks, looks, wrong):
            _paper(left, story.drawing(ink) / 255.0)
            right.text(0.5, 0.6, story.formula(one.tokens), ha="center", va="center", fontsize=18)
            said = f"{errors} token{'s' if errors != 1 else ''} wrong" if errors else "as it was written"
            right.text(0.5, 0.0, said, ha="center", va="bottom", fontsize=9, color=plots.RED if errors else plots.GREEN)
            right.axis("off")
        for ax, title in zip(top.axes, ("handwriting", "read as")):
            ax.set_title(title, fontsize=10, loc="center", weight="bold")
        for ax, step in zip(low.subplots(1, len(steps)), steps):
            plots.heat_over_ink(ax, inks[1], looks[1].cross[step], looks[1].extent)
            ax.set_title(looks[1].tokens[step], fontsize=9, loc="center", parse_math=False)
        low.suptitle("where it looked as it wrote these tokens", weight="bold", fontsize=10)
    return fig
