"""How likely a reading is right: the search's own scores, calibrated on expressions held out.

A search scores its readings too surely. A logistic map of two numbers mends that (Platt, 1999): how
badly the best reading scores, and by how much the likelihood agrees on it, or on one of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np

CONFIDENCE = "confidence.json"  # beside the weights
LEAST = 1e-4  # how far from 0 and 1 agreement can be told
Scored = tuple[Sequence[str], float]  # tokens, and the mean log-probability of each and the end


@dataclass(frozen=True)
class Calibration:
    """Weights of a constant and of `features`, for the whole reading and for one token."""

    run: str  # the fine-tuning whose readings these were
    whole: tuple[float, float, float]
    token: tuple[float, float, float]

    @classmethod
    def of(cls, values: Mapping[str, Any], run: str) -> Calibration | None:
        """From its JSON; None where that is of another recogniser."""
        if values.get("run") != run:
            return None
        return cls(run, tuple(values["whole"]), tuple(values["token"]))

    def confidence(self, found: Sequence[Scored]) -> dict[str, Any]:
        """Of the first of all hypotheses, how likely it is right, and each of its tokens."""
        whole, tokens = features(found)
        sure = 1 / (1 + np.exp(-(self.whole[0] + whole @ self.whole[1:])))
        each = 1 / (1 + np.exp(-(self.token[0] + tokens @ self.token[1:])))
        return {"confidence": float(sure), "token_confidence": tuple(map(float, each))}


def features(found: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray]:
    """What the confidence is a map of: (2,) of the first hypothesis and (n, 2) of its n tokens.

    The logarithm of minus its log-probability, for a token of the mean per token; and the log odds
    of its share of the likelihood of all that were found, or of those with this token here.
    """
    total = np.array([score * (len(tokens) + 1) for tokens, score in found])
    share = np.exp(total - np.logaddexp.reduce(total))
    first = found[0][0]
    agree = np.zeros(len(first))
    for (tokens, _), weight in zip(found, share):
        for block in SequenceMatcher(None, first, tokens, autojunk=False).get_matching_blocks():
            agree[block.a : block.a + block.size] += weight
    odds = np.clip(np.array([share[0], *agree]), LEAST, 1 - LEAST)
    bad = math.log(max(-found[0][1], 1e-3))
    rows = np.stack([np.full(len(odds), bad), np.log(odds / (1 - odds))], 1)
    rows[0, 0] += math.log(len(first) + 1)
    return rows[0], rows[1:]
