"""Stage 2: a self-supervised attention network, trained by progressive masking, without labels.

An EMA teacher sees the whole expression. The student sees it under another warp, with a share r(t)
of its ink length under a visible mask, and must match the teacher: slot by slot, at masked ink
points, and map by map at corresponding ink points. r(t) rises, and with it the share of the mask
that is placed where the teacher attends.
"""

import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmlib.data.augment import AugmentConfig, Augmenter
from mmlib.data.sample import Batch, collate
from mmlib.draw.masks import BLOCK, InkMask, mask_ratio, mask_view
from mmlib.draw.views import InkBatch, View, ViewConfig, ink_cells, make_view, sample
from mmlib.losses.match import MatchConfig, map_entropy, match_loss, off_ink_mass
from mmlib.models.attention import Attention, AttentionNetwork
from mmlib.models.decoder import DecoderConfig
from mmlib.models.encoder import Encoder, EncoderConfig
from mmlib.models.heads import predictor
from mmlib.models.layers import channels_last, ema_update
from mmlib.models.recogniser import ModelConfig
from mmlib.store.run import Run
from mmlib.train.health import on_grid, positional
from mmlib.train.loop import LossAndNumbers
from mmlib.train.masked_reading import (
    ReadingConfig,
    ReadingStudent,
    UnitAugmenter,
    ink_clusters,
    name_units,
    reading_loss,
)
from mmlib.train.optimiser import OptimConfig, optimizer
from mmlib.train.pretrain import HARD
from mmlib.train.stage import Stage, train

# The student sees a window of the expression, the teacher all of it. If both saw all, maps that
# attend to the ends of the ink would agree under any warp without looking at content.
WINDOW = replace(HARD, crop=0.35, rotate=0.06, slant=0.25)
SUPPORT = 0.3  # of a teacher's map that the student must see for its slot to count
SCHEDULE_STEPS = 10_000  # the masking schedules count steps; ours goes by the share of the budget


@dataclass(frozen=True)
class Config:
    """Stage 2, every choice."""

    dataset: str = "auto"  # 'crohme', 'synthetic', a path, or 'auto': CROHME where it is found
    seed: int = 0
    arm: str = ""  # of the study that asks for it; no part of the run's hash
    init: str = "pretrain"  # 'pretrain' (the profile's own run), 'none' (random), or a run's name
    pictures: int = 8_000  # expressions seen, each by teacher and student
    # Square typical symbols per batch and view: some six expressions. The attention network lacks
    # updates more than anything.
    batch_area: float = 300.0
    batch_most: int = 64  # expressions per batch
    maps: int = 8  # k
    ratio: tuple[float, float] = (0.05, 0.5)  # share of ink length masked, at start and end
    attended: tuple[float, float] = (0.0, 0.7)  # share of boxes placed where the teacher attends
    schedule: str = "linear"  # of both: 'fixed', 'linear', 'cosine', 'stepped'
    block: tuple[float, float] = BLOCK  # half sides of a box, in typical symbols
    points: int = 32  # ink points per expression that are matched
    momentum: float = 0.99  # of the teacher, at last
    first_momentum: float = 0.9  # at first; it rises over half of the budget
    zero_mask: bool = True  # the mask channel begins with weights of zero
    encoder_rate: float = 0.1  # of the learning rate, for the encoder; 0 freezes it
    eval_pictures: int = 2_000  # between two validations
    eval_most: int = 256  # expressions of the validation subset
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)  # of masked reading
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    view: ViewConfig = WINDOW  # the student's; the teacher's is the same without the crop


def momentum_at(done: float, config: Config) -> float:
    """The teacher's momentum at the share `done` of the budget.

    A teacher that follows closely at first leaves its random start behind. One that follows slowly
    at last is an average over many students.
    """
    rise = min(1.0, 2 * done)
    return config.first_momentum + (config.momentum - config.first_momentum) * rise


def encode_and_attend(student: Any, picture: Tensor, valid: Tensor) -> tuple[Tensor, Attention]:
    """Features and attention alone, whether the student also reads or not."""
    features = student.encoder(picture, valid)
    return features, student.attention(features, valid)


class Student(nn.Module):
    """Encoder, attention network and the predictor of masked features."""

    def __init__(self, config: EncoderConfig, maps: int):
        super().__init__()
        self.encoder, self.attention = Encoder(config), AttentionNetwork(config.d, maps)
        self.predictor = predictor(config.d)

    def forward(self, picture: Tensor, valid: Tensor) -> tuple[Tensor, Attention]:
        return encode_and_attend(self, picture, valid)


def encoder_weights(run: Run) -> dict[str, Tensor]:
    """The encoder's weights of a finished run, in full precision."""
    weights, _ = run.load_weights()
    encoder = {k: v.float() for k, v in weights.items() if k.startswith("encoder.")}
    return {k.removeprefix("encoder."): v for k, v in encoder.items()}


def at_points(features: Tensor, attention: Attention, view: View, owner: Tensor, chosen: Tensor
              ) -> tuple[Tensor, Tensor]:
    """Features (m, d) and map values (m, k) at the chosen ink points."""
    cells, owner = view.cells[chosen], owner[chosen]
    return sample(features, cells, owner), sample(attention.maps, cells, owner)


def choose_points(ink: InkBatch, each: int, rng: torch.Generator) -> Tensor:
    """Indices of at most `each` random ink points per expression, ascending."""
    chance = torch.rand(len(ink.owner), generator=rng).to(ink.owner.device)
    order = torch.argsort(ink.owner + chance / 2)  # by expression, then by chance
    start = torch.searchsorted(ink.owner, torch.arange(ink.b, device=ink.owner.device))
    rank = torch.arange(len(order), device=order.device) - start[ink.owner]
    return order[rank < each].sort().values


def mask_by_curriculum(view: View, ink: InkBatch, done: float, config: Config, saliency: Tensor,
                       rng: torch.Generator) -> tuple[InkMask, Tensor]:
    """Mask the student's view as the curriculum says at the share `done` of stage 2.

    saliency: (n,) of the teacher at the ink points. Returns the mask and the picture (b, 2, H, W):
    the ink that is left, and the mask channel.
    """
    step = round(done * SCHEDULE_STEPS)
    ratio = mask_ratio(step, SCHEDULE_STEPS, *config.ratio, config.schedule)
    attended = mask_ratio(step, SCHEDULE_STEPS, *config.attended, config.schedule)
    return mask_view(view, ink, ratio, config.view.symbol, rng, config.block,
                     attended_share=attended, saliency=saliency)


def support(maps: Tensor, visible: Tensor, owner: Tensor, b: int) -> Tensor:
    """Share (b, k) of each teacher map's mass that the student sees unmasked.

    maps: (m, k) at the sampled ink points; visible: (m,) bool; owner: (m,) in [0, b).
    """
    total = maps.new_zeros(b, maps.shape[1]).index_add_(0, owner, maps)
    seen = maps.new_zeros(b, maps.shape[1]).index_add_(0, owner, maps * visible[:, None])
    return seen / total.clamp(min=1e-9)


class Attend(Stage):
    """Student and teacher; the teacher is what is kept."""

    name, code_version = "attend", "4"
    gates = (
        ("steps", 1_000, "above", "too few updates"),
        ("start_left", 0.01, "below", "the teacher is in part its random start"),
        ("entropy_shipped", 0.7, "below", "the maps that ship are near uniform"),
        ("ink_mass", 0.5, "above", "the maps that ship lie on blank paper"),
    )

    def build(self) -> None:
        config = self.config
        self.reads, self.centres = config.reading.sequence > 0, None
        student: Any = Student(config.encoder, config.maps)
        if self.reads:
            model = ModelConfig(config.encoder, config.decoder, config.maps)
            student = ReadingStudent(model, config.reading)
        if self.reads and config.reading.targets == "ink":
            known = self.corpus.pack, self.corpus.train
            self.centres = ink_clusters(*known, config.reading, config.seed)
        # What no loss reaches is frozen: several processes wait for every gradient.
        student.predictor.requires_grad_(config.match.points > 0)
        if self.start:
            student.encoder.load_state_dict(encoder_weights(self.start))
        if config.zero_mask:
            student.encoder.forget_mask()
        self.network = channels_last(student, self.tools.device)
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        # The share of the teacher that is its start: the product of its momenta, in a checkpoint.
        start_left = nn.Parameter(torch.ones(()), requires_grad=False)
        self.course = nn.ParameterDict({"start_left": start_left})
        if not config.encoder_rate:
            student.encoder.requires_grad_(False)

    def optimizer(self) -> torch.optim.Optimizer:
        student = self.bare
        fast = [module for name, module in student.named_children() if name != "encoder"]
        return optimizer(fast, self.config.optim, slow=[student.encoder],
                         factor=self.config.encoder_rate)

    def augmenter(self, indices: np.ndarray) -> Augmenter:
        given = self.corpus.pack, indices, AugmentConfig(), self.corpus.vocabulary
        return UnitAugmenter(*given, centres=self.centres) if self.reads else Augmenter(*given)

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        config, ink = self.config, batch.ink
        whole = make_view(ink, replace(config.view, crop=0.0), rng)
        window = make_view(ink, config.view, rng)
        chosen = choose_points(ink, config.points, rng)
        with torch.no_grad():
            features, attention = encode_and_attend(self.teacher, whole.picture, whole.valid)
            target, there = at_points(features, attention, whole, ink.owner, chosen)
            saliency = sample(attention.saliency, whole.cells, ink.owner)[:, 0].clamp(min=0)
        mask, picture = mask_by_curriculum(window, ink, done, config, saliency, rng)
        if self.reads:
            named = name_units(self.bare, self.teacher, features, whole, window, batch,
                               config.reading, rng)
            logits, guided, encoded = self.network(picture, window.valid, named.inputs)
            features, seen = encoded.features, encoded.attention
        else:
            features, seen = self.network(picture, window.valid)
        in_window = window.kept[chosen]
        unmasked = in_window & ~mask.masked[chosen]
        common = chosen[in_window]
        here, maps_here = at_points(features, seen, window, ink.owner, common)
        loss, numbers = match_loss(
            replace(config.match, gather=self.gather),
            student_slots=seen.slots, teacher_slots=attention.slots,
            visible=support(there, unmasked, ink.owner[chosen], ink.b) > SUPPORT,
            pred=self.bare.predictor(here), target=target[in_window], masked=mask.masked[common],
            student_at_points=maps_here, teacher_at_points=there[in_window],
            owner=ink.owner[common], maps=seen.maps, valid=window.valid[:, 0] > 0,
            ink=ink_cells(window, ink.b, ink.owner)[:, 0],
        )
        if not self.reads:
            return loss, numbers
        read, terms = reading_loss(self.bare, named, features, logits, guided, window,
                                   config.reading, self.gather)
        return loss + read, numbers | terms

    def after_step(self, done: float) -> None:
        momentum = momentum_at(done, self.config)
        ema_update(self.teacher, self.bare, 1 - momentum)
        self.course["start_left"].mul_(momentum)

    def validate(self, done: float) -> dict[str, float]:
        """The terms of the loss, numbers of the teacher's maps, and what its encoder knows.

        Of the teacher's maps on plain views: entropy, over the uniform map's; mass on cells with
        ink; and `positional`, the share that position explains.
        """
        rows, grids = [], []
        for number, samples in enumerate(self.held_out):
            batch = collate(samples).to(self.tools.device)
            _, numbers = self.loss(batch, torch.Generator().manual_seed(number), done)
            still = make_view(batch.ink, self.config.view.still(), torch.Generator().manual_seed(0))
            _, attention = encode_and_attend(self.teacher, still.picture, still.valid)
            maps, drawn = attention.maps, ink_cells(still, batch.ink.b, batch.ink.owner)[:, 0]
            grids.append(on_grid(maps, still.valid))
            rows.append({k: float(v) for k, v in numbers.items()} | {
                "entropy_shipped": float(map_entropy(maps, still.valid[:, 0] > 0)),
                "ink_mass": 1 - float(off_ink_mass(maps, drawn))})
        means = {k: sum(row[k] for row in rows) / len(rows) for k in rows[0]}
        own = {"positional": positional(grids), "start_left": float(self.course["start_left"])}
        return means | own | self.glance(self.teacher.encoder)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"student": self.network, "teacher": self.teacher, "course": self.course}

    @property
    def result(self) -> Any:
        return self.teacher


run = partial(train, Attend)
