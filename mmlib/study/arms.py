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
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Budget:
    """Pictures that the whole method spends on stages 1, 2 and 3, and the chains that spend it."""

    first: int
    second: int
    labelled: int

    @classmethod
    def of(cls, profile: str = PROFILE) -> Budget:
        """What the presets of a profile spend."""
        spent = []
        for name in STAGES:
            preset = profiles.preset(name, profile)
            spent.append(preset.pictures * views_of(name, asdict(preset)))
        return cls(*spent)

    @property
    def total(self) -> int:
        return self.first + self.second + self.labelled

    def whole(self, attend: Changes = UNCHANGED, finetune: Changes = UNCHANGED, share: float = 1.0
              ) -> Chain:
        """The whole method with some choices changed, at a share of the budget."""
        return {"pretrain": {"pictures": round(share * self.first / 2)},
                "attend": {"pictures": round(share * self.second / 2), **attend},
                "finetune": {"pictures": round(share * self.labelled), **finetune}}

    def contrast(self, finetune: Changes = UNCHANGED, views: int = 2, **pretrain: Any) -> Chain:
        """Stage 1 with stage 2's share, then fine-tuning."""
        return {"pretrain": {"pictures": (self.first + self.second) // views, **pretrain},
                "finetune": {"pictures": self.labelled, **finetune}}

    def labels(self, finetune: Changes = UNCHANGED, share: float = 1.0) -> Chain:
        """Fine-tuning from random weights, with the whole budget or a share of it."""
        return {"finetune": {"pictures": round(share * self.total), **finetune}}


# As much is masked over the whole of stage 2 as under the curriculum, which goes from 0.05 to 0.5.
FIXED = {"ratio": (0.275, 0.275)}
MASKS = {"mask_share": (0.0, 0.5)}
SEGMENTED = {"composed": 1.0, "point_weight": 1.0, "guide_weight": 0.5,
             "augment": asdict(RECOMBINED)}


def questions(budget: Budget) -> dict[str, dict[str, Chain]]:
    """The arms of each question, by name."""
    whole, contrast, labels = budget.whole, budget.contrast, budget.labels
    rates, costs = {}, {}
    for rate in (1.0, 0.1):
        tuned = {"encoder_rate": rate}
        for arm, chain in ((OURS, whole({}, tuned)), ("contrastive", contrast(tuned)),
                           (LABELS_ALONE, labels(tuned))):
            rates[f"{arm}, encoder at {rate:g}"] = chain
    for name, share in (("a quarter of", 0.25), ("half of", 0.5), ("twice", 2.0)):
        costs[f"{OURS}, {name} the pictures"] = whole(share=share)
        costs[f"{LABELS_ALONE}, {name} the pictures"] = labels(share=share)
    return {
        "hypotheses": {
            OURS: whole(),
            "contrastive": contrast(),
            LABELS_ALONE: labels(),
            "supervised": {"finetune": {"pictures": budget.labelled}},
            "fixed share": whole(FIXED),
        },
        "form of stage 2": {
            "match alone": whole({"reading": {"sequence": 0.0}}),
            "teacher's prototypes": whole({"reading": {"targets": "teacher"}}),
            "random prototypes": whole({"reading": {"targets": "random"}}),
            "nothing masked": whole({"ratio": (0.0, 0.0)}),
            "mask at random": whole({"attended": (0.0, 0.0)}),
        },
        "other self-supervision": {
            "simclr": contrast(balance=1.0),
            "dense": contrast(balance=0.0),
            "byol": contrast(objective="byol"),
            "mae": contrast(objective="mae", views=1),
        },
        "rate of the encoder": rates,
        "cost": costs,
        MASKED: {
            f"{OURS}, {MASKED}": whole({}, MASKS),
            f"{LABELS_ALONE}, {MASKED}": labels(MASKS),
        },
        "segmentation allowed": {
            f"{OURS}, segmented": whole({}, SEGMENTED),
            f"{LABELS_ALONE}, segmented": labels(SEGMENTED),
        },
    }


def arms(profile: str = PROFILE) -> dict[str, Chain]:
    """All arms by name, at the budget of a profile."""
    found = questions(Budget.of(profile))
    return {arm: chain for members in found.values() for arm, chain in members.items()}


ARMS = arms()
