"""What a run cost, in pictures seen and minutes, with all that it started from.

The budget counts pictures: an expression costs one for each view that a stage draws of it.
"""

from collections.abc import Mapping
from typing import Any

from mmlib.store.files import RunError
from mmlib.store.run import Run
from mmlib.train.pretrain import find_objective


def views_of(stage: str, config: Mapping[str, Any] | None = None) -> int:
    """Pictures that a stage draws of each expression; in stage 1 the objective says how many."""
    if stage == "pretrain":
        return find_objective((config or {}).get("objective", "contrast")).views
    return 1 if stage == "finetune" else 2


def training_cost(run: Run) -> tuple[int, float]:
    """Pictures seen and minutes spent by a finished run and all that it started from.

    Raises RunError if what it started from is not kept here.
    """
    pictures, minutes = earlier_cost(run)
    pictures += run.summary["pictures"] * views_of(run.stage, run.config)
    return pictures, minutes + run.environment["minutes"]


def earlier_cost(run: Run) -> tuple[int, float]:
    """Pictures seen and minutes spent by all that a run, finished or not, started from.

    Raises RunError if that is not kept here.
    """
    before = run.inputs.get("init", "none")
    if before == "none":
        return 0, 0.0
    if before.startswith("recogniser-"):  # a weights file, not a run
        if not run.done:
            raise RunError(f"{run.name} is not finished: the cost of the weights that it started "
                           "from is not written down before")
        return run.summary["earlier_pictures"], run.summary["earlier_minutes"]
    return training_cost(Run.load(run.folder.parent / before))
