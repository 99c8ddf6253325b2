"""The study's arms: what is compared with what, at equal cost, one question at a time.

An arm is a chain of stages, with the changes that it makes to each stage's preset. A stage that it
does not name is left out, and the next one starts from what there is. Stages that two arms share
are trained once: a run is named by its whole configuration.

The budget unit is the picture. An expression of stages 1 and 2 costs one picture per view. The
whole method spends what the profile's presets say. Arms without stage 2 spend its share on stage 1.
'supervised-total' spends all of it on labels, 'supervised' what is left for fine-tuning alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mmlib.train import profiles
from mmlib.train.cost import views_of
from mmlib.train.finetune import RECOMBINED

PROFILE = "study"
STAGES = ("pretrain", "attend", "finetune")
Changes = Mapping[str, Any]  # to a stage's preset; a part of a configuration may be a mapping, too
Chain = Mapping[str, Changes]  # by stage
UNCHANGED: Changes = {}
OURS, LABELS_ALONE = "mask-match", "supervised-total"
COMPARED = (OURS, "supervised", LABELS_ALONE)  # what other profiles train
MASKED = "masked ink"  # a question, and how the names of its arms end
OCCLUSION = (0.1, 0.2, 0.3)  # shares of ink masked when the arms of `MASKED` are read


def budget(profile: str = PROFILE) -> tuple[int, ...]:
    """Pictures that the whole method spends on stages 1, 2 and 3 in a profile."""
    spent = []
    for name in STAGES:
        preset = profiles.preset(name, profile)
        spent.append(preset.pictures * views_of(name, asdict(preset)))
    return tuple(spent)


def questions(first: int, second: int, labelled: int) -> dict[str, dict[str, Chain]]:
    """The arms of each question, by name; stages 1, 2 and 3 cost so many pictures."""

    def whole(attend: Changes = UNCHANGED, finetune: Changes = UNCHANGED, share: float = 1.0,
              **pretrain: Any) -> Chain:
        """The whole method with some choices changed, at a share of the budget."""
        return {
            "pretrain": {"pictures": round(share * first / 2), **pretrain},
            "attend": {"pictures": round(share * second / 2), **attend},
            "finetune": {"pictures": round(share * labelled), **finetune},
        }

    def contrast(finetune: Changes = UNCHANGED, views: int = 2, **pretrain: Any) -> Chain:
        """Stage 1 with stage 2's share, then fine-tuning."""
        return {"pretrain": {"pictures": (first + second) // views, **pretrain},
                "finetune": {"pictures": labelled, **finetune}}

    def labels(finetune: Changes = UNCHANGED, share: float = 1.0) -> Chain:
        """Fine-tuning from random weights, with the whole budget or a share of it."""
        pictures = round(share * (first + second + labelled))
        return {"finetune": {"pictures": pictures, **finetune}}

    match_alone, random = ({"reading": {"sequence": 0.0}},
                           {"reading": {"sequence": 1.0, "targets": "random"}})
    shares = {"a quarter": 0.25, "half": 0.5, "twice": 2.0}
    segmented: Changes = {"composed": 1.0, "point_weight": 1.0, "guide_weight": 0.5,
                          "augment": asdict(RECOMBINED)}
    masked = {"mask_share": (0.0, 0.5)}
    # As much is masked over the whole of stage 2 as under the curriculum, from 0.05 to 0.5.
    fixed = {"ratio": (0.275, 0.275)}
    return {
        "hypotheses": {
            OURS: whole(),
            "contrastive": contrast(),
            LABELS_ALONE: labels(),
            "supervised": {"finetune": {"pictures": labelled}},
            "fixed share": whole(fixed),
        },
        "form of stage 2": {
            "match alone": whole(match_alone),
            "random prototypes": whole(random),
            "nothing masked": whole({"ratio": (0.0, 0.0)}),
            "mask at random": whole({"attended": (0.0, 0.0)}),
        },
        "other self-supervision": {
            "simclr": contrast(balance=1.0),
            "dense": contrast(balance=0.0),
            "byol": contrast(objective="byol"),
            "mae": contrast(objective="mae", views=1),
        },
        "rate of the encoder": {
            f"{arm}, encoder at {rate:g}": chain
            for rate in (1.0, 0.1)
            for arm, chain in {
                OURS: whole(finetune={"encoder_rate": rate}),
                "contrastive": contrast({"encoder_rate": rate}),
                LABELS_ALONE: labels({"encoder_rate": rate}),
            }.items()
        },
        "cost": {
            f"{arm}, {name} of the pictures": chain
            for name, share in shares.items()
            for arm, chain in {OURS: whole(share=share), LABELS_ALONE: labels(share=share)}.items()
        },
        MASKED: {
            f"{OURS}, {MASKED}": whole(finetune=masked),
            f"{LABELS_ALONE}, {MASKED}": labels(masked),
        },
        "segmentation allowed": {
            f"{OURS}, segmented": whole(finetune=segmented),
            f"{LABELS_ALONE}, segmented": labels(segmented),
        },
    }


def arms(profile: str = PROFILE) -> dict[str, Chain]:
    """All arms by name, at the budget of a profile."""
    found = questions(*budget(profile))
    return {arm: chain for members in found.values() for arm, chain in members.items()}


ARMS = arms()
