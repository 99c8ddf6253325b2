"""The interface of stage 1's objectives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmlib.data.sample import Batch


class Objective:
    """One objective. Its network, whose encoder is called `encoder`, is trained and kept; stage 1 replaces it by the one that is
    prepared for this machine. What an expression costs is counted in pictures, as the budget is: `views`."""

    views = 2  # pictures drawn of each expression
    trunks = True  # False where a step depends on the budget, so that runs of different budgets share no steps
    network: nn.Module

    def __init__(self, config: Any, gather: bool = False):
        """config: stage 1's; gather: losses are means over all processes."""
        self.config, self.gather = config, gather

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that a checkpoint keeps, by name."""
        return {"model": self.network}

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> tuple[Tensor, dict[str, Any]]:
        """The loss of a batch on the device, and numbers to log. `rng` draws its views, `done` is the budget's share spent."""
        raise NotImplementedError

    def look(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """Numbers of a held-out batch, without gradient; stage 1 takes their mean over expressions."""
        raise NotImplementedError

    def after_step(self, done: float) -> None:
        """What follows a step of the optimiser."""
