"""Stage 2: a self-supervised attention network, trained by a progressive spatial masking curriculum, with no labels.

A teacher (moving average of the student) sees the whole expression; the student sees it under another warp with a share r(t)
of its ink length masked visibly, and must match the teacher: slot by slot, at masked ink points, and map by map at
corresponding ink points. r(t) rises, and with it the share of boxes placed where the teacher attends.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.data.augment import AugmentConfig, Augmenter
from mmlib.data.batches import Feed
from mmlib.data.corpus import load_corpus
from mmlib.data.sample import Batch, collate
from mmlib.draw.masks import BLOCK, InkMask, mask_ratio, mask_view
from mmlib.draw.views import InkBatch, View, ViewConfig, ink_cells, make_view, sample
from mmlib.losses.match import MatchConfig, MatchLoss
from mmlib.models.attention import Attention, AttentionNetwork
from mmlib.models.encoder import Encoder, EncoderConfig
from mmlib.models.heads import predictor
from mmlib.models.layers import channels_last, ema_update
from mmlib.models.recogniser import LARGE, LARGE_SYMBOL, SMALL, TINY
from mmlib.store.run import Run
from mmlib.train.health import on_grid, positional
from mmlib.train.loop import Loop, OptimConfig, accelerator, feeding, half, initial_run, optimizer
from mmlib.train.pretrain import HARD

CODE_VERSION = "3"

# The student sees a window of the expression, the teacher all of it: were both to see all, maps that attend to the ends of the
# ink, wherever they lie, would agree under any warp without looking at content.
WINDOW = replace(HARD, crop=0.35, rotate=0.06, slant=0.25)


@dataclass(frozen=True)
class Config:
    """Stage 2, every choice."""

    dataset: str = "auto"
    seed: int = 0
    init: str = "pretrain"  # 'pretrain' (the profile's own run), 'none' (random weights) or a run's folder name
    pictures: int = 8_000  # expressions seen, each by teacher and student
    batch_area: float = 1_600.0
    batch_most: int = 64
    maps: int = 8  # k
    ratio: tuple[float, float] = (0.05, 0.5)  # share of ink length masked, at the start and the end
    attended: tuple[float, float] = (0.0, 0.7)  # share of boxes placed where the teacher attends
    schedule: str = "linear"  # of both: 'fixed', 'linear', 'cosine', 'stepped'
    block: tuple[float, float] = BLOCK  # half sides of a box, in typical symbols
    points: int = 32  # ink points an expression that are matched
    momentum: float = 0.99  # of the teacher
    encoder_rate: float = 0.1  # of the learning rate, for the encoder; 0 freezes it
    eval_pictures: int = 2_000
    eval_most: int = field(default=256, metadata={"neutral": 256})  # validation expressions in a look
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    view: ViewConfig = WINDOW  # the student's; the teacher's is the same without the crop

    @classmethod
    def preset(cls, profile: str, **overrides: Any) -> Config:
        """smoke: seconds; ablate: minutes, for the grid of `mmlib.study.grid`; desk: about 10 minutes on 2 cores; paper: one GPU."""
        return replace(PRESETS[profile], **overrides)


PRESETS = {
    "smoke": Config(dataset="synthetic", pictures=800, eval_pictures=400, optim=OptimConfig(lr=3e-3, warmup=100),
                    encoder=TINY.encoder, maps=TINY.maps),
    "ablate": Config(pictures=2_000, eval_pictures=1_000, optim=OptimConfig(warmup=400), encoder=SMALL.encoder),
    "desk": Config(),
    "paper": Config(pictures=300_000, batch_area=40_000.0, batch_most=1_024, points=16, eval_pictures=50_000,
                    encoder=LARGE.encoder, maps=LARGE.maps, view=replace(WINDOW, symbol=LARGE_SYMBOL)),
}


class Student(nn.Module):
    """Encoder, attention network and the predictor of masked features."""

    def __init__(self, config: EncoderConfig, maps: int):
        super().__init__()
        self.encoder, self.attention = Encoder(config), AttentionNetwork(config.d, maps)
        self.predictor = predictor(config.d)

    def forward(self, picture: Tensor, valid: Tensor) -> tuple[Tensor, Attention]:
        features = self.encoder(picture, valid)
        return features, self.attention(features, valid)


def encoder_weights(run: Run) -> dict[str, Tensor]:
    """The encoder's weights of a finished run, in full precision."""
    weights, _ = run.load_weights()
    return {k.removeprefix("encoder."): v.float() for k, v in weights.items() if k.startswith("encoder.")}


def at_points(features: Tensor, attention: Attention, view: View, owner: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Features (m, d) and map values (m, k) at the chosen ink points."""
    cells, owner = view.cells[chosen], owner[chosen]
    return sample(features, cells, owner), sample(attention.maps, cells, owner)


def choose_points(ink: InkBatch, each: int, rng: torch.Generator) -> Tensor:
    """Indices of at most `each` random ink points an expression, ascending."""
    chance = torch.rand(len(ink.owner), generator=rng).to(ink.owner.device)
    order = torch.argsort(ink.owner + chance / 2)
    start = torch.searchsorted(ink.owner, torch.arange(ink.b, device=ink.owner.device))
    return order[torch.arange(len(order), device=order.device) - start[ink.owner] < each].sort().values


def mask_by_curriculum(view: View, ink: InkBatch, done: float, config: Config, saliency: Tensor, rng: torch.Generator
                       ) -> tuple[InkMask, Tensor]:
    """Mask the student's view as the curriculum says at the share `done` of stage 2.

    saliency: (n,) of the teacher at the ink points. Returns the mask and the two-channel picture (b, 2, H, W): masked ink
    gone, the mask marked.
    """
    steps = 10_000  # the schedules count steps; ours go by pictures
    ratio = mask_ratio(round(done * steps), steps, *config.ratio, config.schedule)
    attended = mask_ratio(round(done * steps), steps, *config.attended, config.schedule)
    return mask_view(view, ink, ratio, config.view.symbol, rng, config.block, attended_share=attended, saliency=saliency)


def support(maps: Tensor, visible: Tensor, owner: Tensor, b: int) -> Tensor:
    """Share (b, k) of each teacher map's mass, over its sampled ink points (m, k), that the student sees unmasked (m,)."""
    total = maps.new_zeros(b, maps.shape[1]).index_add_(0, owner, maps)
    return maps.new_zeros(b, maps.shape[1]).index_add_(0, owner, maps * visible[:, None]) / total.clamp(min=1e-9)


def run(config: Config, profile: str = "desk", max_minutes: float | None = None, max_steps: int | None = None,
        progress: bool = True) -> Run:
    """Train the attention network, or load what was trained before. Raises Paused at a limit."""
    tools = accelerator()
    with tools.main_process_first():  # the others find its packs
        corpus = load_corpus(config.dataset)
    config = replace(config, view=corpus.view(config.view))
    before = (config.init, profile, config.dataset, config.seed, max_minutes, max_steps)
    start = initial_run(*before, weights=False)
    inputs = {"data": corpus.identity, "init": start.name if start else "none"}
    this = Run.open("attend", profile, config, inputs, CODE_VERSION)
    if this.done:
        return this
    if start and not start.weights.is_file():
        start = initial_run(*before)
    with this.lock(tools.is_main_process):
        torch.manual_seed(config.seed)
        student = Student(config.encoder, config.maps)
        student.predictor.requires_grad_(config.match.points > 0)  # what no loss reaches; see `finetune.build`
        if start:
            student.encoder.load_state_dict(encoder_weights(start))
        channels_last(student)
        teacher = copy.deepcopy(student).requires_grad_(False)
        if not config.encoder_rate:
            student.encoder.requires_grad_(False)
        optim = optimizer([student.attention, student.predictor], config.optim, slow=[student.encoder],
                          factor=config.encoder_rate)
        loss_fn = MatchLoss(replace(config.match, gather=tools.num_processes > 1))
        feed = Feed([(Augmenter(corpus.pack, corpus.train, AugmentConfig(), corpus.vocabulary), None)], config.batch_area,
                    config.batch_most, config.seed, **feeding(tools))
        held = Feed([(Augmenter(corpus.pack, corpus.validation_subset(config.eval_most), AugmentConfig(), corpus.vocabulary), None)],
                    config.batch_area, 32, 0).epoch(0)
        student, optim = tools.prepare(student, optim)
        teacher.to(tools.device)

        def match(batch: Batch, done: float, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            batch = batch.to(tools.device)
            ink, bare = batch.ink, tools.unwrap_model(student)
            whole, part = make_view(ink, replace(config.view, crop=0.0), rng), make_view(ink, config.view, rng)
            chosen = choose_points(ink, config.points, rng)
            owner = ink.owner[chosen]
            with torch.no_grad():
                features, attention = teacher(whole.picture, whole.valid)
                target, maps_there = at_points(features, attention, whole, ink.owner, chosen)
                saliency = sample(attention.saliency, whole.cells, ink.owner)[:, 0].clamp(min=0)
            mask, picture = mask_by_curriculum(part, ink, done, config, saliency, rng)
            features, seen = student(picture, part.valid)
            shown = part.kept[chosen]
            visible = support(maps_there, shown & ~mask.masked[chosen], owner, ink.b) > 0.3
            common, there = chosen[shown], maps_there[shown]
            here, maps_here = at_points(features, seen, part, ink.owner, common)
            drawn = ink_cells(part, ink.b, ink.owner)
            loss, numbers = loss_fn(
                student_slots=seen.slots, teacher_slots=attention.slots, visible=visible, pred=bare.predictor(here),
                target=target[shown], masked=mask.masked[common], student_at_points=maps_here, teacher_at_points=there,
                owner=ink.owner[common], maps=seen.maps, valid=part.valid[:, 0] > 0, ink=drawn[:, 0])
            return loss, numbers

        def step(batch: Batch, pictures: int) -> tuple[Tensor, dict[str, Any]]:
            rng = torch.Generator().manual_seed(config.seed * 1_000_003 + pictures)
            done = min(1.0, pictures / config.pictures)
            loss, numbers = match(batch, done, rng)
            return loss, numbers

        def after_step(pictures: int) -> None:
            ema_update(teacher, tools.unwrap_model(student), 1 - config.momentum)

        def evaluate(pictures: int) -> dict[str, float]:
            rows, grids = [], []
            for number, samples in enumerate(held):
                batch = collate(samples).to(tools.device)
                _, numbers = match(batch, min(1.0, pictures / config.pictures), torch.Generator().manual_seed(number))
                rows.append({k: float(v) for k, v in numbers.items()})
                still = make_view(batch.ink, config.view.still(), torch.Generator().manual_seed(0))
                grids.append(on_grid(teacher(still.picture, still.valid)[1].maps, still.valid))
            return {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]} | {"positional": positional(grids)}

        loop = Loop(this, tools, {"student": student, "teacher": teacher}, optim, config.optim, config.pictures, step, feed,
                    evaluate, config.eval_pictures, after_step=after_step, trunks=False, progress=progress)
        last = loop.train(max_minutes, max_steps)
        this.save_weights(half(teacher.state_dict()), {"config": this.config})
        this.finish(**last)
        tools.wait_for_everyone()
    return this
