"""Batches filled by area: expressions of like width share a batch, and a batch holds as many as fit its pixels, so one long
formula does not make the others pay for blank paper. The order depends on (seed, epoch) alone, a sample on (seed, epoch,
index) alone, so a resumed run sees what the uninterrupted one would have seen."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from mmlib.data import DataError, leave_with_parent
from mmlib.data.augment import Augmenter, Batch, Sample, collate


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


CHUNK = 250  # samples that are drawn at one go
_served: list[Feed] = []  # in a worker of a feed, that feed


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
        workers: processes that draw samples, an epoch ahead, so that a fast device does not wait; what is drawn is the same.
    """

    def __init__(self, sources: Sequence[tuple[Augmenter, int | None]], area: float, most: int, seed: int, longest: int = 150,
                 scale: float = 0.0, share: tuple[int, int] = (0, 1), workers: int = 0):
        self.sources, self.area, self.most, self.seed, self.longest = sources, area, most, seed, longest
        self.scale, self.share, self.workers = scale, share, workers

    def _jobs(self, epoch: int) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """(epoch, source, first position, expressions): what is drawn at one go."""
        for number, (augmenter, count) in enumerate(self.sources):
            rng = np.random.default_rng([self.seed, epoch, number, 11])
            indices = augmenter.indices
            if count is not None:
                rounds = -(-count // len(indices))
                indices = np.concatenate([rng.permutation(indices) for _ in range(rounds)])[:count]
            for first in range(0, len(indices), CHUNK):
                yield epoch, number, first, indices[first : first + CHUNK]

    def _draw(self, job: tuple[int, int, int, np.ndarray]) -> list[Sample]:
        epoch, number, first, indices = job
        # The position, not the index alone, seeds a sample: a source may go round more than once an epoch.
        augmenter = self.sources[number][0]
        return [replace(augmenter.draw(int(i), np.random.default_rng([self.seed, epoch, number, first + k])),
                        id=augmenter.pack.ids[i]) for k, i in enumerate(indices)]

    def epoch(self, epoch: int, pool: Executor | None = None) -> list[list[Sample]]:
        """The batches of one epoch, drawn here or by the processes of a pool."""
        parts = pool.map(_draw_there, self._jobs(epoch)) if pool else map(self._draw, self._jobs(epoch))
        samples = [s for part in parts for s in part if len(s.tokens) <= self.longest]
        if self.scale:
            factors = np.exp(np.random.default_rng([self.seed, epoch, 19]).uniform(-self.scale, self.scale, len(samples)))
            samples = [replace(s, points=s.points * np.float32(f)) for s, f in zip(samples, factors)]
        sizes = np.array([np.ptp(s.points, axis=0) + 0.4 for s in samples])
        order = batches_by_area(sizes, self.area, self.most, np.random.default_rng([self.seed, epoch, 13]))
        return [[samples[i] for i in group] for group in order]

    def __call__(self, start: int = 0) -> Generator[tuple[int, Batch]]:
        """(expressions of all processes, this one's batch) from step `start` on."""
        rank, processes = self.share
        seen = 0
        for order in self._epochs():
            steps = [order[i : i + processes] for i in range(0, len(order) - processes + 1, processes)]
            if not steps:
                raise DataError(f"{len(order)} batches an epoch are too few for {processes} processes; make them smaller")
            for samples in steps[max(0, start - seen):]:
                yield sum(map(len, samples)), collate(samples[rank])
            seen += len(steps)

    def _epochs(self) -> Iterator[list[list[Sample]]]:
        """The epochs in order; with workers, each is drawn while the one before it is used."""
        if not self.workers:
            yield from map(self.epoch, itertools.count())
            return
        processes = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), _serve, (self,))
        with processes as pool, ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self.epoch, 0, pool)
            try:
                for number in itertools.count(1):
                    order, coming = coming.result(), thread.submit(self.epoch, number, pool)
                    yield order
            finally:
                pool.shutdown(cancel_futures=True)


def _serve(feed: Feed) -> None:
    """In a worker: keep the feed whose samples it will be asked for."""
    leave_with_parent()
    _served.append(feed)


def _draw_there(job: tuple[int, int, int, np.ndarray]) -> list[Sample]:
    return _served[0]._draw(job)

