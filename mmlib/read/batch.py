"""Reading many expressions with a recogniser, in batches of like size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib.data.batches import batches_by_area
from mmlib.data.pack import Indices, Pack
from mmlib.data.sample import Sample, collate, from_pack
from mmlib.draw.views import InkBatch, View, ViewConfig, make_view
from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.layers import autocast
from mmlib.models.recogniser import Recogniser
from mmlib.models.search import FEW, Hypothesis, beam_search
from mmlib.store.machine import one_thread, settle_threads

# mask(view, ink, indices, symbol): the picture (b, 1 or 2, H, W) to read of the samples `indices`,
# whose typical symbol measures `symbol` pixels.
Mask = Callable[[View, InkBatch, np.ndarray, float], Tensor]


def read_samples(model: Recogniser, samples: Sequence[Sample], vocabulary: Vocabulary,
                 view: ViewConfig, beam: int = 5, both: bool = True,
                 device: torch.device | str = "cpu", area: float = 6_000.0, most: int = 64,
                 longest: int = 120, sizes: Sequence[float] = (1.0,),
                 mask: Mask | None = None, best: bool = False) -> list[list[Hypothesis]]:
    """Hypotheses of samples (points in typical symbols), in the samples' order, best first.

    Args:
        both: read in both directions with joint scoring; else left to right alone.
        area, most: of a batch, in square typical symbols and samples.
        sizes: relative to the view's own, at which each sample is drawn; the hypotheses of all are
            scored by all.
        mask: gives another picture to read, with masked ink.
        best: only the best hypothesis of each counts, which is quicker.
    """
    extents = np.array([np.ptp(s.points, axis=0) + 0.4 for s in samples]).reshape(-1, 2)
    cpu = torch.device(device).type == "cpu"
    groups = batches_by_area(extents, area, most)
    groups.sort(key=lambda group: -len(group) * extents[group].max(0).prod())  # long ones first
    threads = min(len(groups) or 1, settle_threads(anew=False)) if cpu else 1

    @torch.no_grad()
    def read(group: np.ndarray) -> list[list[Hypothesis]]:
        ink = collate([samples[i] for i in group]).ink.to(device)
        memories = []
        for size in sizes:
            still = view.still(size)
            seen = make_view(ink, still, torch.Generator().manual_seed(0))
            picture = mask(seen, ink, group, still.symbol) if mask else seen.picture
            with autocast(device), one_thread(cpu and len(group) <= FEW):
                memories.append(model.encode(picture, seen.valid).memory)
        with autocast(device):
            return beam_search(model, memories, vocabulary, beam, longest, both, best)

    found: list[list[Hypothesis]] = [[] for _ in samples]
    # Threads that share a batch wait for one another at each product: each reads its own.
    with one_thread(threads > 1), ThreadPoolExecutor(threads) as pool:
        for group, hypotheses in zip(groups, (pool.map if threads > 1 else map)(read, groups)):
            for place, of_one in zip(group, hypotheses, strict=True):
                found[place] = of_one
    return found


def read_pack(model: Recogniser, pack: Pack, indices: Indices, vocabulary: Vocabulary,
              view: ViewConfig, beam: int = 5, **options: Any) -> list[list[Hypothesis]]:
    """`read_samples` of the expressions `indices` of a pack."""
    samples = [from_pack(pack, int(i)) for i in indices]
    return read_samples(model, samples, vocabulary, view, beam, **options)


def best_tokens(found: Sequence[Sequence[Hypothesis]], vocabulary: Vocabulary) -> list[list[str]]:
    """The best hypothesis of each expression as tokens; an empty list where there is none."""
    return [vocabulary.decode(h[0].tokens) if h else [] for h in found]
