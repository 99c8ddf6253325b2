"""Masked reading: stage 2's label-free twin of what stage 3 does with labels.

The expression is written down as a sequence of units and relations (`mmlib.data.units`), in both
directions, by the decoder that fine-tuning goes on with. A unit's name is its prototype: the
cluster of its ink (`mmlib.data.unit_shapes`), or what the teacher finds in an unmasked view
(`mmlib.losses.prototypes`). The student sees a masked view, so it must say what stands under the
mask. One head's cross-attention is taught to lie on the ink of the unit being written, which needs
no label.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib.data.augment import Augmenter
from mmlib.data.pack import Indices, Pack
from mmlib.data.sample import Batch, Sample, from_pack
from mmlib.data.unit_shapes import clustered_units, clusters, describe
from mmlib.data.units import unit_vocabulary, units, with_units, write_units
from mmlib.draw.views import InkBatch, View, sample
from mmlib.losses.prototypes import Prototypes, naming_loss
from mmlib.losses.reading import disturb, guide_loss, sequence_loss
from mmlib.models.heads import predictor, projection
from mmlib.models.recogniser import ModelConfig, Recogniser
from mmlib.models.search import prefixes

UNIT_CHANNELS = 128  # of what is compared with the prototypes
TARGETS = ("teacher", "ink", "random")
CLUSTERED = 2_000  # training expressions whose units make the clusters of ink


@dataclass(frozen=True)
class ReadingConfig:
    """Weights of the terms; the sequence's is 0 where there is no masked reading."""

    sequence: float = 0.0  # cross-entropy of prototypes and relations, both directions
    naming: float = 1.0  # each shown unit names its prototype from the features on its ink
    guide: float = 0.5  # cross-attention on the ink of the unit being written
    prototypes: int = 192
    temperature: float = 0.1  # of naming
    input_noise: float = 0.15  # share of the decoder's input tokens replaced by random ones
    # What names a unit: 'teacher'; 'ink', its cluster; or 'random', a control that can teach to
    # scan, and no symbol.
    targets: str = "teacher"

    def __post_init__(self) -> None:
        if self.targets not in TARGETS:
            raise ValueError(f"targets are one of {', '.join(TARGETS)}; got {self.targets!r}")


def ink_clusters(pack: Pack, indices: Indices, config: ReadingConfig, seed: int) -> np.ndarray:
    """Centres of the clusters of ink, from some of the expressions `indices`."""
    rng = np.random.default_rng(seed)
    samples = (from_pack(pack, int(i)) for i in rng.permutation(np.asarray(indices))[:CLUSTERED])
    described = [describe(s.points, s.stroke, units(s.points, s.stroke)) for s in samples]
    return clusters(np.concatenate(described), config.prototypes, rng)


class UnitAugmenter(Augmenter):
    """Samples with units in place of symbols; the units of an expression are found once.

    centres: of the clusters of ink; with them, each unit's label is its cluster.
    """

    def __init__(self, *arguments: Any, centres: np.ndarray | None = None, **options: Any):
        super().__init__(*arguments, **options)
        self.centres = centres
        self.known: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

    def draw(self, i: int, rng: np.random.Generator) -> Sample:
        drawn = super().draw(i, rng)
        if i not in self.known:
            ink, centres = (drawn.points, drawn.stroke), self.centres
            found = (units(*ink), None) if centres is None else clustered_units(*ink, centres)
            self.known[i] = found
        return with_units(drawn, *self.known[i])


class ReadingStudent(Recogniser):
    """The recogniser over units: what stage 2 trains where it reads."""

    def __init__(self, model: ModelConfig, config: ReadingConfig):
        super().__init__(len(unit_vocabulary(config.prototypes)), model)
        d = model.encoder.d
        self.symbols.requires_grad_(False)  # stage 3's
        self.predictor, self.unit_head = predictor(d), projection(d, out=UNIT_CHANNELS)
        self.prototypes = Prototypes(UNIT_CHANNELS, config.prototypes)


@dataclass
class Named:
    """What the teacher says of a batch's units: rows (m,) of the (b, s) table, and of these the
    assignments (m, k) to prototypes; `batch` is labelled with the sequence to write."""

    rows: Tensor
    assigned: Tensor
    batch: Batch
    inputs: Tensor  # (b, 2, t + 1) of the decoder, with noise
    targets: Tensor  # (b, 2, t + 1)


def unit_means(features: Tensor, view: View, ink: InkBatch, most: int) -> tuple[Tensor, Tensor]:
    """The mean feature (m, d) on the shown ink of each unit, and its row (m,) of the (b, s) table.

    features: (b, d, h, w); most: s, units per expression at most.
    """
    assert ink.symbol is not None
    shown = torch.nonzero(view.kept)[:, 0]
    place = (ink.owner * most + ink.symbol)[shown]
    at_points = sample(features, view.cells[shown], ink.owner[shown]).float()
    total = at_points.new_zeros(ink.b * most, at_points.shape[1]).index_add_(0, place, at_points)
    count = at_points.new_zeros(ink.b * most).index_add_(0, place, at_points.new_ones(len(place)))
    rows = torch.nonzero(count)[:, 0]
    return total[rows] / count[rows, None], rows


@torch.no_grad()
def name_units(student: ReadingStudent, teacher: ReadingStudent, features: Tensor, whole: View,
               window: View, batch: Batch, config: ReadingConfig, rng: torch.Generator) -> Named:
    """What the student is to write of its window.

    features: (b, d, h, w), the teacher's of the view `whole`.
    """
    ink, (b, most) = batch.ink, batch.labels.shape
    vocabulary = unit_vocabulary(config.prototypes)
    means, rows = unit_means(features, whole, ink, most)
    if config.targets == "teacher":
        assigned = student.prototypes.assign(teacher.unit_head(means))
    else:
        chosen = batch.labels.flatten()[rows]
        if config.targets == "random":
            chosen = torch.randint(config.prototypes, (len(rows),), generator=rng).to(rows.device)
        assigned = torch.nn.functional.one_hot(chosen, config.prototypes).to(means.dtype)
    table = torch.zeros(b * most, dtype=torch.long, device=rows.device)
    table[rows] = assigned.argmax(1)
    written = write_units(batch, window.kept, table.view(b, most), vocabulary)
    inputs, targets = prefixes(written.tokens, vocabulary)
    inputs = disturb(inputs, config.input_noise, vocabulary, rng)
    return Named(rows, assigned, written, inputs, targets)


def reading_loss(student: ReadingStudent, named: Named, features: Tensor, logits: Tensor,
                 attention: Tensor, window: View, config: ReadingConfig, gather: bool = False
                 ) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted terms, and each by itself.

    features (b, d, h, w), logits (b, 2, t + 1, v) and the guided head's attention
    (b, 2, t + 1, cells) are the student's, of its window.
    """
    vocabulary, most = unit_vocabulary(config.prototypes), named.batch.labels.shape[1]
    means, rows = unit_means(features, window, named.batch.ink, most)
    known = torch.searchsorted(named.rows, rows)  # what the window shows, the whole view does too
    terms = {
        "sequence": sequence_loss(logits, named.targets, vocabulary, 0.0, gather),
        "naming": naming_loss(student.prototypes.scores(student.unit_head(means)),
                              named.assigned[known], config.temperature, gather),
        "guide": guide_loss(attention, window, named.batch, vocabulary, gather),
    }
    weighted = (getattr(config, name) * term for name, term in terms.items())
    total = sum(weighted, logits.new_zeros(()))
    return total, {name: term.detach() for name, term in terms.items()}
