"""Batches filled by area: expressions of like width share a batch, and a batch holds as many as fit its pixels, so one long
formula does not make the others pay for blank paper. The order depends on (seed, epoch) alone, a sample on (seed, epoch,
index) alone, so a resumed run sees what the uninterrupted one would have seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mmlib.data import DataError
from mmlib.data.samples import Augmenter, Batch, Sample, collate


def batches_by_area(sizes: np.ndarray, area: float, most: int, rng: np.random.Generator | None = None,
                    jitter: float = 0.08) -> list[np.ndarray]:
    """Group expressions of like height and width into batches.

    Args:
        sizes: (E, 2) width and height of each expression, in any unit.
        area: what a batch's padded rectangles may sum to, in that unit squared.
        most: expressions a batch at most.
        rng: None keeps the sorted order (evaluation); else sizes are jittered by the relative `jitter` before sorting, so that
            companions change from epoch to epoch, and the batches are shuffled.

    Returns:
        a list of index arrays that covers every expression once; an expression larger than `area` is alone.
    """
    noisy = np.log(np.maximum(sizes, 1e-3)) + (rng.normal(0, jitter, sizes.shape) if rng is not None else 0)
    band = np.floor(noisy[:, 1] / 0.35)  # heights within a factor of 1.4 share a band; within it, widths are sorted
    groups: list[list[int]] = [[]]
    wide = high = 0.0
    for i in np.lexsort((noisy[:, 0], band)):
        w, h = max(wide, sizes[i, 0]), max(high, sizes[i, 1])
        last = groups[-1]
        if last and (w * h * (len(last) + 1) > area or len(last) >= most or band[i] != band[last[-1]]):
            groups.append([])
            w, h = sizes[i]
        groups[-1].append(int(i))
        wide, high = w, h
    found = [np.array(g) for g in groups if g]
    if rng is not None:
        rng.shuffle(found)
    return found


class Feed:
    """Endless training batches from an `Augmenter`: each epoch draws every sample anew, then fills batches by area.

    Args:
        sources: (augmenter, expressions an epoch) pairs; None takes all of the source's expressions, a smaller number a
            different random part each epoch, a larger one goes round.
        area: square typical symbols a batch; most: expressions a batch; seed: of order and samples.
        longest: samples with more tokens are left out of training (they stay in every test).
        scale: log half range of each sample's random size. Drawn here rather than by the view, so that a batch holds samples
            that are of like size on the canvas: padding would else take a third of it.
        share: (rank, processes): of each so many batches this process takes the one of its rank, and all count the expressions
            of all, so that schedules agree. The few batches of an epoch's end that are too few for all are left out.
    """

    def __init__(self, sources: list[tuple[Augmenter, int | None]], area: float, most: int, seed: int, longest: int = 150,
                 scale: float = 0.0, share: tuple[int, int] = (0, 1)):
        self.sources, self.area, self.most, self.seed, self.longest = sources, area, most, seed, longest
        self.scale, self.share = scale, share

    def epoch(self, epoch: int) -> list[list[Sample]]:
        """The batches of one epoch."""
        samples: list[Sample] = []
        for number, (augmenter, count) in enumerate(self.sources):
            rng = np.random.default_rng([self.seed, epoch, number, 11])
            indices = augmenter.indices
            if count is not None:
                rounds = -(-count // len(indices))
                indices = np.concatenate([rng.permutation(indices) for _ in range(rounds)])[:count]
            # The position, not the index alone, seeds a sample: a source may go round more than once an epoch.
            samples += [augmenter.draw(int(i), np.random.default_rng([self.seed, epoch, number, position]))
                        for position, i in enumerate(indices)]
        samples = [s for s in samples if len(s.tokens) <= self.longest]
        if self.scale:
            factors = np.exp(np.random.default_rng([self.seed, epoch, 19]).uniform(-self.scale, self.scale, len(samples)))
            samples = [replace(s, points=s.points * np.float32(f)) for s, f in zip(samples, factors)]
        sizes = np.array([np.ptp(s.points, axis=0) + 0.4 for s in samples])
        order = batches_by_area(sizes, self.area, self.most, np.random.default_rng([self.seed, epoch, 13]))
        return [[samples[i] for i in group] for group in order]

    def __call__(self, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """(expressions of all processes, this one's batch) from step `start` on."""
        rank, processes = self.share
        epoch = seen = 0
        while True:
            order = self.epoch(epoch)
            steps = [order[i : i + processes] for i in range(0, len(order) - processes + 1, processes)]
            if not steps:
                raise DataError(f"{len(order)} batches an epoch are too few for {processes} processes; make them smaller")
            for samples in steps[max(0, start - seen):]:
                yield sum(map(len, samples)), collate(samples[rank])
            seen += len(steps)
            epoch += 1
