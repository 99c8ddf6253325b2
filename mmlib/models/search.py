"""Reading: greedy and beam search with a key/value cache, l2r and r2l in one tensor, joint scoring of the two directions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mmlib.latex import Vocabulary
from mmlib.models.decoder import Cache, Memory
from mmlib.models.recogniser import Recogniser

FEW = 8  # rows: the products of a step with fewer are too small to be shared by threads, which then wait for one another
MARGIN = 2.0  # nats: how far an unfinished hypothesis may lie below the best finished one and still be followed


@dataclass(frozen=True)
class Hypothesis:
    """tokens as ids in reading order; score: mean log-probability a token, both directions where both were asked."""

    tokens: tuple[int, ...]
    score: float


def both_directions(values: Tensor, length: Tensor) -> Tensor:
    """(b, t) values of tokens, of which the first `length` (b, 1) count, to (b, 2, t): as they are, and these reversed."""
    column = torch.arange(values.shape[1], device=values.device).expand_as(values)
    return torch.stack([values, values.gather(1, torch.where(column < length, length - 1 - column, column))], 1)


def prefixes(tokens: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Inputs and targets for both directions from padded token ids (b, t).

    Returns inputs (b, 2, t + 1) and targets (b, 2, t + 1), padded: l2r reads <sos> x and writes x <eos>; r2l reads <eos> and x
    reversed, and writes x reversed and <sos>.
    """
    b = len(tokens)
    length = (tokens != vocabulary.pad).sum(1, keepdim=True)
    both = both_directions(tokens, length)
    start = tokens.new_tensor([vocabulary.sos, vocabulary.eos])
    inputs = torch.cat([start.view(1, 2, 1).expand(b, 2, 1), both], 2)
    targets = torch.cat([both, both.new_full((b, 2, 1), vocabulary.pad)], 2)
    targets.scatter_(2, length.view(b, 1, 1).expand(b, 2, 1), start.flip(0).view(1, 2, 1).expand(b, 2, 1))
    return inputs, targets


@contextmanager
def threads_for(rows: int, device: torch.device) -> Iterator[None]:
    """One thread for the steps of few rows on a CPU, all of torch's else."""
    threads = torch.get_num_threads()
    if device.type == "cpu" and rows <= FEW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def beam_search(model: Recogniser, memory: Memory, vocabulary: Vocabulary, beam: int = 5, longest: int = 120,
                both: bool = True) -> list[list[Hypothesis]]:
    """Read the b pictures of a memory.

    Args:
        model: in eval mode.
        memory: of `Recogniser.encode`.
        beam: hypotheses kept for each picture and direction; 1 is greedy.
        longest: tokens at most.
        both: search in both directions and score every hypothesis by both; else l2r alone.

    Returns:
        for each picture its hypotheses, best first, without repeats.

    Raises:
        ValueError: a beam of none.
    """
    if beam < 1:
        raise ValueError(f"a beam holds one hypothesis or more, got {beam}")
    device = memory.features.device
    b, directions, v = len(memory.features), 2 if both else 1, len(vocabulary)
    starts = torch.tensor([vocabulary.sos, vocabulary.eos], device=device)[:directions]
    ends = torch.tensor([vocabulary.eos, vocabulary.sos], device=device)[:directions]
    written = starts.view(1, directions, 1, 1).repeat(b, 1, beam, 1)  # (b, directions, beam, t)
    score = torch.zeros(b, directions, beam, device=device)
    score[..., 1:] = -torch.inf
    done = torch.zeros(b, directions, beam, dtype=torch.bool, device=device)
    forbidden = torch.zeros(directions, v, device=device)
    forbidden[:, [vocabulary.pad, vocabulary.unk]] = -torch.inf
    forbidden[torch.arange(directions), starts] = -torch.inf
    frozen = torch.full((v,), -torch.inf, device=device)
    frozen[vocabulary.pad] = 0  # a finished hypothesis only pads
    found: list[dict[tuple[int, ...], list[float]]] = [{} for _ in range(b)]  # of each text, its sums in both directions
    cache, here, active = Cache(beam), model.decoder.prepare(memory), torch.arange(b, device=device)

    def keep(which: Tensor) -> None:
        """Note down the finished hypotheses of these rows of `active`, with their sums."""
        parts = (active, written[..., 1:], done & score.isfinite(), score)
        for picture, lists, whole, sums in zip(*(x[which].tolist() for x in parts), strict=True):
            for direction, rows in enumerate(lists):
                for ids, ended, total in zip(rows, whole[direction], sums[direction], strict=True):
                    if ended:
                        text = tuple(t for t in ids if t > vocabulary.unk)[:: -1 if direction else 1]
                        found[picture].setdefault(text, [math.nan] * directions)[direction] = total

    with threads_for(b * directions * beam, device):
        for t in range(longest + 1):
            if t == longest:  # what has not ended ends now
                forbidden = torch.full_like(forbidden, -torch.inf).scatter(1, ends[:, None], 0)
            logits, _ = model.decoder(written[..., -1].reshape(-1, 1), here, cache)
            step = logits[:, -1].float().log_softmax(-1).view(*score.shape, v) + forbidden[:, None]
            step = torch.where(done[..., None], frozen, step)
            score, flat = (score[..., None] + step).flatten(2).topk(beam, -1)
            parent, token = flat // v, flat % v
            kept = written.gather(2, parent[..., None].expand(-1, -1, -1, written.shape[-1]))
            written = torch.cat([kept, token[..., None]], -1)
            done = done.gather(2, parent) | (token == ends.view(1, -1, 1))
            # A log-probability only falls, so a hypothesis far below a finished one will not come back: its search is over.
            lost = score < score.masked_fill(~done, -torch.inf).amax(-1, keepdim=True) - MARGIN
            over = (done | lost).flatten(1).all(1)
            groups = None
            if 4 * int(over.sum()) >= len(active):  # finished pictures leave the batch, a quarter of it at a time
                keep(over)
                rest = torch.nonzero(~over)[:, 0]
                if not len(rest):
                    break
                written, score, done, parent, active = written[rest], score[rest], done[rest], parent[rest], active[rest]
                here, groups = here.select(rest), (rest[:, None] * directions + torch.arange(directions, device=device)).flatten()
            cache.select(parent.flatten(0, 1), groups)
    return _scored(model, memory, vocabulary, found, directions)


def _scored(model: Recogniser, memory: Memory, vocabulary: Vocabulary, found: list[dict[tuple[int, ...], list[float]]],
            directions: int) -> list[list[Hypothesis]]:
    """Score every hypothesis by the mean log-probability of its tokens over the directions; a sum that the search of that
    direction does not know (nan) is computed, all in one pass."""
    asked = [[(text, d) for text, sums in texts.items() for d in range(directions) if math.isnan(sums[d])] for texts in found]
    most = max(map(len, asked))
    if most:
        longest = max((len(text) for jobs in asked for text, _ in jobs), default=0)
        tokens = torch.full((len(found), most, max(longest, 1)), vocabulary.pad, dtype=torch.long)
        which = torch.zeros(len(found), most, dtype=torch.long)
        for picture, jobs in enumerate(asked):
            for i, (text, direction) in enumerate(jobs):
                tokens[picture, i, : len(text)] = torch.tensor(text, dtype=torch.long)
                which[picture, i] = direction
        inputs, targets = (x[torch.arange(len(x)), which.flatten()].to(memory.features.device)
                           for x in prefixes(tokens.flatten(0, 1), vocabulary))
        logits, _ = model.decoder(inputs, memory)
        chosen = logits.float().log_softmax(-1).gather(2, targets[..., None])[..., 0]
        sums = chosen.masked_fill(targets == vocabulary.pad, 0).sum(1).view(len(found), most).tolist()
        for picture, jobs in enumerate(asked):
            for (text, direction), total in zip(jobs, sums[picture]):
                found[picture][text][direction] = total
    return [sorted((Hypothesis(text, sum(sums) / directions / (len(text) + 1)) for text, sums in texts.items()),
                   key=lambda h: -h.score) for texts in found]
