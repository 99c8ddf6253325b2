"""Stage 1's objectives: each learns in a few steps, costs the pictures it says, and agrees with an
oracle or a slow reference.
"""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import seeded

from mmlib.data.pack import Pack, normalised, write_pack
from mmlib.data.sample import collate, from_pack
from mmlib.draw.views import STRIDE, ink_cells, make_view
from mmlib.models.encoder import Encoder, EncoderConfig
from mmlib.models.heads import pool, projection
from mmlib.store.files import RunError
from mmlib.store.run import Run
from mmlib.synthetic.compose import synthetic_ink
from mmlib.train import pretrain
from mmlib.train.cost import training_cost, views_of
from mmlib.train.optimiser import OptimConfig, optimizer
from mmlib.train.pretrain import OBJECTIVES, find_objective
from mmlib.train.profiles import preset
from mmlib.train.rivals import momentum_at
from mmlib.train.stage import accelerator

SMALL = EncoderConfig(widths=(16, 32), blocks=(1, 1), context=0, d=32)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Twenty short expressions."""
    path = tmp_path_factory.mktemp("objectives") / "toy.safetensors"
    write_pack([normalised(ink) for ink in synthetic_ink(60, 7)], path)
    pack = Pack.open(path)
    return [from_pack(pack, i) for i in range(len(pack)) if pack.sizes[i, 0] < 8][:20]


@pytest.fixture(scope="module")
def batches(short):
    """Two batches of ten short expressions."""
    return [collate(part) for part in (short[:10], short[10:])]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(name, symbol=8.0, **changes):
    torch.manual_seed(0)
    config = preset("pretrain", "smoke", objective=name, **{"encoder": SMALL, **changes})
    config = replace(config, view=replace(pretrain.HARD, symbol=symbol, crop=0.2))
    corpus = SimpleNamespace(view=lambda view: view)
    objective = find_objective(name)(config, corpus, accelerator())
    objective.build()
    return objective


@torch.no_grad()
def validated(objective, batch):
    for module in objective.modules.values():
        module.eval()
    numbers = objective.measure(batch, seeded(99))
    for module in objective.modules.values():
        module.train()
    return numbers


def trained(name, batch, steps=20, **changes):
    """The objective after some steps on one batch, always in other views, and the losses."""
    objective = made(name, **changes)
    optim = optimizer([objective.network], OptimConfig(lr=3e-3))
    losses = []
    for step in range(steps):
        loss, _ = objective.loss(batch, seeded(step), step / steps)
        loss.backward()
        optim.step()
        optim.zero_grad()
        objective.after_step(step / steps)
        losses.append(float(loss.detach()))
    return objective, losses


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_trains_an_encoder_and_draws_as_many_views_as_it_says(
    name, batches, monkeypatch
):
    objective, drawn = made(name), []

    def counting(*arguments):
        drawn.append(1)
        return make_view(*arguments)

    monkeypatch.setattr(sys.modules[type(objective).__module__], "make_view", counting)
    loss, _ = objective.loss(batches[0], seeded(), 0.0)
    assert len(drawn) == objective.views == views_of("pretrain", {"objective": name})
    loss.backward()
    assert all(p.grad is not None for p in objective.network.parameters())
    assert objective.network.encoder.down[0].weight.grad.abs().sum() > 0
    kept = {k.removeprefix("encoder.") for k in objective.network.state_dict()
            if k.startswith("encoder.")}
    assert kept == set(Encoder(SMALL).state_dict())
    again, _ = made(name).loss(batches[0], seeded(), 0.0)
    assert torch.equal(again, loss)


def test_an_unknown_objective_names_those_there_are():
    with pytest.raises(RunError, match="no objective 'rotation'; it has contrast, byol, mae"):
        find_objective("rotation")


def test_what_a_run_cost_is_counted_in_its_objectives_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    for config, views in (({"seed": 0}, 2), ({"objective": "byol"}, 2), ({"objective": "mae"}, 1)):
        run = Run.open("pretrain", "smoke", config, {})
        with run.lock():
            run.finish(pictures=100)
        assert training_cost(run)[0] == 100 * views


# --- BYOL -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("done", "wanted"),
                         [(-1, 0.9), (0, 0.9), (0.5, 0.95), (1, 1.0), (2, 1.0), (1 / 3, 0.925)])
def test_momentum_rises_along_half_a_cosine(done, wanted):
    assert momentum_at(done, 0.9) == pytest.approx(wanted)


def test_a_step_of_byol_is_lightlys(batches):
    """Loss, gradient and target after a step, from lightly's heads, criterion and average on the
    same encoder and views.
    """
    lightly = pytest.importorskip("lightly.loss")
    from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import update_momentum

    batch, objective = batches[0], made("byol", momentum=0.9)
    ours = objective.network
    heads = [BYOLProjectionHead(SMALL.d, 256, 128), BYOLPredictionHead(128, 256, 128)]
    for theirs, head in zip(heads, (ours.projector, ours.predictor)):
        # the norm takes it away
        state = {f"layers.{k}": v.clone() for k, v in head.state_dict().items() if k != "0.bias"}
        theirs.load_state_dict(state)
    encoder, target_encoder, projector = (
        Encoder(SMALL),
        Encoder(SMALL),
        BYOLProjectionHead(SMALL.d, 256, 128),
    )
    for network in (encoder, target_encoder):
        network.load_state_dict(ours.encoder.state_dict())
    projector.load_state_dict(heads[0].state_dict())

    rng = seeded(5)
    views = [make_view(batch.ink, objective.config.view, rng) for _ in range(2)]

    def pooled(network):
        return torch.cat([pool(network(v.picture, v.valid),
                               ink_cells(v, batch.ink.b, batch.ink.owner)) for v in views])

    (p1, p2), (z1, z2) = (
        heads[1](heads[0](pooled(encoder))).chunk(2),
        projector(pooled(target_encoder)).detach().chunk(2),
    )
    criterion = lightly.NegativeCosineSimilarity()
    theirs = 2 + criterion(p1, z2) + criterion(p2, z1)  # the mean of both ways, as 2 - 2 cos
    loss, _ = objective.loss(batch, seeded(5), 0.5)
    torch.testing.assert_close(loss, theirs, atol=1e-5, rtol=0)
    theirs.backward()
    loss.backward()
    assert all(p.grad is None for p in objective.target.parameters())
    for one, other in ((ours.encoder, encoder), (ours.projector, heads[0].layers),
                       (ours.predictor, heads[1].layers)):
        gradients = dict(one.named_parameters())
        for name, parameter in other.named_parameters():
            torch.testing.assert_close(gradients[name].grad, parameter.grad, atol=1e-5, rtol=1e-4)

    for model in (ours, encoder, *heads):
        torch.optim.SGD(model.parameters(), 0.1).step()
    objective.after_step(0.5)
    update_momentum(encoder, target_encoder, 0.95)  # half way from 0.9 to 1
    update_momentum(heads[0], projector, 0.95)
    for one, other in ((objective.target.encoder, target_encoder),
                       (objective.target.projector, projector.layers)):
        mine = dict(one.named_parameters())
        for name, parameter in other.named_parameters():
            torch.testing.assert_close(mine[name], parameter, atol=1e-5, rtol=0)


def test_byol_learns_and_does_not_collapse(batches):
    before = validated(made("byol"), batches[1])
    objective, losses = trained("byol", batches[0])
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    after = validated(objective, batches[1])
    # agreement was not bought by one answer for all
    assert after["spread"] > max(0.35, before["spread"])


def test_spread_tells_a_collapse(batches, monkeypatch):
    objective = made("byol")
    for rows, wanted in ((torch.ones(20, 128), 0.0),
                         (torch.randn(20, 128, generator=seeded()), 1.0)):
        monkeypatch.setattr(objective, "embed", lambda batch, rng, rows=rows: (rows, rows, rows))
        assert objective.measure(batches[0], seeded())["spread"] == pytest.approx(wanted, abs=0.06)


# --- the masked autoencoder -----------------------------------------------------------------------


class Stub(torch.nn.Module):
    """Draws what it is told to, and keeps what it was shown."""

    def forward(self, picture, valid):
        self.seen, self.valid = picture, valid
        return self.answer(picture)


def test_the_loss_is_of_masked_pixels_alone(batches):
    batch, objective = batches[0], made("mae")
    objective.network = stub = Stub()
    stub.answer = lambda picture: torch.rand(len(picture), 1, *picture.shape[2:],
                                             generator=seeded(3))
    loss, _ = objective.loss(batch, seeded(1), 0.0)
    ink, mask = stub.seen[:, :1], stub.seen[:, 1:]
    assert (ink * mask).max() == 0  # what is to be drawn is not shown
    whole = make_view(batch.ink, objective.config.view, seeded(1)).picture
    torch.testing.assert_close(ink, whole * (1 - mask))
    answer = stub.answer(stub.seen)
    expected = [float(answer[b, 0, i, j] - whole[b, 0, i, j]) ** 2
                for b, _, i, j in mask.nonzero().tolist()
                if stub.valid[b, 0, i // STRIDE, j // STRIDE]]
    assert float(loss) == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    # Whatever is drawn where the picture is visible, or on padding, counts nothing; where it is
    # masked, it counts.
    valid = F.interpolate(stub.valid, scale_factor=STRIDE)
    before = stub.answer
    for shift, same in ((1 - mask * valid, True), (mask * valid, False)):
        stub.answer = lambda picture, shift=shift: before(picture) + 5 * shift
        assert torch.equal(objective.loss(batch, seeded(1), 0.0)[0], loss) == same
    masked = ((1 - mask) * whole).sum((1, 2, 3)) / whole.sum((1, 2, 3))
    assert ((masked > 0.2) & (masked < 0.65)).all()  # near 0.5 of the ink's length is masked


def test_the_autoencoder_draws_better_than_blank_paper(batches):
    objective, losses = trained("mae", batches[0], steps=50)
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    numbers = validated(objective, batches[1])
    # better than the best single grey, which is better than blank
    assert numbers["unexplained"] < 0.95
    network, stub = objective.network, Stub()
    stub.answer = lambda picture: torch.zeros_like(picture[:, :1])
    objective.network = stub
    blank = validated(objective, batches[1])
    assert numbers["error"] < 0.8 * blank["error"]
    assert blank["unexplained"] > 1
    # It uses what it sees: another expression's features draw worse.
    stub.answer = lambda picture: network(picture.flip(0), stub.valid.flip(0))
    assert validated(objective, batches[1])["error"] > numbers["error"]


# --- levels of the local term ---------------------------------------------------------------------


def test_local_heads_before_the_context_learn(batches):
    _, losses = trained("contrast", batches[0], steps=30, level="before", bounded=False)
    assert sum(losses[-5:]) < 0.93 * sum(losses[:5])


@pytest.mark.parametrize(("level", "widths"), [
    ("after", [48]), ("before", [32]), ("both", [48, 32]),
])
def test_local_heads_read_the_levels_that_are_asked_for(batches, level, widths):
    encoder = replace(SMALL, context=1, context_d=16, heads=2, d=48)
    objective = made("contrast", level=level, bounded=False, encoder=encoder)
    assert [head[0].in_features for head in objective.network.local_heads] == widths
    loss, _ = objective.loss(batches[0], seeded(), 0.0)
    loss.backward()
    assert all(p.grad is not None for p in objective.network.parameters())
    assert objective.embed(batches[0], seeded()).u1.shape[::2] == (len(widths), 128)


def test_a_bounded_head_does_not_grow_with_what_it_reads():
    torch.manual_seed(0)
    head, x = projection(6, bounded=True), torch.randn(9, 6)
    assert torch.allclose(head(x), head(100 * x + 7), atol=1e-3)
    assert not torch.allclose(projection(6)(x), projection(6)(100 * x + 7), atol=1e-3)


def test_an_unknown_level_names_those_there_are():
    with pytest.raises(ValueError, match="level is one of after, before, both; got 'above'"):
        made("contrast", level="above")
