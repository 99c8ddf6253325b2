"""All presets: for each profile, the configuration of each stage, and the sizes of the models.

`PROFILES["desk"].attend` is stage 2's at a desk. What a profile does not name is the default of the
stage's `Config`.
"""

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from mmlib.data.augment import AugmentConfig
from mmlib.draw.views import ViewConfig
from mmlib.models.decoder import DecoderConfig
from mmlib.models.encoder import EncoderConfig
from mmlib.models.recogniser import ModelConfig
from mmlib.train import attend, finetune, pretrain
from mmlib.train.attend import WINDOW
from mmlib.train.masked_reading import ReadingConfig
from mmlib.train.optimiser import OptimConfig
from mmlib.train.pretrain import SHUFFLED

# Everything runs, in seconds, and nothing worth having is learned.
TINY = ModelConfig(
    EncoderConfig(widths=(32, 64), blocks=(1, 1), context=1, context_d=64, heads=4, d=64),
    DecoderConfig(d=64, heads=4, layers=2, hidden=128),
    maps=4,
)
# Learns to read in minutes on one core, at about a quarter of the desk model's operations.
SMALL = ModelConfig(
    EncoderConfig(widths=(48, 96), blocks=(1, 2), context=2, context_d=96, heads=4, d=96),
    DecoderConfig(d=96, heads=4, layers=2, hidden=288),
)
# In the race of forms at equal core-minutes (results/trials/race.json) the residual one read best,
# 0.33 against 0.40 TER after 20,000 pictures.
FLAGSHIP = EncoderConfig(form="residual", coarse=1, context=2)
# The size of the field's models (CoMER has 6.4 million parameters), below 16 MiB in half precision.
# The encoder is larger than the desk's, since a reading runs it once; the decoder is not, since
# each of its steps must fetch all of its weights.
LARGE = ModelConfig(
    EncoderConfig(form="residual", widths=(128, 192), blocks=(2, 2), coarse=2, context=1,
                  context_d=288, heads=8)
)
# Masked reading as the pilot found it best.
CLUSTERS = ReadingConfig(sequence=1.0, targets="ink")
LARGE_SYMBOL = 20.0  # pixels of a typical symbol that the large model reads


@dataclass(frozen=True)
class Profile:
    """One configuration per stage."""

    pretrain: pretrain.Config
    attend: attend.Config
    finetune: finetune.Config


QUICK = OptimConfig(lr=3e-3, warmup=100)
PROFILES = {
    # Seconds per stage, on synthetic ink: for tests and a first look at the notebooks.
    "smoke": Profile(
        pretrain.Config(dataset="synthetic", pictures=800, batch_area=1_600.0, eval_pictures=400,
                        eval_most=64, optim=QUICK, encoder=TINY.encoder),
        attend.Config(dataset="synthetic", pictures=800, batch_area=1_600.0, eval_pictures=400,
                      eval_most=64, optim=QUICK, encoder=TINY.encoder, decoder=TINY.decoder,
                      maps=TINY.maps),
        finetune.Config(dataset="synthetic", pictures=1_600, composed=0.0, eval_pictures=800,
                        eval_most=48, init="attend", optim=QUICK, model=TINY),
    ),
    # The evidence: every arm costs 200,000 pictures, 100,000 of them with labels as they were
    # written. No segmentation: no side losses, no recombined and no composed ink.
    "study": Profile(
        pretrain.Config(pictures=20_000, eval_pictures=10_000, encoder=SMALL.encoder,
                        optim=OptimConfig(warmup=1_000, hold=24_000)),
        attend.Config(pictures=30_000, eval_pictures=5_000, encoder=SMALL.encoder,
                      decoder=SMALL.decoder, encoder_rate=0.3, reading=CLUSTERS,
                      optim=OptimConfig(warmup=1_000, hold=24_000)),
        finetune.Config(init="attend", pictures=100_000, eval_pictures=10_000, model=SMALL,
                        composed=0.0, point_weight=0.0, guide_weight=0.0, augment=AugmentConfig(),
                        encoder_rate=0.3, encoder_ramp=10_000,
                        optim=OptimConfig(lr=5e-3, warmup=1_000)),
    ),
    # On two cores some 10, 10 and 25 minutes: the defaults.
    "desk": Profile(pretrain.Config(), attend.Config(), finetune.Config(init="attend")),
    # The recogniser that ships: some 14 core-hours. Batches as in the race; the earlier ones that
    # still gained held the rate long and averaged weights. The encoder keeps what it learned while
    # the decoder is random, then moves at half of the rate.
    "flagship": Profile(
        pretrain.Config(pictures=100_000, eval_pictures=20_000, encoder=FLAGSHIP,
                        optim=OptimConfig(hold=24_000)),
        attend.Config(pictures=100_000, eval_pictures=10_000, encoder=FLAGSHIP, encoder_rate=0.3,
                      reading=CLUSTERS, optim=OptimConfig(hold=24_000)),
        finetune.Config(init="attend", pictures=800_000, composed=0.5, beyond=0.25, pictured=0.1,
                        encoder_rate=0.5, encoder_ramp=20_000, average=500, eval_pictures=40_000,
                        eval_most=535, model=ModelConfig(FLAGSHIP),
                        optim=OptimConfig(lr=5e-3, warmup=6_000, decay=0.5)),
    ),
    # All stages within 24 minutes on one GPU: more pictures, of a larger size, in larger batches.
    "paper": Profile(
        pretrain.Config(pictures=400_000, batch_area=40_000.0, batch_most=1_024, points=16,
                        eval_pictures=50_000, encoder=LARGE.encoder,
                        view=replace(SHUFFLED, symbol=LARGE_SYMBOL)),
        attend.Config(pictures=300_000, batch_area=40_000.0, batch_most=1_024, points=16,
                      eval_pictures=50_000, encoder=LARGE.encoder, decoder=LARGE.decoder,
                      maps=LARGE.maps, view=replace(WINDOW, symbol=LARGE_SYMBOL)),
        finetune.Config(init="attend", pictures=1_500_000, batch_area=20_000.0, batch_most=256,
                        eval_pictures=150_000, eval_most=512, model=LARGE,
                        view=ViewConfig(symbol=LARGE_SYMBOL)),
    ),
}


def preset(stage: str | ModuleType, profile: str, **overrides: Any) -> Any:
    """A stage's configuration in a profile, with some fields changed; the stage by name or module.

    Raises KeyError for an unknown profile, TypeError for an unknown field.
    """
    name = stage if isinstance(stage, str) else stage.__name__.rpartition(".")[2]
    return replace(getattr(PROFILES[profile], name), **overrides)
