"""What stage 1 may learn by, a file each: `pretrain.Config.objective` names one of `OBJECTIVES`.

A new one is a file, with an `Objective`, and a line here. Data, views, encoder, optimiser and loop
are stage 1's, the same for all.
"""

from __future__ import annotations

from mmlib.store.files import RunError
from mmlib.train.objectives.base import Objective
from mmlib.train.objectives.byol import ByolObjective
from mmlib.train.objectives.contrast import ContrastObjective
from mmlib.train.objectives.mae import MaeObjective

OBJECTIVES: dict[str, type[Objective]] = {
    "contrast": ContrastObjective,
    "byol": ByolObjective,
    "mae": MaeObjective,
}


def find_objective(name: str) -> type[Objective]:
    """The objective of that name. Raises RunError for an unknown one."""
    if name not in OBJECTIVES:
        raise RunError(f"stage 1 has no objective {name!r}; it has {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
