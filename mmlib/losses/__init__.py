"""Losses: a pure function per term and a thin module over them."""

from mmlib.losses.contrastive import (
    ContrastLoss,
    byol_loss,
    local_info_nce,
    mae_loss,
    match_rate,
    nt_xent,
    similarity_weights,
)
from mmlib.losses.match import (
    MatchConfig,
    MatchLoss,
    masked_point_match,
    map_agreement,
    map_entropy,
    map_overlap,
    off_ink_mass,
    slot_info_nce,
)

__all__ = [
    "ContrastLoss",
    "MatchConfig",
    "MatchLoss",
    "byol_loss",
    "masked_point_match",
    "local_info_nce",
    "mae_loss",
    "map_agreement",
    "map_entropy",
    "map_overlap",
    "match_rate",
    "nt_xent",
    "off_ink_mass",
    "similarity_weights",
    "slot_info_nce",
]
