"""Old names of what is now in files, machine, weights and run; goes when the last import has moved."""

from __future__ import annotations

import os  # noqa: F401
from typing import Any

from mmlib.store.files import *  # noqa: F403
from mmlib.store.files import RunError, elsewhere, from_json, write_failure  # noqa: F401
from mmlib.store.machine import commit, hardware, utc, versions  # noqa: F401
from mmlib.store.run import Run, find_runs, run_hash  # noqa: F401
from mmlib.store.weights import flatten, load_weights, save_weights, unflatten  # noqa: F401


def fields_of(values: Any) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def sizes_of(run: Run) -> tuple[float, ...]:
    return tuple(run.config.get("sizes", (1.0,)))


def views_of(stage: str, config: Any = None) -> int:
    from mmlib.train.cost import views_of

    return views_of(stage, config)


def training_cost(run: Run) -> tuple[int, float]:
    from mmlib.train.cost import training_cost

    return training_cost(run)


def earlier_cost(run: Run) -> tuple[int, float]:
    from mmlib.train.cost import earlier_cost

    return earlier_cost(run)
