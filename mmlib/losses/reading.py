"""Stage 3: two directions' cross-entropy, and the side losses that an arm may add to it.

The class of the symbol at each ink point, the place of each written symbol and the number of each (as in CAN, arXiv:2207.11463)
come from the segmentation of the training ink; mutual imitation of the two directions (as in ABM, arXiv:2112.03603) needs no
more than the label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def mutual_loss(logits: Tensor, tokens: Tensor, vocabulary: Vocabulary, gather: bool = False) -> Tensor:
    """How far the two directions are from each other where they write the same token: KL divergence of each from what the other
    says, taken as given, a token. logits (b, 2, t + 1, v), tokens (b, t)."""
    known = tokens != vocabulary.pad
    step = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    there = both_directions(step, known.sum(1, keepdim=True))[:, 1]  # the step at which r2l writes the token of this place
    said = logits.float().log_softmax(-1)
    l2r, r2l = said[:, 0, :-1][known], said[:, 1].gather(1, there[..., None].expand(-1, -1, said.shape[-1]))[known]
    apart = (F.kl_div(a, b.detach(), reduction="sum", log_target=True) for a, b in ((l2r, r2l), (r2l, l2r)))
    return mean_over_processes(sum(apart, logits.new_zeros(())), known.sum(), gather)


class CountHead(nn.Module):
    """How many of each class are on the picture: features (b, d, h, w) and valid (b, 1, h, w) to counts (b, classes), the sum of
    a density over the cells."""

    def __init__(self, d: int, classes: int):
        super().__init__()
        self.density = nn.Conv2d(d, classes, 1)
        nn.init.constant_(self.density.bias, -7.0)  # type: ignore[arg-type]  # a hundred cells hold less than one at first

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        counts: Tensor = (self.density(features).float().sigmoid() * valid).sum((2, 3))
        return counts


def count_loss(counts: Tensor, classes: Tensor, gather: bool = False) -> Tensor:
    """Smooth L1 of counts (b, n) against the number of symbols of each class, summed over classes, an expression whose symbols
    are known; classes (b, s), -1 for none."""
    known = (classes >= 0).any(1)
    target = torch.zeros_like(counts).scatter_add_(1, classes.clamp(min=0), (classes >= 0).to(counts.dtype))
    total = F.smooth_l1_loss(counts[known], target[known], reduction="sum")
    return mean_over_processes(total, known.sum(), gather)
