"""What a recogniser looks at while it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmlib.show.ink import as_batch, heat_over_ink

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmlib.formula.ink import Ink
    from mmlib.read.reader import Reader


@dataclass(frozen=True, eq=False)
class Looked:
    """A reading with what the recogniser looked at, on the cells of its picture.

    tokens (t,); cross (t, h, w): the guided head's cross-attention when each token is written, left to right; saliency
    (h, w), mean 1, or None; maps (k, h, w), each summing to 1, or None; extent: left, right, bottom, top of the cells in the
    ink's units, as `heat_over_ink` takes it.
    """

    tokens: tuple[str, ...]
    cross: np.ndarray
    saliency: np.ndarray | None
    maps: np.ndarray | None
    extent: tuple[float, float, float, float]


@torch.no_grad()
def look(reader: Reader, ink: Ink, tokens: Sequence[str] | None = None, beam: int = 3) -> Looked:
    """Read an ink, or take these tokens as read, and keep where the recogniser looked."""
    from mmlib.draw.views import STRIDE, make_view
    from mmlib.formula.ink import typical_size

    size = typical_size(ink.points, ink.stroke)
    left, top = ink.points.min(0)
    if tokens is None:
        tokens = reader.read([(ink.points, ink.stroke, size)], beam)[0][0].tokens
    view = make_view(as_batch(ink), reader.view.still(), torch.Generator().manual_seed(0))
    vocabulary = reader.vocabulary
    inputs = torch.tensor([[[vocabulary.sos, *vocabulary.encode(list(tokens))]]])
    _, cross, encoded = reader.model(view.picture, view.valid, inputs)
    h, w = view.valid.shape[2:]
    cross = cross[0, 0, : len(tokens), : h * w].reshape(-1, h, w)
    cell, margin = STRIDE / reader.view.symbol * size, reader.view.margin / reader.view.symbol * size
    extent = (float(left - margin), float(left - margin + w * cell), float(top - margin + h * cell), float(top - margin))
    seen = encoded.attention
    return Looked(tuple(tokens), cross.float().numpy(), seen and seen.saliency[0, 0].numpy(), seen and seen.maps[0].numpy(),
                  extent)


def looks_figure(ink: Ink, looked: Looked, most: int = 15, columns: int = 5) -> Figure:
    """One panel a written token: the cross-attention over the ink when it was written."""
    import matplotlib.pyplot as plt

    shown = min(most, len(looked.tokens))
    rows = -(-shown // columns)
    left, top, right, bottom = ink.bounds()
    height = np.clip(2.0 * (bottom - top) / max(right - left, 1e-6), 0.45, 2.0)
    fig, axes = plt.subplots(rows, columns, figsize=(2.0 * columns, (height + 0.35) * rows), squeeze=False)
    for ax in axes.flat[shown:]:
        ax.axis("off")
    for step, ax in enumerate(axes.flat[:shown]):
        heat_over_ink(ax, ink, looked.cross[step], looked.extent)
        ax.set_title(f"{step + 1}: {looked.tokens[step]}".replace("$", r"\$"), fontsize="medium", parse_math=False)
    return fig


def gallery_figure(inks: Sequence[Ink], looks: Sequence[Looked]) -> Figure:
    """A row for each ink: its saliency, then its maps, each over its own mean."""
    import matplotlib.pyplot as plt

    columns = 1 + max(0 if one.maps is None else len(one.maps) for one in looks)
    fig, axes = plt.subplots(len(inks), columns, figsize=(1.35 * columns, 1.05 * len(inks)), squeeze=False)
    for row, ink, one in zip(axes, inks, looks, strict=True):
        heats = [] if one.maps is None else [one.saliency, *one.maps]
        for ax in row:
            ax.axis("off")
        for ax, heat in zip(row, heats, strict=False):
            image = heat_over_ink(ax, ink, heat, one.extent, relative=True)
    if columns > 1:
        fig.colorbar(image, ax=axes, label="map / its mean", shrink=0.6)
    for ax, title in zip(axes[0], ["saliency", *(f"map {k}" for k in range(1, columns))], strict=True):
        ax.set_title(title, loc="center")
    return fig
