"""Stage 1: two random views of each expression; the encoder learns to tell whole expressions apart (global contrast) and ink
points apart (local contrast), with no labels. The ink gives the local correspondences exactly, under any warp."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmlib.data.batches import Feed
from mmlib.data.corpus import load_corpus
from mmlib.data.samples import AugmentConfig, Augmenter, Batch, collate
from mmlib.losses import ContrastLoss
from mmlib.models.encoder import Encoder, EncoderConfig
from mmlib.models.heads import pool, projection
from mmlib.models.recogniser import LARGE, LARGE_SYMBOL, TINY
from mmlib.runs import Run
from mmlib.stages.loop import Loop, OptimConfig, accelerator, feeding, half, optimizer
from mmlib.views import InkBatch, View, ViewConfig, ink_cells, make_view, sample

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
    pictures: int = 12_000  # expressions seen, two views each
    batch_area: float = 1_600.0  # square typical symbols a batch and view
    batch_most: int = 64
    balance: float = 0.5  # lambda: 1 is SimCLR, 0 dense contrast
    points: int = 24  # ink points an expression for the local term
    radius: float = 1.0  # cells: points of one expression nearer than this are no negatives of each other
    global_temperature: float = 0.2
    local_temperature: float = 0.1
    eval_pictures: int = 4_000
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    view: ViewConfig = HARD

    @classmethod
    def preset(cls, profile: str, **overrides: Any) -> Config:
        """smoke: seconds; desk: about 10 minutes on 2 cores; paper: one GPU."""
        return replace(PRESETS[profile], **overrides)


PRESETS = {
    "smoke": Config(dataset="synthetic", pictures=800, eval_pictures=400, optim=OptimConfig(lr=3e-3, warmup=100),
                    encoder=TINY.encoder),
    "desk": Config(),
    "paper": Config(pictures=400_000, batch_area=40_000.0, batch_most=1_024, points=16, eval_pictures=50_000,
                    encoder=LARGE.encoder, view=replace(HARD, symbol=LARGE_SYMBOL)),
}


class Contrast(nn.Module):
    """The encoder with the two projection heads of stage 1."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.global_head, self.local_head = projection(config.d), projection(config.d)

    def forward(self, picture: Tensor, valid: Tensor, ink: Tensor, points: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """picture (b, 1, H, W), valid and ink (b, 1, h, w), points (n, 2) in cells; z (b, 128) and u (n, 128)."""
        features = self.encoder(picture, valid)
        return self.global_head(pool(features, ink)), self.local_head(sample(features, points, owner))


def common_points(first: View, second: View, ink: InkBatch, each: int, rng: torch.Generator) -> Tensor:
    """Indices of at most `each` ink points an expression that both views show, ascending."""
    shown = first.kept & second.kept
    chance = torch.rand(len(shown), generator=rng).to(shown.device).masked_fill(~shown, 2.0)
    order = torch.argsort(ink.owner + chance / 4)  # by expression, then by chance; those not shown last (1/4 < 1/2 < 1)
    start = torch.searchsorted(ink.owner, torch.arange(ink.b, device=shown.device))
    rank = torch.arange(len(shown), device=shown.device) - start[ink.owner]
    chosen = order[rank < each]
    return chosen[shown[chosen]].sort().values


def matched(a: Tensor, b: Tensor) -> float:
    """Share of rows of a (n, d) whose nearest row of b, by cosine, is their own partner: the retrieval of the diagnostics."""
    a, b = nn.functional.normalize(a.float(), dim=1), nn.functional.normalize(b.float(), dim=1)
    return float(((a @ b.T).argmax(1) == torch.arange(len(a), device=a.device)).float().mean())


def run(config: Config, profile: str = "desk", max_minutes: float | None = None, max_steps: int | None = None,
        progress: bool = True) -> Run:
    """Pretrain, or load what was pretrained before with this very configuration. Raises Paused at a limit."""
    tools = accelerator()
    with tools.main_process_first():  # the others find its packs
        corpus = load_corpus(config.dataset)
    this = Run.open("pretrain", profile, config, {"data": corpus.identity}, CODE_VERSION)
    if this.done:
        return this
    with this.lock(tools.is_main_process):
        torch.manual_seed(config.seed)
        model = Contrast(config.encoder).to(memory_format=torch.channels_last)
        optim = optimizer([model], config.optim)
        loss_fn = ContrastLoss(config.balance, config.global_temperature, config.local_temperature, config.radius,
                               gather=tools.num_processes > 1)
        feed = Feed([(Augmenter(corpus.pack, corpus.train, AugmentConfig(), corpus.vocabulary), None)], config.batch_area,
                    config.batch_most, config.seed, **feeding(tools))
        held = Feed([(Augmenter(corpus.pack, corpus.look(256), AugmentConfig(), corpus.vocabulary), None)],
                    config.batch_area, 32, 0).epoch(0)
        model, optim = tools.prepare(model, optim)

        def embed(batch: Batch, rng: torch.Generator) -> tuple[Tensor, ...]:
            batch = batch.to(tools.device)
            views = [make_view(batch.ink, config.view, rng) for _ in range(2)]
            chosen = common_points(*views, batch.ink, config.points, rng)
            owner = batch.ink.owner[chosen]
            (z1, u1), (z2, u2) = (model(v.picture, v.valid, ink_cells(v, batch.ink.b, batch.ink.owner), v.cells[chosen], owner)
                                  for v in views)
            return z1, z2, u1, u2, owner, views[0].cells[chosen], views[1].cells[chosen]

        def step(batch: Batch, pictures: int) -> tuple[Tensor, dict[str, Any]]:
            return loss_fn(*embed(batch, torch.Generator().manual_seed(config.seed * 1_000_003 + pictures)))

        def evaluate(pictures: int) -> dict[str, float]:
            """Retrieval of the other view, on the validation split: whole expressions, and ink points, within batches."""
            rows = []
            for number, samples in enumerate(held):
                z1, z2, u1, u2, *_ = embed(collate(samples), torch.Generator().manual_seed(number))
                rows.append((matched(z1, z2), matched(u1, u2), float(z1.float().std(0, correction=0).mean()), len(samples)))
            means = np.average(np.array(rows)[:, :3], axis=0, weights=[r[3] for r in rows])
            return {"global_match": means[0], "local_match": means[1], "spread": means[2]}

        loop = Loop(this, tools, {"model": model}, optim, config.optim, config.pictures, step, feed, evaluate,
                    config.eval_pictures, progress=progress)
        last = loop.train(max_minutes, max_steps)
        this.save_weights(half(tools.unwrap_model(model).state_dict()), {"config": this.config})
        this.finish(**last)
        tools.wait_for_everyone()
    return this
