"""What the hypotheses of a search may write next, so that every reading is an expression."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mmlib.formula.vocabulary import Vocabulary
from mmlib.formula.wellformed import END, START, State, after, allowed, distance, kind


@lru_cache(maxsize=100_000)
def _kinds(state: State, backwards: bool, room: int) -> frozenset[int]:
    """The kinds that may follow if `room` more tokens may be written before the end."""
    kinds = allowed(state, backwards)
    if distance(state, backwards) + 8 < room:  # far from the limit: no kind leads away by more
        return kinds
    return frozenset(k for k in kinds
                     if k == END or distance(after(state, k, backwards), backwards) < room)


class Legal:
    """The state of each hypothesis in the grammar (`mmlib.formula.wellformed`).

    Args:
        vocabulary: whose tokens are written.
        b, directions, beam: numbers of pictures, of directions (l2r, then r2l) and hypotheses.
        device: of the search.
    """

    def __init__(self, vocabulary: Vocabulary, b: int, directions: int, beam: int,
                 device: torch.device):
        self.kinds = [kind(token) for token in vocabulary.tokens]
        self.ends = (vocabulary.eos, vocabulary.sos)
        self.never = (vocabulary.pad, vocabulary.unk, vocabulary.sos, vocabulary.eos)
        self.states = [[[START] * beam for _ in range(directions)] for _ in range(b)]
        self.device = device
        self.numbers: dict[tuple[frozenset[int], int], int] = {}
        self.table = torch.empty(0, len(self.kinds), device=device)

    def bias(self, room: int) -> Tensor:
        """0 for tokens that may follow and -inf for others, (b, directions, beam, v).

        room: tokens that may still be written before the end.
        """
        rows = [[[self._number(_kinds(state, d == 1, room), d) for state in beam]
                 for d, beam in enumerate(picture)] for picture in self.states]
        return self.table[torch.tensor(rows, device=self.device)]

    def _number(self, kinds: frozenset[int], direction: int) -> int:
        """The row of the table for these kinds, made at first use."""
        key = kinds, direction
        if key not in self.numbers:
            row = torch.tensor([0.0 if k in kinds else -torch.inf for k in self.kinds])
            row[list(self.never)] = -torch.inf
            row[self.ends[direction]] = 0.0 if END in kinds else -torch.inf
            self.numbers[key] = len(self.numbers)
            self.table = torch.cat([self.table, row.to(self.device)[None]])
        return self.numbers[key]

    def step(self, parent: Tensor, token: Tensor) -> None:
        """Each hypothesis (b, directions, beam) continues `parent` by `token`.

        One without a chance (score -inf) may be given any token: it keeps its parent's state.
        """
        for picture, parents, tokens in zip(self.states, parent.tolist(), token.tolist(),
                                            strict=True):
            for d, (beam, chosen, written) in enumerate(zip(picture, parents, tokens, strict=True)):
                picture[d] = [self._after(beam[p], t, d) for p, t in zip(chosen, written,
                                                                         strict=True)]

    def _after(self, state: State, token: int, direction: int) -> State:
        which = END if token == self.ends[direction] else self.kinds[token]
        legal = which in allowed(state, direction == 1) and token not in self.never
        return after(state, which, direction == 1) if legal else state

    def select(self, rows: Tensor) -> None:
        """Keep these pictures alone."""
        self.states = [self.states[i] for i in rows.tolist()]
