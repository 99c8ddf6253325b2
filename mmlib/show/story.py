"""What the notebooks tell their story with: galleries of ink, two views joined at their common points, statistics of a pack."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmlib.data.augment import Sample
from mmlib.data.pack import Pack
from mmlib.data.split import leak, split
from mmlib.draw.raster import rasterise
from mmlib.draw.views import InkBatch, View
from mmlib.formula.ink import Ink, Symbol, typical_size
from mmlib.formula.latex import Vocabulary, depth
from mmlib.store.runs import results_root, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib's mathtext lacks these names of TeX.
_MATHTEXT = {r"\lt": "<", r"\gt": ">", r"\ldots": r"\dots"}


def formula(tokens: Sequence[str] | None) -> str:
    """Canonical tokens as matplotlib's mathtext, or in plain letters where it cannot set them."""
    from matplotlib.mathtext import MathTextParser

    # A space before ^ or _ would part a script from its base; one after a command's name must stay.
    text = "$" + "".join(name + " " * name[1:].isalpha() for name in (_MATHTEXT.get(t, t) for t in tokens or ())) + "$"
    try:
        MathTextParser("path").parse(text)
    except (ValueError, RuntimeError):
        return " ".join(tokens or ()).replace("$", "").replace("\\", "")
    return text


def as_ink(sample: Sample, vocabulary: Vocabulary) -> Ink:
    """A training sample as Ink, for drawing."""
    strokes = [set(sample.stroke[sample.symbol == s].tolist()) for s in range(len(sample.labels))]
    symbols = tuple(Symbol(vocabulary.tokens[label], tuple(sorted(of))) for label, of in zip(sample.labels, strokes))
    return Ink(sample.points, sample.stroke, symbols, tokens=tuple(vocabulary.tokens[t] for t in sample.tokens))


def gallery(inks: Sequence[Ink], titles: Sequence[str] | None = None, columns: int = 4, color: str = "order",
            height: float = 1.1, width: float = 8.5, line: float = 1.3) -> Figure:
    """A grid of inks under their formulas (or `titles`); `color` as in `plots.draw_ink`; sizes in inches."""
    import matplotlib.pyplot as plt

    from mmlib.show import style as plots

    rows = -(-len(inks) // columns)
    with plots.style():
        fig, axes = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False)
        for ax in axes.flat:
            ax.axis("off")
        for ax, ink, title in zip(axes.flat, inks, titles or [formula(ink.tokens) for ink in inks]):
            plots.draw_ink(ax, ink, color, line)
            ax.set_title(title, loc="center", fontsize=8)
    return fig


def as_batch(ink: Ink) -> InkBatch:
    """An Ink as a batch of one: points from its corner, in typical symbols."""
    points = (ink.points - ink.points.min(0)) / typical_size(ink.points, ink.stroke)
    owner = torch.zeros(len(points), dtype=torch.long)
    return InkBatch(torch.from_numpy(points.astype(np.float32)), torch.from_numpy(ink.stroke.astype(np.int64)), owner, 1)


def view_ink(view: View, ink: InkBatch, which: int) -> Ink:
    """Expression `which` of a batch as the view shows it, in pixels, for drawing: without what a crop left out."""
    own = ((ink.owner == which) & view.kept).cpu().numpy()
    stroke = np.unique(ink.stroke.cpu().numpy()[own], return_inverse=True)[1]
    return Ink(view.points.cpu().numpy()[own], stroke.astype(np.int32))


def seen_by_student(picture: torch.Tensor) -> torch.Tensor:
    """Colours (H, W, 3) of a picture (2, H, W), ink and mask: ink black, mask orange."""
    ink, mask = picture
    return 1 - torch.stack([ink + 0.05 * mask, ink + 0.4 * mask, ink + 0.9 * mask], -1).clamp(0, 1)


def joined_views(ax: Axes, first: View, second: View, chosen: torch.Tensor, owner: torch.Tensor, which: int) -> None:
    """Expression `which` of a batch in two views, one above the other, lines joining the ink points `chosen` (m,) that are the
    same in both; `owner` (n,) is the batch's."""
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    chosen = chosen[owner[chosen] == which].cpu()
    (w1, h1), (w2, h2) = (tuple(map(int, view.extent[which])) for view in (first, second))
    width, gap = max(w1, w2), max(h1, h2) // 4
    offsets = np.array([[(width - w1) / 2, 0], [(width - w2) / 2, h1 + gap]])
    for view, (x, y), w, h in zip((first, second), offsets, (w1, w2), (h1, h2)):
        ax.imshow(view.picture[which, 0, :h, :w].cpu(), cmap="Greys", extent=(x, x + w, y + h, y), vmin=0, vmax=1)
        ax.add_patch(Rectangle((x, y), w, h, fill=False, lw=0.5, ec="0.7"))
    at = [view.points[chosen].cpu().numpy() + offset for view, offset in zip((first, second), offsets)]
    ends = np.stack(at, 1)  # (m, 2, 2)
    colors = plt.get_cmap("turbo")(np.argsort(np.argsort(ends[:, 0, 0])) / max(1, len(ends) - 1))
    ax.add_collection(LineCollection(list(ends), colors=colors, lw=0.7, alpha=0.9))
    x, y = ends.reshape(-1, 2).T
    ax.scatter(x, y, s=9, c=np.repeat(colors, 2, 0), lw=0)
    ax.set(xlim=(-1, width + 1), ylim=(h1 + h2 + gap + 1, -1), aspect="equal")
    ax.axis("off")


def drawing(ink: Ink, scale: float = 48.0, margin: int = 20, pen: float = 5.0) -> np.ndarray:
    """Ink levels (H, W) uint8, 255 = ink, of an ink in typical symbols, at `scale` pixels a symbol."""
    points = torch.from_numpy(ink.points - ink.points.min(0)) * scale + margin
    width, height = (int(x) + 2 * margin for x in np.ptp(ink.points, axis=0) * scale)
    stroke = torch.from_numpy(ink.stroke.astype(np.int64))
    return (255 * rasterise(points, stroke, torch.zeros_like(stroke), (1, height, width), pen)[0, 0].numpy()).astype(np.uint8)


# --- statistics -------------------------------------------------------------------------------------------------

CONTAINS = {"a fraction": r"\frac", "a root": r"\sqrt", "a superscript": "^", "a subscript": "_", "a sum": r"\sum",
            "an integral": r"\int", "a limit": r"\lim", "an equals sign": "="}


def statistics(pack: Pack) -> dict[str, Any]:
    """Aggregates of a pack, ready for JSON: sizes, counts by length and by depth, of symbols, of constructions, and the leaks
    of three ways of splitting it. Nothing of single expressions."""
    flat, formulas = pack.flat, [pack.tokens(i) for i in range(len(pack))]
    known = [f for f in formulas if f]
    return {
        "expressions": len(pack), "writers": len(set(pack.writers) - {None}), "formulas": len(set(known)),
        "strokes": len(flat.stroke_symbols), "points": len(flat.points),
        "symbols": np.bincount(np.diff(flat.symbol_offsets)).tolist(),
        "tokens": np.bincount([len(f) for f in known]).tolist(),
        "depth": np.bincount([depth(f) for f in known]).tolist(),
        "labels": dict(Counter(pack.vocabulary[v] for v in flat.symbols).most_common()),
        "contains": {name: sum(token in f for f in known) for name, token in CONTAINS.items()},
        "leak": leaks(pack),
    }  # fmt: skip


def leaks(pack: Pack, seed: int = 0) -> dict[str, dict[str, float]]:
    """What validation shares with training under three splits: at random, by writers, and `split`'s own."""
    rng = np.random.default_rng(seed)
    ours = split(pack)
    order = rng.permutation(len(pack))
    writers = [pack.writers[i] for i in order]
    rank = {w: r for r, w in enumerate(rng.permutation(sorted({w for w in writers if w})))}
    by_writer = order[np.argsort([rank.get(w, len(rank)) for w in writers], kind="stable")]
    n = len(ours.valid)
    # Whole writers only: whoever is cut by the line stays in validation, and leaves training.
    held = {pack.writers[i] for i in by_writer[:n]}
    pairs = {
        "at random": (order[n:], order[:n]),
        "by writers": (np.array([i for i in by_writer[n:] if pack.writers[i] not in held]), by_writer[:n]),
        "by writers and formulas (ours)": (ours.train, ours.valid),
    }
    return {name: leak(pack, *pair) for name, pair in pairs.items()}


def crohme_statistics(fresh: dict[str, Any] | None = None) -> dict[str, Any]:
    """`statistics` of CROHME's 2014 training set as committed with the results; `fresh` takes their place."""
    path = results_root() / "crohme_statistics.json"
    if fresh is not None:
        write_atomic(path, json.dumps(fresh, ensure_ascii=False) + "\n")
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def quantiles(counts: Sequence[int], at: Sequence[float]) -> list[int]:
    """Quantiles of a whole number from how often each value 0, 1, 2, ... comes."""
    share = np.cumsum(counts) / np.sum(counts)
    return [int(np.searchsorted(share, q)) for q in at]
