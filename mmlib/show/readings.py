"""Readings with what the recogniser attended to while it wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from mmlib.draw.views import STRIDE, make_view
from mmlib.formula.ink import Ink, typical_size
from mmlib.read.reader import Reader
from mmlib.show.ink import as_batch, heat_over_ink
from mmlib.store.machine import one_thread


@dataclass(frozen=True, eq=False)
class AttendedReading:
    """A reading with the attention behind it, on the cells of its picture.

    tokens (t,); cross (t, h, w): the guided head's cross-attention when each token is written, left
    to right; saliency (h, w), mean 1, or None; maps (k, h, w), each summing to 1, or None; extent:
    left, right, bottom, top of the cells in the ink's units, as `heat_over_ink` takes it.
    """

    tokens: tuple[str, ...]
    cross: np.ndarray
    saliency: np.ndarray | None
    maps: np.ndarray | None
    extent: tuple[float, float, float, float]


@torch.no_grad()
def attended_reading(reader: Reader, ink: Ink, tokens: Sequence[str] | None = None,
                     beam: int = 3, size: float | None = None) -> AttendedReading:
    """Read an ink, or take these tokens as read, and keep where the recogniser attended.

    size: of a typical symbol in the ink's unit, if it is known, as that of a traced picture.
    """
    size = size or typical_size(ink.points, ink.stroke)
    left, top = ink.points.min(0)
    if tokens is None:
        tokens = reader.read([(ink.points, ink.stroke, size)], beam)[0][0].tokens
    view = make_view(as_batch(ink, size), reader.view.still(), torch.Generator().manual_seed(0))
    vocabulary = reader.vocabulary
    inputs = torch.tensor([[[vocabulary.sos, *vocabulary.encode(list(tokens))]]])
    with one_thread():
        _, cross, encoded = reader.model(view.picture, view.valid, inputs)
    h, w = view.valid.shape[2:]
    cross = cross[0, 0, : len(tokens), : h * w].reshape(-1, h, w)
    cell, margin = (x / reader.view.symbol * size for x in (STRIDE, reader.view.margin))
    x, y = float(left - margin), float(top - margin)
    found = encoded.attention
    saliency = found and found.saliency[0, 0].numpy()
    maps = found and found.maps[0].numpy()
    extent = (x, float(x + w * cell), float(y + h * cell), y)
    return AttendedReading(tuple(tokens), cross.float().numpy(), saliency, maps, extent)


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
        title = f"{step + 1}: {reading.tokens[step]}".replace("$", r"\$")
        ax.set_title(title, fontsize="medium", parse_math=False)
    return fig


def maps_figure(inks: Sequence[Ink], readings: Sequence[AttendedReading], most: int = 4
                ) -> Figure:
    """A row for each ink: its saliency, then its first maps, each over its mean over ink."""
    columns = 1 + max(0 if one.maps is None else len(one.maps[:most]) for one in readings)
    size = (1.5 * columns, 1.05 * len(inks))
    fig, axes = plt.subplots(len(inks), columns, figsize=size, squeeze=False)
    for row, ink, one in zip(axes, inks, readings, strict=True):
        heats = [] if one.maps is None else [one.saliency, *one.maps[:most]]
        for ax in row:
            ax.axis("off")
        for ax, heat in zip(row, heats):
            image = heat_over_ink(ax, ink, heat, one.extent, relative=True)
    if columns > 1:
        fig.colorbar(image, ax=axes, label="map / its mean over ink", shrink=0.6)
    for ax, title in zip(axes[0], ["saliency", *(f"map {k}" for k in range(1, columns))]):
        ax.set_title(title, loc="center")
    return fig
