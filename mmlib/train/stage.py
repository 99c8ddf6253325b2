"""What the three stages have in common: one training, from its configuration to its weights.

A stage says what is its own (`Stage`): the network, the loss of a batch, the validation numbers.
`train` does the rest: it opens the run, builds, trains, keeps the weights.
"""

import os
import warnings
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mmlib.data.augment import AugmentConfig, Augmenter
from mmlib.data.batches import Feed
from mmlib.data.corpus import Corpus, load_corpus
from mmlib.data.sample import Batch, collate
from mmlib.draw.views import ViewConfig
from mmlib.models.encoder import Encoder
from mmlib.models.layers import native_bfloat16
from mmlib.store.machine import settle_threads
from mmlib.store.run import Run
from mmlib.train.health import EARLY, Gate, failed_gates
from mmlib.train.loop import Loop, LossAndNumbers
from mmlib.train.optimiser import optimizer

VALIDATION_MOST = 32  # expressions of a validation batch


class Stage:
    """One stage's own part of a training.

    Raises what its data and its start raise: DataError, RunError, FileNotFoundError.
    """

    name: ClassVar[str]
    code_version: ClassVar[str]
    gates: ClassVar[tuple[Gate, ...]] = ()  # a run that fails one hands on nothing worth testing
    gauge = ""  # the validation number that says how good a run is; "-" before it: less is better
    network: nn.Module  # what is trained; `train` replaces it by what suits the device

    def __init__(self, config: Any, corpus: Corpus, tools: Accelerator):
        """Settle the configuration; nothing is built yet."""
        self.config = replace(config, view=corpus.view(config.view))
        self.corpus, self.tools, self.gather = corpus, tools, tools.num_processes > 1
        self.start = find_start(getattr(config, "init", "none"))

    def inputs(self) -> dict[str, str]:
        """The identities of all that the run depends on beside its configuration."""
        start = self.start.name if self.start else "none"
        return {"data": self.corpus.identity, "init": start}

    def build(self) -> None:
        """Make the network, on its device, with the weights that it starts from."""
        raise NotImplementedError

    def optimizer(self) -> torch.optim.Optimizer:
        return optimizer([self.network], self.config.optim)

    def feed(self) -> Feed:
        """The training batches: all expressions of the training split as they were written."""
        augmenter = self.augmenter(self.corpus.train)
        area, most = self.config.batch_area, self.config.batch_most
        return Feed([(augmenter, None)], area, most, self.config.seed, **feeding(self.tools))

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        """The loss of a batch on the device, and numbers to log.

        `rng` draws its views; `done` is the share of the budget that is spent.
        """
        raise NotImplementedError

    def after_step(self, done: float) -> None:
        """What follows a step of the optimiser."""

    def prepare_validation(self) -> None:
        """Draw the batches of the validation subset, once."""
        subset = self.corpus.validation_subset(self.config.eval_most)
        feed = Feed([(self.augmenter(subset), None)], self.config.batch_area, VALIDATION_MOST, 0)
        self.held_out = feed.epoch(0)

    def validate(self, done: float) -> dict[str, float]:
        """Numbers of the validation subset."""
        raise NotImplementedError

    def early(self) -> dict[str, float]:
        """Numbers that show what becomes of the start, before the first step and soon after."""
        return {}

    def glance(self, encoder: Encoder) -> dict[str, float]:
        """What the frozen encoder knows of symbols and of places; see `mmlib.measure.probes`."""
        try:
            from mmlib.measure.probes import glance
        except ImportError:  # a machine that has no other package than training needs
            return {}
        subset = self.corpus.validation_subset(self.config.eval_most)
        view = ViewConfig(symbol=self.config.view.symbol)
        fitted = min(3_000, 12 * self.config.eval_most)  # a small subset is read in little time
        return glance(encoder, self.corpus.pack, self.corpus.train, subset, view, fitted)

    @property
    def bare(self) -> Any:
        """The network as it was built, whatever it is wrapped in."""
        return self.tools.unwrap_model(self.network)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that a checkpoint keeps, by name."""
        return {"model": self.network}

    @property
    def result(self) -> Any:
        """The module whose weights the run ends with."""
        return self.bare

    def metadata(self, run: Run, pictures: int, minutes: float) -> dict[str, Any]:
        """What stands beside the configuration in the weights' file."""
        return {}

    def summary(self, last: dict[str, float]) -> dict[str, Any]:
        """Numbers of the run beside the loop's last ones."""
        return {}

    def augmenter(self, indices: np.ndarray) -> Augmenter:
        return Augmenter(self.corpus.pack, indices, AugmentConfig(), self.corpus.vocabulary)


class Pretrain(Stage):
    """Stage 1, whatever its objective. The network's encoder, called `encoder`, goes on."""

    name, code_version = "pretrain", "4"
    gauge = "global_match"
    views: ClassVar[int] = 2  # pictures drawn of each expression

    def measure(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """The objective's own numbers of a held-out batch, without gradient."""
        raise NotImplementedError

    def validate(self, done: float) -> dict[str, float]:
        """The objective's own numbers, a mean over expressions, and what the encoder knows."""
        rows = []
        for number, samples in enumerate(self.held_out):
            batch = collate(samples).to(self.tools.device)
            rows.append(self.measure(batch, torch.Generator().manual_seed(number)))
        weights = [len(samples) for samples in self.held_out]
        means = np.average([list(row.values()) for row in rows], axis=0, weights=weights)
        return dict(zip(rows[0], means, strict=True)) | self.glance(self.bare.encoder)


def train(kind: type[Stage], config: Any, profile: str = "desk", max_minutes: float | None = None,
          max_steps: int | None = None, progress: bool = True, checkpoint_minutes: float = 3.0
          ) -> Run:
    """Train a stage, or load what was trained before with this very configuration.

    Raises Paused at a limit or a signal; the same call goes on.
    """
    tools = accelerator()
    with tools.main_process_first():  # the others find its packs
        stage = kind(config, load_corpus(config.dataset), tools)
    run = Run.open(stage.name, profile, stage.config, stage.inputs(), stage.code_version)
    if run.done:
        return run
    if tools.device.type == "cpu" and tools.num_processes == 1:
        settle_threads()
    with run.lock(tools.is_main_process):
        tools.wait_for_everyone()  # before it is seen whether another command has trained it
        if run.done:
            return run
        torch.manual_seed(stage.config.seed)  # of the first weights
        stage.build()
        stage.prepare_validation()
        feed = stage.feed()
        stage.network, optim = tools.prepare(stage.network, stage.optimizer())
        loop = Loop(run, stage, optim, feed, checkpoint_minutes, progress)
        last = loop.train(max_minutes, max_steps)
        minutes = round(run.minutes, 2)
        metadata = {"config": run.config, **stage.metadata(run, loop.pictures, minutes)}
        run.save_weights(half(stage.result.state_dict()), metadata)
        numbers = {**last, **stage.summary(last)}
        failed = failed_gates(stage.gates, numbers)
        for gate in failed if tools.is_main_process and loop.pictures >= EARLY else ():
            text = f"{run.name} fails a gate, so what follows from it tests nothing: {gate}"
            warnings.warn(text, stacklevel=2)
        run.finish(minutes, **numbers, gates=failed)
        tools.wait_for_everyone()
    return run


def find_start(name: str) -> Run | None:
    """The run whose weights a stage starts from; None for random weights and for a weights file.

    Raises RunError if there is no such run.
    """
    return None if name in ("none", "recogniser") else Run.load(name)


def accelerator() -> Accelerator:
    """bf16 autocast on CUDA and on CPUs that multiply bfloat16 natively; else full precision."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        return Accelerator(mixed_precision="bf16")
    return Accelerator(mixed_precision="bf16" if native_bfloat16() else "no", cpu=True)


def feeding(tools: Accelerator) -> dict[str, Any]:
    """How a `Feed` serves this process: its share of the batches, and workers for a GPU."""
    workers = 0
    if tools.device.type == "cuda":
        workers = min(12, max(1, (os.cpu_count() or 1) // tools.num_processes - 2))
    return {"share": (tools.process_index, tools.num_processes), "workers": workers}


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision, on the CPU: what a finished run keeps.

    Batch norm's running variances may not fit, so they stay as they are.
    """

    def kept(name: str, value: Tensor) -> torch.dtype:
        exact = "running_" in name or not value.is_floating_point()
        return value.dtype if exact else torch.float16

    return {k: v.detach().to("cpu", kept(k, v)).contiguous() for k, v in state.items()}
