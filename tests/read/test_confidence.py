"""Confidence: what it is a map of, and that the one that ships is calibrated."""

import json

import numpy as np
import pytest

from mmlib.read.confidence import Calibration, features
from mmlib.store.files import project_root

TOY = Calibration("toy", (0.0, -1.0, 1.0), (1.0, 0.0, 1.0))


def odds(share):
    return np.log(share / (1 - share))


def test_features_are_the_score_and_the_share_that_agrees():
    """Two hypotheses of equal length: shares of the likelihood are a softmax of the sums."""
    found = [(["x", "+", "1"], -0.1), (["x", "+", "l"], -0.3)]
    share = 1 / (1 + np.exp(4 * (-0.3 + 0.1)))
    whole, tokens = features(found)
    assert whole == pytest.approx([np.log(0.4), odds(share)])
    assert tokens[2] == pytest.approx([np.log(0.1), odds(share)])
    assert tokens[:2, 1] == pytest.approx(odds(1 - 1e-4))  # both have these


def test_tokens_are_aligned_where_one_is_left_out():
    _, tokens = features([(["a", "b", "c"], -0.1), (["a", "c"], -0.1)])
    assert tokens[1, 1] < tokens[0, 1] == tokens[2, 1]


def test_confidence_falls_with_the_score_and_rises_with_agreement():
    def sure(first, second):
        return TOY.confidence([(["x"], first), (["y"], second)])["confidence"]

    assert sure(-0.1, -0.5) > sure(-0.2, -0.6) > sure(-0.2, -0.3)
    assert 0 < sure(-9.0, -9.0) < sure(-1e-9, -9.0) < 1


def test_a_single_hypothesis_and_an_empty_one_have_a_confidence():
    alone = TOY.confidence([(["x"], -0.2)])
    assert 0 < alone["confidence"] < 1
    assert len(alone["token_confidence"]) == 1
    assert TOY.confidence([([], -0.2)])["token_confidence"] == ()


def test_a_calibration_is_of_one_recogniser():
    values = {"run": "toy", "whole": [0, -1, 1], "token": [1, 0, 1]}
    assert Calibration.of(values, "toy") == TOY
    assert Calibration.of(values, "another") is None
    assert Calibration.of({}, "toy") is None


def test_the_calibration_that_ships_is_near_the_truth():
    """As recorded, on formulas that it was not fitted to."""
    record = json.loads((project_root() / "results/trials/calibration.json").read_text())
    kept = json.loads((project_root() / "results/checkpoints/confidence.json").read_text())
    assert kept["run"] == record["run"]
    for name in ("whole", "token"):
        assert record[name]["ece_after"] < min(0.05, record[name]["ece_before"])
        assert kept[name][1] < 0 < kept[name][2]  # a better score and more agreement are surer
