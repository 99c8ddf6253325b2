"""Ink as reading finds it in a picture of it: drawn, worn a little, cleaned and traced back.

Each symbol keeps its ink, so that what was traced can be trained on like what was written.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from mmlib.data.errors import DataError
from mmlib.data.imitate import falling, on_paper
from mmlib.data.pack import Indices, Pack
from mmlib.data.photo import see
from mmlib.data.trace import lines, trace_picture
from mmlib.draw.raster import densify, rasterise
from mmlib.formula.ink import Ink

SYMBOL = (9.0, 40.0)  # pixels of a typical symbol; a long formula in 256 pixels has some 10
PEN = (0.06, 0.16)  # of a typical symbol
CLEAN = 0.5  # share of pictures that are drawings; the others are scanned or photographed


def pictured(pack: Pack, indices: Indices, seed: int = 0) -> Iterator[Ink]:
    """Expressions of a pack as traced from a picture of each, in the typical symbols of tracing.

    Each depends on the seed and its index alone. Those that lose a symbol on the way are left out.
    """
    for i in indices:
        try:
            yield through_picture(pack[int(i)], np.random.default_rng([seed, int(i)]))
        except DataError:
            continue


def through_picture(ink: Ink, rng: np.random.Generator) -> Ink:
    """The ink (in typical symbols) drawn, seen and traced by what reads pictures.

    Raises DataError where a symbol has no ink left: its label would then be wrong.
    """
    from scipy.spatial import cKDTree

    pixels = float(np.exp(rng.uniform(*np.log(SYMBOL))))
    pen = max(1.0, rng.uniform(*PEN) * pixels)
    margin = 2 * pen + 0.3 * pixels
    points = torch.from_numpy(ink.points * np.float32(pixels) + np.float32(margin))
    stroke = torch.from_numpy(ink.stroke).long()
    width, height = (points.amax(0) + margin).ceil().int().tolist()
    picture = rasterise(points, stroke, torch.zeros_like(stroke), (1, height, width), pen)
    clean = rng.random() < CLEAN
    grey = 255 * (1 - picture[0, 0].numpy()) if clean else worn(picture[0, 0].numpy(), rng)
    seen = see(np.rint(grey).astype(np.uint8), False if clean else None)
    traced, _, size = trace_picture(seen.levels)
    # What was traced belongs to the symbol whose ink was drawn nearest.
    drawn, source = densify(points, stroke)
    of_stroke = np.full(ink.stroke[-1] + 1, -1)
    for k, symbol in enumerate(ink.symbols):
        of_stroke[list(symbol.strokes)] = k
    edges = traced.reshape(-1, 2, 2)
    middle = np.column_stack([edges.mean(1) - 0.5, np.ones(len(edges))]) @ seen.to_picture.T
    nearest = cKDTree(drawn.numpy()).query(middle[:, :2] + 0.5)[1]
    owner = of_stroke[ink.stroke[source.numpy()]][nearest]
    found = [(k, line) for k in np.unique(owner) for line in lines(edges[owner == k])]
    symbols = []
    for k, symbol in enumerate(ink.symbols):
        strokes = tuple(s for s, (of, _) in enumerate(found) if of == k)
        if not strokes:
            raise DataError(f"{ink.id}: '{symbol.label}' is lost in the picture")
        symbols.append(replace(symbol, strokes=strokes))
    fresh = Ink.from_strokes([(line - traced.min(0)) / size for _, line in found])
    return replace(ink, points=fresh.points, stroke=fresh.stroke, symbols=tuple(symbols))


def worn(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey (H, W) uint8 of a drawing, ink (0 to 1), on paper that is unevenly lit and grainy."""
    paper, pen = rng.uniform(170, 250), rng.uniform(20, 110)
    light = falling(ink.shape, rng, rng.uniform(0, 0.4))
    return on_paper(ink, rng, paper, pen, rng.uniform(0, 4), light)
