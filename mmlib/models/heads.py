"""Heads that only training uses: projections for contrast, a predictor for masked ink."""

from torch import Tensor, nn


def projection(d: int, hidden: int = 256, out: int = 128, norm: bool = False,
               bounded: bool = False) -> nn.Sequential:
    """Two-layer projection head (SimCLR, arXiv:2002.05709): (n, d) to (n, out).

    With batch norm between the layers it is BYOL's (arXiv:2006.07733). A `bounded` head norms what
    it reads and what is hidden, and adds nothing at its end. So its output grows neither with the
    features nor by a common shift, in which all embeddings would become alike.
    """
    if bounded:  # the last layer is made first, as its weights are drawn
        last = nn.Linear(hidden, out, bias=False)
        return nn.Sequential(nn.LayerNorm(d), nn.Linear(d, hidden), nn.LayerNorm(hidden),
                             nn.ReLU(), last)
    between = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(nn.Linear(d, hidden), *between, nn.ReLU(), nn.Linear(hidden, out))


def predictor(d: int, hidden: int = 384) -> nn.Sequential:
    """The student's features at a point to the teacher's at the same point: (n, d) to (n, d)."""
    return nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, d))


def pool(features: Tensor, cells: Tensor) -> Tensor:
    """Mean of features (b, d, h, w) over the cells (b, 1, h, w) in {0, 1}: (b, d)."""
    return (features * cells).sum((2, 3)) / cells.sum((2, 3)).clamp(min=1)
