"""Drawings of ink: strokes, a map over them, galleries, two views with their common points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmlib.data.sample import Sample, collate, unlabelled
from mmlib.draw.raster import rasterise
from mmlib.draw.views import STRIDE, InkBatch, View
from mmlib.formula.ink import Ink, Symbol, typical_size
from mmlib.formula.vocabulary import Vocabulary
from mmlib.read.reader import AttendedReading
from mmlib.show import style

OVER_MEAN = 3.0  # times its mean over ink that the strongest colour of a relative map stands for


def draw_ink(ax: Axes, ink: Ink, color: str = "order", width: float = 1.5) -> None:
    """Draw the strokes of an ink with equal aspect, y down, no axes.

    color: 'order' (first stroke dark, last bright), 'symbol' (one colour per labelled symbol, grey
    for unlabelled strokes), or any matplotlib colour.
    """
    strokes = ink.strokes()
    colors: np.ndarray | list[str]
    if color == "order":
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(strokes)))
    elif color == "symbol":
        colors = shades = [style.GREY] * len(strokes)
        for i, symbol in enumerate(ink.symbols):
            for s in symbol.strokes:
                shades[s] = style.COLOURS[i % (len(style.COLOURS) - 1)]
    else:
        colors = [color] * len(strokes)
    ax.add_collection(LineCollection(
        strokes, colors=colors, linewidths=width, capstyle="round", joinstyle="round"))
    # A line collection draws nothing for a stroke without length.
    dots = [(s[0], c) for s, c in zip(strokes, colors) if not np.ptp(s, axis=0).any()]
    if dots:
        at, shade = zip(*dots)
        x, y = np.array(at).T
        ax.scatter(x, y, s=(2 * width) ** 2, color=shade, lw=0)
    left, top, right, bottom = ink.bounds()
    margin = 0.04 * max(right - left, bottom - top) or 1.0
    ax.set(xlim=(left - margin, right + margin), ylim=(bottom + margin, top - margin))
    ax.set_aspect("equal")
    ax.axis("off")


def heat_over_ink(ax: Axes, ink: Ink, heat: np.ndarray,
                  extent: tuple[float, float, float, float] | None = None,
                  relative: bool = False) -> Any:
    """Draw a map (h, w) on its cells, with the ink on top. Returns the image, for a colour bar.

    extent: left, right, bottom, top of the map in ink units, with bottom > top as y points down
    (default: the bounds of the ink). relative: colours stand for times the map's mean over the
    cells with ink, up to `OVER_MEAN`, so that ink cells differ where most of the paper is blank;
    else the strongest colour is the map's own maximum.
    """
    heat = np.asarray(heat)
    left, top, right, bottom = ink.bounds()
    left, right, bottom, top = extent or (left, right, bottom, top)
    if relative:
        sides, count = np.maximum((right - left, bottom - top), 1e-9), np.array(heat.shape[::-1])
        cells = np.clip((ink.points - (left, top)) / sides * count, 0, count - 1).astype(int)
        column, row = np.unique(cells, axis=0).T
        heat = heat / max(float(heat[row, column].mean()), 1e-12)
    draw_ink(ax, ink, color=style.BLACK, width=1.0)
    limits = ax.get_xlim(), ax.get_ylim()
    image = ax.imshow(heat, extent=(left, right, bottom, top), cmap="YlOrRd", alpha=0.8, zorder=0,
                      vmin=0, vmax=OVER_MEAN if relative else None,
                      interpolation="nearest", aspect="equal")
    ax.set(xlim=limits[0], ylim=limits[1])
    return image


def heat_over_view(ax: Axes, heat: torch.Tensor, view: View, ink: InkBatch, which: int = 0) -> Any:
    """A map (h, w) over its mean on the cells of an expression of a view, its ink on top.

    Returns the image.
    """
    width, height = (view.extent[which] / STRIDE).int().tolist()
    extent = (0, STRIDE * width, STRIDE * height, 0)
    return heat_over_ink(ax, view_ink(view, ink, which), heat[:height, :width].numpy(), extent,
                         relative=True)


def gallery(inks: Sequence[Ink], titles: Sequence[str] | None = None, columns: int = 4,
            color: str = "order", height: float = 1.1, width: float = 8.5) -> Figure:
    """A grid of inks under their formulas (or `titles`).

    color: as in `draw_ink`. height of a row and width of the page are in inches.
    """
    rows = -(-len(inks) // columns)
    with style.style():
        fig, axes = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False)
        for ax in axes.flat:
            ax.axis("off")
        titles = titles or [style.mathtext(ink.tokens) for ink in inks]
        for ax, ink, title in zip(axes.flat, inks, titles):
            draw_ink(ax, ink, color, 1.3)
            ax.set_anchor("N")  # inks of unequal height hang from one line, and so do their titles
            ax.set_title(title, loc="center", fontsize=10, va="bottom", pad=3)
    return fig


def joined_views(ax: Axes, first: View, second: View, chosen: torch.Tensor, owner: torch.Tensor,
                 which: int) -> None:
    """Draw expression `which` of a batch in two views, one above the other.

    Lines join the ink points `chosen` (m,) that are the same in both; `owner` (n,) is the batch's.
    """
    chosen = chosen[owner[chosen] == which].cpu()
    (w1, h1), (w2, h2) = (tuple(map(int, view.extent[which])) for view in (first, second))
    width, gap = max(w1, w2), max(h1, h2) // 4
    offsets = np.array([[(width - w1) / 2, 0], [(width - w2) / 2, h1 + gap]])
    names = {"first view": "bottom", "second view": "top"}  # above and below, as lines are between
    sizes = zip((first, second), offsets, (w1, w2), (h1, h2), names.items())
    for view, (x, y), w, h, (name, side) in sizes:
        picture = view.picture[which, 0, :h, :w].cpu()
        ax.imshow(picture, cmap="Greys", extent=(x, x + w, y + h, y), vmin=0, vmax=1)
        ax.add_patch(Rectangle((x, y), w, h, fill=False, lw=0.5, ec="0.7"))
        ax.text(x, y + h * (side == "top"), name, fontsize=9, color="0.35", va=side)
    pairs = zip((first, second), offsets)
    ends = np.stack([view.points[chosen].cpu().numpy() + at for view, at in pairs], 1)  # (m, 2, 2)
    place = np.argsort(np.argsort(ends[:, 0, 0])) / max(1, len(ends) - 1)
    colors = plt.get_cmap("viridis")(0.9 * place)  # its last tenth is too pale for lines
    ax.add_collection(LineCollection(list(ends), colors=colors, lw=0.8, alpha=0.7))
    x, y = ends.reshape(-1, 2).T
    ax.scatter(x, y, s=9, c=np.repeat(colors, 2, 0), lw=0)
    ax.set(xlim=(-1, width + 1), ylim=(h1 + h2 + gap + 1, -1), aspect="equal")
    ax.axis("off")


def tokens_figure(ink: Ink, reading: AttendedReading, most: int = 15, columns: int = 5) -> Figure:
    """One panel per written token: the cross-attention over the ink when it was written."""
    shown = min(most, len(reading.tokens))
    rows = -(-shown // columns)
    left, top, right, bottom = ink.bounds()
    height = np.clip(2.0 * (bottom - top) / max(right - left, 1e-6), 0.45, 2.0)
    size = (2.0 * columns, (height + 0.35) * rows)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat[shown:]:
        ax.axis("off")
    for step, ax in enumerate(axes.flat[:shown]):
        heat_over_ink(ax, ink, reading.cross[step], reading.extent)
        ax.set_title(f"{step + 1}: {reading.tokens[step]}", fontsize="medium", parse_math=False)
    return fig


# --- conversions ----------------------------------------------------------------------------------


def as_ink(sample: Sample, vocabulary: Vocabulary) -> Ink:
    """A training sample as Ink."""
    strokes = [set(sample.stroke[sample.symbol == s].tolist()) for s in range(len(sample.labels))]
    names = [vocabulary.tokens[label] for label in sample.labels]
    symbols = tuple(Symbol(name, tuple(sorted(of))) for name, of in zip(names, strokes))
    tokens = tuple(vocabulary.tokens[t] for t in sample.tokens)
    return Ink(sample.points, sample.stroke, symbols, tokens=tokens)


def as_batch(ink: Ink, size: float | None = None) -> InkBatch:
    """An Ink as a batch of one: points from its corner, in typical symbols of `size` each."""
    size = size or typical_size(ink.points, ink.stroke)
    return collate([unlabelled(ink.points, ink.stroke, size)]).ink


def view_ink(view: View, ink: InkBatch, which: int) -> Ink:
    """Expression `which` of a batch as a view shows it, in pixels, without what a crop left."""
    own = ((ink.owner == which) & view.kept).cpu().numpy()
    stroke = np.unique(ink.stroke.cpu().numpy()[own], return_inverse=True)[1]
    return Ink(view.points.cpu().numpy()[own], stroke.astype(np.int32))


def seen_by_student(picture: torch.Tensor) -> torch.Tensor:
    """Colours (H, W, 3) of a picture (2, H, W) of ink and mask: ink black, mask orange."""
    ink, mask = picture
    levels = torch.stack([ink + 0.05 * mask, ink + 0.4 * mask, ink + 0.9 * mask], -1)
    return 1 - levels.clamp(0, 1)


def drawing(ink: Ink, scale: float = 48.0, margin: int = 20, pen: float = 5.0) -> np.ndarray:
    """Ink levels (H, W) uint8, 255 = ink, of an ink in typical symbols.

    scale: pixels per typical symbol; margin and pen are in pixels.
    """
    points = torch.from_numpy(ink.points - ink.points.min(0)) * scale + margin
    width, height = (int(x) + 2 * margin for x in np.ptp(ink.points, axis=0) * scale)
    stroke = torch.from_numpy(ink.stroke.astype(np.int64))
    levels = rasterise(points, stroke, torch.zeros_like(stroke), (1, height, width), pen)
    return (255 * levels[0, 0].numpy()).astype(np.uint8)
