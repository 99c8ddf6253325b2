"""Where attention lies: saliency on classes of symbols, against a map that is uniform over the ink.

A saliency map is coarse (one value per cell of ``stride`` pixels) and a symbol is thin, so a map is
judged by the ink under it. Splat the ink's arc length onto the cells (bilinearly, then blurred as
the network blurs): that is the map *m* uniform over ink at the map's own stride and blur. Read a/m
back at each ink point with the transposed splat. The result is the saliency per unit of ink, and no
saliency is lost or counted twice:

- for a = m every ink point has exactly 1, whatever the stride and the blur;
- the arc-length-weighted sum over all points is the share of the saliency that lies on ink;
- the arc-length-weighted mean over a class is its **ratio**: its share of the saliency over its
  share of ink.

Divide by the ratio of all ink to ask only how the saliency on ink is spread. A map that is flat
over paper does not have ratio 1: lone, thin ink (an operator, a bar) has more paper to itself than
ink in a crowd. So a class is preferred only where its ratio beats the controls': a flat map, the
encoder's activation norm, a map of positions only (`mean_map`), a `shuffled` one. Each goes through
the same functions. Cells are numbered from the upper left; the centre of cell (0, 0) is at pixel
(stride / 2, stride / 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from mmlib.formula.ink import Ink
from mmlib.formula.latex import align, to_tree
from mmlib.formula.tree import Node, renumber

# Fixed before any map was seen. They overlap: the plus of x^{n+1} is an operator, a superscript,
# nested.
CLASSES = (
    "operators",  # binary operations, relations, arrows, sums, integrals; no names of functions
    "scripts, depth 1",  # in exactly one sub- or superscript; the limits of a sum are scripts
    "scripts, depth 2+",
    "superscripts",  # innermost script is a superscript
    "bars and roots",  # fraction bars and root signs
    "nested",  # inside a fraction, a root or a script
    "digits and letters",  # at any place; Greek letters are letters
)
OPERATORS = frozenset(r"""
    + - * / \pm \mp \times \div \cdot \ast = \neq \lt \gt \leq \geq \equiv \approx \sim \in \notin
    \subset \rightarrow \leftarrow \Rightarrow \sum \prod \int \oint""".split())  # noqa: SIM905
GREEK = frozenset(r"""
    \alpha \beta \gamma \delta \epsilon \varepsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu
    \xi \pi \rho \sigma \tau \upsilon \phi \varphi \chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi
    \Pi \Sigma \Phi \Psi \Omega""".split())  # noqa: SIM905


def symbol_tree(ink: Ink) -> list[Node]:
    """The layout tree of an ink's tokens, each node's `ref` the index of its symbol as text.

    The index is that in ``ink.symbols``; None for a node without a symbol. Raises ValueError where
    the symbols are not aligned with the tokens.
    """
    if ink.tokens is None or ink.token_symbols is None:
        raise ValueError(f"{ink.id or 'ink'}: its symbols are not aligned with its tokens")
    tree = to_tree(ink.tokens)
    renumber(tree)
    refs = align(ink.tokens, tree)
    if refs is None:
        raise ValueError(f"{ink.id or 'ink'}: its tokens are not canonical")
    symbols = {ref: str(s) for ref, s in zip(refs, ink.token_symbols, strict=True) if s >= 0}
    pending = [*tree]
    while pending:
        node = pending.pop()
        node.ref = symbols.get(node.ref)
        pending += [child for row in node.children.values() for child in row]
    return tree


def symbol_classes(ink: Ink) -> np.ndarray:
    """Which of `CLASSES` (rows) each of ``ink.symbols`` (columns) belongs to, bool.

    Raises ValueError where the ink's symbols are not aligned with its tokens.
    """
    classes = np.zeros((len(CLASSES), len(ink.symbols)), bool)

    def walk(row: list[Node], scripts: int, superscript: bool, nested: bool) -> None:
        for node in row:
            letter = node.label in GREEK or (len(node.label) == 1 and node.label.isalnum())
            if node.ref is not None:
                classes[:, int(node.ref)] = (
                    node.label in OPERATORS, scripts == 1, scripts > 1, superscript,
                    node.label in (r"\frac", r"\sqrt"), nested, letter)  # fmt: skip
            for relation, children in node.children.items():
                if relation in ("Sub", "Sup"):
                    walk(children, scripts + 1, relation == "Sup", nested=True)
                else:
                    walk(children, scripts, superscript, nested=True)

    walk(symbol_tree(ink), scripts=0, superscript=False, nested=False)
    return classes


# --- saliency per unit of ink ---------------------------------------------------------------------


def uniform_over_ink(points: np.ndarray, length: np.ndarray, shape: tuple[int, int], stride: float,
                     blur: float = 0.0) -> np.ndarray:
    """The map that is uniform over ink: (h, w) float64, sums to 1.

    Args:
        points: (n, 2), x and y in pixels.
        length: (n,), the arc length at each point, any unit.
        shape: (h, w) of the feature grid.
        stride: pixels per cell.
        blur: standard deviation in cells of a Gaussian that stands for the network's own blur.

    Raises:
        ValueError: shapes that do not fit, no ink, points off the grid by more than a cell.
    """
    cells, parts = _splat(points, shape, stride)
    length = np.asarray(length, np.float64)
    if length.shape != parts.shape[1:] or not (length >= 0).all() or not length.any():
        raise ValueError(f"length must be ({parts.shape[1]},), not negative, not all 0; "
                         f"got {length.shape}")
    weights = (parts * length / length.sum()).ravel()
    ink = np.bincount(cells.ravel(), weights, minlength=shape[0] * shape[1]).reshape(shape)
    spread: np.ndarray = _gaussian(shape[0], blur) @ ink @ _gaussian(shape[1], blur).T
    return spread


def on_ink(saliency: np.ndarray, points: np.ndarray, length: np.ndarray, stride: float,
           blur: float = 0.0) -> np.ndarray:
    """Saliency per unit of ink at each ink point: (n,) float64, 1 for the map uniform over ink.

    Args:
        saliency: (h, w), not negative, 0 on cells that are padding; any sum.
        points, length, stride, blur: as in `uniform_over_ink`.

    Raises:
        ValueError: as `uniform_over_ink`; a map that is negative, not finite or all 0.
    """
    saliency = np.asarray(saliency, np.float64)
    if (saliency.ndim != 2 or not np.isfinite(saliency).all() or saliency.min() < 0
            or not saliency.any()):
        raise ValueError("a saliency map is (h, w), finite, not negative, not all 0; "
                         f"got {saliency.shape}")
    ink = uniform_over_ink(points, length, saliency.shape, stride, blur)
    per_ink = np.divide(saliency / saliency.sum(), ink, out=np.zeros_like(ink), where=ink > 0)
    h, w = saliency.shape
    spread = _gaussian(h, blur).T @ per_ink @ _gaussian(w, blur)
    cells, parts = _splat(points, saliency.shape, stride)
    found: np.ndarray = (parts * spread.ravel()[cells]).sum(0)
    return found


def _splat(points: np.ndarray, shape: tuple[int, int], stride: float
           ) -> tuple[np.ndarray, np.ndarray]:
    """The four cells (4, n) around each point, as places in the flattened grid, and its shares."""
    points, (h, w) = np.asarray(points, np.float64), shape
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must be (n, 2) with n > 0, got {points.shape}")
    if points.min() < -stride or (points.max(0) > stride * (np.array(shape[::-1]) + 1)).any():
        raise ValueError(f"points lie off the grid {tuple(shape)} of stride {stride}")
    x, y = np.clip(points / stride - 0.5, 0, (w - 1, h - 1)).T
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, w - 1), np.minimum(top + 1, h - 1)
    fx, fy = x - left, y - top
    cells = np.stack([top * w + left, top * w + right, bottom * w + left, bottom * w + right])
    return cells, np.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])


def _gaussian(n: int, sigma: float) -> np.ndarray:
    """(n, n) blur along one axis, cut at 3 sigma; columns sum to 1: borders lose no ink."""
    if sigma <= 0:
        return np.eye(n)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    kernel: np.ndarray = np.exp(-0.5 * (distance / sigma) ** 2) * (distance <= 3 * sigma)
    kernel /= kernel.sum(0)
    return kernel


def class_shares(values: np.ndarray, length: np.ndarray, member: np.ndarray
                 ) -> tuple[np.ndarray, np.ndarray]:
    """Shares (classes,) of the saliency, and of the ink, that lie on classes of an expression.

    Their quotient is the ratio; so is sum(saliency) / sum(ink) over many expressions, which is what
    `mmlib.measure.intervals` resamples.

    Args:
        values: (n,) from `on_ink`.
        length: (n,) arc lengths.
        member: (classes, n) bool, of the points.
    """
    length = length / np.sum(length)
    return member @ (values * length), member @ length


# --- controls -------------------------------------------------------------------------------------


def shuffled(saliency: np.ndarray, rng: np.random.Generator, cells: np.ndarray) -> np.ndarray:
    """A control: the same values on other cells of `cells` (h, w) bool.

    With the cells that hold ink, the control keeps how much lies on ink.
    """
    out = np.array(saliency)
    out[cells] = rng.permutation(out[cells])
    return out


def mean_map(saliencies: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """A control that knows positions only: the mean of the maps, each stretched to (h, w)."""
    total = np.zeros(shape)
    for saliency in saliencies:
        own = torch.from_numpy(np.asarray(saliency, np.float64) / np.sum(saliency))[None, None]
        total += F.interpolate(own, shape, mode="bilinear")[0, 0].numpy()
    total /= total.sum()
    return total
