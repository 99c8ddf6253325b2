"""Batches filled by area, and the feed that draws them.

Expressions of like size share a batch, and a batch holds as many as fit its pixels, so one long
formula does not make the others pay for blank paper. The order depends on (seed, epoch) alone, a
sample on (seed, epoch, position) alone, so a resumed run sees what the uninterrupted one would.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from mmlib.data.augment import Augmenter
from mmlib.data.errors import DataError
from mmlib.data.sample import Batch, Sample, collate
from mmlib.data.workers import end_with_parent


def batches_by_area(sizes: np.ndarray, area: float, most: int,
                    rng: np.random.Generator | None = None,
                    jitter: float = 0.08) -> list[np.ndarray]:
    """Group expressions of like height and width into batches: arrays of indices.

    Args:
        sizes: (E, 2) width and height of each expression, in any unit.
        area: what a batch's padded rectangles may sum to, in that unit squared; an expression that
            is larger is alone.
        most: expressions per batch at most.
        rng: None keeps the sorted order (evaluation). Else sizes are jittered by the relative
            `jitter` before sorting, so that companions change from epoch to epoch, and the batches
            are shuffled.
    """
    noise = rng.normal(0, jitter, sizes.shape) if rng is not None else 0
    noisy = np.log(np.maximum(sizes, 1e-3)) + noise
    # Heights within a factor of 1.4 share a band; within it, widths are sorted.
    band = np.floor(noisy[:, 1] / 0.35)
    groups: list[list[int]] = [[]]
    wide = high = 0.0
    for i in np.lexsort((noisy[:, 0], band)):
        w, h = max(wide, sizes[i, 0]), max(high, sizes[i, 1])
        last = groups[-1]
        full = w * h * (len(last) + 1) > area or len(last) >= most
        if last and (full or band[i] != band[last[-1]]):
            groups.append([])
            w, h = sizes[i]
        groups[-1].append(int(i))
        wide, high = w, h
    found = [np.array(g) for g in groups if g]
    if rng is not None:
        rng.shuffle(found)
    return found


CHUNK = 250  # samples that a worker draws at a time
Job = tuple[int, int, int, int]  # epoch, source, position, expression
_served: list[Feed] = []  # in a worker of a feed, that feed


@dataclass(eq=False)
class Feed:
    """Endless training batches: each epoch draws every sample anew, then fills batches by area."""

    # (augmenter, expressions per epoch). None takes all of the source's expressions, a smaller
    # number a new random part each epoch, a larger one goes round.
    sources: Sequence[tuple[Augmenter, int | None]]
    area: float  # of a batch, in square typical symbols; see `batches_by_area`
    most: int  # expressions per batch
    seed: int  # of all draws
    longest: int = 150  # tokens of a sample at most; longer ones are left out
    # Each sample's size is drawn from exp(±scale) before batches are filled, so that a batch holds
    # samples of like size on the canvas: padding would else take a third of it.
    scale: float = 0.0
    # (rank, processes). Of each `processes` batches, this process takes the one of its rank, and
    # all count the expressions of all, so that schedules agree. What is too little for all at an
    # epoch's end is left out.
    share: tuple[int, int] = (0, 1)
    workers: int = 0  # processes that draw the same samples an epoch ahead, for a fast device

    def _jobs(self, epoch: int) -> Iterator[Job]:
        for number, (augmenter, count) in enumerate(self.sources):
            rng = np.random.default_rng([self.seed, epoch, number, 11])
            indices = augmenter.indices
            if count is not None:
                rounds = -(-count // len(indices))
                indices = np.concatenate([rng.permutation(indices) for _ in range(rounds)])[:count]
            for position, i in enumerate(indices.tolist()):
                yield epoch, number, position, i

    def _draw(self, job: Job) -> Sample:
        epoch, number, position, i = job
        augmenter = self.sources[number][0]
        # The position, not the index alone, seeds a sample: a source may go round more than once.
        rng = np.random.default_rng([self.seed, epoch, number, position])
        return replace(augmenter.draw(i, rng), id=augmenter.pack.ids[i])

    def epoch(self, epoch: int, pool: Executor | None = None) -> list[list[Sample]]:
        """The batches of one epoch, drawn here or by the processes of a pool."""
        jobs = self._jobs(epoch)
        drawn = pool.map(_draw_in_worker, jobs, chunksize=CHUNK) if pool else map(self._draw, jobs)
        samples = [s for s in drawn if len(s.tokens) <= self.longest]
        # Drawn here and not by the view, so that sizes are known before batches are filled.
        if self.scale:
            rng = np.random.default_rng([self.seed, epoch, 19])
            factors = np.exp(rng.uniform(-self.scale, self.scale, len(samples)))
            samples = [replace(s, points=s.points * np.float32(factor))
                       for s, factor in zip(samples, factors)]
        sizes = np.array([np.ptp(s.points, axis=0) + 0.4 for s in samples])
        rng = np.random.default_rng([self.seed, epoch, 13])
        order = batches_by_area(sizes, self.area, self.most, rng)
        return [[samples[i] for i in group] for group in order]

    def __call__(self, start: int = 0) -> Generator[tuple[int, Batch]]:
        """(expressions of all processes, this one's batch) from step `start` on."""
        rank, processes = self.share
        done = 0
        for order in self._epochs():
            whole = len(order) - processes + 1
            steps = [order[i : i + processes] for i in range(0, whole, processes)]
            if not steps:
                raise DataError(f"{len(order)} batches per epoch are too few for {processes} "
                                "processes; make them smaller")
            for samples in steps[max(0, start - done) :]:
                yield sum(map(len, samples)), collate(samples[rank])
            done += len(steps)

    def _epochs(self) -> Iterator[list[list[Sample]]]:
        """The epochs in order; with workers, each is drawn while the one before it is used."""
        if not self.workers:
            yield from map(self.epoch, itertools.count())
            return
        # Spawned, because a fork would copy the device's and the other threads' state.
        context = multiprocessing.get_context("spawn")
        processes = ProcessPoolExecutor(self.workers, context, _start_worker, (self,))
        with processes as pool, ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self.epoch, 0, pool)
            try:
                for number in itertools.count(1):
                    order, coming = coming.result(), thread.submit(self.epoch, number, pool)
                    yield order
            finally:
                pool.shutdown(cancel_futures=True)


def _start_worker(feed: Feed) -> None:
    """In a worker: keep the feed whose samples it will be asked for."""
    end_with_parent()
    _served.append(feed)


def _draw_in_worker(job: Job) -> Sample:
    return _served[0]._draw(job)
