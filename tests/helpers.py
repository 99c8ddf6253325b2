"""What tests of several rooms share and cannot ask for as a fixture."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

strokes_of_points = st.lists(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(2)),
               elements=st.floats(-1000, 1000, width=32)),
    min_size=1, max_size=8,
)  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
