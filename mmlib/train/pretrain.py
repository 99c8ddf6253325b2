"""Stage 1: the encoder learns from random views of each expression, without labels.

By default from two views, to tell whole expressions apart (global contrast) and ink points apart
(local contrast). The rivals are other objectives on the same encoder, views, data and loop; a new
one is a class like theirs and a line in `OBJECTIVES`. An expression costs as many pictures as views
are drawn of it: two, and one for the masked autoencoder. So equal budgets in pictures are not equal
numbers of expressions.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from mmlib.draw.views import ViewConfig
from mmlib.models.encoder import EncoderConfig
from mmlib.store.files import RunError
from mmlib.store.run import Run
from mmlib.train.contrast import ContrastObjective
from mmlib.train.optimiser import OptimConfig
from mmlib.train.rivals import ByolObjective, MaeObjective
from mmlib.train.stage import Pretrain, train

# What stage 1 may learn by, as `Config.objective` names it.
OBJECTIVES: dict[str, type[Pretrain]] = {
    "contrast": ContrastObjective, "byol": ByolObjective, "mae": MaeObjective,
}

# Mild warps teach nothing more after some thousand pictures, so views of stages 1 and 2 go further
# than fine-tuning's: crops to sub-expressions, a wide range of scale, elastic strokes, pens from
# hair to marker.
HARD = ViewConfig(
    scale=0.35, aspect=0.25, rotate=0.1, slant=0.4, elastic=0.16, wavelength=2.5,
    stroke_shift=0.06, stroke_scale=0.1, pen=(1.0, 2.6), crop=0.4,
)
# Stage 1's have the ink's columns in another order half of the time. Else an ink point is found by
# where in its expression it lies, which features that know no symbol can tell.
SHUFFLED = replace(HARD, shuffle=0.5)


@dataclass(frozen=True)
class Config:
    """Stage 1, every choice."""

    dataset: str = "auto"  # 'crohme', 'synthetic', a path, or 'auto': CROHME where it is found
    seed: int = 0
    arm: str = ""  # of the study that asks for it; no part of the run's hash
    pictures: int = 12_000  # expressions seen, each in as many views as the objective draws
    # Square typical symbols per batch and view: many updates, of some eight expressions each.
    batch_area: float = 400.0
    batch_most: int = 64  # expressions per batch
    objective: str = "contrast"  # or 'byol', 'mae': see `OBJECTIVES`
    balance: float = 0.5  # lambda of contrast: 1 is SimCLR, 0 dense contrast
    points: int = 32  # ink points per expression for the local term
    radius: float = 1.0  # cells: points of one expression nearer than this are no negatives
    global_temperature: float = 0.2
    local_temperature: float = 0.1
    level: str = "both"  # local heads read 'before' or 'after' the encoder's context, or at both
    bounded: bool = True  # heads with norms, so that embeddings cannot grow without bound
    momentum: float = 0.99  # of byol's target at the start, rising to 1
    mask_share: float = 0.5  # of ink length that mae masks
    eval_pictures: int = 4_000  # between two validations
    eval_most: int = 256  # expressions of the validation subset
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    view: ViewConfig = SHUFFLED


def run(config: Config, *arguments: Any, **options: Any) -> Run:
    """Train stage 1 under the objective that the configuration names; see `train`."""
    return train(find_objective(config.objective), config, *arguments, **options)


def find_objective(name: str) -> type[Pretrain]:
    """The objective of that name. Raises RunError for an unknown one."""
    if name not in OBJECTIVES:
        raise RunError(f"stage 1 has no objective {name!r}; it has {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
