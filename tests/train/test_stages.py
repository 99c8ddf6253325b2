"""The three stages: their pieces, and runs that pause, resume and continue unchanged."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import seeded

from mmlib.data import corpus as corpora
from mmlib.data.corpus import load_corpus
from mmlib.draw.raster import arc_length
from mmlib.draw.views import ViewConfig, make_view
from mmlib.formula.vocabulary import BEYOND, Vocabulary
from mmlib.losses.contrast import match_rate
from mmlib.losses.reading import disturb
from mmlib.models.recogniser import Recogniser
from mmlib.read.batch import best_tokens, read_pack
from mmlib.store.files import RunError
from mmlib.store.weights import load_weights
from mmlib.study.evaluate import switched_off
from mmlib.train import attend, finetune, pretrain
from mmlib.train import loop as loop_module
from mmlib.train import stage as stage_module
from mmlib.train.contrast import common_points
from mmlib.train.loop import Paused
from mmlib.train.masked_reading import ReadingConfig
from mmlib.train.optimiser import OptimConfig
from mmlib.train.pretrain import OBJECTIVES
from mmlib.train.profiles import TINY, preset

VOCABULARY = Vocabulary.crohme()
pytestmark = pytest.mark.usefixtures("corpus")


def tiny(stage, pictures=24, **changes):
    """The smoke preset in small: batches of a few expressions."""
    few = {"composed": 0.0, "batch_area": 150.0,
           "init": "none"} if stage is finetune else {"batch_area": 120.0}
    few |= {"init": "none"} if stage is attend else {}
    return preset(stage, "smoke", pictures=pictures, batch_most=4, eval_pictures=1_000, eval_most=2,
                               optim=OptimConfig(lr=3e-3, warmup=8), **(few | changes))


# --- pieces of stage 1 ----------------------------------------------------------------------------


def test_common_points_are_in_both_views_and_few(batch):
    views = [make_view(batch.ink, replace(pretrain.HARD, crop=0.6), seeded(s)) for s in (1, 2)]
    chosen = common_points(*views, batch.ink, 5, seeded())
    assert (views[0].kept & views[1].kept)[chosen].all()
    assert (chosen.diff() > 0).all()
    for e in range(batch.ink.b):
        both = int((views[0].kept & views[1].kept & (batch.ink.owner == e)).sum())
        assert int((batch.ink.owner[chosen] == e).sum()) == min(5, both)
    other = common_points(*views, batch.ink, 5, seeded(1))
    assert chosen.tolist() != other.tolist()


def test_matched_counts_nearest_partners():
    a = torch.eye(4)
    assert match_rate(a, 3 * a) == 1.0
    assert match_rate(a, a[[1, 0, 2, 3]]) == 0.5


# --- pieces of stage 2 ----------------------------------------------------------------------------


def test_points_are_chosen_from_every_expression(batch):
    chosen = attend.choose_points(batch.ink, 6, seeded())
    assert (chosen.diff() > 0).all()
    for e in range(batch.ink.b):
        assert int((batch.ink.owner[chosen] == e).sum()) == min(
            6, int((batch.ink.owner == e).sum())
        )
    hits = torch.zeros(len(batch.ink.owner))
    for seed in range(40):
        hits[attend.choose_points(batch.ink, 6, seeded(seed))] += 1
    assert (hits > 0).float().mean() > 0.6  # any point, in time


@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
def test_what_is_masked_is_gone_marked_and_as_much_as_scheduled(batch, done):
    config = replace(tiny(attend), ratio=(0.1, 0.5))
    view = make_view(batch.ink, config.view, seeded())
    made, picture = attend.mask_by_curriculum(view, batch.ink, done, config,
                                              torch.ones(len(batch.ink.owner)), seeded(1))
    ink, mask = picture[:, :1], picture[:, 1:]
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert (ink * mask).max() == 0
    torch.testing.assert_close(ink[mask == 0], view.picture[mask == 0])
    arc = arc_length(view.points, batch.ink.stroke) * view.kept
    wanted = 0.1 + 0.4 * done
    for e in range(batch.ink.b):
        mine = batch.ink.owner == e
        share = float((arc * made.masked)[mine].sum() / arc[mine].sum())
        assert share == pytest.approx(wanted, abs=float(arc[mine].max() / arc[mine].sum()))
    column, row = view.points[made.masked & view.kept].long().unbind(1)
    assert mask[batch.ink.owner[made.masked & view.kept], 0, row, column].all()


def test_support_by_hand():
    maps = torch.tensor([[0.2, 0.0], [0.6, 0.1], [0.5, 0.5]])
    found = attend.support(maps, torch.tensor([True, False, True]), torch.tensor([0, 0, 1]), 3)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.0], [1.0, 1.0], [0.0, 0.0]]))


# --- pieces of stage 3 ----------------------------------------------------------------------------


def test_the_class_of_a_bar_is_the_token_it_stands_for(batch):
    classes = finetune.symbol_classes(batch)
    bars = 0
    for row in range(len(classes)):
        for at, symbol in enumerate(batch.token_symbols[row].tolist()):
            if symbol >= 0:
                assert classes[row, symbol] == batch.tokens[row, at]
                bars += VOCABULARY.tokens[classes[row, symbol]] == r"\frac"
    assert bars > 0
    assert ((classes == -1) == (batch.labels == -1)).all()


def test_averaged_weights_lag_behind_the_last(monkeypatch):
    plain, seen = finetune.run(tiny(finetune), "smoke", progress=False), []
    state = stage_module.half
    monkeypatch.setattr(stage_module, "half", lambda weights: seen.append(weights)
                        or state(weights))
    averaged = finetune.run(tiny(finetune, average=4), "smoke", progress=False)
    training = [[row for row in losses(run) if "loss" in row] for run in (averaged, plain)]
    assert training[0] == training[1]  # what is trained is the same
    first = finetune.build(tiny(finetune), load_corpus("synthetic"),
                           None).state_dict()["decoder.logits.weight"]
    last, mean = (
        load_weights(plain.weights)[0]["decoder.logits.weight"].float(),
        seen[0]["decoder.logits.weight"],
    )
    assert 0.2 * (last - first).norm() < (mean - first).norm() < 0.9 * (last - first).norm()


def test_masks_as_augmentation_are_marked_and_as_large_as_asked_for(batch):
    config = tiny(finetune, mask_share=(0.1, 0.5))
    view = make_view(batch.ink, config.view, seeded())
    arc, shares = arc_length(view.points, batch.ink.stroke), []
    for seed in range(12):
        picture = finetune.masked(view, batch.ink, config, seeded(seed))
        ink, mask = picture[:, :1], picture[:, 1:]
        torch.testing.assert_close(ink, view.picture * (1 - mask))
        column, row = view.points.long().unbind(1)
        gone = mask[batch.ink.owner, 0, row, column] * arc
        shares += [float(gone[batch.ink.owner == e].sum() / arc[batch.ink.owner == e].sum())
                   for e in range(batch.ink.b)]
    assert min(shares) > 0.05  # a mask takes whole points and whole pixels
    assert max(shares) < 0.65
    assert np.mean(shares) == pytest.approx(0.3, abs=0.06)
    assert np.std(shares) == pytest.approx(0.4 / np.sqrt(12), abs=0.04)  # uniform
    assert torch.equal(finetune.masked(view, batch.ink, config, seeded(3)),
                       finetune.masked(view, batch.ink, config, seeded(3)))


def test_disturbed_inputs():
    inputs = torch.randint(VOCABULARY.unk + 1, len(VOCABULARY), (40, 2, 30), generator=seeded())
    inputs[:, 0, 0], inputs[:, 1,
                            0], inputs[:, :, -5:] = VOCABULARY.sos, VOCABULARY.eos, VOCABULARY.pad
    assert disturb(inputs, 0.0, VOCABULARY, seeded()) is inputs
    before = inputs.clone()
    noisy = disturb(inputs, 0.2, VOCABULARY, seeded(1))
    assert torch.equal(inputs, before)
    special = inputs <= VOCABULARY.unk
    assert torch.equal(noisy[special], inputs[special])
    assert (noisy[~special] > VOCABULARY.unk).all()
    assert (noisy != inputs)[~special].float().mean() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(noisy, disturb(inputs, 0.2, VOCABULARY, seeded(1)))


def test_shares_of_the_labels_are_nested(corpus):
    shares = [set(finetune.training_indices(replace(tiny(finetune), labels=s), corpus))
              for s in (0.05, 0.1, 0.5, 1.0)]
    assert all(a < b for a, b in pairwise(shares))
    assert shares[-1] == set(corpus.train)
    assert [len(s) for s in shares] == [max(1, round(s * len(corpus.train)))
                                        for s in (0.05, 0.1, 0.5, 1.0)]
    other = set(finetune.training_indices(replace(tiny(finetune), labels=0.5, seed=1), corpus))
    assert other != shares[2]
    whole = finetune.training_indices(replace(tiny(finetune), full_data=True), corpus)
    assert set(whole) == set(corpus.train) | set(corpus.valid)


# --- whole runs -----------------------------------------------------------------------------------

RUNS = {"pretrain": (pretrain, {}), "byol": (pretrain, {"objective": "byol"}),
        "mae": (pretrain, {"objective": "mae"}), "attend": (attend, {}), "finetune": (finetune, {}),
        "finetune masked": (finetune, {"mask_share": (0.1, 0.5)}),
        "finetune with averaged weights": (finetune, {"average": 3})}


def losses(run):
    """What is logged but minutes."""
    return [{k: v for k, v in row.items() if k != "minutes"} for row in run.metrics()]


def same_weights(a, b):
    """Bit for bit, in the precision that is kept."""
    a, b = (load_weights(run.weights)[0] for run in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name",
                         ["pretrain", "byol", "attend", "finetune masked",
                          "finetune with averaged weights"])
def test_a_stage_pauses_resumes_and_is_the_same(name, tmp_path, monkeypatch):
    stage, changes = RUNS[name]
    config = tiny(stage, **changes)
    whole = stage.run(config, "smoke", progress=False)
    assert whole.done
    assert whole.summary["pictures"] >= 24
    assert whole.summary["skipped"] == 0
    assert any(k.startswith("valid_") for row in whole.metrics() for k in row)
    assert all(np.isfinite(row["loss"]) for row in whole.metrics() if "loss" in row)
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    with pytest.raises(
        Paused,
        match=f"{whole.name}: paused at .* of 24 pictures; the same command goes on from here",
    ):
        stage.run(config, "smoke", max_steps=3, progress=False)
    resumed = stage.run(config, "smoke", progress=False)
    assert resumed.folder != whole.folder
    assert same_weights(resumed, whole)
    assert losses(resumed) == losses(whole)
    # A run that is done is loaded, not trained.
    again = stage.run(config, "smoke", max_steps=0, progress=False)
    assert again.summary == resumed.summary


def test_the_stages_hand_on_their_weights(corpus):
    first = pretrain.run(tiny(pretrain), "smoke", progress=False)
    second = attend.run(tiny(attend, init=first.name), "smoke", progress=False)
    assert second.inputs["init"] == first.name
    config = tiny(finetune, init=second.name)
    weights, metadata = load_weights(second.weights)
    built, plain = finetune.build(config, corpus, second), finetune.build(config, corpus, None)
    for name, value in built.state_dict().items():
        if name.startswith(("encoder.", "attention.")):
            torch.testing.assert_close(value, weights[name].float())
        else:  # the decoder begins alike in every arm
            assert torch.equal(value, plain.state_dict()[name])
    third = finetune.run(config, "smoke", progress=False)
    weights, metadata = load_weights(third.weights)
    assert metadata["vocabulary"] == list(VOCABULARY.tokens)
    assert third.summary["expressions"] == len(corpus.train)
    assert {v.dtype for v in weights.values()} == {torch.float16}
    # An arm without the attention network takes the encoder alone.
    bare = finetune.build(replace(config, model=replace(TINY, maps=0)), corpus, second)
    assert not any(name.startswith("attention.") for name in bare.state_dict())
    torch.testing.assert_close(bare.state_dict()["encoder.out.bias"],
                               load_weights(second.weights)[0]["encoder.out.bias"].float())


@pytest.mark.parametrize("name", ["byol", "mae"])
def test_a_rivals_encoder_is_a_beginning(name, corpus):
    stage, changes = RUNS[name]
    first = stage.run(tiny(stage, **changes), "smoke", progress=False)
    assert first.summary["pictures"] >= 24
    kept = attend.encoder_weights(first)
    built = finetune.build(tiny(finetune, init=first.name), corpus, first).encoder.state_dict()
    assert kept.keys() == built.keys()
    assert all(torch.equal(value, built[key]) for key, value in kept.items())
    assert {k for row in first.metrics() for k in row
            if k.startswith("valid_")} >= {"byol": {"valid_global_match", "valid_spread"},
                                           "mae": {"valid_error", "valid_unexplained"}}[name]


def test_a_readers_own_objective_is_a_class_and_a_line(monkeypatch):
    class Least(OBJECTIVES["mae"]):
        views = 1

        def loss(self, batch, rng, done):
            drawn, _, _ = self.draw(batch, rng)
            return drawn.square().mean(), {"done": done}

    monkeypatch.setitem(OBJECTIVES, "least", Least)
    run = pretrain.run(tiny(pretrain, objective="least"), "smoke", progress=False)
    shares = [row["done"] for row in run.metrics() if "done" in row]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] < 1


def test_a_run_without_an_encoder_is_no_beginning(corpus):
    class Foreign:
        name = "foreign"

        def load_weights(self):
            return {"decoder.embed.weight": torch.zeros(2)}, {}

    with pytest.raises(RunError, match="foreign has no weights for"):
        finetune.build(tiny(finetune), corpus, Foreign())


def test_the_encoder_rests_where_its_rate_is_zero():
    run = attend.run(tiny(attend, init=pretrain.run(tiny(pretrain), "smoke", progress=False).name,
                          encoder_rate=0.0, zero_mask=False), "smoke", progress=False)
    before = load_weights(pretrain.run(tiny(pretrain), "smoke", progress=False).weights)[0]
    after = load_weights(run.weights)[0]
    for name, value in after.items():
        if name.startswith("encoder."):
            assert torch.equal(value, before[name])


@pytest.mark.parametrize(("done", "wanted"), [(0, 0.9), (0.25, 0.945), (0.5, 0.99), (1, 0.99)])
def test_the_teachers_momentum_warms_up(done, wanted):
    assert attend.momentum_at(done, tiny(attend)) == pytest.approx(wanted)
    assert attend.momentum_at(done, tiny(attend, first_momentum=0.99)) == 0.99


def test_a_mask_channel_that_starts_at_zero_changes_no_feature():
    torch.manual_seed(0)
    student = attend.Student(TINY.encoder, TINY.maps).eval()
    picture, valid = torch.rand(1, 1, 32, 64), torch.ones(1, 1, 4, 8)
    masked = torch.cat([picture, torch.ones_like(picture)], 1)
    plain = student.encoder(picture, valid)
    assert not torch.allclose(student.encoder(masked, valid), plain, atol=1e-3)
    student.encoder.forget_mask()
    assert torch.allclose(student.encoder(masked, valid), plain, atol=1e-5)


@pytest.mark.parametrize("sequence", [0.0, 1.0])
def test_stage_2_says_which_gates_it_fails(monkeypatch, sequence):
    """With masked reading and without."""
    monkeypatch.setattr(stage_module, "EARLY", 0)
    config = tiny(attend, first_momentum=0.5, momentum=0.5,
                  reading=ReadingConfig(sequence=sequence, prototypes=12))
    with pytest.warns(UserWarning, match="fails a gate.*too few updates"):
        found = attend.run(config, "smoke", progress=False).summary
    assert found["start_left"] == pytest.approx(0.5 ** found["steps"])
    assert any("too few updates" in gate for gate in found["gates"])
    assert 0 < found["entropy_shipped"] <= 1
    assert 0 < found["ink_mass"] < 1
    assert {"probe", "position_x", "position_y", "probe_before"} <= found.keys()


def test_an_encoder_that_is_ramped_moves_less_at_first():
    """And its run says how far it had moved, and what its probe was, before it began."""
    runs = [finetune.run(tiny(finetune, encoder_ramp=ramp), "smoke", progress=False).summary
            for ramp in (0, 10_000)]
    assert 0 < runs[1]["moved"] < 0.1 * runs[0]["moved"]
    assert runs[0]["early_moved_0"] == 0
    assert 0 <= runs[0]["early_probe_0"] <= 1
    assert runs[0]["gates"] == []


def test_fine_tuning_that_erases_what_was_learned_says_so(monkeypatch):
    monkeypatch.setattr(stage_module, "EARLY", 0)
    monkeypatch.setattr(loop_module, "EARLY", 2)
    monkeypatch.setattr(finetune, "EARLY", 2)
    probes = iter([0.5, 0.4])
    monkeypatch.setattr(finetune.Finetune, "glance", lambda self, encoder: {"probe": next(probes)})
    first = pretrain.run(tiny(pretrain), "smoke", progress=False)
    with pytest.warns(UserWarning, match="erased what the encoder knew: probe_kept is -0.1"):
        run = finetune.run(tiny(finetune, init=first.name, seed=5), "smoke", progress=False)
    assert run.summary["early_moved_2"] > 0
    assert len(run.summary["gates"]) == 1


@pytest.mark.parametrize("side", ["point_weight", "guide_weight"])
def test_side_losses_can_be_left_out(side):
    run = finetune.run(tiny(finetune, pictures=12, **{side: 0.0}), "smoke", progress=False)
    logged = {k for row in run.metrics() for k in row}
    assert {"sequence", "point", "guide"} - logged == {side.split("_")[0]}


# --- reading --------------------------------------------------------------------------------------


def test_a_pack_is_read_in_its_order(corpus):
    torch.manual_seed(0)
    model = Recogniser(len(VOCABULARY), TINY).eval()
    with torch.no_grad():
        model.decoder.logits.weight.mul_(5)
    view, indices = ViewConfig(), corpus.valid[:6]
    found = read_pack(model, corpus.pack, indices, VOCABULARY, view, beam=2, longest=5)
    turned = read_pack(model, corpus.pack, indices[::-1], VOCABULARY, view, beam=2, longest=5)
    assert [[h.tokens for h in hs] for hs in found] == [[h.tokens for h in hs]
                                                        for hs in turned[::-1]]
    for tokens, hypotheses in zip(best_tokens(found, VOCABULARY), found):
        assert VOCABULARY.encode(tokens) == list(hypotheses[0].tokens)
    assert best_tokens([[]], VOCABULARY) == [[]]
    # Batches that two threads read at once are the same batches.
    torch.set_num_threads(2)
    both = read_pack(model, corpus.pack, indices, VOCABULARY, view, beam=2, longest=5, most=2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    one = read_pack(model, corpus.pack, indices, VOCABULARY, view, beam=2, longest=5, most=2)
    assert both == one


def test_attention_can_be_switched_off_without_touching_the_model():
    model = Recogniser(len(VOCABULARY), TINY).eval()
    with torch.no_grad():
        model.scalars["gamma"].fill_(1.0)
    x, valid, tokens = (
        torch.rand(1, 1, 16, 16),
        torch.ones(1, 1, 2, 2),
        torch.tensor([[[VOCABULARY.sos, 7]]]),
    )
    with torch.no_grad():
        before = model(x, valid, tokens)[0]
        outs = [switched_off(model, w)(x, valid, tokens)[0]
                for w in (("gamma",), ("slots",), ("gamma", "slots"))]
        assert all((out - before).abs().max() > 1e-5 for out in outs)
        assert torch.equal(model(x, valid, tokens)[0], before)
        assert torch.equal(switched_off(model, ())(x, valid, tokens)[0], before)
    with pytest.raises(ValueError, match="beams"):
        switched_off(model, ("beams",))


def test_a_share_of_the_samples_is_traced_from_pictures(corpus):
    stage = finetune.Finetune(tiny(finetune, pictured=0.2), corpus, stage_module.accelerator())
    feed = stage.feed()
    assert [len(source[0].indices) if source[1] is None else source[1] for source in feed.sources
            ] == [len(stage.indices), round(len(stage.indices) / 4)]
    assert "pictured" in stage.inputs()
    traced = feed.sources[1][0].pack
    assert set(traced.ids) <= {corpus.pack.ids[i] for i in stage.indices}
    assert len(traced) > len(stage.indices) / 2


def test_a_recogniser_may_learn_symbols_beyond_crohme(corpus, monkeypatch):
    monkeypatch.setattr(corpora.Corpus.beyond, "__defaults__", (30, False))
    config = tiny(finetune, beyond=0.5, pictured=0.2)
    stage = finetune.Finetune(config, corpus, stage_module.accelerator())
    assert stage.corpus.vocabulary.tokens == (*VOCABULARY.tokens, *BEYOND)
    real, feed = len(stage.indices), stage.feed()
    counts = [count for _, count in feed.sources]
    assert counts[:2] == [None, round(real / 2)]
    assert sum(counts[2:]) == pytest.approx(0.2 / 0.8 * 1.5 * real, abs=1)
    new = feed.sources[1][0].pack
    assert new.vocabulary == stage.corpus.vocabulary.tokens
    run = finetune.run(config, "smoke", progress=False)
    assert run.load_weights()[1]["vocabulary"] == list(stage.corpus.vocabulary.tokens)
    assert {"composed", "beyond", "pictured"} < run.inputs.keys()
