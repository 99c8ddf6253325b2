"""Stage 3: cross-entropy in both directions, and the two side losses that segmented ink allows.

The class of the symbol at each ink point and the place of each written symbol come from the
segmentation of the training ink.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.data.sample import Batch
from mmlib.draw.views import InkBatch, View, sample
from mmlib.formula.vocabulary import Vocabulary
from mmlib.losses.shared import mean_over_processes
from mmlib.models.recogniser import Recogniser
from mmlib.models.search import both_directions


def sequence_loss(logits: Tensor, targets: Tensor, vocabulary: Vocabulary, smoothing: float,
                  gather: bool = False) -> Tensor:
    """Mean cross-entropy per token, over both directions (and all processes), in nats.

    logits (b, 2, t + 1, v); targets (b, 2, t + 1) int, ``<pad>`` left out; labels are smoothed.
    """
    total = F.cross_entropy(logits.float().flatten(0, 2), targets.flatten(), reduction="sum",
                            ignore_index=vocabulary.pad, label_smoothing=smoothing)
    return mean_over_processes(total, (targets != vocabulary.pad).sum(), gather)


def disturb(inputs: Tensor, share: float, vocabulary: Vocabulary, rng: torch.Generator) -> Tensor:
    """Replace a share of the decoder's input tokens (b, 2, t) by random ones.

    So the decoder must look at the picture and cannot recite the formulas that it has seen.
    """
    if not share:
        return inputs
    hit = (torch.rand(inputs.shape, generator=rng) < share).to(inputs.device)
    drawn = torch.randint(vocabulary.unk + 1, len(vocabulary), inputs.shape, generator=rng)
    return torch.where(hit & (inputs > vocabulary.unk), drawn.to(inputs.device), inputs)


def point_loss(model: Recogniser, features: Tensor, view: View, ink: InkBatch, classes: Tensor,
               most: int = 3_000, gather: bool = False) -> Tensor:
    """Mean cross-entropy of the symbol's class at the view's ink points (of all processes).

    features (b, d, h, w) of the encoder; classes (b, s) int of each symbol, -1 for an unknown one.
    """
    assert ink.symbol is not None
    known = torch.nonzero((ink.symbol >= 0) & view.kept)[:, 0]
    # Neighbouring points say the same: of many, every n-th counts.
    known = known[:: max(1, len(known) // most)]
    target = classes[ink.owner[known], ink.symbol[known]]
    logits = model.symbols(sample(features, view.cells[known], ink.owner[known])).float()
    total = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    return mean_over_processes(total, (target >= 0).sum(), gather)


def guide_loss(attention: Tensor, view: View, batch: Batch, vocabulary: Vocabulary,
               gather: bool = False) -> Tensor:
    """Mean -log of the attention's mass on the cells that hold the ink of the written symbol.

    attention (b, 2, t + 1, at least h w): the guided head, in both directions. Tokens without ink
    of their own (braces, script marks, the end) are left out.
    """
    b, _, h, w = view.valid.shape
    ink, symbols, cells = batch.ink, batch.labels.shape[1], view.cells.long()
    assert ink.symbol is not None
    known = (ink.symbol >= 0) & view.kept
    cell = cells[:, 1].clamp(0, h - 1) * w + cells[:, 0].clamp(0, w - 1)
    held = attention.new_zeros(b * symbols * h * w)  # 1 where a cell holds the symbol's ink
    held[((ink.owner * symbols + ink.symbol) * h * w + cell)[known]] = 1
    held = held.view(b, symbols, h * w)
    length = (batch.tokens != vocabulary.pad).sum(1, keepdim=True)
    written = both_directions(batch.token_symbols, length)  # (b, 2, t): the symbol of each step
    rows, directions, steps = torch.nonzero(written >= 0, as_tuple=True)
    on_symbol = held[rows, written[rows, directions, steps]]
    mass = (attention[rows, directions, steps, : h * w] * on_symbol).sum(-1)
    # Attention with no mass there at all still costs a finite amount.
    return mean_over_processes(-(mass + 1e-3).log().sum(), len(mass), gather)
