"""On a CPU, work on what a batch holds and not on its padding.

A batch is padded to its largest member. Where sizes differ, as those of random views and of
formulas do, half of it and more is blank. What works on each token or cell alone then works on a
table of the members (`Packed`), and a convolution on a sheet where the pictures stand close
together (`Sheet`). The results are those of the padded batch. Sizes are rounded up, since a CPU's
library makes a kernel for each new shape, which costs as much as a small product.

A GPU packs nothing: it would wait for the host to count, and has room for the blanks.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

WORTH = 0.85  # of the padded batch: what saves less is left as it is
ROWS = 64  # a packed table has a multiple of these
SIDES = (4, 16)  # cells: height and width of a sheet are multiples
WIDTH = 64  # cells, of a sheet that has no wider picture


class _Moved(torch.autograd.Function):
    """Rows of a table by an index; the rows `blank` are zero.

    Each row goes to one place at most, so the gradient is gathered by the inverse index, and no
    sums are needed.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, blank: Tensor, inverse: Tensor,
                inverse_blank: Tensor) -> Tensor:
        ctx.save_for_backward(inverse, inverse_blank)
        return rows.index_select(0, index).index_fill_(0, blank, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inverse, blank = ctx.saved_tensors
        rows = gradient.index_select(0, inverse).index_fill_(0, blank, 0)
        return rows, None, None, None, None


class Moves:
    """Rows of one table that are rows of another; a row without a counterpart is zero there.

    here, there: (m,) int, pairs of rows, a row in one pair at most; sizes: rows of the two tables.
    index (sizes[1],) int is the row that each of the other table's comes from, 0 for a blank one.
    """

    def __init__(self, here: np.ndarray, there: np.ndarray, sizes: tuple[int, int]):
        self._forth, self._back = _index(here, there, sizes[1]), _index(there, here, sizes[0])
        self.index = self._forth[0]

    def forth(self, x: Tensor) -> Tensor:
        """Rows (sizes[0], c) as rows (sizes[1], c)."""
        return _Moved.apply(x, *self._forth, *self._back)  # type: ignore[no-untyped-call]

    def back(self, x: Tensor) -> Tensor:
        """Rows (sizes[1], c) as rows (sizes[0], c)."""
        return _Moved.apply(x, *self._back, *self._forth)  # type: ignore[no-untyped-call]


def _index(rows: np.ndarray, to: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
    """For each of `size` places the row that goes there, else 0; and the places without a row."""
    index, blank = np.zeros(size, np.int64), np.ones(size, bool)
    index[to], blank[to] = rows, False
    return torch.from_numpy(index), torch.from_numpy(np.flatnonzero(blank))


def _up(n: int, step: int) -> int:
    """n, or the next multiple of `step` above it."""
    return -(-n // step) * step


class Padded:
    """Sequences of `shape` (b, t), left as they are; `Packed` says what each method does."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def pack(self, x: Tensor) -> Tensor:
        return x

    def along(self, x: Tensor) -> Tensor:
        return x

    def spread(self, x: Tensor) -> Tensor:
        return x


class Packed(Padded):
    """The members `real` (b, t) bool of padded sequences in one table of n rows, on the CPU.

    n is a multiple of `ROWS`; the rows over, last, are zero and pass no gradient on.
    """

    def __init__(self, real: Tensor):
        super().__init__(real.shape)
        members = np.flatnonzero(real.numpy())
        self.n = max(ROWS, _up(len(members), ROWS))
        self._moves = Moves(members, np.arange(len(members)), (real.numel(), self.n))

    def pack(self, x: Tensor) -> Tensor:
        """(b, t, c) to (n, c)."""
        return self._moves.forth(x.flatten(0, 1))

    def along(self, x: Tensor) -> Tensor:
        """What belongs to the t places of every sequence, (t, c), row by row: (n, c)."""
        return x[self._moves.index % self.shape[1]]

    def spread(self, x: Tensor) -> Tensor:
        """(n, c) to (b, t, c), zero for what is no member."""
        return self._moves.back(x).view(*self.shape, -1)


def packed(real: Tensor) -> Padded:
    """Sequences with members `real` (b, t) bool: `Packed` on a CPU if it pays, else `Padded`."""
    return Packed(real) if _mostly_blank(real) else Padded(real.shape)


def _mostly_blank(real: Tensor) -> bool:
    return real.device.type == "cpu" and 0 < int(real.sum()) <= WORTH * real.numel()


def shelves(sizes: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """Places for rectangles, a blank row or column apart, and the height that they take.

    sizes (b, 2) height and width, none wider than `width`; places (b, 2) row and column. Each goes
    on the first shelf that has room, by falling height (first fit).
    """
    places = np.zeros_like(sizes)
    begun: list[list[int]] = []  # row and next free column of each shelf
    height = 0
    for i in np.lexsort((-sizes[:, 1], -sizes[:, 0])):
        high, wide = sizes[i].tolist()
        shelf = next((s for s in begun if s[1] + wide <= width), None)
        if shelf is None:
            begun.append(shelf := [height, 0])
            height += high + 1
        places[i] = shelf
        shelf[1] += wide + 1
    return places, height - 1


class Sheet:
    """The pictures of a batch on one sheet of H x W cells, a blank cell apart.

    A 3 x 3 convolution whose step is a cell or less sees no farther, so where padding is zeroed
    before each, no picture sees into another.

    valid (b, 1, h, w) {0, 1}, on the CPU: each picture's own cells; the sheet takes the rectangle
    from the upper left that holds them. Its own `valid` (1, 1, H, W) is 1 where a cell lies.
    """

    def __init__(self, valid: Tensor):
        b, _, h, w = valid.shape
        own = valid[:, 0].numpy() > 0
        sizes = np.stack([(own.max(axis) * np.arange(1, n + 1)).max(1)  # one more than the last
                          for axis, n in ((2, h), (1, w))], 1)
        width = max(WIDTH, _up(int(sizes[:, 1].max()), SIDES[1]))
        places, height = shelves(sizes, width)
        height = _up(height, SIDES[0])
        picture, row, column = np.nonzero(own)
        here = (picture * h + row) * w + column
        there = (row + places[picture, 0]) * width + column + places[picture, 1]
        self.of, self.shape = (b, h, w), (height, width)
        self._moves = Moves(here, there, (b * h * w, height * width))
        self.valid = self._moves.forth(valid.new_ones(b * h * w, 1)).view(1, 1, height, width)

    def lay(self, x: Tensor) -> Tensor:
        """Pictures x (b, c, h s, w s) on the sheet, (1, c, H s, W s)."""
        (b, h, w), (height, width), c = self.of, self.shape, x.shape[1]
        s = x.shape[2] // h
        cells = x.reshape(b, c, h, s, w, s).permute(0, 2, 4, 1, 3, 5).reshape(b * h * w, c * s * s)
        laid = self._moves.forth(cells).view(height, width, c, s, s)
        return laid.permute(2, 0, 3, 1, 4).reshape(1, c, height * s, width * s)

    def take(self, x: Tensor) -> Tensor:
        """The pictures (b, d, h, w) from their cells on the sheet, x (1, d, H, W); else zero."""
        cells = self._moves.back(x.permute(0, 2, 3, 1).flatten(0, 2))
        return cells.view(*self.of, -1).permute(0, 3, 1, 2)


def sheet(valid: Tensor) -> Sheet | None:
    """A batch with cells `valid` (b, 1, h, w) on a sheet; None if that saves too little."""
    found = Sheet(valid) if _mostly_blank(valid) else None
    return found if found and found.valid.numel() <= WORTH * valid.numel() else None
