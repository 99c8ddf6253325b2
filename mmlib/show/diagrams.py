"""Figures that explain: the architecture, what losses ask, and a formula as it is read.

They stand on white paper, with letters large enough for a phone. Every picture in them is made by
the library itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from rapidfuzz.distance import Levenshtein

from mmlib.draw.views import STRIDE, InkBatch, View, ink_cells, make_view
from mmlib.formula.ink import Ink
from mmlib.formula.latex import canonical
from mmlib.losses.contrast import local_info_nce, nt_xent
from mmlib.read.reader import Reader
from mmlib.show import style as plots
from mmlib.show.ink import as_batch, draw_ink, drawing, heat_over_ink, seen_by_student, view_ink
from mmlib.study import results
from mmlib.synthetic.compose import compose
from mmlib.synthetic.hershey import HersheyBank
from mmlib.train import attend
from mmlib.train.pretrain import HARD
from mmlib.train.profiles import preset

FORMULA = r"\frac{x^2+1}{2}=\sqrt{y}"
READ = r"x=\frac{-b+\sqrt{b^2-4ac}}{2a}"
MARKS = {"replace": "{1} for {0}", "insert": "{1} too many", "delete": "{0} missing"}
SHARP = 40.0  # pixels per typical symbol where a view is shown
PAPER, INPUT, NETWORK, LABELLED, LOSS = "#FFFFFF", "#EEF4FA", "#DCEAF7", "#E3F4EC", "#FCEBDD"


def write(seed: int = 0) -> None:
    """Draw the architecture and, where a recogniser ships, what it reads."""
    plots.save(architecture(seed=seed), "architecture")
    if reader := results.shipped():
        plots.save(read(reader, seed), "read")
    plt.close("all")


def written(latex: str, seed: int = 0) -> Ink:
    """A formula in a synthetic hand."""
    return compose(canonical(latex), HersheyBank(), np.random.default_rng(seed), id="shown")


class Shown(NamedTuple):
    """One ink and what the stages see of it: two views, and the student's masked view."""

    ink: Ink
    batch: InkBatch
    first: View  # whole, as the teacher sees it
    second: View  # through a window
    student: torch.Tensor  # (2, H, W), the second with masks

    @classmethod
    def make(cls, seed: int) -> Shown:
        """The views of the formula that is shown."""
        ink, scale = written(FORMULA, seed), SHARP / HARD.symbol
        batch, rng = as_batch(ink), torch.Generator().manual_seed(seed + 3)
        view = replace(HARD, symbol=SHARP, pen=(1.4 * scale, 1.8 * scale),
                       margin=HARD.margin * scale, crop=0.25)
        first, second = (make_view(batch, way, rng) for way in (replace(view, crop=0.0), view))
        stage, alike = replace(preset("attend", "desk"), view=view), torch.ones(len(batch.points))
        rng = torch.Generator().manual_seed(1)
        _, student = attend.mask_by_curriculum(second, batch, 0.6, stage, alike, rng)
        return cls(ink, batch, first, second, student[0])


# --- drawing --------------------------------------------------------------------------------------


def _box(ax: Axes, x: float, y: float, w: float, h: float, text: str, color: str = NETWORK
         ) -> None:
    """A box with text about its centre."""
    shape = "round,pad=0,rounding_size=0.07"
    corner = (x - w / 2, y - h / 2)
    ax.add_patch(FancyBboxPatch(corner, w, h, boxstyle=shape, fc=color, ec="0.35", lw=0.8))
    ax.text(x, y, text, ha="center", va="center", fontsize=9.5, linespacing=1.25)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], **options: Any) -> None:
    head = {"arrowstyle": "-|>,head_width=0.18,head_length=0.3", "color": "0.25", "lw": 1.1}
    ax.annotate("", end, start, arrowprops=head | {"shrinkA": 0, "shrinkB": 0} | options)


def _note(ax: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Small grey text."""
    ax.text(x, y, text, **(dict[str, Any](fontsize=9.5, color="0.25", va="top") | options))


def _inset(ax: Axes, x: float, y: float, w: float, h: float) -> Axes:
    """A place for a picture about its centre."""
    return ax.inset_axes((x - w / 2, y - h / 2, w, h), transform=ax.transData)


def _paper(ax: Axes, picture: torch.Tensor | np.ndarray, name: str = "") -> None:
    """A framed picture, its name below: ink levels (H, W), or colours (H, W, 3)."""
    ax.imshow(picture, cmap="Greys", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], anchor="N" if not name else "C")
    ax.set_xlabel(name, fontsize=9.5, labelpad=3)
    for side in ax.spines.values():
        side.set(visible=True, color="0.6", linewidth=0.7)


# --- architecture ---------------------------------------------------------------------------------

WIDE, HIGH = 7.2, 2.35  # inches of a stage


def architecture(stages: Sequence[int] = (1, 2, 3), seed: int = 0) -> Figure:
    """The three stages, or some of them: views of one synthetic ink, networks, losses."""
    rows = {1: (_contrast, "1 · Contrast (no labels): which expression, which point of ink is it?"),
            2: (_match, "2 · Match (no labels): say what is masked, look at the same ink"),
            3: (_write, "3 · Write (with labels): LaTeX, from the left and from the right")}
    with plots.style():
        size = (WIDE, HIGH * len(stages))
        fig = plt.figure(figsize=size, layout="none", facecolor=PAPER)
        ax = fig.add_axes((0, 0, 1, 1))  # its units are inches
        ax.set(xlim=(0, size[0]), ylim=(0, size[1]))
        ax.axis("off")
        shown = Shown.make(seed)
        for k, stage in enumerate(reversed(stages)):
            draw, title = rows[stage]
            ax.text(0.1, HIGH * (k + 1) - 0.1, title, fontsize=10.5, weight="bold", va="top")
            if k:
                ax.plot([0.1, WIDE - 0.1], [HIGH * k] * 2, color="0.8", lw=0.8)
            draw(ax, HIGH * k, shown)
    return fig


def _views(ax: Axes, y: float, ink: Ink, pictures: dict[str, torch.Tensor]) -> None:
    """The ink, and two named pictures of it."""
    draw_ink(_inset(ax, 0.6, y + 0.95, 1.0, 0.9), ink, width=1.3)
    ax.text(0.6, y + 0.68, "ink", ha="center", va="top", fontsize=9.5)
    for k, (name, picture) in enumerate(pictures.items()):
        at = y + 1.5 - 0.92 * k
        _paper(_inset(ax, 2.15, at, 1.2, 0.62), picture, name)
        _arrow(ax, (1.12, y + 0.98 - 0.06 * k), (1.52, at))
        _arrow(ax, (2.78, at), (3.12, at))
    _note(ax, 1.2, y + 1.56, "warp,\ndraw", ha="center", va="center")


def _contrast(ax: Axes, y: float, shown: Shown) -> None:
    """Stage 1."""
    first, second = (view.picture[0, 0] for view in (shown.first, shown.second))
    _views(ax, y, shown.ink, {"a view $x$": first, "another view $x'$": second})
    _box(ax, 3.5, y + 1.04, 0.74, 1.6, "encoder\n$f$\n\nthe same\nfor both")
    heads = ((y + 1.5, "mean over ink\n→ head $g$ → $z,\\ z'$",
              "global, NT-Xent:\nthe other view\nof my expression"),
             (y + 0.58, "at ink points\n→ head $q$ → $u,\\ u'$",
              "local, InfoNCE:\nthe same point\nin the other view"))
    for at, head, loss in heads:
        _arrow(ax, (3.88, at), (4.22, at))
        _note(ax, 4.05, at + 0.05, "$F,\\ F'$", ha="center", va="bottom")
        _box(ax, 4.83, at, 1.2, 0.62, head)
        _arrow(ax, (5.44, at), (5.76, at))
        _box(ax, 6.43, at, 1.32, 0.74, loss, LOSS)


def _match(ax: Axes, y: float, shown: Shown) -> None:
    """Stage 2."""
    _views(ax, y, shown.ink, {"all of it": shown.first.picture[0, 0],
                              "a window, partly masked": seen_by_student(shown.student)})
    networks = {y + 1.5: "teacher\n" + r"$\bar f,\ \bar A$", y + 0.58: "student\n$f,\\ A$"}
    losses = {y + 1.74: "slots: find my\nown expression",
              y + 1.27: "masked ink: as\nthe teacher sees it",
              y + 0.80: "maps: on the same\nink in both views"}
    for at, name in networks.items():
        _box(ax, 3.5, at, 0.74, 0.6, name)
        _arrow(ax, (3.88, at), (4.18, at))
        _box(ax, 4.72, at, 1.06, 0.6, "$k$ maps, slots,\nfeatures", INPUT)
        for there in losses:
            _arrow(ax, (5.26, at), (5.68, there), lw=0.8)
    _arrow(ax, (3.5, y + 0.9), (3.5, y + 1.18), linestyle="--")
    _note(ax, 3.57, y + 1.04, "moving\naverage", va="center", linespacing=1.0)
    _arrow(ax, (5.26, y + 0.58), (5.68, y + 0.33), lw=0.8)
    losses[y + 0.33] = "decoder: clusters\n(our extension)"
    for at, loss in losses.items():
        _box(ax, 6.4, at, 1.38, 0.42, loss, LOSS)


def _write(ax: Axes, y: float, shown: Shown) -> None:
    """Stage 3."""
    at = y + 1.0
    _paper(_inset(ax, 0.68, at, 1.15, 0.8), shown.first.picture[0, 0], "view or picture")
    _arrow(ax, (1.28, at), (1.58, at))
    _box(ax, 1.98, at, 0.78, 0.8, "encoder\n$f$")
    _arrow(ax, (2.38, at), (3.75, at))
    _note(ax, 3.2, at + 0.05, "$F$: a vector\nper cell", ha="center", va="bottom")
    _arrow(ax, (2.58, at), (2.58, y + 1.53), lw=0.9)
    _box(ax, 2.9, y + 1.76, 1.0, 0.44, "attention $A$")
    _arrow(ax, (3.41, y + 1.76), (3.95, at + 0.42))
    _note(ax, 3.76, y + 1.69, "saliency $a$,\nslots", va="center", linespacing=1.1)
    _box(ax, 4.21, at, 0.9, 0.8, "memory\n$F\\,(1+\\gamma a)$;\n$k$ slots", INPUT)
    _arrow(ax, (4.67, at), (4.87, at))
    _box(ax, 5.38, at, 1.0, 0.8, "decoder:\nleft to right,\nand back", LABELLED)
    _arrow(ax, (5.89, at), (6.09, at))
    formula = plots.mathtext(shown.ink.tokens)
    ax.text(6.6, at, formula, ha="center", va="center", fontsize=13)
    losses = "tokens both ways; with segmentation, also each ink point's symbol and its place"
    _note(ax, 7.1, at - 0.47, "tokens one by one; a beam each way, scored by both", ha="right")
    _note(ax, 0.1, at - 0.72, f"losses: {losses}")


# --- what a loss asks -----------------------------------------------------------------------------


def contrast_terms(seed: int = 0, steps: int = 300) -> Figure:
    """What the two terms of stage 1 ask, and what they would be without negatives.

    No network: a free angle for each view of six expressions, and for each ink point of two views
    of one. They begin nearly alike. The former are drawn as places on a circle, the latter as hues;
    a number names a point.
    """
    rng = torch.Generator().manual_seed(seed)
    shown = Shown.make(seed)
    both = shown.first.kept & shown.second.kept
    there = torch.nonzero(both)[:, 0][:: max(1, int(both.sum()) // 9)]
    owner = torch.zeros_like(there)
    cells = shown.first.cells[there], shown.second.cells[there]

    def moved(start: torch.Tensor, loss: Any) -> torch.Tensor:
        """Angles (2, n) of two views of each, from angles (n,), after some steps down a loss."""
        angle = (start + 0.05 * torch.randn(2, len(start), generator=rng)).requires_grad_()
        optimiser = torch.optim.Adam([angle], 0.05)
        for _ in range(steps):
            optimiser.zero_grad()
            loss(*torch.stack([angle.cos(), angle.sin()], 2)).backward()
            optimiser.step()
        return angle.detach()

    alike, along = 0.02 * torch.arange(6), shown.first.points[there].sum(1)

    def pull(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return -(a * b).sum(1).mean()

    with plots.style():
        fig, axes = plt.subplots(3, 2, figsize=(7, 5.4), height_ratios=(3, 1.3, 1.3))
        losses = {"pull alone: all in one place": pull,
                  "pull and push: expressions apart": lambda a, b: nt_xent(a, b, 0.2)}
        for ax, (name, loss) in zip(axes[0], losses.items()):
            ring, square = moved(alike, loss).numpy()
            ax.scatter(np.cos(square), np.sin(square), c=plots.COLOURS[:6], marker="s", s=40,
                       label="second view")
            ax.scatter(np.cos(ring), np.sin(ring), facecolors="none", lw=2, s=170,
                       edgecolors=plots.COLOURS[:6], label="first view")
            ax.add_patch(Circle((0, 0), 1, fill=False, ec="0.8"))
            ax.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", title=f"global, {name}")
            ax.axis("off")
        axes[0, 0].legend(loc="center", title="a colour: an expression")
        losses = {"pull alone: one colour for all": pull,
                  "pull and push: a colour names a point": lambda a, b: local_info_nce(
                      a, b, owner, *cells, 1.0, 0.1)}
        for column, (name, loss) in zip(axes[1:].T, losses.items()):
            hues = moved(0.3 * along / along.max(), loss).numpy() % (2 * np.pi)
            for ax, view, hue in zip(column, (shown.first, shown.second), hues):
                draw_ink(ax, view_ink(view, shown.batch, 0), "0.8", 1.0)
                points = view.points[there].numpy()
                ax.scatter(*points.T, c=hue, cmap="hsv", vmin=0, vmax=2 * np.pi, s=120, zorder=3,
                           alpha=0.8, lw=0)
                for number, point in enumerate(points, 1):
                    ax.text(*point, str(number), ha="center", va="center", fontsize=7, zorder=4)
            column[0].set_title(f"local, {name}")
        for ax, title in zip(axes[1:, 0], ("first view", "second view")):
            ax.text(-0.02, 0.5, title, ha="right", va="center", rotation=90, transform=ax.transAxes)
    return fig


def slots(view: View, ink: InkBatch, features: torch.Tensor, which: int = 0) -> Figure:
    """How maps make slots: cells in the colours of their features, and each map's mean colour.

    The maps are made by hand here: four lie on one symbol each, the last on all ink. features:
    (b, d, h, w). Colours are the features' first three principal components, so a slot's colour is
    the mean of its cells'.
    """
    assert ink.symbol is not None
    w, h = (view.extent[which] / STRIDE).int().tolist()
    cells = features[which, :, :h, :w].flatten(1).T
    with torch.random.fork_rng():
        torch.manual_seed(0)
        raw = (cells - cells.mean(0)) @ torch.pca_lowrank(cells, 3)[2]
    low, high = raw.quantile(0.02, 0), raw.quantile(0.98, 0)
    colours = ((raw - low) / (high - low)).clamp(0, 1)
    own = ink.owner == which
    chosen = np.linspace(0, int(ink.symbol[own].max()), 4).round().astype(int)
    inked = [replace(view, kept=own & (ink.symbol == s)) for s in chosen]
    inked.append(replace(view, kept=own))
    maps = [ink_cells(one, ink.b, ink.owner)[which, 0, :h, :w].flatten() for one in inked]
    titles = ["features as colours", *(f"map {k}" for k in range(1, 5)), "map 5: all ink"]
    edges = (0, STRIDE * w, STRIDE * h, 0)
    with plots.style():
        high = 10 / 3 * h / w + 0.25  # inches of a picture and its title
        fig, axes = plt.subplots(4, 3, figsize=(10, 2 * high + 1), height_ratios=(high, 0.5) * 2)
        for k, (ax, below) in enumerate(np.hstack([axes[:2], axes[2:]]).T):
            alpha = maps[k - 1].clamp(min=0 if k else 0.2)
            draw_ink(ax, view_ink(view, ink, which), "0.3", 0.6)
            image = torch.cat([colours, alpha[:, None]], 1).view(h, w, 4)
            ax.imshow(image.numpy(), extent=edges, zorder=0, interpolation="nearest")
            ax.add_patch(Rectangle((0, 0), edges[1], edges[2], fill=False, ec="0.7", lw=1))
            ax.set(xlim=(-2, edges[1] + 2), ylim=(edges[2] + 2, -2))
            ax.set_title(titles[k], loc="center")
            below.axis("off")
            if k:
                mean = (alpha[:, None] * colours).sum(0) / alpha.sum()
                below.add_patch(Rectangle((0.3, 0.1), 0.4, 0.8, color=mean.tolist()))
                below.text(0.5, 0, f"slot {k}", ha="center", va="top", fontsize=9.5)
    return fig


# --- one formula, read ----------------------------------------------------------------------------


def read(reader: Reader, seed: int = 0) -> Figure:
    """One formula in two hands, the better reading first, and where the recogniser looked."""
    inks = [written(READ, seed + k) for k in range(2)]
    both = [(ink, reader.attended(ink)) for ink in inks]
    both.sort(key=lambda pair: Levenshtein.distance(pair[1].tokens, pair[0].tokens or ()))
    with plots.style():
        fig = plt.figure(figsize=(6.4, 3.7), facecolor=PAPER)
        top, low = fig.subfigures(2, 1, squeeze=False, height_ratios=(2.3, 1.0))[:, 0]
        for (left, right), (ink, one) in zip(top.subplots(2, 2), both):
            _paper(left, drawing(ink) / 255.0)
            right.text(0.5, 0.6, plots.mathtext(one.tokens), ha="center", va="center", fontsize=18)
            right.axis("off")
            truth, got = (*(ink.tokens or ()), ""), (*one.tokens, "")  # an edit may be at the end
            marks = [MARKS[edit.tag].format(truth[edit.src_pos], got[edit.dest_pos])
                     for edit in Levenshtein.editops(truth, got)]
            said = f"{len(marks)} token{'s' * (len(marks) > 1)} wrong: {', '.join(marks)}"
            right.text(0.5, 0.0, said if marks else "correct", ha="center", va="bottom",
                       fontsize=10, color=plots.RED if marks else plots.GREEN, parse_math=False)
        for ax, title in zip(top.axes, ("handwriting", "as the recogniser reads it")):
            ax.set_title(title, fontsize=10, loc="center", weight="bold")
        ink, best = both[0]
        steps = [k for k, token in enumerate(best.tokens) if token not in ("{", "}", "^", "_")]
        spread = np.linspace(0, len(steps) - 1, min(3, len(steps)))
        for ax, step in zip(low.subplots(1, len(spread)), [steps[round(k)] for k in spread]):
            heat_over_ink(ax, ink, best.cross[step], best.extent)
            ax.set_title(best.tokens[step], fontsize=9, loc="center", parse_math=False)
        low.suptitle("where it looked as it wrote these tokens (darker: more)",
                     weight="bold", fontsize=10)
    return fig
