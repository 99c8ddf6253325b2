"""Stage 3: two directions' cross-entropy, and the side losses that an arm may add to it.

The class of the symbol at each ink point and the place of each written symbol come from the segmentation of the training ink.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.data.augment import Batch
from mmlib.draw.views import InkBatch, View, sample
from mmlib.formula.latex import Vocabulary
from mmlib.losses.gather import mean_over_processes
from mmlib.models.search import both_directions

if TYPE_CHECKING:
    from mmlib.models.recogniser import Recogniser


def point_loss(model: Recogniser, features: Tensor, view: View, ink: InkBatch, classes: Tensor, most: int = 3_000,
               gather: bool = False) -> Tensor:
    """Cross-entropy of the symbol's class at ink points (of all processes); features (b, d, h, w), classes (b, s).

    most: above it every second point, or third, and so on, so that fewer than twice as many are left.
    """
    assert ink.symbol is not None
    known = torch.nonzero((ink.symbol >= 0) & view.kept)[:, 0]
    known = known[:: max(1, len(known) // most)]  # every so-manieth point: neighbours say the same
    target = classes[ink.owner[known], ink.symbol[known]]
    logits = model.symbols(sample(features, view.cells[known], ink.owner[known])).float()
    total = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    return mean_over_processes(total, (target >= 0).sum(), gather)


def guide_loss(attention: Tensor, view: View, batch: Batch, vocabulary: Vocabulary, gather: bool = False) -> Tensor:
    """-log of the attention's mass on the cells that hold the ink of the symbol being written.

    attention (b, 2, t + 1, at least cells): the guided head, both directions. Tokens without ink of their own (braces, script
    marks, the end) are left out.
    """
    b, _, h, w = view.valid.shape
    ink, symbols, cells = batch.ink, batch.labels.shape[1], view.cells.long()
    assert ink.symbol is not None
    known = (ink.symbol >= 0) & view.kept
    place = (ink.owner * symbols + ink.symbol) * h * w + cells[:, 1].clamp(0, h - 1) * w + cells[:, 0].clamp(0, w - 1)
    held = attention.new_zeros(b * symbols * h * w)
    held[place[known]] = 1
    held = held.view(b, symbols, h * w)
    length = (batch.tokens != vocabulary.pad).sum(1, keepdim=True)
    written = both_directions(batch.token_symbols, length)  # (b, 2, t): the symbol that each step writes
    rows, directions, steps = torch.nonzero(written >= 0, as_tuple=True)
    mass = (attention[rows, directions, steps, : h * w] * held[rows, written[rows, directions, steps]]).sum(-1)
    return mean_over_processes(-(mass + 1e-3).log().sum(), len(mass), gather)


def sequence_loss(logits: Tensor, targets: Tensor, vocabulary: Vocabulary, smoothing: float, gather: bool = False) -> Tensor:
    """Cross-entropy a token, over both directions (and all processes); logits (b, 2, t + 1, v), targets (b, 2, t + 1)."""
    total = F.cross_entropy(logits.float().flatten(0, 2), targets.flatten(), ignore_index=vocabulary.pad,
                            label_smoothing=smoothing, reduction="sum")
    return mean_over_processes(total, (targets != vocabulary.pad).sum(), gather)
