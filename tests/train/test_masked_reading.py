"""Masked reading: the teacher's names, the student's losses, and what fine-tuning takes over."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import seeded

from mmlib.data.augment import AugmentConfig
from mmlib.data.sample import collate
from mmlib.data.units import unit_vocabulary
from mmlib.draw.views import make_view, sample
from mmlib.models.recogniser import ModelConfig
from mmlib.store.weights import load_weights
from mmlib.train import attend, finetune
from mmlib.train.masked_reading import (
    ReadingConfig,
    ReadingStudent,
    UnitAugmenter,
    ink_clusters,
    name_units,
    reading_loss,
    unit_means,
)
from mmlib.train.optimiser import OptimConfig
from mmlib.train.profiles import TINY, preset

READING = ReadingConfig(sequence=1.0, prototypes=12)
pytestmark = pytest.mark.usefixtures("corpus")


@pytest.fixture
def batch(corpus):
    augmenter = UnitAugmenter(corpus.pack, corpus.train, AugmentConfig(), corpus.vocabulary)
    return collate([augmenter.draw(int(i), np.random.default_rng(0)) for i in corpus.train[:4]])


def student():
    torch.manual_seed(0)
    return ReadingStudent(ModelConfig(TINY.encoder, TINY.decoder, TINY.maps), READING)


def test_a_units_feature_is_the_mean_on_its_shown_ink(batch):
    view = make_view(batch.ink, preset(attend, "smoke").view, seeded())
    features = torch.randn(batch.ink.b, 5, *view.valid.shape[2:], generator=seeded(1))
    most = batch.labels.shape[1]
    means, rows = unit_means(features, view, batch.ink, most)
    at_points = sample(features, view.cells, batch.ink.owner)
    for mean, row in zip(means, rows.tolist(), strict=True):
        own = (batch.ink.owner == row // most) & (batch.ink.symbol == row % most) & view.kept
        assert torch.allclose(mean, at_points[own].mean(0), atol=1e-5)
    shown = {(int(o), int(s)) for o, s in zip(batch.ink.owner[view.kept],
                                              batch.ink.symbol[view.kept], strict=True)}
    assert {(row // most, row % most) for row in rows.tolist()} == shown


def named(network, batch, config=READING):
    whole = make_view(batch.ink, preset(attend, "smoke").view.still(), seeded(2))
    features = network.encoder(whole.picture, whole.valid)
    found = name_units(network, network, features, whole, whole, batch, config, seeded(3))
    return found, whole


def test_the_sequence_says_the_prototype_of_each_unit(batch):
    network, vocabulary = student(), unit_vocabulary(READING.prototypes)
    found, _ = named(network, batch)
    most = batch.labels.shape[1]
    said = found.assigned.argmax(1)
    first = vocabulary.encode(["prototype 0"])[0]
    for row, prototype in zip(found.rows.tolist(), said.tolist(), strict=True):
        place = found.batch.token_symbols[row // most] == row % most
        assert found.batch.tokens[row // most][place].tolist() == [first + prototype]


def test_random_targets_know_nothing_of_the_ink(batch):
    network = student()
    config = ReadingConfig(sequence=1.0, prototypes=12, targets="random")
    (one, _), (other, _) = named(network, batch), named(network, batch, config)
    assert torch.equal(one.rows, other.rows)
    assert not torch.equal(one.assigned.argmax(1), other.assigned.argmax(1))
    again, _ = named(network, batch, config)
    assert torch.equal(other.assigned, again.assigned)  # by the seed alone


def test_features_without_content_cannot_name_units(batch):
    """Every unit alike: naming costs the entropy of balanced prototypes, log k, or more."""
    network = student()
    found, view = named(network, batch)
    features = torch.ones(batch.ink.b, TINY.encoder.d, *view.valid.shape[2:])
    logits = torch.zeros(*found.targets.shape, len(unit_vocabulary(READING.prototypes)))
    attention = torch.full((*found.targets.shape, view.valid[0].numel()), 1e-3)
    uniform = torch.full_like(found.assigned, 1 / READING.prototypes)
    found.assigned = uniform
    _, terms = reading_loss(network, found, features, logits, attention, view, READING)
    assert float(terms["naming"]) >= math.log(READING.prototypes) - 1e-4
    assert float(terms["sequence"]) == pytest.approx(math.log(logits.shape[-1]), rel=1e-4)


def test_no_label_reaches_masked_reading(corpus, batch):
    """The batch has no token and no symbol class of the data set."""
    assert set(batch.labels.unique().tolist()) == {-1}
    assert set(batch.tokens.unique().tolist()) == {corpus.vocabulary.pad}


def test_fine_tuning_goes_on_with_the_decoder(corpus):
    optim = OptimConfig(lr=3e-3, warmup=8)
    config = preset(attend, "smoke", init="none", pictures=24, batch_most=4, batch_area=120.0,
                    eval_pictures=1_000, eval_most=2, optim=optim, reading=READING)
    run = attend.run(config, "smoke", progress=False)
    assert {"sequence", "naming", "guide"} <= run.summary.keys()
    weights, _ = load_weights(run.weights)
    tuned = preset(finetune, "smoke", init=run.name)
    built = finetune.build(tuned, corpus, run).state_dict()
    plain = finetune.build(tuned, corpus, None).state_dict()
    for name, value in built.items():
        if name.startswith(("decoder.embed.", "decoder.logits.", "symbols.")):
            assert torch.equal(value, plain[name])  # other words
        else:
            torch.testing.assert_close(value, weights[name].float())
    moved = "decoder.layers.0.up.weight"
    assert not torch.equal(built[moved], plain[moved])


def test_ink_targets_are_the_clusters_of_the_units(corpus):
    config = ReadingConfig(sequence=1.0, prototypes=12, targets="ink")
    centres = ink_clusters(corpus.pack, corpus.train, config, seed=0)
    assert centres.shape[0] == 12
    augmenter = UnitAugmenter(corpus.pack, corpus.train, AugmentConfig(), corpus.vocabulary,
                              centres=centres)
    batch = collate([augmenter.draw(int(i), np.random.default_rng(0)) for i in corpus.train[:4]])
    found, _ = named(student(), batch, config)
    assert found.assigned.sum(1).eq(1).all()
    assert torch.equal(found.assigned.argmax(1), batch.labels.flatten()[found.rows])


@pytest.mark.parametrize("targets", ["teacher", "ink"])
def test_stage_2_reads_with_either_target(targets, corpus):
    reading = replace(READING, targets=targets)
    config = preset(attend, "smoke", init="none", pictures=8, batch_most=4, batch_area=120.0,
                    eval_pictures=1_000, eval_most=2, reading=reading)
    assert attend.run(config, "smoke", progress=False).summary["sequence"] > 0


def test_a_wrong_target_is_named():
    with pytest.raises(ValueError, match="targets are one of teacher, ink, random"):
        ReadingConfig(targets="labels")
