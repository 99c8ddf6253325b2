"""Stage 1: the encoder learns from random views of each expression, with no labels.

By default from two views, to tell whole expressions apart (global contrast) and ink points apart (local contrast). The rivals are
other objectives (`mmlib.train.objectives`) on the same encoder, views, data and loop. An expression costs as many pictures as views are
drawn of it: two, and one for the masked autoencoder; so equal budgets in pictures are not equal numbers of expressions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib.data.augment import AugmentConfig, Augmenter
from mmlib.data.batches import Feed
from mmlib.data.corpus import load_corpus
from mmlib.data.sample import Batch, collate
from mmlib.draw.views import ViewConfig
from mmlib.models.encoder import EncoderConfig
from mmlib.models.layers import channels_last
from mmlib.models.recogniser import LARGE, LARGE_SYMBOL, SMALL, TINY
from mmlib.store.run import Run
from mmlib.train.loop import Loop, OptimConfig, accelerator, feeding, half, optimizer
from mmlib.train.objectives import find_objective
from mmlib.train.objectives.contrast import Contrast, common_points, matched  # noqa: F401 (notebook 02 has them from here)

CODE_VERSION = "3"

# Mild warps teach nothing more after some thousand pictures, so views of stages 1 and 2 go further than fine-tuning's:
# crops to parts with common ink, a wide range of scale, elastic strokes, pens from hair to marker.
HARD = ViewConfig(scale=0.35, aspect=0.25, rotate=0.1, slant=0.4, elastic=0.16, wavelength=2.5, stroke_shift=0.06,
                  stroke_scale=0.1, pen=(1.0, 2.6), crop=0.4)


@dataclass(frozen=True)
class Config:
    """Stage 1, every choice."""

    dataset: str = "auto"  # 'crohme', 'synthetic', or 'auto': CROHME where it is found
    seed: int = 0
    pictures: int = 12_000  # expressions seen; two views each, or as many as the objective draws
    batch_area: float = 1_600.0  # square typical symbols a batch and view
    batch_most: int = 64
    balance: float = 0.5  # lambda: 1 is SimCLR, 0 dense contrast
    points: int = 24  # ink points an expression for the local term
    radius: float = 1.0  # cells: points of one expression nearer than this are no negatives of each other
    global_temperature: float = 0.2
    local_temperature: float = 0.1
    eval_pictures: int = 4_000
    eval_most: int = field(default=256, metadata={"neutral": 256})  # validation expressions in a look
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    view: ViewConfig = HARD
    objective: str = field(default="contrast", metadata={"neutral": "contrast"})  # or 'byol', 'mae': see mmlib.train.objectives
    momentum: float = field(default=0.99, metadata={"neutral": 0.99})  # byol: of the target at the start, rising to 1
    positives: str = field(default="ink", metadata={"neutral": "ink"})  # of the local term: ink points, or places of the 'paper'
    negatives: str = field(default="batch", metadata={"neutral": "batch"})  # all; less by 'similarity'; without the same 'labels'
    mask_share: float = field(default=0.5, metadata={"neutral": 0.5})  # mae: share of ink length masked

    @classmethod
    def preset(cls, profile: str, **overrides: Any) -> Config:
        """smoke: seconds; ablate: minutes, for the grid of `mmlib.study.grid`; desk: about 10 minutes on 2 cores; paper: one GPU."""
        return replace(PRESETS[profile], **overrides)


PRESETS = {
    "smoke": Config(dataset="synthetic", pictures=800, eval_pictures=400, optim=OptimConfig(lr=3e-3, warmup=100),
                    encoder=TINY.encoder),
    "ablate": Config(pictures=6_000, eval_pictures=3_000, optim=OptimConfig(warmup=1_000), encoder=SMALL.encoder),
    "desk": Config(),
    "paper": Config(pictures=400_000, batch_area=40_000.0, batch_most=1_024, points=16, eval_pictures=50_000,
                    encoder=LARGE.encoder, view=replace(HARD, symbol=LARGE_SYMBOL)),
}


def run(config: Config, profile: str = "desk", max_minutes: float | None = None, max_steps: int | None = None,
        progress: bool = True) -> Run:
    """Pretrain, or load what was pretrained before with this very configuration. Raises Paused at a limit."""
    tools = accelerator()
    with tools.main_process_first():  # the others find its packs
        corpus = load_corpus(config.dataset)
    config = replace(config, view=corpus.view(config.view))
    this = Run.open("pretrain", profile, config, {"data": corpus.identity}, CODE_VERSION)
    if this.done:
        return this
    with this.lock(tools.is_main_process):
        torch.manual_seed(config.seed)
        objective = find_objective(config.objective)(config, gather=tools.num_processes > 1)
        for module in objective.modules.values():
            channels_last(module, tools.device)
        optim = optimizer([objective.network], config.optim)
        feed = Feed([(Augmenter(corpus.pack, corpus.train, AugmentConfig(), corpus.vocabulary), None)], config.batch_area,
                    config.batch_most, config.seed, **feeding(tools))
        held = Feed([(Augmenter(corpus.pack, corpus.validation_subset(config.eval_most), AugmentConfig(), corpus.vocabulary), None)],
                    config.batch_area, 32, 0).epoch(0)
        objective.network, optim = tools.prepare(objective.network, optim)

        def step(batch: Batch, pictures: int) -> tuple[Tensor, dict[str, Any]]:
            rng = torch.Generator().manual_seed(config.seed * 1_000_003 + pictures)
            return objective.loss(batch.to(tools.device), rng, min(1.0, pictures / config.pictures))

        def evaluate(pictures: int) -> dict[str, float]:
            """The objective's own numbers on the validation split, a mean over expressions."""
            looks = [objective.look(collate(samples).to(tools.device), torch.Generator().manual_seed(number))
                     for number, samples in enumerate(held)]
            means = np.average([list(look.values()) for look in looks], axis=0, weights=[len(samples) for samples in held])
            return dict(zip(looks[0], means, strict=True))

        loop = Loop(this, tools, objective.modules, optim, config.optim, config.pictures, step, feed, evaluate,
                    config.eval_pictures, lambda pictures: objective.after_step(min(1.0, pictures / config.pictures)),
                    objective.trunks, progress=progress)
        last = loop.train(max_minutes, max_steps)
        this.save_weights(half(tools.unwrap_model(objective.network).state_dict()), {"config": this.config})
        this.finish(**last)
        tools.wait_for_everyone()
    return this
