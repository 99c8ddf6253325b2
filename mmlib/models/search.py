"""Reading: greedy and beam search with a key/value cache, l2r and r2l in one tensor, joint scoring of the two directions."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.decoder import Cache, Memory
from mmlib.models.recogniser import Recogniser

FEW = 8  # rows: the products of a step with no more are too small to be shared by threads, which then wait for one another
SINGLE = 32  # rows: with no more, converting to bfloat16 and back costs a step on a CPU more time than its products save
SCORED = {"cpu": 500, "cuda": 100_000}  # tokens in one pass that computes sums a search does not know: on a CPU, few are quicker
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
def few_rows(rows: int, memory: Memory) -> Iterator[Memory]:
    """What the steps of so many rows look at, with what makes them fast: for few rows on a CPU one thread and float32."""
    threads, cpu = torch.get_num_threads(), memory.features.device.type == "cpu"
    alone = cpu and rows <= FEW and threading.current_thread() is threading.main_thread()  # the number is the whole process's
    if alone:
        torch.set_num_threads(1)
    try:
        if cpu and rows <= SINGLE:
            with torch.autocast("cpu", enabled=False):
                yield memory.float()
        else:
            yield memory
    finally:
        if alone:
            torch.set_num_threads(threads)


Found = list[dict[tuple[int, ...], list[float]]]  # a picture: each text with its sums in the directions, nan where not known


@torch.inference_mode()
def beam_search(model: Recogniser, memory: Memory | Sequence[Memory], vocabulary: Vocabulary, beam: int = 5, longest: int = 120,
                both: bool = True) -> list[list[Hypothesis]]:
    """Read the b pictures of a memory.

    Args:
        model: in eval mode.
        memory: of `Recogniser.encode`; or several of the same pictures, drawn at other sizes, say: each is searched, and every
            one's best `beam` hypotheses are scored by all.
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
    memories, directions = [memory] if isinstance(memory, Memory) else list(memory), 2 if both else 1
    founds = [_search(model, each, vocabulary, beam, longest, directions) for each in memories]
    for each, found in zip(memories, founds, strict=True):
        _score(model, each, vocabulary, found)
    if len(memories) > 1:  # the best of each are asked of all
        pictures = [[_ranked(sums)[:beam] for sums in texts] for texts in zip(*founds, strict=True)]
        asked = [{h.tokens for best in picture for h in best} for picture in pictures]
        founds = [[{text: sums.get(text, [math.nan] * directions) for text in sorted(texts)}
                   for texts, sums in zip(asked, found, strict=True)] for found in founds]
        for each, found in zip(memories, founds, strict=True):
            _score(model, each, vocabulary, found)
    return [_ranked({text: [total for sums in texts for total in sums[text]] for text in texts[0]})
            for texts in zip(*founds, strict=True)]


def _ranked(sums: Mapping[tuple[int, ...], Sequence[float]]) -> list[Hypothesis]:
    """Texts with their sums of log-probabilities, as hypotheses, best first."""
    return sorted((Hypothesis(text, sum(each) / len(each) / (len(text) + 1)) for text, each in sums.items()),
                  key=lambda h: -h.score)


def _search(model: Recogniser, memory: Memory, vocabulary: Vocabulary, beam: int, longest: int, directions: int) -> Found:
    """The hypotheses of both directions' searches, with the sums of log-probabilities that these know."""
    device = memory.features.device
    b, v = len(memory.features), len(vocabulary)
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
    found: Found = [{} for _ in range(b)]
    cache, active = Cache(beam), torch.arange(b, device=device)

    def keep(which: Tensor) -> None:
        """Note down the finished hypotheses of these rows of `active`, with their sums."""
        parts = (active, written[..., 1:], done & score.isfinite(), score)
        for picture, lists, whole, sums in zip(*(x[which].tolist() for x in parts), strict=True):
            for direction, rows in enumerate(lists):
                for ids, ended, total in zip(rows, whole[direction], sums[direction], strict=True):
                    if ended:
                        text = tuple(t for t in ids if t > vocabulary.unk)[:: -1 if direction else 1]
                        found[picture].setdefault(text, [math.nan] * directions)[direction] = total

    with few_rows(b * directions * beam, model.decoder.prepare(memory)) as here:
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
            # Sums only fall: a hypothesis far below a finished one will hardly come to have the better mean; its search is over.
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
    return found


def _score(model: Recogniser, memory: Memory, vocabulary: Vocabulary, found: Found) -> None:
    """Compute the sums that the searches do not know (nan): pictures of like lengths together, as many as keep a pass small."""
    asked = [[(text, d) for text, sums in texts.items() for d, total in enumerate(sums) if math.isnan(total)] for texts in found]
    longest = [max((len(text) for text, _ in jobs), default=0) for jobs in asked]
    waiting = sorted((picture for picture, jobs in enumerate(asked) if jobs), key=lambda picture: longest[picture])
    room = SCORED.get(memory.features.device.type, SCORED["cuda"])
    while waiting:
        most = max(len(asked[picture]) for picture in waiting)
        size = 1
        while size < len(waiting) and (size + 1) * most * (longest[waiting[size]] + 1) <= room:
            size += 1
        pictures, waiting = waiting[:size], waiting[size:]
        tokens = torch.full((len(pictures), max(len(asked[p]) for p in pictures), max(longest[p] for p in pictures) or 1),
                            vocabulary.pad, dtype=torch.long)
        which = torch.zeros(tokens.shape[:2], dtype=torch.long)
        for row, picture in enumerate(pictures):
            for i, (text, direction) in enumerate(asked[picture]):
                tokens[row, i, : len(text)] = torch.tensor(text, dtype=torch.long)
                which[row, i] = direction
        inputs, targets = (x[torch.arange(len(x)), which.flatten()].to(memory.features.device)
                           for x in prefixes(tokens.flatten(0, 1), vocabulary))
        logits, _ = model.decoder(inputs, memory.select(torch.tensor(pictures, device=memory.features.device)))
        chosen = logits.float().log_softmax(-1).gather(2, targets[..., None])[..., 0]
        sums = chosen.masked_fill(targets == vocabulary.pad, 0).sum(1).view(which.shape).tolist()
        for row, picture in enumerate(pictures):
            for (text, direction), total in zip(asked[picture], sums[row]):
                found[picture][text][direction] = total
