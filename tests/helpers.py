"""What tests of several rooms share and cannot ask for as a fixture."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmlib.formula import wellformed
from mmlib.store.files import results_root
from mmlib.store.run import Run

strokes_of_points = st.lists(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(2)),
               elements=st.floats(-1000, 1000, width=32)),
    min_size=1, max_size=8,
)  # fmt: skip


def find_runs(stage: str | None = None, done: bool = True) -> list[Run]:
    """The runs kept here, by name, of one stage if given; `done=False`: unfinished ones too."""
    paths = sorted((results_root() / "runs").glob("*/config.json"))
    runs = [Run.load(path.parent) for path in paths]
    return [run for run in runs if stage in (None, run.stage) and (run.done or not done)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def complete(tokens, backwards=False):
    """Whether the tokens, in the order in which they are read, are a whole expression."""
    state = wellformed.START
    for token in map(wellformed.kind, tokens):
        if token not in wellformed.allowed(state, backwards):
            return False
        state = wellformed.after(state, token, backwards)
    return wellformed.END in wellformed.allowed(state, backwards)
