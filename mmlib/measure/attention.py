r"""Where attention lies: saliency on classes of symbols, against a map that is uniform over the ink.

A saliency map is coarse (one value per cell of ``stride`` pixels) and a symbol is thin, so a map is judged by
the ink under it. Splat the ink's arc length onto the cells (bilinearly, then blurred as the network blurs):
that is the map *m* uniform over ink at the map's own stride and blur. Read a/m back at each ink point with
the transposed splat. The result is the saliency per unit of ink, and no saliency is lost or counted twice:

- for a = m every ink point has exactly 1, whatever the stride and the blur;
- the arc-length-weighted sum over all points is the share of the saliency that lies on ink;
- the arc-length-weighted mean over a class is its **ratio**: its share of the saliency over its share of ink.

Divide by the ratio of all ink to ask only how the saliency on ink is spread. A map that is flat over paper
does not have ratio 1: lone, thin ink (an operator, a bar) has more paper to itself than ink in a crowd. So a
class is preferred only where its ratio beats the controls': a flat map, the encoder's activation norm, the
decoder's cross-attention, a map of positions only (`mean_map`), a `shuffled` one. Each goes through the
same functions. Cells are numbered from the upper left; the centre of cell (0, 0) is at pixel
(stride / 2, stride / 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmlib.formula.latex import align, to_tree
from mmlib.formula.tree import Node

if TYPE_CHECKING:
    from mmlib.formula.ink import Ink

# Fixed before any map was looked at. They overlap: the plus of x^{n+1} is an operator, a superscript, nested.
CLASSES = (
    "operators",  # binary operations, relations, arrows, sums, integrals; not the names of functions
    "scripts, depth 1",  # in exactly one sub- or superscript; the limits of a sum are scripts
    "scripts, depth 2+",
    "superscripts",  # innermost script is a superscript
    "bars and roots",  # fraction bars and root signs
    "nested",  # inside a fraction, a root or a script
    "digits and letters",  # at any place; Greek letters are letters
)
OPERATORS = frozenset(
    r"""+ - * / \pm \mp \times \div \cdot \ast = \neq \lt \gt \leq \geq \equiv \approx \sim \in \notin \subset
    \rightarrow \leftarrow \Rightarrow \sum \prod \int \oint""".split()  # noqa: SIM905
)
_GREEK = frozenset(
    r"""\alpha \beta \gamma \delta \epsilon \varepsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \pi
    \rho \sigma \tau \upsilon \phi \varphi \chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma \Phi
    \Psi \Omega""".split()  # noqa: SIM905
)


def symbol_tree(ink: Ink) -> list[Node]:
    """The layout tree of an ink's tokens; each node's `ref` is the index of its symbol in ``ink.symbols`` as text.

    It is None for a node without a symbol. Raises ValueError where the symbols are not aligned with the tokens.
    """
    if ink.tokens is None or ink.token_symbols is None:
        raise ValueError(f"{ink.id or 'ink'}: its symbols are not aligned with its tokens")
    tree = to_tree(ink.tokens)
    nodes: list[Node] = []
    pending = [*tree]
    while pending:
        node = pending.pop()
        node.ref = str(len(nodes))
        nodes.append(node)
        pending += [child for row in node.children.values() for child in row]
    refs = align(ink.tokens, tree)
    if refs is None:
        raise ValueError(f"{ink.id or 'ink'}: its tokens are not canonical")
    symbols = {ref: str(s) for ref, s in zip(refs, ink.token_symbols, strict=True) if s >= 0}
    for node in nodes:
        node.ref = symbols.get(node.ref)
    return tree


def symbol_classes(ink: Ink) -> dict[str, set[int]]:
    """For each of `CLASSES` the indices into ``ink.symbols`` that belong to it.

    Raises ValueError where the ink's symbols are not aligned with its tokens.
    """
    classes: dict[str, set[int]] = {name: set() for name in CLASSES}
    _walk(symbol_tree(ink), scripts=0, superscript=False, nested=False, classes=classes)
    return classes


def _walk(
    row: list[Node], scripts: int, superscript: bool, nested: bool, classes: dict[str, set[int]]
) -> None:
    """Put the symbols of a row, and of what hangs on it, into their classes."""
    for node in row:
        member = {
            "operators": node.label in OPERATORS,
            "scripts, depth 1": scripts == 1,
            "scripts, depth 2+": scripts > 1,
            "superscripts": superscript,
            "bars and roots": node.label in (r"\frac", r"\sqrt"),
            "nested": nested,
            "digits and letters": node.label in _GREEK or (len(node.label) == 1 and node.label.isalnum()),
        }
        for name, is_member in member.items():
            if is_member and node.ref is not None:
                classes[name].add(int(node.ref))
        for relation, children in node.children.items():
            script = relation in ("Sub", "Sup")
            _walk(children, scripts + script, relation == "Sup" if script else superscript, True, classes)


def point_symbols(ink: Ink) -> np.ndarray:
    """The index of each ink point's symbol, -1 for a point of none: (n,) int64."""
    owner = np.full(int(ink.stroke.max()) + 1, -1, np.int64)
    for i, symbol in enumerate(ink.symbols):
        owner[list(symbol.strokes)] = i
    found: np.ndarray = owner[ink.stroke]
    return found


def uniform_over_ink(
    points: np.ndarray, length: np.ndarray, shape: tuple[int, int], stride: float, blur: float = 0.0
) -> np.ndarray:
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
    return _Grid(points, length, shape, stride, blur).ink


def on_ink(
    saliency: np.ndarray, points: np.ndarray, length: np.ndarray, stride: float, blur: float = 0.0
) -> np.ndarray:
    """Saliency per unit of ink at each ink point: (n,) float64, 1 everywhere for the map uniform over ink.

    Args:
        saliency: (h, w), not negative, 0 on cells that are padding; any sum.
        points, length, stride, blur: as in `uniform_over_ink`.

    Raises:
        ValueError: as `uniform_over_ink`; a map that is negative, not finite or all 0.
    """
    saliency = np.asarray(saliency, np.float64)
    if saliency.ndim != 2 or not np.isfinite(saliency).all() or saliency.min() < 0 or not saliency.any():
        raise ValueError(f"a saliency map is (h, w), finite, not negative, not all 0; got {saliency.shape}")
    grid = _Grid(points, length, saliency.shape, stride, blur)
    return grid.read(
        np.divide(saliency / saliency.sum(), grid.ink, out=np.zeros_like(saliency), where=grid.ink > 0)
    )


class Shares(NamedTuple):
    """Shares of the saliency, and of the ink, of some parts of one expression.

    Their quotients are ratios; so is sum(saliency) / sum(ink) over many expressions, which is what
    `mmlib.measure.intervals` resamples.
    """

    saliency: np.ndarray  # (parts,), in [0, 1]
    ink: np.ndarray  # (parts,), in [0, 1]

    @property
    def ratio(self) -> np.ndarray:
        """(parts,); NaN for a part without ink."""
        found = np.full(len(self.ink), np.nan)
        np.divide(self.saliency, self.ink, out=found, where=self.ink > 0)
        return found


def symbol_shares(values: np.ndarray, length: np.ndarray, symbol: np.ndarray, count: int) -> Shares:
    """Shares of each symbol of one expression.

    Args:
        values: (n,) from `on_ink`.
        length: (n,) arc lengths.
        symbol: (n,) from `point_symbols`; -1 belongs to none but counts as ink.
        count: number of symbols.
    """
    length = np.asarray(length, np.float64) / np.sum(length)
    own = symbol >= 0
    saliency, ink = (
        np.bincount(symbol[own], weights=x[own], minlength=count) for x in (values * length, length)
    )
    return Shares(saliency, ink)


def class_shares(symbols: Shares, classes: Mapping[str, set[int]]) -> Shares:
    """Shares of each class, in the mapping's order, from the symbols' shares."""
    members = [sorted(indices) for indices in classes.values()]
    return Shares(*(np.array([x[rows].sum() for rows in members]) for x in symbols))


def size_matched_ratio(
    symbols: Shares, member: np.ndarray, size: np.ndarray, bins: int = 8
) -> tuple[float, float]:
    """Ratio of a class to *other symbols of the same size*, and the share of its ink that found a match.

    Small symbols may draw saliency for their size alone. The symbols of all expressions together are cut into
    bins by the quantiles of the class's own sizes; where a bin holds others too, their ratio there, at the
    class's weight, is what the class is compared with.

    Args:
        symbols: shares of all symbols of all expressions, concatenated, (s,).
        member: (s,) bool, the class.
        size: (s,) > 0, for instance the longer side of the symbol's box in typical sizes.
        bins: at most so many.

    Returns:
        The ratio (NaN without a match) and the matched share in [0, 1].
    """
    member, size = np.asarray(member, bool), np.asarray(size, np.float64)
    if not member.any():
        return float("nan"), 0.0
    edges = np.unique(np.quantile(size[member], np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.digitize(size, edges)
    inside = (size >= size[member].min()) & (size <= size[member].max())

    def totals(rows: np.ndarray) -> list[np.ndarray]:
        return [np.bincount(place[rows], weights=x[rows], minlength=len(edges) + 1) for x in symbols]

    (own, own_ink), (others, others_ink) = totals(member), totals(~member & inside)
    both = (own_ink > 0) & (others_ink > 0)
    expected = float((own_ink[both] * others[both] / others_ink[both]).sum())
    ratio = float(own[both].sum()) / expected if expected > 0 else float("nan")
    return ratio, float(own_ink[both].sum() / own_ink.sum()) if own_ink.any() else 0.0


class Pointing(NamedTuple):
    """Pointing game of one map: in [0, 1] each. Means over expressions are compared."""

    hit: float  # 1 if the strongest cell holds ink of the class; with ties, the share of tied cells that do
    area: float  # chance: share of the valid cells that do
    ink: float  # chance on ink: share of the cells with any ink that do


def pointing(
    saliency: np.ndarray,
    points: np.ndarray,
    member: np.ndarray,
    stride: float,
    valid: np.ndarray | None = None,
) -> Pointing:
    """Does the strongest cell lie on a class (Zhang et al., 2016), against chance by area?

    Args:
        saliency: (h, w).
        points: (n, 2), x and y in pixels, dense enough to touch each cell that the ink crosses.
        member: (n,) bool, points of the class.
        stride: pixels per cell.
        valid: (h, w) bool, cells that are not padding; all by default.

    Raises:
        ValueError: shapes that do not fit, no valid cell, points off the grid by more than a cell.
    """
    saliency = np.asarray(saliency, np.float64)
    valid = np.ones(saliency.shape, bool) if valid is None else np.asarray(valid, bool)
    if valid.shape != saliency.shape or not valid.any():
        raise ValueError(f"valid must be {saliency.shape} and hold a cell, got {valid.shape}")
    points = _check_points(points, saliency.shape, stride)
    if len(member) != len(points):
        raise ValueError(f"{len(member)} members for {len(points)} points")
    column, row = np.clip((points / stride).astype(int), 0, np.array(saliency.shape[::-1]) - 1).T
    any_ink, target = np.zeros((2, *saliency.shape), bool)
    any_ink[row, column] = True
    target[row[member], column[member]] = True
    strongest = valid & (saliency == saliency[valid].max())
    return Pointing(
        hit=float(target[strongest].mean()),
        area=float(target[valid].mean()),
        ink=float(target[any_ink].mean()) if any_ink.any() else 0.0,
    )


def shuffled(saliency: np.ndarray, rng: np.random.Generator, cells: np.ndarray | None = None) -> np.ndarray:
    """A control: the same values on other cells.

    Only `cells`, (h, w) bool, take part, all by default; with the cells that hold ink, the control keeps how
    much lies on ink.
    """
    out = np.array(saliency)
    cells = np.ones(out.shape, bool) if cells is None else np.asarray(cells, bool)
    out[cells] = rng.permutation(out[cells])
    return out


def mean_map(saliencies: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """A control that knows positions only: the mean map over expressions, each stretched to (h, w)."""
    total = np.zeros(shape)
    for saliency in saliencies:
        h, w = (_stretch(n, m) for n, m in zip(np.shape(saliency), shape, strict=True))
        total += h @ (saliency / np.sum(saliency)) @ w.T
    total /= total.sum()
    return total


def _stretch(n: int, m: int) -> np.ndarray:
    """(m, n) matrix that interpolates n cell centres linearly at m."""
    at = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    weights: np.ndarray = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)))
    return weights


class _Grid:
    """Bilinear splat of ink onto cells, with blur, and its transposed reading."""

    def __init__(
        self, points: np.ndarray, length: np.ndarray, shape: tuple[int, int], stride: float, blur: float
    ) -> None:
        points = _check_points(points, shape, stride)
        length = np.asarray(length, np.float64)
        if length.shape != points.shape[:1] or not (length >= 0).all() or not length.any():
            raise ValueError(f"length must be ({len(points)},), not negative, not all 0; got {length.shape}")
        h, w = shape
        x, y = np.clip(points / stride - 0.5, 0, (w - 1, h - 1)).T
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        right, bottom = np.minimum(left + 1, w - 1), np.minimum(top + 1, h - 1)
        fx, fy = x - left, y - top
        self.cells = np.stack([top * w + left, top * w + right, bottom * w + left, bottom * w + right])
        self.parts = np.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])
        self.blurs = [_gaussian(n, blur) for n in shape]
        flat = np.bincount(self.cells.ravel(), (self.parts * length / length.sum()).ravel(), minlength=h * w)
        self.ink: np.ndarray = self.blurs[0] @ flat.reshape(shape) @ self.blurs[1].T

    def read(self, values: np.ndarray) -> np.ndarray:
        found: np.ndarray = (self.parts * (self.blurs[0].T @ values @ self.blurs[1]).ravel()[self.cells]).sum(0)
        return found


def _gaussian(n: int, sigma: float) -> np.ndarray:
    """(n, n) blur along one axis, cut at 3 sigma; columns sum to 1, so no ink is lost at the border."""
    if sigma <= 0:
        return np.eye(n)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    kernel: np.ndarray = np.exp(-0.5 * (distance / sigma) ** 2) * (distance <= 3 * sigma)
    kernel /= kernel.sum(0)
    return kernel


def _check_points(points: np.ndarray, shape: tuple[int, int], stride: float) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must be (n, 2) with n > 0, got {points.shape}")
    if points.min() < -stride or (points.max(0) > stride * (np.array(shape[::-1]) + 1)).any():
        raise ValueError(f"points lie off the grid {tuple(shape)} of stride {stride}")
    return points
