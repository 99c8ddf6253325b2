"""Samples, light cut-outs of a pack, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmlib.data.pack import Pack
from mmlib.draw.views import InkBatch


@dataclass(frozen=True, eq=False)
class Sample:
    """One expression with n points, s symbols and t tokens."""

    points: np.ndarray  # (n, 2) float32, in typical symbols
    stroke: np.ndarray  # (n,) non-decreasing from 0
    symbol: np.ndarray  # (n,) the point's symbol, or -1
    labels: np.ndarray  # (s,) vocabulary ids of the symbols
    tokens: np.ndarray  # (t,) vocabulary ids
    token_symbols: np.ndarray  # (t,) the token's symbol, or -1
    id: str = ""  # of the expression that a training sample was drawn from


def from_pack(pack: Pack, i: int) -> Sample:
    """Expression i of a pack, with the pack's ids: those of `Vocabulary.crohme()` come first."""
    f = pack.flat
    points, strokes, symbols, tokens = f.of(i)
    stroke = f.point_stroke[points]
    symbol = f.stroke_symbols[strokes][stroke].astype(np.int64)
    return Sample(f.points[points], stroke, symbol, f.symbols[symbols].astype(np.int64),
                  f.tokens[tokens].astype(np.int64), f.token_symbols[tokens].astype(np.int64))


def unlabelled(points: np.ndarray, stroke: np.ndarray, size: float) -> Sample:
    """Ink in any unit, (n, 2) and (n,), and its typical symbol size in that unit, as a sample."""
    none = np.zeros(0, np.int64)
    points = ((points - points.min(0)) / size).astype(np.float32)
    stroke = np.unique(stroke, return_inverse=True)[1]
    return Sample(points, stroke, np.full(len(points), -1), none, none, none)


@dataclass
class Batch:
    """b samples on a device."""

    ink: InkBatch
    tokens: torch.Tensor  # (b, t) padded
    token_symbols: torch.Tensor  # (b, t), -1 for none
    labels: torch.Tensor  # (b, s), -1 padded
    ids: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.ink.to(device), self.tokens.to(device), self.token_symbols.to(device),
                     self.labels.to(device), self.ids)


def symbol_classes(batch: Batch) -> torch.Tensor:
    """Class of each symbol (b, s), -1 if none: the token that its ink stands for.

    So a fraction bar is not a minus.
    """
    classes = batch.labels.clone()
    rows, columns = torch.nonzero(batch.token_symbols >= 0, as_tuple=True)
    classes[rows, batch.token_symbols[rows, columns]] = batch.tokens[rows, columns]
    return classes


def padded(rows: list[np.ndarray], fill: int) -> torch.Tensor:
    """Rows of whole numbers as one table (rows, longest), the rest of each row filled."""
    table = np.full((len(rows), max(1, *(len(r) for r in rows))), fill, np.int64)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(table)


def collate(samples: Sequence[Sample], pad: int = 0) -> Batch:
    """Samples to one flat batch; ValueError where one has no point."""
    lengths = [len(s.points) for s in samples]
    if not samples or min(lengths) == 0:
        raise ValueError("collate needs samples with at least one point each")
    offsets = np.concatenate([[0], np.cumsum([s.stroke[-1] + 1 for s in samples])])
    points = np.concatenate([s.points for s in samples]).astype(np.float32)
    stroke = np.concatenate([s.stroke + o for s, o in zip(samples, offsets, strict=False)])
    symbol = np.concatenate([s.symbol for s in samples]).astype(np.int64)
    owner = torch.from_numpy(np.repeat(np.arange(len(samples)), lengths))
    ink = InkBatch(torch.from_numpy(points), torch.from_numpy(stroke.astype(np.int64)), owner,
                   len(samples), torch.from_numpy(symbol))
    return Batch(ink, padded([s.tokens for s in samples], pad),
                 padded([s.token_symbols for s in samples], -1),
                 padded([s.labels for s in samples], -1), tuple(s.id for s in samples))
