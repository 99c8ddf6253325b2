"""Reading: greedy and beam search with a key/value cache, both directions in one tensor.

Every hypothesis is scored by both directions, whichever search found it.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.decoder import Cache, Memory
from mmlib.models.legal import Legal
from mmlib.models.recogniser import Recogniser
from mmlib.store.machine import one_thread

FEW = 8  # rows: products of so few are too small to share; threads would wait for one another
SINGLE = 32  # rows: for so few, a CPU converts to bfloat16 and back longer than it then saves
SCORED = {"cpu": 500, "cuda": 100_000}  # tokens in one scoring pass: on a CPU, few are quicker
MARGIN = 2.0  # nats: how far below the best finished hypothesis an unfinished one is kept


@dataclass(frozen=True)
class Hypothesis:
    """tokens: ids in reading order; score: mean log-probability per token, over all directions."""

    tokens: tuple[int, ...]
    score: float


def both_directions(values: Tensor, length: Tensor) -> Tensor:
    """values (b, t) as they are, and their first `length` (b, 1) reversed: (b, 2, t)."""
    column = torch.arange(values.shape[1], device=values.device).expand_as(values)
    mirrored = torch.where(column < length, length - 1 - column, column)
    return torch.stack([values, values.gather(1, mirrored)], 1)


def prefixes(tokens: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Inputs and targets for both directions from padded token ids (b, t): each (b, 2, t + 1).

    l2r reads <sos> x and writes x <eos>; r2l reads <eos> and x reversed, and writes x reversed and
    <sos>. Both are padded.
    """
    b = len(tokens)
    length = (tokens != vocabulary.pad).sum(1, keepdim=True)
    both = both_directions(tokens, length)
    start = tokens.new_tensor([vocabulary.sos, vocabulary.eos])
    inputs = torch.cat([start.view(1, 2, 1).expand(b, 2, 1), both], 2)
    targets = torch.cat([both, both.new_full((b, 2, 1), vocabulary.pad)], 2)
    end = start.flip(0).view(1, 2, 1).expand(b, 2, 1)
    targets.scatter_(2, length.view(b, 1, 1).expand(b, 2, 1), end)
    return inputs, targets


@contextlib.contextmanager
def few_rows(rows: int, memory: Memory) -> Iterator[Memory]:
    """The memory for steps of so many rows; for few on a CPU in float32, and on one thread."""
    cpu = memory.features.device.type == "cpu"
    with one_thread(cpu and rows <= FEW), contextlib.ExitStack() as exact:
        if cpu and rows <= SINGLE:
            exact.enter_context(torch.autocast("cpu", enabled=False))
            memory = memory.float()
        yield memory


Found = list[dict[tuple[int, ...], list[float]]]  # a picture's texts, with a sum per direction


@torch.inference_mode()
def beam_search(model: Recogniser, memory: Memory | Sequence[Memory], vocabulary: Vocabulary,
                beam: int = 5, longest: int = 120, both: bool = True,
                best: bool = False) -> list[list[Hypothesis]]:
    """Read the b pictures of a memory.

    Args:
        model: in eval mode.
        memory: of `Recogniser.encode`; or several of the same pictures, drawn at other sizes, say:
            each is searched, and the best `beam` hypotheses of each are scored by all.
        beam: hypotheses kept for each picture and direction; 1 is greedy.
        longest: tokens at most.
        both: search in both directions and score every hypothesis by both; else l2r alone.
        best: only the best hypothesis counts; of one memory, those that cannot be it are left out.

    Returns for each picture its hypotheses, best first, without repeats. Raises ValueError for a
    beam below 1.
    """
    if beam < 1:
        raise ValueError(f"a beam holds one hypothesis or more, got {beam}")
    memories = [memory] if isinstance(memory, Memory) else list(memory)
    directions = 2 if both else 1
    founds = [_search(model, each, vocabulary, beam, longest, directions) for each in memories]
    if best and len(memories) == 1:
        _leave_hopeless(model, memories[0], vocabulary, founds[0])
    for each, found in zip(memories, founds, strict=True):
        _score(model, each, vocabulary, found)
    if len(memories) > 1:
        # The best of each are scored by all; sorted, since a set's order is any.
        kept = [sorted({h.tokens for sums in texts for h in _ranked(sums)[:beam]})
                for texts in zip(*founds, strict=True)]
        founds = [[{text: sums.get(text, [math.nan] * directions) for text in texts}
                   for texts, sums in zip(kept, found, strict=True)] for found in founds]
        for each, found in zip(memories, founds, strict=True):
            _score(model, each, vocabulary, found)
    return [_ranked({text: [total for sums in texts for total in sums[text]] for text in texts[0]})
            for texts in zip(*founds, strict=True)]


def _ranked(sums: Mapping[tuple[int, ...], Sequence[float]]) -> list[Hypothesis]:
    """Texts with their sums of log-probabilities, as hypotheses, best first."""
    # The end counts as a token: else an empty text would have no score.
    found = [Hypothesis(text, sum(each) / len(each) / (len(text) + 1))
             for text, each in sums.items()]
    return sorted(found, key=lambda h: -h.score)


class _Beams:
    """The hypotheses of a search: score (pictures, directions, beam), written (..., t).

    `found` collects the finished ones, with the sums of log-probabilities that are known; nan
    stands for the other direction's.
    """

    def __init__(self, b: int, directions: int, beam: int, vocabulary: Vocabulary,
                 device: torch.device):
        self.vocabulary = vocabulary
        marks = torch.tensor([vocabulary.sos, vocabulary.eos], device=device)
        starts, self.ends = marks[:directions], marks.flip(0)[:directions]
        self.legal = Legal(vocabulary, b, directions, beam, device)
        frozen = torch.full((len(vocabulary),), -torch.inf, device=device)
        frozen[vocabulary.pad] = 0  # a finished hypothesis only pads
        self.frozen = frozen
        self.written = starts.view(1, directions, 1, 1).repeat(b, 1, beam, 1)
        self.score = torch.zeros(b, directions, beam, device=device)
        self.score[..., 1:] = -torch.inf
        self.done = torch.zeros(b, directions, beam, dtype=torch.bool, device=device)
        self.active = torch.arange(b, device=device)
        self.found: Found = [{} for _ in range(b)]

    def grow(self, logits: Tensor, room: int) -> Tensor:
        """Write the best tokens that may follow; whose past each row goes on with.

        room: tokens that may still be written before the end.
        """
        v, beam = logits.shape[-1], self.score.shape[-1]
        step = logits.float().log_softmax(-1).view(*self.score.shape, v) + self.legal.bias(room)
        step = torch.where(self.done[..., None], self.frozen, step)
        self.score, flat = (self.score[..., None] + step).flatten(2).topk(beam, -1)
        parent, token = flat // v, flat % v
        self.legal.step(parent, token)
        kept = self.written.gather(2, parent[..., None].expand_as(self.written))
        self.written = torch.cat([kept, token[..., None]], -1)
        self.done = self.done.gather(2, parent) | (token == self.ends.view(1, -1, 1))
        return parent

    def over(self) -> Tensor:
        """(pictures,) bool: whose search is over.

        Sums only fall: a hypothesis far below a finished one will hardly get the better mean.
        """
        best = self.score.masked_fill(~self.done, -torch.inf).amax(-1, keepdim=True)
        return (self.done | (self.score < best - MARGIN)).flatten(1).all(1)

    def leave(self, over: Tensor) -> Tensor:
        """Note down the finished hypotheses of these pictures and drop them; who stays."""
        whole = self.done & self.score.isfinite()
        columns = (self.active, self.written[..., 1:], whole, self.score)
        for picture, written, done, scores in zip(*(x[over].tolist() for x in columns)):
            for direction, rows in enumerate(zip(written, done, scores, strict=True)):
                for ids, ended, total in zip(*rows, strict=True):
                    if ended:
                        text = tuple(t for t in ids if t > self.vocabulary.unk)
                        sums = self.found[picture].setdefault(text[:: -1 if direction else 1],
                                                              [math.nan] * len(self.ends))
                        sums[direction] = total
        stay = torch.nonzero(~over)[:, 0]
        self.legal.select(stay)
        self.active, self.written = self.active[stay], self.written[stay]
        self.score, self.done = self.score[stay], self.done[stay]
        return stay


def _search(model: Recogniser, memory: Memory, vocabulary: Vocabulary, beam: int, longest: int,
            directions: int) -> Found:
    """The hypotheses of both directions' searches, with the sums that these know."""
    device = memory.features.device
    b = len(memory.features)
    beams, cache = _Beams(b, directions, beam, vocabulary, device), Cache(beam)
    with few_rows(b * directions * beam, model.decoder.prepare(memory)) as here:
        for t in range(longest + 1):
            logits, _ = model.decoder(beams.written[..., -1].reshape(-1, 1), here, cache)
            parent, groups = beams.grow(logits[:, -1], longest - t), None
            over = beams.over()
            if 4 * int(over.sum()) >= len(over):  # pictures leave a quarter of the batch at a time
                stay = beams.leave(over)
                if not len(stay):
                    break
                parent, here = parent[stay], here.select(stay)
                both = torch.arange(directions, device=device)
                groups = (stay[:, None] * directions + both).flatten()
            cache.select(parent.flatten(0, 1), groups)
    return beams.found


def _leave_hopeless(model: Recogniser, memory: Memory, vocabulary: Vocabulary,
                    found: Found) -> None:
    """Leave out the texts that cannot become a picture's best, whatever they lack.

    A sum that is not known adds at most 0: so what is known bounds a text's mean. That with the
    highest bound is scored first, and all with a bound below its mean are out.
    """
    def bound(item: tuple[tuple[int, ...], list[float]]) -> float:
        return sum(total for total in item[1] if not math.isnan(total)) / (len(item[0]) + 1)

    likely = [dict([max(texts.items(), key=bound)] if texts else []) for texts in found]
    _score(model, memory, vocabulary, likely)  # the lists of sums are those of `found`
    for texts, first in zip(found, likely, strict=True):
        least = max(map(bound, first.items()), default=0.0)
        for text in [text for text, sums in texts.items() if bound((text, sums)) < least]:
            del texts[text]


def _score(model: Recogniser, memory: Memory, vocabulary: Vocabulary, found: Found) -> None:
    """Compute the sums that the searches do not know (nan).

    Pictures with texts of like lengths go together, as many as keep a pass small.
    """
    device = memory.features.device
    asked = [[(text, d) for text, sums in texts.items() for d, total in enumerate(sums)
              if math.isnan(total)] for texts in found]
    longest = [max((len(text) for text, _ in jobs), default=0) for jobs in asked]
    waiting = sorted((picture for picture, jobs in enumerate(asked) if jobs),
                     key=longest.__getitem__)
    room = SCORED.get(device.type, SCORED["cuda"])
    while waiting:
        most = max(len(asked[picture]) for picture in waiting)
        size = 1
        while size < len(waiting) and (size + 1) * most * (longest[waiting[size]] + 1) <= room:
            size += 1
        pictures, waiting = waiting[:size], waiting[size:]
        rows = max(len(asked[p]) for p in pictures)
        filled = [job for p in pictures for job in asked[p] + [((), 0)] * (rows - len(asked[p]))]
        texts, which = zip(*filled, strict=True)
        tokens = pad_sequence([torch.tensor(text, dtype=torch.long) for text in texts], True,
                              vocabulary.pad)
        inputs, targets = (x[torch.arange(len(x)), torch.tensor(which)].to(device)
                           for x in prefixes(tokens, vocabulary))
        logits, _ = model.decoder(inputs, memory.select(torch.tensor(pictures, device=device)))
        chosen = logits.float().log_softmax(-1).gather(2, targets[..., None])[..., 0]
        chosen = chosen.masked_fill(targets == vocabulary.pad, 0)
        for picture, totals in zip(pictures, chosen.sum(1).view(size, rows).tolist()):
            for (text, direction), total in zip(asked[picture], totals):
                found[picture][text][direction] = total
