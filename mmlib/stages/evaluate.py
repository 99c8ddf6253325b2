"""Reading a whole data set with a recogniser, and scoring it: rows for the records, outcomes for the intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mmlib.data.batches import batches_by_area
from mmlib.data.pack import Pack
from mmlib.data.samples import collate, from_pack
from mmlib.latex import Vocabulary
from mmlib.models.recogniser import Recogniser
from mmlib.models.search import Hypothesis, beam_search
from mmlib.views import ViewConfig, make_view


@torch.no_grad()
def read_pack(model: Recogniser, pack: Pack, indices: Sequence[int], vocabulary: Vocabulary, view: ViewConfig, beam: int = 5,
              both: bool = True, device: torch.device | str = "cpu", area: float = 6_000.0, most: int = 64,
              longest: int = 120) -> list[list[Hypothesis]]:
    """Hypotheses of the expressions `indices` of a pack, in their order; `area` in square typical symbols a batch."""
    indices, still = np.asarray(indices), view.still()
    found: list[list[Hypothesis]] = [[] for _ in indices]
    for group in batches_by_area(pack.sizes[indices] + 0.4, area, most):
        ink = collate([from_pack(pack, int(i)) for i in indices[group]]).ink.to(device)
        seen = make_view(ink, still, torch.Generator().manual_seed(0))
        memory = model.encode(seen.picture, seen.valid).memory
        for place, hypotheses in zip(group, beam_search(model, memory, vocabulary, beam, longest, both), strict=True):
            found[place] = hypotheses
    return found


def best_tokens(found: Sequence[Sequence[Hypothesis]], vocabulary: Vocabulary) -> list[list[str]]:
    """The best hypothesis of each picture as tokens; an empty list where there is none."""
    return [vocabulary.decode(h[0].tokens) if h else [] for h in found]
