"""What the hypotheses of a search may write next, so that every reading is an expression."""

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
        self.directions, self.beam, self.device = directions, beam, device
        self.states = [START] * (b * directions * beam)
        # A row of the table for each set of kinds and direction that has come up.
        self.numbers: dict[tuple[frozenset[int], int], int] = {}
        self.table = torch.empty(0, len(self.kinds), device=device)

    def _direction(self, place: int) -> int:
        return place // self.beam % self.directions

    def bias(self, room: int) -> Tensor:
        """0 for tokens that may follow and -inf for others, (b, directions, beam, v).

        room: tokens that may still be written before the end.
        """
        rows = [self._row(_kinds(state, d == 1, room), d)
                for state, d in zip(self.states, map(self._direction, range(len(self.states))))]
        bias = self.table[torch.tensor(rows, device=self.device)]
        return bias.view(-1, self.directions, self.beam, len(self.kinds))

    def _row(self, kinds: frozenset[int], direction: int) -> int:
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
        moves = zip(parent.flatten().tolist(), token.flatten().tolist())
        self.states = [self._after(self.states[i - i % self.beam + p], t, self._direction(i))
                       for i, (p, t) in enumerate(moves)]

    def _after(self, state: State, token: int, direction: int) -> State:
        which = END if token == self.ends[direction] else self.kinds[token]
        legal = which in allowed(state, direction == 1) and token not in self.never
        return after(state, which, direction == 1) if legal else state

    def select(self, rows: Tensor) -> None:
        """Keep these pictures alone."""
        size = self.directions * self.beam
        self.states = [s for i in rows.tolist() for s in self.states[i * size : (i + 1) * size]]
