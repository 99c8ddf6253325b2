"""The interface of stage 1's objectives."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from mmlib.data.sample import Batch
from mmlib.train.loop import LossAndNumbers


class Objective:
    """One objective. Its network, whose encoder is called `encoder`, is trained and kept.

    Stage 1 replaces the network by the one that is prepared for this machine.
    """

    views: ClassVar[int] = 2  # pictures drawn of each expression: what it costs of the budget
    gauge = "global_match"  # of `validate`: how good it is; "-" before it: less is better
    network: nn.Module

    def __init__(self, config: Any, gather: bool = False):
        """config: stage 1's; gather: losses are means over all processes."""
        self.config, self.gather = config, gather

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that a checkpoint keeps, by name."""
        return {"model": self.network}

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        """The loss of a batch on the device, and numbers to log.

        `rng` draws its views; `done` is the share of the budget that is spent.
        """
        raise NotImplementedError

    def validate(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """Numbers of a held-out batch, without gradient; stage 1 takes their mean."""
        raise NotImplementedError

    def after_step(self, done: float) -> None:
        """What follows a step of the optimiser."""
